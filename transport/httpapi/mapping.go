package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Form is how the message is put into a request.
type Form uint8

const (
	// FormRaw: the message is the request's body, message/rfc822.
	FormRaw Form = iota
	// FormMultipart: a file of a multipart/form-data body (RFC 7578).
	FormMultipart
	// FormJSON: base64 inside a JSON text made by Mapping.Template.
	FormJSON
)

// Place says where a value goes; any of them, none leaves it out. Field is for FormMultipart.
type Place struct{ Header, Query, Field string }

// Mapping says how an endpoint wants its requests and where its answers hold the id.
type Mapping struct {
	Form Form
	// Message is FormMultipart's field for the message; empty: "message".
	Message string
	// Template is FormJSON's body, in which these whole strings are replaced: "{{message}}" by the message in base64
	// (RFC 4648 section 4), "{{message:url}}" by the same in its section 5 alphabet, "{{from}}" and "{{to}}" by the
	// envelope, "{{key}}" by Shipment.Key. The message must be in it once.
	Template string
	// From and To are for the envelope's sender and recipient. A null sender is left out.
	From, To Place
	// Key is for Shipment.Key, the idempotency key: one per parcel and Choice.
	Key Place
	// Header and Fields are constants: header fields, and fields of FormMultipart.
	Header, Fields map[string]string
	// IDHeader and IDPointer say where the remote id is: a header field, or an RFC 6901 pointer into a JSON body.
	IDHeader, IDPointer string
}

// compiled is a checked Mapping.
type compiled struct {
	Mapping
	parts []string // of Template: text and placeholders in turn
}

var placeholders = []string{`"{{message}}"`, `"{{message:url}}"`, `"{{from}}"`, `"{{to}}"`, `"{{key}}"`}

