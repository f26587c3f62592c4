package smtp

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

var _ transport.Observer = (*Transport)(nil)

// Bounds of one look: hosts, certificates of a host, names of a certificate, and EHLO keywords.
const (
	maxObserved     = 8
	maxCertificates = 10
	maxNames        = 100
	maxWords        = 64
)

// Observe implements transport.Observer. It speaks with the first address that answers of at most 8 mail hosts, five times
// each at most: as a delivery would, once for TLS outside the profile, and once for each older version of TLS. No mail is
// sent and no credentials are given. An error is [ErrClosed], ctx's own, or a *securemail.DeliveryError that says why the
// domain's mail hosts are not known.
func (t *Transport) Observe(ctx context.Context, _, domain string) (*transport.Observation, error) {
	if t.closed.Load() {
		return nil, ErrClosed
	}
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	ctx, cancel := context.WithTimeout(ctx, t.timeouts.Total)
	defer cancel()
	o := &transport.Observation{Domain: domain, Time: t.now()}
	hosts, notes, f := t.route(ctx, domain)
	o.Reasons = notes
	if f != nil {
		if o.NullMX = errors.Is(f.Err, ErrNullMX); o.NullMX {
			o.Known = true
			return o, nil
		}
		return nil, public(f)
	}
	j := t.prober(ctx, domain)
	o.Reasons = j.policies.sts.notes(o.Reasons)
	o.Known, o.Signed, o.STS = true, hosts[0].signed, j.policies.sts.observation()
	for _, h := range hosts[:min(len(hosts), maxObserved)] {
		o.Hosts = append(o.Hosts, t.observeHost(ctx, j, h))
	}
	if len(hosts) > maxObserved {
		o.Reasons = note(o.Reasons, "observe-hosts", "there are more mail hosts than were looked at")
	}
	o.Route = t.look(ctx, domain)
	t.keep(ctx, domain, o.Route)
	return o, ctx.Err()
}

// observeHost looks at one host.
func (t *Transport) observeHost(ctx context.Context, j *job, h *host) transport.HostObservation {
	o := transport.HostObservation{Name: h.name, Preference: h.preference, DANE: "none"}
	p, addrs, f := t.prepare(ctx, j, h)
	o.Addrs = addrs
	if p != nil {
		o.DANE = p.tlsa.State.String()
		for _, n := range p.tlsa.Findings {
			o.Reasons = note(o.Reasons, n.Rule, n.Text)
		}
	}
	if f != nil {
		o.Reasons = append(o.Reasons, f.Wire.Reasons...)
		if p == nil {
			return o
		}
	}
	for _, a := range addrs {
		o.Addr = a
		if t.observeAddr(ctx, j, target{h, a, p}, &o) {
			return o
		}
	}
	o.Addr = netip.Addr{} // nobody answered
	return o
}

// observeAddr is false where nobody answered.
func (t *Transport) observeAddr(ctx context.Context, j *job, g target, o *transport.HostObservation) bool {
	var words []string
	d := demand{floor: securemail.ChannelAny, probe: true, me: self{helo: t.helo}, purpose: j.Purpose, words: &words}
	c, f := t.greet(ctx, g, &d)
	if f != nil && !f.handshake {
		o.Reasons = note(append(o.Reasons, f.Wire.Reasons...), "unreachable", g.name+" was not reached: "+f.Stage)
		return false
	}
	if f != nil {
		o.Wire = f.Wire
		// What else is there: a certificate to see, a version to name.
		d.lax = true
		if c, f = t.connect(ctx, g, d); f != nil {
			o.STARTTLS, o.Extensions = f.handshake, words
			if f.handshake {
				o.Versions = t.versions(ctx, g, d, 0)
			}
			return true
		}
	} else {
		o.Wire = c.wire
	}
	defer c.quit()
	o.STARTTLS, o.RequireTLS, o.Extensions = c.tls != nil, c.tls != nil && c.ext.requireTLS, words
	if c.tls == nil {
		return true
	}
	for _, cert := range c.tls.PeerCertificates[:min(len(c.tls.PeerCertificates), maxCertificates)] {
		o.Certificates = append(o.Certificates, certificate(cert))
	}
	o.Versions = t.versions(ctx, g, d, c.tls.Version)
	return true
}

// versions are those that the host takes, from the one that it chose down; 0 is none yet.
func (t *Transport) versions(ctx context.Context, g target, d demand, best uint16) []uint16 {
	var found []uint16
	if best != 0 {
		found = append(found, best)
	}
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS11, tls.VersionTLS10} {
		if best != 0 && v >= best || ctx.Err() != nil {
			continue
		}
		d.lax, d.only, d.words = true, v, nil
		if c, f := t.connect(ctx, g, d); f == nil {
			if c.tls != nil {
				found = append(found, v)
			}
			c.quit()
		}
	}
	return found
}

// everySuite is for looking, never for mail.
func everySuite() []uint16 {
	var all []uint16
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		all = append(all, s.ID)
	}
	return all
}

func certificate(c *x509.Certificate) transport.Certificate {
	out := transport.Certificate{
		Names: c.DNSNames[:min(len(c.DNSNames), maxNames)], Issuer: printable(c.Issuer.String()), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		Key: "unknown", SPKI: sha256.Sum256(c.RawSubjectPublicKeyInfo),
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		out.Key = fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		out.Key = "ECDSA " + k.Curve.Params().Name
	case ed25519.PublicKey:
		out.Key = "Ed25519"
	}
	return out
}

// printable keeps a stranger's text short and harmless.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 256)]
}

// keyword notes one line of an EHLO reply, the first of which is a name.
func keyword(words *[]string, n int, text []byte) {
	if n == 0 {
		*words = nil
		return
	}
	if w, _, _ := strings.Cut(strings.TrimSpace(string(text[:min(len(text), 64)])), " "); w != "" && len(*words) < maxWords {
		*words = append(*words, printable(strings.ToUpper(w)))
	}
}
