package timestamp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/postseal/postseal/securemail/audit/timestamp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var digest = sha256.Sum256([]byte("checkpoint"))

func TestVerify(t *testing.T) {
	a := newAuthority(t)
	cert := a.certify(t, ecKey(), nil)
	s := newSpec(cert, ecKey(), digest)
	s.at = "20260301120000.25Z"
	s.accuracy = seq(number(2), wrap(tags.Tag(0).ContextSpecific(), []byte{3}), wrap(tags.Tag(1).ContextSpecific(), []byte{4}))
	s.ordering = boolean(true)
	s.nonce = number(-5)
	s.tail = append(ctxTag(0, ctxTag(4, cert.RawSubject)), ctxTag(1, seq(oid(policy), octets([]byte("x"))))...)
	s.unsigned = ctxTag(1, []byte{})
	token := s.token()
	got, err := timestamp.Verify(token, digest, a.roots)
	require.NoError(t, err)
	require.Equal(t, stampedAt.Add(250*time.Millisecond), got.Time)
	require.Equal(t, 2*time.Second+3*time.Millisecond+4*time.Microsecond, got.Accuracy)
	require.EqualValues(t, 12345, got.Serial.Int64())
	require.True(t, got.Policy.Equal(policy))
	require.True(t, cert.Equal(got.Signer))
	require.Len(t, got.Chain, 2)

	_, err = timestamp.Verify(token, digest, nil)
	require.Error(t, err)
	_, err = timestamp.Verify(token, digest, newAuthority(t).roots)
	require.ErrorIs(t, err, timestamp.ErrToken)
	_, err = timestamp.Verify(token, sha256.Sum256(nil), a.roots)
	require.ErrorIs(t, err, timestamp.ErrToken)
}

func TestAlgorithms(t *testing.T) {
	a := newAuthority(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		key            crypto.Signer
		hash           crypto.Hash
		digest, sigAlg asn1.ObjectIdentifier
	}{
		"rsa":                 {rsaKey(), crypto.SHA256, oidSHA256, oidRSA},
		"rsa by its own name": {rsaKey(), crypto.SHA256, oidSHA256, oidRSA256},
		"rsa 384":             {rsaKey(), crypto.SHA384, oidSHA384, oidRSA},
		"rsa 512":             {rsaKey(), crypto.SHA512, oidSHA512, oidRSA},
		"ecdsa 384":           {p384, crypto.SHA384, oidSHA384, oidEC384},
		"ecdsa 512":           {p384, crypto.SHA512, oidSHA512, oidEC512},
	} {
		cert := a.certify(t, c.key, nil)
		s := newSpec(cert, c.key, digest)
		s.hash, s.digest, s.sigAlg = c.hash, c.digest, c.sigAlg
		s.attrs = func(content []byte) [][]byte {
			return [][]byte{s.typeAttr(), s.digestAttr(content), attr(oidSigCert2, seq(seq(seq(seq(oid(c.digest)), octets(s.sum(cert.Raw))))))}
		}
		_, err := timestamp.Verify(s.token(), digest, a.roots)
		require.NoError(t, err, name)
	}
}

