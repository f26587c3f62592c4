package smtp_test

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

const (
	verified  = securemail.ChannelVerified
	named     = securemail.ChannelNamed
	encrypted = securemail.ChannelEncrypted
	anyway    = securemail.ChannelAny
)

func on(stage smtppeer.Stage, a smtppeer.Action) map[smtppeer.Stage]smtppeer.Action {
	return map[smtppeer.Stage]smtppeer.Action{stage: a}
}

// answers is a server that reads the client's first TLS record and answers with raw.
func answers(raw string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		_, _ = h.Conn.Write([]byte(raw))
		return nil, errors.New("no more")
	}}
}

// Each far end against each floor: nothing leaves below the floor, and each step is named.
func TestFloors(t *testing.T) {
	bad := smtppeer.SelfSigned("mx1.test")
	cases := []struct {
		name string
		o    smtppeer.Options
		// lowest is the strictest floor that is met.
		lowest securemail.Channel
		tls    bool
		rules  string // of the miss at the floor one stricter
		temp   bool
	}{
		{"good", smtppeer.Options{TLS: ca.Config("mx1.test")}, named, true, "mx-unsigned", false},
		{"lower case", smtppeer.Options{TLS: ca.Config("mx1.test"), LowerCase: true}, named, true, "mx-unsigned", false},
		{"self-signed", smtppeer.Options{TLS: smtppeer.ServerConfig(bad)}, encrypted, true, "pkix-untrusted name-not-proved", false},
		{"wrong name", smtppeer.Options{TLS: ca.Config("other.test")}, encrypted, true, "pkix-name name-not-proved", false},
		{"expired", smtppeer.Options{TLS: smtppeer.ServerConfig(ca.Expired("mx1.test"))}, encrypted, true, "expired name-not-proved", false},
		{"no TLS", smtppeer.Options{}, anyway, false, "starttls-not-offered tls-none", false},
		{"stripped", smtppeer.Options{TLS: ca.Config("mx1.test"), StripTLS: true}, anyway, false, "starttls-not-offered tls-none", false},
		{"TLS 1.0", smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx1.test"))}, anyway, false, "tls-version", false},
		{"454", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(454, "4.7.0 "+canary))}, anyway, false, "starttls-refused", true},
		{"500", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(500, "what"))}, anyway, false, "starttls-refused", false},
		{"TLS of another kind", smtppeer.Options{TLS: answers("\x16\x03\x03\xff\xff hello")}, anyway, false, "tls-garbage", false},
		{"closed handshake", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageHandshake, smtppeer.Drop())}, anyway, false, "hello-classical tls-closed", true},
		{"stalled handshake", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageHandshake, smtppeer.Stall())}, anyway, false, "hello-classical tls-timeout", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(c.o)
			tr := l.transport(func(o *smtp.Options) {
				if c.name == "stalled handshake" {
					o.Timeouts.Handshake = 200 * time.Millisecond
				}
			})
			for _, floor := range []securemail.Channel{verified, named, encrypted, anyway} {
				p.Reset()
				r, err := l.deliver(tr, floor)
				if floor >= c.lowest {
					require.NoError(t, err)
					require.Len(t, p.Messages(), 1)
					require.Equal(t, hello, string(p.Messages()[0].Data))
					require.Equal(t, c.tls, p.Messages()[0].TLS != nil)
					require.Equal(t, c.tls, r.TLS != nil)
					require.True(t, r.Meets(floor))
					require.Equal(t, "mx1.test", r.Peer)
					require.Equal(t, securemail.HopFinal, r.Hop)
					continue
				}
				ce := wantChannel(t, err)
				untouched(t, p)
				if floor == verified { // no session could be enough
					require.Equal(t, "mx-unsigned", rules(ce.Wire.Reasons))
					require.Zero(t, p.Connections())
					continue
				}
				require.Equal(t, c.temp, ce.Temporary)
				if floor == c.lowest-1 {
					require.Equal(t, c.rules, rules(ce.Wire.Reasons))
				}
				for _, reason := range ce.Wire.Reasons {
					require.NotContains(t, reason.Text, canary)
				}
			}
		})
	}
}

