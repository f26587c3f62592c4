package smtp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/smtp"
	"github.com/postseal/postseal/transport/tlsrpt"
)

var allFloors = []securemail.Channel{verified, named, encrypted, anyway}

// policyHost serves MTA-STS policies over HTTPS, for any domain that has one.
type policyHost struct {
	mu    sync.Mutex
	texts map[string]string // by domain
	down  bool
	gets  int
	addr  string
}

func (l *lab) policyHost() *policyHost {
	l.Helper()
	h := &policyHost{texts: map[string]string{}}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = nil
	srv.TLS = ca.Config("mta-sts.clinic.test", "mta-sts.other.test", "mta-sts.third.test")
	srv.StartTLS()
	l.Cleanup(srv.Close)
	h.addr = srv.Listener.Addr().String()
	return h
}

func (h *policyHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gets++
	text, ok := h.texts[strings.TrimPrefix(r.Host, "mta-sts.")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(text))
}

func (h *policyHost) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	h.mu.Lock()
	down := h.down
	h.mu.Unlock()
	if down {
		return nil, errors.New("blocked")
	}
	return new(net.Dialer).DialContext(ctx, network, h.addr)
}

func (h *policyHost) block(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// publish sets the record and the policy of a domain.
func (l *lab) publish(h *policyHost, domain, id string, mode mtasts.Mode, mx ...string) {
	l.Helper()
	h.mu.Lock()
	h.texts[domain] = mtasts.Policy{Mode: mode, MX: mx, MaxAge: 30 * 24 * time.Hour}.String()
	h.mu.Unlock()
	l.zone["_mta-sts."+domain] = []string{`TXT "v=STSv1; id=` + id + `;"`}
	require.NoError(l, l.dns.Set(l.zone))
}

// cache makes an MTA-STS cache that asks the lab's DNS and h.
func (l *lab) cache(h *policyHost, store mtasts.Store, now func() time.Time) *mtasts.Cache {
	l.Helper()
	r, err := smtp.DNS(l.dns.Addr(), &smtp.DNSOptions{Timeout: time.Second, Attempts: 1})
	require.NoError(l, err)
	client, err := mtasts.NewClient(&mtasts.ClientOptions{Dial: h.dial, RootCAs: ca.Pool(), AllowPrivate: true})
	require.NoError(l, err)
	c, err := mtasts.New(store, &mtasts.Options{Resolver: r, Fetcher: client, Now: now})
	require.NoError(l, err)
	return c
}

// tlsa publishes records for a host of the lab, and signs all on the way to it.
func (l *lab) tlsa(host string, rrs ...string) {
	l.Helper()
	l.records("clinic.test", dnspeer.Secure)
	l.records(host, dnspeer.Secure)
	l.records("_25._tcp."+host, append(rrs, dnspeer.Secure)...)
}

func record(t testing.TB, cert *x509.Certificate, usage, selector, match uint8) string {
	t.Helper()
	r, err := dane.RecordFor(cert, usage, selector, match)
	require.NoError(t, err)
	return fmt.Sprintf("TLSA %d %d %d %s", usage, selector, match, hex.EncodeToString(r.Data))
}

// unusable is a record that SMTP does not use (RFC 7672 section 3.1.3).
var unusable = "TLSA 1 1 1 " + strings.Repeat("00", 32)

// attacks are what a man in the middle can do to the session.
func attacks(name string) map[string]smtppeer.Options {
	return map[string]smtppeer.Options{
		"strips STARTTLS":        {TLS: ca.Config(name), StripTLS: true},
		"refuses STARTTLS":       {TLS: ca.Config(name), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(454, "later"))},
		"garbles the handshake":  {TLS: answers("\x16\x03\x03\xff\xff hello")},
		"drops the handshake":    {TLS: ca.Config(name), On: on(smtppeer.StageHandshake, smtppeer.Drop())},
		"speaks TLS 1.0":         {TLS: smtppeer.TLS10(ca.Cert(name))},
		"injects":                {TLS: ca.Config(name), InjectAfterStartTLS: "250 x\r\n"},
		"swaps the certificate":  {TLS: smtppeer.ServerConfig(smtppeer.SelfSigned(name))},
		"has one for other name": {TLS: ca.Config("evil.test")},
		"has one that ended":     {TLS: smtppeer.ServerConfig(ca.Expired(name))},
	}
}

