package smtp_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

func TestProbe(t *testing.T) {
	cases := []struct {
		name  string
		o     smtppeer.Options
		known bool
		meets securemail.Channel
		rules string
	}{
		{"good", smtppeer.Options{TLS: ca.Config("mx1.test")}, true, named, "pkix"},
		{"self-signed", smtppeer.Options{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test"))}, true, encrypted, "pkix-untrusted"},
		{"no TLS", smtppeer.Options{}, true, anyway, "starttls-not-offered"},
		{"HELO only", smtppeer.Options{On: on(smtppeer.StageEHLO, smtppeer.Refuse(500, "what"))}, true, anyway, "starttls-not-offered"},
		{"TLS 1.0", smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx1.test"))}, true, anyway, "tls-version"},
		{"454", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(454, "later"))}, false, anyway, "starttls-refused"},
		{"500", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(500, "what"))}, true, anyway, "starttls-refused"},
		{"421", smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Refuse(421, "later"))}, false, anyway, "unreachable"},
		{"stall", smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Stall())}, false, anyway, "unreachable"},
		{"handshake stall", smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageHandshake, smtppeer.Stall())}, false, anyway, "hello-classical tls-timeout"},
		{"injection", smtppeer.Options{TLS: ca.Config("mx1.test"), InjectAfterStartTLS: "250 x\r\n"}, false, anyway, "starttls-injection unreachable"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(c.o)
			now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
			tr := l.transport(func(o *smtp.Options) {
				if strings.Contains(c.name, "stall") {
					o.Timeouts = smtp.Timeouts{Greeting: time.Second, Handshake: time.Second}
				}
				o.Now = func() time.Time { return now }
			})
			r, err := tr.Probe(t.Context(), "tenant", "Clinic.test.")
			require.NoError(t, err)
			require.Equal(t, c.known, r.Known)
			require.Equal(t, c.rules, rules(r.Reasons))
			require.True(t, r.Meets(c.meets))
			if c.meets > verified {
				require.False(t, r.Meets(c.meets-1))
			}
			if c.known {
				require.Equal(t, now.Add(time.Hour), r.Until)
			}
			untouched(t, p)

			// The answer is kept for a short while.
			n := p.Connections()
			_, err = tr.Probe(t.Context(), "other", "clinic.test")
			require.NoError(t, err)
			require.Equal(t, n, p.Connections())
			now = now.Add(6 * time.Minute)
			_, err = tr.Probe(t.Context(), "tenant", "clinic.test")
			require.NoError(t, err)
			require.Greater(t, p.Connections(), n)
		})
	}
}

func TestProbeOverHosts(t *testing.T) {
	l := newLab(t)
	l.records("clinic.test", "MX 0 dead.test.", "MX 0 gone.test.")
	l.records("dead.test", "A 192.0.2.99")
	l.mx(smtppeer.Options{})
	l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
	tr := l.transport(nil)
	r, err := tr.Probe(t.Context(), "", "clinic.test")
	require.NoError(t, err)
	require.True(t, r.Known)
	require.Equal(t, securemail.ProofPKIX, r.Proof)

	l.records("none.test", dnspeer.ServFail)
	r, err = tr.Probe(t.Context(), "", "none.test")
	require.NoError(t, err)
	require.False(t, r.Known)
	require.Equal(t, "route", rules(r.Reasons))
}

func TestProbeOfARelay(t *testing.T) {
	l := newLab(t)
	p, tr := l.relay(smtppeer.Options{TLS: ca.Config("relay.test"), Users: map[string]string{"u": "s"}}, smtp.Relay{
		Operator: operator, User: "u", Password: securemail.NewSecret("s"),
	}, nil)
	r, err := tr.Probe(t.Context(), "", "clinic.test")
	require.NoError(t, err)
	require.True(t, r.Meets(verified))
	require.Equal(t, securemail.HopAsserted, r.Hop)
	for _, line := range p.Transcript() {
		require.NotContains(t, line, "AUTH")
	}
	_, err = tr.Probe(t.Context(), "", "elsewhere.test")
	require.NoError(t, err)
	require.Equal(t, 1, p.Connections())
}

func TestProbeSharesOneLook(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Action{Delay: 50 * time.Millisecond})})
	tr := l.transport(nil)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			r, err := tr.Probe(context.Background(), "", "clinic.test")
			if err != nil || !r.Known {
				t.Errorf("known %v, error %v", r.Known, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, p.Connections())
}

func TestProbeEndsWithItsContext(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Stall())})
	tr := l.transport(nil)
	lead, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := tr.Probe(lead, "", "clinic.test")
		if err == nil {
			t.Error("no error")
		}
	})
	require.Eventually(t, func() bool { return p.Open() == 1 }, 10*time.Second, time.Millisecond)
	// A second caller waits for the first, within its own bounds.
	short, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer stop()
	_, err := tr.Probe(short, "", "clinic.test")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	wg.Wait()
	require.NoError(t, tr.Close())
	_, err = tr.Probe(context.Background(), "", "clinic.test")
	require.ErrorIs(t, err, smtp.ErrClosed)
}
