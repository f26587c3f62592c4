package dane_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dane"
)

// family is a root, an intermediate and a leaf. Dates are "", "late" (expired) or "early" (not valid yet).
type family struct {
	root, inter, leaf, other *pair
}

type dates struct{ root, inter, leaf string }

func (d dates) of(s string) spec {
	switch s {
	case "late":
		return spec{from: now.Add(-2 * time.Hour), to: now.Add(-time.Hour)}
	case "early":
		return spec{from: now.Add(time.Hour), to: now.Add(2 * time.Hour)}
	}
	return spec{}
}

func newFamily(d dates, names []string) family {
	var f family
	s := d.of(d.root)
	s.subject, s.ca = "Root", true
	f.root = s.make()
	s = d.of(d.inter)
	s.subject, s.ca, s.issuer = "Inter", true, f.root
	f.inter = s.make()
	s = d.of(d.leaf)
	s.subject, s.names, s.issuer = "Leaf", names, f.inter
	f.leaf = s.make()
	f.other = spec{subject: "Other", ca: true}.make()
	return f
}

func (f family) by(name string) *pair {
	return map[string]*pair{"root": f.root, "inter": f.inter, "leaf": f.leaf, "other": f.other}[name]
}

// The chains that a host may send; the first is always the leaf.
var shapes = []string{"leaf", "leaf inter", "leaf inter root", "leaf root inter", "leaf root", "leaf other", "leaf inter other", "leaf leaf inter"}

// TestChains goes through every usage, selector and matching type, for a record of each certificate, under every chain,
// name and date, and holds the verdict against the rules as expectChain words them.
func TestChains(t *testing.T) {
	names := map[string]bool{ // may a DANE-TA(2) certificate have it?
		"real.test": true, "mx.test": true, "dom.test": true, "main.test": true, "*.test": true,
		"evil.test.example": false, "sub.mx.test": false, "*.mx.test": false, "": false,
	}
	n := 0
	for _, d := range []dates{{}, {leaf: "late"}, {inter: "late"}, {root: "late"}, {leaf: "early"}, {inter: "early"}} {
		for name, nameOK := range names {
			var sans []string
			if name != "" {
				sans = []string{name}
			}
			f := newFamily(d, sans)
			for _, shape := range shapes {
				var chain []*x509.Certificate
				for _, who := range strings.Fields(shape) {
					chain = append(chain, f.by(who).Certificate)
				}
				for _, target := range []string{"root", "inter", "leaf", "other"} {
					for i := range 2 * 2 * 3 {
						usage, selector, match := uint8(2+i/6), uint8(i/3%2), uint8(i%3)
						r := record(f.by(target).Certificate, usage, selector, match)
						m, err := policy(r).Verify(chain, clock())
						want := expectChain(d, nameOK, shape, target, [3]uint8{usage, selector, match})
						what := fmt.Sprintf("%d %d %d of %s, sent %q, %q, %+v", usage, selector, match, target, shape, name, d)
						if want != "" {
							e := &dane.VerifyError{}
							require.ErrorAs(t, err, &e, what)
							require.Equal(t, want, e.Rule, what)
							require.Equal(t, dane.Match{}, m, what)
						} else {
							require.NoError(t, err, what)
							require.Equal(t, r, m.Record, what)
							require.NotEmpty(t, m.Findings, what)
							require.Equal(t, usage == 2, m.Name != "", what)
							if m.Depth >= 0 {
								require.Equal(t, r, record(chain[m.Depth], usage, selector, match), what)
							}
						}
						n++
					}
				}
			}
		}
	}
	require.Equal(t, 6*9*8*4*12, n)
}

