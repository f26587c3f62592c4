package transport

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/throttle"
)

// limitSteps make the tables. No wall clock of a node is in them: a node that lives counts its beat up, and tokens are counted
// in the database's time.
//
//   - transport_limit_node: the nodes that share limits.
//   - transport_limit_domain: hungry counts refusals, so that others give back what is above their share; tokens are
//     millionths of one, as of the time filled, in microseconds since 1970.
//   - transport_limit_slot: how many deliveries at once a node may have to a domain.
var limitSteps = []string{`
CREATE TABLE transport_limit_node (
	node TEXT PRIMARY KEY,
	beat {int} NOT NULL
) {clustered};
CREATE TABLE transport_limit_domain (
	domain TEXT PRIMARY KEY,
	hungry {int} NOT NULL,
	tokens {int} NOT NULL,
	filled {int} NOT NULL
) {clustered};
CREATE TABLE transport_limit_slot (
	domain TEXT NOT NULL,
	node   TEXT NOT NULL,
	slots  {int} NOT NULL,
	PRIMARY KEY (domain, node)
) {clustered};
CREATE INDEX transport_limit_slot_node ON transport_limit_slot (node);
`}

const (
	defaultLease = 6 * time.Second
	minLease     = 100 * time.Millisecond
	// askAgain is how often a delivery looks whether other nodes gave a slot back.
	askAgain = 250 * time.Millisecond
	// keepTokens is how long a node keeps tokens of a rate that it did not use.
	keepTokens = time.Second
)

// LimitStoreOptions are the options of [LimitStore]; nil and zero fields mean the defaults.
type LimitStoreOptions struct {
	// Lease is how long a node may use what it holds without reaching the database; 0 is 6 s, and the least is 100 ms. What a
	// node held that died is the others' within twice that.
	Lease time.Duration
	// Now is the clock; nil is time.Now. Its monotonic reading is used where it has one.
	Now func() time.Time
}

// SharedLimits are limits for each domain that several processes keep together, by [LimitOptions].Shared. It is safe for
// concurrent use, and is a securemail.Runner: put it into securemail.Config.Parts.
type SharedLimits struct {
	db    *sqldb.DB
	lease time.Duration
	now   func() time.Time
	clock func(ctx context.Context, tx *sql.Tx) (int64, error)

	// op holds a token while one goroutine talks to the database; what follows it is that goroutine's.
	op       chan struct{}
	observed map[string]beat // of other nodes
	beats    int
	beaten   time.Time // when the last beat was tried

	mu      sync.Mutex // guards what follows
	node    string     // "" before the first registration
	from    time.Time  // when the last beat that was stored was begun
	nodes   int        // that live, this one included
	domains map[string]*sharedDomain
}

// beat is another node's, and since when it was seen so.
type beat struct {
	n     int64
	since time.Time
}

// sharedDomain is what this node has of a domain. SharedLimits.mu guards it.
type sharedDomain struct {
	held, stored int // slots that may be used; that the database has, which are more while some are in use above held
	active, peak int // in use; the most of it since the last beat
	waiting      int
	refusals     int64 // of nodes, that are known of
	share        int   // above 0: another node was refused, and this one must not have more
	limit        sharedLimit
	tokens       int
	fresh        time.Time     // when the tokens came
	freed        chan struct{} // holds one token where a slot was given back here
}

// sharedLimit is what a domain may have on all nodes.
type sharedLimit struct {
	max   int
	rate  float64
	burst int
}

