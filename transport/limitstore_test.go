package transport_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/internal/throttle"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

const lease = 6 * time.Second

// world is time as it truly passes; each node has a clock of its own that runs with it.
type world struct {
	mu  sync.Mutex
	now time.Time
}

func (w *world) at(skew time.Duration) func() time.Time {
	return func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now.Add(skew)
	}
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld() *world { return &world{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func node(t testing.TB, db *sql.DB, w *world, skew time.Duration) *transport.SharedLimits {
	s, err := transport.LimitStore(context.Background(), db, &transport.LimitStoreOptions{Now: w.at(skew)})
	require.NoError(t, err)
	s.SetDatabaseClock(func() int64 { return w.at(0)().UnixMicro() })
	return s
}

// grab takes all that the node can have now.
func grab(t testing.TB, s *transport.SharedLimits, domain string, most int) (out []func()) {
	for {
		release, err := s.Acquire(t.Context(), domain, most, 0, 1, -1)
		if err != nil {
			require.Positive(t, errBusy(t, err).RetryAfter)
			return out
		}
		out = append(out, release)
		require.LessOrEqual(t, len(out), most)
	}
}

func errBusy(t testing.TB, err error) *throttle.BusyError {
	t.Helper()
	busy, ok := errors.AsType[*throttle.BusyError](err)
	require.True(t, ok, "%v", err)
	return busy
}

func TestSharedSlots(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		w := newWorld()
		a, b := node(t, open(), w, 0), node(t, open(), w, 48*time.Hour)
		mine := grab(t, a, "x.test", 7)
		require.Len(t, mine, 7)
		require.Empty(t, grab(t, b, "x.test", 7))
		require.Len(t, grab(t, b, "y.test", 2), 2, "another domain has its own")

		mine[0]()
		mine[0]() // a repeat gives nothing more
		mine[1]()
		require.Empty(t, grab(t, b, "x.test", 7), "not given back yet")
		for range 2 { // one beat sees that they are not used
			require.NoError(t, a.Beat(t.Context(), false))
		}
		require.Len(t, grab(t, b, "x.test", 7), 2)
		require.Empty(t, grab(t, a, "x.test", 7))
	})
}

// TestADeadNodeGivesBack: what a node held that died is the others' within twice the lease, and not before the lease is over.
func TestADeadNodeGivesBack(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		w := newWorld()
		dead, b := node(t, open(), w, 0), node(t, open(), w, -time.Hour)
		require.Len(t, grab(t, dead, "x.test", 5), 5)
		require.Empty(t, grab(t, b, "x.test", 5))
		for passed := time.Duration(0); ; passed += 2 * time.Second {
			require.LessOrEqual(t, passed, 2*lease)
			require.NoError(t, b.Beat(t.Context(), false))
			if got := grab(t, b, "x.test", 5); len(got) > 0 {
				require.Len(t, got, 5)
				require.Greater(t, passed, lease)
				return
			}
			w.pass(2 * time.Second)
		}
	})
}

// TestAPausedNodeIsFenced: it learns that the others took it for dead before it begins anything new, and what it has under way
// counts again.
func TestAPausedNodeIsFenced(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		w := newWorld()
		paused, b := node(t, open(), w, 0), node(t, open(), w, 0)
		held, other := grab(t, paused, "x.test", 4), grab(t, paused, "y.test", 2)
		require.Len(t, other, 2)
		held[0]()
		require.Empty(t, grab(t, b, "x.test", 4))
		for range 5 {
			require.NoError(t, b.Beat(t.Context(), false))
			w.pass(2 * time.Second)
		}
		require.NoError(t, b.Beat(t.Context(), false))
		got := grab(t, b, "x.test", 4)
		require.Len(t, got, 4)
		require.Empty(t, grab(t, paused, "x.test", 4), "it held one that was free")
		require.Empty(t, grab(t, b, "y.test", 2), "what it has under way counts again, everywhere")
		for _, release := range got[:3] { // three end here, but three of the other's are under way
			release()
		}
		for range 2 {
			require.NoError(t, b.Beat(t.Context(), false))
		}
		require.Empty(t, grab(t, paused, "x.test", 4))
		for _, release := range held[1:] {
			release()
		}
		require.NoError(t, paused.Beat(t.Context(), false)) // nobody was refused since
		require.Len(t, grab(t, paused, "x.test", 4), 3)
	})
}

