package smtp_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

func count(lines []string, want string) int {
	n := 0
	for _, l := range lines {
		if l == want {
			n++
		}
	}
	return n
}

func TestReuse(t *testing.T) {
	for _, ext := range []string{"PIPELINING", "X-NONE"} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: []string{ext}})
		tr := l.transport(nil)
		for range 3 {
			_, err := l.deliver(tr, named)
			require.NoError(t, err)
		}
		require.Equal(t, 1, p.Connections())
		require.Len(t, p.Messages(), 3)
		require.Zero(t, count(p.Transcript(), "RSET"), "a message that was taken ended its transaction")
		require.Equal(t, 1, tr.Idle())
		tr.CloseIdle()
		require.Zero(t, tr.Idle())
		require.Eventually(t, func() bool { return count(p.Transcript(), "QUIT") == 1 && p.Open() == 0 }, 10*time.Second, time.Millisecond)
	}
}

func TestMaxUsesAndNoReuse(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	tr := l.transport(func(o *smtp.Options) { o.MaxUses = 2 })
	for range 4 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Connections())
	tr = l.transport(func(o *smtp.Options) { o.MaxIdle = -1 })
	for range 2 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 4, p.Connections())
	require.Zero(t, tr.Idle())
}

// Trap 22: a server may close at any time; the message goes once more, over a fresh connection.
func TestClosedWhileIdle(t *testing.T) {
	for _, ext := range []string{"PIPELINING", "X-NONE"} {
		for _, stage := range []smtppeer.Stage{smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageData} {
			for name, a := range map[string]smtppeer.Action{"421": {Code: 421, Text: "4.4.2 idle", Close: true}, "closed": smtppeer.Drop()} {
				t.Run(ext+"/"+string(stage)+"/"+name, func(t *testing.T) {
					l := newLab(t)
					p := l.mx(smtppeer.Options{Extensions: []string{ext}, Hook: func(e smtppeer.Event) *smtppeer.Action {
						if e.Stage == stage && e.Conn == 1 && e.Taken == 1 {
							return &a
						}
						return nil
					}})
					tr := l.transport(nil)
					for range 2 {
						_, err := l.deliver(tr, anyway)
						require.NoError(t, err)
					}
					require.Equal(t, 2, p.Connections())
					require.Len(t, p.Messages(), 2)
				})
			}
		}
	}
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	tr := l.transport(nil)
	for range 3 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
		p.Drop()
		require.Eventually(t, func() bool { return p.Open() == 0 }, 10*time.Second, time.Millisecond)
	}
	require.Len(t, p.Messages(), 3)
}

// A server that has enough of a session may say so at RSET, with any code, as Exim does behind ten refused recipients: that
// is no word on the mail.
func TestResetRefused(t *testing.T) {
	for _, ext := range []string{"PIPELINING", "X-NONE"} {
		for _, end := range []bool{true, false} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: []string{ext}, Rcpt: nobody, Hook: func(e smtppeer.Event) *smtppeer.Action {
				if e.Stage == smtppeer.StageReset {
					return &smtppeer.Action{Code: 554, Text: "Too many nonmail commands", Close: end}
				}
				return nil
			}})
			tr := l.transport(nil)
			s := shipment(t, anyway, hello)
			s.Recipient.Address = address(t, "nobody@clinic.test")
			for range 3 {
				_, err := l.ship(tr, s)
				require.Equal(t, 550, wantDelivery(t, err).Code)
				_, err = l.deliver(tr, anyway)
				require.NoError(t, err)
			}
			require.Equal(t, 4, p.Connections())
			require.Len(t, p.Messages(), 3)
		}
	}
}

func TestOnlyOneFreshConnection(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Hook: func(e smtppeer.Event) *smtppeer.Action {
		if e.Stage == smtppeer.StageMail && e.N > 1 {
			return &smtppeer.Action{Code: 421, Text: "4.4.2 x", Close: true}
		}
		return nil
	}})
	tr := l.transport(nil)
	_, err := l.deliver(tr, anyway)
	require.NoError(t, err)
	_, err = l.deliver(tr, anyway)
	require.Equal(t, 421, wantDelivery(t, err).Code)
	require.Equal(t, 2, p.Connections())
}