// A policy that the domain published binds whatever the floor: a man in the middle gets not one octet of the mail and no
// recipient, and the mail comes again later.
func TestManInTheMiddle(t *testing.T) {
	policies := map[string]func(l *lab, o *smtp.Options){
		"dane": func(l *lab, _ *smtp.Options) {
			l.tlsa("mx1.test", record(l, ca.Cert("mx1.test").Leaf, 3, 1, 1)) // of a key that nobody here has
		},
		"dane and mta-sts": func(l *lab, o *smtp.Options) {
			l.tlsa("mx1.test", record(l, ca.Cert("mx1.test").Leaf, 3, 1, 1))
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
			o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
		},
		"mta-sts": func(l *lab, o *smtp.Options) {
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
			o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
		},
		"ratchet": func(_ *lab, o *smtp.Options) { o.Ratchet = ratchet{named, nil} },
	}
	for policy, arrange := range policies {
		for attack, o := range attacks("mx1.test") {
			t.Run(policy+"/"+attack, func(t *testing.T) {
				l := newLab(t)
				p := l.mx(o)
				tr := l.transport(func(o *smtp.Options) { arrange(l, o) })
				for _, floor := range allFloors {
					if policy == "ratchet" && floor == anyway {
						continue // the ratchet leaves sealed mail its way
					}
					_, err := l.deliver(tr, floor)
					untouched(t, p)
					if attack == "injects" && !errors.Is(err, securemail.ErrChannel) {
						require.ErrorIs(t, err, smtp.ErrInjected)
						require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
						continue
					}
					ce := wantChannel(t, err)
					require.True(t, ce.Temporary || policy == "ratchet" && floor <= named, "the floor alone asks for it then")
					require.NotEmpty(t, ce.Wire.Reasons)
				}
				// Nor does a look promise what a delivery would not use.
				if policy != "ratchet" {
					r, err := tr.Probe(t.Context(), "", "clinic.test")
					require.NoError(t, err)
					require.False(t, r.Known && r.Meets(encrypted), "%v", r.Reasons)
				}
			})
		}
	}
}

type ratchet struct {
	least securemail.Channel
	err   error
}

func (r ratchet) Least(_ context.Context, tenant, domain string) (securemail.Channel, error) {
	if tenant != "t1" && tenant != "" || domain != "clinic.test" {
		return anyway, errors.New("asked for something else")
	}
	return r.least, r.err
}

// Forged MX answers lead to a host with a certificate of its own.
func TestForgedMX(t *testing.T) {
	l := newLab(t)
	h := l.policyHost()
	l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx.clinic.test")
	evil := l.host("mx.evil.test", smtppeer.Options{TLS: ca.Config("mx.evil.test")})
	l.records("clinic.test", "MX 1 mx.evil.test.")
	tr := l.transport(func(o *smtp.Options) { o.STS = l.cache(h, mtasts.NewMemory(nil), nil) })
	for _, floor := range allFloors {
		_, err := l.deliver(tr, floor)
		ce := wantChannel(t, err)
		require.True(t, ce.Temporary)
		require.Equal(t, "sts-policy sts-mx-mismatch", rules(ce.Wire.Reasons))
		require.Zero(t, evil.Connections())
	}
}

