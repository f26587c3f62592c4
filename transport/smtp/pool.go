package smtp

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// key tells which deliveries may share a connection: those that go to the same place under the same demands. Two domains
// with one mail host but different policies or pins, or a floor of another height, never meet; two with the same do.
type key struct {
	addr netip.AddrPort
	// know decides what is asked of the host; tlsa and pin are the records, reference names and keys that it is held to.
	know      Knowledge
	tlsa, pin string
	me        self
}

func (g target) key(me self) key {
	k := key{me: me, addr: netip.AddrPortFrom(g.addr, g.port), know: g.plan.know, tlsa: g.plan.tlsa.id}
	if g.pin != nil {
		k.pin = g.pin.id
	}
	return k
}

// pool keeps idle connections, the latest used first out. One timer closes those whose time is up; there is no goroutine.
type pool struct {
	max, perHost int
	ttl          time.Duration

	mu     sync.Mutex // guards what follows
	idle   map[key][]*conn
	count  int
	timer  *time.Timer
	closed bool
}

func newPool(limit, perHost int, ttl time.Duration) *pool {
	return &pool{max: limit, perHost: perHost, ttl: ttl, idle: map[key][]*conn{}}
}

// take returns an idle connection for k that may carry mail for the domain, or nil.
func (p *pool) take(k key, domain string) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	cs := p.idle[k]
	for i := len(cs) - 1; i >= 0; i-- {
		c := cs[i]
		if time.Since(c.idle) >= p.ttl {
			return nil // the timer is about to close it and those before it
		}
		if c.takes(domain) {
			p.set(k, slices.Delete(cs, i, i+1))
			p.count--
			return c
		}
	}
	return nil
}

// put keeps c; it is false, and c the caller's to close, if there is no room. Where the pool is full the one that was idle
// longest goes.
func (p *pool) put(c *conn) bool {
	p.mu.Lock()
	if p.closed || p.max <= 0 || len(p.idle[c.key]) >= p.perHost {
		p.mu.Unlock()
		return false
	}
	var old *conn
	if p.count >= p.max {
		old = p.oldest()
	}
	c.idle = time.Now()
	p.idle[c.key] = append(p.idle[c.key], c)
	p.count++
	if p.timer == nil {
		p.timer = time.AfterFunc(p.ttl, p.tick)
	}
	p.mu.Unlock()
	if old != nil {
		old.quit()
	}
	return true
}

// oldest takes out the connection that was idle longest. The caller holds mu.
func (p *pool) oldest() *conn {
	var k key
	var old *conn
	for at, cs := range p.idle {
		if old == nil || cs[0].idle.Before(old.idle) {
			k, old = at, cs[0]
		}
	}
	p.set(k, append([]*conn(nil), p.idle[k][1:]...))
	p.count--
	return old
}

// tick closes what is over, and comes again while anything is idle.
func (p *pool) tick() {
	p.mu.Lock()
	old := p.expire(time.Now())
	if p.timer != nil {
		if p.count > 0 {
			p.timer.Reset(p.ttl)
		} else {
			p.timer = nil
		}
	}
	p.mu.Unlock()
	bye(old)
}

// expire takes out what was idle too long. The caller holds mu, and says goodbye without it.
func (p *pool) expire(now time.Time) []*conn {
	var old []*conn
	for k, cs := range p.idle {
		n := 0
		for n < len(cs) && now.Sub(cs[n].idle) >= p.ttl {
			n++
		}
		if n > 0 {
			old = append(old, cs[:n]...)
			p.set(k, append([]*conn(nil), cs[n:]...))
		}
	}
	p.count -= len(old)
	return old
}

func (p *pool) set(k key, cs []*conn) {
	if len(cs) == 0 {
		delete(p.idle, k)
	} else {
		p.idle[k] = cs
	}
}

// drain closes all that is idle.
func (p *pool) drain() {
	p.mu.Lock()
	var all []*conn
	for _, cs := range p.idle {
		all = append(all, cs...)
	}
	p.idle, p.count = map[key][]*conn{}, 0
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	bye(all)
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drain()
}

func bye(cs []*conn) {
	for _, c := range cs {
		c.quit()
	}
}
