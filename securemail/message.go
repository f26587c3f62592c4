package securemail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"strings"
)

// Source is content that can be read again and again: each Open gives the same bytes from the start, also to several
// readers at once. Size is in octets.
type Source interface {
	Open() (io.ReadCloser, error)
	Size() int64
}

// Bytes makes a Source of b, which the caller must not change afterwards.
func Bytes(b []byte) Source { return &byteSource{b} }

type byteSource struct{ b []byte }

func (s *byteSource) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(s.b)), nil }
func (s *byteSource) Size() int64                  { return int64(len(s.b)) }

// File makes a Source of the file at path, which must not change while the Source is in use. A file that can't be
// read has size 0 and fails to open; the error does not hold the path, which may name a person.
func File(path string) Source { return fileSource(path) }

type fileSource string

func (s fileSource) Open() (io.ReadCloser, error) {
	f, err := os.Open(string(s))
	if err != nil {
		return nil, fmt.Errorf("securemail: open source file: %w", bareCause(err))
	}
	return openFile{f}, nil
}

// openFile keeps the path out of the errors of reading, such as those of a folder or a failing disk.
type openFile struct{ f *os.File }

func (o openFile) Read(p []byte) (int, error) {
	n, err := o.f.Read(p)
	return n, bareCause(err)
}

func (o openFile) Seek(offset int64, whence int) (int64, error) {
	n, err := o.f.Seek(offset, whence)
	return n, bareCause(err)
}

func (o openFile) Close() error { return bareCause(o.f.Close()) }

func (s fileSource) Size() int64 {
	fi, err := os.Stat(string(s))
	if err != nil {
		return 0
	}
	return fi.Size()
}

func bareCause(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Bounds of a message header, in octets and fields. RFC 5322 sets none but the line length of section 2.1.1.
const (
	maxHead   = 256 << 10
	maxFields = 1000
	maxLine   = 998
)

// The errors of NewMessage: each names the rule that the bytes break.
var (
	errBareCR   = errors.New("securemail: message: CR without LF (RFC 5322 section 2.3)")
	errBareLF   = errors.New("securemail: message: LF without CR (RFC 5322 section 2.3)")
	errNUL      = errors.New("securemail: message: NUL octet (RFC 5322 section 4)")
	errHeader   = errors.New("securemail: message: broken header (RFC 5322 section 2.2)")
	errHeadSize = errors.New("securemail: message: header over 256 KiB or 1,000 fields")
	errLine     = errors.New("securemail: message: line over 998 octets (RFC 5322 section 2.1.1)")
	errChanged  = errors.New("securemail: message: source does not give the same bytes each time")
)

// Message is a whole RFC 5322 message, header included, with CRLF line ends. It never changes, is safe for
// concurrent use, and is itself a [Source]. Formatting shows its size only.
type Message struct {
	head []byte // header and the empty line behind it
	body Source
}

// NewMessage reads s once and refuses what must not reach a wire: bare CR or LF, NUL, lines over 998 octets, a broken
// header, a header over 256 KiB. Only the header is kept in memory.
func NewMessage(s Source) (*Message, error) {
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, headLen, head, err := scan(io.LimitReader(r, max(s.Size(), 0)+1), s.Size()) // a Source may lie about its size
	if err != nil {
		return nil, err
	}
	if n != s.Size() {
		return nil, errChanged
	}
	if err := checkHead(head); err != nil {
		return nil, err
	}
	return &Message{head: head, body: &section{src: s, from: headLen, size: n - headLen}}, nil
}

// scan checks every octet of r and cuts off the header: up to and including the first empty line.
// About size octets are expected; a buffer of 2 KiB is enough for any line that is allowed.
func scan(r io.Reader, size int64) (total, headLen int64, head []byte, err error) {
	br := bufio.NewReaderSize(r, int(min(max(size, 2<<10), 32<<10)))
	var buf bytes.Buffer
	inHead := true
	for {
		line, err := br.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return 0, 0, nil, fmt.Errorf("securemail: message: read: %w", err)
		}
		if err := checkLine(line, err == io.EOF); err != nil {
			return 0, 0, nil, err
		}
		total += int64(len(line))
		if !inHead {
			continue
		}
		if buf.Write(line); buf.Len() > maxHead {
			return 0, 0, nil, errHeadSize
		}
		inHead = string(line) != "\r\n"
	}
	if inHead {
		if !bytes.HasSuffix(buf.Bytes(), []byte("\r\n")) {
			buf.WriteString("\r\n")
		}
		buf.WriteString("\r\n") // a header without a body; the empty line is ours
		return total, total, buf.Bytes(), nil
	}
	return total, int64(buf.Len()), buf.Bytes(), nil
}

