package mtasts

import (
	"context"
	"sync/atomic"
	"time"
)

// node is what memory holds of one domain.
type node struct {
	domain string
	busy   chan struct{} // holds a token while somebody looks outside; the holder alone uses held and failed*
	view   atomic.Pointer[view]
	used   atomic.Int64 // when somebody last asked, in seconds since 1970; 0: never
	weight int          // guarded by Cache.mu

	held      *held // the last policy known, perhaps expired; nil: none
	failed    time.Time
	failedID  string
	failedErr error
}

// held is a policy with what belongs to it. It does not change but for dirty.
type held struct {
	entry  Entry
	policy Policy
	until  time.Time // when it expires by our clock
	dirty  bool      // the Store does not have it
}

// view is what readers see without a lock. It does not change.
type view struct {
	state   State
	err     error
	checked time.Time
	until   time.Time // when the policy expires
	dirty   bool
}

// near says whether two times lie less than d apart. A clock that jumps can't make a wait longer than d.
func near(a, b time.Time, d time.Duration) bool {
	diff := a.Sub(b)
	return -d < diff && diff < d
}

// fresh says whether the domain was looked at less than d ago and the policy still binds. Where there was none and the
// clock was set back since, the one that had expired may bind again.
func (v *view) fresh(now time.Time, d time.Duration) bool {
	switch {
	case v == nil || !near(now, v.checked, d):
		return false
	case v.state.Policy == nil:
		return !now.Before(v.checked)
	}
	return now.Before(v.until)
}

// binds says whether there is a policy that has not expired.
func (v *view) binds(now time.Time) bool {
	return v != nil && v.state.Policy != nil && now.Before(v.until)
}

func (h *held) binds(now time.Time) bool { return h != nil && now.Before(h.until) }

func (n *node) touch(now time.Time) {
	if s := now.Unix(); s-n.used.Load() > 60 || s < n.used.Load() {
		n.used.Store(s)
	}
}

func (n *node) tryLock() bool {
	select {
	case n.busy <- struct{}{}:
		return true
	default:
		return false
	}
}

func (n *node) lock(ctx context.Context) error {
	select {
	case n.busy <- struct{}{}:
		return nil
	default:
	}
	select {
	case n.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) unlock() { <-n.busy }

func newNode(domain string) *node {
	return &node{domain: domain, busy: make(chan struct{}, 1), weight: 1}
}

// node finds or makes the node of a domain; nil without an error is for an address literal. The name is tried as it is
// first: only canonical names are in the map.
func (c *Cache) node(domain string) (*node, error) {
	if n := c.find(domain); n != nil {
		return n, nil
	}
	if literal(domain) {
		return nil, nil
	}
	name, err := domainName(domain)
	if err != nil {
		return nil, err
	}
	if n := c.find(name); n != nil {
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[name]; n != nil {
		return n, nil
	}
	n := newNode(name)
	c.nodes[name] = n
	c.total += n.weight
	c.shrink(n)
	return n, nil
}

func (c *Cache) find(name string) *node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.nodes[name]
}

// weigh counts what a node holds anew: a unit for itself and one for each KiB or part of it that text and patterns take,
// about three times the length of the text.
func (c *Cache) weigh(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[n.domain] != n {
		return
	}
	w := 1
	if n.held != nil {
		w += 3 * len(n.held.entry.Text) >> 10
	}
	c.total += w - n.weight
	n.weight = w
	c.shrink(n)
}

// shrink drops nodes until the limit holds. Where all that it looks at must stay it drops the one that came last: that
// one is served, but not remembered here. The caller holds mu.
func (c *Cache) shrink(last *node) {
	for c.total > c.limit && len(c.nodes) > 0 {
		victim := c.victim(last)
		if victim == nil {
			victim = last
		}
		if c.nodes[victim.domain] != victim {
			return
		}
		delete(c.nodes, victim.domain)
		c.total -= victim.weight
	}
}

// victim picks, of some that the map happens to show, the node that is missed least: one without a policy, then one whose
// policy is in the Store, then one that is not and does not enforce; of equals the one unused for longest.
func (c *Cache) victim(last *node) *node {
	var worst *node
	worstRank, looked := mustStay, 0
	for _, n := range c.nodes {
		if looked++; looked > 32 {
			break
		}
		if n == last || len(n.busy) > 0 {
			continue
		}
		r := n.view.Load().rank()
		if r < worstRank || r == worstRank && worst != nil && n.used.Load() < worst.used.Load() {
			worst, worstRank = n, r
		}
	}
	return worst
}

// mustStay is the rank of a policy of mode enforce that nobody else has.
const mustStay = 3

func (v *view) rank() int {
	switch {
	case v == nil || v.state.Policy == nil:
		return 0
	case !v.dirty:
		return 1
	case !v.state.Enforced():
		return 2
	}
	return mustStay
}
