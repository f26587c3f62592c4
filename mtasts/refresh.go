package mtasts

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refreshEvery is the longest time before a policy is fetched again (RFC 8461 section 3.3: about daily).
	refreshEvery = 24 * time.Hour
	// unusedFor is how long a policy is refreshed though nobody asks for it.
	unusedFor = 180 * 24 * time.Hour
	// roundEvery is the time between two rounds of Run, on average.
	roundEvery = 10 * time.Minute
	// pageSize is how many entries are read at once, workers how many are fetched at once.
	pageSize, workers = 200, 4
)

// Run refreshes policies until ctx ends, and then returns nil: a first round at once, then one about every ten minutes. See
// [Cache.Refresh]. It is to be called once for a Cache; where many processes share a Store, one of them is enough.
func (c *Cache) Run(ctx context.Context) error {
	for {
		if _, err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "mtasts: refresh broke off")
		}
		wait := time.NewTimer(time.Duration((0.75 + c.rand()/2) * float64(roundEvery)))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// Refresh goes once through the Store and fetches each policy that has reached three quarters of, and at most all of, 24
// hours or half of its max_age, so that it does not expire while it is in use. It leaves out what has expired and what
// nobody has asked for in 180 days, and writes what the Store refused earlier. A policy whose record is gone is not
// refreshed; it binds until it expires. It returns how many were fetched; an error says that the Store can't be listed.
func (c *Cache) Refresh(ctx context.Context) (int, error) {
	var count atomic.Int64
	var newest time.Time
	for after := ""; ; {
		page, err := c.store.List(ctx, after, pageSize)
		if err != nil {
			return int(count.Load()), errors.Join(errors.New("mtasts: refresh: the store is not listed"), err)
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Domain
		c.each(ctx, page, func(e Entry) {
			if c.refresh(ctx, e) {
				count.Add(1)
			}
		})
		for _, e := range page {
			newest = later(newest, later(e.Fetched, e.Used))
		}
	}
	c.saveLate(ctx)
	return int(count.Load()), c.sweepOld(ctx, newest)
}

// each calls f for each entry, a few at a time, and waits for all.
func (c *Cache) each(ctx context.Context, es []Entry, f func(Entry)) {
	work := make(chan Entry)
	var all sync.WaitGroup
	for range min(workers, len(es)) {
		all.Go(func() {
			for e := range work {
				f(e)
			}
		})
	}
	for _, e := range es {
		if ctx.Err() != nil {
			break
		}
		if c.due(e) {
			work <- e
		}
	}
	close(work)
	all.Wait()
}

// due says whether an entry is to be refreshed now. Each has a moment of its own, so that they spread.
func (c *Cache) due(e Entry) bool {
	now, used := c.now(), e.Used
	if n := c.find(e.Domain); n != nil {
		used = later(used, n.lastUsed(used))
	}
	p, err := ParsePolicy(e.Text)
	if err != nil || !now.Before(e.Expires) || now.Sub(used) > unusedFor {
		return false
	}
	every := min(refreshEvery, life(p)/2)
	if e.Fetched.After(now) { // by a clock that was wrong then or is now: by turns, so that each comes once in that time
		turn := time.Duration(c.spread(e) * float64(every))
		return now.Add(turn).Sub(now.Add(turn).Truncate(every)) < roundEvery*5/4
	}
	at := time.Duration((0.75 + 0.25*c.spread(e)) * float64(every))
	return !near(now, e.Fetched, at)
}

// spread is a number in [0,1) that stays the same for an entry in this process.
func (c *Cache) spread(e Entry) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(e.Domain)) // It never fails.
	x := h.Sum64() ^ c.seed ^ uint64(e.Fetched.Unix())
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd // the finaliser of MurmurHash3, which spreads every bit over all
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

// refresh fetches the policy of an entry again and says whether that worked.
func (c *Cache) refresh(ctx context.Context, e Entry) bool {
	n := c.find(e.Domain)
	if n == nil {
		n = newNode(e.Domain) // for this alone: who is not written to now does not belong into memory
	}
	if n.lock(ctx) != nil {
		return false
	}
	defer n.unlock()
	now := c.now()
	if !n.held.binds(now) {
		h, err := hold(e, e.Domain, now)
		if h == nil || err != nil || !c.take(n, h) {
			return false
		}
	}
	rec, err := c.ask(ctx, e.Domain)
	id := rec.ID
	switch {
	case errors.Is(err, ErrNoRecord):
		return false
	case err != nil:
		id = n.held.entry.ID // DNS is not needed to ask a policy host that is known.
	}
	if c.fetch(ctx, n, id) != nil {
		return false
	}
	n.view.Store((&look{c: c, n: n, id: id, live: true}).view())
	if n.held.dirty {
		c.adopt(n) // Nobody else has the policy.
	}
	return true
}

// adopt puts a node into memory, unless the domain got one meanwhile.
func (c *Cache) adopt(n *node) {
	c.mu.Lock()
	if c.nodes[n.domain] == nil {
		c.nodes[n.domain] = n
		c.total += n.weight
	}
	c.mu.Unlock()
	c.weigh(n)
}

// saveLate writes what the Store refused when it was fetched.
func (c *Cache) saveLate(ctx context.Context) {
	for _, n := range c.dirty() {
		if n.lock(ctx) != nil {
			return
		}
		if n.held.binds(c.now()) && n.held.dirty {
			c.save(ctx, n)
			v := *n.view.Load()
			v.dirty = n.held.dirty
			n.view.Store(&v)
		}
		n.unlock()
	}
}

func (c *Cache) dirty() []*node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var ns []*node
	for _, n := range c.nodes {
		if v := n.view.Load(); v != nil && v.dirty {
			ns = append(ns, n)
		}
	}
	return ns
}

// sweepOld has the Store remove what expired long ago. What is deleted is gone for good, so the clock alone is not enough:
// time is believed as far as entries prove it, and from there on an hour a round.
func (c *Cache) sweepOld(ctx context.Context, newest time.Time) error {
	s, ok := c.store.(Sweeper)
	if !ok || newest.IsZero() {
		return nil
	}
	c.sweep.Lock()
	defer c.sweep.Unlock()
	sure := newest
	if !c.swept.IsZero() {
		sure = c.swept.Add(time.Hour)
	}
	if now := c.now(); now.Before(sure) {
		sure = now
	}
	c.swept = sure
	if _, err := s.Sweep(ctx, sure.Add(-MaxAge)); err != nil {
		return errors.Join(errors.New("mtasts: refresh: the store is not swept"), err)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