// Traps 1, 2 and 3: what was fetched once survives a changed id behind blocked HTTPS, a vanished or failing record, an older
// id, and a restart.
func TestCachedPolicySurvives(t *testing.T) {
	record := func(l *lab, rrs ...string) {
		l.zone["_mta-sts.clinic.test"] = rrs
		require.NoError(l, l.dns.Set(l.zone))
	}
	for name, attack := range map[string]func(l *lab){
		"new id":    func(l *lab) { record(l, `TXT "v=STSv1; id=2;"`) },
		"older id":  func(l *lab) { record(l, `TXT "v=STSv1; id=0;"`) },
		"no record": func(l *lab) { delete(l.zone, "_mta-sts.clinic.test"); require.NoError(l, l.dns.Set(l.zone)) },
		"SERVFAIL":  func(l *lab) { record(l, dnspeer.ServFail) },
		"time-out":  func(l *lab) { record(l, dnspeer.Timeout) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
			p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test"))})
			now := time.Now()
			clock := func() time.Time { return now }
			store := mtasts.NewMemory(nil)
			first := l.transport(func(o *smtp.Options) { o.STS = l.cache(h, store, clock) })
			_, err := l.deliver(first, anyway)
			wantChannel(t, err)
			attack(l)
			h.block(true)
			now = now.Add(time.Hour)
			for _, tr := range []*smtp.Transport{first, l.transport(func(o *smtp.Options) { o.STS = l.cache(h, store, clock) })} {
				for _, floor := range allFloors {
					_, err := l.deliver(tr, floor)
					require.True(t, wantChannel(t, err).Temporary)
					untouched(t, p)
				}
			}
		})
	}
}

// Trap 2: with nothing cached, "not known" is never "there is none". It is no ChannelError: the next way would end at the
// same host.
func TestUnknownPoliciesDefer(t *testing.T) {
	for name, arrange := range map[string]func(l *lab, o *smtp.Options){
		"sts-unknown": func(l *lab, o *smtp.Options) {
			l.records("_mta-sts.clinic.test", dnspeer.ServFail)
			o.STS = l.cache(l.policyHost(), mtasts.NewMemory(nil), nil)
		},
		"dane-unknown":    func(l *lab, _ *smtp.Options) { l.tlsa("mx1.test", dnspeer.ServFail) },
		"ratchet-unknown": func(_ *lab, o *smtp.Options) { o.Ratchet = ratchet{anyway, errors.New("disk")} },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
			tr := l.transport(func(o *smtp.Options) { arrange(l, o) })
			for _, floor := range allFloors {
				if name == "ratchet-unknown" && floor == anyway {
					continue // the ratchet leaves sealed mail its way
				}
				_, err := l.deliver(tr, floor)
				d := wantDelivery(t, err)
				require.Equal(t, securemail.FateRetry, d.Fate)
				require.Equal(t, "resolve", d.Stage)
				require.Equal(t, name, rules(d.Wire.Reasons))
				require.Zero(t, p.Connections())
			}
			r, err := tr.Probe(t.Context(), "", "clinic.test")
			require.NoError(t, err)
			require.False(t, r.Known)
		})
	}
}

func TestSTSIsAProof(t *testing.T) {
	l := newLab(t)
	h := l.policyHost()
	l.publish(h, "clinic.test", "20260101", mtasts.Enforce, "*.test")
	l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	tr := l.transport(func(o *smtp.Options) { o.STS = l.cache(h, mtasts.NewMemory(nil), nil) })
	for _, floor := range allFloors {
		r, err := l.deliver(tr, floor)
		require.NoError(t, err)
		require.Equal(t, securemail.ProofSTS, r.Proof)
		require.Equal(t, "sts-policy sts-enforce pkix-sts", rules(r.Reasons))
		require.Contains(t, r.Reasons[0].Text, "20260101")
	}
	route, err := tr.Probe(t.Context(), "", "clinic.test")
	require.NoError(t, err)
	require.True(t, route.Meets(verified))
}