func checkLine(line []byte, last bool) error {
	if bytes.IndexByte(line, 0) >= 0 {
		return errNUL
	}
	text := line
	switch {
	case bytes.HasSuffix(line, []byte("\r\n")):
		text = line[:len(line)-2]
	case bytes.HasSuffix(line, []byte("\n")):
		return errBareLF
	case !last:
		return errLine
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		return errBareCR
	}
	if len(text) > maxLine {
		return errLine
	}
	return nil
}

func checkHead(head []byte) error {
	fields := 0
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	for i, line := range lines {
		if line == "" {
			return errHeader
		}
		if line[0] == ' ' || line[0] == '\t' {
			if i == 0 {
				return errHeader
			}
			continue
		}
		name, _, ok := strings.Cut(line, ":")
		if !ok || !validFieldName(strings.TrimRight(name, " \t")) {
			return errHeader
		}
		if fields++; fields > maxFields {
			return errHeadSize
		}
	}
	return nil
}

// validFieldName is RFC 5322 section 3.6.8: printable US-ASCII without colon.
func validFieldName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

// Header returns the raw values of the field named name, unfolded (RFC 5322 section 2.2.3) but not decoded, in order
// of appearance. Names compare without case.
func (m *Message) Header(name string) []string {
	var vs []string
	for f := range headFields(m.head) {
		n, v, _ := strings.Cut(f, ":")
		if strings.EqualFold(strings.TrimRight(n, " \t"), name) {
			vs = append(vs, strings.TrimSpace(strings.NewReplacer("\r\n", "").Replace(v)))
		}
	}
	return vs
}

// headFields yields each field whole: name, colon, value with its folds and the CRLF at its end.
func headFields(head []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		rest := string(head)
		for rest != "" && rest != "\r\n" {
			end := 0
			for {
				i := strings.Index(rest[end:], "\r\n")
				if i < 0 {
					end = len(rest)
					break
				}
				end += i + 2
				if end >= len(rest) || (rest[end] != ' ' && rest[end] != '\t') {
					break
				}
			}
			if !yield(rest[:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// Head returns a copy of the header with the empty line that ends it.
func (m *Message) Head() []byte { return bytes.Clone(m.head) }

// Body returns what follows the header. Messages that differ in their header only, as the copies of one Draft.Each
// do, share one Body (the same value), so that stores can keep it once.
func (m *Message) Body() Source { return m.body }

// WithHead makes a message of another header and this one's body. Head must end with its empty line; it is checked as
// NewMessage does and copied.
func (m *Message) WithHead(head []byte) (*Message, error) {
	h := bytes.Clone(head)
	n, headLen, _, err := scan(bytes.NewReader(h), int64(len(h)))
	if err != nil {
		return nil, err
	}
	if n != headLen || !bytes.HasSuffix(h, []byte("\r\n\r\n")) {
		return nil, errHeader
	}
	if err := checkHead(h); err != nil {
		return nil, err
	}
	return &Message{head: h, body: m.body}, nil
}

// Open gives the whole message from its first octet.
func (m *Message) Open() (io.ReadCloser, error) {
	b, err := m.body.Open()
	if err != nil {
		return nil, err
	}
	return &joined{Reader: io.MultiReader(bytes.NewReader(m.head), b), Closer: b}, nil
}

// Size is the length in octets.
func (m *Message) Size() int64 { return int64(len(m.head)) + m.body.Size() }

// Format implements [fmt.Formatter]; it shows the size only.
func (m *Message) Format(f fmt.State, _ rune) {
	if m == nil {
		_, _ = io.WriteString(f, "message(nil)")
		return
	}
	_, _ = fmt.Fprintf(f, "message(%d octets)", m.Size())
}

// canonicalName is the form a map of header fields is keyed by.
func canonicalName(s string) string { return textproto.CanonicalMIMEHeaderKey(s) }

type joined struct {
	io.Reader
	io.Closer
}

// section is the part of a Source behind a header.
type section struct {
	src        Source
	from, size int64
}

func (s *section) Size() int64 { return s.size }

func (s *section) Open() (io.ReadCloser, error) {
	r, err := s.src.Open()
	if err != nil {
		return nil, err
	}
	if err := skip(r, s.from); err != nil {
		r.Close()
		return nil, err
	}
	return &joined{Reader: &exactly{r: r, left: s.size}, Closer: r}, nil
}

func skip(r io.Reader, n int64) error {
	if sk, ok := r.(io.Seeker); ok {
		_, err := sk.Seek(n, io.SeekStart)
		return err
	}
	_, err := io.CopyN(io.Discard, r, n)
	return err
}

// exactly fails where a source gives fewer or more bytes than when it was checked.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		var one [1]byte
		if n, err := io.ReadFull(e.r, one[:]); n > 0 {
			return 0, errChanged
		} else if err != io.EOF {
			return 0, err
		}
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		return n, errChanged
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}
