package main

import (
	"crypto/tls"
	"fmt"
	"slices"

	"github.com/postseal/postseal/securemail"
)

// arrivals are what the hosts took, by recipient; below counts those that were below the floor.
func (w *world) arrivals() (at map[string]int, below int) {
	at = make(map[string]int)
	for _, h := range w.hosts {
		for _, m := range h.peer.Messages() {
			if !h.floor || m.TLS == nil || m.TLS.Version < tls.VersionTLS12 {
				below++
			}
			for _, r := range m.Rcpts {
				at[r]++
			}
		}
	}
	return at, below
}

// restartAt is the time within which that share of the children came to their first delivery, in milliseconds.
func (c *runner) restartAt(share float64) int64 {
	if len(c.restarts) == 0 {
		return 0
	}
	slices.Sort(c.restarts)
	return c.restarts[int(share*float64(len(c.restarts)-1))].Milliseconds()
}

// count compares what was accepted, what arrived, also before the hosts forgot, and what is recorded.
func (c *runner) count(l *left, before map[string]int) *result {
	at, below := c.w.arrivals()
	for to, n := range before {
		at[to] += n
	}
	r := &result{
		Rounds: c.rounds, Accepted: len(c.accepted), BelowFloor: below, RestartMax: c.restartAt(1), RestartMedian: c.restartAt(0.5),
		Unreported: len(l.unproved), Events: l.events, Keys: len(c.keys), Reopened: l.reopened, Lost: l.closed,
	}
	for _, e := range l.unproved {
		r.faults = append(r.faults, "unreported: not in the log: "+e)
	}
	for to, parcel := range c.accepted {
		state := securemail.State(l.state[parcel])
		if at[to] == 0 && (state == securemail.StateDelivered || !ended(state)) {
			r.Lost++
			r.fault("lost", parcel, l, at[to])
		}
		r.parcel(l, parcel, at[to])
	}
	for to, n := range at {
		r.Arrived += n
		r.Duplicates += max(0, n-1)
		if c.accepted[to] == "" { // its Send was killed before it answered, but not before it was recorded
			r.parcel(l, l.parcel[to], n)
		}
	}
	return r
}

// parcel looks whether what became of a parcel, of which n copies arrived, is recorded.
func (r *result) parcel(l *left, id string, n int) {
	kinds := l.kinds[id]
	uncertain := slices.Contains(kinds, string(securemail.StateUncertain))
	if uncertain {
		r.Uncertain++
	}
	if n > 1 && !uncertain || n > 0 && !slices.Contains(kinds, string(securemail.StateAttempting)) ||
		!slices.Contains(kinds, l.state[id]) {
		r.Unreported++
		r.fault("unreported", id, l, n)
	}
}

// fault notes what a parcel's count found.
func (r *result) fault(what, id string, l *left, arrived int) {
	r.faults = append(r.faults, fmt.Sprintf("%s: parcel %q in state %q by events %q arrived %d times", what, id, l.state[id], l.kinds[id], arrived))
}

// ended says that nothing happens any more by itself, and that this is recorded.
func ended(s securemail.State) bool { return s.Final() || s == securemail.StateHeld }
