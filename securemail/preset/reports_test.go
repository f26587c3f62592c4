package preset_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/smtp"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// reporting is a system that reports, and a domain that asks for reports. Its host has no TLS, though DANE says that it must.
func reporting(t *testing.T) (*smtppeer.Peer, *smtp.DNSClient, *preset.Options, *clock) {
	t.Helper()
	private, err := dkim.Generate(dkim.Ed25519)
	require.NoError(t, err)
	key := dkim.Key{Domain: "example.org", Selector: "s", Private: private}
	signer, err := dkim.New([]dkim.Key{key}, nil)
	require.NoError(t, err)
	peer, so := far(t, false)
	record, err := dane.RecordFor(smtppeer.SelfSigned("mx.test").Leaf, 3, 1, 1)
	require.NoError(t, err)
	dns, err := dnspeer.Start(dnspeer.Zone{
		"x.test": {"MX 10 mx.test.", dnspeer.Secure}, "mx.test": {"A 127.0.0.1", dnspeer.Secure},
		fmt.Sprintf("_%d._tcp.mx.test", peer.Port()): {"TLSA " + record.String(), dnspeer.Secure},
		"_smtp._tls.x.test":                          {`TXT "v=TLSRPTv1; rua=mailto:tls@x.test,` + inbox(t, so) + `"`},
		key.RecordName():                             {`TXT "` + key.Record().String() + `"`},
	})
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	r, err := smtp.DNS(dns.Addr(), &smtp.DNSOptions{TrustAD: true})
	require.NoError(t, err)
	so.Resolver = r
	c := &clock{t: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	return peer, r, &preset.Options{
		SMTP: so, DKIM: signer, Now: c.now,
		TLSReports: &preset.TLSReports{
			Organization: "Example Clinic", Contact: "https://example.org/mail", From: "tlsrpt@example.org",
		},
	}, c
}

// inbox takes reports over HTTPS, on loopback, and gives its URI. Its authority is the one that so trusts.
func inbox(t *testing.T, so *smtp.Options) string {
	t.Helper()
	ca := smtppeer.NewCA()
	so.RootCAs, so.AllowPrivate = ca.Pool(), true
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tlsrpt.ParseReport(readAll(r.Body)); err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	web.TLS = ca.Config("127.0.0.1")
	web.StartTLS()
	t.Cleanup(web.Close)
	return web.URL
}

func readAll(r io.Reader) []byte {
	b, _ := io.ReadAll(r)
	return b
}

// What failed today is told tomorrow: to the very host whose TLS is broken, signed, and over a restart between.
func TestATLSReportTellsOfYesterday(t *testing.T) {
	peer, dns, o, c := reporting(t)
	path := filepath.Join(t.TempDir(), "mail.db")
	s, err := preset.Open(t.Context(), path, o)
	require.NoError(t, err)
	send(t, s)
	require.Empty(t, peer.Attempts(), "the floor is not met")
	require.NoError(t, s.Close(), "and what was counted is written")

	c.add(24 * time.Hour)
	s = open(t, path, o)
	n, err := s.Reporter.SendDue(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, n, "by mail and by HTTPS")
	require.Len(t, peer.Messages(), 1)
	m := peer.Messages()[0]
	require.Equal(t, []string{"tls@x.test"}, m.Rcpts)
	require.Equal(t, "tlsrpt@example.org", m.From)
	vs, err := dkim.Verify(t.Context(), dns, bytes.NewReader(m.Data))
	require.NoError(t, err)
	require.Len(t, vs, 1)
	require.Equal(t, dkim.Pass, vs[0].Outcome)
	got, err := tlsrpt.ParseMail(bytes.NewReader(m.Data))
	require.NoError(t, err)
	require.Equal(t, "x.test", got.Domain)
	require.Len(t, got.Report.Policies, 1)
	require.Equal(t, tlsrpt.TLSA, got.Report.Policies[0].Policy.Type)
	require.Equal(t, tlsrpt.STARTTLSNotSupported, got.Report.Policies[0].Details[0].Type)

	for range 3 {
		require.NoError(t, s.Upkeep(t.Context()))
		c.add(12 * time.Hour)
	}
	require.Len(t, peer.Messages(), 1, "once, and there is no report on reports")
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Upkeep(t.Context()), preset.ErrClosed)
}

// Run does all that Upkeep does.
func TestRunReports(t *testing.T) {
	peer, _, o, c := reporting(t)
	path := filepath.Join(t.TempDir(), "mail.db")
	s, err := preset.Open(t.Context(), path, o)
	require.NoError(t, err)
	send(t, s)
	require.NoError(t, s.Close())
	c.add(24 * time.Hour)
	s = open(t, path, o)
	ran := make(chan error, 1)
	go func() { ran <- s.Run(t.Context()) }()
	require.Eventually(t, func() bool { return len(peer.Messages()) == 1 }, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, s.Close())
	require.NoError(t, <-ran)
}

