package tlsrpt

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
)

// MailOptions are how reports go by mail. All fields are required.
type MailOptions struct {
	// From is the author's address, such as "tlsrpt@example.com", in the domain that signs.
	From string
	// Sign gives the DKIM-Signature fields, with the CRLF behind each, that are put before message. RFC 8460 section 5.3:
	// without a signature the report is ignored, and the tag l= is forbidden; both are checked.
	Sign func(ctx context.Context, message []byte) ([]byte, error)
	// Send delivers the mail, and answers nil when it is delivered or in a queue that will. It must deliver whatever TLS
	// does, as the field "TLS-Required: No" asks (RFC 8460 section 5.3, RFC 8689): that TLS fails may be what the report
	// says. Its ctx is [Quiet]. After an error it is called again, up to 24 hours, unless that Is [ErrRefused]. Its errors
	// are logged, so they should hold no address.
	Send func(ctx context.Context, m Mail) error
}

// ErrRefused is for MailOptions.Send: the mail was refused for good, and is not to be sent there again.
var ErrRefused = errors.New("tlsrpt: refused for good")

// Mail is a report on its way. Message is whole and signed, with CRLF line ends, in US-ASCII.
type Mail struct {
	From, To string
	Message  []byte
}

func (o *MailOptions) check() error {
	var errs []error
	a, err := mail.ParseAddress(o.From)
	if err != nil || a.Address != o.From || !printable(o.From) {
		errs = append(errs, errors.New("tlsrpt: mail: From is no address"))
	}
	if o.Sign == nil {
		errs = append(errs, errors.New("tlsrpt: mail: Sign is required: receivers ignore reports that are not signed"))
	}
	if o.Send == nil {
		errs = append(errs, errors.New("tlsrpt: mail: Send is required"))
	}
	return errors.Join(errs...)
}

// letter is what a mail is made of.
type letter struct {
	account   *Account
	submitter string
	from, to  string
	number    int // of the destination, so that each mail has a Message-ID of its own
	date      time.Time
	gzip      []byte
}

// message is RFC 8460 section 5.3. All that goes in was checked to be free of line ends.
func (l *letter) message() []byte {
	var b bytes.Buffer
	boundary := "tlsrpt-" + l.account.ReportID
	field := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	field("From", "<"+l.from+">")
	field("To", "<"+l.to+">")
	field("Date", l.date.Format(time.RFC1123Z))
	field("Message-ID", fmt.Sprintf("<%s.%d@%s>", l.account.ReportID, l.number, l.submitter))
	field("Subject", fmt.Sprintf("Report Domain: %s\r\n Submitter: %s\r\n Report-ID: <%s@%s>",
		l.account.Domain, l.submitter, l.account.ReportID, l.submitter))
	field(HeaderDomain, l.account.Domain)
	field("TLS-Report-Submitter", l.submitter)
	field("TLS-Required", "No")
	field("Auto-Submitted", "auto-generated")
	field("MIME-Version", "1.0")
	field("Content-Type", "multipart/report; report-type=\"tlsrpt\";\r\n boundary=\""+boundary+"\"")
	fmt.Fprintf(&b, "\r\n--%s\r\n", boundary)
	field("Content-Type", "text/plain; charset=us-ascii")
	fmt.Fprintf(&b, "\r\nThis is a report of %s on TLS sessions with\r\nthe mail hosts of %s on %s (UTC), see RFC 8460.\r\n",
		l.submitter, l.account.Domain, l.account.Day)
	fmt.Fprintf(&b, "\r\n--%s\r\n", boundary)
	field("Content-Type", "application/tlsrpt+gzip")
	field("Content-Transfer-Encoding", "base64")
	field("Content-Disposition", "attachment;\r\n filename=\""+l.account.fileName(l.submitter)+"\"")
	b.WriteString("\r\n")
	for text := base64.StdEncoding.EncodeToString(l.gzip); text != ""; {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	fmt.Fprintf(&b, "--%s--\r\n", boundary)
	return b.Bytes()
}

var errSignature = errors.New("tlsrpt: mail: Sign gave no DKIM-Signature, or one with l=")

// checkSigned looks at what Sign gave: only DKIM-Signature fields, none with l= (RFC 8460 section 5.3).
func checkSigned(head []byte) error {
	text := string(head)
	if text == "" || !strings.HasSuffix(text, "\r\n") || strings.Contains(text, "\r\n\r\n") {
		return errSignature
	}
	unfolded := strings.NewReplacer("\r\n ", "", "\r\n\t", "").Replace(strings.TrimSuffix(text, "\r\n"))
	for line := range strings.SplitSeq(unfolded, "\r\n") {
		field, value, _ := strings.Cut(line, ":")
		if !strings.EqualFold(strings.TrimSpace(field), "DKIM-Signature") {
			return errSignature
		}
		for tag := range strings.SplitSeq(value, ";") {
			if tagName, _, _ := strings.Cut(tag, "="); strings.TrimSpace(tagName) == "l" {
				return errSignature
			}
		}
	}
	return nil
}

// mail sends a letter.
func (o *MailOptions) mail(ctx context.Context, l *letter) error {
	l.from = o.From
	msg := l.message()
	head, err := o.Sign(ctx, msg)
	if err != nil {
		return fmt.Errorf("tlsrpt: sign: %w", err)
	}
	if err := checkSigned(head); err != nil {
		return err
	}
	m := Mail{From: l.from, To: l.to, Message: append(bytes.Clone(head), msg...)}
	if err := o.Send(Quiet(ctx), m); err != nil {
		return fmt.Errorf("tlsrpt: send: %w", err)
	}
	return nil
}