func TestTLSFactsInTheReceipt(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	now := time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)
	r, err := l.deliver(l.transport(func(o *smtp.Options) { o.Now = func() time.Time { return now } }), named)
	require.NoError(t, err)
	require.EqualValues(t, tls.VersionTLS13, r.TLS.Version)
	require.Equal(t, p.Messages()[0].TLS.CipherSuite, r.TLS.Suite)
	require.NotZero(t, r.TLS.Chain)
	require.Equal(t, securemail.ProofPKIX, r.Proof)
	require.Equal(t, now, r.Time)
	require.Equal(t, "q1-1", r.RemoteID)
	require.Equal(t, "client.test", p.Messages()[0].HELO)
}

// RFC 3207 section 4.2: what was said before TLS is forgotten; trap 10.
func TestFactsFromBeforeTLSAreForgotten(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{
		TLS: ca.Config("mx1.test"), Extensions: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "REQUIRETLS", "SIZE 10"},
		ExtensionsTLS: []string{},
	})
	tr := l.transport(nil)
	_, err := l.deliver(tr, named) // SIZE 10 from the clear would refuse it
	require.NoError(t, err)
	require.Empty(t, p.Messages()[0].Params)

	l.records("clinic.test", dnspeer.Secure)
	s := shipment(t, named, hello)
	s.RequireTLS = true
	_, err = l.ship(l.transport(nil), s)
	require.Equal(t, "pkix-dnssec requiretls-not-offered", rules(wantChannel(t, err).Wire.Reasons))

	s = shipment(t, named, "Subject: \xc3\xa4\r\n\r\nx\r\n")
	_, err = l.ship(tr, s)
	require.Equal(t, "5.6.7", wantDelivery(t, err).Enhanced)
}

// Trap 10: octets in the clear behind the 220 are an attack and end the attempt, whatever the floor.
func TestInjectionEndsTheDelivery(t *testing.T) {
	for _, inject := range []string{"250 ok\r\n", "250-mx1.test\r\n250 AUTH PLAIN\r\n", "\x00", "220 again\r\n"} {
		for _, floor := range []securemail.Channel{verified, named, encrypted, anyway} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), InjectAfterStartTLS: inject})
			second := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
			l.records("clinic.test", dnspeer.Secure)
			_, err := l.deliver(l.transport(nil), floor)
			require.ErrorIs(t, err, smtp.ErrInjected)
			d := wantDelivery(t, err)
			require.Equal(t, "starttls", d.Stage)
			require.Equal(t, securemail.FateRetry, d.Fate)
			require.Equal(t, "starttls-injection", rules(d.Wire.Reasons))
			untouched(t, p)
			untouched(t, second)
			require.Equal(t, 1, p.Connections())
			require.Zero(t, second.Connections())
		}
	}
}

func TestNextHostWhereTheFirstMissesTheFloor(t *testing.T) {
	l := newLab(t)
	first := l.mx(smtppeer.Options{})
	second := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
	tr := l.transport(nil)
	r, err := l.deliver(tr, named)
	require.NoError(t, err)
	require.Equal(t, "mx2.test", r.Peer)
	require.Equal(t, "starttls-not-offered tls-none pkix", rules(r.Reasons))
	untouched(t, first)
	require.Len(t, second.Messages(), 1)

	// At ChannelAny the first is good enough.
	r, err = l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Equal(t, "mx1.test", r.Peer)
}

// A host that was not judged makes the miss temporary: it may have what the other lacks.
func TestMissBesideADeadHostIsTemporary(t *testing.T) {
	l := newLab(t)
	l.records("clinic.test", "MX 1 dead.test.")
	l.records("dead.test", "A 192.0.2.200")
	l.mx(smtppeer.Options{})
	_, err := l.deliver(l.transport(nil), named)
	require.True(t, wantChannel(t, err).Temporary)
}

