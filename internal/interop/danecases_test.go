//go:build interop

package interop_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
)

// scene is a domain of the laboratory and the host behind it.
type scene struct {
	name, domain, ip string
	far              tls.Certificate
	// rr are its records; {IP} is the host's address.
	rr []string
	// theirs is what posttls-finger says where it must differ from us, and why.
	theirs, why string
}

// book collects scenes.
type book struct {
	*maker
	scenes []scene
}

// setup is what a scene is made of.
type setup struct {
	far         tls.Certificate
	rr          []string
	theirs, why string
}

// add makes a scene in a zone; make gets the name of its domain.
func (b *book) add(zone, name string, make func(d string) setup) {
	n := len(b.scenes)
	d := fmt.Sprintf("d%d.%s", n, zone)
	s := make(d)
	b.scenes = append(b.scenes, scene{name, d, fmt.Sprintf("127.9.%d.%d", 1+n/200, 1+n%200), s.far, s.rr, s.theirs, s.why})
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// tlsa is a record of a certificate, by other code than the library's.
func tlsa(c *certificate, usage, selector, match int) string {
	data := c.Raw
	if selector == 1 {
		data = c.RawSubjectPublicKeyInfo
	}
	switch match {
	case 1:
		d := sha256.Sum256(data)
		data = d[:]
	case 2:
		d := sha512.Sum512(data)
		data = d[:]
	}
	return fmt.Sprintf("%d %d %d %x", usage, selector, match, data)
}

// mx are the records of a domain with one host, mx below it, and TLSA records there.
func mx(d string, records ...string) []string {
	rr := []string{d + ". IN MX 10 mx." + d + ".", "mx." + d + ". IN A {IP}"}
	return append(rr, at("mx."+d, records...)...)
}

func at(host string, records ...string) []string {
	var rr []string
	for _, r := range records {
		rr = append(rr, "_25._tcp."+host+". IN TLSA "+r)
	}
	return rr
}

func named1(names ...string) kin { return kin{names: names} }

// parameters: every usage, selector and matching type, of every certificate, under several chains.
func (b *book) parameters() {
	for usage := range 4 {
		for i := range 6 {
			for _, target := range []string{"leaf", "inter", "root", "other"} {
				if usage < 2 && target != "leaf" && i != 1 {
					continue
				}
				b.add(zoneGood, fmt.Sprintf("%d %d %d of %s", usage, i/3, i%3, target), func(d string) setup {
					f := b.family(named1("mx." + d))
					return setup{far: f.chain("leaf inter root"), rr: mx(d, tlsa(f.by(target), usage, i/3, i%3))}
				})
			}
		}
	}
	for _, shape := range []string{"leaf", "leaf inter", "leaf root", "leaf root inter", "leaf inter inter", "leaf other inter", "leaf leaf inter"} {
		for _, target := range []string{"inter", "root"} {
			for i := range 6 {
				b.add(zoneGood, fmt.Sprintf("2 %d %d of %s, sent %q", i/3, i%3, target, shape), func(d string) setup {
					f := b.family(named1("mx." + d))
					return setup{far: f.chain(shape), rr: mx(d, tlsa(f.by(target), 2, i/3, i%3))}
				})
			}
		}
	}
}

// ownAnchors are hosts with a certificate that nobody else signed.
func (b *book) ownAnchors() {
	for i := range 12 {
		usage := 2 + i/6
		b.add(zoneGood, fmt.Sprintf("%d %d %d of a self-signed certificate", usage, i/3%2, i%3), func(d string) setup {
			c := b.make("", "self", nil, func(c *x509.Certificate) { c.DNSNames = []string{"mx." + d} })
			s := setup{far: tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.key}, rr: mx(d, tlsa(c, usage, i/3%2, i%3))}
			// A key in full they do hold against every signature.
			if usage == 2 && i%6 != 3 {
				s.theirs, s.why = unproved, "OpenSSL looks for anchors from the second certificate on; the owner named this one as issuer, which it is"
			}
			return s
		})
	}
}