// expectChain is the rule that refuses, or "" for a match.
func expectChain(d dates, nameOK bool, shape, target string, r [3]uint8) string {
	if r[0] == 3 {
		if target == "leaf" {
			return ""
		}
		return "dane-no-match"
	}
	sent := func(who string) bool { return strings.Contains(shape+" ", " "+who+" ") }
	full, byKey := r[2] == 0, r[1] == 1
	var path []string
	switch {
	case target == "leaf":
		return "dane-no-match" // no issuer of anything
	case target == "other" && (sent("other") || full && !byKey): // what leads nowhere may be called late
		path = []string{"leaf"}
		for _, who := range []string{"inter", "root"} {
			if sent("inter") && sent(who) {
				path = append(path, who)
			}
		}
		path = append(path, "")
	case target == "other":
		return "dane-no-match"
	case target == "inter" && (sent("inter") || full && !byKey):
		path = []string{"leaf", "inter"}
	case target == "inter" && full: // the key signed the leaf
		path = []string{"leaf"}
	case target == "root" && (sent("root") || full && !byKey):
		path = []string{"leaf", "inter", "root"}
		if !sent("inter") {
			path = []string{"leaf", ""}
		}
	case target == "root" && full && sent("inter"): // the key signed the intermediate
		path = []string{"leaf", "inter"}
	default:
		return "dane-no-match"
	}
	for _, who := range path {
		if who == "" { // a gap
			return "dane-path"
		}
		if map[string]string{"leaf": d.leaf, "inter": d.inter, "root": d.root}[who] != "" {
			return "dane-expired"
		}
	}
	if !nameOK {
		return "dane-name"
	}
	return ""
}

// A self-signed certificate is its own issuer; another's is not, at whatever place it is sent.
func TestOwnAnchor(t *testing.T) {
	self := spec{subject: "Self", names: []string{"mx.test"}}.make()
	f := newFamily(dates{}, []string{"mx.test"})
	for i := range 6 {
		selector, match := uint8(i/3), uint8(i%3)
		r := record(self.Certificate, 2, selector, match)
		m, err := policy(r).Verify(certs(self), clock())
		require.NoError(t, err, r)
		require.Equal(t, 0, m.Depth)
		_, err = policy(record(f.leaf.Certificate, 2, selector, match)).Verify(certs(f.leaf, f.leaf, f.inter), clock())
		require.Error(t, err, r)
	}
	late := spec{subject: "Self", names: []string{"mx.test"}, to: now.Add(-time.Minute)}.make()
	_, err := policy(record(late.Certificate, 2, 1, 1)).Verify(certs(late), clock())
	require.ErrorContains(t, err, "not valid now")
	_, err = policy(record(late.Certificate, 3, 1, 1)).Verify(certs(late), clock())
	require.NoError(t, err)
	// A claim to be one's own issuer is not enough.
	liar := spec{subject: "Inter", key: "Leaf", names: []string{"mx.test"}, issuer: f.inter}.make()
	_, err = policy(record(liar.Certificate, 2, 1, 1)).Verify(certs(liar), clock())
	require.ErrorContains(t, err, "no TLSA record matches")
}

func TestSeveralRecords(t *testing.T) {
	f := newFamily(dates{}, []string{"mx.test"})
	other := record(f.other.Certificate, 3, 1, 1)
	ta, ee := record(f.root.Certificate, 2, 0, 1), record(f.leaf.Certificate, 3, 1, 1)
	for name, c := range map[string]struct {
		rs   []dane.Record
		want dane.Record
	}{
		"the second matches":          {[]dane.Record{other, ee}, ee},
		"a key to come":               {[]dane.Record{ee, other}, ee},
		"an anchor beside":            {[]dane.Record{other, ta}, ta},
		"the key goes first":          {[]dane.Record{ta, ee}, ee},
		"unusable ones in between":    {[]dane.Record{{Usage: 0, Selector: 0, Match: 0, Data: []byte{1}}, ta}, ta},
		"the same anchor twice":       {[]dane.Record{ta, record(f.root.Certificate, 2, 1, 1)}, ta},
		"the first anchor goes wrong": {[]dane.Record{record(f.other.Certificate, 2, 0, 0), ta}, ta},
	} {
		m, err := policy(c.rs...).Verify(certs(f.leaf, f.inter, f.root), clock())
		require.NoError(t, err, name)
		require.Equal(t, c.want, m.Record, name)
	}
}

