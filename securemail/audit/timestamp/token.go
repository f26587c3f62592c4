package timestamp

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/sha1" // #nosec G505: ESSCertID of RFC 2634 is over SHA-1
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxToken is the length of the longest token that is read, in octets.
const MaxToken = 64 << 10

// ErrToken says that a token is not a valid time stamp of the digest.
var ErrToken = errors.New("timestamp: token does not hold")

var (
	oidTSTInfo     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidSigningCert = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSigningV2   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// Token is what a verified time stamp says.
type Token struct {
	// Time is when the digest existed, give or take Accuracy; an Accuracy of 0 was not stated.
	Time     time.Time
	Accuracy time.Duration
	// Serial is the TSA's number of the stamp, and Policy the one that it was made under.
	Serial *big.Int
	Policy asn1.ObjectIdentifier
	// Signer is the TSA's certificate, and Chain leads from it to one of the roots.
	Signer *x509.Certificate
	Chain  []*x509.Certificate

	nonce  *big.Int // nil: none
	digest []byte
	tsa    []byte // a Name in DER; nil: none
}

// Verify checks offline that token is a valid time stamp of the SHA-256 digest by a TSA whose certificate was valid at the
// time of the stamp, and leads to one of roots. The error Is [ErrToken].
func Verify(token []byte, digest [32]byte, roots *x509.CertPool) (*Token, error) {
	if roots == nil {
		return nil, errors.New("timestamp: no roots")
	}
	if len(token) > MaxToken {
		return nil, fmt.Errorf("%w: too long", ErrToken)
	}
	d, err := readContentInfo(token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	t, err := verify(d, roots)
	if err == nil && !bytes.Equal(t.digest, digest[:]) {
		err = errors.New("of another digest")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return t, nil
}

func verify(d *signedData, roots *x509.CertPool) (*Token, error) {
	if !d.contentType.Equal(oidTSTInfo) {
		return nil, errors.New("no time stamp")
	}
	t, err := readInfo(d.content)
	if err != nil {
		return nil, err
	}
	if t.Signer, err = d.signer(); err != nil {
		return nil, err
	}
	if err := d.verifySignature(t.Signer); err != nil {
		return nil, err
	}
	if err := d.namesCertificate(t.Signer); err != nil {
		return nil, err
	}
	// RFC 3161 section 2.4.2: a TSA that is named must be one that the certificate names.
	if t.tsa != nil && !bytes.Equal(t.tsa, t.Signer.RawSubject) {
		return nil, errors.New("names another TSA than its certificate")
	}
	return t, t.verifyChain(d.certs, roots)
}

// verifyChain holds the certificate against RFC 3161 section 2.3, at the time of the stamp.
func (t *Token) verifyChain(certs []*x509.Certificate, roots *x509.CertPool) error {
	c := t.Signer
	critical := false
	for _, e := range c.Extensions {
		critical = critical || e.Id.Equal(oidExtKeyUsage) && e.Critical
	}
	if !critical || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) > 0 {
		return errors.New("certificate is not for time stamping alone")
	}
	if c.KeyUsage != 0 && c.KeyUsage&^(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) != 0 || c.IsCA {
		return errors.New("certificate is for other things than signatures")
	}
	between := x509.NewCertPool()
	for _, other := range certs {
		between.AddCert(other)
	}
	chains, err := c.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: t.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	})
	if err != nil {
		return fmt.Errorf("certificate does not verify at the time of the stamp (%T)", err)
	}
	t.Chain = chains[0]
	return nil
}

// readInfo reads a TSTInfo: RFC 3161 section 2.4.2.
func readInfo(b []byte) (*Token, error) {
	t := &Token{Serial: new(big.Int)}
	s := cryptobyte.String(b)
	var info, imprint, sum, at cryptobyte.String
	var version int
	if !s.ReadASN1(&info, tags.SEQUENCE) || !s.Empty() || !info.ReadASN1Integer(&version) || version != 1 ||
		!info.ReadASN1ObjectIdentifier(&t.Policy) || !info.ReadASN1(&imprint, tags.SEQUENCE) {
		return nil, errDER
	}
	alg, err := readAlgorithm(&imprint)
	if err != nil {
		return nil, err
	}
	if !imprint.ReadASN1(&sum, tags.OCTET_STRING) || !imprint.Empty() || !info.ReadASN1Integer(t.Serial) ||
		!info.ReadASN1(&at, tags.GeneralizedTime) {
		return nil, errDER
	}
	if t.digest = sum; hashOf(alg) != crypto.SHA256 {
		return nil, errors.New("digest that is not SHA-256")
	}
	if t.Time, err = genTime(string(at)); err != nil {
		return nil, err
	}
	return t, t.readOptions(info)
}

// genTime reads the only form that a time has: UTC, no trailing zeros in the fraction, no dot without one.
func genTime(s string) (time.Time, error) {
	const form = "20060102150405.999999999Z"
	t, err := time.Parse(form, s)
	if err != nil || t.Format(form) != s || t.Year() < 1970 {
		return time.Time{}, errors.New("malformed time")
	}
	return t, nil
}

