package smtp_test

import (
	"crypto/tls"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/smtp"
)

// everything calls f with the full product of what Decide can be told, one value beyond each range too.
func everything(f func(k smtp.Knowledge)) {
	for floor := range securemail.ChannelAny + 2 {
		for ratchet := range securemail.ChannelAny + 2 {
			for d := range dane.Unusable + 2 {
				for sts := range smtp.STSEnforce + 2 {
					for hop := range securemail.HopFinal + 2 {
						for mode := range smtp.RequireTLSOffered + 2 {
							for bits := range 1 << 8 {
								bit := func(n int) bool { return bits&(1<<n) != 0 }
								f(smtp.Knowledge{
									Host: "mx.test", Floor: floor, Ratchet: ratchet, RatchetUnknown: bit(0), DANE: d, STS: sts,
									STSMatch: bit(1), STSCached: bit(2), Signed: bit(3), Pinned: bit(4), Hop: hop,
									RequireTLS: bit(5), Mode: mode, TLSOptional: bit(6), Configured: bit(7),
								})
							}
						}
					}
				}
			}
		}
	}
}

// deaf says that the sender gave up all policies, and is allowed to.
func deaf(k smtp.Knowledge) bool { return k.TLSOptional && k.Floor == anyway && !k.RequireTLS }

// failOpen are the cells that must not exist: each names what would be wrong if its terms were to deliver.
var failOpen = []struct {
	name string
	open func(k smtp.Knowledge, t smtp.Terms) bool
}{
	{"a floor that does not exist", func(k smtp.Knowledge, _ smtp.Terms) bool { return k.Floor > anyway }},
	{"terms below the floor", func(k smtp.Knowledge, t smtp.Terms) bool { return t.Least > k.Floor }},
	{"terms below the ratchet", func(k smtp.Knowledge, t smtp.Terms) bool { return k.Floor != anyway && t.Least > k.Ratchet }},
	{"an unknown ratchet", func(k smtp.Knowledge, _ smtp.Terms) bool {
		return k.Floor != anyway && (k.RatchetUnknown || k.Ratchet > anyway)
	}},
	{"unknown DANE", func(k smtp.Knowledge, _ smtp.Terms) bool {
		return !deaf(k) && (k.DANE == dane.Unknown || k.DANE > dane.Unusable)
	}},
	{"unknown MTA-STS", func(k smtp.Knowledge, _ smtp.Terms) bool {
		return !deaf(k) && (k.STS == smtp.STSUnknown || k.STS > smtp.STSEnforce)
	}},
	{"TLSA records that do not bind", func(k smtp.Knowledge, t smtp.Terms) bool {
		return !deaf(k) && k.DANE == dane.Usable && !(t.DANE && t.Least == verified)
	}},
	{"unusable TLSA records and clear text", func(k smtp.Knowledge, t smtp.Terms) bool {
		return !deaf(k) && k.DANE == dane.Unusable && t.Least > encrypted
	}},
	{"a host outside the enforced policy", func(k smtp.Knowledge, _ smtp.Terms) bool {
		return !deaf(k) && k.STS == smtp.STSEnforce && !k.STSMatch
	}},
	{"an enforced policy that does not bind", func(k smtp.Knowledge, t smtp.Terms) bool {
		return !deaf(k) && k.STS == smtp.STSEnforce && !(t.STS && t.Least == verified)
	}},
	{"MTA-STS in place of DANE", func(k smtp.Knowledge, t smtp.Terms) bool {
		return !deaf(k) && k.STS == smtp.STSEnforce && k.DANE == dane.Usable && !(t.STS && t.DANE)
	}},
	{"a relay that nobody vouches for", func(k smtp.Knowledge, t smtp.Terms) bool {
		return t.Least != anyway && k.Hop != securemail.HopFinal && k.Hop != securemail.HopAsserted
	}},
	{"a pin that is not asked for", func(k smtp.Knowledge, t smtp.Terms) bool { return k.Pinned && t.Least != anyway && !t.Pin }},
	{"verified without a source of proof", func(k smtp.Knowledge, t smtp.Terms) bool {
		return t.Least == verified && !t.Pin && !t.DANE && !t.STS && !k.Signed && !k.Configured
	}},
	{"a proof that is too weak", func(k smtp.Knowledge, t smtp.Terms) bool {
		w := securemail.Wire{TLS: goodTLS, Proof: t.Proof, Hop: securemail.HopFinal}
		return !w.Meets(t.Least)
	}},
	{"REQUIRETLS without the extension", func(k smtp.Knowledge, t smtp.Terms) bool {
		strict := k.Mode != smtp.RequireTLSOffered && k.Mode != smtp.RequireTLSEncrypted
		return k.RequireTLS && strict && !(t.RequireTLS && t.Least == verified)
	}},
	{"REQUIRETLS in the clear", func(k smtp.Knowledge, t smtp.Terms) bool {
		return k.RequireTLS && k.Mode != smtp.RequireTLSOffered && t.Least > encrypted
	}},
	{"TLS-Required: No that frees more than it may", func(k smtp.Knowledge, t smtp.Terms) bool {
		return deaf(k) && t.Least != anyway
	}},
}