// DANE, from the record to the receipt; trap 13.
func TestDANE(t *testing.T) {
	own := smtppeer.SelfSigned("whatever.test")
	chain := ca.Cert("mx1.test")
	for _, c := range []struct {
		name  string
		cert  tls.Certificate
		rrs   func(t testing.TB) []string
		proof securemail.Proof
		rules string
	}{
		{"3 1 1", own, func(t testing.TB) []string { return []string{record(t, own.Leaf, 3, 1, 1)} }, securemail.ProofDANE, "dane dane-match"},
		{"3 1 0, the whole key", own, func(t testing.TB) []string { return []string{record(t, own.Leaf, 3, 1, 0)} }, securemail.ProofDANE, "dane dane-match"},
		{"3 0 2", chain, func(t testing.TB) []string { return []string{record(t, chain.Leaf, 3, 0, 2)} }, securemail.ProofDANE, "dane dane-match"},
		{"over TCP", own, func(t testing.TB) []string { return []string{record(t, own.Leaf, 3, 1, 1), dnspeer.Truncate} }, securemail.ProofDANE, "dane dane-match"},
		{"one of two", own, func(t testing.TB) []string {
			return []string{record(t, chain.Leaf, 3, 1, 1), record(t, own.Leaf, 3, 1, 1)}
		}, securemail.ProofDANE, "dane dane-match"},
		{"unusable", own, func(t testing.TB) []string { return []string{unusable} }, "", "dane-unusable pkix-name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			config := smtppeer.ServerConfig(c.cert)
			var names []string
			config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				names = append(names, h.ServerName)
				return nil, nil
			}
			l.mx(smtppeer.Options{TLS: config})
			l.tlsa("mx1.test", c.rrs(t)...)
			tr := l.transport(nil)
			for _, floor := range allFloors {
				r, err := l.deliver(tr, floor)
				if c.proof == "" && floor < encrypted {
					wantChannel(t, err)
					continue
				}
				require.NoError(t, err)
				require.NotNil(t, r.TLS)
				require.Equal(t, c.proof, r.Proof)
				require.Equal(t, c.rules, rules(r.Reasons))
			}
			require.Contains(t, names, "mx1.test")
		})
	}
	t.Run("not where the MX is not signed, or AD not trusted", func(t *testing.T) {
		l := newLab(t)
		l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
		l.records("mx1.test", dnspeer.Secure)
		l.records("_25._tcp.mx1.test", record(t, own.Leaf, 3, 1, 1), dnspeer.Secure)
		r, err := l.deliver(l.transport(nil), named)
		require.NoError(t, err)
		require.Equal(t, securemail.ProofPKIX, r.Proof)

		l.records("clinic.test", dnspeer.Secure)
		_, err = l.deliver(l.transport(nil), named)
		wantChannel(t, err)
		rs, err := smtp.DNS(l.dns.Addr(), nil)
		require.NoError(t, err)
		r, err = l.deliver(l.transport(func(o *smtp.Options) { o.Resolver = rs }), named)
		require.NoError(t, err)
		require.Equal(t, securemail.ProofPKIX, r.Proof)
	})
}

// RFC 7672 sections 2.2.2 and 2.2.3: an MX host that is an alias has its records, and is asked for, by the name it leads to,
// if DNSSEC proves the way; a certificate may name either.
func TestDANEBehindAnAlias(t *testing.T) {
	l := newLab(t)
	own := smtppeer.SelfSigned("real.test")
	config := smtppeer.ServerConfig(own)
	var mu sync.Mutex
	var names []string
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		names = append(names, h.ServerName)
		return nil, nil
	}
	l.host("real.test", smtppeer.Options{TLS: config})
	l.records("real.test", dnspeer.Secure)
	l.records("alias.test", "CNAME real.test.", dnspeer.Secure)
	l.records("clinic.test", "MX 1 alias.test.", dnspeer.Secure)
	l.records("_25._tcp.real.test", record(t, own.Leaf, 3, 1, 1), dnspeer.Secure)
	r, err := l.deliver(l.transport(nil), verified)
	require.NoError(t, err)
	require.Equal(t, securemail.ProofDANE, r.Proof)
	require.Equal(t, "alias.test", r.Peer)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{"real.test"}, names)
}

// A kept connection is held to the records that hold now: after a change of keys a delivery has one of its own.
func TestNewRecordsNewConnection(t *testing.T) {
	l := newLab(t)
	own := smtppeer.SelfSigned("mx1.test")
	p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(own)})
	l.tlsa("mx1.test", record(t, own.Leaf, 3, 1, 1))
	now := time.Now()
	tr := l.transport(func(o *smtp.Options) { o.Now = func() time.Time { return now } })
	for range 2 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 1, p.Connections())
	p.Reset()
	delete(l.zone, "_25._tcp.mx1.test")
	l.tlsa("mx1.test", record(t, ca.Cert("mx1.test").Leaf, 3, 1, 1))
	now = now.Add(2 * time.Minute) // the records' time to live is one
	_, err := l.deliver(tr, anyway)
	require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "dane-mismatch")
	untouched(t, p)
}

