package smtp_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/netip"
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
	require.Less(t, time.Since(begin), 5*time.Second)
}
