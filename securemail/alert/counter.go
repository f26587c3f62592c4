package alert

import (
	"container/list"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// counter holds the newest times of a rule's events in one group.
type counter struct {
	group group
	times []time.Time // in order, at most Count of them
	fired time.Time   // zero: never
}

// with is the times of c and one more, at most count and none that is more than window behind the newest. Where one event is
// enough, it is that one, however late it comes.
func (c *counter) with(at time.Time, count int, window time.Duration) []time.Time {
	if count == 1 {
		return []time.Time{at}
	}
	i, _ := slices.BinarySearchFunc(c.times, at, time.Time.Compare)
	for i < len(c.times) && c.times[i].Equal(at) {
		i++
	}
	out := slices.Insert(slices.Clip(slices.Clone(c.times)), i, at)
	newest := out[len(out)-1]
	first := max(0, len(out)-count)
	for first < len(out)-1 && newest.Sub(out[first]) > window {
		first++
	}
	return out[first:]
}

// counters are those of one rule, within a bound.
type counters struct {
	max   int
	byKey map[group]*list.Element
	order list.List // of *counter, the one that was used last in front
}

// get is the counter of g, which is not remembered by that.
func (cs *counters) get(g group) *counter {
	if e := cs.byKey[g]; e != nil {
		return e.Value.(*counter)
	}
	return &counter{group: g}
}

// put remembers c as used last, and forgets the one that is idle longest.
func (cs *counters) put(c *counter) {
	if e := cs.byKey[c.group]; e != nil {
		cs.order.MoveToFront(e)
		return
	}
	// Its strings must not hold the memory of a whole event.
	c.group = group{strings.Clone(c.group.tenant), strings.Clone(c.group.id)}
	cs.byKey[c.group] = cs.order.PushFront(c)
	if cs.order.Len() > cs.max {
		last := cs.order.Back()
		delete(cs.byKey, cs.order.Remove(last).(*counter).group)
	}
}

// memory knows the newest ids of events.
type memory struct {
	seed maphash.Seed
	ring []uint64
	next int
	has  map[uint64]bool
}

func newMemory(n int) *memory {
	return &memory{seed: maphash.MakeSeed(), ring: make([]uint64, 0, n), has: map[uint64]bool{}}
}

func (m *memory) knows(id string) bool { return m.has[maphash.String(m.seed, id)] }

func (m *memory) add(id string) {
	h := maphash.String(m.seed, id)
	if m.has[h] {
		return
	}
	if len(m.ring) < cap(m.ring) {
		m.ring = append(m.ring, h)
	} else {
		delete(m.has, m.ring[m.next])
		m.ring[m.next] = h
		m.next = (m.next + 1) % len(m.ring)
	}
	m.has[h] = true
}