// names: what is in the certificate, under both usages.
func (b *book) names() {
	kins := map[string]func(d string) kin{
		"the host":               func(d string) kin { return named1("mx." + d) },
		"the domain":             func(d string) kin { return named1(d) },
		"a wildcard":             func(d string) kin { return named1("*." + d) },
		"a wildcard too low":     func(d string) kin { return named1("*.mx." + d) },
		"part of a label":        func(d string) kin { return named1("m*." + d) },
		"another":                func(d string) kin { return named1("mx.elsewhere.test") },
		"one of many":            func(d string) kin { return named1("a.test", "b.test", "mx."+d) },
		"in capitals":            func(d string) kin { return named1("MX." + strings.ToUpper(d)) },
		"none":                   func(string) kin { return kin{} },
		"a common name":          func(d string) kin { return kin{cn: "mx." + d} },
		"another common name":    func(string) kin { return kin{cn: "mx.elsewhere.test"} },
		"a common name outvoted": func(d string) kin { return kin{cn: "mx." + d, names: []string{"mx.elsewhere.test"}} },
	}
	for _, name := range sorted(kins) {
		k := kins[name]
		for _, usage := range []int{2, 3} {
			b.add(zoneGood, fmt.Sprintf("named %s, usage %d", name, usage), func(d string) setup {
				f := b.family(k(d))
				return setup{far: f.chain("leaf inter"), rr: mx(d, tlsa(f.by(map[int]string{2: "inter", 3: "leaf"}[usage]), usage, 1, 1))}
			})
		}
	}
}

// dates: who has expired, or is not valid yet.
func (b *book) dates() {
	for _, who := range []string{"leaf", "inter", "root"} {
		for _, k := range []kin{{late: who}, {early: who}} {
			for _, r := range []struct {
				target                 string
				usage, selector, match int
			}{{"leaf", 3, 1, 1}, {"leaf", 3, 0, 0}, {"inter", 2, 1, 1}, {"root", 2, 0, 1}, {"root", 2, 0, 0}, {"root", 2, 1, 0}} {
				for _, shape := range []string{"leaf inter", "leaf inter root"} {
					name := fmt.Sprintf("%s late %v early %v, %d %d %d of %s, sent %q", who, k.late != "", k.early != "", r.usage, r.selector, r.match, r.target, shape)
					b.add(zoneGood, name, func(d string) setup {
						k.names = []string{"mx." + d}
						f := b.family(k)
						s := setup{far: f.chain(shape), rr: mx(d, tlsa(f.by(r.target), r.usage, r.selector, r.match))}
						if who == "inter" && r.target == "inter" {
							s.theirs, s.why = verified, "OpenSSL looks at the dates of an anchor only if it is self-signed; we trust none that is not valid now"
						}
						return s
					})
				}
			}
		}
	}
}

