package encrypttest

import (
	"encoding/base64"
	"mime"
	"strings"
)

// shape is one form of message that real mail has.
type shape struct {
	name string
	// header are the fields behind the common ones; body is what follows the empty line.
	header, body string
	// to replaces the To field; subject false: there is none.
	to        string
	noSubject bool
}

// shapes holds a body canary in every body that is not empty.
func (cs canaries) shapes() []shape {
	body, file := cs[placeBody].word, cs[placeFile].word
	subject := cs[placeSubject].word
	plain := "Content-Type: text/plain; charset=utf-8\r\n"
	wrapped := base64.StdEncoding.EncodeToString([]byte("Guten Tag, " + body + "\r\n"))
	mixed := "--b1\r\nContent-Type: text/plain\r\n\r\n" + body + "\r\n--b1\r\nContent-Type: application/pdf; name=\"" + file + ".pdf\"\r\n" +
		"Content-Disposition: attachment; filename=\"" + file + ".pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + wrapped + "\r\n--b1--\r\n"
	return []shape{
		{name: "text", header: plain + "Subject: Result " + subject + "\r\n", body: "Dear patient, " + body + "\r\n.\r\nFrom here  \r\n"},
		{name: "no content type", header: "Subject: " + subject + "\r\n", body: body + "\r\n"},
		{name: "encoded subject", header: plain + "Subject: " + mime.QEncoding.Encode("utf-8", "Befund für Müller") + "\r\n " + subject + "\r\n", body: body},
		{name: "raw UTF-8 subject", header: plain + "Subject: Befund f\xc3\xbcr " + subject + "\r\n", body: body + "\r\n"},
		{name: "8-bit body", header: "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\nSubject: " + subject + "\r\n",
			body: "gr\xfc\xdfe " + body + "\xff\r\n"},
		{name: "base64 body", header: plain + "Content-Transfer-Encoding: base64\r\nSubject: " + subject + "\r\n", body: wrapped + "\r\n"},
		{name: "attachment", header: "Content-Type: multipart/mixed;\r\n boundary=b1\r\nSubject: " + subject + "\r\n", body: mixed},
		{name: "odd boundary", header: "Content-Type: multipart/mixed; boundary=\"b1\"; x=\"a;b\"; \r\nSubject: " + subject + "\r\n", body: mixed},
		{name: "HTML", header: "Content-Type: text/html\r\nSubject: " + subject + "\r\n", body: "<p>" + body + "</p>"},
		{name: "signed", header: "Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; boundary=b1\r\nSubject: " + subject + "\r\n", body: mixed},
		{name: "no final line end", header: plain + "Subject: " + subject + "\r\n", body: body},
		{name: "empty body", header: plain + "Subject: " + subject + "\r\n"},
		{name: "no subject", header: plain, body: body + "\r\n", noSubject: true},
		{name: "long body", header: plain + "Subject: " + subject + "\r\n", body: body + "\r\n" + strings.Repeat("0123456789 abcdefghijklmnopqrstuvwxyz\r\n", 3000)},
		{name: "long line", header: plain + "References: <" + strings.Repeat("r", 980) + ">\r\nSubject: " + subject + "\r\n",
			body: body + strings.Repeat("x", 960) + "\r\n"},
		{name: "payload of its own", header: "Content-Type: multipart/mixed; boundary=b1; protected-headers=\"v1\"; hp=\"cipher\"\r\nSubject: " + subject + "\r\n",
			body: mixed},
	}
}

// raw is the whole message.
func (s shape) raw(cs canaries, recipient, sender string) string {
	to := s.to
	if to == "" {
		to = "\"" + cs[placeName].word + "\" <" + recipient + ">, Second <second@recipient.example>"
	}
	return "Received: from inside.example by x; Tue, 24 Nov 2026 10:00:00 +0000\r\n" +
		"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n" +
		"From: Clinic <" + sender + ">\r\n" +
		"To: " + to + "\r\n" +
		"Cc: third@recipient.example\r\n" +
		"Bcc: " + cs[placeBcc].word + "@recipient.example\r\n" +
		"Reply-To: reply@sender.example\r\n" +
		"Message-ID: <1.2.3@sender.example>\r\n" +
		"In-Reply-To: <0@recipient.example>\r\n" +
		"Comments: " + cs[placeHeader].word + "\r\n" +
		"Keywords: " + cs[placeHeader].word + "\r\n" +
		"X-Patient: " + cs[placeHeader].word + "\r\n" +
		"List-Unsubscribe: <https://sender.example/" + cs[placeHeader].word + ">\r\n" +
		"MIME-Version: 1.0\r\n" + s.header + "\r\n" + s.body
}
