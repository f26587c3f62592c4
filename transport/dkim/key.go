package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Algorithm is the tag k= of a key record.
type Algorithm string

// The algorithms of RFC 6376 and RFC 8463.
const (
	RSA     Algorithm = "rsa"
	Ed25519 Algorithm = "ed25519"
)

// MinRSA is the least size of an RSA key, in bits. RFC 8301 section 3.2 would take 1,024 and recommends this.
const MinRSA = 2048

// maxRSA is what verifiers must take (RFC 8301 section 3.2).
const maxRSA = 4096

// Key is a private key and when it signs.
type Key struct {
	// Domain is the tag d=, in A-labels; Selector the tag s=.
	Domain, Selector string
	// Private holds an RSA key of 2,048 to 4,096 bits or an Ed25519 key. It may be hardware or a service; it is called
	// from many goroutines.
	Private crypto.Signer
	// NotBefore is the first moment at which the key signs, NotAfter the first at which it does no more. Zero: without
	// bound.
	NotBefore, NotAfter time.Time
	// Subdomains lets the key sign for authors in subdomains of Domain that have no key of their own. DMARC takes that as
	// aligned unless the domain's policy is strict (RFC 7489 section 3.1.1).
	Subdomains bool
}

// Format implements [fmt.Formatter]; it shows where the record is, never the private key.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.RecordName()) }

// LogValue implements [slog.LogValuer]; see Format.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.RecordName()) }

// Algorithm is that of the private key, "" for one that can't sign DKIM.
func (k Key) Algorithm() Algorithm {
	if k.Private == nil {
		return ""
	}
	return algorithm(k.Private.Public())
}

func algorithm(p crypto.PublicKey) Algorithm {
	switch p.(type) {
	case *rsa.PublicKey:
		return RSA
	case ed25519.PublicKey:
		return Ed25519
	}
	return ""
}

// Valid says whether the key signs at time t.
func (k Key) Valid(t time.Time) bool {
	return !t.Before(k.NotBefore) && (k.NotAfter.IsZero() || t.Before(k.NotAfter))
}

// check gives every fault of k.
func (k Key) check() error {
	var errs []error
	fault := func(what string) {
		errs = append(errs, fmt.Errorf("dkim: key %s of %s: %s", k.Selector, k.Domain, what))
	}
	if !domainName(k.Domain) {
		fault("Domain is no domain name in A-labels")
	}
	if !domainName(k.Selector) {
		fault("Selector is no selector")
	}
	if !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter) {
		fault("NotAfter is not after NotBefore")
	}
	switch k.Algorithm() {
	case "":
		fault("Private is neither RSA nor Ed25519")
	case RSA:
		if bits := k.Private.Public().(*rsa.PublicKey).N.BitLen(); bits < MinRSA || bits > maxRSA {
			fault(fmt.Sprintf("an RSA key of %d bits; 2,048 to 4,096 are allowed", bits))
		}
	}
	return errors.Join(errs...)
}

// domainName says whether s is labels of letters, digits, hyphens and underscores.
func domainName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

// Generate makes a private key: Ed25519, or RSA of 2,048 bits, the size whose record fits every DNS host.
func Generate(a Algorithm) (crypto.Signer, error) {
	switch a {
	case RSA:
		return rsa.GenerateKey(rand.Reader, MinRSA)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, errors.New("dkim: generate: an unknown algorithm")
}

// MarshalPEM writes a private key in PKCS #8 ("PRIVATE KEY"). What comes out is secret.
func MarshalPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("dkim: marshal: not a private key that can be exported")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePEM reads a private key: the first PEM block, PKCS #8 ("PRIVATE KEY") or PKCS #1 ("RSA PRIVATE KEY"), not encrypted.
func ParsePEM(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("dkim: parse key: no PEM")
	}
	switch block.Type {
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("dkim: parse key: broken PKCS #8")
		}
		s, ok := key.(crypto.Signer)
		if !ok || algorithm(s.Public()) == "" {
			return nil, errors.New("dkim: parse key: neither RSA nor Ed25519")
		}
		return s, nil
	case "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("dkim: parse key: broken PKCS #1")
		}
		return key, nil
	}
	return nil, errors.New("dkim: parse key: not a private key without password")
}