// TestCertificateIsNamed: the TSA signs over which certificate it used, by SHA-1 or another hash, alone or with its issuer.
func TestCertificateIsNamed(t *testing.T) {
	a := newAuthority(t)
	cert, other := a.certify(t, ecKey(), nil), a.certify(t, ecKey(), func(c *x509.Certificate) { c.SerialNumber.SetInt64(78) })
	sha1Of := func(c *x509.Certificate) []byte {
		if fips140.Enforced() {
			return make([]byte, sha1.Size)
		}
		s := sha1.Sum(c.Raw)
		return s[:]
	}
	sum := sha256.Sum256(cert.Raw)
	sum512 := sha512.Sum512(cert.Raw)
	wrong := sha256.Sum256(other.Raw)
	issuer := func(name []byte, serial int64) []byte { return seq(seq(ctxTag(4, name)), number(serial)) }
	for name, c := range map[string]struct {
		attrs [][]byte
		ok    bool
	}{
		"SHA-1":              {[][]byte{attr(oidSigCert, seq(seq(seq(octets(sha1Of(cert))))))}, !fips140.Enforced()},
		"SHA-1 and more":     {[][]byte{attr(oidSigCert, seq(seq(seq(octets(sha1Of(cert))), seq(octets(sha1Of(a.cert))))))}, !fips140.Enforced()},
		"both":               {[][]byte{attr(oidSigCert, seq(seq(seq(octets(sha1Of(cert)))))), attr(oidSigCert2, seq(seq(seq(octets(sum[:])))))}, !fips140.Enforced()},
		"with issuer":        {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(sum[:]), issuer(a.cert.RawSubject, 77)))))}, true},
		"SHA-512":            {[][]byte{attr(oidSigCert2, seq(seq(seq(seq(oid(oidSHA512)), octets(sum512[:])))))}, true},
		"nothing":            {nil, false},
		"another":            {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(wrong[:])))))}, false},
		"another by SHA-1":   {[][]byte{attr(oidSigCert, seq(seq(seq(octets(sha1Of(other))))))}, false},
		"one of two":         {[][]byte{attr(oidSigCert, seq(seq(seq(octets(sha1Of(other)))))), attr(oidSigCert2, seq(seq(seq(octets(sum[:])))))}, false},
		"the other of two":   {[][]byte{attr(oidSigCert, seq(seq(seq(octets(sha1Of(cert)))))), attr(oidSigCert2, seq(seq(seq(octets(wrong[:])))))}, false},
		"second":             {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(wrong[:])), seq(octets(sum[:])))))}, false},
		"other serial":       {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(sum[:]), issuer(a.cert.RawSubject, 78)))))}, false},
		"other issuer":       {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(sum[:]), issuer(cert.RawSubject, 77)))))}, false},
		"prose":              {[][]byte{attr(oidSigCert2, octets(sum[:]))}, false},
		"prose by SHA-1":     {[][]byte{attr(oidSigCert, octets(sum[:]))}, false},
		"unknown hash":       {[][]byte{attr(oidSigCert2, seq(seq(seq(seq(oid(oidSHA1)), octets(sha1Of(cert))))))}, false},
		"twice":              {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(sum[:]))))), attr(oidSigCert2, seq(seq(seq(octets(sum[:])))))}, false},
		"two values":         {[][]byte{attr(oidSigCert2, seq(seq(seq(octets(sum[:])))), seq(seq(seq(octets(sum[:])))))}, false},
		"no value":           {[][]byte{attr(oidSigCert2)}, false},
		"attribute is prose": {[][]byte{octets(sum[:])}, false},
		"too many":           {manyAttrs(40), false},
	} {
		s := newSpec(cert, ecKey(), digest)
		s.attrs = func(content []byte) [][]byte {
			return append([][]byte{s.typeAttr(), s.digestAttr(content)}, c.attrs...)
		}
		_, err := timestamp.Verify(s.token(), digest, a.roots)
		require.Equal(t, c.ok, err == nil, "%s: %v", name, err)
		if !c.ok {
			require.ErrorIs(t, err, timestamp.ErrToken, name)
		}
	}
}

func manyAttrs(n int) (out [][]byte) {
	for i := range n {
		out = append(out, attr(asn1.ObjectIdentifier{1, 2, i}, number(1)))
	}
	return out
}