// RFC 8461 sections 2 and 5: each binds by itself, and neither excuses the other.
func TestDANEAndSTSTogether(t *testing.T) {
	good, own := ca.Cert("mx1.test"), smtppeer.SelfSigned("mx1.test")
	for _, c := range []struct {
		name, pattern string
		cert          tls.Certificate
		key           *x509.Certificate
		rules         string
	}{
		{"both hold", "mx1.test", good, good.Leaf, ""},
		{"DANE fails", "mx1.test", good, own.Leaf, "sts-policy sts-enforce dane dane-no-match pkix-sts dane-mismatch"},
		{"PKIX fails", "mx1.test", own, own.Leaf, "sts-policy sts-enforce dane dane-match pkix-untrusted sts-pkix"},
		{"host not in the policy", "mx9.test", good, good.Leaf, "sts-policy sts-mx-mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, c.pattern)
			p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(c.cert)})
			l.tlsa("mx1.test", record(t, c.key, 3, 1, 1))
			tr := l.transport(func(o *smtp.Options) { o.STS = l.cache(h, mtasts.NewMemory(nil), nil) })
			for _, floor := range allFloors {
				r, err := l.deliver(tr, floor)
				if c.rules == "" {
					require.NoError(t, err)
					require.Equal(t, securemail.ProofDANE, r.Proof)
					continue
				}
				ce := wantChannel(t, err)
				require.True(t, ce.Temporary)
				require.Equal(t, c.rules, rules(ce.Wire.Reasons))
				untouched(t, p)
			}
		})
	}
}

// Trap 12: domains with one mail host and different policies don't share connections; those with the same do, and each
// delivery is judged.
func TestOneHostManyPolicies(t *testing.T) {
	l := newLab(t)
	h := l.policyHost()
	p := l.host("mx1.test", smtppeer.Options{TLS: ca.Config("mx1.test")})
	for _, d := range []string{"clinic.test", "other.test", "third.test", "fourth.test"} {
		l.records(d, "MX 1 mx1.test.")
	}
	l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
	l.publish(h, "other.test", "other", mtasts.Enforce, "*.test")
	l.publish(h, "third.test", "1", mtasts.Enforce, "mx3.test")
	tr := l.transport(func(o *smtp.Options) { o.STS = l.cache(h, mtasts.NewMemory(nil), nil) })
	to := func(domain string, floor securemail.Channel) (*securemail.Receipt, error) {
		s := shipment(t, floor, hello)
		s.Recipient.Address = address(t, canary+"@"+domain)
		return l.ship(tr, s)
	}
	for range 2 {
		r, err := to("clinic.test", named)
		require.NoError(t, err)
		require.Equal(t, securemail.ProofSTS, r.Proof)
		r, err = to("other.test", named)
		require.NoError(t, err)
		require.Contains(t, r.Reasons[0].Text, "id other")
		require.Equal(t, 1, min(p.Connections(), 1))
		_, err = to("third.test", anyway)
		require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "sts-mx-mismatch")
		r, err = to("fourth.test", named)
		require.NoError(t, err)
		require.Equal(t, securemail.ProofPKIX, r.Proof)
	}
	require.Equal(t, 2, p.Connections())
}

