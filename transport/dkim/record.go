package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Resolver finds TXT records; *net.Resolver is one. No such name or no record is a *net.DNSError with IsNotFound; any
// other error means that it is not known now.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Record is a key record (RFC 6376 section 3.6.1).
type Record struct {
	// Public is an *rsa.PublicKey or an ed25519.PublicKey; nil: the key is revoked.
	Public crypto.PublicKey
	// Services are the service types; none: all. The reports of transport/tlsrpt ask for "tlsrpt" (RFC 8460 section 5.3),
	// mail for "email"; a key for both leaves it empty.
	Services []string
	// Testing is the flag y: verifiers treat the mail as if it were not signed. Strict is the flag s: no i= in a subdomain.
	Testing, Strict bool
}

// RecordName is where the key's record is.
func (k Key) RecordName() string { return k.Selector + "._domainkey." + k.Domain }

// Record is what is to be published at [Key.RecordName].
func (k Key) Record() Record {
	if k.Private == nil {
		return Record{}
	}
	return Record{Public: k.Private.Public()}
}

// String is the text of the TXT record.
func (r Record) String() string {
	tags := []string{"v=DKIM1"}
	p := ""
	switch key := r.Public.(type) {
	case *rsa.PublicKey:
		der, _ := x509.MarshalPKIXPublicKey(key) // no RSA key fails
		tags, p = append(tags, "k=rsa"), base64.StdEncoding.EncodeToString(der)
	case ed25519.PublicKey:
		// RFC 8463 section 4.2: the bare key.
		tags, p = append(tags, "k=ed25519"), base64.StdEncoding.EncodeToString(key)
	}
	if len(r.Services) > 0 {
		tags = append(tags, "s="+strings.Join(r.Services, ":"))
	}
	var flags []string
	if r.Testing {
		flags = append(flags, "y")
	}
	if r.Strict {
		flags = append(flags, "s")
	}
	if len(flags) > 0 {
		tags = append(tags, "t="+strings.Join(flags, ":"))
	}
	return strings.Join(append(tags, "p="+p), "; ")
}