// sets: several records, unusable ones, digests beside each other.
func (b *book) sets() {
	good := func(f family, m int) string { return tlsa(f.leaf, 3, 1, m) }
	bad := func(f family, m int) string { return tlsa(f.other, 3, 1, m) }
	many := func(n int, more ...string) func(f family) []string {
		return func(f family) []string {
			rs := more
			for i := range n {
				rs = append(rs, fmt.Sprintf("3 1 1 %064x", i+1))
			}
			return rs
		}
	}
	sets := map[string]func(f family) []string{
		"none":                func(family) []string { return nil },
		"good and bad":        func(f family) []string { return []string{good(f, 1), bad(f, 1)} },
		"bad and good anchor": func(f family) []string { return []string{bad(f, 1), tlsa(f.inter, 2, 0, 1)} },
		"all good": func(f family) []string {
			return []string{good(f, 1), good(f, 2), tlsa(f.leaf, 3, 0, 1), tlsa(f.inter, 2, 1, 1)}
		},
		"all bad":                   func(f family) []string { return []string{bad(f, 1), tlsa(f.other, 2, 0, 1), tlsa(f.root, 3, 1, 1)} },
		"agility against us":        func(f family) []string { return []string{good(f, 1), bad(f, 2)} },
		"agility for us":            func(f family) []string { return []string{bad(f, 1), good(f, 2)} },
		"agility, another selector": func(f family) []string { return []string{good(f, 1), tlsa(f.other, 3, 0, 2)} },
		"agility, another usage":    func(f family) []string { return []string{good(f, 1), tlsa(f.other, 2, 1, 2)} },
		"agility, full":             func(f family) []string { return []string{good(f, 0), bad(f, 2)} },
		"agility, malformed":        func(f family) []string { return []string{good(f, 1), bad(f, 2)[:100]} },
		"PKIX-EE beside":            func(f family) []string { return []string{good(f, 1), tlsa(f.leaf, 1, 1, 1)} },
		"PKIX-TA alone":             func(f family) []string { return []string{tlsa(f.root, 0, 0, 1), tlsa(f.inter, 0, 0, 1)} },
		"PKIX both":                 func(f family) []string { return []string{tlsa(f.leaf, 1, 1, 1), tlsa(f.root, 0, 1, 1)} },
		"a usage to come":           func(f family) []string { return []string{"4" + good(f, 1)[1:]} },
		"a private usage":           func(f family) []string { return []string{"255" + good(f, 1)[1:]} },
		"a selector to come":        func(f family) []string { return []string{"3 2" + good(f, 1)[3:]} },
		"a digest to come":          func(f family) []string { return []string{"3 1 3" + good(f, 1)[5:]} },
		"a short digest":            func(f family) []string { return []string{good(f, 1)[:60]} },
		"a long digest":             func(f family) []string { return []string{good(f, 1) + "00"} },
		"the wrong digest":          func(f family) []string { return []string{"3 1 2" + good(f, 1)[5:]} },
		"no certificate":            func(family) []string { return []string{"3 0 0 00ff00ff"} },
		"no key":                    func(family) []string { return []string{"2 1 0 00ff00ff"} },
		"a certificate cut":         func(f family) []string { r := tlsa(f.leaf, 3, 0, 0); return []string{r[:len(r)-2]} },
		"a certificate and more":    func(f family) []string { return []string{tlsa(f.leaf, 3, 0, 0) + "00"} },
		"a key and more":            func(f family) []string { return []string{tlsa(f.root, 2, 1, 0) + "00"} },
		"a key for a certificate":   func(f family) []string { return []string{"3 0" + tlsa(f.leaf, 3, 1, 0)[3:]} },
		"a certificate for a key":   func(f family) []string { return []string{"3 1" + tlsa(f.leaf, 3, 0, 0)[3:]} },
		"unusable beside good":      func(f family) []string { return []string{"0 0 0 00", "3 9 1 00", good(f, 1)} },
		"unusable beside bad":       func(f family) []string { return []string{"0 0 0 00", bad(f, 1)} },
		"enough for TCP, one good":  func(f family) []string { return many(50, good(f, 1))(f) },
		"enough for TCP, none good": many(50),
		"full certificates, one good": func(f family) []string {
			return []string{tlsa(f.other, 3, 0, 0), tlsa(f.other, 2, 0, 0), tlsa(f.root, 3, 0, 0), tlsa(f.leaf, 3, 0, 0)}
		},
		"an anchor too many": func(f family) []string { return []string{tlsa(f.other, 2, 0, 0), tlsa(f.root, 2, 0, 0)} },
		"keys too many": func(f family) []string {
			return []string{tlsa(f.other, 2, 1, 0), tlsa(f.root, 2, 1, 0), tlsa(f.leaf, 2, 1, 0)}
		},
	}
	for _, name := range sorted(sets) {
		records := sets[name]
		b.add(zoneGood, "set: "+name, func(d string) setup {
			f := b.family(named1("mx." + d))
			return setup{far: f.chain("leaf inter"), rr: mx(d, records(f)...)}
		})
	}
}

