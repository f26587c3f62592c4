package smtp

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// hop says whom a connection to h reaches, and whether that can count for a floor above ChannelAny.
func (t *Transport) hop(h *host) (securemail.Wire, bool) {
	if h.relay == nil {
		return securemail.Wire{Hop: securemail.HopFinal}, true
	}
	o := h.relay.Operator
	if o == nil || !o.Until.IsZero() && !t.now().Before(o.Until) {
		return securemail.Wire{Hop: securemail.HopRelay}, false
	}
	return securemail.Wire{Hop: securemail.HopAsserted, Operator: o}, true
}

// hopOf is the hop of a wire that gave nothing.
func hopOf(h *host) securemail.Hop {
	if h.relay == nil {
		return securemail.HopFinal
	}
	return securemail.HopRelay
}

func hopRule(h *host) string {
	if h.relay.Operator == nil {
		return "operator-none"
	}
	return "operator-ended"
}

// rejudge is how long a judgement of a kept connection stands; certificates expire.
const rejudge = time.Minute

// judge turns what the session gave into evidence.
func (t *Transport) judge(c *conn) {
	w, _ := t.hop(c.host)
	w.Reasons = c.notes
	w.TLS = securemail.TLSFactsOf(c.tls)
	c.barred, c.admitted = false, admission{}
	if c.tls != nil {
		t.prove(c, &w)
	}
	c.wire, c.judged = w, t.now()
}

// prove finds the strongest proof of the peer's name.
func (t *Transport) prove(c *conn, w *securemail.Wire) {
	h := c.host
	if h.pin != nil && len(h.pin.spki) > 0 {
		if pinned(h.pin, c.tls) {
			w.Proof = securemail.ProofConfigured
			w.Reasons = note(w.Reasons, "key-pinned", h.name+" has a pinned key")
			return
		}
		c.barred = true
		w.Reasons = note(w.Reasons, "key-not-pinned", h.name+" has none of the pinned keys")
		return
	}
	if rule := t.pkix(h.name, c.tls); rule != "" {
		c.barred = h.pin != nil
		w.Reasons = note(w.Reasons, rule, "the certificate of "+h.name+" was not accepted")
		return
	}
	switch {
	case h.relay != nil:
		w.Proof = securemail.ProofConfigured
		w.Reasons = note(w.Reasons, "configured", "PKIX holds for the configured relay "+h.name)
	case h.pin != nil:
		w.Proof = securemail.ProofConfigured
		w.Reasons = note(w.Reasons, "configured", "PKIX holds for "+h.name+", a pinned host of the domain")
	case h.signed:
		w.Proof = securemail.ProofDNSSEC
		w.Reasons = note(w.Reasons, "pkix-dnssec", "PKIX holds for "+h.name+", which signed DNS names")
	default:
		w.Proof = securemail.ProofPKIX
		w.Reasons = note(w.Reasons, "pkix", "PKIX holds for "+h.name+", which unsigned DNS names")
	}
}

// bare says that h is proved by its own key, so that no signature on its certificate counts.
func (t *Transport) bare(h *host, cs *tls.ConnectionState) bool {
	return h.pin != nil && len(h.pin.spki) > 0 && pinned(h.pin, cs)
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

// admission is a floor that a judged connection met, with the hop it met it for.
type admission struct {
	ok       bool
	floor    securemail.Channel
	hop      securemail.Hop
	operator *securemail.Operator
}

// admit is the gate in front of MAIL: it holds the wire against this shipment's floor, for a kept connection too.
func (t *Transport) admit(j *job, c *conn) (securemail.Wire, *failure) {
	if age := t.now().Sub(c.judged); age < 0 || age >= rejudge {
		t.judge(c)
	}
	w, _ := t.hop(c.host)
	// Clipped, since receipts of several messages share the reasons.
	w.TLS, w.Proof, w.Reasons = c.wire.TLS, c.wire.Proof, slices.Clip(c.wire.Reasons)
	asked := admission{true, j.floor, w.Hop, w.Operator}
	switch {
	case j.floor == securemail.ChannelAny || c.admitted == asked:
	case c.barred:
		return w, miss(w, "pin", c.host.name+" broke the domain's pin")
	case !w.Meets(j.floor):
		return w, below(w, j.floor, c.host)
	}
	c.admitted = asked
	if j.RequireTLS && !c.ext.requireTLS {
		return w, miss(w, "requiretls-not-offered", c.host.name+" does not offer REQUIRETLS (RFC 8689)")
	}
	return w, nil
}

// below says why w is not enough, where the reasons so far do not.
func below(w securemail.Wire, floor securemail.Channel, h *host) *failure {
	switch {
	case w.Hop == securemail.HopRelay:
		return miss(w, hopRule(h), "nobody vouches now for the road beyond "+h.name)
	case w.TLS == nil:
		return miss(w, "tls-none", "no TLS with "+h.name)
	case !w.Meets(securemail.ChannelEncrypted):
		return miss(w, "tls-suite", "TLS version or suite of "+h.name+" is not approved")
	case w.Proof == securemail.ProofPKIX && floor == securemail.ChannelVerified:
		return miss(w, "mx-unsigned", "the name of "+h.name+" came from unsigned DNS")
	}
	return miss(w, "name-not-proved", "the name of "+h.name+" is not proved")
}