func TestRefuses(t *testing.T) {
	a := newAuthority(t)
	cert := a.certify(t, ecKey(), nil)
	other := a.certify(t, ecKey(), func(c *x509.Certificate) { c.SerialNumber.SetInt64(78); c.SubjectKeyId = []byte{9} })
	for name, change := range map[string]func(*spec){
		"info version":           func(s *spec) { s.version = 2 },
		"imprint by SHA-1":       func(s *spec) { s.imprintAlg = oidSHA1 },
		"imprint by SHA-384":     func(s *spec) { s.imprintAlg = oidSHA384 },
		"imprint cut":            func(s *spec) { s.imprint = s.imprint[:31] },
		"imprint longer":         func(s *spec) { s.imprint = append(s.imprint, 0) },
		"time with zone":         func(s *spec) { s.at = "20260301130000+0100" },
		"time with zeros":        func(s *spec) { s.at = "20260301120000.50Z" },
		"time with comma":        func(s *spec) { s.at = "20260301120000,5Z" },
		"time without seconds":   func(s *spec) { s.at = "202603011200Z" },
		"time long ago":          func(s *spec) { s.at = "19600301120000Z" },
		"before the certificate": func(s *spec) { s.at = "20260101120000Z" },
		"behind the certificate": func(s *spec) { s.at = "20260501120000Z" },
		"accuracy negative":      func(s *spec) { s.accuracy = seq(number(-1)) },
		"accuracy prose":         func(s *spec) { s.accuracy = seq(octets([]byte("x"))) },
		"accuracy 0 ms":          func(s *spec) { s.accuracy = seq(wrap(tags.Tag(0).ContextSpecific(), []byte{0})) },
		"accuracy 1000 ms":       func(s *spec) { s.accuracy = seq(wrap(tags.Tag(0).ContextSpecific(), []byte{3, 0xe8})) },
		"accuracy twisted":       func(s *spec) { s.accuracy = []byte{0x30, 0x81, 0x00} },
		"default ordering":       func(s *spec) { s.ordering = boolean(false) },
		"nonce not minimal":      func(s *spec) { s.nonce = []byte{2, 2, 0, 1} },
		"critical extension":     func(s *spec) { s.tail = ctxTag(1, seq(oid(policy), boolean(true), octets(nil))) },
		"extension prose":        func(s *spec) { s.tail = ctxTag(1, octets(nil)) },
		"more behind":            func(s *spec) { s.tail = octets(nil) },
		"another TSA's name":     func(s *spec) { s.tail = ctxTag(0, ctxTag(4, a.cert.RawSubject)) },
		"name twisted":           func(s *spec) { s.tail = ctxTag(0, []byte{0xa4, 0x81, 0x00}) },
		"no time stamp":          func(s *spec) { s.kind = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1} },
		"no signed attributes":   func(s *spec) { s.noAttrs = true },
		"version of SignedData":  func(s *spec) { s.sd = 1 },
		"two signers":            func(s *spec) { s.signers = 2 },
		"no signer":              func(s *spec) { s.signers = 0 },
		"no certificate":         func(s *spec) { s.certs = nil },
		"another certificate":    func(s *spec) { s.certs = other.Raw },
		"certificate damaged":    func(s *spec) { s.certs = seq(number(1)) },
		"certificate prose":      func(s *spec) { s.certs = octets(nil) },
		"17 certificates":        func(s *spec) { s.certs = bytes.Repeat(s.certs, 17) },
		"signer's version":       func(s *spec) { s.signerID = append(number(2), s.signerID[3:]...) },
		"other key id":           func(s *spec) { s.signerID = append(number(3), wrap(tags.Tag(0).ContextSpecific(), []byte{9})...) },
		"empty key id":           func(s *spec) { s.signerID = append(number(3), wrap(tags.Tag(0).ContextSpecific())...) },
		"SHA-1":                  func(s *spec) { s.digest = oidSHA1 },
		"two digests":            func(s *spec) { s.digest = oidSHA512 },
		"unknown algorithm":      func(s *spec) { s.sigAlg = asn1.ObjectIdentifier{1, 2, 3} },
		"RSA's name":             func(s *spec) { s.sigAlg = oidRSA },
		"signature":              func(s *spec) { s.damage = func(sig []byte) { sig[len(sig)-1] ^= 1 } },
		"unsigned twisted":       func(s *spec) { s.unsigned = octets(nil) },
		"other content type": func(s *spec) {
			s.attrs = func(c []byte) [][]byte { return [][]byte{attr(oidType, oid(policy)), s.digestAttr(c)} }
		},
		"no content type": func(s *spec) { s.attrs = func(c []byte) [][]byte { return [][]byte{s.digestAttr(c)} } },
		"no digest":       func(s *spec) { s.attrs = func([]byte) [][]byte { return [][]byte{s.typeAttr()} } },
		"other digest": func(s *spec) {
			s.attrs = func([]byte) [][]byte { return [][]byte{s.typeAttr(), attr(oidDigest, octets(make([]byte, 32)))} }
		},
		"attribute without values": func(s *spec) { s.attrs = func([]byte) [][]byte { return [][]byte{seq(oid(oidType))} } },
	} {
		s := newSpec(cert, ecKey(), digest)
		change(s)
		_, err := timestamp.Verify(s.token(), digest, a.roots)
		require.ErrorIs(t, err, timestamp.ErrToken, name)
	}
	good := newSpec(cert, ecKey(), digest).token()
	for _, bad := range [][]byte{nil, {0x30}, good[:len(good)-1], append(bytes.Clone(good), 0), bytes.Repeat([]byte{0x30}, timestamp.MaxToken+1), seq(oid(policy)), seq(oid(oidSigned), ctxTag(0, octets(nil)))} {
		_, err := timestamp.Verify(bad, digest, a.roots)
		require.ErrorIs(t, err, timestamp.ErrToken)
	}
	byKeyID := newSpec(cert, ecKey(), digest)
	byKeyID.signerID = append(number(3), wrap(tags.Tag(0).ContextSpecific(), cert.SubjectKeyId)...)
	_, err := timestamp.Verify(byKeyID.token(), digest, a.roots)
	require.NoError(t, err)
}