func TestRequireTLS(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: []string{"REQUIRETLS", "PIPELINING"}})
	l.records("clinic.test", dnspeer.Secure)
	s := shipment(t, anyway, hello)
	s.RequireTLS = true
	tr := l.transport(nil)
	_, err := l.ship(tr, s)
	require.NoError(t, err)
	require.Equal(t, []string{"REQUIRETLS"}, p.Messages()[0].Params)

	// RFC 8689 section 4.2.1: not without a proved name, not in the clear.
	for _, o := range []smtppeer.Options{
		{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test")), Extensions: []string{"REQUIRETLS"}},
		{Extensions: []string{"REQUIRETLS"}},
	} {
		l := newLab(t)
		p := l.mx(o)
		l.records("clinic.test", dnspeer.Secure)
		_, err := l.ship(l.transport(nil), s)
		wantChannel(t, err)
		untouched(t, p)
	}
}

func TestSignedMXIsVerified(t *testing.T) {
	l := newLab(t)
	l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	l.records("clinic.test", dnspeer.Secure)
	r, err := l.deliver(l.transport(nil), verified)
	require.NoError(t, err)
	require.Equal(t, securemail.ProofDNSSEC, r.Proof)

	// A server that was not declared trusted proves nothing by its AD bit.
	rs, err := smtp.DNS(l.dns.Addr(), nil)
	require.NoError(t, err)
	_, err = l.deliver(l.transport(func(o *smtp.Options) { o.Resolver = rs }), verified)
	require.Equal(t, "mx-unsigned", rules(wantChannel(t, err).Wire.Reasons))
}

func TestPins(t *testing.T) {
	self := smtppeer.SelfSigned("whatever.test")
	spki := sha256.Sum256(self.Leaf.RawSubjectPublicKeyInfo)
	good, odd := ca.Config("mx1.test"), smtppeer.ServerConfig(self)
	cases := []struct {
		name  string
		pin   smtp.Pin
		tls   *tls.Config
		rules string // "" is delivered
	}{
		{"host", smtp.Pin{Hosts: []string{"MX1.test"}}, good, ""},
		{"wildcard", smtp.Pin{Hosts: []string{"*.test"}}, good, ""},
		{"key", smtp.Pin{SPKI: [][32]byte{spki}}, odd, ""},
		{"host and key", smtp.Pin{Hosts: []string{"mx1.test"}, SPKI: [][32]byte{spki}}, odd, ""},
		{"other key", smtp.Pin{SPKI: [][32]byte{spki}}, good, "key-not-pinned pin"},
		{"host without PKIX", smtp.Pin{Hosts: []string{"mx1.test"}}, odd, "pkix-name pin"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: c.tls})
			tr := l.transport(func(o *smtp.Options) { o.Pins = map[string]smtp.Pin{"clinic.test": c.pin} })
			for _, floor := range []securemail.Channel{verified, named, encrypted} {
				p.Reset()
				r, err := l.deliver(tr, floor)
				if c.rules == "" {
					require.NoError(t, err)
					require.Equal(t, securemail.ProofConfigured, r.Proof)
					continue
				}
				require.Equal(t, c.rules, rules(wantChannel(t, err).Wire.Reasons))
				untouched(t, p)
			}
			route, err := tr.Probe(t.Context(), "", "clinic.test")
			require.NoError(t, err)
			require.Equal(t, c.rules == "", route.Meets(encrypted), "what a delivery would not use is not promised")
		})
	}
	t.Run("host not among the pinned", func(t *testing.T) {
		l := newLab(t)
		p := l.mx(smtppeer.Options{TLS: good})
		tr := l.transport(func(o *smtp.Options) {
			o.Pins = map[string]smtp.Pin{"clinic.test": {Hosts: []string{"mx9.test", "*.mx1.test"}}}
		})
		_, err := l.deliver(tr, named)
		d := wantDelivery(t, err)
		require.Equal(t, "mx-not-pinned", rules(d.Wire.Reasons))
		require.Zero(t, p.Connections())
	})
}
