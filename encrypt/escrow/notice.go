package escrow

import (
	"bytes"
	"crypto/rand"
	"fmt"
	htmltemplate "html/template"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	texttemplate "text/template"

	"github.com/postseal/postseal/securemail"
)

// noticeData is all that a notice may hold: nothing of the message, no name of a person.
type noticeData struct{ Brand, Domain, Link, Until string }

var noticeText = texttemplate.Must(texttemplate.New("text").Parse(`{{.Domain}} has sent you a secure message.

To read it, open this link:

{{.Link}}

You will be asked for a code or an answer that only you have. The link
alone opens nothing. It works until {{.Until}}.

Why a link? Your mail provider could not promise to keep the message
private on its way, so it waits for you in a protected place.

Please do not answer this mail: answers are not protected.
{{with .Brand}}
{{.}}
{{end}}`))

var noticeHTML = htmltemplate.Must(htmltemplate.New("html").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Secure message</title></head>
<body style="margin:0;padding:24px;background-color:#ffffff;color:#1a1a1a;font-family:sans-serif;font-size:16px;line-height:1.5">
<p>{{.Domain}} has sent you a secure message.</p>
<p><a href="{{.Link}}" style="color:#0b4f9c;font-weight:bold">Read the message</a></p>
<p>You will be asked for a code or an answer that only you have. The link alone opens nothing.
It works until {{.Until}}.</p>
<p>If the link can't be clicked, copy this into your browser:<br>{{.Link}}</p>
<p>Why a link? Your mail provider could not promise to keep the message private on its way, so it waits for you in a
protected place.</p>
<p>Please do not answer this mail: answers are not protected.</p>
{{with .Brand}}<p>{{.}}</p>
{{end}}</body>
</html>
`))

// notice builds the mail that leaves. Its header is a fixed list: encrypt.Outer would keep the names in From, To and Cc,
// which system mail must not show. Message-ID stays, so that the evidence fits; Date is the deposit's, so that a second
// notice is the same mail.
func (e *Escrow) notice(r *row, rec *record, loc Locator) (*securemail.Message, error) {
	d := noticeData{Brand: e.o.Brand.Name, Domain: rec.Slip.From.Address.Domain(), Link: e.Link(loc), Until: until(r.expires)}
	if d.Domain == "" {
		d.Domain = "Somebody"
	}
	var text, page bytes.Buffer
	if err := noticeText.Execute(&text, d); err != nil {
		return nil, fmt.Errorf("escrow: notice: %w", err)
	}
	if err := noticeHTML.Execute(&page, d); err != nil {
		return nil, fmt.Errorf("escrow: notice: %w", err)
	}
	boundary := rand.Text()
	var b bytes.Buffer
	b.WriteString(e.noticeHead(r, rec, boundary))
	for _, part := range []struct {
		kind string
		body []byte
	}{{"text/plain", text.Bytes()}, {"text/html", page.Bytes()}} {
		b.WriteString("--" + boundary + "\r\nContent-Type: " + part.kind + "; charset=utf-8\r\n" +
			"Content-Transfer-Encoding: quoted-printable\r\n\r\n")
		w := quotedprintable.NewWriter(&b)
		_, _ = w.Write(part.body) // a bytes.Buffer does not fail
		_ = w.Close()
		b.WriteString("\r\n")
	}
	b.WriteString("--" + boundary + "--\r\n")
	m, err := securemail.NewMessage(securemail.Bytes(b.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("escrow: notice: %w", err)
	}
	return m, nil
}

func (e *Escrow) noticeHead(r *row, rec *record, boundary string) string {
	subject := "You have a secure message"
	if n := e.o.Brand.Name; n != "" {
		subject = n + ": you have a secure message"
	}
	fields := []string{
		"Date: " + r.created.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"),
		"From: " + mailbox(e.o.Brand.Name, rec.Slip.From.Address),
		"To: <" + rec.Slip.Recipient.Address.Reveal() + ">",
		"Subject: " + encodedWords(subject),
		"Message-ID: " + rec.MessageID,
		"Auto-Submitted: auto-generated", // RFC 3834 section 5
		"MIME-Version: 1.0",
		"Content-Type: multipart/alternative;\r\n boundary=\"" + boundary + "\"",
	}
	return strings.Join(fields, "\r\n") + "\r\n\r\n"
}

func mailbox(name string, a securemail.Address) string {
	if name == "" {
		return "<" + a.Reveal() + ">"
	}
	word := encodedWords(name)
	if word == name {
		word = strings.TrimSuffix((&mail.Address{Name: name}).String(), " <@>")
	}
	return word + " <" + a.Reveal() + ">"
}

// encodedWords is RFC 2047 with each word on a line of its own.
func encodedWords(s string) string {
	return strings.ReplaceAll(mime.BEncoding.Encode("utf-8", s), "?= =?", "?=\r\n =?")
}

// printable keeps line ends, and so fields of a stranger's own, out of a value.
func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
