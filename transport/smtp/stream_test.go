package smtp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

func streaming(o *smtp.Options) { o.Stream = &smtp.Stream{} }

// numbered is a message that tells its number.
func numbered(t testing.TB, floor securemail.Channel, n int) *securemail.Shipment {
	s := shipment(t, floor, fmt.Sprintf("Subject: n%d\r\n\r\n%s", n, strings.Repeat(fmt.Sprintf("line of %d\r\n.\r\n", n), 1+n%50)))
	s.ID = securemail.ParcelID(fmt.Sprintf("p%d", n))
	s.Recipient.Address = address(t, fmt.Sprintf("r%d@clinic.test", n))
	s.ReturnPath = address(t, fmt.Sprintf("s%d@sender.test", n))
	return s
}

// deliverAll sends n messages at once and returns the results.
func deliverAll(t testing.TB, tr *smtp.Transport, floor securemail.Channel, n int) []error {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		s := numbered(t, floor, i)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_, errs[i] = tr.Deliver(ctx, s)
		})
	}
	wg.Wait()
	return errs
}

// whole checks that each message that p took is one of ours, unmixed, and returns how often each was taken.
func whole(t testing.TB, p *smtppeer.Peer) map[int]int {
	t.Helper()
	taken := map[int]int{}
	for _, m := range p.Messages() {
		if m.From == "" && len(m.Rcpts) == 0 {
			continue // the proof, for nobody
		}
		var n int
		_, err := fmt.Sscanf(m.From, "s%d@", &n)
		require.NoError(t, err, m.From)
		require.Equal(t, []string{fmt.Sprintf("r%d@clinic.test", n)}, m.Rcpts)
		require.True(t, strings.HasPrefix(string(m.Data), fmt.Sprintf("Subject: n%d\r\n", n)))
		require.True(t, strings.HasSuffix(string(m.Data), fmt.Sprintf("line of %d\r\n.\r\n", n)))
		taken[n]++
	}
	return taken
}

func TestStream(t *testing.T) {
	for name, c := range map[string]struct {
		o    smtppeer.Options
		bdat bool
	}{
		"chunks":           {smtppeer.Options{Extensions: chunking}, true},
		"chunks, TLS":      {smtppeer.Options{Extensions: chunking, TLS: ca.Config("mx1.test")}, true},
		"keeps the sender": {smtppeer.Options{Extensions: chunking, KeepSender: true}, true},
		"data":             {smtppeer.Options{Extensions: []string{"PIPELINING"}}, false},
		"data, TLS":        {smtppeer.Options{Extensions: []string{"PIPELINING"}, TLS: ca.Config("mx1.test")}, false},
		"parses chunks":    {smtppeer.Options{Extensions: chunking, Chunk: smtppeer.ChunkParse}, false},
		"takes all chunks": {smtppeer.Options{Extensions: chunking, Chunk: smtppeer.ChunkAccept}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(c.o)
			tr := l.transport(streaming)
			const n = 200
			for _, err := range deliverAll(t, tr, anyway, n) {
				require.NoError(t, err)
			}
			require.Len(t, whole(t, p), n)
			if !c.o.KeepSender { // there an idle connection is taken a few times only
				require.LessOrEqual(t, p.Connections(), 2)
				require.Equal(t, 1, tr.Idle())
			}
			for _, m := range p.Messages() {
				require.Equal(t, c.bdat || m.From == "", len(m.Chunks) > 0)
			}
			// The proof is asked once.
			for _, err := range deliverAll(t, tr, anyway, 20) {
				require.NoError(t, err)
			}
			require.LessOrEqual(t, count(p.Transcript(), "MAIL FROM:<>"), 2)
		})
	}
}

func TestStreamIsForThoseWhoCan(t *testing.T) {
	for name, o := range map[string]smtppeer.Options{
		"no pipelining":     {Extensions: []string{"CHUNKING", "8BITMIME"}},
		"limits of domains": {Extensions: append([]string{"LIMITS RCPTDOMAINMAX=2"}, chunking...)},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(o)
			tr := l.transport(func(o *smtp.Options) { o.Stream = &smtp.Stream{Window: 1} }) // the others wait to hear so
			for _, err := range deliverAll(t, tr, anyway, 20) {
				require.NoError(t, err)
			}
			require.Len(t, whole(t, p), 20)
			require.NotContains(t, p.Transcript(), "MAIL FROM:<>")
		})
	}
	// A long message goes its own way.
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: chunking})
	tr := l.transport(streaming)
	_, err := l.ship(tr, shipment(t, anyway, long))
	require.NoError(t, err)
	require.Empty(t, p.Messages()[0].Chunks)
}

