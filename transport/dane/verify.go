package dane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"time"
)

// VerifyOptions are the options of [Policy.Verify]; nil and zero fields mean the defaults.
type VerifyOptions struct {
	// Now is the clock that dates are held against; nil is time.Now.
	Now func() time.Time
}

// Match is the proof that a chain is the right one. The zero Match proves nothing.
type Match struct {
	// Record is the record that matched.
	Record Record
	// Depth is the place in the chain of the certificate that it matched, 0 for the host's own. It is -1 for an anchor that
	// the host did not send and the record holds in full.
	Depth int
	// Name is the reference name found in the certificate; "" under DANE-EE(3), where names don't matter.
	Name string
	// Findings say how it was proved.
	Findings []Finding
}

// VerifyError says why no record was met. It holds no text of the far end's.
type VerifyError struct {
	// Rule is one of: dane-not-usable (the Policy's State is not Usable), dane-no-certificate, dane-no-match (no record has
	// the key, the certificate or an anchor of the chain), dane-expired (not valid now), dane-path (an anchor was found, but
	// no valid path to it), dane-name (none of Policy.Names is in the certificate).
	Rule, Text string
}

// Error implements error.
func (e *VerifyError) Error() string { return "dane: " + e.Text }

// Bounds of the work on one chain.
const (
	maxChain  = 16   // certificates; what a host sends beyond them is ignored
	maxRSA    = 8192 // bits, as in crypto/tls; verifying takes the square of it
	maxChecks = 100  // signatures checked with keys of records, as in crypto/x509 for the rest
)

// Verify checks the certificates that a host showed, its own first, against p. A nil error is the proof that the host is
// the right one; a *VerifyError says that it is not.
//
// DANE-EE(3) is tried first, as it asks for less. Certificates with RSA keys of more than 8,192 bits are not looked at as
// issuers, nor certificates behind the first 16.
func (p Policy) Verify(chain []*x509.Certificate, o *VerifyOptions) (Match, error) {
	if p.State != Usable {
		return Match{}, &VerifyError{"dane-not-usable", "there is no TLSA record to verify against"}
	}
	chain = chain[:min(len(chain), maxChain)]
	if len(chain) == 0 {
		return Match{}, &VerifyError{"dane-no-certificate", "the host showed no certificate"}
	}
	now := time.Now
	if o != nil && o.Now != nil {
		now = o.Now
	}
	v := &verification{chain: chain, names: p.Names, now: now()}
	for _, r := range p.Records[:min(len(p.Records), maxRecords)] {
		if r.usable() == "" {
			v.records = append(v.records, r)
		}
	}
	if m, ok := v.endEntity(); ok {
		return m, nil
	}
	return v.anchored()
}

// verification is the state of one Verify.
type verification struct {
	chain   []*x509.Certificate
	records []Record
	names   []string
	now     time.Time

	prints  map[print][]byte
	anchors []anchor
	checks  int
}

// print names the digest of a part of a certificate of the chain.
type print struct {
	depth           int
	selector, match uint8
}

// anchor is what a certificate is trusted by.
type anchor struct {
	record Record
	depth  int
	cert   *x509.Certificate
}

// matches says that r names the certificate at depth.
func (v *verification) matches(r Record, depth int) bool {
	k := print{depth, r.Selector, r.Match}
	d, ok := v.prints[k]
	if !ok {
		d = digest(subject(v.chain[depth], r.Selector), r.Match)
		if v.prints == nil {
			v.prints = map[print][]byte{}
		}
		v.prints[k] = d
	}
	return len(d) > 0 && bytes.Equal(d, r.Data)
}

// endEntity tries the DANE-EE(3) records (RFC 7671 section 5.1: nothing but the match counts).
func (v *verification) endEntity() (Match, bool) {
	for _, r := range v.records {
		if r.Usage == UsageDANEEE && v.matches(r, 0) {
			return Match{Record: r, Findings: []Finding{{"dane-ee", "a DANE-EE(3) record has the host's " + part(r)}}}, true
		}
	}
	return Match{}, false
}

func part(r Record) string {
	if r.Selector == SelectorSPKI {
		return "key"
	}
	return "certificate"
}

// anchored tries the DANE-TA(2) records (RFC 7671 section 5.2).
func (v *verification) anchored() (Match, error) {
	v.findAnchors()
	if len(v.anchors) == 0 {
		return Match{}, &VerifyError{"dane-no-match", "no TLSA record matches what the host showed"}
	}
	a, path, err := v.path()
	if err != nil {
		return Match{}, err
	}
	for _, n := range v.names {
		if named(path, n) {
			m := Match{Record: a.record, Depth: a.depth, Name: n}
			m.Findings = []Finding{{"dane-ta", "a DANE-TA(2) record has the " + part(a.record) + " of the chain's anchor"}, {"dane-name", "the certificate names " + n}}
			return m, nil
		}
	}
	return Match{}, &VerifyError{"dane-name", "the certificate has none of the reference names"}
}

