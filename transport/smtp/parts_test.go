package smtp_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/smtp"
)

func TestShelf(t *testing.T) {
	now := time.Unix(0, 0)
	s := smtp.NewShelf(3, func() time.Time { return now })
	s.Put("never", "x", 0)
	s.Put("short", "x", time.Second)
	s.Put("long", "x", time.Minute)
	require.Equal(t, 2, s.Len())
	now = now.Add(time.Second)
	_, ok := s.Get("short")
	require.False(t, ok)
	v, ok := s.Get("long")
	require.True(t, ok)
	require.Equal(t, "x", v)
	for i := range 100 {
		s.Put(fmt.Sprint(i), "x", time.Hour)
		require.LessOrEqual(t, s.Len(), 3)
	}
	now = now.Add(2 * time.Hour)
	s.Put("last", "x", time.Hour)
	require.Equal(t, 1, s.Len())
}

func TestHandshakeRules(t *testing.T) {
	for rule, err := range map[string]error{
		"tls-timeout":   os.ErrDeadlineExceeded,
		"tls-version":   errors.New("tls: server selected unsupported protocol version 301"),
		"tls-alert":     &net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")},
		"tls-closed":    io.EOF,
		"tls-handshake": errors.New("tls: something else"),
	} {
		got, _ := smtp.HandshakeRule(err)
		require.Equal(t, rule, got)
	}
	rule, temporary := smtp.HandshakeRule(&net.OpError{Op: "read", Err: syscall.ECONNRESET})
	require.Equal(t, "tls-closed", rule)
	require.True(t, temporary)
}

func TestPKIXRules(t *testing.T) {
	require.Equal(t, "pkix-invalid", smtp.PKIXRule(x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}))
	require.Equal(t, "pkix-invalid", smtp.PKIXRule(x509.SystemRootsError{}))
	require.Equal(t, "expired", smtp.PKIXRule(fmt.Errorf("x: %w", x509.CertificateInvalidError{Reason: x509.Expired})))
}

func TestLiteral(t *testing.T) {
	require.Equal(t, "[192.0.2.1]", smtp.Literal(&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 25}))
	require.Equal(t, "[IPv6:2001:db8::1]", smtp.Literal(&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Zone: "eth0"}))
	require.Equal(t, "localhost", smtp.Literal(&net.UnixAddr{}))
}
