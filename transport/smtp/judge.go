package smtp

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
)

// hop says whom a connection to h reaches, and which rule keeps it from counting for mail of that purpose above
// ChannelAny, "" for none. An Operator vouches while its agreement lasts, and for the uses that it names.
func (t *Transport) hop(h *host, purpose securemail.Purpose) (w securemail.Wire, rule string) {
	if h.relay == nil {
		return securemail.Wire{Hop: securemail.HopFinal}, ""
	}
	w.Hop = securemail.HopRelay
	o := h.relay.Operator
	switch {
	case o == nil:
		return w, "operator-none"
	case !o.Until.IsZero() && !t.now().Before(o.Until):
		return w, "operator-ended"
	case len(o.Uses) > 0 && !slices.Contains(o.Uses, string(purpose)):
		return w, "operator-use"
	}
	return securemail.Wire{Hop: securemail.HopAsserted, Operator: o}, ""
}

// hopOf is the hop of a wire that gave nothing.
func hopOf(h *host) securemail.Hop {
	if h.relay == nil {
		return securemail.HopFinal
	}
	return securemail.HopRelay
}

// rejudge is how long a judgement of a kept connection stands; certificates expire.
const rejudge = time.Minute

// judge turns what the session gave into evidence.
func (t *Transport) judge(c *conn) {
	w, _ := t.hop(c.host, c.purpose)
	w.Reasons = slices.Concat(c.plan.terms.Reasons, c.notes)
	w.TLS = securemail.TLSFactsOf(c.tls)
	c.shown, c.pkix, c.tlsaRule, c.admitted = shown{}, "", "", admission{}
	if c.tls != nil {
		t.verify(c, &w)
		c.shown.requireTLS = c.ext.requireTLS
		t.prove(c, &w)
	}
	c.wire, c.judged = w, t.now()
}

// verify holds the certificates against all that may count: the pinned keys, the TLSA records, PKIX.
func (t *Transport) verify(c *conn, w *securemail.Wire) {
	if c.keyed() {
		if c.shown.pin = pinned(c.pin, c.tls); c.shown.pin {
			w.Reasons = note(w.Reasons, "key-pinned", c.name+" has a pinned key")
		} else {
			w.Reasons = note(w.Reasons, "key-not-pinned", c.name+" has none of the pinned keys")
		}
	}
	if c.plan.tlsa.State == dane.Usable {
		m, err := c.plan.tlsa.Verify(c.tls.PeerCertificates, &dane.VerifyOptions{Now: t.now})
		if c.shown.dane = err == nil; c.shown.dane {
			w.Reasons = note(w.Reasons, "dane-match", fmt.Sprintf("the TLSA record %d %d %d of %s matches", m.Record.Usage, m.Record.Selector, m.Record.Match, c.plan.tlsa.Base))
		} else {
			c.tlsaRule = "dane-no-match"
			if ve, ok := errors.AsType[*dane.VerifyError](err); ok {
				c.tlsaRule = ve.Rule
			}
			w.Reasons = note(w.Reasons, c.tlsaRule, "the TLSA records of "+c.plan.tlsa.Base+" do not hold for "+c.name)
		}
	}
	// Where a key or a record is the proof, PKIX counts only for MTA-STS, and for hosts that are pinned by name.
	sts, byName := c.plan.know.STSMatch, c.plan.know.Pinned && !c.keyed()
	if (c.keyed() || c.shown.dane) && !sts && !byName {
		return
	}
	c.pkix = t.pkix(c.name, c.tls)
	c.shown.pkix = c.pkix == ""
	if !c.keyed() {
		c.shown.pin = c.shown.pkix
	}
	if !c.shown.pkix {
		w.Reasons = note(w.Reasons, c.pkix, "the certificate of "+c.name+" was not accepted")
	}
}

// keyed says that the host is known by its key.
func (h *host) keyed() bool { return h.pin != nil && len(h.pin.spki) > 0 }

// prove names the strongest proof of the peer's name. A host that breaks what is configured proves nothing.
func (t *Transport) prove(c *conn, w *securemail.Wire) {
	s := c.shown
	say := func(p securemail.Proof, rule, text string) {
		w.Proof = p
		w.Reasons = note(w.Reasons, rule, text)
	}
	switch {
	case c.plan.know.Pinned && !s.pin:
	case c.keyed():
		w.Proof = securemail.ProofConfigured
	case c.relay != nil && s.pkix:
		say(securemail.ProofConfigured, "configured", "PKIX holds for the configured relay "+c.name)
	case c.pin != nil:
		say(securemail.ProofConfigured, "configured", "PKIX holds for "+c.name+", a pinned host of the domain")
	case s.dane:
		w.Proof = securemail.ProofDANE
	case c.relay != nil || !s.pkix:
	case c.plan.know.STS == STSEnforce && c.plan.know.STSMatch:
		say(securemail.ProofSTS, "pkix-sts", "PKIX holds for "+c.name+", which the domain's MTA-STS policy names")
	case c.signed:
		say(securemail.ProofDNSSEC, "pkix-dnssec", "PKIX holds for "+c.name+", which signed DNS names")
	default:
		say(securemail.ProofPKIX, "pkix", "PKIX holds for "+c.name+", which unsigned DNS names")
	}
}