// Without reports there are the policies and the domains to look after, with a Relay nothing.
func TestUpkeepWithoutReports(t *testing.T) {
	_, so := far(t, true)
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{SMTP: so})
	require.Nil(t, s.Sessions)
	require.Nil(t, s.Reporter)
	require.NoError(t, s.Upkeep(t.Context()))
	s = open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{Relay: &smtp.Relay{Addr: "relay.test:587"}})
	require.NoError(t, s.Upkeep(t.Context()))
}

// Mail is signed on its way to a recipient's host; and so is the notice of a deposit, that a smart host takes.
func TestMailIsSigned(t *testing.T) {
	for name, wire := range map[string]func(t *testing.T, o *preset.Options) *smtppeer.Peer{
		"direct": func(t *testing.T, o *preset.Options) *smtppeer.Peer {
			p, so := far(t, true)
			o.SMTP = so
			return p
		},
		"a notice by a relay": func(t *testing.T, o *preset.Options) *smtppeer.Peer {
			p, _ := far(t, false)
			o.SMTP, o.Relay, o.BaseURL = nil, &smtp.Relay{Addr: p.Addr()}, "https://mail.example.org"
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, dns, o, _ := reporting(t)
			o.TLSReports = nil
			peer := wire(t, o)
			s := open(t, filepath.Join(t.TempDir(), "mail.db"), o)
			d := draft()
			d.To[0].Factors = []securemail.Factor{{Kind: "code", Value: securemail.NewSecret("tulip-4711")}}
			_, err := s.Send(t.Context(), d)
			require.NoError(t, err)
			_, err = s.RunDue(t.Context())
			require.NoError(t, err)
			require.Len(t, peer.Messages(), 1)
			vs, err := dkim.Verify(t.Context(), dns, bytes.NewReader(peer.Messages()[0].Data))
			require.NoError(t, err)
			require.Len(t, vs, 1)
			require.Equal(t, dkim.Pass, vs[0].Outcome)
			require.Equal(t, "example.org", vs[0].Domain)
		})
	}
}

func TestTLSReportsThatCanNotBe(t *testing.T) {
	for want, change := range map[string]func(o *preset.Options){
		"Relay":        func(o *preset.Options) { o.Relay = &smtp.Relay{Addr: "relay.test:587"} },
		"SMTP.TLSRPT":  func(o *preset.Options) { o.SMTP.TLSRPT = &tlsrpt.Collector{} },
		"LookupTXT":    func(o *preset.Options) { o.SMTP.Resolver = struct{ smtp.Resolver }{o.SMTP.Resolver} },
		"key in DKIM":  func(o *preset.Options) { o.DKIM = nil },
		"example.com":  func(o *preset.Options) { o.TLSReports.From = "tlsrpt@example.com" },
		"Organization": func(o *preset.Options) { o.TLSReports.Organization = "" },
		"MaxUses":      func(o *preset.Options) { o.SMTP.MaxUses = -1 },
	} {
		t.Run(want, func(t *testing.T) {
			_, _, o, _ := reporting(t)
			change(o)
			_, err := preset.Open(t.Context(), filepath.Join(t.TempDir(), "mail.db"), o)
			require.ErrorContains(t, err, want)
		})
	}
}

// A policy server on a port of its own, as in a laboratory, needs no cache that the host program wires itself.
func TestPoliciesAreFetchedAsTold(t *testing.T) {
	h, err := mtasts.NewHandler(map[string]mtasts.Policy{"x.test": {Mode: mtasts.Enforce, MX: []string{"mx.test"}, MaxAge: time.Hour}})
	require.NoError(t, err)
	ca := smtppeer.NewCA()
	web := httptest.NewUnstartedServer(h)
	web.TLS = ca.Config("mta-sts.x.test")
	web.StartTLS()
	t.Cleanup(web.Close)
	peer, so := far(t, true)
	dns, err := dnspeer.Start(dnspeer.Zone{
		"x.test": {"MX 10 mx.test."}, "mx.test": {"A 127.0.0.1"}, "_mta-sts.x.test": {`TXT "v=STSv1; id=1"`},
	})
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	so.Resolver, err = smtp.DNS(dns.Addr(), nil)
	require.NoError(t, err)
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{SMTP: so, STS: &mtasts.ClientOptions{
		RootCAs: ca.Pool(), AllowPrivate: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, web.Listener.Addr().String())
		},
	}})
	send(t, s)
	require.Len(t, peer.Messages(), 1)
	require.Equal(t, securemail.ProofSTS, state(t, s).Receipt.Proof)

	_, err = preset.Open(t.Context(), filepath.Join(t.TempDir(), "mail.db"), &preset.Options{STS: &mtasts.ClientOptions{Timeout: -1}})
	require.ErrorContains(t, err, "timeout")
}
