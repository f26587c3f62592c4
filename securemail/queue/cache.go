package queue

import (
	"sync"
	"time"
)

// generation is how long a cache collects before it forgets what was not used since.
const generation = 5 * time.Minute

// cache keeps up to twice limit values for at most two generations. The zero value with limit set is ready.
type cache[V any] struct {
	limit int

	mu         sync.Mutex // guards what follows
	young, old map[string]V
	since      time.Time
}

func (c *cache[V]) get(k string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(time.Now())
	v, ok := c.young[k]
	if !ok {
		v, ok = c.old[k]
	}
	return v, ok
}

func (c *cache[V]) put(k string, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(time.Now())
	c.young[k] = v
}

func (c *cache[V]) drop(k string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.young, k)
	delete(c.old, k)
}

// turn begins a new generation where the young one is full or old. The caller holds c.mu.
func (c *cache[V]) turn(now time.Time) {
	if c.young != nil && len(c.young) < c.limit && now.Sub(c.since) < generation {
		return
	}
	c.old = c.young
	switch age := now.Sub(c.since); {
	case age >= 2*generation:
		c.old, c.since = nil, now
	case age >= generation:
		c.since = c.since.Add(generation) // an idle cache turns late, and what is old is none the younger for it
	default:
		c.since = now
	}
	c.young = make(map[string]V)
}
