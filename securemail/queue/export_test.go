package queue

import "context"

// Sweep is what Run does once an hour.
func (q *Queue) Sweep(ctx context.Context) { q.sweep(ctx) }

// DefaultLease is that of Options.
const DefaultLease = defaultLease

// Cached is a cache of up to limit keys.
func Cached(limit int) (put func(string), get func(string) bool) {
	c := &cache[bool]{limit: limit}
	return func(k string) { c.put(k, true) }, func(k string) bool { ok, _ := c.get(k); return ok }
}
