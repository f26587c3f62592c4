//go:build interop

package interop_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificate is one with its key.
type certificate struct {
	*x509.Certificate
	key crypto.Signer
}

// maker makes certificates. Its keys are few: making them takes time.
type maker struct {
	t      *testing.T
	keys   map[string]crypto.Signer
	serial int64
	begin  time.Time
}

func newMaker(t *testing.T) *maker {
	return &maker{t: t, keys: map[string]crypto.Signer{}, begin: time.Now()}
}

// key is the one of a name; what the name begins with says its kind.
func (m *maker) key(name string) crypto.Signer {
	if m.keys[name] == nil {
		var k crypto.Signer
		var err error
		switch {
		case strings.HasPrefix(name, "rsa"):
			k, err = rsa.GenerateKey(rand.Reader, 2048)
		case strings.HasPrefix(name, "ed25519"):
			_, k, err = ed25519.GenerateKey(rand.Reader)
		case strings.HasPrefix(name, "p384"):
			k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		default:
			k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		require.NoError(m.t, err)
		m.keys[name] = k
	}
	return m.keys[name]
}

// make issues a certificate; issuer is nil for a self-signed one.
func (m *maker) make(subject, key string, issuer *certificate, change func(*x509.Certificate)) *certificate {
	m.serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(m.serial), Subject: pkix.Name{CommonName: subject},
		NotBefore: m.begin.Add(-24 * time.Hour), NotAfter: m.begin.Add(24 * time.Hour),
	}
	if change != nil {
		change(c)
	}
	if issuer == nil {
		issuer = &certificate{c, m.key(key)}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer.Certificate, m.key(key).Public(), issuer.key)
	require.NoError(m.t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(m.t, err)
	return &certificate{parsed, m.key(key)}
}

// family is a root, an intermediate and a host's certificate under it, and others that have to do with none of them.
type family struct{ root, inter, leaf, other *certificate }

// kin says how a family is made; the zero one is without fault, but has no name.
type kin struct {
	names           []string
	cn              string
	late            string // who has expired
	early           string // who is not valid yet
	keys            string // the kind of them
	interCA, rootCA func(*x509.Certificate)
	leafChange      func(*x509.Certificate)
}

func (m *maker) family(k kin) family {
	dated := func(who string, c *x509.Certificate) {
		if who == k.late {
			c.NotBefore, c.NotAfter = m.begin.Add(-48*time.Hour), m.begin.Add(-24*time.Hour)
		}
		if who == k.early {
			c.NotBefore, c.NotAfter = m.begin.Add(24*time.Hour), m.begin.Add(48*time.Hour)
		}
	}
	authority := func(who string, more func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.BasicConstraintsValid, c.IsCA, c.KeyUsage = true, true, x509.KeyUsageCertSign
			dated(who, c)
			if more != nil {
				more(c)
			}
		}
	}
	var f family
	f.root = m.make("Root", k.keys+"root", nil, authority("root", k.rootCA))
	f.inter = m.make("Inter", k.keys+"inter", f.root, authority("inter", k.interCA))
	f.leaf = m.make(k.cn, k.keys+"leaf", f.inter, func(c *x509.Certificate) {
		c.DNSNames = k.names
		dated("leaf", c)
		if k.leafChange != nil {
			k.leafChange(c)
		}
	})
	f.other = m.make("Other", "other", nil, authority("other", nil))
	return f
}

func (f family) by(who string) *certificate {
	return map[string]*certificate{"root": f.root, "inter": f.inter, "leaf": f.leaf, "other": f.other}[who]
}

// chain is what a host sends; shape names its certificates, the host's own first.
func (f family) chain(shape string) tls.Certificate {
	c := tls.Certificate{PrivateKey: f.by(strings.Fields(shape)[0]).key}
	for _, who := range strings.Fields(shape) {
		c.Certificate = append(c.Certificate, f.by(who).Raw)
	}
	return c
}

// farEnd is a mail host with TLS that takes no mail.
type farEnd struct {
	ln     net.Listener
	config *tls.Config

	wg    sync.WaitGroup
	mu    sync.Mutex // guards names
	names []string   // the server names asked for
}

func newFarEnd(t *testing.T, ip string, cert tls.Certificate) *farEnd {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "25"))
	require.NoError(t, err)
	f := &farEnd{ln: ln}
	f.config = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.names = append(f.names, h.ServerName)
		return &cert, nil
	}}
	f.wg.Go(f.accept)
	t.Cleanup(func() { ln.Close(); f.wg.Wait() })
	return f
}

// serverNames are the server names that clients asked for, each once.
func (f *farEnd) serverNames() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.names...)
}

func (f *farEnd) accept() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.wg.Go(func() { f.serve(c) })
	}
}

func (f *farEnd) serve(c net.Conn) {
	defer func() { c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	br := bufio.NewReader(c)
	starttls := "250-STARTTLS\r\n"
	fmt.Fprint(c, "220 far.test ESMTP\r\n")
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(strings.ToUpper(line)), " "); verb {
		case "EHLO":
			fmt.Fprintf(c, "250-far.test\r\n%s250 8BITMIME\r\n", starttls)
		case "STARTTLS":
			fmt.Fprint(c, "220 go ahead\r\n")
			over := tls.Server(c, f.config)
			if over.Handshake() != nil {
				return
			}
			c, br, starttls = over, bufio.NewReader(over), ""
		case "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "502 not here\r\n")
		}
	}
}
