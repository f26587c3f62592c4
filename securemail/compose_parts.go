package securemail

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"mime/quotedprintable"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/textproto"
)

var errTooLarge = errors.New("securemail: message over the limit")

// The transfer encodings of RFC 2045 section 6 that compose uses.
const (
	encodingQP     = "quoted-printable"
	encodingBase64 = "base64"
	encoding7bit   = "7bit"
	encoding8bit   = "8bit"
)

// mimePart is one entity: children, or content under an encoding.
type mimePart struct {
	fields   [][]byte
	boundary string
	children []*mimePart
	encoding string
	content  Source
}

// composeBody makes the body, with its MIME fields as the only header. A nil Message comes with faults or an error.
func composeBody(d *Draft, maxSize int64) (*Message, []Fault, error) {
	root, faults, err := draftTree(d)
	if root == nil {
		return nil, faults, err
	}
	var buf bytes.Buffer
	out := &boundedWriter{w: &buf, left: maxSize, bounded: maxSize > 0}
	root.fields = append([][]byte{foldField("MIME-Version", "1.0")}, root.fields...)
	if err := writePart(out, root); errors.Is(err, errTooLarge) {
		return nil, []Fault{{"Message", ruleSize}}, nil
	} else if err != nil {
		return nil, nil, err
	}
	if !bytes.HasSuffix(buf.Bytes(), []byte("\r\n")) {
		buf.WriteString("\r\n") // so that DATA adds nothing to it
	}
	m, err := NewMessage(Bytes(buf.Bytes()))
	if err != nil {
		return nil, nil, fmt.Errorf("securemail: compose: %w", err)
	}
	return m, nil, nil
}

// draftTree nests the parts as RFC 2046 section 5.1 and RFC 2387 want them:
// mixed{ alternative{ text, related{ html, inline... } }, attachment... }, without the levels that have one part only.
func draftTree(d *Draft) (*mimePart, []Fault, error) {
	var inline, files, alternatives []*mimePart
	var faults []Fault
	for i, a := range d.Attachments {
		p, rule, err := attachmentPart(a, d.HTML != "")
		switch {
		case err != nil:
			return nil, nil, err
		case rule != "":
			faults = append(faults, Fault{fmt.Sprintf("Attachments[%d]", i), rule})
		case a.ContentID != "" && d.HTML != "":
			inline = append(inline, p)
		default:
			files = append(files, p)
		}
	}
	if len(faults) > 0 {
		return nil, faults, nil
	}
	if d.Text != "" {
		alternatives = append(alternatives, textPart("text/plain", d.Text))
	}
	if d.HTML != "" {
		html := append([]*mimePart{textPart("text/html", d.HTML)}, inline...)
		alternatives = append(alternatives, nest("related", html))
	}
	if len(alternatives) > 0 {
		files = append([]*mimePart{nest("alternative", alternatives)}, files...)
	} else {
		return multipart("mixed", files), nil, nil
	}
	return nest("mixed", files), nil, nil
}

// nest returns a lone part as it is.
func nest(subtype string, parts []*mimePart) *mimePart {
	if len(parts) == 1 {
		return parts[0]
	}
	return multipart(subtype, parts)
}

// multipart takes a boundary of 130 random bits; "=_" occurs in no quoted-printable and no base64 body (RFC 2045
// section 6.7).
func multipart(subtype string, parts []*mimePart) *mimePart {
	p := &mimePart{boundary: "=_" + rand.Text(), children: parts}
	params := map[string]string{"boundary": p.boundary}
	if subtype == "related" {
		params["type"] = "text/html" // RFC 2387 section 3.1
	}
	p.fields = [][]byte{foldField("Content-Type", mime.FormatMediaType("multipart/"+subtype, params))}
	return p
}

func textPart(mediaType, s string) *mimePart {
	text := canonicalLines(s)
	p := &mimePart{encoding: encodingQP, content: Bytes([]byte(text))}
	if foreign := len(text) - asciiCount(text); foreign > len(text)/3 {
		p.encoding = encodingBase64
	}
	p.fields = [][]byte{
		foldField("Content-Type", mediaType+"; charset=utf-8"),
		foldField("Content-Transfer-Encoding", p.encoding),
	}
	return p
}

// canonicalLines gives every line its CRLF (RFC 2046 section 4.1.1), the last one too.
func canonicalLines(s string) string {
	s = strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(s)
	if !strings.HasSuffix(s, "\r\n") {
		s += "\r\n"
	}
	return s
}

