package dane_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"time"

	"github.com/postseal/postseal/transport/dane"
)

// now is the clock of these tests.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() *dane.VerifyOptions { return &dane.VerifyOptions{Now: func() time.Time { return now }} }

// key makes a key for each name, once.
func key(name string) *ecdsa.PrivateKey {
	keysMu.Lock()
	defer keysMu.Unlock()
	if keys[name] == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		keys[name] = k
	}
	return keys[name]
}

var (
	keysMu sync.Mutex
	keys   = map[string]*ecdsa.PrivateKey{}
)

// spec describes a certificate. The zero one is valid, has no names and is no CA.
type spec struct {
	subject  string // also names its key, unless key is set
	key      string
	ca       bool
	names    []string
	from, to time.Time
	issuer   *pair // nil: self-signed
	change   func(*x509.Certificate)
	public   any // in place of the key's
}

type pair struct {
	*x509.Certificate
	signer crypto.Signer
}

var serial int64

func (s spec) make() *pair {
	serial++
	k := s.key
	if k == "" {
		k = s.subject
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: s.subject}, DNSNames: s.names,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true, IsCA: s.ca,
	}
	if !s.from.IsZero() {
		t.NotBefore = s.from
	}
	if !s.to.IsZero() {
		t.NotAfter = s.to
	}
	if s.ca {
		t.KeyUsage = x509.KeyUsageCertSign
	}
	if s.change != nil {
		s.change(t)
	}
	issuer := &pair{t, key(k)}
	if s.issuer != nil {
		issuer = s.issuer
	}
	var public any = key(k).Public()
	if s.public != nil {
		public = s.public
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer.Certificate, public, issuer.signer)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &pair{c, key(k)}
}

// record makes any record of c, without the code under test.
func record(c *x509.Certificate, usage, selector, match uint8) dane.Record {
	data := c.Raw
	if selector == 1 {
		data = c.RawSubjectPublicKeyInfo
	}
	switch match {
	case 1:
		d := sha256.Sum256(data)
		data = d[:]
	case 2:
		d := sha512.Sum512(data)
		data = d[:]
	}
	return dane.Record{Usage: usage, Selector: selector, Match: match, Data: data}
}

func certs(ps ...*pair) []*x509.Certificate {
	var out []*x509.Certificate
	for _, p := range ps {
		out = append(out, p.Certificate)
	}
	return out
}