// paths: what makes a chain no path, and kinds of keys.
func (b *book) paths() {
	notCA := func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }
	noPath := func(c *x509.Certificate) { c.MaxPathLenZero = true }
	bound := func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"elsewhere.test"}
	}
	client := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	kins := map[string]kin{
		"an issuer that is none": {interCA: notCA},
		"an anchor that is none": {rootCA: notCA},
		"too long":               {rootCA: noPath},
		"name constraints":       {interCA: bound},
		"for clients":            {leafChange: client},
		"for servers":            {leafChange: server},
		"an issuer for clients":  {interCA: client},
		"RSA":                    {keys: "rsa"},
		"P-384":                  {keys: "p384"},
		"Ed25519":                {keys: "ed25519"},
	}
	by := map[string][3]int{"root": {2, 0, 1}, "inter": {2, 1, 1}, "leaf": {3, 1, 1}}
	for _, name := range sorted(kins) {
		for _, target := range sorted(by) {
			k, r := kins[name], by[target]
			b.add(zoneGood, fmt.Sprintf("path: %s, by %s", name, target), func(d string) setup {
				k.names = []string{"mx." + d}
				f := b.family(k)
				return setup{far: f.chain("leaf inter root"), rr: mx(d, tlsa(f.by(target), r[0], r[1], r[2]))}
			})
		}
	}
}

