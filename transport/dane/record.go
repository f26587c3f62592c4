package dane

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Values of the fields of a [Record] (RFC 6698 section 2.1, named by RFC 7218).
const (
	UsagePKIXTA uint8 = 0 // unusable for SMTP
	UsagePKIXEE uint8 = 1 // unusable for SMTP
	UsageDANETA uint8 = 2
	UsageDANEEE uint8 = 3

	SelectorCert uint8 = 0
	SelectorSPKI uint8 = 1

	MatchFull   uint8 = 0
	MatchSHA256 uint8 = 1
	MatchSHA512 uint8 = 2
)

// maxData bounds the data of a record: no DNS message holds more.
const maxData = 65535

// Record is a TLSA record (RFC 6698 section 2.1).
type Record struct {
	Usage, Selector, Match uint8
	// Data is a certificate, a SubjectPublicKeyInfo, or a digest of one.
	Data []byte
}

// String is r as in a master file: "3 1 1 0a1b...", which is also the policy string of RFC 8460 section 4.4.
func (r Record) String() string {
	return fmt.Sprintf("%d %d %d %x", r.Usage, r.Selector, r.Match, r.Data)
}

// Line is r as a line of a zone file for the host: "_25._tcp.mx.example. IN TLSA 3 1 1 0a1b...".
func (r Record) Line(host string, port uint16) string {
	return Name(host, port) + ". IN TLSA " + r.String()
}

// Name is where the TLSA records of a host are (RFC 6698 section 3), without the final dot: "_25._tcp.mx.example".
func Name(host string, port uint16) string {
	return "_" + strconv.Itoa(int(port)) + "._tcp." + normal(host)
}

// normal is a name in lower case without the final dot.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

var errSyntax = errors.New(`dane: a record is "usage selector match hexadecimal-data"`)

// ParseRecord reads the presentation form of RFC 6698 section 2.2: three numbers and the data in hexadecimal, which may
// hold blanks. It accepts values that [Lookup] finds unusable, and at most 65,535 bytes of data.
func ParseRecord(presentation string) (Record, error) {
	if len(presentation) > 4*maxData {
		return Record{}, errSyntax
	}
	fields := strings.Fields(presentation)
	if len(fields) < 4 {
		return Record{}, errSyntax
	}
	var n [3]uint8
	for i := range n {
		v, err := strconv.ParseUint(fields[i], 10, 8)
		if err != nil {
			return Record{}, errSyntax
		}
		n[i] = uint8(v)
	}
	data, err := hex.DecodeString(strings.Join(fields[3:], ""))
	if err != nil || len(data) > maxData {
		return Record{}, errSyntax
	}
	return Record{n[0], n[1], n[2], data}, nil
}

// RecordFor makes the record that cert's owner publishes. "3 1 1" is the usual choice (RFC 7671 section 5.1): it stays
// valid as long as the key does. Values that SMTP can't use are an error.
func RecordFor(cert *x509.Certificate, usage, selector, match uint8) (Record, error) {
	if usage != UsageDANETA && usage != UsageDANEEE {
		return Record{}, errors.New("dane: usage must be 2 or 3 for SMTP")
	}
	if selector > SelectorSPKI || match > MatchSHA512 {
		return Record{}, errors.New("dane: selector must be 0 or 1, and match 0, 1 or 2")
	}
	data := digest(subject(cert, selector), match)
	return Record{usage, selector, match, bytes.Clone(data)}, nil
}

// subject is the part of cert that a selector names.
func subject(cert *x509.Certificate, selector uint8) []byte {
	if selector == SelectorSPKI {
		return cert.RawSubjectPublicKeyInfo
	}
	return cert.Raw
}

func digest(b []byte, match uint8) []byte {
	switch match {
	case MatchSHA256:
		d := sha256.Sum256(b)
		return d[:]
	case MatchSHA512:
		d := sha512.Sum512(b)
		return d[:]
	}
	return b
}

// usable says why r can't be used for SMTP, or "".
func (r Record) usable() string {
	switch {
	case r.Usage != UsageDANETA && r.Usage != UsageDANEEE:
		return "usage " + strconv.Itoa(int(r.Usage))
	case r.Selector > SelectorSPKI:
		return "selector " + strconv.Itoa(int(r.Selector))
	case r.Match > MatchSHA512:
		return "matching type " + strconv.Itoa(int(r.Match))
	case r.Match == MatchSHA256 && len(r.Data) != sha256.Size, r.Match == MatchSHA512 && len(r.Data) != sha512.Size:
		return "length of digest"
	case r.Match == MatchFull && !wellFormed(r.Data, r.Selector):
		return "malformed data"
	}
	return ""
}

// wellFormed says that b has the outline of a certificate or a SubjectPublicKeyInfo (RFC 5280 section 4.1), and nothing
// behind it. One with contents that we can't read is well-formed: it must not pass for a record that asks for nothing.
func wellFormed(b []byte, selector uint8) bool {
	var rest []byte
	var err error
	if selector == SelectorSPKI {
		var spki struct {
			Algorithm asn1.RawValue
			Key       asn1.BitString
		}
		rest, err = asn1.Unmarshal(b, &spki)
		return err == nil && len(rest) == 0 && sequence(spki.Algorithm)
	}
	var cert struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	rest, err = asn1.Unmarshal(b, &cert)
	return err == nil && len(rest) == 0 && sequence(cert.TBS) && sequence(cert.Algorithm)
}

func sequence(v asn1.RawValue) bool {
	return v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence && v.IsCompound
}
