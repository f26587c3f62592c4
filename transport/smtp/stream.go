package smtp

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Stream lets the messages of concurrent Deliver calls that go to one place under the same demands follow each other on one
// connection without waiting for the answers, each of those that follow behind a RSET. It is for messages of up to 32 KiB and
// peers that offer PIPELINING; others are served as ever.
//
// A peer that offers CHUNKING takes a stream if it has proved, by a harmless group of commands asked once a day, that it
// discards a chunk that it refuses; then a window of messages goes per round trip, or 8 where the peer was seen to keep a
// refused transaction and may count the RSETs that end it, as Exim does. Any other gets a message's envelope
// behind the final dot of the one before (RFC 2920 section 3.1), so that a message takes one round trip in place of two.
//
// The price of the first kind: Shipment.Intend is called before the message goes, and not only once the recipient was
// accepted. A refused recipient is a plain refusal all the same, but a process that dies in between leaves a delivery
// uncertain that would have been known to have failed. A connection that is lost leaves uncertain each message whose last
// octet went out; others go once more over a fresh one.
type Stream struct {
	// Window is how many messages may be unanswered on one connection; 0 is 64.
	Window int
	// Connections bounds the connections that carry streams to one place under the same demands; 0 is 1. Another is opened
	// when the windows of all are full.
	Connections int
	// MaxUses is how many messages one streaming connection carries; 0 is 1,000.
	MaxUses int
}

// maxUnanswered bounds the octets of the messages that wait on one connection.
const maxUnanswered = 1 << 20

// way is how messages can follow each other on the connections to a host.
type way uint8

const (
	wayUnknown way = iota
	// waySerial: not at all.
	waySerial
	// wayData: the next envelope behind the final dot.
	wayData
	// wayChunks: whole messages behind each other.
	wayChunks
	// wayNarrow: the same, but few.
	wayNarrow
)

// narrow bounds the messages that are refused or unanswered on a connection to a peer that keeps a refused transaction. Exim
// counts the RSET that ends one, and at the eleventh command that is no mail (smtp_accept_max_nonmail) hangs up, under TLS
// with a text in the clear that proves nothing: all that is unanswered then would be uncertain. The question takes two.
// A connection with more than narrowKept refusals is not kept.
const (
	narrow     = 8
	narrowKept = 3
)

// How long it is remembered which way a host goes, and of how many hosts.
const (
	wayKept = 24 * time.Hour
	maxWays = 4096
)

// place is a host of which a way is remembered, in clear and under TLS, where it may offer other things.
type place struct {
	addr netip.AddrPort
	name string
	tls  bool
}

type streams struct {
	t *Transport
	Stream

	mu    sync.Mutex // guards what follows
	roads map[key]*road
	ways  map[place]known
}

type known struct {
	way   way
	until time.Time
}

func newStreams(t *Transport, o *Stream) *streams {
	s := &streams{t: t, Stream: *o, roads: map[key]*road{}, ways: map[place]known{}}
	s.Window, s.Connections, s.MaxUses = orElse(s.Window, 64), orElse(s.Connections, 1), orElse(s.MaxUses, 1000)
	return s
}

func (s *streams) way(p place) way {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.ways[p]
	if !ok || !s.t.now().Before(k.until) {
		return wayUnknown
	}
	return k.way
}

func (s *streams) remember(p place, w way) {
	now := s.t.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, k := range s.ways {
		if len(s.ways) < maxWays {
			break
		}
		if now.Before(k.until) {
			delete(s.ways, q)
			break
		}
		delete(s.ways, q)
	}
	s.ways[p] = known{w, now.Add(wayKept)}
}

// road is all lanes under one key. It lives while Deliver calls are on it.
type road struct {
	s    *streams
	key  key
	refs int // guarded by s.mu

	mu sync.Mutex // guards what follows, and the lanes
	// way is what the latest lane found out.
	way     way
	lanes   []*lane
	waiting []chan struct{}
}

func (s *streams) enter(k key) *road {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.roads[k]
	if r == nil {
		r = &road{s: s, key: k}
		s.roads[k] = r
	}
	r.refs++
	return r
}