// Trap 14: a policy that tests changes nothing, and is reported.
func TestTestingMode(t *testing.T) {
	for _, pattern := range []string{"mx1.test", "mx9.test"} {
		l := newLab(t)
		h := l.policyHost()
		l.publish(h, "clinic.test", "1", mtasts.Testing, pattern)
		p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test"))})
		got := &collector{}
		tr := l.transport(func(o *smtp.Options) { o.STS, o.TLSRPT = l.cache(h, mtasts.NewMemory(nil), nil), got })
		for _, floor := range []securemail.Channel{verified, named} {
			_, err := l.deliver(tr, floor)
			require.False(t, wantChannel(t, err).Temporary)
			untouched(t, p)
		}
		_, err := l.deliver(tr, encrypted)
		require.NoError(t, err)
		last := got.all()[len(got.all())-1]
		require.Equal(t, tlsrpt.STS, last.Type)
		want := map[string]tlsrpt.FailureType{"mx1.test": tlsrpt.CertificateNotTrusted, "mx9.test": tlsrpt.ValidationFailure}
		require.Equal(t, want[pattern], last.Failure)
	}
}

// Trap 15: before mail fails by a policy the policy is asked for again.
func TestChangedPolicyIsFoundBeforeMailFails(t *testing.T) {
	l := newLab(t)
	h := l.policyHost()
	l.publish(h, "clinic.test", "1", mtasts.Enforce, "old.test")
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	now := time.Now()
	tr := l.transport(func(o *smtp.Options) {
		o.STS = l.cache(h, mtasts.NewMemory(nil), func() time.Time { return now })
	})
	_, err := l.deliver(tr, anyway)
	require.Equal(t, "sts-policy sts-mx-mismatch", rules(wantChannel(t, err).Wire.Reasons))
	require.Zero(t, p.Connections())

	l.publish(h, "clinic.test", "2", mtasts.Enforce, "mx1.test")
	now = now.Add(20 * time.Second) // too soon for a look of its own
	r, err := l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Equal(t, "sts-policy sts-mx-mismatch sts-renewed sts-policy sts-enforce pkix-sts", rules(r.Reasons))
	require.Equal(t, securemail.ProofSTS, r.Proof)
}

type collector struct {
	mu sync.Mutex
	rs []tlsrpt.Result
}

func (c *collector) Add(_ context.Context, r tlsrpt.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rs = append(c.rs, r)
}

func (c *collector) all() []tlsrpt.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rs
}

// One result a session and policy, with the failure types of RFC 8460 section 4.3.
func TestReports(t *testing.T) {
	own := smtppeer.SelfSigned("mx1.test")
	sts := func(l *lab, o *smtp.Options) {
		h := l.policyHost()
		l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
		o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
	}
	none := func(*lab, *smtp.Options) {}
	danePolicy := func(rr string) func(l *lab, _ *smtp.Options) {
		return func(l *lab, _ *smtp.Options) { l.tlsa("mx1.test", rr) }
	}
	for _, c := range []struct {
		name    string
		o       smtppeer.Options
		arrange func(l *lab, o *smtp.Options)
		want    string
	}{
		{"success", smtppeer.Options{TLS: ca.Config("mx1.test")}, none, "no-policy-found//"},
		{"sts success", smtppeer.Options{TLS: ca.Config("mx1.test")}, sts, "sts//"},
		{"no STARTTLS", smtppeer.Options{}, none, "no-policy-found/starttls-not-supported/starttls-not-offered"},
		{"sts, no STARTTLS", smtppeer.Options{}, sts, "sts/starttls-not-supported/starttls-not-offered"},
		{"sts, 454", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(454, "x"))}, sts, "sts/starttls-not-supported/starttls-refused"},
		{"sts, other name", smtppeer.Options{TLS: ca.Config("x.test")}, sts, "sts/certificate-host-mismatch/pkix-name"},
		{"sts, expired", smtppeer.Options{TLS: smtppeer.ServerConfig(ca.Expired("mx1.test"))}, sts, "sts/certificate-expired/expired"},
		{"sts, self-signed", smtppeer.Options{TLS: smtppeer.ServerConfig(own)}, sts, "sts/certificate-not-trusted/pkix-untrusted"},
		{"sts, TLS 1.0", smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx1.test"))}, sts, "sts/validation-failure/tls-version"},
		{"any, TLS 1.0", smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx1.test"))}, none, "no-policy-found/validation-failure/tls-version"},
		{"dane success", smtppeer.Options{TLS: smtppeer.ServerConfig(own)}, danePolicy(record(t, own.Leaf, 3, 1, 1)), "tlsa//"},
		{"dane mismatch", smtppeer.Options{TLS: ca.Config("mx1.test")}, danePolicy(record(t, own.Leaf, 3, 1, 1)), "tlsa/tlsa-invalid/dane-no-match"},
		{"dane unusable", smtppeer.Options{TLS: ca.Config("mx1.test")}, danePolicy(unusable), "tlsa/tlsa-invalid/dane-unusable"},
		{"dane unknown", smtppeer.Options{TLS: ca.Config("mx1.test")}, danePolicy(dnspeer.ServFail), "tlsa/dnssec-invalid/dane-unknown"},
		{"sts mismatch", smtppeer.Options{TLS: ca.Config("mx1.test")}, func(l *lab, o *smtp.Options) {
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx7.test")
			o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
		}, "sts/validation-failure/sts-mx-mismatch"},
		{"sts policy that can't be had", smtppeer.Options{TLS: ca.Config("mx1.test")}, func(l *lab, o *smtp.Options) {
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
			h.block(true)
			o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
		}, "sts/sts-policy-fetch-error/sts-connect no-policy-found//"},
		{"dead host", smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Drop())}, none, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.mx(c.o)
			got := &collector{}
			tr := l.transport(func(o *smtp.Options) {
				o.TLSRPT = got
				c.arrange(l, o)
			})
			var words []string
			for range 2 { // the second uses the connection of the first, if it was kept
				_, _ = l.deliver(tr, anyway)
				words = words[:0]
				for _, r := range got.all() {
					require.Equal(t, "clinic.test", r.Domain)
					require.Equal(t, "mx1.test", r.ReceivingMX)
					if r.Type == tlsrpt.STS && r.Failure != tlsrpt.STSPolicyFetchError {
						require.Contains(t, r.PolicyStrings, "version: STSv1")
						require.NotEmpty(t, r.MXHosts)
					}
					words = append(words, fmt.Sprintf("%s/%s/%s", r.Type, r.Failure, r.Reason))
				}
				if strings.HasSuffix(c.name, "success") {
					continue
				}
				break
			}
			require.Equal(t, c.want, strings.Join(words, " "))
		})
	}
}