// Trap 22: never again once the dot is out, on a kept connection too.
func TestKeptConnectionLostAfterTheDot(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Hook: func(e smtppeer.Event) *smtppeer.Action {
		if e.Stage == smtppeer.StageDot && e.N == 2 {
			return &smtppeer.Action{Close: true}
		}
		return nil
	}})
	tr := l.transport(nil)
	_, err := l.deliver(tr, anyway)
	require.NoError(t, err)
	_, err = l.deliver(tr, anyway)
	require.Equal(t, securemail.FateUncertain, wantDelivery(t, err).Fate)
	require.Len(t, p.Messages(), 2)
	require.Equal(t, 1, p.Connections())
}

// Traps 18 and 19: a refused recipient leaves the connection to the next message, and nothing of its own: RSET comes first.
func TestRefusalDoesNotDisturbTheNext(t *testing.T) {
	for _, ext := range []string{"PIPELINING", "X-NONE"} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: []string{ext}, Rcpt: nobody})
		tr := l.transport(nil)
		s := shipment(t, anyway, hello)
		s.Recipient.Address = address(t, "nobody@clinic.test")
		s.ReturnPath = address(t, "other@sender.test")
		_, err := l.ship(tr, s)
		require.Equal(t, 550, wantDelivery(t, err).Code)
		_, err = l.deliver(tr, anyway)
		require.NoError(t, err)
		require.Equal(t, 1, p.Connections())
		require.Equal(t, "bounce@sender.test", p.Messages()[0].From)
		require.Equal(t, 1, count(p.Transcript(), "RSET"), "behind the refusal")
		_, err = l.deliver(tr, anyway)
		require.NoError(t, err)
		require.Equal(t, 1, count(p.Transcript(), "RSET"))
	}
}

// nobody refuses him.
func nobody(a string) *smtppeer.Action {
	if strings.HasPrefix(a, "nobody") {
		return &smtppeer.Action{Code: 550, Text: "5.1.1 no"}
	}
	return nil
}

// Trap 12: one mail host, two domains with different demands, and demands of different height, never share a connection.
func TestPoolKey(t *testing.T) {
	self := smtppeer.SelfSigned("mx1.test")
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(self)})
	l.records("pinned.test", "MX 1 mx1.test.")
	l.records("broken.test", "MX 1 mx1.test.")
	tr := l.transport(func(o *smtp.Options) {
		o.Pins = map[string]smtp.Pin{
			"pinned.test": {SPKI: [][32]byte{sha256.Sum256(self.Leaf.RawSubjectPublicKeyInfo)}},
			"broken.test": {SPKI: [][32]byte{{1}}},
		}
	})
	to := func(domain string, floor securemail.Channel, require bool) error {
		s := shipment(t, floor, hello)
		s.Recipient.Address = address(t, "a@"+domain)
		s.RequireTLS = require
		_, err := l.ship(tr, s)
		return err
	}
	require.NoError(t, to("clinic.test", encrypted, false))
	require.NoError(t, to("pinned.test", verified, false))
	require.Equal(t, 2, p.Connections())
	require.ErrorIs(t, to("broken.test", encrypted, false), securemail.ErrChannel)
	require.ErrorIs(t, to("clinic.test", named, false), securemail.ErrChannel)
	require.ErrorIs(t, to("pinned.test", encrypted, true), securemail.ErrChannel)
	require.NoError(t, to("pinned.test", verified, false))
	require.NoError(t, to("clinic.test", encrypted, false))
	require.Equal(t, 5, p.Connections())
}

// Trap 12, RFC 8689: mail that requires TLS has connections of its own.
func TestRequireTLSHasItsOwnConnection(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: []string{"REQUIRETLS"}})
	l.records("clinic.test", dnspeer.Secure)
	tr := l.transport(nil)
	for _, required := range []bool{false, true, false, true} {
		s := shipment(t, named, hello)
		s.RequireTLS = required
		_, err := l.ship(tr, s)
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Connections())
}

