package posture

import (
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Bounds of one alert's text.
const (
	maxChanges = 10
	maxDetail  = 1000
)

// unreachableAfter is how many looks in a row must find nothing out.
const unreachableAfter = 2

// standing is what is known of a domain, and which alerts stand. It is stored as JSON.
type standing struct {
	// Base is what is known: the last look, with what it did not find out taken from those before.
	Base *Snapshot `json:"base,omitempty"`
	// Best is Base as it was before the downgrade that stands, and Since when that was.
	Best  *Snapshot `json:"best,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Below says that the route was found below the ratchet.
	Below bool `json:"below,omitempty"`
	// Failures counts looks in a row that found nothing out.
	Failures int `json:"failures,omitempty"`
	// Certs are the certificates told of: host to "SPKI stage".
	Certs map[string]string `json:"certs,omitempty"`
}

// alert is an event to be.
type alert struct {
	kind   string
	detail map[string]string
}

// verdict is what a look is held against.
type verdict struct {
	now     time.Time
	ratchet securemail.Channel
	warning time.Duration
}

// take makes s what is known and says what is to be told.
func (st *standing) take(s *Snapshot, v verdict) []alert {
	if !s.Reached && !s.NullMX {
		return st.failed(s, v)
	}
	var out []alert
	if st.Failures >= unreachableAfter {
		out = append(out, alert{"recovered", map[string]string{"from": "unreachable"}})
	}
	st.Failures = 0
	return append(out, st.learnt(s, v)...)
}

// failed is for a look that reached nobody. What DNS said besides still counts.
func (st *standing) failed(s *Snapshot, v verdict) []alert {
	st.Failures = min(st.Failures+1, 1000)
	out := st.learnt(s, v)
	if st.Failures == unreachableAfter {
		out = append(out, alert{"unreachable", map[string]string{"looks": strconv.Itoa(st.Failures)}})
	}
	return out
}

func (st *standing) learnt(s *Snapshot, v verdict) []alert {
	before := st.Base
	st.Base = s.onto(before)
	worse, policy := sorted(Diff(before, st.Base))
	var out []alert
	if a, ok := st.downgrade(before, worse, v); ok {
		out = append(out, a)
	}
	if len(policy) > 0 {
		out = append(out, alert{"policy-changed", map[string]string{"changes": list(policy)}})
	}
	return append(out, st.certificates(v)...)
}

// sorted separates changes for the worse from other changes of a policy.
func sorted(cs []Change) (worse, policy []Change) {
	for _, c := range cs {
		switch {
		case c.Worse:
			worse = append(worse, c)
		case policyFields[c.Field]:
			policy = append(policy, c)
		}
	}
	return worse, policy
}

// list is the changes in a line, bounded.
func list(cs []Change) string {
	var parts []string
	for i, c := range cs {
		if i == maxChanges {
			parts = append(parts, strconv.Itoa(len(cs)-i)+" more")
			break
		}
		parts = append(parts, c.String())
	}
	s := strings.Join(parts, "; ")
	return s[:min(len(s), maxDetail)]
}

// downgrade opens, widens or closes the one downgrade that may stand. It stands until nothing is worse than before it,
// or for as long as the ratchet remembers; then what is has become what is normal.
func (st *standing) downgrade(before *Snapshot, worse []Change, v verdict) (alert, bool) {
	level := st.Base.Level
	below := level != LevelUnknown && level.rank() < LevelOf(v.ratchet).rank() && v.ratchet != securemail.ChannelAny
	fresh, over := below && !st.Below, st.Below && !below
	st.Below = below
	if len(worse) > 0 || fresh {
		if st.Best == nil && before != nil {
			st.Best, st.Since = before, v.now
		}
		d := map[string]string{"level": string(level)}
		if len(worse) > 0 {
			d["changes"] = list(worse)
		}
		if below {
			d["ratchet"] = string(LevelOf(v.ratchet))
		}
		return alert{"downgrade", d}, true
	}
	recovered := alert{"recovered", map[string]string{"from": "downgrade", "level": string(level)}}
	if st.Best == nil || below {
		return recovered, over
	}
	still, _ := sorted(Diff(st.Best, st.Base))
	switch {
	case len(still) == 0:
		st.Best, st.Since = nil, time.Time{}
		return recovered, true
	case v.now.Sub(st.Since) > hold || st.Since.Sub(v.now) > wrongClock:
		st.Best, st.Since = nil, time.Time{}
	}
	return alert{}, false
}

// certificates tells of each mail host's certificate once when its end is near and once when it has come.
func (st *standing) certificates(v verdict) []alert {
	told := map[string]string{}
	var out []alert
	for i := range st.Base.Hosts {
		h := &st.Base.Hosts[i]
		end := h.expiry()
		if end.IsZero() || end.Sub(v.now) > v.warning {
			continue
		}
		stage := "ending"
		if !v.now.Before(end) {
			stage = "ended"
		}
		told[h.Name] = h.Certificates[0].SPKI + " " + end.Format(time.RFC3339) + " " + stage
		if st.Certs[h.Name] == told[h.Name] {
			continue
		}
		out = append(out, alert{"certificate-expiring", map[string]string{
			"host": h.Name, "until": end.Format(time.RFC3339), "state": stage,
		}})
	}
	st.Certs = told
	return out
}
