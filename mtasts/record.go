package mtasts

import (
	"fmt"
	"slices"
	"strings"
)

// Record is the TXT record at _mta-sts.DOMAIN (RFC 8461 section 3.1). Its id changes when the policy does.
type Record struct {
	// ID is 1 to 32 letters and digits. It is compared as it stands.
	ID string
	// Extensions are fields that the RFC does not know, in their order. They mean nothing here.
	Extensions []Field
}

// Field is a name with a value.
type Field struct{ Name, Value string }

const recordVersion = "v=STSv1"

// ParseRecord finds the one STS record among the TXT records at _mta-sts.DOMAIN, each with its strings joined. Records that
// don't begin with the version are none of ours and ignored. [ErrNoRecord] is in the error where there isn't exactly one,
// or where it is broken; then also a [*RecordError].
func ParseRecord(txts []string) (Record, error) {
	var found []string
	for _, txt := range txts {
		if ours(txt) {
			found = append(found, txt)
		}
	}
	switch len(found) {
	case 0:
		return Record{}, ErrNoRecord
	case 1:
		return parseRecord(found[0])
	}
	return Record{}, &RecordError{RuleOne}
}

// ours says whether a record begins as STS records do: with the version and a delimiter, *WSP ";" *WSP.
func ours(txt string) bool {
	rest, ok := strings.CutPrefix(txt, recordVersion)
	return ok && strings.HasPrefix(strings.TrimLeft(rest, " \t"), ";")
}

func parseRecord(txt string) (Record, error) {
	var r Record
	seenID := false
	fields := strings.Split(txt, ";")
	for i, f := range fields[1:] {
		f = strings.Trim(f, " \t")
		if f == "" && i > 0 && i == len(fields)-2 {
			break // The last delimiter may end the record.
		}
		name, value, ok := strings.Cut(f, "=")
		switch {
		case !ok || !extName(name):
			return Record{}, &RecordError{RuleSyntax}
		case name == "id" && seenID:
			// RFC 8461 section 3.2: of a field that comes twice the first counts.
		case name == "id":
			if !validID(value) {
				return Record{}, &RecordError{RuleID}
			}
			r.ID, seenID = value, true
		case !recordValue(value):
			return Record{}, &RecordError{RuleSyntax}
		default:
			r.Extensions = append(r.Extensions, Field{name, value})
		}
	}
	if !seenID {
		return Record{}, &RecordError{RuleID}
	}
	return r, nil
}

// String is the record's text. Of a parsed record it parses to the same record.
func (r Record) String() string {
	var b strings.Builder
	b.WriteString(recordVersion + "; id=" + r.ID + ";")
	for _, f := range r.Extensions {
		b.WriteString(" " + f.Name + "=" + f.Value + ";")
	}
	return b.String()
}

// Line is the record as a line of a zone file. It fails where domain is no domain name or the record would not parse.
func (r Record) Line(domain string) (string, error) {
	name, err := domainName(domain)
	if err != nil {
		return "", err
	}
	if _, err := parseRecord(r.String()); err != nil {
		return "", err
	}
	// A string of a TXT record holds 255 octets (RFC 1035 section 3.3.14).
	var quoted []string
	for part := range slices.Chunk([]byte(r.String()), 255) {
		quoted = append(quoted, `"`+zoneEscaper.Replace(string(part))+`"`)
	}
	return fmt.Sprintf("_mta-sts.%s. IN TXT %s", name, strings.Join(quoted, " ")), nil
}

var zoneEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func validID(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if !letterDigit(s[i]) {
			return false
		}
	}
	return true
}

// extName is sts-ext-name and sts-policy-ext-name: a letter or digit, then up to 31 of those and "_-.".
func extName(s string) bool {
	if s == "" || len(s) > 32 || !letterDigit(s[0]) {
		return false
	}
	for i := range len(s) {
		if !letterDigit(s[i]) && !strings.ContainsRune("_-.", rune(s[i])) {
			return false
		}
	}
	return true
}

// recordValue is sts-ext-value: visible ASCII without "=" and ";".
func recordValue(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '=' || s[i] == ';' {
			return false
		}
	}
	return s != ""
}