func asciiCount(s string) int {
	n := 0
	for i := range len(s) {
		if s[i] < utf8.RuneSelf {
			n++
		}
	}
	return n
}

// attachmentPart makes one file. Without HTML an inline image is a plain attachment. The rule is "" or the fault.
func attachmentPart(a Attachment, html bool) (p *mimePart, rule string, err error) {
	contentType, ok := mediaType(a.Type)
	if !ok {
		return nil, ruleType, nil
	}
	p = &mimePart{encoding: encodingBase64, content: a.Content}
	if strings.HasPrefix(contentType, "message/") {
		if p.encoding, err = messageEncoding(a.Content); err != nil {
			fault := faultOf("", err)
			return nil, fault.Rule, errUnless(fault.Rule != "", err)
		}
	}
	disposition := "attachment"
	if a.ContentID != "" && html {
		disposition = "inline"
	}
	p.fields = [][]byte{
		foldField("Content-Type", contentType),
		foldField("Content-Transfer-Encoding", p.encoding),
		foldField("Content-Disposition", disposition+formatFileName(a.Name)),
	}
	if a.ContentID != "" {
		p.fields = append(p.fields, foldField("Content-ID", "<"+a.ContentID+">"))
	}
	return p, "", nil
}

func errUnless(is bool, err error) error {
	if is {
		return nil
	}
	return err
}

// messageEncoding is the identity that a message/* part must have (RFC 2046 section 5.2.1): such content must already
// be fit for a wire.
func messageEncoding(s Source) (string, error) {
	m, err := NewMessage(s)
	if err != nil {
		return "", err
	}
	var eight eightBit
	if err := copySource(&eight, m); err != nil {
		return "", err
	}
	if eight {
		return encoding8bit, nil
	}
	return encoding7bit, nil
}

// eightBit is set by the first octet over 127.
type eightBit bool

func (e *eightBit) Write(b []byte) (int, error) {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			*e = true
			break
		}
	}
	return len(b), nil
}

func writePart(w io.Writer, p *mimePart) error {
	if err := textproto.WriteHeader(w, partHeader(p.fields)); err != nil {
		return err
	}
	return writeContent(w, p)
}

// partHeader keeps the order of fields; go-message's Header grows at its top.
func partHeader(fields [][]byte) textproto.Header {
	var h textproto.Header
	for i := len(fields) - 1; i >= 0; i-- {
		h.AddRaw(fields[i])
	}
	return h
}

// writeContent is at most three levels deep: see draftTree.
func writeContent(w io.Writer, p *mimePart) error {
	if p.boundary == "" {
		return encodeContent(w, p)
	}
	mw := textproto.NewMultipartWriter(w)
	if err := mw.SetBoundary(p.boundary); err != nil {
		return err
	}
	for _, child := range p.children {
		part, err := mw.CreatePart(partHeader(child.fields))
		if err != nil {
			return err
		}
		if err := writeContent(part, child); err != nil {
			return err
		}
	}
	return mw.Close()
}

func encodeContent(w io.Writer, p *mimePart) error {
	var enc io.WriteCloser
	switch p.encoding {
	case encodingQP:
		enc = quotedprintable.NewWriter(w)
	case encodingBase64:
		enc = base64.NewEncoder(base64.StdEncoding, &lineBreaker{w: w})
	default:
		return copySource(w, p.content)
	}
	if err := copySource(enc, p.content); err != nil {
		return err
	}
	return enc.Close()
}

// base64Line is RFC 2045 section 6.8.
const base64Line = 76

// lineBreaker puts a CRLF between every 76 octets.
type lineBreaker struct {
	w   io.Writer
	col int
}

