package posture

import (
	"context"

	"github.com/postseal/postseal/securemail"
)

// Answer says whether TLS alone would do, and why.
type Answer struct {
	OK bool
	// Floor is what was asked for or, where that is stricter, what the ratchet holds.
	Floor securemail.Channel
	// Route is what the Prober said.
	Route securemail.Route
	// Reasons are the steps, in order; the last one decided.
	Reasons []securemail.Reason
}

// CanForward says whether mail of the tenant to a could be sent on by TLS alone now, at the floor: for forwarding that must
// never fall back to anything else. The zero floor is the strictest, ChannelVerified; the HIPAA preset asks for
// ChannelNamed; ChannelAny is no floor, and the answer is no. What is not known now is no: a Prober that gives no answer or one that has run
// out, a ratchet that can't be read. A yes is no promise: the Transport proves the floor again at delivery. Nothing of a
// is stored or logged, and only its domain is asked about.
func (m *Monitor) CanForward(ctx context.Context, tenant string, a securemail.Address, floor securemail.Channel) Answer {
	out := Answer{Floor: floor}
	no := func(rule, text string) Answer {
		out.Reasons = append(out.Reasons, securemail.Reason{Rule: rule, Text: text})
		return out
	}
	domain := a.Domain()
	switch {
	case domain == "":
		return no("forward-address", "there is no address")
	case floor >= securemail.ChannelAny:
		return no("forward-floor", "forwarding by TLS alone needs a floor")
	}
	least, err := m.Least(ctx, tenant, domain)
	if err != nil {
		return no("ratchet-unknown", "what the domain's deliveries proved can't be read now")
	}
	if least < out.Floor {
		out.Floor = least
		no("ratchet", "deliveries have proved "+string(LevelOf(least))+", or it was set so")
	}
	prober := m.look.Load().prober
	if prober == nil {
		return no("route-unknown", "no prober is configured")
	}
	r, err := prober.Probe(ctx, tenant, domain)
	if err != nil {
		return no("route-unknown", "the route could not be probed")
	}
	out.Route = r
	out.Reasons = append(out.Reasons, r.Reasons...)
	switch {
	case !r.Known:
		return no("route-unknown", "the route is not known now")
	case !r.Until.IsZero() && m.o.Now().After(r.Until):
		return no("route-old", "what is known of the route has run out")
	case !r.Meets(out.Floor):
		return no("floor-missed", "the route gives "+string(levelOfWire(&r.Wire))+", the floor is "+string(LevelOf(out.Floor)))
	}
	no("floor-met", "the route gives "+string(levelOfWire(&r.Wire))+", the floor is "+string(LevelOf(out.Floor)))
	out.OK = true
	return out
}