// aliases: of the host, of the domain, of the records; and domains without MX records.
func (b *book) aliases() {
	type layout struct {
		name string
		rr   func(d string, records []string) []string
		// good are the names in a certificate that is right for the layout.
		good []string
	}
	host := func(d, target string) []string {
		return []string{d + ". IN MX 10 mx." + d + ".", "mx." + d + ". IN CNAME " + target + "."}
	}
	address := func(name string) string { return name + ". IN A {IP}" }
	plain := func(d string) string { return strings.TrimSuffix(d, ".test") + "." + zonePlain }
	bogus := func(d string) string { return strings.TrimSuffix(d, ".test") + "." + zoneBogus }
	child := func(d string) string { return strings.TrimSuffix(d, ".test") + "." + zoneChild }
	wrong := func(r []string) []string { return []string{"3 1 1 " + strings.Repeat("00", 32)} }
	layouts := []layout{
		{"host alias, records at its end", func(d string, r []string) []string {
			return append(append(host(d, "real."+d), address("real."+d)), at("real."+d, r...)...)
		}, []string{"real.", ""}},
		{"host alias, records at its beginning", func(d string, r []string) []string {
			return append(append(host(d, "real."+d), address("real."+d)), at("mx."+d, r...)...)
		}, []string{"mx.", ""}},
		{"host alias, records at both", func(d string, r []string) []string {
			return append(append(append(host(d, "real."+d), address("real."+d)), at("real."+d, r...)...), at("mx."+d, wrong(r)...)...)
		}, []string{"real.", ""}},
		{"host alias, wrong records at its end", func(d string, r []string) []string {
			return append(append(append(host(d, "real."+d), address("real."+d)), at("real."+d, wrong(r)...)...), at("mx."+d, r...)...)
		}, nil},
		{"host alias, unusable records at its end", func(d string, r []string) []string {
			return append(append(append(host(d, "real."+d), address("real."+d)), at("real."+d, "0 0 0 00")...), at("mx."+d, r...)...)
		}, nil},
		{"two aliases", func(d string, r []string) []string {
			return append(append(host(d, "mid."+d), "mid."+d+". IN CNAME real."+d+".", address("real."+d)), at("real."+d, r...)...)
		}, []string{"real."}},
		{"two aliases, records in the middle", func(d string, r []string) []string {
			return append(append(host(d, "mid."+d), "mid."+d+". IN CNAME real."+d+".", address("real."+d)), at("mid."+d, r...)...)
		}, nil},
		{"host alias into another zone", func(d string, r []string) []string {
			return append(append(host(d, "real."+child(d)), address("real."+child(d))), at("real."+child(d), r...)...)
		}, []string{""}},
		{"host alias out of DNSSEC, records at its beginning", func(d string, r []string) []string {
			return append(append(host(d, "real."+plain(d)), address("real."+plain(d))), at("mx."+d, r...)...)
		}, []string{"mx.", ""}},
		{"host alias out of DNSSEC, records at its end", func(d string, r []string) []string {
			return append(append(host(d, "real."+plain(d)), address("real."+plain(d))), at("real."+plain(d), r...)...)
		}, nil},
		{"host alias to bogus", func(d string, r []string) []string {
			return append(append(host(d, "real."+bogus(d)), address("real."+bogus(d))), at("mx."+d, r...)...)
		}, nil},
		{"host in another zone", func(d string, r []string) []string {
			return append([]string{d + ". IN MX 10 real." + child(d) + ".", address("real." + child(d))}, at("real."+child(d), r...)...)
		}, []string{""}},
		{"host out of DNSSEC", func(d string, r []string) []string {
			return append([]string{d + ". IN MX 10 real." + plain(d) + ".", address("real." + plain(d))}, at("real."+plain(d), r...)...)
		}, nil},
		{"host bogus", func(d string, r []string) []string {
			return append([]string{d + ". IN MX 10 real." + bogus(d) + ".", address("real." + bogus(d))}, at("real."+bogus(d), r...)...)
		}, nil},
		{"no MX", func(d string, r []string) []string { return append([]string{address(d)}, at(d, r...)...) }, []string{""}},
		{"no MX, records at mx", func(d string, r []string) []string { return append([]string{address(d)}, at("mx."+d, r...)...) }, nil},
		{"no MX, an alias, records at its end", func(d string, r []string) []string {
			return append([]string{d + ". IN CNAME main." + d + ".", address("main." + d)}, at("main."+d, r...)...)
		}, []string{"main."}},
		{"no MX, an alias, records at its beginning", func(d string, r []string) []string {
			return append([]string{d + ". IN CNAME main." + d + ".", address("main." + d)}, at(d, r...)...)
		}, []string{""}},
		{"domain alias", func(d string, r []string) []string {
			return append([]string{d + ". IN CNAME main." + d + ".", "main." + d + ". IN MX 1 mx." + d + ".", address("mx." + d)}, at("mx."+d, r...)...)
		}, []string{"mx.", "", "main."}},
		{"domain alias from out of DNSSEC", func(d string, r []string) []string {
			return append([]string{d + ". IN CNAME main." + plain(d) + ".", "main." + plain(d) + ". IN MX 1 mx." + d + ".", address("mx." + d)}, at("mx."+d, r...)...)
		}, nil},
		{"records behind an alias", func(d string, r []string) []string {
			rr := append(mx(d), "_25._tcp.mx."+d+". IN CNAME tlsa."+d+".")
			for _, x := range r {
				rr = append(rr, "tlsa."+d+". IN TLSA "+x)
			}
			return rr
		}, []string{"mx."}},
		{"records behind an alias out of DNSSEC", func(d string, r []string) []string {
			rr := append(mx(d), "_25._tcp.mx."+d+". IN CNAME tlsa."+plain(d)+".")
			for _, x := range r {
				rr = append(rr, "tlsa."+plain(d)+". IN TLSA "+x)
			}
			return rr
		}, nil},
		{"records behind an alias to bogus", func(d string, r []string) []string {
			rr := append(mx(d), "_25._tcp.mx."+d+". IN CNAME tlsa."+bogus(d)+".")
			for _, x := range r {
				rr = append(rr, "tlsa."+bogus(d)+". IN TLSA "+x)
			}
			return rr
		}, nil},
		{"records of a wildcard", func(d string, r []string) []string {
			rr := mx(d)
			for _, x := range r {
				rr = append(rr, "*.mx."+d+". IN TLSA "+x)
			}
			return rr
		}, []string{"mx."}},
		{"records at another port", func(d string, r []string) []string {
			rr := mx(d)
			for _, x := range r {
				rr = append(rr, "_465._tcp.mx."+d+". IN TLSA "+x)
			}
			return rr
		}, nil},
	}
	for _, l := range layouts {
		b.add(zoneGood, l.name+", by key", func(d string) setup {
			f := b.family(kin{})
			return setup{far: f.chain("leaf"), rr: l.rr(d, []string{tlsa(f.leaf, 3, 1, 1)})}
		})
		for _, prefix := range append(l.good, "elsewhere.") {
			b.add(zoneGood, l.name+", by anchor, named "+prefix, func(d string) setup {
				f := b.family(named1(prefix + d))
				return setup{far: f.chain("leaf inter"), rr: l.rr(d, []string{tlsa(f.inter, 2, 0, 1)})}
			})
		}
	}
}

