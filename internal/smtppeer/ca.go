package smtppeer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"slices"
	"time"
)

// The certificates live from 1990 to 2090, so that they also hold under a fake clock.
var (
	born  = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	dies  = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
	early = time.Date(1991, 1, 1, 0, 0, 0, 0, time.UTC)
)

// CA is a throw-away certificate authority with P-256 keys. It is safe for concurrent use. Its methods panic on names
// that no certificate can hold.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a CA that nobody but the holder of its Pool trusts.
func NewCA() *CA {
	key := newKey()
	t := template("smtppeer test CA")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	return &CA{cert: sign(t, t, key.Public(), key), key: key}
}

// Pool trusts this CA alone.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// Cert makes a certificate for names, which may be host names, wildcards or IP addresses, signed by the CA.
func (ca *CA) Cert(names ...string) tls.Certificate { return ca.issue(dies, names) }

// Expired makes one that ended in 1991.
func (ca *CA) Expired(names ...string) tls.Certificate { return ca.issue(early, names) }

// Config is a server's configuration with a Cert for names. It accepts TLS 1.2 and later.
func (ca *CA) Config(names ...string) *tls.Config { return ServerConfig(ca.Cert(names...)) }

// SelfSigned makes a certificate for names that no CA signed.
func SelfSigned(names ...string) tls.Certificate {
	key := newKey()
	t := leaf(dies, names)
	c := sign(t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// ServerConfig is a server's configuration with cert. It accepts TLS 1.2 and later.
func ServerConfig(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
}

// TLS10 is a server's configuration with cert that speaks TLS 1.0 and nothing later.
func TLS10(cert tls.Certificate) *tls.Config {
	//nolint:gosec // the point of it
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}
}

func (ca *CA) issue(until time.Time, names []string) tls.Certificate {
	key := newKey()
	c := sign(leaf(until, names), ca.cert, key.Public(), ca.key)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("smtppeer: make a key: " + err.Error())
	}
	return k
}

func template(cn string) *x509.Certificate {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("smtppeer: make a serial number: " + err.Error())
	}
	return &x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: cn}, NotBefore: born, NotAfter: dies}
}

func leaf(until time.Time, names []string) *x509.Certificate {
	t := template("smtppeer test host")
	t.NotAfter = until
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return t
}

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		panic("smtppeer: make a certificate: " + err.Error())
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic("smtppeer: read the certificate back: " + err.Error())
	}
	return c
}