func TestASleepingMachineBeginsNothing(t *testing.T) {
	w := newWorld()
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "db"), sqldbtest.Safe)
	s := node(t, db, w, 0)
	release, err := s.Acquire(t.Context(), "x.test", 8, 0, 1, -1)
	require.NoError(t, err)
	release()
	require.NoError(t, db.Close())
	release, err = s.Acquire(t.Context(), "x.test", 8, 0, 1, -1) // by what it holds
	require.NoError(t, err)
	release()
	for _, jump := range []time.Duration{lease, -time.Hour} { // longer than the lease, and a clock that was set back
		w.pass(jump)
		_, err = s.Acquire(t.Context(), "x.test", 8, 0, 1, -1)
		_, ok := errors.AsType[*transport.Unreachable](err)
		require.True(t, ok, "%v", err)
	}
}

// TestHungryNodesGetTheirShare: where one node uses all and never stops, another gets its share as soon as deliveries end.
func TestHungryNodesGetTheirShare(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		w := newWorld()
		a, b := node(t, open(), w, 0), node(t, open(), w, 0)
		mine, theirs := grab(t, a, "x.test", 6), []func(){}
		for range 10 {
			theirs = append(theirs, grab(t, b, "x.test", 6)...)
			require.NoError(t, a.Beat(t.Context(), false))
			require.NoError(t, b.Beat(t.Context(), false))
			mine[0]() // one ends, and the next begins if it may
			mine = append(mine[1:], grab(t, a, "x.test", 6)...)
			w.pass(2 * time.Second)
		}
		require.Len(t, mine, 3)
		require.Len(t, theirs, 3)
	})
}

func TestSharedRate(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		w := newWorld()
		nodes := []*transport.SharedLimits{node(t, open(), w, 0), node(t, open(), w, time.Hour)}
		begun := 0
		round := func() (retry time.Duration) {
			for _, s := range nodes {
				for {
					release, err := s.Acquire(t.Context(), "x.test", 100, 20, 6, -1)
					if err != nil {
						retry = errBusy(t, err).RetryAfter
						break
					}
					release()
					begun++
				}
			}
			return retry
		}
		require.Positive(t, round())
		require.Equal(t, 6, begun, "the burst, by both together")
		for range 100 {
			w.pass(50 * time.Millisecond)
			round()
		}
		require.InDelta(t, 6+100, begun, 2)
		w.pass(-time.Hour) // a clock that was set back fills nothing, and closes nothing for long
		round()
		require.InDelta(t, 106, begun, 4)
		for range 20 {
			w.pass(50 * time.Millisecond)
			round()
		}
		require.InDelta(t, 126, begun, 6)
	})
}

// TestSharedForgets: domains without mail go from memory at once, and from the database after a day.
func TestSharedForgets(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		w, db := newWorld(), open()
		s := node(t, db, w, 0)
		for i := range 20 {
			for _, release := range grab(t, s, fmt.Sprintf("%d.test", i), 2) {
				release()
			}
		}
		held := grab(t, s, "busy.test", 1)
		rows := func() (n int) {
			require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM transport_limit_domain").Scan(&n))
			return n
		}
		for i := range 200 {
			require.NoError(t, s.Beat(t.Context(), false))
			if i == 100 {
				require.Equal(t, 21, rows())
				w.pass(25 * time.Hour)
			}
		}
		require.Equal(t, 1, s.Domains())
		require.Equal(t, 1, rows())
		held[0]()
	})
}

