package encrypt

import (
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Placeholder is the outer Subject of sealed mail (RFC 9788 section 3.2.1). It is never translated: a translation would
// tell an onlooker the sender's language and program.
const Placeholder = "[...]"

// The errors of Outer, Payload and Restore. None holds a value of the message.
var (
	errParcel      = errors.New("encrypt: parcel without message or recipient")
	errType        = errors.New("encrypt: malformed Content-Type (RFC 2045 section 5.1)")
	errDisposition = errors.New("encrypt: malformed Content-Disposition (RFC 2183 section 2)")
	errEncoding    = errors.New("encrypt: transfer encoding not allowed here (RFC 2045 section 6.4)")
	errNoBody      = errors.New("encrypt: content without body")
)

// Content is the new body of sealed mail, and the fields that describe it.
type Content struct {
	// Type is the value of Content-Type, on one line; required.
	Type string
	// Encoding is the Content-Transfer-Encoding: "" (no field: 7bit), "7bit", "8bit", "base64" or "quoted-printable"; for
	// multipart and message types only the first three.
	Encoding string
	// Disposition is the value of Content-Disposition, on one line; "": no field.
	Disposition string
	// Body is encoded already, with CRLF line ends and lines of at most 998 octets.
	Body securemail.Source
}

// Outer makes the message that leaves for sealed mail: c in a header that has these fields and no others:
//
//	Date, From, Reply-To, Message-ID, In-Reply-To, References    as in the original, octet by octet
//	To, Cc                   as in the original where they name the recipient; else To with him alone
//	Subject                  "[...]" (RFC 9788 section 3.2.1, hcp_baseline), where the original has one
//	MIME-Version             1.0
//	Content-Type, -Transfer-Encoding, -Disposition    of c
//
// An original without From, Date or Message-ID, a malformed c, and a body that [securemail.NewMessage] refuses are
// errors. It reads c.Body once and does not keep p.
func Outer(p *securemail.Parcel, c Content) (*securemail.Message, error) {
	visible, err := outerFields(p)
	if err != nil {
		return nil, err
	}
	content, err := c.header()
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	for _, f := range visible {
		head.WriteString(f.raw)
	}
	head.WriteString("MIME-Version: 1.0\r\n" + content + "\r\n")
	m, err := securemail.NewMessage(join(securemail.Bytes([]byte(head.String())), c.Body))
	if err != nil {
		return nil, fmt.Errorf("encrypt: outer message: %w", err)
	}
	return m, nil
}

// outerFields gives the fields of the outer header that are not MIME's, in the order in which they are written.
func outerFields(p *securemail.Parcel) ([]field, error) {
	if p == nil || p.Message == nil || p.Recipient.Address == (securemail.Address{}) {
		return nil, errParcel
	}
	all := parseFields(p.Message.Head())
	var out []field
	for _, name := range []string{"date", "from", "reply-to", "to", "cc", "subject", "message-id", "in-reply-to", "references"} {
		f, ok := first(all, name)
		switch {
		case !ok && (name == "date" || name == "from" || name == "message-id"):
			return nil, fmt.Errorf("encrypt: original without the field %s (RFC 5322 section 3.6)", name)
		case !ok || name == "to" || name == "cc":
			// To and Cc come together, below
		case name == "subject":
			out = append(out, field{name, "Subject: " + Placeholder + "\r\n"})
		default:
			out = append(out, f)
		}
		if name == "cc" {
			out = append(out, addressFields(all, p.Recipient.Address)...)
		}
	}
	return out, nil
}

// addressFields gives To and Cc of the outer header. A recipient whom they do not name is a Bcc recipient: he sees
// himself alone, so that a reply to all from a program that does not read the protected header can't reveal him.
func addressFields(all []field, recipient securemail.Address) []field {
	if !names(all, recipient) {
		return []field{{"to", "To: <" + recipient.Reveal() + ">\r\n"}}
	}
	var out []field
	for _, name := range []string{"to", "cc"} {
		if f, ok := first(all, name); ok {
			out = append(out, f)
		}
	}
	return out
}

// header gives the Content-* lines.
func (c Content) header() (string, error) {
	if c.Body == nil {
		return "", errNoBody
	}
	kind, _, err := mime.ParseMediaType(c.Type)
	if err != nil || !strings.Contains(kind, "/") || !printable(c.Type) {
		return "", errType
	}
	out := "Content-Type: " + foldParams(c.Type) + "\r\n"
	composite := strings.HasPrefix(kind, "multipart/") || strings.HasPrefix(kind, "message/")
	switch c.Encoding {
	case "":
	case "7bit", "8bit":
		out += "Content-Transfer-Encoding: " + c.Encoding + "\r\n"
	case "base64", "quoted-printable":
		if composite {
			return "", errEncoding
		}
		out += "Content-Transfer-Encoding: " + c.Encoding + "\r\n"
	default:
		return "", errEncoding
	}
	if c.Disposition == "" {
		return out, nil
	}
	if _, _, err := mime.ParseMediaType(c.Disposition); err != nil || !printable(c.Disposition) {
		return "", errDisposition
	}
	return out + "Content-Disposition: " + foldParams(c.Disposition) + "\r\n", nil
}

// printable keeps line ends, and so fields of the contributor's own, out of a value.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// foldParams writes each parameter on a line of its own (RFC 5322 section 2.2.3). A semicolon inside quotes is left.
func foldParams(s string) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted && i+1 < len(s):
			b.WriteByte(s[i])
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ';' && !quoted && i+1 < len(s) && s[i+1] == ' ':
			b.WriteString(";\r\n")
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