// A context that ends with the delivery has touched the connection's deadlines: it is not kept.
func TestConnectionOfAnEndedContextIsNotKept(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	tr := l.transport(func(o *smtp.Options) {
		o.Now = func() time.Time {
			if len(p.Messages()) == 1 {
				cancel()
			}
			return time.Now()
		}
	})
	_, err := tr.Deliver(ctx, shipment(t, anyway, hello))
	require.NoError(t, err)
	require.Zero(t, tr.Idle())
}

// A kept connection is judged again: certificates expire and agreements end.
func TestKeptConnectionIsJudgedAgain(t *testing.T) {
	now := time.Date(2089, 12, 31, 23, 59, 0, 0, time.UTC)
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	tr := l.transport(func(o *smtp.Options) { o.Now = func() time.Time { return now } })
	_, err := l.deliver(tr, named)
	require.NoError(t, err)
	now = now.Add(2 * time.Minute)
	_, err = l.deliver(tr, named)
	require.Equal(t, "expired name-not-proved", rules(wantChannel(t, err).Wire.Reasons))
	require.Len(t, p.Messages(), 1)
	require.Zero(t, tr.Idle())
}

// A host that renewed its certificate meanwhile gets the message over a fresh connection.
func TestRenewedCertificate(t *testing.T) {
	now := time.Date(1990, 6, 1, 0, 0, 0, 0, time.UTC)
	old, renewed := ca.Expired("mx1.test"), ca.Cert("mx1.test")
	shown := 0
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if shown++; shown == 1 {
			return &old, nil
		}
		return &renewed, nil
	}}})
	tr := l.transport(func(o *smtp.Options) { o.Now = func() time.Time { return now } })
	_, err := l.deliver(tr, named)
	require.NoError(t, err)
	now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err = l.deliver(tr, named)
	require.NoError(t, err)
	require.Equal(t, 2, p.Connections())
}

func TestClose(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	tr := l.transport(nil)
	_, err := l.deliver(tr, anyway)
	require.NoError(t, err)
	require.NoError(t, tr.Close())
	require.NoError(t, tr.Close())
	require.Zero(t, tr.Idle())
	_, err = l.deliver(tr, anyway)
	require.ErrorIs(t, err, smtp.ErrClosed)
	require.Eventually(t, func() bool { return p.Open() == 0 }, 10*time.Second, time.Millisecond)

	// A delivery under way ends well, and keeps nothing.
	tr = l.transport(nil)
	s := shipment(t, anyway, hello)
	s.OnIntend = func(context.Context) error { return tr.Close() }
	_, err = l.ship(tr, s)
	require.NoError(t, err)
	require.Zero(t, tr.Idle())
}

// A full pool lets the one go that was idle longest.
func TestFullPool(t *testing.T) {
	l := newLab(t)
	hosts := map[string]*smtppeer.Peer{}
	for _, d := range []string{"a.test", "b.test", "c.test"} {
		hosts[d] = l.host(d, smtppeer.Options{})
	}
	tr := l.transport(func(o *smtp.Options) { o.MaxIdle = 2 })
	for _, d := range []string{"a.test", "b.test", "c.test", "c.test", "b.test", "a.test"} {
		s := shipment(t, anyway, hello)
		s.Recipient.Address = address(t, "x@"+d)
		_, err := l.ship(tr, s)
		require.NoError(t, err)
		require.LessOrEqual(t, tr.Idle(), 2)
	}
	require.Equal(t, 2, hosts["a.test"].Connections())
	require.Equal(t, 1, hosts["b.test"].Connections())
	require.Equal(t, 1, hosts["c.test"].Connections())
}

func TestManyAtOnce(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	tr := l.transport(func(o *smtp.Options) { o.MaxIdlePerHost = 3 })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := tr.Deliver(context.Background(), shipment(t, named, hello)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, p.Messages(), 160)
	for _, m := range p.Messages() {
		require.Equal(t, hello, string(m.Data))
	}
	require.LessOrEqual(t, tr.Idle(), 3)
}