func TestSharedWaits(t *testing.T) {
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "db"), sqldbtest.Safe)
	s, err := transport.LimitStore(t.Context(), db, nil)
	require.NoError(t, err)
	release, err := s.Acquire(t.Context(), "x.test", 1, 0, 1, -1)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.Acquire(ctx, "x.test", 1, 0, 1, time.Hour)
		require.ErrorIs(t, err, context.Canceled)
	})
	cancel()
	wg.Wait()
	wg.Go(func() {
		release, err := s.Acquire(t.Context(), "x.test", 1, 0, 1, time.Hour)
		require.NoError(t, err)
		release()
	})
	release()
	wg.Wait()
	_, err = s.Acquire(ctx, "x.test", 1, 0, 1, time.Hour)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.Beat(ctx, false), context.Canceled)
}

// TestSharedRun: it beats by itself, and gives all back at its end.
func TestSharedRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open := func() *transport.SharedLimits {
		s, err := transport.LimitStore(t.Context(), sqldbtest.SQLite(t, path, sqldbtest.Safe), &transport.LimitStoreOptions{Lease: 300 * time.Millisecond})
		require.NoError(t, err)
		return s
	}
	a, b := open(), open()
	held := grab(t, a, "x.test", 2)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(t, a.Run(ctx)) })
	for _, release := range held {
		release()
	}
	release, err := b.Acquire(t.Context(), "x.test", 2, 0, 1, time.Minute) // a gives back what it does not use
	require.NoError(t, err)
	release()
	held = grab(t, a, "y.test", 2)
	for _, release := range held {
		release()
	}
	cancel()
	wg.Wait()
	require.Len(t, grab(t, b, "y.test", 2), 2)
	require.Zero(t, a.Domains())
	require.NoError(t, b.Beat(t.Context(), true))
	require.NoError(t, open().Beat(t.Context(), false), "nothing was asked for")
}

// TestSharedCrowd: many deliveries of three nodes at once, each with its beats, and never more than the limit.
func TestSharedCrowd(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		const most = 4
		var now, peak, served atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var nodes, crowd sync.WaitGroup
		for range 3 {
			s, err := transport.LimitStore(t.Context(), open(), &transport.LimitStoreOptions{Lease: time.Minute})
			require.NoError(t, err)
			nodes.Go(func() { require.NoError(t, s.Run(ctx)) })
			for range 4 {
				crowd.Go(func() {
					for range 4 {
						release, err := s.Acquire(t.Context(), "x.test", most, 0, 1, 5*time.Minute)
						require.NoError(t, err)
						if n := now.Add(1); n > peak.Load() {
							peak.Store(n)
						}
						require.NoError(t, s.Beat(t.Context(), false))
						served.Add(1)
						now.Add(-1)
						release()
					}
					for range 2 { // what is not used is given back
						require.NoError(t, s.Beat(t.Context(), false))
					}
				})
			}
		}
		crowd.Wait()
		cancel()
		nodes.Wait()
		require.EqualValues(t, 48, served.Load())
		require.LessOrEqual(t, peak.Load(), int64(most))
	})
}

func TestLimitShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	inner := &gated{begun: make(chan struct{}, 10), end: make(chan struct{})}
	var limits []*transport.Limiter
	var dbs []*sql.DB
	for range 2 {
		dbs = append(dbs, sqldbtest.SQLite(t, path, sqldbtest.Safe))
		s, err := transport.LimitStore(t.Context(), dbs[len(dbs)-1], nil)
		require.NoError(t, err)
		limits = append(limits, limit(t, inner, &transport.LimitOptions{Connections: 3, Max: 3, Wait: -1, Shared: s}))
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			_, err := limits[i%2].Deliver(t.Context(), to(t, "a@x.test"))
			require.NoError(t, err)
		})
		<-inner.begun
	}
	for _, l := range limits {
		_, err := l.Deliver(t.Context(), to(t, "canary@x.test"))
		require.Equal(t, time.Second, retry(t, err).RetryAfter)
	}
	close(inner.end)
	wg.Wait()
	require.NoError(t, dbs[0].Close())
	_, err := limits[0].Deliver(t.Context(), to(t, "canary@never.test"))
	de := retry(t, err)
	require.Equal(t, 30*time.Second, de.RetryAfter)
	require.Contains(t, err.Error(), "out of reach")
	require.NotContains(t, err.Error(), "canary")
}