func (s *streams) exit(r *road) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.refs--; r.refs == 0 {
		delete(s.roads, r.key)
	}
}

// queued is how long a message waits behind others: what was known of policies when it came is not for much longer.
const queued = maxKeep

// freshTries is how often a message goes over another connection because one died before its last octet was out.
const freshTries = 2

// streamed delivers j behind the messages of others. done is false where the host takes no streams.
func (t *Transport) streamed(ctx context.Context, j *job, g target, k key) (receipt *securemail.Receipt, f *failure, done bool) {
	if !j.whole {
		return nil, nil, false
	}
	r := t.streams.enter(k)
	defer t.streams.exit(r)
	for try := 0; ; try++ {
		receipt, f, serial := r.carry(ctx, j, g, try > 0)
		if serial {
			return nil, nil, false
		}
		j.sent = j.sent || f != nil && f.sent
		if f == nil || !f.stale || try == freshTries || ctx.Err() != nil {
			return receipt, f, true
		}
	}
}

// carry takes j over one lane.
func (r *road) carry(ctx context.Context, j *job, g target, fresh bool) (_ *securemail.Receipt, _ *failure, serial bool) {
	l, opener, err := r.join(ctx, j.size)
	if err != nil {
		f := fail(stageConnect, err)
		return nil, f, false
	}
	if l == nil {
		return nil, nil, true
	}
	if opener {
		l.open(ctx, j, g, fresh)
	}
	select {
	case <-l.ready:
	case <-ctx.Done():
		l.leave(j, false)
		return nil, fail(stageConnect, ctx.Err()), false
	}
	switch {
	case l.c == nil:
		f := l.sorry()
		l.leave(j, false)
		return nil, f, false
	case l.way == waySerial:
		l.leave(j, false)
		return nil, nil, true
	case l.way == wayData:
		receipt, f := l.follow(ctx, j, g.plan)
		return receipt, f, false
	}
	receipt, f := l.ship(ctx, j, g.plan)
	return receipt, f, false
}

// join finds a lane with room, or makes one, which the caller must open; nil where the host takes no streams.
func (r *road) join(ctx context.Context, size int64) (_ *lane, opener bool, _ error) {
	var late <-chan time.Time
	for {
		r.mu.Lock()
		if r.way == waySerial {
			r.mu.Unlock()
			return nil, false, nil
		}
		if l := r.pick(size); l != nil {
			l.enter(size)
			r.mu.Unlock()
			return l, false, nil
		}
		if len(r.lanes) < r.s.Connections {
			l := &lane{r: r, ready: make(chan struct{}), left: r.s.MaxUses}
			l.enter(size)
			r.lanes = append(r.lanes, l)
			r.mu.Unlock()
			return l, true, nil
		}
		wake := make(chan struct{}, 1)
		r.waiting = append(r.waiting, wake)
		r.mu.Unlock()
		if late == nil {
			late = time.After(queued)
		}
		select {
		case <-wake:
		case <-late:
			r.giveUp(wake)
			return nil, false, errBusy
		case <-ctx.Done():
			r.giveUp(wake)
			return nil, false, ctx.Err()
		}
	}
}

// pick finds the lane with the most room. The caller holds mu.
func (r *road) pick(size int64) *lane {
	var best *lane
	for _, l := range r.lanes {
		if l.room(size) && (best == nil || l.load < best.load) {
			best = l
		}
	}
	return best
}

// giveUp takes a caller out of those who wait, and lets the next have the wake-up that he got.
func (r *road) giveUp(wake chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, w := range r.waiting {
		if w == wake {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			return
		}
	}
	r.admitNext()
}

// admitNext wakes one who waits for room. The caller holds mu.
func (r *road) admitNext() {
	if len(r.waiting) > 0 {
		r.waiting[0] <- struct{}{}
		r.waiting = r.waiting[1:]
	}
}

// drop takes out a lane that is over. The caller holds mu.
func (r *road) drop(l *lane) {
	for i, m := range r.lanes {
		if m == l {
			r.lanes = append(r.lanes[:i], r.lanes[i+1:]...)
			break
		}
	}
	// All: they may make a lane, or learn that the host takes no streams.
	for len(r.waiting) > 0 {
		r.admitNext()
	}
}
