package notice

import (
	"bytes"
	"fmt"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// letter is a report to be written.
type letter struct {
	id, tenant, who string
	to              securemail.Contact
	items           []*item
	found           map[string]securemail.Status
	at              time.Time
}

// compose makes the report: a multipart/report (RFC 6522) of a text and a delivery status (RFC 3464), and nothing of the
// messages themselves.
func (n *Notices) compose(l *letter) ([]byte, securemail.Contact, error) {
	t := n.tenant(l.tenant)
	from := t.From
	if from.Address == (securemail.Address{}) {
		a, err := securemail.ParseAddress("postmaster@" + l.to.Address.Domain())
		if err != nil {
			return nil, from, fmt.Errorf("notice: report: %w", err)
		}
		from.Address = a
	}
	if from.Name == "" {
		from.Name = t.Name
	}
	mta := n.o.ReportingMTA
	if mta == "" {
		mta = from.Address.Domain()
	}
	entries := make([]Entry, len(l.items))
	for i, it := range l.items {
		entries[i] = entryOf(it, l.found)
	}
	subject, text := n.textsOf(l.tenant).write(dataOf(t.Name, l.who, entries))
	var b bytes.Buffer
	boundary := "report-" + l.id
	// RFC 3834 section 5: nothing answers this by itself.
	for _, f := range []string{
		"From: " + mailbox(from), "To: " + mailbox(securemail.Contact{Address: l.to.Address}), "Subject: " + encoded(subject),
		"Date: " + l.at.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"),
		"Auto-Submitted: auto-generated", "MIME-Version: 1.0",
		"Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"" + boundary + "\"",
		"", "--" + boundary, "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable", "",
	} {
		b.WriteString(f + "\r\n")
	}
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // a bytes.Buffer does not fail
	_ = w.Close()
	b.WriteString("\r\n--" + boundary + "\r\nContent-Type: message/delivery-status\r\n\r\n")
	writeStatus(&b, mta, entries)
	b.WriteString("\r\n--" + boundary + "--\r\n")
	return b.Bytes(), from, nil
}

// writeStatus is the body of RFC 3464 section 2.1: a group about all, and one for each entry.
func writeStatus(b *bytes.Buffer, mta string, entries []Entry) {
	field := func(name, value string) {
		if value != "" {
			b.WriteString(name + ": " + value + "\r\n")
		}
	}
	date := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700")
	}
	if len(entries) == 1 {
		field("Original-Envelope-Id", entries[0].Parcel) // of [0-9a-v]: no xtext needed
		field("Reporting-MTA", "dns; "+mta)
		field("Arrival-Date", date(entries[0].Submitted))
	} else {
		field("Reporting-MTA", "dns; "+mta)
	}
	for _, e := range entries {
		b.WriteString("\r\n")
		field("Final-Recipient", finalRecipient(e))
		field("Action", e.action())
		field("Status", e.status())
		if e.action() == "delayed" {
			field("Will-Retry-Until", date(e.UsefulUntil))
		}
		field("X-Postseal-Parcel", e.Parcel)
		field("X-Postseal-State", string(e.State))
		field("X-Postseal-Reason", e.Reason)
		field("X-Postseal-Submitted", date(e.Submitted))
		field("X-Postseal-Entered", date(e.Entered))
		field("X-Postseal-Next", date(e.Next))
		for _, k := range slices.Sorted(maps.Keys(e.Labels)) {
			field("X-Postseal-Label", k+"="+e.Labels[k])
		}
	}
}

// finalRecipient is a name of the host's for the recipient, in an address type of our own (RFC 3464 section 2.1.2): an
// address would tell whoever reads the sender's mailbox, or the wire of a report, who is written to.
func finalRecipient(e Entry) string {
	if e.Ref != "" {
		return "x-postseal-ref; " + e.Ref
	}
	return "x-postseal-parcel; " + e.Parcel
}

// xtext is RFC 3461 section 4: other than printable ASCII, and "+" and "=", each octet is "+" and two hexadecimal digits.
func xtext(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c < 0x7f && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}

// action is RFC 3464 section 2.3.3. What is held, uncertain or late may still be delivered.
func (e *Entry) action() string {
	switch e.State {
	case Delayed, securemail.StateHeld, securemail.StateUncertain:
		return "delayed"
	}
	return "failed"
}

// status is RFC 3463's class, and the detail where one fits.
func (e *Entry) status() string {
	switch e.State {
	case Delayed:
		return "4.4.1" // no answer from host, or as good as
	case securemail.StateHeld:
		return "4.7.0" // security or policy
	case securemail.StateUncertain:
		return "4.4.2" // bad connection
	case securemail.StateExpired:
		return "5.4.7" // delivery time expired
	case securemail.StateDropped, securemail.StateRefused:
		return "5.7.1" // not authorised
	}
	return "5.0.0"
}

func mailbox(c securemail.Contact) string {
	a := "<" + c.Address.Reveal() + ">"
	if c.Name == "" {
		return a
	}
	word := encoded(c.Name)
	if word == c.Name {
		word = strings.TrimSuffix((&mail.Address{Name: word}).String(), " <@>")
	}
	return word + " " + a
}

// encoded is RFC 2047 with each word on a line of its own.
func encoded(s string) string {
	return strings.ReplaceAll(mime.BEncoding.Encode("utf-8", s), "?= =?", "?=\r\n =?")
}