// gated is a Transport whose deliveries end when the test says so.
type gated struct{ begun, end chan struct{} }

func (g *gated) Deliver(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
	g.begun <- struct{}{}
	<-g.end
	return &securemail.Receipt{Peer: "ok"}, nil
}

func TestLimitStoreRefuses(t *testing.T) {
	_, err := transport.LimitStore(t.Context(), nil, nil)
	require.Error(t, err)
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "db"), sqldbtest.Safe)
	_, err = transport.LimitStore(t.Context(), db, &transport.LimitStoreOptions{Lease: time.Millisecond})
	require.ErrorContains(t, err, "Lease")
	require.NoError(t, db.Close())
	_, err = transport.LimitStore(t.Context(), db, nil)
	require.Error(t, err)
}

// TestWhateverFailsNothingIsGivenTwice: each statement of a refill and of a beat fails once.
func TestWhateverFailsNothingIsGivenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	plain := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	w, faults := newWorld(), new(sqldbtest.Faults)
	b := node(t, plain, w, 0)
	for n := 1; ; n++ {
		domain := fmt.Sprintf("%d.test", n)
		db := sqldbtest.Open(plain, "file:"+path+sqldbtest.Safe, faults)
		faults.Clear()
		a := node(t, db, w, 0)
		faults.At(n, sqldbtest.IOErr)
		release, err := a.Acquire(t.Context(), domain, 2, 50, 2, -1)
		if err == nil {
			err = a.Beat(t.Context(), false)
		}
		ran := faults.Clear()
		if release == nil {
			require.Error(t, err, n)
			release, err = a.Acquire(t.Context(), domain, 2, 50, 2, -1)
			require.NoError(t, err, n)
		}
		require.Len(t, grab(t, b, domain, 2), 1, n)
		require.NoError(t, a.Beat(t.Context(), false))
		release()
		require.NoError(t, db.Close())
		if n > ran {
			require.Greater(t, n, 10)
			return
		}
	}
}

// player is a node of TestSharedNeverExceeds.
type player struct {
	s      *transport.SharedLimits
	holds  []*hold
	paused bool
}

type hold struct {
	domain  string
	release func()
	orphan  bool // its node did not reach the database for a lease
}

// TestSharedNeverExceeds: whatever nodes begin, end, die, sleep and come back, those under way are never more than Max, but for
// those of nodes that lost the database for a lease.
func TestSharedNeverExceeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	dbs := make([]*sql.DB, 4)
	for i := range dbs {
		dbs[i] = sqldbtest.SQLite(t, path, "?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)")
	}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		w, most := newWorld(), rapid.IntRange(1, 9).Draw(rt, "max")
		join := func(i int) *player {
			return &player{s: node(t, dbs[i], w, time.Duration(rapid.IntRange(-7200, 7200).Draw(rt, "skew"))*time.Second)}
		}
		players := make([]*player, rapid.IntRange(2, len(dbs)).Draw(rt, "nodes"))
		for i := range players {
			players[i] = join(i)
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(players)-1).Draw(rt, "node")
			p, domain := players[i], fmt.Sprintf("%d.%d.test", run, rapid.IntRange(0, 1).Draw(rt, "domain"))
			switch rapid.SampledFrom([]string{"begin", "begin", "begin", "end", "beat", "pass", "die", "pause", "resume"}).Draw(rt, "what") {
			case "begin":
				p.begin(rt, domain, most)
			case "end":
				if len(p.holds) > 0 {
					p.holds[0].release()
					p.holds = p.holds[1:]
				}
			case "beat":
				p.beat(rt)
			case "pass":
				w.pass(time.Duration(rapid.IntRange(100, 4000).Draw(rt, "ms")) * time.Millisecond)
			case "die":
				players[i] = join(i)
			case "pause":
				p.paused = true
			case "resume":
				p.paused = false
			}
			judge(rt, w, players, most)
		}
		survives(rt, w, players[0], fmt.Sprintf("%d.0.test", run), most)
	})
}