func (l *lineBreaker) Write(b []byte) (int, error) {
	done := 0
	for len(b) > 0 {
		if l.col == base64Line {
			if _, err := io.WriteString(l.w, "\r\n"); err != nil {
				return done, err
			}
			l.col = 0
		}
		n, err := l.w.Write(b[:min(len(b), base64Line-l.col)])
		done, l.col, b = done+n, l.col+n, b[n:]
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// boundedWriter stops a message at the limit, before memory does.
type boundedWriter struct {
	w       io.Writer
	left    int64
	bounded bool
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.bounded {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, errTooLarge
		}
	}
	return b.w.Write(p)
}

// foldAt is the length that RFC 5322 section 2.1.1 asks a line to keep under, CRLF not counted.
const foldAt = 78

// foldField writes a whole field, folded in front of white space; unfolding gives value back. Its first word stays
// beside the name, since some readers take a field that begins with a fold for an empty one.
func foldField(name, value string) []byte {
	line := name + ":"
	b := []byte(line)
	col, first := len(line), true
	for word := range words(" " + strings.Trim(value, " \t")) {
		if !first && col+len(word) > foldAt {
			b = append(b, "\r\n"...)
			col = 0
		}
		b = append(b, word...)
		col += len(word)
		first = false
	}
	return append(b, "\r\n"...)
}

// words yields the words of s, each with the white space before it.
func words(s string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, inWord := 0, false
		for i := range len(s) {
			space := s[i] == ' ' || s[i] == '\t'
			if space && inWord {
				if !yield(s[start:i]) {
					return
				}
				start = i
			}
			inWord = !space
		}
		if start < len(s) {
			yield(s[start:])
		}
	}
}

// plainWord is the longest word that stays as it is in free text; longer ones are cut into encoded words.
const plainWord = 60

// plain says that s reads the same after a header: printable US-ASCII in single-spaced words of bounded length, and
// nothing that a reader would take for an encoded word.
func plain(s string) bool {
	if asciiCount(s) != len(s) || strings.Contains(s, "=?") || strings.Contains(s, "  ") || strings.ContainsFunc(s, unicode.IsControl) {
		return false
	}
	for word := range words(s) {
		if len(word) > plainWord {
			return false
		}
	}
	return s == strings.TrimSpace(s)
}

// encodeText writes free text of the library's own fields.
func encodeText(s string) string {
	if plain(s) {
		return s
	}
	return encodedWords(s)
}

// encodeUnstructured leaves US-ASCII as the host wrote it: it may be structured, or encoded already.
func encodeUnstructured(s string) string {
	if asciiCount(s) == len(s) {
		return s
	}
	return encodedWords(s)
}

// wordOctets gives encoded words of 60 characters, which stand beside most field names within a line.
const wordOctets = 36

// encodedWords is RFC 2047 section 4.1 over the whole of s: no character is cut in two (section 5).
func encodedWords(s string) string {
	var b strings.Builder
	for s != "" {
		n := min(len(s), wordOctets)
		for n < len(s) && n > 1 && !utf8.RuneStart(s[n]) {
			n--
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("=?utf-8?b?" + base64.StdEncoding.EncodeToString([]byte(s[:n])) + "?=")
		s = s[n:]
	}
	return b.String()
}

func formatList(rs []Recipient) string {
	ss := make([]string, len(rs))
	for i, r := range rs {
		ss[i] = formatContact(r.Contact)
	}
	return strings.Join(ss, ", ")
}

// formatContact is a mailbox of RFC 5322 section 3.4. The address is as it goes on the wire: UTF-8 in the local part
// only where it has some (RFC 6532 section 3.2).
func formatContact(c Contact) string {
	name := strings.TrimSpace(c.Name)
	if name == "" {
		return c.Address.Reveal()
	}
	return formatPhrase(name) + " <" + c.Address.Reveal() + ">"
}

func formatPhrase(s string) string {
	if !plain(s) {
		return encodedWords(s)
	}
	if !strings.ContainsFunc(s, func(r rune) bool { return r != ' ' && notAtext(r) }) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// formatFileName is the filename parameter with the semicolon before it: a quoted string where that says it all, else
// RFC 2231, cut into sections so that no line grows too long.
func formatFileName(name string) string {
	if name == "" {
		return ""
	}
	if plain(name) && len(name) <= plainWord && !strings.ContainsAny(name, `"\`) {
		return `; filename="` + name + `"`
	}
	sections := percentSections(name)
	if len(sections) == 1 {
		return "; filename*=utf-8''" + sections[0]
	}
	var b strings.Builder
	for i, s := range sections {
		if i == 0 {
			s = "utf-8''" + s
		}
		fmt.Fprintf(&b, "; filename*%d*=%s", i, s)
	}
	return b.String()
}

// percentSections encodes s and cuts it between characters, about 50 octets each.
func percentSections(s string) []string {
	const most = 50
	var sections []string
	var b strings.Builder
	for _, r := range s {
		enc := percent(string(r))
		if b.Len()+len(enc) > most {
			sections = append(sections, b.String())
			b.Reset()
		}
		b.WriteString(enc)
	}
	return append(sections, b.String())
}

// percent encodes all but the attribute-char of RFC 2231 section 7 that no reader mistakes.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if letter || c == '.' || c == '-' || c == '_' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}