// readOptions reads what may follow the time.
func (t *Token) readOptions(s cryptobyte.String) error {
	var accuracy, tsa, extensions cryptobyte.String
	var hasAccuracy, hasTSA, hasExtensions bool
	if !s.ReadOptionalASN1(&accuracy, &hasAccuracy, tags.SEQUENCE) {
		return errDER
	}
	if hasAccuracy && !t.readAccuracy(accuracy) {
		return errDER
	}
	if s.PeekASN1Tag(tags.BOOLEAN) {
		var ordering bool
		if !s.ReadASN1Boolean(&ordering) || !ordering { // DER leaves out the default
			return errDER
		}
	}
	if s.PeekASN1Tag(tags.INTEGER) {
		t.nonce = new(big.Int)
		if !s.ReadASN1Integer(t.nonce) {
			return errDER
		}
	}
	if !s.ReadOptionalASN1(&tsa, &hasTSA, contextTag(0)) || !s.ReadOptionalASN1(&extensions, &hasExtensions, contextTag(1)) || !s.Empty() {
		return errDER
	}
	if hasTSA && tsa.PeekASN1Tag(contextTag(4)) { // GeneralName directoryName; other kinds say nothing that can be compared
		var name cryptobyte.String
		if !tsa.ReadASN1(&name, contextTag(4)) {
			return errDER
		}
		t.tsa = name
	}
	return critical(extensions)
}

// readAccuracy reads seconds, [0] milliseconds and [1] microseconds, each optional.
func (t *Token) readAccuracy(s cryptobyte.String) bool {
	var sec int64
	if s.PeekASN1Tag(tags.INTEGER) && (!s.ReadASN1Integer(&sec) || sec < 0 || sec > 1<<31) {
		return false
	}
	t.Accuracy = time.Duration(sec) * time.Second
	for i, unit := range []time.Duration{time.Millisecond, time.Microsecond} {
		tag := tags.Tag(i).ContextSpecific()
		if !s.PeekASN1Tag(tag) {
			continue
		}
		var n int64
		if !s.ReadASN1Int64WithTag(&n, tag) || n < 1 || n > 999 {
			return false
		}
		t.Accuracy += time.Duration(n) * unit
	}
	return s.Empty()
}

// critical refuses critical extensions: none is known here.
func critical(s cryptobyte.String) error {
	for !s.Empty() {
		var ext, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var is bool
		if !s.ReadASN1(&ext, tags.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&oid) || !ext.ReadOptionalASN1Boolean(&is, tags.BOOLEAN, false) ||
			!ext.ReadASN1(&value, tags.OCTET_STRING) || !ext.Empty() {
			return errDER
		}
		if is {
			return errors.New("critical extension that is not known")
		}
	}
	return nil
}

// namesCertificate proves that the TSA signed over which certificate it used: RFC 3161 section 2.4.1 by ESSCertID
// (RFC 2634, SHA-1), RFC 5816 by ESSCertIDv2. What is there must hold; one of them must be there.
func (d *signedData) namesCertificate(c *x509.Certificate) error {
	one, two := d.attr(oidSigningCert), d.attr(oidSigningV2)
	if one == nil && two == nil {
		return errors.New("signing certificate is not named")
	}
	if one != nil {
		if fips140.Enforced() {
			return errors.New("signing certificate is named by SHA-1, which may not run here")
		}
		id, ok := firstID(one)
		sum := sha1.Sum(c.Raw) // #nosec G401: a second preimage is what it would take
		if !ok || !matchID(id, sum[:], c) {
			return errors.New("another signing certificate is named")
		}
	}
	if two == nil {
		return nil
	}
	id, ok := firstID(two)
	h := crypto.SHA256 // RFC 5035: the default, which DER leaves out
	if ok && id.PeekASN1Tag(tags.SEQUENCE) {
		alg, err := readAlgorithm(&id)
		h = hashOf(alg)
		ok = err == nil && h != 0
	}
	if !ok {
		return errors.New("signing certificate is named in a form that is not taken")
	}
	sum := h.New()
	sum.Write(c.Raw)
	if !matchID(id, sum.Sum(nil), c) {
		return errors.New("another signing certificate is named")
	}
	return nil
}

// firstID is the first ESSCertID of a SigningCertificate, which is the signer's.
func firstID(attr cryptobyte.String) (id cryptobyte.String, ok bool) {
	var sc, ids cryptobyte.String
	ok = attr.ReadASN1(&sc, tags.SEQUENCE) && attr.Empty() && sc.ReadASN1(&ids, tags.SEQUENCE) && ids.ReadASN1(&id, tags.SEQUENCE)
	return id, ok
}

// matchID holds a hash and, where it is there, an issuer and a serial number against c.
func matchID(id cryptobyte.String, sum []byte, c *x509.Certificate) bool {
	var got, is, names, name cryptobyte.String
	if !id.ReadASN1(&got, tags.OCTET_STRING) || !bytes.Equal(got, sum) {
		return false
	}
	if id.Empty() {
		return true
	}
	serial := new(big.Int)
	return id.ReadASN1(&is, tags.SEQUENCE) && id.Empty() && is.ReadASN1(&names, tags.SEQUENCE) && is.ReadASN1Integer(serial) && is.Empty() &&
		names.ReadASN1(&name, contextTag(4)) && bytes.Equal(name, c.RawIssuer) && serial.Cmp(c.SerialNumber) == 0
}