// Zone is a line for a zone file: a TXT record of a name, its text cut into strings of at most 255 octets (RFC 1035
// section 3.3). Name and text are such as [Key.RecordName] and [Record.String] give.
func Zone(name, text string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. IN TXT (", strings.TrimSuffix(name, "."))
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	for text != "" {
		n := min(255, len(text))
		fmt.Fprintf(&b, ` "%s"`, quote.Replace(text[:n]))
		text = text[n:]
	}
	b.WriteString(" )")
	return b.String()
}

// The rules that a key record can break.
const (
	RuleMissing   = "missing"   // there is no record
	RuleSeveral   = "several"   // more than one; what verifiers do is undefined (RFC 6376 section 3.6.2.2)
	RuleSize      = "size"      // over 8 KiB
	RuleTag       = "tag"       // broken tags, or one twice
	RuleVersion   = "version"   // v= is not DKIM1, or not first
	RuleAlgorithm = "algorithm" // k= or h= that is unknown
	RulePublicKey = "key"       // p= missing or broken
	RuleRevoked   = "revoked"   // p= is empty
	RuleDifferent = "different" // another key than the one that signs
	RuleTesting   = "testing"   // t=y: verifiers ignore the signature
	RuleService   = "service"   // s= does not allow e-mail
)

// RecordError is a key record that breaks a rule, or does not serve a key.
type RecordError struct {
	// Name is where the record is, "" where it is not known.
	Name string
	// Rule is one of the Rule constants.
	Rule string
}

// Error names the rule; it does not quote the record.
func (e *RecordError) Error() string {
	if e.Name == "" {
		return "dkim: record: " + e.Rule
	}
	return "dkim: record at " + e.Name + ": " + e.Rule
}

const maxRecord = 8 << 10

// ParseRecord reads the TXT records at a key's name, each with its strings joined. An error is a *[RecordError]. Unknown
// tags are skipped (RFC 6376 section 3.2). A revoked key is no error here.
func ParseRecord(txts []string) (Record, error) {
	if len(txts) != 1 {
		if len(txts) == 0 {
			return Record{}, &RecordError{Rule: RuleMissing}
		}
		return Record{}, &RecordError{Rule: RuleSeveral}
	}
	tags, err := parseTags(txts[0])
	if err != nil {
		return Record{}, err
	}
	var r Record
	if h, ok := tags["h"]; ok && !slices.Contains(list(h), "sha256") {
		return r, &RecordError{Rule: RuleAlgorithm}
	}
	if s, ok := tags["s"]; ok && !slices.Contains(list(s), "*") {
		r.Services = list(s)
	}
	flags := list(tags["t"])
	r.Testing, r.Strict = slices.Contains(flags, "y"), slices.Contains(flags, "s")
	p, ok := tags["p"]
	if !ok {
		return r, &RecordError{Rule: RulePublicKey}
	}
	r.Public, err = publicKey(tags["k"], p)
	return r, err
}

// parseTags is the tag list of RFC 6376 section 3.2, without white space around names and values.
func parseTags(s string) (map[string]string, error) {
	if len(s) > maxRecord {
		return nil, &RecordError{Rule: RuleSize}
	}
	tags := map[string]string{}
	parts := strings.Split(s, ";")
	for i, part := range parts {
		part = strings.Trim(part, space)
		if part == "" && i == len(parts)-1 {
			break
		}
		name, value, ok := strings.Cut(part, "=")
		name = strings.Trim(name, space)
		if _, twice := tags[name]; !ok || twice || name == "" {
			return nil, &RecordError{Rule: RuleTag}
		}
		tags[name] = strings.Trim(value, space)
		if name == "v" && (i != 0 || tags["v"] != "DKIM1") {
			return nil, &RecordError{Rule: RuleVersion}
		}
	}
	return tags, nil
}

const space = " \t\r\n"

func list(s string) []string {
	parts := strings.Split(s, ":")
	for i := range parts {
		parts[i] = strings.Trim(parts[i], space)
	}
	return parts
}

func publicKey(k, p string) (crypto.PublicKey, error) {
	p = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "").Replace(p)
	if k != "" && k != string(RSA) && k != string(Ed25519) {
		return nil, &RecordError{Rule: RuleAlgorithm}
	}
	if p == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(p)
	switch {
	case err != nil:
	case k == string(Ed25519):
		if len(b) == ed25519.PublicKeySize {
			return ed25519.PublicKey(b), nil
		}
	default:
		if key, err := x509.ParsePKIXPublicKey(b); err == nil {
			if rk, ok := key.(*rsa.PublicKey); ok {
				return rk, nil
			}
		}
		// Erratum 3017 of RFC 6376: a bare RSAPublicKey is taken as well.
		if key, err := x509.ParsePKCS1PublicKey(b); err == nil {
			return key, nil
		}
	}
	return nil, &RecordError{Rule: RulePublicKey}
}

// CheckPublished says whether DNS has the record that receivers need to verify what k signs; call it before a key's
// NotBefore. A *[RecordError] says what is wrong; any other error means that it is not known now.
func CheckPublished(ctx context.Context, r Resolver, k Key) error {
	name := k.RecordName()
	txts, err := r.LookupTXT(ctx, name)
	if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound {
		err, txts = nil, nil
	}
	if err != nil {
		return fmt.Errorf("dkim: look up key record: %w", err)
	}
	rec, err := ParseRecord(txts)
	if re, ok := errors.AsType[*RecordError](err); ok {
		re.Name = name
		return re
	}
	if rule := rec.serves(k); rule != "" {
		return &RecordError{name, rule}
	}
	return nil
}

// serves gives the rule that r breaks for k, "" if it serves.
func (r Record) serves(k Key) string {
	switch {
	case r.Public == nil:
		return RuleRevoked
	case k.Private == nil || !equal(r.Public, k.Private.Public()):
		return RuleDifferent
	case r.Testing:
		return RuleTesting
	case len(r.Services) > 0 && !slices.Contains(r.Services, "email"):
		return RuleService
	}
	return ""
}

func equal(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}