func TestRatchetRaisesTheFloor(t *testing.T) {
	l := newLab(t)
	l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	s := shipment(t, encrypted, hello)
	s.Actor.Tenant = "t1"
	r, err := l.ship(l.transport(func(o *smtp.Options) { o.Ratchet = ratchet{named, nil} }), s)
	require.NoError(t, err)
	require.Equal(t, "ratchet pkix", rules(r.Reasons))
}

// RFC 8689 section 5: a report about broken TLS gets through broken TLS, where the operator allows it.
func TestTLSRequiredNo(t *testing.T) {
	const report = "From: a@sender.test\r\nTLS-Required: no \r\nSubject: report\r\n\r\nbroken\r\n"
	for _, c := range []struct {
		name, text string
		honour     bool
		floor      securemail.Channel
		require    bool
		delivered  bool
	}{
		{"honoured", report, true, anyway, false, true},
		{"not honoured", report, false, anyway, false, false},
		{"a floor", report, true, encrypted, false, false},
		{"REQUIRETLS", report, true, anyway, true, false},
		{"not said", hello, true, anyway, false, false},
		{"said twice", "TLS-Required: No\r\n" + report, true, anyway, false, false},
		{"something else", strings.Replace(report, "no ", "nope", 1), true, anyway, false, false},
		{"in the body", hello + "TLS-Required: No\r\n", true, anyway, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx9.test")
			p := l.mx(smtppeer.Options{})
			tr := l.transport(func(o *smtp.Options) {
				o.STS, o.HonourTLSRequiredNo = l.cache(h, mtasts.NewMemory(nil), nil), c.honour
			})
			s := shipment(t, c.floor, c.text)
			s.RequireTLS = c.require
			r, err := l.ship(tr, s)
			if c.delivered {
				require.NoError(t, err)
				require.Equal(t, "sts-policy tls-required-no starttls-not-offered", rules(r.Reasons))
				return
			}
			wantChannel(t, err)
			untouched(t, p)
		})
	}
}

