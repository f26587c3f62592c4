package smtp

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// How long a Route holds, how long Probe answers from memory, and how long after a look that found nothing out.
const (
	routeHolds  = time.Hour
	routeKept   = 5 * time.Minute
	unknownKept = 30 * time.Second
)

// Probe implements securemail.Prober: it speaks with the domain's mail hosts up to TLS and says QUIT. The first host that
// proves its name answers for the domain, else the first whose wire was seen; a host that offers no TLS was seen, one that
// can't be reached or refuses for now was not. Answers are kept for minutes, and one look serves all who ask at once. A
// wire that misses a published policy, or the tenant's ratchet, promises nothing. An error is ctx's own, or [ErrClosed].
func (t *Transport) Probe(ctx context.Context, tenant, domain string) (securemail.Route, error) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	r, err := t.seen(ctx, domain)
	if err != nil || !r.Known || t.ratchet == nil || t.relay != nil {
		return r, err
	}
	least, err := t.ratchet.Least(ctx, tenant, domain)
	switch {
	case err != nil:
		return securemail.Route{Wire: securemail.Wire{Reasons: note(r.Reasons, "ratchet-unknown", "what the domain gave before is not known now")}}, ctx.Err()
	case !r.Meets(least):
		r.TLS, r.Proof, r.Reasons = nil, "", note(r.Reasons, "ratchet", "the domain gave more before, and must again")
	}
	return r, nil
}

// seen is what was seen of the domain's mail hosts, lately or now.
func (t *Transport) seen(ctx context.Context, domain string) (securemail.Route, error) {
	if t.relay != nil {
		domain = ""
	}
	for {
		if t.closed.Load() {
			return securemail.Route{}, ErrClosed
		}
		if r, ok := t.routes.get(domain); ok {
			return r, nil
		}
		done, mine := t.flight.join(domain)
		if mine {
			bounded, cancel := context.WithTimeout(ctx, t.timeouts.Total)
			r := t.look(bounded, domain)
			cancel()
			t.keep(ctx, domain, r)
			t.flight.leave(domain)
			return r, ctx.Err()
		}
		select {
		case <-done:
		case <-ctx.Done():
			return securemail.Route{}, ctx.Err()
		}
	}
}

func (t *Transport) keep(ctx context.Context, domain string, r securemail.Route) {
	switch {
	case ctx.Err() != nil:
	case r.Known:
		t.routes.put(domain, r, routeKept)
	default:
		t.routes.put(domain, r, unknownKept)
	}
}

// look visits hosts as Deliver does.
func (t *Transport) look(ctx context.Context, domain string) securemail.Route {
	hosts, notes, f := t.route(ctx, domain)
	if f != nil {
		return securemail.Route{Wire: securemail.Wire{Reasons: note(f.Wire.Reasons, "route", f.Err.Error())}}
	}
	best := securemail.Route{Wire: securemail.Wire{Reasons: notes}}
	tries := 0
	j := t.prober(ctx, domain)
	best.Reasons = j.policies.sts.notes(best.Reasons)
	for _, h := range hosts {
		p, addrs, f := t.prepare(ctx, j, h)
		switch {
		case f == nil:
		case f.miss && !best.Known:
			// It is known that nothing may go there.
			best = securemail.Route{Wire: securemail.Wire{Hop: hopOf(h), Reasons: append(best.Reasons, f.Wire.Reasons...)}, Known: true, Until: t.now().Add(routeHolds)}
			continue
		default:
			best.Reasons = note(append(best.Reasons, f.Wire.Reasons...), "route", h.name+": "+f.Err.Error())
			continue
		}
		for _, a := range addrs {
			if tries++; tries > maxConnections || ctx.Err() != nil {
				return best
			}
			w, known := t.glance(ctx, target{h, a, p}, j.Purpose)
			if !known {
				best.Reasons = append(best.Reasons, w.Reasons...)
				continue
			}
			if !best.Known || w.Proof != "" {
				w.Reasons = append(best.Reasons, w.Reasons...)
				best = securemail.Route{Wire: w, Known: true, Until: t.now().Add(routeHolds)}
			}
			if w.Proof != "" {
				return best
			}
			break // one address tells for the host
		}
	}
	return best
}

// prober is a shipment that asks for nothing, as far as policies need one.
func (t *Transport) prober(ctx context.Context, domain string) *job {
	j := &job{
		Shipment: &securemail.Shipment{Parcel: &securemail.Parcel{}, Channel: securemail.ChannelAny}, floor: securemail.ChannelAny,
		policies: &policies{sts: noSTS, least: securemail.ChannelAny},
	}
	if t.relay == nil {
		j.policies.sts = t.stsOf(ctx, domain)
	} else if o := t.relay.relay.Operator; o != nil && len(o.Uses) > 0 {
		j.Purpose = securemail.Purpose(o.Uses[0]) // what it will be used for is not known here; Deliver knows
	}
	return j
}

// glance makes one session and reports its wire.
func (t *Transport) glance(ctx context.Context, g target, purpose securemail.Purpose) (securemail.Wire, bool) {
	c, f := t.greet(ctx, g, &demand{floor: securemail.ChannelAny, probe: true, me: self{helo: t.helo}, purpose: purpose})
	if f != nil {
		w := f.Wire
		if !f.handshake {
			w.Reasons = note(w.Reasons, "unreachable", g.name+" was not reached: "+f.Stage)
		}
		// A handshake that surely failed is knowledge: there is no TLS to be had here.
		return w, f.handshake && !f.temporary && ctx.Err() == nil
	}
	defer c.quit()
	w := c.wire
	rule := g.plan.terms.missed(&w, c.shown)
	if rule == "" && g.plan.know.Pinned && w.TLS != nil && !c.shown.pin {
		rule = "pin" // which the terms of any floor but this one ask for
	}
	if rule != "" {
		// A delivery would not use this wire, so it promises nothing.
		f := c.fault(w, rule, g.plan)
		w.TLS, w.Proof, w.Reasons = nil, "", f.Wire.Reasons
	}
	return w, !c.unsure
}

// flight lets one caller work for all who want the same.
type flight struct {
	mu sync.Mutex // guards m
	m  map[string]chan struct{}
}

// join is true for the caller who must work and then leave; the others wait for the channel.
func (f *flight) join(key string) (<-chan struct{}, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if done, ok := f.m[key]; ok {
		return done, false
	}
	if f.m == nil {
		f.m = map[string]chan struct{}{}
	}
	done := make(chan struct{})
	f.m[key] = done
	return done, true
}

func (f *flight) leave(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.m[key])
	delete(f.m, key)
}