// compile checks m; it reports every fault at once.
func (m Mapping) compile() (*compiled, error) {
	c := &compiled{Mapping: m}
	c.Header, c.Fields = maps.Clone(m.Header), maps.Clone(m.Fields)
	var faults []error
	for _, p := range []Place{m.From, m.To, m.Key} {
		if p.Header != "" && (!validName(p.Header) || ours(p.Header)) {
			faults = append(faults, errors.New("httpapi: mapping: a place's header is no field name or the transport's own"))
		}
		if p.Field != "" && m.Form != FormMultipart {
			faults = append(faults, errors.New("httpapi: mapping: a place's field needs FormMultipart"))
		}
	}
	for name, value := range m.Header {
		if !validName(name) || !validValue(value) || ours(name) {
			faults = append(faults, errors.New("httpapi: mapping: a constant header is malformed or the transport's own"))
		}
	}
	if len(m.Fields) > 0 && m.Form != FormMultipart {
		faults = append(faults, errors.New("httpapi: mapping: fields need FormMultipart"))
	}
	if m.IDPointer != "" && !strings.HasPrefix(m.IDPointer, "/") {
		faults = append(faults, errors.New("httpapi: mapping: the id's pointer does not start with / (RFC 6901)"))
	}
	switch m.Form {
	case FormRaw, FormMultipart:
	case FormJSON:
		faults = append(faults, c.compileTemplate())
	default:
		faults = append(faults, errors.New("httpapi: mapping: unknown form"))
	}
	if c.Message == "" {
		c.Message = "message"
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return c, nil
}

// ours are the fields that the transport writes itself.
func ours(name string) bool {
	return slices.Contains([]string{
		"Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Connection", "Expect", "Trailer", "Upgrade", "Te",
		"Accept-Encoding", "User-Agent",
	}, textproto.CanonicalMIMEHeaderKey(name))
}

// compileTemplate cuts the template at its placeholders.
func (m *compiled) compileTemplate() error {
	if !json.Valid([]byte(m.Template)) {
		return errors.New("httpapi: mapping: the template is no JSON")
	}
	messages := 0
	rest := m.Template
	for {
		at, what := nextPlaceholder(rest)
		if at < 0 {
			break
		}
		if strings.HasPrefix(what, `"{{message`) {
			messages++
		}
		m.parts = append(m.parts, rest[:at], what)
		rest = rest[at+len(what):]
	}
	m.parts = append(m.parts, rest)
	for i := 0; i < len(m.parts); i += 2 {
		if strings.Contains(m.parts[i], "{{") {
			return errors.New("httpapi: mapping: the template has a placeholder that is unknown or no whole string")
		}
	}
	if messages != 1 {
		return errors.New("httpapi: mapping: the template must hold the message once")
	}
	return nil
}

func nextPlaceholder(s string) (at int, what string) {
	at = -1
	for _, p := range placeholders {
		if i := strings.Index(s, p); i >= 0 && (at < 0 || i < at) {
			at, what = i, p
		}
	}
	return at, what
}

// request is one request: the same octets each time it is written.
type request struct {
	head []byte
	body payload
}

// payload is a body: before, the message in its encoding, after.
type payload struct {
	contentType   string
	before, after []byte
	message       *securemail.Message
	encoding      *base64.Encoding // nil: as it is
}

// request makes the request for s.
func (t *Transport) request(s *securemail.Shipment) (*request, error) {
	m := t.mapping
	values := []struct {
		place Place
		value string
	}{{m.From, s.ReturnPath.Reveal()}, {m.To, s.Recipient.Address.Reveal()}, {m.Key, s.Key}}
	query := t.endpoint.Query()
	header := http.Header{}
	fields := maps.Clone(m.Fields)
	for name, value := range m.Header {
		header.Set(name, value)
	}
	for _, v := range values {
		if v.value == "" {
			continue
		}
		if v.place.Header != "" {
			header.Set(v.place.Header, v.value)
		}
		if v.place.Query != "" {
			query.Set(v.place.Query, v.value)
		}
		if v.place.Field != "" {
			if fields == nil {
				fields = map[string]string{}
			}
			fields[v.place.Field] = v.value
		}
	}
	if t.auth[0] != "" {
		header.Set(t.auth[0], t.auth[1])
	}
	body, err := m.payload(s, fields)
	if err != nil {
		return nil, err
	}
	return &request{head: t.head(header, query, body), body: body}, nil
}

// head writes the request line and the header (RFC 9112 sections 3 and 5).
func (t *Transport) head(header http.Header, query url.Values, p payload) []byte {
	header.Set("Content-Type", p.contentType)
	header.Set("Content-Length", strconv.FormatInt(p.size(), 10))
	header.Set("Accept-Encoding", "identity")
	header.Set("User-Agent", "postseal")
	target := t.endpoint.EscapedPath()
	if target == "" {
		target = "/"
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\n", target, t.hostField())
	_ = header.Write(&b) // a bytes.Buffer never fails; line ends in values become spaces
	b.WriteString("\r\n")
	return b.Bytes()
}

// hostField leaves the scheme's own port out (RFC 9110 section 7.2).
func (t *Transport) hostField() string {
	if t.endpoint.Scheme == "https" && t.endpoint.Port() == "443" {
		return strings.TrimSuffix(t.endpoint.Host, ":443")
	}
	return t.endpoint.Host
}

// payload makes the body for s.
func (m *compiled) payload(s *securemail.Shipment, fields map[string]string) (payload, error) {
	switch m.Form {
	case FormMultipart:
		return m.multipart(s, fields)
	case FormJSON:
		return m.json(s)
	}
	return payload{contentType: "message/rfc822", message: s.Message}, nil
}

func (m *compiled) multipart(s *securemail.Shipment, fields map[string]string) (payload, error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := w.WriteField(name, fields[name]); err != nil {
			return payload{}, fmt.Errorf("httpapi: form: %w", err)
		}
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", multipart.FileContentDisposition(m.Message, "message.eml"))
	h.Set("Content-Type", "message/rfc822")
	if _, err := w.CreatePart(h); err != nil {
		return payload{}, fmt.Errorf("httpapi: form: %w", err)
	}
	before := bytes.Clone(b.Bytes())
	b.Reset()
	if err := w.Close(); err != nil {
		return payload{}, fmt.Errorf("httpapi: form: %w", err)
	}
	return payload{contentType: w.FormDataContentType(), before: before, after: b.Bytes(), message: s.Message}, nil
}

func (m *compiled) json(s *securemail.Shipment) (payload, error) {
	p := payload{contentType: "application/json", message: s.Message}
	var b bytes.Buffer
	for i, part := range m.parts {
		switch {
		case i%2 == 0:
			b.WriteString(part)
		case part == `"{{message}}"` || part == `"{{message:url}}"`:
			p.encoding = base64.StdEncoding
			if part == `"{{message:url}}"` {
				p.encoding = base64.URLEncoding
			}
			b.WriteByte('"')
			p.before = bytes.Clone(b.Bytes())
			b.Reset()
			b.WriteByte('"')
		default:
			text, err := json.Marshal(m.value(part, s))
			if err != nil {
				return payload{}, fmt.Errorf("httpapi: JSON: %w", err)
			}
			b.Write(text)
		}
	}
	p.after = b.Bytes()
	return p, nil
}

func (m *compiled) value(placeholder string, s *securemail.Shipment) string {
	switch placeholder {
	case `"{{from}}"`:
		return s.ReturnPath.Reveal()
	case `"{{to}}"`:
		return s.Recipient.Address.Reveal()
	}
	return s.Key
}

func (p payload) size() int64 {
	n := p.message.Size()
	if p.encoding != nil {
		n = (n + 2) / 3 * 4
	}
	return int64(len(p.before)) + n + int64(len(p.after))
}

// writeTo writes head and body. Errors of the message's Source come as *ownError: they are not the connection's.
func (r *request) writeTo(w io.Writer) error {
	if _, err := w.Write(r.head); err != nil {
		return err
	}
	if _, err := w.Write(r.body.before); err != nil {
		return err
	}
	src, err := r.body.message.Open()
	if err != nil {
		return &ownError{&sourceError{err}}
	}
	defer src.Close()
	dst, closer := w, io.Closer(io.NopCloser(nil))
	if r.body.encoding != nil {
		enc := base64.NewEncoder(r.body.encoding, w)
		dst, closer = enc, enc
	}
	if _, err := io.Copy(dst, &ownReader{src}); err != nil {
		return err
	}
	if err := closer.Close(); err != nil {
		return err
	}
	_, err = w.Write(r.body.after)
	return err
}

// ownReader marks the errors of a message's Source.
type ownReader struct{ r io.Reader }

func (o *ownReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF {
		err = &ownError{&sourceError{err}}
	}
	return n, err
}
