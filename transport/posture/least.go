package posture

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

const (
	memoFor  = time.Minute // an answer from memory is not older
	memoSize = 1 << 15     // of each of two generations
)

// Least says below which channel mail of the tenant to the domain must not fall now; ChannelAny: nothing is remembered. It
// answers from memory for up to a minute; what this Monitor itself learned or was told counts at once. Where memory has no
// answer and the database gives none, it is an error, and the caller must wait. Under [securemail.Mailer.SendTx] it reads
// through [securemail.TxOf]. It is what transport/smtp asks.
func (m *Monitor) Least(ctx context.Context, tenant, domain string) (securemail.Channel, error) {
	k := key{tenant, strings.ToLower(strings.TrimSuffix(domain, "."))}
	for {
		now := m.o.Now()
		if h, ok := m.memo.get(k, now); ok {
			return h.least(now), nil
		}
		if tx, ok := securemail.TxOf(ctx); ok {
			// Whoever reads for all could wait for the connection that the host's transaction holds.
			h, err := m.held(ctx, tx, k)
			if err != nil {
				return securemail.ChannelVerified, fmt.Errorf("posture: ratchet: %w", err)
			}
			return h.least(now), nil
		}
		done, mine := m.memo.join(k)
		if mine {
			return m.recall(ctx, k)
		}
		select {
		case <-done:
		case <-ctx.Done():
			return securemail.ChannelVerified, ctx.Err()
		}
	}
}

// recall reads for all who want the same.
func (m *Monitor) recall(ctx context.Context, k key) (securemail.Channel, error) {
	now := m.o.Now()
	l, o, err := scanRatchet(m.raw.QueryRowContext(ctx, m.d.Rebind(readRatchet), k.tenant, k.domain))
	if err != nil {
		m.memo.leave(k)
		return securemail.ChannelVerified, fmt.Errorf("posture: ratchet: %w", err)
	}
	h := heldOf(l, o)
	m.memo.put(k, &memoEntry{h, now})
	m.memo.leave(k)
	return h.least(now), nil
}

// memoEntry is an answer, and when the database gave it.
type memoEntry struct {
	held
	at time.Time
}

// memory holds recent answers in two generations: what was not asked for while one filled is dropped with the next.
type memory struct {
	mu         sync.RWMutex // guards what follows
	young, old map[key]*memoEntry
	flights    map[key]chan struct{}
	stale      map[key]bool // being read, and forgotten meanwhile
}

// get gives what was read within a minute. A clock that was set back makes it old.
func (c *memory) get(k key, now time.Time) (*memoEntry, bool) {
	c.mu.RLock()
	e, ok := c.young[k]
	if !ok {
		e, ok = c.old[k]
	}
	c.mu.RUnlock()
	if !ok {
		return nil, false
	}
	age := now.Sub(e.at)
	return e, age >= 0 && age < memoFor
}

// join is true for the caller who must read and then leave; the others wait for the channel.
func (c *memory) join(k key) (<-chan struct{}, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if done, ok := c.flights[k]; ok {
		return done, false
	}
	if c.flights == nil {
		c.flights = map[key]chan struct{}{}
	}
	done := make(chan struct{})
	c.flights[k] = done
	return done, true
}

func (c *memory) leave(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.flights[k])
	delete(c.flights, k)
	delete(c.stale, k)
}

// put keeps e, unless it was forgotten while it was read.
func (c *memory) put(k key, e *memoEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale[k] {
		return
	}
	if c.young == nil || len(c.young) >= memoSize {
		c.old, c.young = c.young, make(map[key]*memoEntry)
	}
	c.young[k] = e
}

// forget makes the next question go to the database.
func (c *memory) forget(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.young, k)
	delete(c.old, k)
	if c.flights[k] != nil {
		if c.stale == nil {
			c.stale = map[key]bool{}
		}
		c.stale[k] = true
	}
}

// seen remembers to which domains mail went today, so that not each delivery writes it down. Nothing depends on it.
type seen struct {
	mu   sync.Mutex // guards what follows
	day  int64
	keys map[key]bool
}

func (s *seen) has(k key, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.day == now.Unix()/day && s.keys[k]
}

func (s *seen) add(k key, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := now.Unix() / day; s.keys == nil || s.day != d || len(s.keys) >= memoSize {
		s.day, s.keys = d, map[key]bool{}
	}
	s.keys[k] = true
}

func (s *seen) forget(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, k)
}
