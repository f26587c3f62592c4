package smtp_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// chachaEnv makes this test's binary a far end: run on a processor without AES instructions, as far as it can see, Go's TLS
// server prefers ChaCha20 to all else.
const chachaEnv = "POSTSEAL_TEST_CHACHA_PEER"

func TestMain(m *testing.M) {
	if os.Getenv(chachaEnv) != "" {
		p, err := smtppeer.Start(smtppeer.Options{Hostname: "mx1.test", TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test"))})
		if err != nil {
			os.Exit(1)
		}
		fmt.Println(p.Addr())
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Println(len(p.Messages()))
		for _, line := range p.Transcript() {
			fmt.Println(line)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// Trap 16: ChaCha20, which crypto/tls can't leave out of its offer, ends the session before MAIL.
func TestChaCha20IsRefusedBeforeMail(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("crypto/tls itself leaves ChaCha20 out then")
	}
	for floor, delivered := range map[securemail.Channel]bool{encrypted: false, named: false, anyway: true} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), chachaEnv+"=1", "GODEBUG=cpu.all=off")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		addr := lines.Text()

		l := newLab(t)
		l.mx(smtppeer.Options{})
		tr := l.transport(func(o *smtp.Options) {
			o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		})
		r, err := l.deliver(tr, floor)
		if delivered {
			require.NoError(t, err)
			require.EqualValues(t, tls.TLS_CHACHA20_POLY1305_SHA256, r.TLS.Suite, "the far end does not do what it is for")
			require.Equal(t, "profile-suite pkix-untrusted", rules(r.Reasons))
		} else {
			ce := wantChannel(t, err)
			require.Equal(t, "profile-suite", rules(ce.Wire.Reasons))
			require.False(t, ce.Temporary)
			require.Nil(t, ce.Wire.TLS)
		}
		require.NoError(t, in.Close())
		lines.Scan()
		require.Equal(t, map[bool]string{true: "1", false: "0"}[delivered], lines.Text())
		for lines.Scan() {
			if !delivered {
				require.NotContains(t, lines.Text(), "MAIL")
				require.NotContains(t, lines.Text(), canary)
			}
		}
		require.NoError(t, cmd.Wait())
	}
}

// What each profile takes of real servers. A refused one saw nothing of the mail.
func TestProfilesAtTheWire(t *testing.T) {
	cert := ca.Cert("mx1.test")
	server := func(change func(c *tls.Config)) *tls.Config {
		c := smtppeer.ServerConfig(cert)
		change(c)
		return c
	}
	tls12 := func(suite uint16) *tls.Config {
		return server(func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite} })
	}
	group := func(g tls.CurveID) *tls.Config {
		return server(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{g} })
	}
	for _, c := range []struct {
		name         string
		tls          *tls.Config
		nist, strict bool
		group        tls.CurveID
	}{
		{"default", server(func(*tls.Config) {}), true, true, tls.X25519MLKEM768},
		{"P-256", group(tls.CurveP256), true, true, tls.CurveP256},
		{"P-384", group(tls.CurveP384), true, true, tls.CurveP384},
		{"P-521", group(tls.CurveP521), true, true, tls.CurveP521},
		{"SecP256r1MLKEM768", group(tls.SecP256r1MLKEM768), true, true, tls.SecP256r1MLKEM768},
		{"SecP384r1MLKEM1024", group(tls.SecP384r1MLKEM1024), true, true, tls.SecP384r1MLKEM1024},
		{"X25519", group(tls.X25519), false, false, 0},
		{"GCM", tls12(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), true, true, tls.CurveP256},
		{"CBC", tls12(tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA), !fips140.Enabled(), false, tls.CurveP256},
		{"ChaCha20", tls12(tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256), false, false, 0},
		{"RC4", tls12(tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA), false, false, 0},
		{"TLS 1.0", smtppeer.TLS10(cert), false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: c.tls})
			for profile, ok := range map[smtp.Profile]bool{smtp.NIST80052r2: c.nist, smtp.Strict: c.strict} {
				tr := l.transport(func(o *smtp.Options) { o.Profile = profile })
				p.Reset()
				r, err := l.deliver(tr, named)
				route, perr := tr.Probe(t.Context(), "", "clinic.test")
				require.NoError(t, perr)
				require.True(t, route.Known)
				require.Equal(t, ok, route.Meets(named), "%v", route.Reasons)
				if !ok {
					wantChannel(t, err)
					untouched(t, p)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, c.group, r.TLS.Group)
			}
		})
	}
}

