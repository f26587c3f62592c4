package posture

import (
	"context"
	"sync"
	"time"

	"github.com/postseal/postseal/transport"
)

// looks lets one look at a domain serve all tenants that are due: what a stranger's mail hosts show is nobody's secret, and
// a host that many tenants write to should not be visited by each.
type looks struct {
	mu sync.Mutex // guards m
	m  map[string]*shared
}

// shared is one look, under way until done is closed.
type shared struct {
	done  chan struct{}
	found *Snapshot // nil: nothing was found out
	at    time.Time
}

// ended says whether the look is over. It is called under the lock of looks.
func (s *shared) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// share gives a look of another tenant that is not older than a look that failed is repeated after, or looks. What found
// nothing out serves nobody else: two looks make an alert.
func (m *Monitor) share(ctx context.Context, by transport.Observer, k key) *Snapshot {
	if m.o.ByTenant {
		return m.observe(ctx, by, k)
	}
	for {
		e, mine := m.looks.join(k.domain, m.now(), m.o.Interval/12)
		if mine {
			s := m.observe(ctx, by, k)
			m.looks.leave(k.domain, e, s, m.now())
			return s
		}
		select {
		case <-e.done:
			if e.found != nil {
				return e.found
			}
		case <-ctx.Done():
			return m.observe(ctx, by, k) // which finds nothing out
		}
	}
}

// join is true for the caller who must look and then leave.
func (l *looks) join(domain string, now time.Time, keep time.Duration) (e *shared, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e = l.m[domain]; e != nil && (!e.ended() || now.Sub(e.at).Abs() < keep) {
		return e, false
	}
	if l.m == nil {
		l.m = map[string]*shared{}
	}
	if len(l.m) >= memoSize {
		for d, old := range l.m {
			if old.ended() {
				delete(l.m, d)
			}
		}
	}
	e = &shared{done: make(chan struct{})}
	l.m[domain] = e
	return e, true
}

func (l *looks) leave(domain string, e *shared, s *Snapshot, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.at = now; s.Reached || s.NullMX {
		e.found = s
	} else if l.m[domain] == e {
		delete(l.m, domain)
	}
	close(e.done)
}
