package timestamp_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidTSTInfo  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidSigned   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidType     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidDigest   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigCert  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSigCert2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	oidSHA1     = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256   = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384   = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512   = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
	oidRSA      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidRSA256   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidEC256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidEC384    = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidEC512    = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
	policy      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	stampedAt   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// authority is a CA and what it certified.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	roots *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: stampedAt.AddDate(-5, 0, 0), NotAfter: stampedAt.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	require.NoError(t, err)
	a := &authority{key: key, roots: x509.NewCertPool()}
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.roots.AddCert(a.cert)
	return a
}

// timeStamping is the extension that a TSA's certificate must have.
func timeStamping(critical bool) pkix.Extension {
	b, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: critical, Value: b}
}

func (a *authority) certify(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "TSA"}, NotBefore: stampedAt.AddDate(0, 0, -30), NotAfter: stampedAt.AddDate(0, 0, 30),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{timeStamping(true)}, SubjectKeyId: []byte{1, 2, 3},
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	out, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return out
}

var ecKey = sync.OnceValue(func() crypto.Signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
})

var rsaKey = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

type builder = cryptobyte.Builder

// der builds DER.
func der(f func(b *builder)) []byte {
	var b builder
	f(&b)
	return b.BytesOrPanic()
}

func seq(parts ...[]byte) []byte { return wrap(tags.SEQUENCE, parts...) }
func set(parts ...[]byte) []byte { return wrap(tags.SET, parts...) }
func ctxTag(n uint8, parts ...[]byte) []byte {
	return wrap(tags.Tag(n).ContextSpecific().Constructed(), parts...)
}
func octets(b []byte) []byte { return wrap(tags.OCTET_STRING, b) }
func number(n int64) []byte  { return der(func(b *builder) { b.AddASN1Int64(n) }) }
func boolean(v bool) []byte  { return der(func(b *builder) { b.AddASN1Boolean(v) }) }
func oid(o asn1.ObjectIdentifier) []byte {
	return der(func(b *builder) { b.AddASN1ObjectIdentifier(o) })
}

func wrap(tag tags.Tag, parts ...[]byte) []byte {
	return der(func(b *builder) {
		b.AddASN1(tag, func(b *builder) {
			for _, p := range parts {
				b.AddBytes(p)
			}
		})
	})
}

// spec is a token to be, each part of which a test may change.
type spec struct {
	key    crypto.Signer
	cert   *x509.Certificate
	hash   crypto.Hash
	digest asn1.ObjectIdentifier // of the signer
	sigAlg asn1.ObjectIdentifier

	version    int64 // of TSTInfo
	imprintAlg asn1.ObjectIdentifier
	imprint    []byte
	at         string
	policy     asn1.ObjectIdentifier
	accuracy   []byte
	ordering   []byte
	nonce      []byte
	tail       []byte

	kind     asn1.ObjectIdentifier // of the content
	attrs    func(content []byte) [][]byte
	noAttrs  bool
	sd       int64 // version
	signerID []byte
	signers  int
	certs    []byte
	unsigned []byte
	damage   func(sig []byte)
}

func newSpec(cert *x509.Certificate, key crypto.Signer, digest [32]byte) *spec {
	s := &spec{
		key: key, cert: cert, hash: crypto.SHA256, digest: oidSHA256, sigAlg: oidEC256, version: 1, imprintAlg: oidSHA256, imprint: digest[:],
		at: "20260301120000Z", policy: policy, kind: oidTSTInfo, sd: 3, signers: 1, certs: cert.Raw,
	}
	s.signerID = append(number(1), seq(cert.RawIssuer, der(func(b *builder) { b.AddASN1BigInt(cert.SerialNumber) }))...)
	if _, ok := key.(*rsa.PrivateKey); ok {
		s.sigAlg = oidRSA
	}
	s.attrs = func(content []byte) [][]byte {
		return [][]byte{s.typeAttr(), s.digestAttr(content), attr(oidSigCert2, seq(seq(seq(octets(s.sum(cert.Raw))))))}
	}
	return s
}

func (s *spec) sum(b []byte) []byte {
	h := s.hash.New()
	h.Write(b)
	return h.Sum(nil)
}

func attr(kind asn1.ObjectIdentifier, values ...[]byte) []byte { return seq(oid(kind), set(values...)) }

func (s *spec) typeAttr() []byte                 { return attr(oidType, oid(s.kind)) }
func (s *spec) digestAttr(content []byte) []byte { return attr(oidDigest, octets(s.sum(content))) }

func (s *spec) info() []byte {
	return seq(number(s.version), oid(s.policy), seq(seq(oid(s.imprintAlg)), octets(s.imprint)), number(12345), wrap(tags.GeneralizedTime, []byte(s.at)),
		s.accuracy, s.ordering, s.nonce, s.tail)
}

func (s *spec) token() []byte {
	content := s.info()
	var attrs []byte
	for _, a := range s.attrs(content) {
		attrs = append(attrs, a...)
	}
	sig, err := s.key.Sign(rand.Reader, s.sum(set(attrs)), s.hash)
	if err != nil {
		panic(err)
	}
	if s.damage != nil {
		s.damage(sig)
	}
	signed := ctxTag(0, attrs)
	if s.noAttrs {
		signed = nil
	}
	signer := seq(s.signerID, seq(oid(s.digest)), signed, seq(oid(s.sigAlg)), octets(sig), s.unsigned)
	var signers []byte
	for range s.signers {
		signers = append(signers, signer...)
	}
	return seq(oid(oidSigned), ctxTag(0, seq(number(s.sd), set(seq(oid(s.digest))), seq(oid(s.kind), ctxTag(0, octets(content))),
		ctxTag(0, s.certs), set(signers))))
}

// far is a TSA over HTTP.
type far struct {
	*authority
	key    crypto.Signer
	cert   *x509.Certificate
	change func(*spec)
	answer func(w http.ResponseWriter, token []byte)
	asked  int
}

func newFar(t testing.TB) (*far, *httptest.Server) {
	f := &far{authority: newAuthority(t), key: ecKey()}
	f.cert = f.certify(t, f.key, nil)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked++
	body, err := io.ReadAll(r.Body)
	var q struct {
		Version int
		Imprint struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
		Policy  asn1.ObjectIdentifier `asn1:"optional"`
		Nonce   *big.Int
		CertReq bool
	}
	rest, err2 := asn1.Unmarshal(body, &q)
	if err != nil || err2 != nil || len(rest) > 0 || q.Version != 1 || !q.CertReq || len(q.Imprint.Digest) != sha256.Size ||
		!q.Imprint.Algorithm.Algorithm.Equal(oidSHA256) || r.Header.Get("Content-Type") != "application/timestamp-query" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s := newSpec(f.cert, f.key, [32]byte(q.Imprint.Digest))
	s.nonce = der(func(b *builder) { b.AddASN1BigInt(q.Nonce) })
	if q.Policy != nil {
		s.policy = q.Policy
	}
	if f.change != nil {
		f.change(s)
	}
	if f.answer != nil {
		f.answer(w, s.token())
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(seq(seq(number(0)), s.token()))
}