// A peer that dies of the question is not asked again, and gets its mail.
func TestProofThatKills(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: chunking, Chunk: smtppeer.ChunkClose})
	tr := l.transport(streaming)
	failed := 0
	for range 5 {
		if _, err := l.deliver(tr, anyway); err != nil {
			require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
			failed++
		}
	}
	require.LessOrEqual(t, failed, 1)
	require.Equal(t, 1, count(p.Transcript(), "MAIL FROM:<>"))
}

// Traps 18 and 19: a refused recipient never disturbs its neighbours, even at a peer that keeps his transaction open.
func TestStreamRefusals(t *testing.T) {
	for name, o := range map[string]smtppeer.Options{
		"discards": {Extensions: chunking}, "keeps the sender": {Extensions: chunking, KeepSender: true},
		"parses": {Extensions: chunking, Chunk: smtppeer.ChunkParse}, "data": {Extensions: []string{"PIPELINING"}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Rcpt = func(a string) *smtppeer.Action {
				switch {
				case strings.HasSuffix(a, "3@clinic.test"):
					return &smtppeer.Action{Code: 550, Text: "5.1.1 no"}
				case strings.HasSuffix(a, "7@clinic.test"):
					return &smtppeer.Action{Code: 451, Text: "4.7.1 later"}
				}
				return nil
			}
			l := newLab(t)
			p := l.mx(o)
			tr := l.transport(streaming)
			const n = 120
			errs := deliverAll(t, tr, anyway, n)
			taken := whole(t, p)
			for i, err := range errs {
				switch i % 10 {
				case 3:
					d := wantDelivery(t, err)
					require.Equal(t, securemail.FatePermanent, d.Fate)
					require.Equal(t, "5.1.1", d.Enhanced)
					require.Equal(t, "rcpt", d.Stage)
					require.Zero(t, taken[i])
				case 7:
					require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
					require.Zero(t, taken[i])
				default:
					require.NoError(t, err)
					require.Equal(t, 1, taken[i])
				}
			}
			most := 2
			if o.KeepSender {
				most = 9 // of 24 refusals each takes four to eight
			}
			require.LessOrEqual(t, p.Connections(), most)
		})
	}
}

// delayed is a network of a given round-trip time to p: each direction holds what passes for half of it.
func delayed(p *smtppeer.Peer, rtt time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		c, near := net.Pipe()
		far, served := net.Pipe()
		go p.Serve(served)
		go carryLate(far, near, rtt/2)
		go carryLate(near, far, rtt/2)
		return c, nil
	}
}

func carryLate(to, from net.Conn, delay time.Duration) {
	type piece struct {
		b  []byte
		at time.Time
	}
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{b[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.b); err != nil {
			from.Close()
		}
	}
	to.Close()
	from.Close()
}

// One connection over 20 ms does not wait for each answer: a window of chunks, or one message by DATA, goes a round trip.
func TestStreamOverADistance(t *testing.T) {
	for way, trips := range map[string]int{"chunks": 500 / 64, "data": 500} {
		synctest.Test(t, func(t *testing.T) {
			p := smtppeer.New(smtppeer.Options{Extensions: streamWays[way], Discard: true})
			tr := bubble(t, p, func(o *smtp.Options) {
				o.Stream = &smtp.Stream{MaxUses: 100_000}
				o.Dial = delayed(p, 20*time.Millisecond)
			})
			s := shipment(t, anyway, hello)
			_, err := tr.Deliver(t.Context(), s)
			require.NoError(t, err)
			begin := time.Now()
			var left atomic.Int64
			left.Store(500)
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := tr.Deliver(t.Context(), s); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			took := int(time.Since(begin) / (20 * time.Millisecond))
			require.LessOrEqual(t, took, trips+5)
			require.GreaterOrEqual(t, took, trips)
			require.Equal(t, 1, p.Connections())
			require.NoError(t, tr.Close())
			p.Close()
			time.Sleep(time.Second) // what is on the way arrives
			synctest.Wait()
		})
	}
}