// findAnchors collects the certificates that a path may end with: those that a record matches, those that a record holds
// in full, and those that a key in a record signed.
func (v *verification) findAnchors() {
	for _, r := range v.records {
		if r.Usage != UsageDANETA {
			continue
		}
		sent := false
		for i, c := range v.chain {
			if v.matches(r, i) && v.mayAnchor(c) {
				v.add(c, r, i)
				sent = true
			}
		}
		// A certificate that the host does send counts with all that it says, such as its dates.
		if r.Match == MatchFull && !sent {
			v.fromRecord(r)
		}
	}
}

// mayAnchor bars the host's own certificate, at whatever place it is sent, unless it is its own issuer: a DANE-TA(2)
// record names an issuer, and a server's key under another's signature is none.
func (v *verification) mayAnchor(c *x509.Certificate) bool {
	return !bytes.Equal(c.Raw, v.chain[0].Raw) || bytes.Equal(c.RawIssuer, c.RawSubject) && v.signed(c, c.PublicKey)
}

// fromRecord uses a certificate or key that a record holds in full: the host need not send it (RFC 7671 section 5.2.1,
// 5.2.2).
func (v *verification) fromRecord(r Record) {
	if r.Selector == SelectorCert {
		if c, err := x509.ParseCertificate(r.Data); err == nil && v.mayAnchor(c) {
			v.add(c, r, -1)
		}
		return
	}
	key, err := x509.ParsePKIXPublicKey(r.Data)
	if err != nil {
		return
	}
	for _, c := range v.chain {
		if v.anchor(c) == nil && v.signed(c, key) {
			v.add(c, r, -1)
		}
	}
}

// add keeps the first reason to trust c.
func (v *verification) add(c *x509.Certificate, r Record, depth int) {
	if v.anchor(c) == nil && modest(c.PublicKey) {
		v.anchors = append(v.anchors, anchor{r, depth, c})
	}
}

// anchor is c's place among the anchors, or nil.
func (v *verification) anchor(c *x509.Certificate) *anchor {
	for i := range v.anchors {
		if v.anchors[i].cert.Equal(c) {
			return &v.anchors[i]
		}
	}
	return nil
}

// modest says that a signature by key is checked in short time.
func modest(key any) bool {
	k, ok := key.(*rsa.PublicKey)
	return !ok || k.N.BitLen() <= maxRSA
}

// signed says that key made c's signature.
func (v *verification) signed(c *x509.Certificate, key any) bool {
	if v.checks++; v.checks > maxChecks || !modest(key) {
		return false
	}
	// Unlike CheckSignature, CheckSignatureFrom takes no SHA-1.
	issuer := &x509.Certificate{Version: 3, BasicConstraintsValid: true, IsCA: true, PublicKey: key}
	switch key.(type) {
	case *rsa.PublicKey:
		issuer.PublicKeyAlgorithm = x509.RSA
	case *ecdsa.PublicKey:
		issuer.PublicKeyAlgorithm = x509.ECDSA
	case ed25519.PublicKey:
		issuer.PublicKeyAlgorithm = x509.Ed25519
	default:
		return false
	}
	return c.CheckSignatureFrom(issuer) == nil
}

// path finds a valid path from the host's certificate to an anchor.
func (v *verification) path() (*anchor, []*x509.Certificate, error) {
	o := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: v.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range v.anchors {
		o.Roots.AddCert(a.cert)
	}
	for _, c := range v.chain[1:] {
		if modest(c.PublicKey) {
			o.Intermediates.AddCert(c)
		}
	}
	paths, err := v.chain[0].Verify(o)
	if err != nil {
		if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
			return nil, nil, &VerifyError{"dane-expired", "a certificate on the way to the trust anchor is not valid now"}
		}
		return nil, nil, &VerifyError{"dane-path", "the certificate has no valid path to the trust anchor"}
	}
	return v.anchor(paths[0][len(paths[0])-1]), paths[0], nil
}

// named says that the certificate at the beginning of path has name. One without DNS names is known by its common name
// (RFC 7672 section 3.2.3, RFC 6125 section 6.4.4), unless an issuer's name constraints would have to hold for that.
func named(path []*x509.Certificate, name string) bool {
	leaf := path[0]
	if leaf.VerifyHostname(name) == nil {
		return true
	}
	if len(leaf.DNSNames) > 0 || leaf.Subject.CommonName == "" {
		return false
	}
	for _, c := range path {
		if c.PermittedDNSDomainsCritical || len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains) > 0 {
			return false
		}
	}
	return (&x509.Certificate{DNSNames: []string{leaf.Subject.CommonName}}).VerifyHostname(name) == nil
}
