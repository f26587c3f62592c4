package main

import (
	"crypto/tls"
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

// count compares what was accepted, what arrived, also before the hosts forgot, and what is recorded.
func (c *runner) count(l *left, before map[string]int) *result {
	at, below := c.w.arrivals()
	for to, n := range before {
		at[to] += n
	}
	r := &result{
		Rounds: c.rounds, Accepted: len(c.accepted), BelowFloor: below, RestartMax: c.restart.Milliseconds(),
		Unreported: l.unproved, Events: l.events,
	}
	for _, n := range at {
		r.Arrived += n
	}
	for to, parcel := range c.accepted {
		kinds := l.kinds[parcel]
		n, state := at[to], securemail.State(l.state[parcel])
		uncertain := slices.Contains(kinds, string(securemail.StateUncertain))
		if uncertain {
			r.Uncertain++
		}
		if n == 0 && (state == securemail.StateDelivered || !ended(state)) {
			r.Lost++
		}
		r.Duplicates += max(0, n-1)
		if n > 1 && !uncertain || n > 0 && !slices.Contains(kinds, string(securemail.StateAttempting)) ||
			!slices.Contains(kinds, string(state)) {
			r.Unreported++
		}
	}
	return r
}

// ended says that nothing happens any more by itself, and that this is recorded.
func ended(s securemail.State) bool { return s.Final() || s == securemail.StateHeld }
