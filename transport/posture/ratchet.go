package posture

import (
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// The rules of the ratchet; the package comment says why.
const (
	hold     = 30 * 24 * time.Hour // behind the last evidence
	spread   = 7 * 24 * time.Hour  // between first and last of weaker evidence
	needDays = 3                   // different days of weaker evidence
)

const day = 24 * 60 * 60 // seconds

// floors is how many channels can be learned: Verified, Named, Encrypted.
const floors = int(securemail.ChannelAny)

// learned is what deliveries to one domain proved, by Channel. It is stored as JSON. Adding the same evidence twice, or in
// another order, gives the same.
type learned [floors]mark

// mark is the evidence for one channel. Times are seconds since 1970.
type mark struct {
	// Raised says that it was enough; it holds until Last + hold.
	Raised bool `json:"raised,omitempty"`
	// Last is the last evidence; Days the first of each day (UTC), not older than hold before Last, ascending.
	Last int64   `json:"last,omitempty"`
	Days []int64 `json:"days,omitempty"`
}

// evidence is what one delivery proved.
type evidence struct {
	at      time.Time
	channel securemail.Channel
	// strong says that it was authenticated otherwise than by PKIX on a name that DNS gave.
	strong bool
}

// evidenceOf reads a receipt; ok is false where it proves nothing of the recipient's own mail host.
func evidenceOf(r *securemail.Receipt) (e evidence, ok bool) {
	if r == nil || r.Hop != securemail.HopFinal {
		return e, false
	}
	for c := securemail.ChannelVerified; c < securemail.ChannelAny; c++ {
		if r.Meets(c) {
			return evidence{r.Time, c, strong(r.Proof)}, true
		}
	}
	return e, false
}

func strong(p securemail.Proof) bool {
	switch p {
	case securemail.ProofDANE, securemail.ProofSTS, securemail.ProofConfigured:
		return true
	}
	return false
}

// add counts e for its channel and all weaker ones.
func (l *learned) add(e evidence, now time.Time) {
	if e.at.After(now) {
		e.at = now
	}
	for c := e.channel; c < securemail.ChannelAny; c++ {
		l[c].add(e.at.Unix(), now.Unix(), e.strong)
	}
}

func (m *mark) add(t, now int64, strong bool) {
	const held, skew = int64(hold / time.Second), int64(wrongClock / time.Second)
	switch {
	case m.Last > now+skew:
		// Written by a clock that was wrong. When it was is not known; what it proved stands.
		m.Last, m.Days = now, nil
	case t >= m.Last+held:
		*m = mark{}
	case t <= m.Last-held:
		return
	}
	m.Last = max(m.Last, t)
	m.insert(t)
	m.Days = slices.DeleteFunc(m.Days, func(d int64) bool { return d <= m.Last-held })
	m.Raised = m.Raised || strong || m.enough()
}

// insert keeps the first evidence of t's day.
func (m *mark) insert(t int64) {
	i, _ := slices.BinarySearchFunc(m.Days, t/day, func(d, want int64) int { return int(d/day - want) })
	if i < len(m.Days) && m.Days[i]/day == t/day {
		m.Days[i] = min(m.Days[i], t)
		return
	}
	m.Days = slices.Insert(m.Days, i, t)
}

// enough says whether evidence that is not authenticated has gone on for long enough.
func (m *mark) enough() bool {
	return len(m.Days) >= needDays && m.Last-m.Days[0] >= int64(spread/time.Second)
}

// ends is when the channel is no longer held; zero: it is not.
func (m *mark) ends() time.Time {
	if !m.Raised {
		return time.Time{}
	}
	return time.Unix(m.Last, 0).Add(hold).UTC()
}

// held is what binds a domain: what was learned, or the override in its place.
type held struct {
	ends     [floors]time.Time
	override *Override
}

func heldOf(l *learned, o *Override) held {
	h := held{override: o}
	for c := range l {
		h.ends[c] = l[c].ends()
	}
	return h
}

// least is the channel that the domain must not fall below at now; ChannelAny: nothing binds it.
func (h *held) least(now time.Time) securemail.Channel {
	if h.override.holds(now) {
		return h.override.Channel
	}
	return h.learned(now)
}

func (h *held) learned(now time.Time) securemail.Channel {
	for c, end := range h.ends {
		if now.Before(end) {
			return securemail.Channel(c)
		}
	}
	return securemail.ChannelAny
}

// holds says whether o is in force; nil is not.
func (o *Override) holds(now time.Time) bool {
	return o != nil && (o.Until.IsZero() || now.Before(o.Until))
}
