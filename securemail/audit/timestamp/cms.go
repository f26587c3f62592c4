package timestamp

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha256" // links SHA-256
	_ "crypto/sha512" // links SHA-384 and SHA-512
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a SignedData.
const (
	maxCerts = 16
	maxAttrs = 32
	minRSA   = 2048 // bits
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}

	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}

	oidRSA       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidRSASHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidRSASHA384 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}
	oidRSASHA512 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}
	oidECSHA256  = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECSHA384  = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidECSHA512  = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
)

var (
	errDER       = errors.New("not DER of the form that it must have")
	errAlgorithm = errors.New("algorithm that is not taken")
)

// signedData is a SignedData of RFC 5652 section 5.1 with one signer, taken apart.
type signedData struct {
	contentType asn1.ObjectIdentifier
	content     []byte
	certs       []*x509.Certificate

	digest    crypto.Hash
	algorithm x509.SignatureAlgorithm
	issuer    []byte   // the signer's; nil: named by key id
	serial    *big.Int // of his certificate
	keyID     []byte
	signed    []byte // the signed attributes, as a SET
	attrs     []attribute
	signature []byte
}

type attribute struct {
	kind  asn1.ObjectIdentifier
	value cryptobyte.String // the only one
}

func contextTag(n uint8) tags.Tag { return tags.Tag(n).ContextSpecific().Constructed() }

// readContentInfo reads one ContentInfo that holds a SignedData.
func readContentInfo(s cryptobyte.String) (*signedData, error) {
	var info, wrapped, sd cryptobyte.String
	var kind asn1.ObjectIdentifier
	if !s.ReadASN1(&info, tags.SEQUENCE) || !s.Empty() || !info.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidSignedData) ||
		!info.ReadASN1(&wrapped, contextTag(0)) || !info.Empty() || !wrapped.ReadASN1(&sd, tags.SEQUENCE) || !wrapped.Empty() {
		return nil, errDER
	}
	return readSignedData(sd)
}

func readSignedData(s cryptobyte.String) (*signedData, error) {
	var version int
	var digests, encap, content, octets, certs, crls, signers, signer cryptobyte.String
	var hasCerts, hasCRLs bool
	d := &signedData{}
	if !s.ReadASN1Integer(&version) || version != 3 || !s.ReadASN1(&digests, tags.SET) || !s.ReadASN1(&encap, tags.SEQUENCE) ||
		!s.ReadOptionalASN1(&certs, &hasCerts, contextTag(0)) || !s.ReadOptionalASN1(&crls, &hasCRLs, contextTag(1)) ||
		!s.ReadASN1(&signers, tags.SET) || !s.Empty() {
		return nil, errDER
	}
	if !encap.ReadASN1ObjectIdentifier(&d.contentType) || !encap.ReadASN1(&content, contextTag(0)) || !encap.Empty() ||
		!content.ReadASN1(&octets, tags.OCTET_STRING) || !content.Empty() {
		return nil, errDER
	}
	d.content = octets
	if !signers.ReadASN1(&signer, tags.SEQUENCE) || !signers.Empty() {
		return nil, errors.New("not exactly one signer") // RFC 3161 section 2.4.2
	}
	if err := d.readCerts(certs); err != nil {
		return nil, err
	}
	return d, d.readSigner(signer)
}

// readCerts reads the certificates; what stands beside them (attribute certificates and the like) has another tag and is
// refused.
func (d *signedData) readCerts(s cryptobyte.String) error {
	for !s.Empty() {
		var c cryptobyte.String
		if !s.ReadASN1Element(&c, tags.SEQUENCE) || len(d.certs) == maxCerts {
			return errDER
		}
		cert, err := x509.ParseCertificate(c)
		if err != nil {
			return errors.New("malformed certificate")
		}
		d.certs = append(d.certs, cert)
	}
	return nil
}

// readSigner reads a SignerInfo: RFC 5652 section 5.3.
func (d *signedData) readSigner(s cryptobyte.String) error {
	var version int
	var attrs, unsigned, sig cryptobyte.String
	var hasUnsigned bool
	if !s.ReadASN1Integer(&version) || !d.readSignerID(&s, version) {
		return errDER
	}
	digest, err := readAlgorithm(&s)
	if err != nil {
		return err
	}
	if !s.ReadASN1Element(&attrs, contextTag(0)) {
		return errors.New("no signed attributes")
	}
	algorithm, err := readAlgorithm(&s)
	if err != nil {
		return err
	}
	if !s.ReadASN1(&sig, tags.OCTET_STRING) || !s.ReadOptionalASN1(&unsigned, &hasUnsigned, contextTag(1)) || !s.Empty() {
		return errDER
	}
	d.signature = sig
	// RFC 5652 section 5.4: what is signed has the tag of a SET.
	d.signed = bytes.Clone(attrs)
	d.signed[0] = byte(tags.SET)
	if d.digest, d.algorithm = signatureOf(digest, algorithm); d.algorithm == x509.UnknownSignatureAlgorithm {
		return errAlgorithm
	}
	var set cryptobyte.String
	if !attrs.ReadASN1(&set, contextTag(0)) {
		return errDER
	}
	return d.readAttrs(set)
}