// Lost in the middle: what was out is uncertain, the rest goes once more, and nothing twice.
func TestStreamLost(t *testing.T) {
	for _, ext := range [][]string{chunking, {"PIPELINING"}} {
		for _, stage := range []smtppeer.Stage{smtppeer.StageReset, smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageBody, smtppeer.StageDot} {
			for name, a := range map[string]smtppeer.Action{
				"closed": smtppeer.Drop(), "421": {Code: 421, Text: "4.3.2 x", Close: true}, "garbage": {Raw: "!\r\n", Close: true},
			} {
				t.Run(ext[0]+"/"+string(stage)+"/"+name, func(t *testing.T) {
					l := newLab(t)
					p := l.mx(smtppeer.Options{Extensions: ext, Hook: func(e smtppeer.Event) *smtppeer.Action {
						if e.Stage == stage && e.Conn == 1 && e.Taken == 20 {
							return &a
						}
						return nil
					}})
					tr := l.transport(streaming)
					judge(t, p, deliverAll(t, tr, anyway, 60))
				})
			}
		}
	}
}

// The same where the far end has enough of the session, and says so at RSET: nothing of what it did not look at is uncertain
// or refused.
func TestStreamResetRefused(t *testing.T) {
	for _, ext := range [][]string{chunking, {"PIPELINING"}} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: ext, Hook: func(e smtppeer.Event) *smtppeer.Action {
			if e.Stage == smtppeer.StageReset && e.Taken == 30 {
				return &smtppeer.Action{Code: 554, Text: "Too many nonmail commands", Close: true}
			}
			return nil
		}})
		tr := l.transport(streaming)
		errs := deliverAll(t, tr, anyway, 60)
		judge(t, p, errs)
		require.NoError(t, errors.Join(errs...))
	}
}

// A peer that keeps the transaction of a refused recipient, counts the RSETs that end it, and hangs up without a word at the
// eleventh, as Exim does under TLS: a stream stays below that, and nothing is uncertain.
func TestStreamNarrow(t *testing.T) {
	l := newLab(t)
	var mu sync.Mutex
	junk, open := map[int]int{}, map[int]bool{}
	p := l.mx(smtppeer.Options{Extensions: chunking, KeepSender: true, Hook: func(e smtppeer.Event) *smtppeer.Action {
		mu.Lock()
		defer mu.Unlock()
		switch e.Stage {
		case smtppeer.StageRcpt:
			if open[e.Conn] = e.N%2 == 0; open[e.Conn] {
				return &smtppeer.Action{Code: 550, Text: "5.1.1 nobody"}
			}
		case smtppeer.StageReset:
			if open[e.Conn] {
				junk[e.Conn]++
			}
			if open[e.Conn] = false; junk[e.Conn] > 8 {
				return &smtppeer.Action{Close: true}
			}
		}
		return nil
	}})
	tr := l.transport(streaming)
	errs := deliverAll(t, tr, anyway, 100)
	judge(t, p, errs)
	failed := 0
	for _, err := range errs {
		if err != nil {
			require.Equal(t, securemail.FatePermanent, wantDelivery(t, err).Fate)
			failed++
		}
	}
	require.Equal(t, 50, failed)
	require.GreaterOrEqual(t, p.Connections(), 6)
}

// A far end may close what is idle: a stream that finds it so goes over a fresh connection, and nothing is uncertain.
func TestStreamClosedWhileIdle(t *testing.T) {
	for name, o := range map[string]smtppeer.Options{
		"chunks": {Extensions: chunking}, "data": {Extensions: []string{"PIPELINING"}},
		"chunks, TLS": {Extensions: chunking, TLS: ca.Config("mx1.test")},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(o)
			tr := l.transport(streaming)
			for range 5 {
				_, err := l.deliver(tr, anyway)
				require.NoError(t, err)
				p.Drop()
				require.Eventually(t, func() bool { return p.Open() == 0 }, 10*time.Second, time.Millisecond)
			}
			require.Len(t, p.Messages(), 5)
		})
	}
}

// judge holds results against what the far end took.
func judge(t testing.TB, p *smtppeer.Peer, errs []error) {
	t.Helper()
	taken := whole(t, p)
	for i, err := range errs {
		require.LessOrEqual(t, taken[i], 1, "message %d twice", i)
		if err == nil {
			require.Equal(t, 1, taken[i], i)
			continue
		}
		d, ok := errors.AsType[*securemail.DeliveryError](err)
		require.True(t, ok, "%T", err)
		if d.Fate != securemail.FateUncertain {
			require.Zero(t, taken[i], "message %d was taken, and is %v: %v", i, d.Fate, err)
		}
	}
}