func TestProfileVerify(t *testing.T) {
	p256 := &ecdsa.PublicKey{Curve: elliptic.P256()}
	rsaKey := func(bits uint) *rsa.PublicKey {
		return &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}
	}
	chain := func(key any, alg x509.SignatureAlgorithm) []*x509.Certificate {
		return []*x509.Certificate{{PublicKey: key, SignatureAlgorithm: alg, RawIssuer: []byte("ca"), RawSubject: []byte("leaf")}}
	}
	good := func() *tls.ConnectionState {
		return &tls.ConnectionState{
			Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_256_GCM_SHA384, CurveID: tls.CurveP256,
			PeerCertificates: chain(p256, x509.ECDSAWithSHA256),
		}
	}
	for _, c := range []struct {
		rule  string
		alter func(cs *tls.ConnectionState)
	}{
		{"", func(*tls.ConnectionState) {}},
		{"profile-version", func(cs *tls.ConnectionState) { cs.Version = tls.VersionTLS11 }},
		{"profile-version", func(cs *tls.ConnectionState) { cs.Version = 0x0305 }},
		{"profile-suite", func(cs *tls.ConnectionState) { cs.CipherSuite = tls.TLS_CHACHA20_POLY1305_SHA256 }},
		{"profile-suite", func(cs *tls.ConnectionState) {
			cs.Version, cs.CipherSuite = tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA
		}},
		{"profile-suite", func(cs *tls.ConnectionState) {
			cs.Version, cs.CipherSuite = tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256
		}},
		{"profile-suite", func(cs *tls.ConnectionState) { cs.Version = tls.VersionTLS12 }},
		{"profile-group", func(cs *tls.ConnectionState) { cs.CurveID = tls.X25519 }},
		{"profile-group", func(cs *tls.ConnectionState) { cs.CurveID = 0 }},
		{"profile-key", func(cs *tls.ConnectionState) { cs.PeerCertificates = nil }},
		{"profile-key", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain(rsaKey(1024), x509.SHA256WithRSA) }},
		{"profile-key", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain("dsa", x509.SHA256WithRSA) }},
		{"profile-key", func(cs *tls.ConnectionState) {
			cs.PeerCertificates = append(cs.PeerCertificates, chain(rsaKey(2047), x509.SHA256WithRSA)...)
		}},
		{"", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain(rsaKey(2048), x509.SHA256WithRSAPSS) }},
		{"", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain(ed25519.PublicKey{}, x509.PureEd25519) }},
		{"", func(cs *tls.ConnectionState) {
			cs.PeerCertificates = chain(&ecdsa.PublicKey{Curve: elliptic.P224()}, x509.ECDSAWithSHA512)
		}},
		{"profile-signature", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain(p256, x509.SHA1WithRSA) }},
		{"profile-signature", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain(p256, x509.MD5WithRSA) }},
		{"profile-signature", func(cs *tls.ConnectionState) { cs.PeerCertificates = chain(p256, x509.UnknownSignatureAlgorithm) }},
		{"profile-signature", func(cs *tls.ConnectionState) {
			cs.PeerCertificates = append(cs.PeerCertificates, chain(p256, x509.ECDSAWithSHA1)...)
		}},
		{"", func(cs *tls.ConnectionState) { // a root's own signature proves nothing
			cs.PeerCertificates = append(cs.PeerCertificates, chain(p256, x509.SHA1WithRSA)...)
			cs.PeerCertificates[1].RawSubject = []byte("ca")
		}},
	} {
		for _, p := range []smtp.Profile{smtp.NIST80052r2, smtp.Strict} {
			cs := good()
			c.alter(cs)
			err := p.Verify(cs)
			if c.rule == "" {
				require.NoError(t, err)
				continue
			}
			pe, ok := errorAs[*smtp.ProfileError](err)
			require.True(t, ok)
			require.Equal(t, c.rule, pe.Rule)
			require.Contains(t, err.Error(), c.rule)
		}
	}
	cs := good()
	cs.Version, cs.CipherSuite = tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA
	require.NoError(t, smtp.NIST80052r2.Verify(cs))
	require.Error(t, smtp.Strict.Verify(cs))
	require.Equal(t, "nist-800-52r2 nist-strict", smtp.NIST80052r2.String()+" "+smtp.Strict.String())
	_, err := smtp.New(&smtp.Options{Profile: smtp.Strict + 1})
	require.Error(t, err)
}

// Trap 17: a network that drops the large ClientHello gets a small one, once, and keeps TLS.
func TestLargeHelloDropped(t *testing.T) {
	for _, how := range []smtppeer.Action{smtppeer.Stall(), smtppeer.Drop()} {
		for _, floor := range []securemail.Channel{named, encrypted, anyway} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Hook: func(e smtppeer.Event) *smtppeer.Action {
				if e.Stage == smtppeer.StageHandshake && e.N == 1 {
					return &how
				}
				return nil
			}})
			now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
			tr := l.transport(func(o *smtp.Options) {
				o.Timeouts.Hello, o.MaxUses = 100*time.Millisecond, 1
				o.Now = func() time.Time { return now }
			})
			for i := range 3 {
				r, err := l.deliver(tr, floor)
				require.NoError(t, err)
				want := "hello-classical pkix"
				group := tls.CurveP256
				if floor == anyway && !fips140.Enabled() { // where the far end's choice is free
					want, group = "hello-classical profile-group pkix", tls.X25519
				}
				require.Equal(t, want, rules(r.Reasons))
				require.Equal(t, group, r.TLS.Group)
				require.Equal(t, i+2, p.Connections(), "the host is remembered")
			}
			now = now.Add(24 * time.Hour)
			r, err := l.deliver(tr, floor)
			require.NoError(t, err)
			require.Equal(t, "pkix", rules(r.Reasons))
			require.Equal(t, tls.X25519MLKEM768, r.TLS.Group)
		}
	}
}

// An answer, even a refusal, is no reason for a second try; and a second silence is none to go below the floor.
func TestSmallHelloIsNoWayAround(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx1.test"))})
	_, err := l.deliver(l.transport(nil), encrypted)
	wantChannel(t, err)
	require.Equal(t, 1, p.Connections())

	l = newLab(t)
	p = l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageHandshake, smtppeer.Drop())})
	_, err = l.deliver(l.transport(nil), encrypted)
	require.True(t, wantChannel(t, err).Temporary)
	require.Equal(t, 2, p.Connections())
	untouched(t, p)
}
