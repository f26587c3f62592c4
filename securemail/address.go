package securemail

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const redacted = "[redacted]"

var errWouldReveal = errors.New("securemail: personal data can't be written as text")

// Address is one RFC 5321 mailbox, internationalised as RFC 6531 allows. It is comparable; the zero value means none
// (in an envelope: the null reverse-path).
//
// It has no String method: a redacted text must not compile into a wire. Formatting and logging redact it, text and
// JSON encoding fail, and [Address.MarshalBinary] reveals it for stores that seal what they write.
type Address struct{ local, domain string }

// Limits of RFC 5321 section 4.5.3.1, in octets.
const (
	maxLocal   = 64
	maxDomain  = 255
	maxAddress = 254
)

var domainProfile = idna.New(
	idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true), idna.Transitional(false),
)

// ParseAddress reads a bare RFC 5321 Mailbox such as anna@example.org. The domain is folded to lower case A-labels
// (RFC 5891); the local part is kept to the letter. Address literals, quoted local parts that hold control characters,
// and anything over the limits of RFC 5321 section 4.5.3.1 are refused. The error never holds the input.
func ParseAddress(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if at <= 0 || at == len(s)-1 || len(s) > maxAddress || !utf8.ValidString(s) {
		return Address{}, errors.New("securemail: malformed address")
	}
	local, domain := s[:at], s[at+1:]
	if len(local) > maxLocal || strings.ContainsFunc(local, unicode.IsControl) || !validLocal(local) {
		return Address{}, errors.New("securemail: malformed local part of an address")
	}
	ascii, err := domainProfile.ToASCII(domain)
	ascii = strings.TrimSuffix(ascii, ".") // behind the mapping, where an ideographic full stop has become one
	if err != nil || len(ascii) > maxDomain || len(local)+1+len(ascii) > maxAddress || slices.Contains(strings.Split(ascii, "."), "") {
		return Address{}, errors.New("securemail: malformed domain of an address")
	}
	return Address{local, strings.ToLower(ascii)}, nil
}

// validLocal accepts Dot-string and Quoted-string of RFC 5321 section 4.1.2 with UTF8-non-ascii of RFC 6531 section 3.3.
func validLocal(s string) bool {
	if strings.HasPrefix(s, `"`) {
		return validQuoted(s)
	}
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtext) {
			return false
		}
	}
	return true
}

func validQuoted(s string) bool {
	if len(s) < 2 || s[len(s)-1] != '"' {
		return false
	}
	body := s[1 : len(s)-1]
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '\\':
			if i++; i == len(body) || body[i] < ' ' || body[i] > '~' {
				return false
			}
		case c == '"' || c < ' ' || c == 0x7f:
			return false
		}
	}
	return true
}

func notAtext(r rune) bool {
	if r >= utf8.RuneSelf {
		// C1 controls and the line separators are no part of a name.
		return r < 0xa0 || r == 0x2028 || r == 0x2029
	}
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`()<>[]:;@\,."`, r)
}

// Reveal returns the address as it goes on a wire: local part, @, A-label domain; "" for the zero value. Never log it.
func (a Address) Reveal() string {
	if a == (Address{}) {
		return ""
	}
	return a.local + "@" + a.domain
}

// Domain returns the domain in lower case A-labels, "" for the zero value.
func (a Address) Domain() string { return a.domain }

// Format implements [fmt.Formatter]; it redacts for every verb.
func (a Address) Format(f fmt.State, _ rune) { writeRedacted(f) }

// LogValue implements [slog.LogValuer]; it redacts.
func (a Address) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText always fails, so that no JSON, XML or text encoder can reveal or silently redact an address.
func (a Address) MarshalText() ([]byte, error) { return nil, errWouldReveal }

// MarshalBinary reveals the address, for stores that seal what they write.
func (a Address) MarshalBinary() ([]byte, error) { return []byte(a.Reveal()), nil }

// UnmarshalBinary reads what MarshalBinary wrote.
func (a *Address) UnmarshalBinary(b []byte) error {
	if len(b) == 0 {
		*a = Address{}
		return nil
	}
	p, err := ParseAddress(string(b))
	if err != nil {
		return err
	}
	*a = p
	return nil
}

func writeRedacted(f fmt.State) { _, _ = f.Write([]byte(redacted)) }

