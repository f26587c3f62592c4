package smtp_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

var operator = &securemail.Operator{Name: "Relay Inc", Agreement: "BAA-1", Until: time.Date(2085, 1, 1, 0, 0, 0, 0, time.UTC)}

// relay starts a smart host and a Transport that uses it.
func (l *lab) relay(o smtppeer.Options, r smtp.Relay, change func(*smtp.Options)) (*smtppeer.Peer, *smtp.Transport) {
	p := l.host("relay.test", o)
	r.Addr = "relay.test:587"
	return p, l.transport(func(o *smtp.Options) {
		o.Relay = &r
		if change != nil {
			change(o)
		}
	})
}

func TestRelayHops(t *testing.T) {
	l := newLab(t)
	p, tr := l.relay(smtppeer.Options{TLS: ca.Config("relay.test")}, smtp.Relay{Operator: operator}, nil)
	r, err := l.deliver(tr, verified)
	require.NoError(t, err)
	require.Equal(t, securemail.HopAsserted, r.Hop)
	require.Equal(t, operator, r.Operator)
	require.Equal(t, securemail.ProofConfigured, r.Proof)
	require.Equal(t, "configured", rules(r.Reasons))
	require.Len(t, p.Messages(), 1)

	// Nobody vouches: the wire counts for nothing above ChannelAny, however good.
	l = newLab(t)
	p, tr = l.relay(smtppeer.Options{TLS: ca.Config("relay.test")}, smtp.Relay{}, nil)
	for _, floor := range []securemail.Channel{verified, named, encrypted} {
		_, err = l.deliver(tr, floor)
		require.Equal(t, "hop-unvouched operator-none", rules(wantChannel(t, err).Wire.Reasons))
	}
	require.Zero(t, p.Connections())
	r, err = l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Equal(t, securemail.HopRelay, r.Hop)
	require.NotNil(t, r.TLS)
}

func TestAgreementEnds(t *testing.T) {
	l := newLab(t)
	now := operator.Until.Add(-time.Second)
	p, tr := l.relay(smtppeer.Options{TLS: ca.Config("relay.test")}, smtp.Relay{Operator: operator}, func(o *smtp.Options) {
		o.Now = func() time.Time { return now }
	})
	_, err := l.deliver(tr, named)
	require.NoError(t, err)
	// While the recipient is being accepted the agreement still holds; the next message finds a kept connection and no agreement.
	now = operator.Until
	_, err = l.deliver(tr, named)
	require.Equal(t, "hop-unvouched operator-ended", rules(wantChannel(t, err).Wire.Reasons))
	require.Len(t, p.Messages(), 1)
}

func TestRelayFloors(t *testing.T) {
	self := smtppeer.SelfSigned("relay.test")
	for name, c := range map[string]struct {
		o     smtppeer.Options
		r     smtp.Relay
		rules string
	}{
		"clear":       {smtppeer.Options{}, smtp.Relay{}, "starttls-not-offered tls-none"},
		"self-signed": {smtppeer.Options{TLS: smtppeer.ServerConfig(self)}, smtp.Relay{}, "pkix-untrusted name-not-proved"},
		"pinned":      {smtppeer.Options{TLS: smtppeer.ServerConfig(self)}, smtp.Relay{SPKI: [][32]byte{sha256.Sum256(self.Leaf.RawSubjectPublicKeyInfo)}}, ""},
		"not pinned":  {smtppeer.Options{TLS: ca.Config("relay.test")}, smtp.Relay{SPKI: [][32]byte{{1}}}, "key-not-pinned pin"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c.r.Operator = operator
			p, tr := l.relay(c.o, c.r, nil)
			_, err := l.deliver(tr, named)
			if c.rules == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, c.rules, rules(wantChannel(t, err).Wire.Reasons))
			untouched(t, p)
		})
	}
}

