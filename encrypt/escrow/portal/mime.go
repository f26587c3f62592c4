package portal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/charset"
)

// Bounds of what is looked at. What lies beyond is not lost: it is a download, or the page says that a part is missing.
const (
	maxDepth   = 12
	maxParts   = 1000
	maxHeader  = 256 << 10     // octets of the message's header
	maxSection = 64 << 10      // octets of a part's header, and of what lies between parts
	maxFields  = 20_000        // header fields of all parts
	maxText    = 1 << 20       // octets of text or HTML shown
	maxInline  = 8 << 20       // octets of inline images in one message
	maxShown   = 2 * maxInline // octets of inline images in one page, repeats included
	maxName    = 100           // characters of a file name
	maxSubject = 500
)

var (
	errNoPart = errors.New("portal: no such part")
	errDeep   = errors.New("portal: message nested too deep")
	errMany   = errors.New("portal: message of too many parts")
	errLong   = errors.New("portal: header of a part too long")
	errFound  = errors.New("portal: part found")
)

// view is what the page shows.
type view struct {
	Subject, From, Date string
	Text                string
	HasHTML             bool
	// Partial: the MIME structure is broken somewhere; what could be read is shown.
	Partial bool
	Files   []file
}

type file struct {
	N    int
	Name string
	Size string
}

// part is a leaf of the MIME tree, numbered in order of appearance. Its body is decoded, and text is UTF-8.
type part struct {
	n            int
	kind, parent string // media types, lower case
	id           string // Content-ID without brackets
	attached     bool
	name         string
	body         io.Reader
}

// walk calls fn for each leaf of r. An error of fn's ends it and is returned; a fault of the structure is errBroken
// wrapped, after what came before it was walked.
func walk(r io.Reader, head func(*message.Header), fn func(*part) error) error {
	g := &gate{r: r, left: noLimit}
	m, err := message.ReadWithOptions(g, &message.ReadOptions{MaxHeaderBytes: maxHeader})
	if err != nil && !tolerable(err) {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if head != nil {
		head(&m.Header)
	}
	w := &walker{fn: fn, gate: g}
	if err := w.entity(m, "", 0); err != nil || !w.cut {
		return err
	}
	return fmt.Errorf("%w: %w", errBroken, io.ErrUnexpectedEOF)
}

var errBroken = errors.New("portal: broken MIME structure")

func tolerable(err error) bool {
	return message.IsUnknownCharset(err) || message.IsUnknownEncoding(err)
}

type walker struct {
	fn     func(*part) error
	gate   *gate
	n      int
	fields int
	cut    bool // a part ended too early
}

const noLimit = 1 << 62

// gate bounds what go-message reads for the header of a part, for which it has no limit of its own.
type gate struct {
	r    io.Reader
	left int
}

func (g *gate) Read(p []byte) (int, error) {
	if g.left == 0 {
		return 0, errLong
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	if g.left != noLimit {
		g.left -= n
	}
	return n, err
}

// next is the next part of mr, its header bounded.
func (w *walker) next(mr message.MultipartReader) (*message.Entity, error) {
	w.gate.left = maxSection
	child, err := mr.NextPart()
	w.gate.left = noLimit
	if child == nil {
		return nil, err
	}
	if w.fields += child.Header.Len(); w.fields > maxFields {
		return nil, errLong
	}
	return child, err
}

// lenient ends where a part was cut off: much mail lacks its last boundary, and what is there can be read.
type lenient struct {
	io.Reader
	w *walker
}

func (l *lenient) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		l.w.cut = true
		err = io.EOF
	}
	return n, err
}

func (w *walker) entity(m *message.Entity, parent string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: %w", errBroken, errDeep)
	}
	mr := m.MultipartReader()
	if mr == nil {
		if w.n == maxParts {
			return fmt.Errorf("%w: %w", errBroken, errMany)
		}
		p := describe(m, parent, w.n)
		p.body = &lenient{m.Body, w}
		w.n++
		if err := w.fn(p); err != nil {
			return err
		}
		// What fn left: go-message reads on from here.
		if _, err := io.Copy(io.Discard, p.body); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		return nil
	}
	kind, _, _ := m.Header.ContentType()
	for seen := 0; ; seen++ {
		child, err := w.next(mr)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !tolerable(err):
			return fmt.Errorf("%w: %w", errBroken, err)
		case seen > maxParts:
			return fmt.Errorf("%w: %w", errBroken, errMany)
		}
		if err := w.entity(child, strings.ToLower(kind), depth+1); err != nil {
			return err
		}
	}
}

func describe(m *message.Entity, parent string, n int) *part {
	kind, params, err := m.Header.ContentType()
	if err != nil || kind == "" {
		kind = "application/octet-stream"
		if m.Header.Get("Content-Type") == "" {
			kind = "text/plain" // RFC 2045 section 5.2
		}
	}
	disp, dparams, _ := m.Header.ContentDisposition()
	name := dparams["filename"]
	if name == "" {
		name = params["name"]
	}
	p := &part{
		n: n, kind: strings.ToLower(kind), parent: parent,
		id:       strings.Trim(strings.TrimSpace(m.Header.Get("Content-Id")), "<>"),
		attached: strings.EqualFold(disp, "attachment"),
	}
	p.name = fileName(decoded(name), p)
	return p
}