var goodTLS = &securemail.TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256}

func TestDecideHasNoFailOpenCell(t *testing.T) {
	seen := map[smtp.Verdict]int{}
	everything(func(k smtp.Knowledge) {
		terms := smtp.Decide(k)
		seen[terms.Verdict]++
		if terms.Verdict != smtp.VerdictDeliver {
			if len(terms.Reasons) == 0 {
				t.Fatalf("no reason: %+v", k)
			}
			return
		}
		for _, c := range failOpen {
			if c.open(k, terms) {
				t.Fatalf("%s: %+v gives %+v", c.name, k, terms)
			}
		}
	})
	for _, v := range []smtp.Verdict{smtp.VerdictDefer, smtp.VerdictRefuse, smtp.VerdictDeliver} {
		require.NotZero(t, seen[v])
	}
}

// sessions are all that a session can show.
func sessions(f func(w securemail.Wire, s smtp.Shown)) {
	for _, facts := range []*securemail.TLSFacts{nil, goodTLS, {Version: tls.VersionTLS10, Suite: tls.TLS_RSA_WITH_RC4_128_SHA}} {
		for _, proof := range []securemail.Proof{"", securemail.ProofPKIX, securemail.ProofDNSSEC, securemail.ProofSTS, securemail.ProofDANE, securemail.ProofConfigured} {
			for bits := range 1 << 4 {
				bit := func(n int) bool { return bits&(1<<n) != 0 }
				f(securemail.Wire{TLS: facts, Proof: proof, Hop: securemail.HopFinal},
					smtp.Shown{DANE: bit(0), PKIX: bit(1), Pin: bit(2), RequireTLS: bit(3)})
			}
		}
	}
}

// A session passes only with all that its terms ask for; a stricter floor never lets more pass.
func TestSessionsAgainstTerms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := knowledge(t)
		laxer := k
		laxer.Floor = securemail.Channel(rapid.IntRange(int(k.Floor), int(anyway)).Draw(t, "laxer"))
		strict, lax := smtp.Decide(k), smtp.Decide(laxer)
		sessions(func(w securemail.Wire, s smtp.Shown) {
			pass := smtp.Missed(strict, w, s) == ""
			if pass && smtp.Missed(lax, w, s) != "" {
				t.Fatalf("%+v passes %+v but not %+v", s, strict, lax)
			}
			if !pass {
				return
			}
			switch {
			case strict.Verdict != smtp.VerdictDeliver, !w.Meets(k.Floor):
				t.Fatalf("%+v passes %+v", s, strict)
			case strict.DANE && !(w.TLS != nil && s.DANE), strict.STS && !(w.TLS != nil && s.PKIX), strict.Pin && !(w.TLS != nil && s.Pin):
				t.Fatalf("%+v passes %+v", s, strict)
			case strict.RequireTLS && !s.RequireTLS:
				t.Fatalf("%+v passes %+v", s, strict)
			}
		})
	})
}

func knowledge(t *rapid.T) smtp.Knowledge {
	channel := rapid.Map(rapid.IntRange(0, int(anyway)), func(i int) securemail.Channel { return securemail.Channel(i) })
	bit := rapid.Bool()
	return smtp.Knowledge{
		Host: "mx.test", Floor: channel.Draw(t, "floor"), Ratchet: channel.Draw(t, "ratchet"),
		DANE:     dane.State(rapid.IntRange(int(dane.None), int(dane.Unusable)).Draw(t, "dane")),
		STS:      smtp.STSState(rapid.IntRange(int(smtp.STSNone), int(smtp.STSEnforce)).Draw(t, "sts")),
		STSMatch: bit.Draw(t, "match"), Signed: bit.Draw(t, "signed"), Pinned: bit.Draw(t, "pinned"), Hop: securemail.HopFinal,
		RequireTLS: bit.Draw(t, "requiretls"), Mode: smtp.RequireTLSMode(rapid.IntRange(0, 2).Draw(t, "mode")),
		// Not TLSOptional: it is the one switch that a stricter floor turns off, so nothing is monotone around it.
	}
}

// The verdict itself is monotone in the floor: what a strict floor lets pass, a lax one does.
func TestVerdictIsMonotoneInTheFloor(t *testing.T) {
	everything(func(k smtp.Knowledge) {
		if k.Floor == 0 || k.Floor > anyway {
			return
		}
		strict := k
		strict.Floor--
		a, b := smtp.Decide(strict), smtp.Decide(k)
		if a.Verdict > b.Verdict || b.Verdict == smtp.VerdictDeliver && a.Verdict == smtp.VerdictDeliver && a.Least > b.Least {
			t.Fatalf("%+v: %+v, but a floor lower %+v", k, a, b)
		}
	})
}

