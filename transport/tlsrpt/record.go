package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Resolver finds TXT records; *net.Resolver is one. No such name or no record is a *net.DNSError with IsNotFound; any
// other error means that it is not known now.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// ErrNoRecord says that a domain has no TLSRPT record, or not exactly one (RFC 8460 section 3): it wants no reports.
var ErrNoRecord = errors.New("tlsrpt: no record")

// The rules that a record can break.
const (
	ruleSize      = "size"      // over 4 KiB
	ruleField     = "field"     // a field is no name=value, or of characters that are not allowed
	ruleDuplicate = "duplicate" // rua twice
	ruleRUA       = "rua"       // none, or an empty one
	ruleURI       = "uri"       // no destination that is a valid mailto: or https: URI
)

// RecordError is a record that breaks a rule of RFC 8460 section 3.
type RecordError struct {
	// Rule is "size", "field", "duplicate", "rua" or "uri".
	Rule string
}

// Error names the rule; it does not quote the record.
func (e *RecordError) Error() string { return "tlsrpt: record: " + e.Rule }

// Destination is where reports go: a mailto: or https: URI. Its String is the URI, which may hold an address; Host does not.
type Destination string

// String gives the URI.
func (d Destination) String() string { return string(d) }

// Mailbox is the address of a mailto: URI, "" for another.
func (d Destination) Mailbox() string {
	u, err := url.Parse(string(d))
	if err != nil || u.Scheme != "mailto" {
		return ""
	}
	addr, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return ""
	}
	// RFC 5321 section 4.5.3.1.3 allows 254 octets. A display name or comment would differ from what was parsed.
	a, err := mail.ParseAddress(addr)
	if err != nil || a.Address != addr || len(addr) > 254 || !printable(addr) || strings.ContainsAny(addr, " <>") {
		return ""
	}
	if name(addr[strings.LastIndexByte(addr, '@')+1:]) == "" {
		return ""
	}
	return addr
}

// Host is the host of an https: URI or the domain of a mailto: one; safe for logs.
func (d Destination) Host() string {
	if box := d.Mailbox(); box != "" {
		return name(box[strings.LastIndexByte(box, '@')+1:])
	}
	u, err := url.Parse(string(d))
	if err != nil || u.Scheme != "https" || u.User != nil {
		return ""
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return u.Hostname()
	}
	return name(u.Hostname())
}

// Record is a TLSRPT record (RFC 8460 section 3).
type Record struct {
	// RUA are the destinations that can be used, in order and without repeats.
	RUA []Destination
}

// String is the text of the TXT record at "_smtp._tls." and the domain, for publishing: see [Record.Check].
func (r Record) String() string {
	uris := make([]string, len(r.RUA))
	for i, d := range r.RUA {
		uris[i] = d.String()
	}
	return "v=TLSRPTv1; rua=" + strings.Join(uris, ",")
}

// Check says whether String is a record that others read as r.
func (r Record) Check() error {
	got, err := ParseRecord([]string{r.String()})
	if err != nil {
		return err
	}
	if len(got.RUA) != len(r.RUA) {
		return &RecordError{ruleURI}
	}
	return nil
}

// RecordName is where domain's record is.
func RecordName(domain string) string { return "_smtp._tls." + strings.TrimSuffix(domain, ".") }

const (
	version   = "v=TLSRPTv1"
	maxRecord = 4 << 10
	maxField  = 32 // RFC 8460 section 3, tlsrpt-ext-name
)

// ParseRecord reads the TXT records at "_smtp._tls." and a domain, each with its strings joined. Records that don't begin
// with the version are others' and are skipped; if not exactly one remains there is none, which is [ErrNoRecord] (RFC
// 8460 section 3). A broken record is a *[RecordError]. Unknown fields are skipped. Of the destinations those that can't
// be used are skipped, as long as one is left.
func ParseRecord(txts []string) (Record, error) {
	var found []string
	for _, t := range txts {
		if rest, ok := strings.CutPrefix(t, version); ok && strings.HasPrefix(strings.TrimLeft(rest, " \t"), ";") {
			found = append(found, strings.TrimLeft(rest, " \t")[1:])
		}
	}
	if len(found) != 1 {
		return Record{}, ErrNoRecord
	}
	if len(found[0]) > maxRecord {
		return Record{}, &RecordError{ruleSize}
	}
	rua, err := fields(found[0])
	if err != nil {
		return Record{}, err
	}
	var r Record
	for uri := range strings.SplitSeq(rua, ",") {
		d := Destination(strings.Trim(uri, " \t"))
		if d.Host() != "" && !slices.Contains(r.RUA, d) {
			r.RUA = append(r.RUA, d)
		}
	}
	if len(r.RUA) == 0 {
		return Record{}, &RecordError{ruleURI}
	}
	return r, nil
}

// fields checks what follows the version and gives the value of rua. Names are case-sensitive (RFC 8460 section 3, %s).
func fields(s string) (rua string, err error) {
	seen := false
	parts := strings.Split(s, ";")
	for i, f := range parts {
		f = strings.Trim(f, " \t")
		if f == "" && i == len(parts)-1 {
			break // a delimiter at the end is allowed
		}
		name, value, ok := strings.Cut(f, "=")
		if !ok || !fieldName(name) {
			return "", &RecordError{ruleField}
		}
		if name != "rua" {
			if !extValue(value) {
				return "", &RecordError{ruleField}
			}
			continue
		}
		if seen {
			return "", &RecordError{ruleDuplicate}
		}
		seen, rua = true, value
	}
	if strings.Trim(rua, " \t") == "" {
		return "", &RecordError{ruleRUA}
	}
	return rua, nil
}

// fieldName is (ALPHA / DIGIT) *31(ALPHA / DIGIT / "_" / "-" / ".").
func fieldName(s string) bool {
	if s == "" || len(s) > maxField {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_-.", rune(c))) {
			return false
		}
	}
	return true
}

// extValue is 1*(%x21-3A / %x3C / %x3E-7E).
func extValue(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == ';' || c == '=' {
			return false
		}
	}
	return true
}

// LookupRecord asks r for domain's record. [ErrNoRecord]: it surely has none. A *[RecordError]: a broken one. Any other
// error: not known now.
func LookupRecord(ctx context.Context, r Resolver, domain string) (Record, error) {
	txts, err := r.LookupTXT(ctx, RecordName(domain))
	if err != nil {
		if notFound(err) {
			return Record{}, ErrNoRecord
		}
		return Record{}, fmt.Errorf("tlsrpt: look up record: %w", err)
	}
	return ParseRecord(txts)
}