func TestImplicitTLS(t *testing.T) {
	l := newLab(t)
	p, tr := l.relay(smtppeer.Options{TLS: ca.Config("relay.test"), Implicit: true}, smtp.Relay{Operator: operator, ImplicitTLS: true}, nil)
	_, err := l.deliver(tr, verified)
	require.NoError(t, err)
	require.NotContains(t, p.Transcript(), "STARTTLS")

	// It never falls back to the clear.
	l = newLab(t)
	p, tr = l.relay(smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("relay.test")), Implicit: true}, smtp.Relay{Operator: operator, ImplicitTLS: true}, nil)
	_, err = l.deliver(tr, named)
	require.Equal(t, "tls-version", rules(wantChannel(t, err).Wire.Reasons))
	_, err = l.deliver(tr, anyway)
	require.Equal(t, "starttls", wantDelivery(t, err).Stage)
	require.Empty(t, p.Transcript())
}

func TestAuth(t *testing.T) {
	users := map[string]string{"u": "secret"}
	good := smtp.Relay{Operator: operator, User: "u", Password: securemail.NewSecret("secret")}
	peer := smtppeer.Options{TLS: ca.Config("relay.test"), Users: users, NeedAuth: true}

	t.Run("PLAIN once a connection", func(t *testing.T) {
		l := newLab(t)
		p, tr := l.relay(peer, good, nil)
		for range 2 {
			_, err := l.deliver(tr, verified)
			require.NoError(t, err)
		}
		require.Equal(t, "u", p.Messages()[1].User)
		require.Equal(t, 1, count(p.Transcript(), "AUTH PLAIN AHUAc2VjcmV0"))
	})
	t.Run("LOGIN", func(t *testing.T) {
		l := newLab(t)
		o := peer
		o.Users = nil
		o.ExtensionsTLS = []string{"AUTH=LOGIN"}
		step := 0
		o.NeedAuth = false
		o.Hook = func(e smtppeer.Event) *smtppeer.Action {
			if e.Stage == smtppeer.StageAuth {
				require.Equal(t, "LOGIN", e.Arg)
				step++
				return &smtppeer.Action{Code: 235, Text: "2.7.0 fine"}
			}
			return nil
		}
		_, tr := l.relay(o, good, nil)
		_, err := l.deliver(tr, verified)
		require.NoError(t, err)
		require.Equal(t, 1, step)
	})
	t.Run("LOGIN in full", func(t *testing.T) {
		l := newLab(t)
		o := peer
		r := good
		r.User, r.Password = "", securemail.Secret{}
		r.SASL = func(context.Context) (sasl.Client, error) { return sasl.NewLoginClient("u", "secret"), nil }
		p, tr := l.relay(o, r, nil)
		_, err := l.deliver(tr, verified)
		require.NoError(t, err)
		require.Equal(t, "u", p.Messages()[0].User)
	})
	t.Run("wrong password is ours to mend", func(t *testing.T) {
		l := newLab(t)
		r := good
		r.Password = securemail.NewSecret("wrong")
		p, tr := l.relay(peer, r, nil)
		_, err := l.deliver(tr, verified)
		d := wantDelivery(t, err)
		require.Equal(t, "auth", d.Stage)
		require.Equal(t, 535, d.Code)
		require.Equal(t, securemail.FateRetry, d.Fate)
		untouched(t, p)
	})
	t.Run("no mechanism", func(t *testing.T) {
		l := newLab(t)
		_, tr := l.relay(smtppeer.Options{TLS: ca.Config("relay.test")}, good, nil)
		_, err := l.deliver(tr, verified)
		require.Equal(t, "auth", wantDelivery(t, err).Stage)
	})
	t.Run("SASL that can't", func(t *testing.T) {
		cause := errors.New("token " + canary)
		for _, f := range []func(context.Context) (sasl.Client, error){
			func(context.Context) (sasl.Client, error) { return nil, cause },
			func(context.Context) (sasl.Client, error) { return broken{cause}, nil },
		} {
			l := newLab(t)
			_, tr := l.relay(peer, smtp.Relay{Operator: operator, SASL: f}, nil)
			_, err := l.deliver(tr, verified)
			require.ErrorIs(t, err, cause)
		}
	})
	t.Run("endless challenges", func(t *testing.T) {
		l := newLab(t)
		o := peer
		o.On = on(smtppeer.StageAuth, smtppeer.Action{Raw: "334 \r\n"})
		_, tr := l.relay(o, good, nil)
		_, err := l.deliver(tr, verified)
		require.Equal(t, "auth", wantDelivery(t, err).Stage)
	})
}

type broken struct{ err error }