// LimitStore makes limits that all processes on db share, SQLite or PostgreSQL: [LimitOptions].Max and Rate then hold for all of
// them together. It makes its tables, transport_limit_*, if they are not there. What somebody can read there is to which
// domains mail is being sent.
//
// # What it costs
//
// A node leases slots and tokens several at a time while there are plenty, so that most deliveries ask nobody; near the limit
// each may cost one transaction, and one that finds no slot asks again each 250 ms until its Wait is over. A beat each third
// of Lease is one small transaction. Slots that were not used for a beat are given back; one node gives back what is above its
// share where another was refused.
//
// # What it promises
//
// At any time at most Max deliveries to a domain are under way by all nodes, plus those that were begun by a node which then
// did not reach the database for Lease (it was paused, or the database was down) and that are not over yet. Such a node begins
// nothing new: its deliveries are deferred until it reaches the database again. A node that dies gives everything back within
// 2 x Lease, counted by the others' own clocks; no clock of one node is compared with another's, and a wall clock that jumps
// changes nothing.
//
// In any span of time at most Burst + Rate x span deliveries begin, plus for each node the tokens of one batch (a tenth of a
// second of Rate, at least one, kept for a second at most), plus Burst for each time that the database's clock is set ahead.
// Burst is of Rate as one process has it; a domain that had no mail for a day begins with a full bucket.
//
// Nodes should have the same Max and Rate. Total stays a limit of each process. Without Run beats are made by deliveries alone: one
// that takes longer than Lease while no other begins may then lose its slot to another node.
func LimitStore(ctx context.Context, db *sql.DB, o *LimitStoreOptions) (*SharedLimits, error) {
	if db == nil {
		return nil, errors.New("transport: limit store: no database")
	}
	s := &SharedLimits{
		lease: defaultLease, now: time.Now, op: make(chan struct{}, 1), observed: map[string]beat{}, domains: map[string]*sharedDomain{}, nodes: 1,
	}
	if o != nil {
		if o.Lease != 0 {
			s.lease = o.Lease
		}
		if o.Now != nil {
			s.now = o.Now
		}
	}
	if s.lease < minLease {
		return nil, errors.New("transport: limit store: Lease is too short")
	}
	var err error
	if s.db, err = sqldb.Of(ctx, db); err != nil {
		return nil, fmt.Errorf("transport: limit store: %w", err)
	}
	if err := s.db.Migrate(ctx, "transport_limit", limitSteps); err != nil {
		return nil, fmt.Errorf("transport: limit store: %w", err)
	}
	s.clock = s.databaseTime
	return s, nil
}

// Run beats until ctx ends, then gives back what is not in use and returns nil. A database that can't be reached does not end
// it: deliveries are deferred meanwhile.
func (s *SharedLimits) Run(ctx context.Context) error {
	tick := time.NewTicker(s.lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.lease)
			defer cancel()
			_ = s.beat(end, true) // what is not given back is taken back by the others
			return nil
		case <-tick.C:
			_ = s.beat(ctx, false) // shows in deliveries
		}
	}
}

// unreachable says that the shared limits can't be had.
type unreachable struct{ err error }

func (e *unreachable) Error() string {
	return "transport: limit: shared limits are out of reach: " + e.err.Error()
}
func (e *unreachable) Unwrap() error { return e.err }

// acquire waits for a slot, and a token of the rate, as long as wait; release gives the slot back. The error is a
// *throttle.BusyError, an *unreachable or that of ctx.
func (s *SharedLimits) acquire(ctx context.Context, domain string, l sharedLimit, wait time.Duration) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	d := s.domain(domain)
	d.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		d.waiting--
		s.mu.Unlock()
	}()
	end := s.now().Add(max(wait, 0))
	for {
		if s.take(d, l) {
			return sync.OnceFunc(func() { s.giveBack(d) }), nil
		}
		retry, err := s.refill(ctx, domain, d, l)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, &unreachable{err}
		case retry == 0:
			continue
		case s.now().Add(retry).After(end):
			return nil, &throttle.BusyError{RetryAfter: max(time.Second, retry)}
		}
		timer := time.NewTimer(retry)
		select {
		case <-d.freed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// domain finds or makes what this node has of a domain. The caller holds mu.
func (s *SharedLimits) domain(name string) *sharedDomain {
	d := s.domains[name]
	if d == nil {
		d = &sharedDomain{freed: make(chan struct{}, 1)}
		s.domains[name] = d
	}
	return d
}

// valid says whether what this node holds may be used. Both clocks must say so: the monotonic one stands still while a machine
// sleeps, and the wall clock may jump. The caller holds mu.
func (s *SharedLimits) valid(now time.Time) bool {
	wall := now.Round(0).Sub(s.from.Round(0))
	return s.node != "" && now.Sub(s.from) < s.lease && wall >= 0 && wall < s.lease
}

// take begins a delivery by what this node holds.
func (s *SharedLimits) take(d *sharedDomain, l sharedLimit) bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	d.limit = l
	if !s.valid(now) || d.active >= d.held || l.rate > 0 && !d.hasToken(now) {
		return false
	}
	d.active++
	d.peak = max(d.peak, d.active)
	d.tokens = max(0, d.tokens-1)
	return true
}

func (d *sharedDomain) hasToken(now time.Time) bool {
	return d.tokens > 0 && now.Sub(d.fresh) < keepTokens && now.Sub(d.fresh) >= 0
}

func (s *SharedLimits) giveBack(d *sharedDomain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.active--
	select {
	case d.freed <- struct{}{}:
	default:
	}
}

// lock waits for the one who talks to the database.
func (s *SharedLimits) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case s.op <- struct{}{}:
		return func() { <-s.op }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newNode() string { return rand.Text() }