// RFC 6125 section 6.4.4: the common name, where there is no DNS name.
func TestCommonName(t *testing.T) {
	root := spec{subject: "Root", ca: true}.make()
	bound := spec{subject: "Bound", ca: true, issuer: root, change: func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"elsewhere.example"}
	}}.make()
	for name, c := range map[string]struct {
		cn     string
		sans   []string
		issuer *pair
		ok     bool
	}{
		"common name":                        {"mx.test", nil, root, true},
		"in capitals":                        {"MX.Test", nil, root, true},
		"wildcard":                           {"*.test", nil, root, true},
		"another":                            {"evil.example", nil, root, false},
		"beside a DNS name":                  {"mx.test", []string{"evil.example"}, root, false},
		"no host name":                       {"Mail Server", nil, root, false},
		"under an issuer bound to elsewhere": {"mx.test", nil, bound, false},
	} {
		leaf := spec{subject: c.cn, names: c.sans, issuer: c.issuer}.make()
		_, err := policy(record(c.issuer.Certificate, 2, 0, 1)).Verify(certs(leaf, c.issuer), clock())
		require.Equal(t, c.ok, err == nil, name)
	}
}

// What makes a path no path, besides a missing link.
func TestBadPaths(t *testing.T) {
	root := spec{subject: "Root", ca: true}.make()
	mx := []string{"mx.test"}
	notCA := spec{subject: "NotCA", issuer: root}.make()
	short := spec{subject: "Short", ca: true, change: func(c *x509.Certificate) { c.MaxPathLenZero = true }}.make()
	below := spec{subject: "Below", ca: true, issuer: short}.make()
	bound := spec{subject: "Bound", ca: true, issuer: root, change: func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"elsewhere.example"}
	}}.make()
	imposter := spec{subject: "Root", key: "Imposter", ca: true}.make()
	for name, c := range map[string]struct {
		chain  []*pair
		anchor *pair
	}{
		"an issuer that may not issue": {[]*pair{spec{subject: "L", names: mx, issuer: notCA}.make(), notCA, root}, root},
		"an anchor that may not issue": {[]*pair{spec{subject: "L", names: mx, issuer: notCA}.make(), notCA}, notCA},
		"too long":                     {[]*pair{spec{subject: "L", names: mx, issuer: below}.make(), below, short}, short},
		"name constraints":             {[]*pair{spec{subject: "L", names: mx, issuer: bound}.make(), bound, root}, root},
		"for clients only": {[]*pair{spec{subject: "L", names: mx, issuer: root, change: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}}.make(), root}, root},
		"an issuer of the same name": {[]*pair{spec{subject: "L", names: mx, issuer: imposter}.make(), root}, root},
	} {
		for selector := range uint8(2) {
			_, err := policy(record(c.anchor.Certificate, 2, selector, 1)).Verify(certs(c.chain...), clock())
			e := &dane.VerifyError{}
			require.ErrorAs(t, err, &e, name)
			require.Equal(t, "dane-path", e.Rule, name)
		}
	}
}

func TestNotUsable(t *testing.T) {
	f := newFamily(dates{}, []string{"mx.test"})
	ee := []dane.Record{record(f.leaf.Certificate, 3, 1, 1)}
	for _, s := range []dane.State{dane.Unknown, dane.None, dane.Unusable} {
		_, err := dane.Policy{State: s, Records: ee}.Verify(certs(f.leaf), clock())
		require.ErrorContains(t, err, "no TLSA record to verify against")
	}
	for _, chain := range [][]*x509.Certificate{nil, {}} {
		_, err := policy(ee...).Verify(chain, clock())
		require.ErrorContains(t, err, "no certificate")
	}
	// Without a clock it is the present one, by which all of these have ended or not begun.
	_, err := policy(record(f.leaf.Certificate, 3, 1, 1)).Verify(certs(f.leaf), nil)
	require.NoError(t, err)
	_, err = policy(record(f.inter.Certificate, 2, 1, 1)).Verify(certs(f.leaf, f.inter), nil)
	require.ErrorContains(t, err, "not valid now")
}

// A key in a record that signs nothing, or that we can't use, proves nothing.
func TestBareKeys(t *testing.T) {
	f := newFamily(dates{}, []string{"mx.test"})
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.test"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}, &x509.Certificate{Subject: f.root.Subject}, key("Leaf").Public(), k)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	require.NoError(t, err)
	m, err := policy(dane.Record{Usage: 2, Selector: 1, Match: 0, Data: spki}).Verify([]*x509.Certificate{leaf}, clock())
	require.NoError(t, err)
	require.Equal(t, -1, m.Depth)
	_, err = policy(dane.Record{Usage: 2, Selector: 1, Match: 0, Data: spki}).Verify(certs(f.leaf, f.inter), clock())
	require.ErrorContains(t, err, "no TLSA record matches")
}
