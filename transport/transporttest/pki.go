package transporttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"time"
)

// PKI is an authority for one rig: it makes the server side of each [Behaviour].
type PKI struct {
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	host  string
	roots *x509.CertPool
}

// NewPKI makes an authority whose good certificates are for host, a name or an address.
func NewPKI(host string) (*PKI, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("transporttest: authority: %w", err)
	}
	tmpl := template("transporttest authority")
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("transporttest: authority: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("transporttest: authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &PKI{ca: ca, key: key, host: host, roots: roots}, nil
}

// Roots is what the transport under test must trust.
func (p *PKI) Roots() *x509.CertPool { return p.roots }

// Server is the far end's TLS under b: another name for BadCert, no authority for SelfSigned, a past end for Expired, TLS 1.0 and 1.1 for
// OldTLS, the good one for all others. It has one certificate, which [FactsOf] takes.
func (p *PKI) Server(b Behaviour) (*tls.Config, error) {
	host, issuer, signer := p.host, p.ca, p.key
	switch b {
	case BadCert:
		host = "other.invalid"
	case SelfSigned:
		issuer, signer = nil, nil
	}
	tmpl := template(host)
	if b == Expired {
		tmpl.NotAfter = time.Now().Add(-time.Minute)
	}
	cert, err := leaf(tmpl, issuer, signer)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if b == OldTLS {
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	}
	return cfg, nil
}

func leaf(tmpl, issuer *x509.Certificate, signer *ecdsa.PrivateKey) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("transporttest: certificate: %w", err)
	}
	host := tmpl.Subject.CommonName
	if ip := net.ParseIP(host); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{host}
	}
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if issuer == nil {
		issuer, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("transporttest: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}