// Some rows to read.
func TestDecide(t *testing.T) {
	base := smtp.Knowledge{Host: "mx.test", Ratchet: anyway, DANE: dane.None, STS: smtp.STSNone, Hop: securemail.HopFinal}
	for _, c := range []struct {
		name  string
		alter func(k *smtp.Knowledge)
		want  string
	}{
		{"nothing published", func(k *smtp.Knowledge) { k.Floor = anyway }, "deliver any [] false"},
		{"named", func(k *smtp.Knowledge) { k.Floor = named }, "deliver named pkix [] false"},
		{"unsigned", func(k *smtp.Knowledge) {}, "refuse verified [mx-unsigned] false"},
		{"signed", func(k *smtp.Knowledge) { k.Signed = true }, "deliver verified pkix-dnssec [] false"},
		{"dane", func(k *smtp.Knowledge) { k.Floor, k.DANE = anyway, dane.Usable }, "deliver verified dane [dane] true"},
		{"dane unusable", func(k *smtp.Knowledge) { k.Floor, k.DANE = anyway, dane.Unusable }, "deliver encrypted [dane-unusable] true"},
		{"dane unknown", func(k *smtp.Knowledge) { k.Floor, k.DANE = anyway, dane.Unknown }, "defer any [dane-unknown] false"},
		{"sts", func(k *smtp.Knowledge) { k.Floor, k.STS, k.STSMatch = anyway, smtp.STSEnforce, true }, "deliver verified mta-sts [sts-enforce] true"},
		{"sts, other host", func(k *smtp.Knowledge) { k.Floor, k.STS = anyway, smtp.STSEnforce }, "refuse any [sts-mx-mismatch] true"},
		{"sts, other host that DANE proves", func(k *smtp.Knowledge) { k.STS, k.DANE = smtp.STSEnforce, dane.Usable }, "refuse verified [sts-mx-mismatch] true"},
		{"sts and dane", func(k *smtp.Knowledge) { k.STS, k.STSMatch, k.DANE = smtp.STSEnforce, true, dane.Usable }, "deliver verified dane [sts-enforce dane] true"},
		{"testing", func(k *smtp.Knowledge) { k.Floor, k.STS, k.STSMatch = named, smtp.STSTesting, true }, "deliver named pkix [sts-testing] false"},
		{"testing, other host", func(k *smtp.Knowledge) { k.Floor, k.STS = anyway, smtp.STSTesting }, "deliver any [sts-testing-mx-mismatch] false"},
		{"all unknown", func(k *smtp.Knowledge) { k.RatchetUnknown, k.DANE, k.STS = true, dane.Unknown, smtp.STSUnknown }, "defer verified [ratchet-unknown dane-unknown sts-unknown] false"},
		{"ratchet", func(k *smtp.Knowledge) { k.Floor, k.Ratchet = encrypted, named }, "deliver named pkix [ratchet] true"},
		{"ratchet, proof gone", func(k *smtp.Knowledge) { k.Floor, k.Ratchet = encrypted, verified }, "refuse verified [ratchet mx-unsigned] true"},
		{"ratchet, sealed mail", func(k *smtp.Knowledge) { k.Floor, k.Ratchet, k.RatchetUnknown = anyway, verified, true }, "deliver any [] false"},
		{"pinned", func(k *smtp.Knowledge) { k.Pinned = true }, "deliver verified configured [] false"},
		{"requiretls", func(k *smtp.Knowledge) { k.Floor, k.RequireTLS, k.Signed = anyway, true, true }, "deliver verified pkix-dnssec [] false"},
		{"requiretls, unsigned", func(k *smtp.Knowledge) { k.Floor, k.RequireTLS = anyway, true }, "refuse verified [mx-unsigned] false"},
		{"requiretls encrypted", func(k *smtp.Knowledge) { k.Floor, k.RequireTLS, k.Mode = anyway, true, smtp.RequireTLSEncrypted }, "deliver encrypted [requiretls-encrypted] false"},
		{"requiretls offered", func(k *smtp.Knowledge) { k.Floor, k.RequireTLS, k.Mode = anyway, true, smtp.RequireTLSOffered }, "deliver any [requiretls-offered] false"},
		{"no", func(k *smtp.Knowledge) {
			k.Floor, k.TLSOptional, k.DANE, k.STS = anyway, true, dane.Usable, smtp.STSUnknown
		}, "deliver any [tls-required-no] false"},
		{"no, but a floor", func(k *smtp.Knowledge) { k.Floor, k.TLSOptional, k.DANE = named, true, dane.Usable }, "deliver verified dane [dane] true"},
		{"relay", func(k *smtp.Knowledge) { k.Hop, k.Configured = securemail.HopAsserted, true }, "deliver verified configured [] false"},
		{"relay nobody vouches for", func(k *smtp.Knowledge) { k.Floor, k.Hop, k.Configured = encrypted, securemail.HopRelay, true }, "refuse encrypted [hop-unvouched] false"},
	} {
		k := base
		c.alter(&k)
		d := smtp.Decide(k)
		words := []string{"defer", "refuse", "deliver"}[d.Verdict] + " " + []string{"verified", "named", "encrypted", "any"}[d.Least]
		if d.Proof != "" {
			words += " " + string(d.Proof)
		}
		require.Equal(t, c.want, fmt.Sprintf("%s [%s] %v", words, rules(d.Reasons), d.Temporary), c.name)
	}
}