// postfix: the real hosts, whose certificates are in dir.
func (b *book) postfix(dir string) {
	read := func(name string) *certificate {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(b.t, err)
		block, _ := pem.Decode(text)
		c, err := x509.ParseCertificate(block.Bytes)
		require.NoError(b.t, err)
		return &certificate{Certificate: c}
	}
	ca, host := read("ca.pem"), read("mx.named.test.pem")
	for _, s := range []scene{
		{domain: named, ip: "127.0.0.2", rr: mx(named, tlsa(ca, 2, 0, 0))},
		{domain: wrong, ip: "127.0.0.3", rr: mx(wrong, tlsa(ca, 2, 0, 0), tlsa(host, 3, 1, 1))},
		{domain: "key.test", ip: "127.0.0.2", rr: mx("key.test", tlsa(host, 3, 1, 1))},
		{domain: "cert.test", ip: "127.0.0.2", rr: mx("cert.test", tlsa(host, 3, 0, 2))},
		{domain: "missing.test", ip: "127.0.0.2", rr: mx("missing.test", tlsa(ca, 2, 0, 1))},
		{domain: "issuer.test", ip: "127.0.0.2", rr: []string{"issuer.test. IN MX 1 mx." + named + "."}},
	} {
		s.name = "Postfix at " + s.domain
		b.scenes = append(b.scenes, s)
	}
}

// signatures: the same domain in each zone.
func (b *book) signatures() {
	for _, zone := range []string{zoneChild, zoneNSEC3, zonePlain, zoneBogus, zoneExpired, zoneTLSA, zoneMX, zoneAddress, zoneDenial} {
		setups := map[string]func(d string) setup{
			"by key": func(d string) setup {
				f := b.family(kin{})
				return setup{far: f.chain("leaf"), rr: mx(d, tlsa(f.leaf, 3, 1, 1))}
			},
			"by another key": func(d string) setup {
				f := b.family(kin{})
				return setup{far: f.chain("leaf"), rr: mx(d, tlsa(f.other, 3, 1, 1))}
			},
			"by anchor": func(d string) setup {
				f := b.family(named1("mx." + d))
				return setup{far: f.chain("leaf inter"), rr: mx(d, tlsa(f.root, 2, 0, 0))}
			},
			"unusable": func(d string) setup {
				f := b.family(named1("mx." + d))
				return setup{far: f.chain("leaf inter"), rr: mx(d, tlsa(f.root, 0, 0, 1))}
			},
			"no records": func(d string) setup {
				f := b.family(named1("mx." + d))
				return setup{far: f.chain("leaf inter"), rr: mx(d)}
			},
			"no MX": func(d string) setup {
				f := b.family(kin{})
				return setup{far: f.chain("leaf"), rr: append([]string{d + ". IN A {IP}"}, at(d, tlsa(f.leaf, 3, 1, 1))...)}
			},
			"an alias": func(d string) setup {
				f := b.family(kin{})
				return setup{far: f.chain("leaf"), rr: append([]string{d + ". IN MX 1 mx." + d + ".", "mx." + d + ". IN CNAME real." + d + ".", "real." + d + ". IN A {IP}"},
					at("mx."+d, tlsa(f.leaf, 3, 1, 1))...)}
			},
		}
		for _, name := range sorted(setups) {
			b.add(zone, zone+": "+name, setups[name])
		}
	}
}
