package smtp_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// Ten thousand MX records, all of them nonsense, make neither a long reason chain nor a long wait.
func TestManyBadMXRecords(t *testing.T) {
	l := newLab(t)
	var set smtp.MXSet
	for i := range 10_000 {
		set.Hosts = append(set.Hosts, smtp.MX{Host: fmt.Sprintf("192.0.2.%d", i%256)})
	}
	tr := l.transport(func(o *smtp.Options) { o.Resolver = madeUp{set, []netip.Addr{netip.MustParseAddr("192.0.2.1")}} })
	_, err := l.deliver(tr, anyway)
	d := wantDelivery(t, err)
	require.Equal(t, securemail.FateRetry, d.Fate)
	require.NotEmpty(t, d.Wire.Reasons)
	require.Less(t, len(d.Wire.Reasons), 40)
	// And a good one behind them is found.
	l.host("mx1.test", smtppeer.Options{})
	set.Hosts = append(set.Hosts, smtp.MX{Host: "mx1.test", Preference: 1})
	tr = l.transport(func(o *smtp.Options) { o.Resolver = madeUp{set, []netip.Addr{netip.MustParseAddr("192.0.2.1")}} })
	r, err := l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Less(t, len(r.Reasons), 40)
}

// A far end that begins the handshake and then drips holds nobody longer than Total.
func TestTotalTimeHoldsInTheHandshake(t *testing.T) {
	l := newLab(t)
	l.mx(smtppeer.Options{TLS: &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		_, _ = h.Conn.Write([]byte("\x16\x03\x03\x40\x00\x02"))
		_, _ = io.Copy(io.Discard, h.Conn) // until the client has enough
		return nil, io.EOF
	}}})
	tr := l.transport(func(o *smtp.Options) {
		o.Timeouts = smtp.Timeouts{Total: 500 * time.Millisecond}
	})
	begin := time.Now()
	_, err := l.deliver(tr, named)
	t.Log(err, time.Since(begin))
	require.Error(t, err)
	require.Less(t, time.Since(begin), 30*time.Second)
}

// A host with ten thousand addresses is tried at a few.
func TestManyAddresses(t *testing.T) {
	l := newLab(t)
	var mu sync.Mutex
	dials := 0
	addrs := make([]netip.Addr, 10_000)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
	}
	tr := l.transport(func(o *smtp.Options) {
		o.Resolver = madeUp{smtp.MXSet{Hosts: []smtp.MX{{Host: "mx1.test"}, {Host: "mx2.test", Preference: 1}, {Host: "mx3.test", Preference: 2}}}, addrs}
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dials++
			return nil, syscall.ECONNREFUSED
		}
	})
	_, err := l.deliver(tr, anyway)
	require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
	require.Equal(t, 8, dials)
}

// Certificates that nobody needs cost little time, and prove nothing: hundreds are looked through, thousands refused.
func TestHugeCertificateChains(t *testing.T) {
	leaf, own := ca.Cert("mx1.test"), smtppeer.SelfSigned("mx1.test")
	junk := smtppeer.NewCA().Cert("junk.test").Certificate[0]
	for _, c := range []struct {
		cert      tls.Certificate
		more      int
		delivered bool
	}{{leaf, 300, true}, {own, 300, false}, {leaf, 3000, false}} {
		l := newLab(t)
		cert := c.cert
		cert.Certificate = slices.Clone(cert.Certificate)
		for range c.more {
			cert.Certificate = append(cert.Certificate, junk)
		}
		p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(cert)})
		begin := time.Now()
		r, err := l.deliver(l.transport(nil), named)
		require.Less(t, time.Since(begin), 30*time.Second)
		if c.delivered {
			require.NoError(t, err)
			require.Equal(t, securemail.ProofPKIX, r.Proof)
			continue
		}
		wantChannel(t, err)
		untouched(t, p)
		// DANE looks at no more than it must either.
		l.tlsa("mx1.test", record(t, smtppeer.SelfSigned("x.test").Leaf, 2, 0, 1))
		begin = time.Now()
		_, err = l.deliver(l.transport(nil), anyway)
		require.Less(t, time.Since(begin), 30*time.Second)
		wantChannel(t, err)
		untouched(t, p)
	}
}