func (b broken) Start() (string, []byte, error) { return "", nil, b.err }
func (b broken) Next([]byte) ([]byte, error)    { return nil, b.err }

// Credentials go to a peer that proved its name over TLS, and to nobody else.
func TestCredentialsAreWithheld(t *testing.T) {
	users := map[string]string{"u": "secret"}
	for name, o := range map[string]smtppeer.Options{
		"clear":       {Users: users, AuthInClear: true},
		"stripped":    {TLS: ca.Config("relay.test"), StripTLS: true, Users: users, AuthInClear: true},
		"self-signed": {TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("relay.test")), Users: users},
		"wrong name":  {TLS: ca.Config("other.test"), Users: users},
	} {
		t.Run(name, func(t *testing.T) {
			for _, insecure := range []bool{false, true} {
				l := newLab(t)
				p, tr := l.relay(o, smtp.Relay{
					Operator: operator, User: "u", Password: securemail.NewSecret("secret"), InsecureLoopbackAuth: insecure,
				}, nil)
				_, err := l.deliver(tr, anyway)
				require.ErrorIs(t, err, smtp.ErrUnproved)
				require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
				_, err = l.deliver(tr, named)
				wantChannel(t, err)
				for _, line := range p.Transcript() {
					require.NotContains(t, line, "AUTH")
				}
			}
		})
	}
	// The one exception says so in its name, and needs a loopback address.
	p, err := smtppeer.Start(smtppeer.Options{Users: users, AuthInClear: true, NeedAuth: true})
	require.NoError(t, err)
	defer p.Close()
	tr, err := smtp.New(&smtp.Options{Relay: &smtp.Relay{
		Addr: p.Addr(), User: "u", Password: securemail.NewSecret("secret"), InsecureLoopbackAuth: true,
	}})
	require.NoError(t, err)
	defer tr.Close()
	_, err = tr.Deliver(t.Context(), shipment(t, anyway, hello))
	require.NoError(t, err)
	require.Equal(t, "u", p.Messages()[0].User)
}

// A relay by address, with a certificate for that address, and the default HELO.
func TestRelayByAddress(t *testing.T) {
	p, err := smtppeer.Start(smtppeer.Options{TLS: ca.Config("127.0.0.1")})
	require.NoError(t, err)
	defer p.Close()
	tr, err := smtp.New(&smtp.Options{RootCAs: ca.Pool(), Relay: &smtp.Relay{Addr: p.Addr(), Operator: operator}})
	require.NoError(t, err)
	defer tr.Close()
	_, err = tr.Deliver(t.Context(), shipment(t, verified, hello))
	require.NoError(t, err)
	require.NotEmpty(t, p.Messages()[0].HELO)
}

func TestOptionsAreChecked(t *testing.T) {
	bad := map[string]*smtp.Options{
		"HELO":         {HELO: "a b"},
		"negative":     {MaxUses: -1},
		"timeout":      {Timeouts: smtp.Timeouts{Dot: -1}},
		"host:port":    {Relay: &smtp.Relay{Addr: "relay.test"}},
		"port":         {Relay: &smtp.Relay{Addr: "relay.test:smtp"}},
		"agreement":    {Relay: &smtp.Relay{Addr: "relay.test:25", Operator: &securemail.Operator{Name: "x"}}},
		"both":         {Relay: &smtp.Relay{Addr: "relay.test:25", User: "u", SASL: func(context.Context) (sasl.Client, error) { return nil, nil }}},
		"pin of":       {Pins: map[string]smtp.Pin{"Clinic.test": {Hosts: []string{"a"}}}},
		"hosts or key": {Pins: map[string]smtp.Pin{"clinic.test": {}}},
	}
	for want, o := range bad {
		tr, err := smtp.New(o)
		require.ErrorContains(t, err, want)
		require.Nil(t, tr)
	}
	_, err := smtp.New(&smtp.Options{HELO: "a b", Relay: &smtp.Relay{}, MaxUses: -1})
	require.ErrorContains(t, err, "HELO")
	require.ErrorContains(t, err, "host:port")
	require.ErrorContains(t, err, "MaxUses")
	tr, err := smtp.New(nil)
	require.NoError(t, err)
	require.NoError(t, tr.Close())
}
