package encrypt

import (
	"io"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/securemail"
)

// field is one header field as it stands in a message.
type field struct {
	name string // canonical: lower case
	raw  string // name, colon, value with its folds, CRLF
}

// value is the unfolded value (RFC 5322 section 2.2.3).
func (f field) value() string {
	_, v, _ := strings.Cut(f.raw, ":")
	return strings.TrimSpace(strings.ReplaceAll(v, "\r\n", ""))
}

// parseFields cuts a header that [securemail.NewMessage] accepted into its fields.
func parseFields(head []byte) []field {
	var fs []field
	for line := range strings.SplitAfterSeq(strings.TrimSuffix(string(head), "\r\n"), "\r\n") {
		switch {
		case line == "":
		case (line[0] == ' ' || line[0] == '\t') && len(fs) > 0:
			fs[len(fs)-1].raw += line
		default:
			name, _, _ := strings.Cut(line, ":")
			fs = append(fs, field{strings.ToLower(strings.TrimRight(name, " \t")), line})
		}
	}
	return fs
}

// first returns the first field of that name. RFC 5322 section 3.6 allows one; where a message has more, the first is
// what mail programs show.
func first(fs []field, name string) (field, bool) {
	i := slices.IndexFunc(fs, func(f field) bool { return f.name == name })
	if i < 0 {
		return field{}, false
	}
	return fs[i], true
}

// names says whether the fields To and Cc name a.
func names(fs []field, a securemail.Address) bool {
	parser := mail.AddressParser{WordDecoder: &mime.WordDecoder{
		CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil }, // names do not matter here
	}}
	for _, name := range []string{"to", "cc"} {
		f, ok := first(fs, name)
		if !ok {
			continue
		}
		list, err := parser.ParseList(f.value())
		if err != nil {
			continue // unreadable: the recipient gets a To of his own
		}
		for _, m := range list {
			b, err := securemail.ParseAddress(m.Address)
			if err == nil && Fold(a) == Fold(b) {
				return true
			}
		}
	}
	return false
}

// Fold reveals an address in the form in which addresses are compared: without regard to case. RFC 5321 section 2.3.11 lets
// a host tell Anna from anna, and hardly any does. A letter outside ASCII never becomes one inside: U+212A is no k,
// though Unicode folds it there, since both may be people. It is "" for the zero value.
func Fold(a securemail.Address) string {
	return strings.Map(func(r rune) rune {
		if l := unicode.ToLower(r); r < utf8.RuneSelf || l >= utf8.RuneSelf {
			return l
		}
		return r
	}, a.Reveal())
}

// isContent says that the field belongs to the MIME structure (RFC 2045 section 9).
func (f field) isContent() bool { return strings.HasPrefix(f.name, "content-") }
