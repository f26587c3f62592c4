package encrypt

import (
	"bytes"
	"crypto/rand"
	"io"
	"mime"
	"slices"
	"strings"

	"github.com/postseal/postseal/securemail"
)

const (
	// marks are the parameters of the payload's Content-Type: RFC 9788 section 2.1.1 for "the outside was confidential", and
	// the older form that Thunderbird and K-9 read.
	marks = ";\r\n hp=\"cipher\"; protected-headers=\"v1\""
	// wrapPrefix begins the boundary of the multipart/mixed that Payload puts around a single part; no encoded body can
	// hold "=_" (RFC 2045 section 6.7).
	wrapPrefix = "=_wrap_"
	// maxLine is RFC 5322 section 2.1.1.
	maxLine = 998
)

// userFacing are the fields that a mail program shows or acts on (RFC 9788 section 1.1.2). Trace fields, List-*, X-*,
// Return-Path, signatures of other layers and above all Bcc are not protected but dropped.
var userFacing = []string{
	"date", "from", "sender", "reply-to", "followup-to", "mail-followup-to", "to", "cc", "subject", "comments", "keywords",
	"message-id", "in-reply-to", "references", "importance", "priority", "sensitivity",
}

// Payload gives what an encryptor seals: the original's MIME entity with a protected header (RFC 9788 section 2): its
// user-facing fields, hp="cipher", one HP-Outer line for each field of [Outer]'s header as it will be sent, and
// protected-headers="v1" beside them. A body that is not multipart, or is a signed or encrypted one of its own, is put into
// a multipart/mixed, since Thunderbird shows a protected subject only on a multipart. The body is octet by octet the
// original's.
//
// The Source reads the original's body anew for each Open. Its header is up to twice the original's, so that Restore refuses
// what came of a header over 128 KiB, as [securemail.NewMessage] does. Errors are those of [Outer] about p.
func Payload(p *securemail.Parcel) (securemail.Source, error) {
	outer, err := outerFields(p)
	if err != nil {
		return nil, err
	}
	all := parseFields(p.Message.Head())
	var head, content strings.Builder
	markable := false
	seen := map[string]bool{}
	for _, f := range all {
		switch {
		case f.name == "content-type" && !seen[f.name]:
			markable = canMark(f)
			content.WriteString(f.raw)
		case f.isContent() && !seen[f.name]:
			content.WriteString(f.raw)
		case slices.Contains(userFacing, f.name) && (!seen[f.name] || f.name == "comments" || f.name == "keywords"):
			head.WriteString(f.raw)
		}
		seen[f.name] = true
	}
	for _, f := range outer {
		head.WriteString(hpOuter(f))
	}
	head.WriteString("MIME-Version: 1.0\r\n")
	if markable {
		head.WriteString(mark(content.String()))
		return join(text(head.String()+"\r\n"), p.Message.Body()), nil
	}
	b := wrapPrefix + rand.Text()
	head.WriteString("Content-Type: multipart/mixed; boundary=\"" + b + "\"" + marks + "\r\n\r\n")
	return join(text(head.String()+"--"+b+"\r\n"+content.String()+"\r\n"), p.Message.Body(), text("\r\n--"+b+"--\r\n")), nil
}

// canMark says whether the marks can be added to this Content-Type: a multipart that is no cryptographic layer of its
// own, has no marks yet, and has room for the semicolon.
func canMark(f field) bool {
	kind, params, err := mime.ParseMediaType(f.value())
	if err != nil || params["boundary"] == "" {
		return false
	}
	line := strings.TrimSuffix(f.raw, "\r\n")
	if len(line)-(strings.LastIndexByte(line, '\n')+1) >= maxLine {
		return false
	}
	_, hp := params["hp"]
	_, v1 := params["protected-headers"]
	return strings.HasPrefix(kind, "multipart/") && kind != "multipart/signed" && kind != "multipart/encrypted" && !hp && !v1 &&
		!strings.HasPrefix(params["boundary"], wrapPrefix)
}

// mark adds the marks to the Content-Type among the given fields.
func mark(content string) string {
	var b strings.Builder
	for _, f := range parseFields([]byte(content + "\r\n")) {
		if f.name == "content-type" {
			f.raw = strings.TrimRight(f.raw, "; \t\r\n") + marks + "\r\n"
		}
		b.WriteString(f.raw)
	}
	return b.String()
}

// hpOuter is RFC 9788 section 2.2.1. A line that would become too long is folded behind the inner colon.
func hpOuter(f field) string {
	firstLine, _, _ := strings.Cut(f.raw, "\r\n")
	if len("HP-Outer: ")+len(firstLine) <= maxLine {
		return "HP-Outer: " + f.raw
	}
	name, value, _ := strings.Cut(f.raw, ":")
	return "HP-Outer: " + name + ":\r\n " + strings.TrimLeft(value, " \t")
}

// Restore undoes [Payload]: it gives the message whose header are the protected fields and whose content is the
// original's, as far as it can be known from the inside; Bcc and dropped fields are gone. A payload that was not made by
// Payload comes back as it is, without HP-Outer lines.
//
// The bytes come from outside: what [securemail.NewMessage] refuses is an error. The rules of RFC 9788 section 4 for
// showing a header are not applied.
func Restore(payload securemail.Source) (*securemail.Message, error) {
	m, err := securemail.NewMessage(payload)
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	var contentType field
	for _, f := range parseFields(m.Head()) {
		switch {
		case f.name == "hp-outer":
		case f.name == "content-type" && contentType.name == "":
			contentType = f
			head.WriteString("\x00") // its place
		default:
			head.WriteString(f.raw)
		}
	}
	if _, params, err := mime.ParseMediaType(contentType.value()); err == nil && params["hp"] != "" &&
		strings.HasPrefix(params["boundary"], wrapPrefix) {
		return unwrap(strings.ReplaceAll(head.String(), "\x00", ""), params["boundary"], m.Body())
	}
	plain := contentType.raw
	if cut, ok := strings.CutSuffix(plain, marks+"\r\n"); ok {
		plain = cut + "\r\n"
	}
	return m.WithHead([]byte(strings.ReplaceAll(head.String(), "\x00", plain) + "\r\n"))
}

// unwrap takes the one part out of the multipart/mixed that Payload made.
func unwrap(head, boundary string, body securemail.Source) (*securemail.Message, error) {
	r, err := body.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	part, ok := bytes.CutPrefix(b, []byte("--"+boundary+"\r\n"))
	part, closed := bytes.CutSuffix(part, []byte("\r\n--"+boundary+"--\r\n"))
	if !ok || !closed {
		return nil, errType
	}
	return securemail.NewMessage(join(text(head), securemail.Bytes(part)))
}