// readSignerID reads who signed: version 1 by issuer and serial number, version 3 by key id.
func (d *signedData) readSignerID(s *cryptobyte.String, version int) bool {
	if version == 3 {
		var id cryptobyte.String
		ok := s.ReadASN1(&id, tags.Tag(0).ContextSpecific())
		d.keyID = id
		return ok && len(id) > 0
	}
	var id, issuer cryptobyte.String
	d.serial = new(big.Int)
	ok := version == 1 && s.ReadASN1(&id, tags.SEQUENCE) && id.ReadASN1Element(&issuer, tags.SEQUENCE) &&
		id.ReadASN1Integer(d.serial) && id.Empty()
	d.issuer = issuer
	return ok
}

// readAlgorithm reads an AlgorithmIdentifier whose parameters are absent or NULL.
func readAlgorithm(s *cryptobyte.String) (asn1.ObjectIdentifier, error) {
	var alg, null cryptobyte.String
	var oid asn1.ObjectIdentifier
	var has bool
	if !s.ReadASN1(&alg, tags.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) {
		return nil, errDER
	}
	if !alg.ReadOptionalASN1(&null, &has, tags.NULL) || !null.Empty() || !alg.Empty() {
		return nil, errAlgorithm
	}
	return oid, nil
}

// hashOf is the hash function that oid names; 0: none that is taken.
func hashOf(oid asn1.ObjectIdentifier) crypto.Hash {
	switch {
	case oid.Equal(oidSHA256):
		return crypto.SHA256
	case oid.Equal(oidSHA384):
		return crypto.SHA384
	case oid.Equal(oidSHA512):
		return crypto.SHA512
	}
	return 0
}

// signatureOf is the one algorithm that both names agree on.
func signatureOf(digest, algorithm asn1.ObjectIdentifier) (crypto.Hash, x509.SignatureAlgorithm) {
	h := hashOf(digest)
	for _, c := range []struct {
		oid  asn1.ObjectIdentifier
		hash crypto.Hash
		alg  x509.SignatureAlgorithm
	}{
		{oidRSA, crypto.SHA256, x509.SHA256WithRSA}, {oidRSA, crypto.SHA384, x509.SHA384WithRSA}, {oidRSA, crypto.SHA512, x509.SHA512WithRSA},
		{oidRSASHA256, crypto.SHA256, x509.SHA256WithRSA}, {oidRSASHA384, crypto.SHA384, x509.SHA384WithRSA},
		{oidRSASHA512, crypto.SHA512, x509.SHA512WithRSA}, {oidECSHA256, crypto.SHA256, x509.ECDSAWithSHA256},
		{oidECSHA384, crypto.SHA384, x509.ECDSAWithSHA384}, {oidECSHA512, crypto.SHA512, x509.ECDSAWithSHA512},
	} {
		if h == c.hash && algorithm.Equal(c.oid) {
			return h, c.alg
		}
	}
	return 0, x509.UnknownSignatureAlgorithm
}

// readAttrs reads signed attributes. RFC 5652 section 5.3 and 11: each kind once, and those that we know have one value.
func (d *signedData) readAttrs(s cryptobyte.String) error {
	for !s.Empty() {
		var attr, values, value cryptobyte.String
		var a attribute
		if !s.ReadASN1(&attr, tags.SEQUENCE) || !attr.ReadASN1ObjectIdentifier(&a.kind) || !attr.ReadASN1(&values, tags.SET) ||
			!attr.Empty() || len(d.attrs) == maxAttrs {
			return errDER
		}
		var tag tags.Tag
		if !values.ReadAnyASN1Element(&value, &tag) || !values.Empty() || d.attr(a.kind) != nil {
			return errors.New("a signed attribute that is there twice, or has not one value")
		}
		a.value = value
		d.attrs = append(d.attrs, a)
	}
	return nil
}

// attr is the value of a signed attribute; nil: it is not there.
func (d *signedData) attr(kind asn1.ObjectIdentifier) cryptobyte.String {
	for _, a := range d.attrs {
		if a.kind.Equal(kind) {
			return a.value
		}
	}
	return nil
}

// signer is the certificate that the signer is named by.
func (d *signedData) signer() (*x509.Certificate, error) {
	for _, c := range d.certs {
		if d.issuer != nil && bytes.Equal(c.RawIssuer, d.issuer) && c.SerialNumber.Cmp(d.serial) == 0 ||
			d.issuer == nil && bytes.Equal(c.SubjectKeyId, d.keyID) {
			return c, nil
		}
	}
	return nil, errors.New("the signer's certificate is not there")
}

// verifySignature checks RFC 5652 section 5.6: content type, digest of the content, and the signature over both.
func (d *signedData) verifySignature(by *x509.Certificate) error {
	kind, digest := d.attr(oidContentType), d.attr(oidMessageDigest)
	var oid asn1.ObjectIdentifier
	var sum cryptobyte.String
	if !kind.ReadASN1ObjectIdentifier(&oid) || !kind.Empty() || !oid.Equal(d.contentType) {
		return errors.New("signed content type")
	}
	h := d.digest.New()
	h.Write(d.content)
	if !digest.ReadASN1(&sum, tags.OCTET_STRING) || !digest.Empty() || !bytes.Equal(sum, h.Sum(nil)) {
		return errors.New("message digest")
	}
	if key, ok := by.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < minRSA {
		return errors.New("RSA key below 2048 bits")
	}
	if by.CheckSignature(d.algorithm, d.signed, d.signature) != nil {
		return errors.New("signature")
	}
	return nil
}