// decoded undoes RFC 2047 words, which some programs put into file names too.
func decoded(s string) string {
	d := mime.WordDecoder{CharsetReader: charset.Reader}
	if out, err := d.DecodeHeader(s); err == nil {
		s = out
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// shown is s without what could forge the page around it: controls and marks of writing direction.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r == 0x2028 || r == 0x2029:
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) && r != 0x200c && r != 0x200d:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return clip(strings.TrimSpace(s), maxSubject)
}

func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}

// tracked remembers an error of the store, which must not pass for a fault of the structure.
type tracked struct {
	r   io.Reader
	err error
}

func (t *tracked) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}

// rest reads to the end, where the seal proves that nothing was cut off.
func (t *tracked) rest() error {
	_, _ = io.Copy(io.Discard, t)
	return t.err
}

// collector puts a message together for showing.
type collector struct {
	text, altText, html bytes.Buffer
	files               []file
	images              map[string]*image // by Content-ID
	inline              int64
}

type image struct {
	kind string
	data []byte
	n    int
}

func (c *collector) part(p *part) error {
	switch {
	case p.attached:
	case p.kind == "text/plain" && (p.parent == "multipart/alternative" || c.html.Len() == 0):
		to := &c.text
		if p.parent == "multipart/alternative" {
			to = &c.altText
		}
		return c.show(to, p)
	case p.kind == "text/html":
		return c.show(&c.html, p)
	case p.id != "" && inlineKinds[p.kind]:
		return c.image(p)
	}
	return c.file(p, nil)
}

// show adds a text to what is shown; one that is too long becomes a file.
func (c *collector) show(to *bytes.Buffer, p *part) error {
	room := maxText - to.Len()
	b, err := io.ReadAll(io.LimitReader(p.body, int64(room)+1))
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if len(b) > room {
		return c.file(p, b)
	}
	if to.Len() > 0 {
		to.WriteString("\n\n")
	}
	to.WriteString(strings.ToValidUTF8(string(b), "\uFFFD"))
	return nil
}

// image keeps an inline image while there is room; a browser may be given these kinds only.
func (c *collector) image(p *part) error {
	b, err := io.ReadAll(io.LimitReader(p.body, maxInline-c.inline+1))
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if c.inline+int64(len(b)) > maxInline || c.images[p.id] != nil {
		return c.file(p, b)
	}
	c.inline += int64(len(b))
	c.images[p.id] = &image{kind: p.kind, data: b, n: p.n}
	c.files = append(c.files, file{N: p.n, Name: p.name, Size: sizeText(int64(len(b)))})
	return nil
}

// file lists p as a download; read is what was read of it already.
func (c *collector) file(p *part, read []byte) error {
	n, err := io.Copy(io.Discard, p.body)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	c.files = append(c.files, file{N: p.n, Name: p.name, Size: sizeText(n + int64(len(read)))})
	return nil
}

// collect reads the whole message.
func collect(r io.Reader, head func(*message.Header)) (c *collector, partial bool, err error) {
	c = &collector{images: map[string]*image{}}
	t := &tracked{r: r}
	err = walk(t, head, c.part)
	if terr := t.rest(); terr != nil {
		return nil, false, fmt.Errorf("portal: read message: %w", terr)
	}
	return c, err != nil, nil
}

// look gives what the page shows of the message in r.
func look(r io.Reader) (*view, error) {
	v := &view{}
	c, partial, err := collect(r, v.head)
	if err != nil {
		return nil, err
	}
	v.Partial = partial
	v.HasHTML = c.html.Len() > 0
	v.Text = c.text.String()
	if !v.HasHTML {
		v.Text = strings.Trim(v.Text+"\n\n"+c.altText.String(), "\r\n")
	}
	used := c.inlineUsed()
	for _, f := range c.files {
		if !used[f.N] {
			v.Files = append(v.Files, f)
		}
	}
	return v, nil
}

// inlineUsed says which parts the HTML shows by itself, so that they need not be listed.
func (c *collector) inlineUsed() map[int]bool {
	used := map[int]bool{}
	for id, im := range c.images {
		if bytes.Contains(c.html.Bytes(), []byte("cid:"+id)) {
			used[im.n] = true
		}
	}
	return used
}

func (v *view) head(h *message.Header) {
	subject, err := h.Text("Subject")
	if err != nil {
		subject = h.Get("Subject")
	}
	v.Subject = shown(subject)
	from, err := h.Text("From")
	if err != nil {
		from = h.Get("From")
	}
	v.From = shown(from)
	v.Date = "unknown"
	if d, err := mail.ParseDate(h.Get("Date")); err == nil {
		v.Date = d.Format("Monday, 2 January 2006, 15:04 -0700")
		if _, east := d.Zone(); east == 0 {
			v.Date = d.Format("Monday, 2 January 2006, 15:04 UTC")
		}
	}
}

// extract calls fn with part n, which must be one that look lists or the HTML shows as an image.
func extract(r io.Reader, n int, fn func(*part) error) error {
	t := &tracked{r: r}
	err := walk(t, nil, func(p *part) error {
		if p.n != n {
			return nil
		}
		if err := fn(p); err != nil {
			return err
		}
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return t.rest()
	case t.err != nil:
		return t.err
	case err == nil || errors.Is(err, errBroken):
		return errNoPart
	}
	return err
}

func sizeText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%d KB", (n+1<<9)>>10)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}