func (p *player) begin(rt *rapid.T, domain string, most int) {
	if p.paused {
		return
	}
	release, err := p.s.Acquire(context.Background(), domain, most, 0, 1, -1)
	if _, busy := errors.AsType[*throttle.BusyError](err); err != nil && !busy {
		rt.Fatal(err)
	}
	if err == nil {
		p.holds = append(p.holds, &hold{domain: domain, release: release})
	}
}

func (p *player) beat(rt *rapid.T) {
	if p.paused {
		return
	}
	if err := p.s.Beat(context.Background(), false); err != nil {
		rt.Fatal(err)
	}
}

// judge holds what is under way against the limit. An orphan is one whose node could not use its lease at some time since.
func judge(rt *rapid.T, w *world, players []*player, most int) {
	under := map[string]int{}
	for _, p := range players {
		valid := p.s.Valid()
		for _, h := range p.holds {
			h.orphan = h.orphan || !valid
			if !h.orphan {
				under[h.domain]++
			}
		}
	}
	for _, n := range under {
		if n > most {
			rt.Fatalf("%d under way, and %d may be", n, most)
		}
	}
}

// survives requires that one node gets everything once all others are dead and its own work is over.
func survives(rt *rapid.T, w *world, p *player, domain string, most int) {
	p.paused = false
	p.begin(rt, domain, most) // or is refused, and known since
	for _, h := range p.holds {
		h.release()
	}
	for range 7 {
		p.beat(rt)
		w.pass(2 * time.Second)
	}
	p.holds = nil
	p.beat(rt)
	for range most {
		p.begin(rt, domain, most)
	}
	if len(p.holds) != most {
		rt.Fatalf("%d of %d came back", len(p.holds), most)
	}
}

// Two processes on one database give a domain no more than two deliveries at once, together.
func ExampleLimitStore() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", "file:limits?mode=memory&cache=shared")
	if err != nil {
		panic(err)
	}
	defer db.Close()
	var nodes []*transport.Limiter
	far := &gated{begun: make(chan struct{}, 2), end: make(chan struct{})} // stands for transport/smtp
	for range 2 {
		shared, err := transport.LimitStore(ctx, db, nil) // goes into securemail.Config.Parts, so that it beats
		if err != nil {
			panic(err)
		}
		l, err := transport.Limit(far, &transport.LimitOptions{Connections: 2, Max: 2, Wait: -1, Shared: shared})
		if err != nil {
			panic(err)
		}
		nodes = append(nodes, l)
	}
	a, err := securemail.ParseAddress("anna@example.net")
	if err != nil {
		panic(err)
	}
	s := &securemail.Shipment{Parcel: &securemail.Parcel{Slip: securemail.Slip{Recipient: securemail.Contact{Address: a}}}}
	var wg sync.WaitGroup
	for _, l := range nodes {
		wg.Go(func() { _, _ = l.Deliver(ctx, s) })
		<-far.begun
	}
	_, err = nodes[0].Deliver(ctx, s)
	fmt.Println(err)
	close(far.end)
	wg.Wait()
	// Output: securemail: delivery: connect 4.4.5: throttle: busy
}

func BenchmarkSharedAcquire(b *testing.B) {
	db := sqldbtest.SQLite(b, filepath.Join(b.TempDir(), "db"), sqldbtest.Safe)
	s, err := transport.LimitStore(b.Context(), db, nil)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		release, err := s.Acquire(b.Context(), "x.test", 20, 0, 1, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