// What a hostile far end says in a stream is bounded, and ends that connection alone.
func TestStreamHostile(t *testing.T) {
	for name, a := range map[string]smtppeer.Action{
		"endless line":  {Banner: 4 << 20},
		"endless reply": {Code: 250, Text: "x", Lines: 100_000},
		"NULs":          {Raw: strings.Repeat("\x00", 10_000) + "\r\n"},
		"no code":       {Raw: "hello\r\n"},
		"half a reply":  {Raw: "250-x\r\n25", Close: true},
	} {
		for _, stage := range []smtppeer.Stage{smtppeer.StageReset, smtppeer.StageRcpt, smtppeer.StageDot} {
			for _, ext := range [][]string{chunking, {"PIPELINING"}} {
				t.Run(name+"/"+string(stage)+"/"+ext[len(ext)-1], func(t *testing.T) {
					l := newLab(t)
					p := l.mx(smtppeer.Options{Extensions: ext, Hook: func(e smtppeer.Event) *smtppeer.Action {
						if e.Stage == stage && e.Conn == 1 && e.Taken == 10 {
							return &a
						}
						return nil
					}})
					tr := l.transport(streaming)
					errs := deliverAll(t, tr, anyway, 40)
					judge(t, p, errs)
					require.LessOrEqual(t, tr.Idle(), 20, "one, and those of fresh tries, up to MaxIdlePerHost")
					_, err := l.deliver(tr, anyway)
					require.NoError(t, err)
				})
			}
		}
	}
}

// A far end that answers before it is asked is given up.
func TestStreamRepliesBeforeCommands(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: chunking, Hook: func(e smtppeer.Event) *smtppeer.Action {
		if e.Stage == smtppeer.StageDot && e.Conn == 1 {
			return &smtppeer.Action{Raw: "250 2.0.0 ok\r\n250 2.0.0 ok\r\n250 2.0.0 ok\r\n"}
		}
		return nil
	}})
	tr := l.transport(streaming)
	_, err := l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Zero(t, tr.Idle(), "octets that nobody asked for")
	_, err = l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Equal(t, 2, p.Connections())
}

// A context that ends takes its own message out, and no other.
func TestStreamContextEnds(t *testing.T) {
	for _, ext := range [][]string{chunking, {"PIPELINING"}} {
		t.Run(ext[len(ext)-1], func(t *testing.T) {
			hold := make(chan struct{})
			reached := make(chan struct{})
			var once sync.Once
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: ext, Hook: func(e smtppeer.Event) *smtppeer.Action {
				if e.Stage == smtppeer.StageDot {
					once.Do(func() { close(reached) })
					<-hold
				}
				return nil
			}})
			tr := l.transport(streaming)
			errs := make([]error, 12)
			ctxs := make([]context.CancelFunc, len(errs))
			var wg, ended sync.WaitGroup
			for i := range errs {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				ctxs[i] = cancel
				s := numbered(t, anyway, i)
				if i%3 == 0 {
					ended.Add(1)
				}
				wg.Go(func() {
					_, errs[i] = tr.Deliver(ctx, s)
					if i%3 == 0 {
						ended.Done()
					}
				})
			}
			<-reached
			for i := 0; i < len(ctxs); i += 3 {
				ctxs[i]()
			}
			ended.Wait() // they leave though the far end is silent
			close(hold)
			wg.Wait()
			taken := whole(t, p)
			for i, err := range errs {
				switch d, failed := errorAs[*securemail.DeliveryError](err); {
				case i%3 != 0 && ext[len(ext)-1] == "CHUNKING":
					require.NoError(t, err, i)
				case failed && d.Fate != securemail.FateUncertain:
					require.Zero(t, taken[i])
				}
				require.LessOrEqual(t, taken[i], 1)
			}
		})
	}
}

// Streams to one place under other demands never meet.
func TestStreamsOfOthers(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: append([]string{"REQUIRETLS"}, chunking...), TLS: ca.Config("mx1.test")})
	tr := l.transport(func(o *smtp.Options) {
		o.Stream, o.Pins = &smtp.Stream{}, map[string]smtp.Pin{"clinic.test": {Hosts: []string{"mx1.test"}}}
	})
	var wg sync.WaitGroup
	for i := range 40 {
		s := numbered(t, []securemail.Channel{anyway, encrypted, named}[i%3], i)
		s.RequireTLS = i%2 == 0
		wg.Go(func() {
			if _, err := tr.Deliver(context.Background(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, whole(t, p), 40)
	required := map[int]map[bool]bool{}
	for _, m := range p.Messages() {
		if m.From == "" {
			continue
		}
		if required[m.Conn] == nil {
			required[m.Conn] = map[bool]bool{}
		}
		required[m.Conn][strings.Contains(strings.Join(m.Params, " "), "REQUIRETLS")] = true
		require.Len(t, required[m.Conn], 1)
	}
	_, err := smtp.New(&smtp.Options{Stream: &smtp.Stream{Window: -1}})
	require.ErrorContains(t, err, "Stream")
}