// Secret is a value that only its receiver may see: a password, an access code, a telephone number. It formats and
// encodes like [Address].
type Secret struct{ b []byte }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{[]byte(s)} }

// Reveal returns the secret. Never log it.
func (s Secret) Reveal() string { return string(s.b) }

// Format implements [fmt.Formatter]; it redacts for every verb.
func (s Secret) Format(f fmt.State, _ rune) { writeRedacted(f) }

// LogValue implements [slog.LogValuer]; it redacts.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText always fails.
func (s Secret) MarshalText() ([]byte, error) { return nil, errWouldReveal }

// MarshalBinary reveals the secret, for stores that seal what they write.
func (s Secret) MarshalBinary() ([]byte, error) { return s.b, nil }

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *Secret) UnmarshalBinary(b []byte) error { s.b = append([]byte(nil), b...); return nil }

// Subject names whose data a message holds (a patient): a key scope and an audit pseudonym. It formats and encodes
// like [Address].
type Subject string

// Format implements [fmt.Formatter]; it redacts for every verb.
func (s Subject) Format(f fmt.State, _ rune) { writeRedacted(f) }

// LogValue implements [slog.LogValuer]; it redacts.
func (s Subject) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText always fails.
func (s Subject) MarshalText() ([]byte, error) { return nil, errWouldReveal }

// MarshalBinary reveals the subject, for stores that seal what they write.
func (s Subject) MarshalBinary() ([]byte, error) { return []byte(s), nil }

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *Subject) UnmarshalBinary(b []byte) error { *s = Subject(b); return nil }

// Contact is a person or a mailbox the host knows. Formatting and logging redact it whole.
type Contact struct {
	// Name is the display name, UTF-8, without CR or LF.
	Name string
	// Address is where mail goes.
	Address Address
	// Ref is the host's id for the contact; it must hold no PHI, since rules and events see it.
	Ref string
	// Language is a BCP 47 tag and TimeZone an IANA name, for notices and pages. Empty: the brand's default.
	Language, TimeZone string
	// Attrs are facts for rules ("department": "radiology"); they never leave in mail or in events.
	Attrs map[string]string

	fault error
}

// Mailbox reads "Anna <anna@example.org>" or a bare address (RFC 5322 section 3.4). A malformed one is no panic and no
// error here: it is a fault that [Mailer.Send] names together with the others.
func Mailbox(s string) Contact {
	if a, err := ParseAddress(strings.TrimSpace(s)); err == nil {
		return Contact{Address: a}
	}
	p, err := mailboxParser().Parse(s)
	if err != nil {
		return Contact{fault: errors.New("securemail: malformed mailbox")}
	}
	a, err := ParseAddress(p.Address)
	return Contact{Name: readableName(p.Name), Address: a, fault: err}
}

// mailboxParser reads each word in a charset that the core does not link as U+FFFD: the address is what counts.
func mailboxParser() *mail.AddressParser {
	unknown := func(string, io.Reader) (io.Reader, error) { return strings.NewReader("\ufffd"), nil }
	return &mail.AddressParser{WordDecoder: &mime.WordDecoder{CharsetReader: unknown}}
}

// readableName is s, or nothing where nothing of it could be read.
func readableName(s string) string {
	if strings.Trim(s, "\ufffd ") == "" {
		return ""
	}
	return s
}

// Format implements [fmt.Formatter]; it redacts for every verb.
func (c Contact) Format(f fmt.State, _ rune) { writeRedacted(f) }

// LogValue implements [slog.LogValuer]; it redacts.
func (c Contact) LogValue() slog.Value { return slog.StringValue(redacted) }

// Factor is one way for a recipient to prove himself at the portal. Factors reach Encryptors only: never a Slip, so
// never a fact, a status or an event.
type Factor struct {
	// Kind is "code" (an access code the recipient was told), "question" (Hint asks, Value answers), "sms" (Value is
	// the number), or a kind that a portal plug-in knows.
	Kind string
	// Hint is shown to the recipient; it must not give Value away.
	Hint string
	// Value is what he must give.
	Value Secret
}

// Recipient is a contact and the factors on file for him.
type Recipient struct {
	Contact
	Factors []Factor
}

// To makes recipients of mailboxes; see [Mailbox] for malformed ones.
func To(ss ...string) []Recipient {
	rs := make([]Recipient, len(ss))
	for i, s := range ss {
		rs[i] = Recipient{Contact: Mailbox(s)}
	}
	return rs
}
