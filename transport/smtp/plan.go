package smtp

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
)

// Ratchet remembers what domains gave. Called for each delivery, from many goroutines: it must answer from memory, or fast.
type Ratchet interface {
	// Least is what the domain's mail hosts must give the tenant; ChannelAny is no memory. An error defers the mail.
	Least(ctx context.Context, tenant, domain string) (securemail.Channel, error)
}

// policies are what binds mail to one domain, whichever the host.
type policies struct {
	sts *stsPolicy
	// least is the ratchet's; unsure says that it is not known.
	least  securemail.Channel
	unsure bool
	// optional: TLS-Required: No, and honoured.
	optional bool
}

// plan is what one delivery knows and asks of one mail host. It does not change.
type plan struct {
	know  Knowledge
	terms Terms
	tlsa  *tlsa
	sts   *stsPolicy
}

// tlsa is what DANE asks of a host; id names it.
type tlsa struct {
	dane.Policy
	id string
}

// How long it is believed that a host has no TLSA records, where DNS does not say, and how many hosts are remembered.
const (
	tlsaNone = time.Minute
	maxTLSA  = 4096
)

// noTLSA is for hosts that DANE can't speak of.
var noTLSA = &tlsa{Policy: dane.Policy{State: dane.None}}

// policiesFor looks up what binds mail to the domain. A relay is no host of the domain's: nothing that the domain
// published speaks of it.
func (t *Transport) policiesFor(ctx context.Context, j *job, domain string) *policies {
	p := &policies{sts: noSTS, least: securemail.ChannelAny}
	if t.relay != nil {
		return p
	}
	p.optional = t.honourNo && tlsRequiredNo(j.Message.Head())
	p.sts = t.stsOf(ctx, domain)
	if t.ratchet != nil {
		least, err := t.ratchet.Least(ctx, string(j.Actor.Tenant), domain)
		p.least, p.unsure = least, err != nil
	}
	return p
}

// tlsRequiredNo finds the field of RFC 8689 section 5. One that is there twice, or says anything else, asks for nothing.
func tlsRequiredNo(head []byte) bool {
	found := 0
	no := false
	for line := range bytes.Lines(head) {
		name, value, ok := bytes.Cut(line, []byte{':'})
		if ok && strings.EqualFold(string(bytes.TrimRight(name, " \t")), "TLS-Required") {
			found++
			no = strings.EqualFold(string(bytes.TrimSpace(value)), "No")
		}
	}
	return found == 1 && no
}

// planFor gathers what is known of h, whose addresses are set.
func (t *Transport) planFor(ctx context.Context, j *job, h *host, set AddrSet) *plan {
	p := &plan{tlsa: noTLSA, sts: j.policies.sts}
	if h.relay == nil {
		p.tlsa = t.tlsaOf(ctx, h, set)
	}
	w, rule := t.hop(h, j.Purpose)
	p.know = Knowledge{
		Host: h.name, Floor: j.floor, Ratchet: j.policies.least, RatchetUnknown: j.policies.unsure, DANE: p.tlsa.State,
		STS: p.sts.state, STSMatch: p.sts.names(h.name), STSCached: p.sts.cached,
		Signed: h.signed, Pinned: h.pin != nil, Configured: h.relay != nil, Hop: w.Hop,
		RequireTLS: j.RequireTLS, Mode: t.requireTLS, TLSOptional: j.policies.optional,
	}
	if p.terms = Decide(p.know); rule != "" && p.terms.Verdict == VerdictRefuse {
		p.terms.Reasons = note(p.terms.Reasons, rule, "the operator of "+h.name+" does not vouch for this mail now")
	}
	return p
}

// tlsaOf asks for the TLSA records of h, and keeps the answer for its time.
func (t *Transport) tlsaOf(ctx context.Context, h *host, set AddrSet) *tlsa {
	if t.dane == nil || !h.signed {
		return noTLSA
	}
	key := h.name + " " + h.nextHop
	if a, ok := t.tlsas.get(key); ok {
		return a
	}
	ctx, cancel := within(ctx, t.timeouts.Resolve)
	defer cancel()
	a := &tlsa{Policy: dane.Lookup(ctx, t.dane, dane.Host{
		Name: h.name, Canonical: set.Canonical, Port: h.port, NextHop: h.nextHop, NextHopCanonical: h.nextHopCanonical,
		Signed: h.signed, Secure: set.Secure,
	})}
	id := []string{a.Base}
	id = append(id, a.Names...)
	for _, r := range a.Records {
		id = append(id, r.String())
	}
	a.id = strings.Join(id, " ")
	switch {
	case a.State == dane.Unknown:
	case a.State == dane.None && a.TTL == 0:
		t.tlsas.put(key, a, tlsaNone)
	default:
		t.tlsas.put(key, a, min(a.TTL, maxKeep))
	}
	return a
}

// refused is the failure of terms that no session could meet, or nil.
func (p *plan) refused(h *host) *failure {
	switch p.terms.Verdict {
	case VerdictDeliver:
		return nil
	case VerdictRefuse:
		f := hostFail(stageTLS, securemail.ErrChannel)
		f.miss, f.temporary = true, p.terms.Temporary
		f.sts = p.know.STS == STSEnforce && !p.know.STSMatch
		f.Wire = securemail.Wire{Hop: hopOf(h), Reasons: p.terms.Reasons}
		return f
	}
	f := hostFail(stageResolve, errPolicy)
	// RFC 3463 section 3.5: 4.4.3, directory server failure.
	f.Enhanced, f.Wire = "4.4.3", securemail.Wire{Hop: hopOf(h), Reasons: p.terms.Reasons}
	return f
}
