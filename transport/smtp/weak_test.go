package smtp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// issuer is an authority with an RSA key, which can sign with SHA-1.
type issuer struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	tm := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tm, tm, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &issuer{cert, key}
}

// below makes an authority with that key under i.
func (i *issuer) below(t *testing.T, key *rsa.PrivateKey) *issuer {
	t.Helper()
	tm := *i.cert
	tm.SerialNumber, tm.Subject = big.NewInt(3), pkix.Name{CommonName: "small CA"}
	der, err := x509.CreateCertificate(rand.Reader, &tm, i.cert, key.Public(), i.key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &issuer{cert, key}
}

func (i *issuer) issue(t *testing.T, key crypto.Signer, alg x509.SignatureAlgorithm) tls.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"mx1.test"}, SignatureAlgorithm: alg,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, i.cert, key.Public(), i.key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der, i.cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// enforce publishes a policy for mx1.test.
func (l *lab) enforce(o *smtp.Options) {
	h := l.policyHost()
	l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
	o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
}

// Keys and signatures below the profile, from the wire to the verdict, for each floor and policy: they are no TLS, whoever
// vouches for them. Only mail that could go in the clear, with no policy that binds, goes over such TLS. A signature that
// nothing rests on, since a record names the key itself, does not count.
func TestWeakCertificatesAtTheWire(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("the far end can't be made that weak")
	}
	old := newIssuer(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for _, c := range []struct {
		name, rule string
		cert       tls.Certificate
		keyed      bool // good enough where the key is named
	}{
		{"RSA 1024", "profile-key", old.issue(t, small, x509.SHA256WithRSA), false},
		{"SHA-1", "profile-signature", old.issue(t, p256, x509.SHA1WithRSA), true},
		{"issuer of RSA 1024", "profile-key", old.below(t, small).issue(t, p256, x509.SHA256WithRSA), true},
		{"P-224", "", old.issue(t, p224, x509.SHA256WithRSA), true},
	} {
		for policy, arrange := range map[string]func(l *lab, o *smtp.Options){
			"none":     func(*lab, *smtp.Options) {},
			"key":      func(l *lab, _ *smtp.Options) { l.tlsa("mx1.test", record(l, c.cert.Leaf, 3, 1, 1)) },
			"anchor":   func(l *lab, _ *smtp.Options) { l.tlsa("mx1.test", record(l, old.cert, 2, 0, 1)) },
			"unusable": func(l *lab, _ *smtp.Options) { l.tlsa("mx1.test", unusable) },
			"mta-sts":  func(l *lab, o *smtp.Options) { l.enforce(o) },
			"key and mta-sts": func(l *lab, o *smtp.Options) {
				l.tlsa("mx1.test", record(l, c.cert.Leaf, 3, 1, 1))
				l.enforce(o)
			},
		} {
			t.Run(c.name+"/"+policy, func(t *testing.T) {
				l := newLab(t)
				config := smtppeer.ServerConfig(c.cert)
				config.MaxVersion = tls.VersionTLS12 // TLS 1.3 has no P-224
				p := l.mx(smtppeer.Options{TLS: config})
				roots := ca.Pool()
				roots.AddCert(old.cert)
				tr := l.transport(func(o *smtp.Options) {
					arrange(l, o)
					o.RootCAs = roots
				})
				for _, floor := range []securemail.Channel{named, encrypted, anyway} {
					_, err := l.deliver(tr, floor)
					good := c.rule == "" || policy == "key" && c.keyed || policy == "none" && floor == anyway
					if good {
						require.NoError(t, err, floor)
						require.NotEmpty(t, p.Messages())
						p.Reset()
						continue
					}
					require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), c.rule)
					untouched(t, p)
				}
			})
		}
	}
}