// bare says that the peer is proved by its own key or certificate, so that no signature counts.
func (t *Transport) bare(c *conn, cs *tls.ConnectionState) bool {
	if c.keyed() {
		return pinned(c.pin, cs)
	}
	if c.plan.tlsa.State != dane.Usable || c.plan.terms.STS {
		return false
	}
	m, err := c.plan.tlsa.Verify(cs.PeerCertificates, &dane.VerifyOptions{Now: t.now})
	return err == nil && m.Record.Usage == dane.UsageDANEEE
}

func pinned(p *pin, cs *tls.ConnectionState) bool {
	if len(cs.PeerCertificates) == 0 {
		return false
	}
	return slices.Contains(p.spki, sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo))
}

// pkix verifies chain, dates and name (RFC 5280, RFC 9525) and names the rule that was broken, "" for none.
func (t *Transport) pkix(name string, cs *tls.ConnectionState) string {
	if len(cs.PeerCertificates) == 0 {
		return "pkix-none"
	}
	if name == "" { // Verify would ask for no name at all
		return "pkix-name"
	}
	leaf := cs.PeerCertificates[0]
	rest := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		rest.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: t.roots, Intermediates: rest, CurrentTime: t.now()})
	return pkixRule(err)
}

func pkixRule(err error) string {
	if err == nil {
		return ""
	}
	if ie, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if ie.Reason == x509.Expired {
			return "expired"
		}
		return "pkix-invalid"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "pkix-name"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "pkix-untrusted"
	}
	return "pkix-invalid"
}

// admission is what a judged connection was enough for, with the hop it was that for.
type admission struct {
	ok       bool
	know     Knowledge
	hop      securemail.Hop
	operator *securemail.Operator
}

// admit is the gate in front of MAIL: it holds the session against this shipment's terms, for a kept connection too. The
// pool's key makes sure that the session was opened for terms made of the same knowledge.
func (t *Transport) admit(j *job, c *conn, p *plan) (securemail.Wire, *failure) {
	if age := t.now().Sub(c.judged); age < 0 || age >= rejudge {
		t.judge(c)
	}
	w, _ := t.hop(c.host, j.Purpose)
	// Clipped, since receipts of several messages share the reasons.
	w.TLS, w.Proof, w.Reasons = c.wire.TLS, c.wire.Proof, slices.Clip(c.wire.Reasons)
	asked := admission{true, p.know, w.Hop, w.Operator}
	if c.admitted == asked {
		return w, nil
	}
	if rule := p.terms.missed(&w, c.shown); rule != "" {
		return w, t.below(c, w, rule, p)
	}
	c.admitted = asked
	return w, nil
}

// below says why w is not enough, where the reasons so far do not.
func (t *Transport) below(c *conn, w securemail.Wire, rule string, p *plan) *failure {
	f := c.fault(w, rule, p)
	f.sts = p.terms.STS && (w.TLS == nil || !c.shown.pkix)
	return f
}

func (c *conn) fault(w securemail.Wire, rule string, p *plan) *failure {
	switch {
	case w.Hop == securemail.HopRelay && p.terms.Least != securemail.ChannelAny:
		return miss(w, "hop-unvouched", "nobody vouches now for the road beyond "+c.name)
	case w.TLS == nil && p.terms.Least != securemail.ChannelAny:
		return miss(w, "tls-none", "no TLS with "+c.name)
	case rule == "pin":
		return miss(w, rule, c.name+" broke the domain's pin")
	case rule == "dane-mismatch":
		return miss(w, rule, c.name+" is not the host that its TLSA records name")
	case rule == "sts-pkix":
		return miss(w, rule, c.name+" does not pass PKIX, as the domain's MTA-STS policy demands")
	case rule == "requiretls-not-offered":
		return miss(w, rule, c.name+" does not offer REQUIRETLS (RFC 8689)")
	case !w.Meets(securemail.ChannelEncrypted):
		return miss(w, "tls-suite", "TLS version or suite of "+c.name+" is not approved")
	case w.Proof == securemail.ProofPKIX && p.terms.Least == securemail.ChannelVerified:
		return miss(w, "mx-unsigned", "the name of "+c.name+" came from unsigned DNS")
	}
	return miss(w, "name-not-proved", "the name of "+c.name+" is not proved")
}