func TestRequireTLSModes(t *testing.T) {
	self := smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test"))
	for _, c := range []struct {
		mode smtp.RequireTLSMode
		o    smtppeer.Options
		// said: "" not delivered.
		said string
	}{
		{smtp.RequireTLSStrict, smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: []string{"REQUIRETLS"}}, ""}, // unsigned MX
		{smtp.RequireTLSEncrypted, smtppeer.Options{TLS: self, Extensions: []string{"REQUIRETLS"}}, "[REQUIRETLS]"},
		{smtp.RequireTLSEncrypted, smtppeer.Options{TLS: self}, "[]"},
		{smtp.RequireTLSEncrypted, smtppeer.Options{Extensions: []string{"REQUIRETLS"}}, ""},
		{smtp.RequireTLSOffered, smtppeer.Options{TLS: self, Extensions: []string{"REQUIRETLS"}}, "[REQUIRETLS]"},
		{smtp.RequireTLSOffered, smtppeer.Options{Extensions: []string{"REQUIRETLS"}}, "[]"},
	} {
		l := newLab(t)
		p := l.mx(c.o)
		s := shipment(t, anyway, hello)
		s.RequireTLS = true
		_, err := l.ship(l.transport(func(o *smtp.Options) { o.RequireTLS = c.mode }), s)
		if c.said == "" {
			wantChannel(t, err)
			untouched(t, p)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.said, fmt.Sprint(p.Messages()[0].Params))
	}
}

// An agreement covers the uses that it names (45 CFR 164.504(e)(2)(i)).
func TestOperatorUses(t *testing.T) {
	limited := *operator
	limited.Uses = []string{string(securemail.PurposeTreatment), string(securemail.PurposePayment)}
	p, tr := newLab(t).relay(smtppeer.Options{TLS: ca.Config("relay.test")}, smtp.Relay{Operator: &limited}, nil)
	send := func(purpose securemail.Purpose, floor securemail.Channel) error {
		s := shipment(t, floor, hello)
		s.Purpose = purpose
		_, err := tr.Deliver(t.Context(), s)
		return err
	}
	require.NoError(t, send(securemail.PurposeTreatment, verified))
	require.NoError(t, send(securemail.PurposePayment, encrypted))
	p.Reset()
	for _, purpose := range []securemail.Purpose{securemail.PurposeMarketing, securemail.PurposeOperations, ""} {
		for _, floor := range []securemail.Channel{verified, named, encrypted} {
			require.Equal(t, "hop-unvouched operator-use", rules(wantChannel(t, send(purpose, floor)).Wire.Reasons))
		}
	}
	untouched(t, p)
	require.NoError(t, send(securemail.PurposeMarketing, anyway))
	r, err := tr.Probe(t.Context(), "", "clinic.test")
	require.NoError(t, err)
	require.True(t, r.Meets(verified))
}

// Hosts pinned by name must pass PKIX, and what DNS publishes binds beside that: neither excuses the other, and both
// together are no contradiction.
func TestPinnedHostsWithDANE(t *testing.T) {
	good, own := ca.Cert("mx1.test"), smtppeer.SelfSigned("mx1.test")
	for _, c := range []struct {
		name string
		cert tls.Certificate
		key  *x509.Certificate
		miss string // "" where both hold
	}{
		{"both hold", good, good.Leaf, ""},
		{"DANE fails", good, own.Leaf, "dane-mismatch"},
		{"PKIX fails", own, own.Leaf, "pin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(c.cert)})
			l.tlsa("mx1.test", record(t, c.key, 3, 1, 1))
			tr := l.transport(func(o *smtp.Options) { o.Pins = map[string]smtp.Pin{"clinic.test": {Hosts: []string{"mx1.test"}}} })
			for _, floor := range allFloors {
				r, err := l.deliver(tr, floor)
				if c.miss == "" {
					require.NoError(t, err)
					require.Equal(t, securemail.ProofConfigured, r.Proof)
					continue
				}
				require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), c.miss)
				untouched(t, p)
			}
		})
	}
}