// fixed is a Resolver that knows one host for all.
type fixed struct{}

func (fixed) MX(context.Context, string) (smtp.MXSet, error) {
	return smtp.MXSet{Hosts: []smtp.MX{{Host: "mx.test", Preference: 1}}}, nil
}

func (fixed) Addrs(context.Context, string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: addrs("192.0.2.1")}, nil
}

// bubble makes a Transport whose connections are pipes to p, for a synctest bubble.
func bubble(t *testing.T, p *smtppeer.Peer, change func(*smtp.Options)) *smtp.Transport {
	o := &smtp.Options{HELO: "client.test", Resolver: fixed{}, Dial: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go p.Serve(b)
		return a, nil
	}}
	if change != nil {
		change(o)
	}
	tr, err := smtp.New(o)
	require.NoError(t, err)
	return tr
}

func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := smtppeer.New(smtppeer.Options{})
		tr := bubble(t, p, func(o *smtp.Options) { o.IdleTimeout = time.Minute })
		for range 2 {
			_, err := tr.Deliver(t.Context(), shipment(t, anyway, hello))
			require.NoError(t, err)
			time.Sleep(59 * time.Second)
		}
		require.Equal(t, 1, p.Connections())
		require.Equal(t, 1, tr.Idle())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Zero(t, tr.Idle())
		require.Zero(t, p.Open())
		_, err := tr.Deliver(t.Context(), shipment(t, anyway, hello))
		require.NoError(t, err)
		require.NoError(t, tr.Close())
	})
}

// RFC 5321 section 4.5.3.2: how long each stage waits by default.
func TestTimeouts(t *testing.T) {
	cases := []struct {
		stage smtppeer.Stage
		wait  time.Duration
		fate  securemail.Fate
	}{
		{smtppeer.StageGreeting, 5 * time.Minute, securemail.FateRetry},
		{smtppeer.StageEHLO, 5 * time.Minute, securemail.FateRetry},
		{smtppeer.StageMail, 5 * time.Minute, securemail.FateRetry},
		{smtppeer.StageRcpt, 5 * time.Minute, securemail.FateRetry},
		{smtppeer.StageData, 2 * time.Minute, securemail.FateRetry},
		{smtppeer.StageDot, 10 * time.Minute, securemail.FateUncertain},
	}
	for _, ext := range []string{"PIPELINING", "X-NONE"} {
		for _, c := range cases {
			synctest.Test(t, func(t *testing.T) {
				p := smtppeer.New(smtppeer.Options{Extensions: []string{ext}, On: on(c.stage, smtppeer.Stall())})
				tr := bubble(t, p, nil)
				begin := time.Now()
				_, err := tr.Deliver(t.Context(), shipment(t, anyway, hello))
				d := wantDelivery(t, err)
				require.Equal(t, string(c.stage), d.Stage)
				require.Equal(t, c.fate, d.Fate)
				require.ErrorContains(t, err, "did not answer in time")
				require.Equal(t, c.wait, time.Since(begin))
				require.NoError(t, tr.Close())
				synctest.Wait()
			})
		}
	}
}

// A far end that stops reading holds a data block for three minutes, not for ever.
func TestDataBlockTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := smtppeer.New(smtppeer.Options{On: on(smtppeer.StageBody, smtppeer.Action{Delay: 24 * time.Hour})})
		tr := bubble(t, p, nil)
		begin := time.Now()
		_, err := tr.Deliver(t.Context(), shipment(t, anyway, hello+strings.Repeat("0123456789\r\n", 100_000)))
		d := wantDelivery(t, err)
		require.Equal(t, "data", d.Stage)
		require.Equal(t, securemail.FateRetry, d.Fate)
		require.InDelta(t, 3*time.Minute, time.Since(begin), float64(5*time.Second))
		p.Close()
		require.NoError(t, tr.Close())
		synctest.Wait()
	})
}