func TestSmallRSAKeys(t *testing.T) {
	if fips140.Enforced() {
		return // such a key can't even be made
	}
	a := newAuthority(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	_, err = timestamp.Verify(newSpec(a.certify(t, small, nil), small, digest).token(), digest, a.roots)
	require.ErrorContains(t, err, "below 2048 bits")
}

func TestCertificateIsForTimeStamping(t *testing.T) {
	a := newAuthority(t)
	two, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}, {1, 3, 6, 1, 5, 5, 7, 3, 1}})
	require.NoError(t, err)
	strange, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}, {1, 2, 3}})
	require.NoError(t, err)
	usage := func(v []byte) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: v}}
	}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		ok     bool
	}{
		"as it must be":    {nil, true},
		"no key usage":     {func(c *x509.Certificate) { c.KeyUsage = 0 }, true},
		"not critical":     {func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{timeStamping(false)} }, false},
		"no usage":         {func(c *x509.Certificate) { c.ExtraExtensions = nil }, false},
		"servers too":      {func(c *x509.Certificate) { c.ExtraExtensions = usage(two) }, false},
		"and something":    {func(c *x509.Certificate) { c.ExtraExtensions = usage(strange) }, false},
		"key encipherment": {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, false},
		"CA":               {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, false},
		"unknown extension": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: policy, Critical: true, Value: []byte{5, 0}})
		}, false},
	} {
		cert := a.certify(t, ecKey(), c.change)
		_, err := timestamp.Verify(newSpec(cert, ecKey(), digest).token(), digest, a.roots)
		require.Equal(t, c.ok, err == nil, "%s: %v", name, err)
	}
}

// TestEachOctetCounts: whatever is changed inside what is signed or says who signed, the token holds no more.
func TestEachOctetCounts(t *testing.T) {
	a := newAuthority(t)
	cert := a.certify(t, ecKey(), nil)
	s := newSpec(cert, ecKey(), digest)
	token := s.token()
	held := 0
	for i := range token {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(token)
			bad[i] ^= bit
			if got, err := timestamp.Verify(bad, digest, a.roots); err == nil {
				require.Equal(t, stampedAt, got.Time)
				held++
			}
		}
	}
	// The list of digest algorithms is a hint that nobody reads.
	require.LessOrEqual(t, held, 2*len(set(seq(oid(oidSHA256)))))
}

func FuzzVerify(f *testing.F) {
	a := newAuthority(f)
	s := newSpec(a.certify(f, ecKey(), nil), ecKey(), digest)
	token := s.token()
	f.Add(token)
	s.tail = append(ctxTag(0, ctxTag(4, a.cert.RawSubject)), ctxTag(1, seq(oid(policy), octets([]byte("x"))))...)
	s.accuracy = seq(number(2))
	f.Add(s.token())
	f.Add(bytes.Repeat([]byte{0x30, 0x80}, 1000))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := timestamp.Verify(b, digest, a.roots)
		if err != nil {
			return
		}
		if !got.Time.Equal(stampedAt) || len(got.Chain) == 0 {
			t.Fatal("not what was stamped")
		}
		var s cryptobyte.String = b
		if !s.SkipASN1(tags.SEQUENCE) || !s.Empty() {
			t.Fatal("octets behind it")
		}
	})
}
