package securemail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"mime"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/mail"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var composeNow = time.Date(2026, 11, 24, 9, 30, 0, 0, time.FixedZone("", 3600))

func testContext() composeContext {
	return composeContext{domain: "mail.example.org", now: composeNow, maxSize: 1 << 20}
}

func mustCompose(t require.TestingT, d *Draft) (*Message, []*Message) {
	shared, each, faults, err := compose(d, testContext())
	require.NoError(t, err)
	require.Empty(t, faults)
	return shared, each
}

func wholeOf(t require.TestingT, s Source) []byte {
	r, err := s.Open()
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Len(t, b, int(s.Size()))
	return b
}

// leaf is one part as go-message reads it back.
type leaf struct {
	path, mediaType, disposition, name, contentID, body string
}

func leavesOf(t require.TestingT, m *Message) (mail.Header, []leaf) {
	e, err := message.Read(bytes.NewReader(wholeOf(t, m)))
	require.NoError(t, err)
	var ls []leaf
	walk(t, e, "", &ls)
	return mail.Header{Header: e.Header}, ls
}

func walk(t require.TestingT, e *message.Entity, path string, ls *[]leaf) {
	kind, _, err := e.Header.ContentType()
	require.NoError(t, err)
	if mr := e.MultipartReader(); mr != nil {
		path += strings.TrimPrefix(kind, "multipart/") + "/"
		for {
			p, err := mr.NextPart()
			if errors.Is(err, io.EOF) {
				return
			}
			require.NoError(t, err)
			walk(t, p, path, ls)
		}
	}
	l := leaf{path: path, mediaType: kind, contentID: strings.Trim(e.Header.Get("Content-Id"), "<>")}
	if v := e.Header.Get("Content-Disposition"); v != "" {
		disposition, params, err := mime.ParseMediaType(v)
		require.NoError(t, err)
		l.disposition, l.name = disposition, params["filename"]
	}
	b, err := io.ReadAll(e.Body)
	require.NoError(t, err)
	l.body = string(b)
	*ls = append(*ls, l)
}

func requireWire(t require.TestingT, m *Message) {
	all := wholeOf(t, m)
	for line := range bytes.SplitSeq(all, []byte("\r\n")) {
		require.LessOrEqual(t, len(line), maxLine)
		require.NotContains(t, string(line), "\n")
	}
	require.True(t, bytes.HasSuffix(all, []byte("\r\n")))
	_, err := NewMessage(Bytes(all))
	require.NoError(t, err)
}

func anna() Draft {
	return Draft{
		From: Mailbox("Clinic <clinic@example.org>"), To: To("Anna Example <anna@example.net>"),
		Subject: "Your appointment", Text: "Dear Anna,\nsee you at nine.",
	}
}

func TestComposeShapes(t *testing.T) {
	png := Attachment{Name: "logo.png", Type: "image/png", ContentID: "logo@example.org", Content: Bytes([]byte("\x89PNG"))}
	pdf := Attachment{Name: "report.pdf", Type: "application/pdf", Content: Bytes([]byte("%PDF-1.7"))}
	const text, html = "text\r\n", "<p>html</p>\r\n"
	textLeaf := func(path string) leaf { return leaf{path: path, mediaType: "text/plain", body: text} }
	htmlLeaf := func(path string) leaf { return leaf{path: path, mediaType: "text/html", body: html} }
	pngLeaf := func(path, disposition string) leaf {
		return leaf{path, "image/png", disposition, "logo.png", "logo@example.org", "\x89PNG"}
	}
	pdfLeaf := leaf{"mixed/", "application/pdf", "attachment", "report.pdf", "", "%PDF-1.7"}
	for name, c := range map[string]struct {
		text, html string
		files      []Attachment
		want       []leaf
	}{
		"text":           {text: "text", want: []leaf{textLeaf("")}},
		"html":           {html: "<p>html</p>", want: []leaf{htmlLeaf("")}},
		"both":           {text: "text", html: "<p>html</p>", want: []leaf{textLeaf("alternative/"), htmlLeaf("alternative/")}},
		"text and file":  {text: "text", files: []Attachment{pdf}, want: []leaf{textLeaf("mixed/"), pdfLeaf}},
		"file alone":     {files: []Attachment{pdf}, want: []leaf{pdfLeaf}},
		"html and image": {html: "<p>html</p>", files: []Attachment{png}, want: []leaf{htmlLeaf("related/"), pngLeaf("related/", "inline")}},
		"image for text": {text: "text", files: []Attachment{png}, want: []leaf{textLeaf("mixed/"), pngLeaf("mixed/", "attachment")}},
		"everything": {
			text: "text", html: "<p>html</p>", files: []Attachment{pdf, png}, want: []leaf{
				textLeaf("mixed/alternative/"), htmlLeaf("mixed/alternative/related/"),
				pngLeaf("mixed/alternative/related/", "inline"), pdfLeaf,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := anna()
			d.Text, d.HTML, d.Attachments = c.text, c.html, c.files
			require.Empty(t, d.validate(limits{}))
			m, each := mustCompose(t, &d)
			require.Empty(t, each)
			requireWire(t, m)
			h, got := leavesOf(t, m)
			require.Equal(t, c.want, got)
			require.Equal(t, "1.0", h.Get("MIME-Version"))
		})
	}
}

func TestComposeHeader(t *testing.T) {
	d := anna()
	d.From = Contact{Name: "Dr. Żółć, M.D.", Address: d.From.Address}
	d.ReplyTo = Mailbox("desk@example.org")
	d.Cc = To(`"Müller, Jörg" <joerg@bücher.example>`, "δοκιμή@example.com")
	d.Bcc = To("secret@example.com")
	d.Subject = strings.Repeat("Überweisung ", 20)
	d.Header = map[string][]string{"X-Case": {"b", "a"}, "List-Id": {"<news.example.org>"}, "X-Umlaut": {"größe"}}
	require.Empty(t, d.validate(limits{}))
	m, _ := mustCompose(t, &d)
	requireWire(t, m)
	for line := range strings.SplitSeq(string(m.Head()), "\r\n") {
		require.LessOrEqual(t, len(line), foldAt)
	}
	h, _ := leavesOf(t, m)
	subject, err := h.Subject()
	require.NoError(t, err)
	require.Equal(t, d.Subject, subject)
	date, err := h.Date()
	require.NoError(t, err)
	require.True(t, date.Equal(composeNow))
	require.Equal(t, []string{"Tue, 24 Nov 2026 09:30:00 +0100"}, m.Header("Date"))
	from, err := h.AddressList("From")
	require.NoError(t, err)
	require.Equal(t, []*mail.Address{{Name: "Dr. Żółć, M.D.", Address: "clinic@example.org"}}, from)
	cc, err := h.AddressList("Cc")
	require.NoError(t, err)
	require.Equal(t, []*mail.Address{
		{Name: "Müller, Jörg", Address: "joerg@xn--bcher-kva.example"}, {Address: "δοκιμή@example.com"},
	}, cc)
	require.Equal(t, []string{"desk@example.org"}, m.Header("Reply-To"))
	require.Equal(t, []string{"b", "a"}, m.Header("X-Case"))
	umlaut, err := h.Text("X-Umlaut")
	require.NoError(t, err)
	require.Equal(t, "größe", umlaut)
	require.Empty(t, m.Header("Bcc"))
	require.NotContains(t, string(wholeOf(t, m)), "secret")
	id, err := h.MessageID()
	require.NoError(t, err)
	require.Regexp(t, `^[0-9a-v]{32}@mail\.example\.org$`, id)
}

func TestComposeMessageIDs(t *testing.T) {
	d := anna()
	c := testContext()
	c.domain = ""
	m, _, _, err := compose(&d, c)
	require.NoError(t, err)
	require.Regexp(t, `@example\.org>$`, m.Header("Message-ID")[0])
	c.messageID = func() string { return "fixed" }
	m, _, _, err = compose(&d, c)
	require.NoError(t, err)
	require.Equal(t, []string{"<fixed@example.org>"}, m.Header("Message-ID"))
}

func TestComposeBccOnly(t *testing.T) {
	d := anna()
	d.To, d.Bcc = nil, To("anna@example.net")
	m, _ := mustCompose(t, &d)
	require.Equal(t, []string{"undisclosed-recipients:;"}, m.Header("To"))
	require.NotContains(t, string(wholeOf(t, m)), "anna@")
}

func TestComposeEach(t *testing.T) {
	d := anna()
	d.Each = To("Bea <bea@example.com>", "cyd@example.com")
	m, each := mustCompose(t, &d)
	require.Len(t, each, 2)
	require.Equal(t, []string{"Bea <bea@example.com>"}, each[0].Header("To"))
	require.Equal(t, []string{"cyd@example.com"}, each[1].Header("To"))
	require.Same(t, m.Body(), each[0].Body())
	require.Same(t, m.Body(), each[1].Body())
	ids := []string{m.Header("Message-ID")[0], each[0].Header("Message-ID")[0], each[1].Header("Message-ID")[0]}
	slices.Sort(ids)
	require.Len(t, slices.Compact(ids), 3)
	require.NotContains(t, string(wholeOf(t, each[0])), "cyd")

	d.To = nil
	m, each = mustCompose(t, &d)
	require.Nil(t, m)
	require.Len(t, each, 2)
}

func TestComposeText(t *testing.T) {
	for name, c := range map[string]struct{ in, want, encoding string }{
		"ascii":        {"a\nb", "a\r\nb\r\n", encodingQP},
		"trailing":     {"a \t\n.\nFrom x\n", "a \t\r\n.\r\nFrom x\r\n", encodingQP},
		"cr":           {"a\rb\r\nc\n\r", "a\r\nb\r\nc\r\n\r\n", encodingQP},
		"accents":      {"Grüße aus Köln, wie geht es Ihnen", "Grüße aus Köln, wie geht es Ihnen\r\n", encodingQP},
		"japanese":     {"予約のお知らせ", "予約のお知らせ\r\n", encodingBase64},
		"long":         {strings.Repeat("x", 5000), strings.Repeat("x", 5000) + "\r\n", encodingQP},
		"many lines":   {strings.Repeat("日\n", 50), strings.Repeat("日\r\n", 50), encodingBase64},
		"control":      {"a\x01\x7fb", "a\x01\x7fb\r\n", encodingQP},
		"equals signs": {"=_ =3D a=b", "=_ =3D a=b\r\n", encodingQP},
	} {
		t.Run(name, func(t *testing.T) {
			d := anna()
			d.Text = c.in
			m, _ := mustCompose(t, &d)
			requireWire(t, m)
			require.Equal(t, []string{c.encoding}, m.Header("Content-Transfer-Encoding"))
			_, ls := leavesOf(t, m)
			require.Equal(t, c.want, ls[0].body)
			for _, b := range wholeOf(t, m) {
				require.Less(t, b, byte(0x80))
			}
		})
	}
}

func TestComposeFileNames(t *testing.T) {
	for _, name := range []string{
		"plain.pdf", "two words.pdf", `quo"te\d.pdf`, "Röntgen.png", "検査結果.pdf", "a'b%c*d.txt", "=?utf-8?q?x?=.txt",
		strings.Repeat("long", 40) + ".txt", strings.Repeat("Größe ", 50) + "日本.txt", " edge ", "a;b=c.txt", "",
	} {
		d := anna()
		d.Attachments = []Attachment{{Name: name, Content: Bytes([]byte{0, 1, 2})}}
		require.Empty(t, d.validate(limits{}))
		m, _ := mustCompose(t, &d)
		requireWire(t, m)
		_, ls := leavesOf(t, m)
		require.Equal(t, leaf{"mixed/", "application/octet-stream", "attachment", name, "", "\x00\x01\x02"}, ls[1])
	}
}

func TestComposeAttachmentTypes(t *testing.T) {
	inner := "From: a@example.org\r\nSubject: x\r\n\r\nbody\r\n"
	for name, c := range map[string]struct{ kind, content, encoding, contentType string }{
		"charset":  {`text/csv; charset="iso-8859-1"; name=x.csv`, "gr\xf6\xdfe", "base64", "text/csv; charset=iso-8859-1"},
		"calendar": {"text/calendar; method=REQUEST", "BEGIN:VCALENDAR\r\n", "base64", "text/calendar; method=REQUEST"},
		"message":  {"message/rfc822", inner, "7bit", "message/rfc822"},
		"8-bit":    {"message/rfc822", inner + "gr\xc3\xbc\xc3\x9fe\r\n", "8bit", "message/rfc822"},
	} {
		t.Run(name, func(t *testing.T) {
			d := anna()
			d.Attachments = []Attachment{{Name: "x", Type: c.kind, Content: Bytes([]byte(c.content))}}
			require.Empty(t, d.validate(limits{}))
			m, _ := mustCompose(t, &d)
			requireWire(t, m)
			all := string(wholeOf(t, m))
			require.Contains(t, all, "Content-Type: "+c.contentType+"\r\n")
			require.Contains(t, all, "Content-Transfer-Encoding: "+c.encoding+"\r\n")
			if strings.HasPrefix(c.kind, "message/") {
				require.Contains(t, all, c.content)
			}
		})
	}
	for content, rule := range map[string]string{"A: b\n\nx": ruleCRLF, "A: b\r\n\r\n\x00": ruleNUL, "no header": ruleHeader} {
		d := anna()
		d.Attachments = []Attachment{{Type: "message/rfc822", Content: Bytes([]byte(content))}}
		_, _, faults, err := compose(&d, testContext())
		require.NoError(t, err)
		require.Equal(t, []Fault{{"Attachments[0]", rule}}, faults)
	}
}

// liar promises more, or less, than it gives.
type liar struct {
	Source
	size int64
}

func (l liar) Size() int64 { return l.size }

type closedSource struct{}

var errClosed = errors.New("source closed")

func (closedSource) Open() (io.ReadCloser, error) { return nil, errClosed }
func (closedSource) Size() int64                  { return 3 }

func TestComposeBrokenSources(t *testing.T) {
	for name, c := range map[string]struct {
		src  Source
		want error
	}{
		"fewer":  {liar{Bytes([]byte("abc")), 4}, errChanged},
		"more":   {liar{Bytes([]byte("abc")), 2}, errChanged},
		"closed": {closedSource{}, errClosed},
		"file":   {liar{File(filepath.Join(t.TempDir(), "anna.pdf")), 2}, os.ErrNotExist},
	} {
		for _, kind := range []string{"", "message/rfc822"} {
			d := anna()
			d.Attachments = []Attachment{{Type: kind, Content: c.src}}
			m, each, faults, err := compose(&d, testContext())
			if kind != "" && c.want == errChanged && len(faults) > 0 {
				continue // "abc" is no message either
			}
			require.ErrorIs(t, err, c.want, name)
			require.NotContains(t, err.Error(), "anna")
			require.Nil(t, m)
			require.Nil(t, each)
			_, err = d.digest()
			require.ErrorIs(t, err, c.want, name)
		}
		d := Draft{Raw: c.src, To: To("a@example.org")}
		_, _, faults, err := compose(&d, testContext())
		require.True(t, err != nil || len(faults) > 0, name)
	}
}

// endless would fill memory if its size were not believed.
type endless struct{}

func (endless) Open() (io.ReadCloser, error) { return io.NopCloser(endless{}), nil }
func (endless) Size() int64                  { return 100 }
func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestNewMessageStopsAtSize(t *testing.T) {
	_, err := NewMessage(endless{})
	require.Error(t, err)
	d := anna()
	d.Attachments = []Attachment{{Content: endless{}}}
	_, _, _, err = compose(&d, testContext())
	require.ErrorIs(t, err, errChanged)
}

func TestComposeSize(t *testing.T) {
	d := anna()
	d.Attachments = []Attachment{{Content: Bytes(make([]byte, 800<<10))}}
	require.Empty(t, d.validate(limits{maxSize: 1 << 20}), "fits before base64")
	_, _, faults, err := compose(&d, testContext())
	require.NoError(t, err)
	require.Equal(t, []Fault{{"Message", ruleSize}}, faults)

	d.Attachments = nil
	c := testContext()
	m, _, _, err := compose(&d, c)
	require.NoError(t, err)
	c.maxSize = m.Size() - 1
	for _, each := range []bool{false, true} {
		if each {
			d.To, d.Each = nil, d.To
		}
		_, _, faults, err = compose(&d, c)
		require.NoError(t, err)
		require.Equal(t, []Fault{{"Message", ruleSize}}, faults)
	}

	d.Header = map[string][]string{"X-Many": slices.Repeat([]string{"v"}, maxFields)}
	_, _, faults, err = compose(&d, testContext())
	require.NoError(t, err)
	require.Equal(t, []Fault{{"Header", ruleSize}}, faults)
}

const rawText = "Received: from x\r\n\tby y; Tue, 24 Nov 2026 09:00:00 +0000\r\n" +
	"DATE : Tue, 24 Nov 2026 09:30:00 +0000\r\n" +
	"From: Clinic <clinic@example.org>\r\nTo: anna@example.net\r\n" +
	"bCC \t: secret@example.com,\r\n  other@example.com\r\n" +
	"Subject:  odd   spacing \r\nResent-Bcc: third@example.com\r\nMessage-ID: <1@example.org>\r\n\r\nbody\r\nBcc: stays\r\n"

const rawCut = "Received: from x\r\n\tby y; Tue, 24 Nov 2026 09:00:00 +0000\r\n" +
	"DATE : Tue, 24 Nov 2026 09:30:00 +0000\r\n" +
	"From: Clinic <clinic@example.org>\r\nTo: anna@example.net\r\n" +
	"Subject:  odd   spacing \r\nMessage-ID: <1@example.org>\r\n\r\nbody\r\nBcc: stays\r\n"

func TestComposeRaw(t *testing.T) {
	d := &Draft{Raw: Bytes([]byte(rawText)), To: To("anna@example.net"), Each: To("bea@example.com", "cyd@example.com")}
	require.Empty(t, d.validate(limits{maxSize: 1000}))
	m, each := mustCompose(t, d)
	require.Equal(t, rawCut, string(wholeOf(t, m)))
	require.Equal(t, []*Message{m, m}, each)
	require.Equal(t, Contact{}, d.From)
	author, fault := rawAuthor(m)
	require.Empty(t, fault)
	require.Equal(t, Mailbox("Clinic <clinic@example.org>"), author)

	d.To = nil
	m, each = mustCompose(t, d)
	require.Nil(t, m)
	require.Len(t, each, 2)
}

func TestComposeRawAdds(t *testing.T) {
	raw := "From: clinic@example.org\r\nSubject: x\r\n"
	for _, tail := range []string{"", "\r\n", "\r\nbody"} {
		d := &Draft{Raw: Bytes([]byte(raw + tail)), To: To("anna@example.net")}
		c := testContext()
		c.domain, c.messageID = "", func() string { return "new" }
		m, _, faults, err := compose(d, c)
		require.NoError(t, err)
		require.Empty(t, faults)
		want := "Date: Tue, 24 Nov 2026 09:30:00 +0100\r\nMessage-ID: <new@example.org>\r\n" + raw + tail
		if tail == "" {
			want += "\r\n"
		}
		require.Equal(t, want, string(wholeOf(t, m)))
	}
}

func TestComposeRawFaults(t *testing.T) {
	other := Mailbox("other@example.org")
	for name, c := range map[string]struct {
		raw   string
		from  Contact
		fault Fault
	}{
		"bare lf":        {raw: "From: a@example.org\r\n\r\na\nb", fault: Fault{"Raw", ruleCRLF}},
		"bare cr":        {raw: "From: a@example.org\r\n\r\na\rb", fault: Fault{"Raw", ruleCRLF}},
		"nul":            {raw: "From: a@example.org\r\n\r\na\x00b", fault: Fault{"Raw", ruleNUL}},
		"long line":      {raw: "From: a@example.org\r\n\r\n" + strings.Repeat("x", 999), fault: Fault{"Raw", ruleLine}},
		"long header":    {raw: "From: a@example.org\r\n" + strings.Repeat("A: b\r\n", 1001) + "\r\n", fault: Fault{"Raw", ruleSize}},
		"no header":      {raw: "\r\nbody", fault: Fault{"Raw", ruleHeader}},
		"empty":          {raw: "", fault: Fault{"Raw", ruleHeader}},
		"no from":        {raw: "Subject: x\r\n\r\n", fault: Fault{"From", ruleRequired}},
		"no from, given": {raw: "Subject: x\r\n\r\n", from: other, fault: Fault{"Raw", ruleFrom}},
		"two fields":     {raw: "From: a@example.org\r\nFrom: b@example.org\r\n\r\n", fault: Fault{"From", ruleFrom}},
		"malformed":      {raw: "From: anna\r\n\r\n", fault: Fault{"From", ruleFrom}},
		"bad address":    {raw: "From: a@[127.0.0.1]\r\n\r\n", fault: Fault{"From", ruleFrom}},
		"no sender":      {raw: "From: a@example.org, b@example.org\r\n\r\n", fault: Fault{"From", ruleFrom}},
		"two senders":    {raw: "From: a@example.org, b@example.org\r\nSender: a@example.org, b@example.org\r\n\r\n", fault: Fault{"From", ruleFrom}},
		"another author": {raw: "From: a@example.org\r\n\r\n", from: other, fault: Fault{"From", ruleFrom}},
		"too large":      {raw: "From: a@example.org\r\n\r\n" + strings.Repeat("line\r\n", 1<<18), fault: Fault{"Message", ruleSize}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Draft{Raw: Bytes([]byte(c.raw)), From: c.from, To: To("anna@example.net")}
			m, each, faults, err := compose(d, testContext())
			require.NoError(t, err)
			require.Nil(t, m)
			require.Nil(t, each)
			require.Equal(t, []Fault{c.fault}, faults)
		})
	}
}

func TestComposeRawSender(t *testing.T) {
	raw := "From: a@example.org, b@example.org\r\nSender: B <b@example.org>\r\nDate: x\r\nMessage-ID: <1@a>\r\n\r\n"
	for _, from := range []Contact{{}, Mailbox("b@example.org")} {
		d := &Draft{Raw: Bytes([]byte(raw)), From: from, To: To("anna@example.net")}
		m, _ := mustCompose(t, d)
		require.Equal(t, raw, string(wholeOf(t, m)))
		author, _ := rawAuthor(m)
		require.Equal(t, Mailbox("B <b@example.org>"), author)
	}
}

func TestComposeRawOldNames(t *testing.T) {
	tail := "\r\nDate: x\r\nMessage-ID: <1@a>\r\n\r\n"
	for from, want := range map[string]string{
		"S\xf8ren <s@example.org>": "S\ufffdren", "\"S\xf8ren\" <s@example.org>": "S\ufffdren",
		"=?iso-2022-jp?B?GyRCOzNFRBsoQg==?= <s@example.org>": "", "=?windows-1252?Q?O=92Neill?= <s@example.org>": "",
		"=?iso-8859-1?Q?S=F8ren?= <s@example.org>": "Søren", "s@example.org (comment)": "comment",
	} {
		m, _ := mustCompose(t, &Draft{Raw: Bytes([]byte("From: " + from + tail)), To: To("anna@example.net")})
		author, fault := rawAuthor(m)
		require.Empty(t, fault)
		author.Name = strings.TrimSpace(author.Name)
		require.Equal(t, Contact{Name: want, Address: Mailbox("s@example.org").Address}, author, "%q", from)
	}
	_, _, faults, err := compose(&Draft{Raw: Bytes([]byte("From: s\xf8@example.org" + tail))}, testContext())
	require.NoError(t, err)
	require.Equal(t, []Fault{{"From", ruleFrom}}, faults)
}

func TestFoldField(t *testing.T) {
	for _, value := range []string{
		"", "a", strings.Repeat("word ", 40) + "end", strings.Repeat("x", 900), "a\tb  c " + strings.Repeat(" y", 100),
		strings.Repeat("x", 500) + " " + strings.Repeat("y", 500),
	} {
		field := string(foldField("X-Test", value))
		require.True(t, strings.HasSuffix(field, "\r\n"))
		lines := strings.Split(strings.TrimSuffix(field, "\r\n"), "\r\n")
		for i, line := range lines {
			require.LessOrEqual(t, len(line), maxLine)
			if i > 0 {
				require.NotEmpty(t, strings.TrimSpace(line))
			}
		}
		require.Equal(t, "X-Test: "+value, strings.Join(lines, ""))
	}
}

// fullDraft sets every field of Draft.
func fullDraft() *Draft {
	return &Draft{
		Key: "k", From: Mailbox("A <a@example.org>"), ReplyTo: Mailbox("r@example.org"),
		To: []Recipient{{
			Contact: Contact{Name: "N", Address: Mailbox("t@example.org").Address, Ref: "ref", Language: "de",
				TimeZone: "Europe/Berlin", Attrs: map[string]string{"a": "1", "b": "2", "c": "3"}},
			Factors: []Factor{{"code", "hint", NewSecret("1234")}},
		}},
		Cc: To("c@example.org"), Bcc: To("b@example.org"), Each: To("e@example.org"),
		Subject: "s", Text: "t", HTML: "h",
		Attachments: []Attachment{{"n", "text/plain", "cid", Bytes([]byte("x"))}},
		Header:      map[string][]string{"X-A": {"1", "2"}, "X-B": {"3"}, "X-C": {"4"}},
		ReturnPath:  Mailbox("rp@example.org").Address, Purpose: PurposeTreatment, Subjects: []Subject{"p1", "p2"},
		Escalate: EscalateSealed, Track: TrackOpens, Priority: -1, Labels: map[string]string{"l": "1", "m": "2", "n": "3"},
		NotBefore: composeNow, UsefulUntil: composeNow.Add(time.Hour), AccessUntil: composeNow.Add(2 * time.Hour),
	}
}

func TestDigest(t *testing.T) {
	base, err := fullDraft().digest()
	require.NoError(t, err)
	for range 20 {
		d := fullDraft()
		d.Key = "another"
		d.NotBefore = d.NotBefore.UTC()
		d.Labels = shuffled(d.Labels)
		again, err := d.digest()
		require.NoError(t, err)
		require.Equal(t, base, again)
	}
	seen := map[[32]byte]string{base: "base"}
	for name, change := range digestChanges() {
		d := fullDraft()
		change(d)
		sum, err := d.digest()
		require.NoError(t, err)
		require.Empty(t, seen[sum], "%s is taken for another", name)
		seen[sum] = name
	}
}

func shuffled(m map[string]string) map[string]string {
	keys := slices.Collect(maps.Keys(m))
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	out := make(map[string]string)
	for _, k := range keys {
		out[k] = m[k]
	}
	return out
}

func digestChanges() map[string]func(*Draft) {
	return map[string]func(*Draft){
		"from":         func(d *Draft) { d.From.Name = "B" },
		"reply-to":     func(d *Draft) { d.ReplyTo = Contact{} },
		"to cc":        func(d *Draft) { d.To, d.Cc = d.Cc, d.To },
		"bcc":          func(d *Draft) { d.Bcc = nil },
		"bcc to each":  func(d *Draft) { d.Bcc, d.Each = nil, append(d.Bcc, d.Each...) },
		"ref":          func(d *Draft) { d.To[0].Ref = "x" },
		"language":     func(d *Draft) { d.To[0].Language = "fr" },
		"attrs":        func(d *Draft) { d.To[0].Attrs["a"] = "9" },
		"factor":       func(d *Draft) { d.To[0].Factors[0].Value = NewSecret("9") },
		"no factor":    func(d *Draft) { d.To[0].Factors = nil },
		"subject text": func(d *Draft) { d.Subject, d.Text = "st", "" },
		"text html":    func(d *Draft) { d.Text, d.HTML = "th", "" },
		"file name":    func(d *Draft) { d.Attachments[0].Name = "m" },
		"file content": func(d *Draft) { d.Attachments[0].Content = Bytes([]byte("y")) },
		"no file":      func(d *Draft) { d.Attachments = nil },
		"no content":   func(d *Draft) { d.Attachments[0].Content = nil },
		"header order": func(d *Draft) { d.Header["X-A"] = []string{"2", "1"} },
		"header split": func(d *Draft) { d.Header["X-A"], d.Header["X-B"] = []string{"1"}, []string{"2", "3"} },
		"raw":          func(d *Draft) { d.Raw = Bytes(nil) },
		"raw content":  func(d *Draft) { d.Raw = Bytes([]byte("x")) },
		"return path":  func(d *Draft) { d.ReturnPath = Address{} },
		"purpose":      func(d *Draft) { d.Purpose = "" },
		"subjects":     func(d *Draft) { d.Subjects = []Subject{"p1p2"} },
		"escalate":     func(d *Draft) { d.Escalate = EscalateEscrow },
		"track":        func(d *Draft) { d.Track = TrackClicks },
		"priority":     func(d *Draft) { d.Priority = 1 },
		"labels":       func(d *Draft) { d.Labels["l"] = "2" },
		"not before":   func(d *Draft) { d.NotBefore = time.Time{} },
		"useful until": func(d *Draft) { d.UsefulUntil = d.UsefulUntil.Add(1) },
		"access until": func(d *Draft) { d.AccessUntil = d.AccessUntil.Add(1) },
	}
}

// drawText makes text that validate accepts.
func drawText(label string, t *rapid.T) string {
	s := rapid.StringN(0, 200, 600).Draw(t, label)
	return strings.Map(func(r rune) rune {
		if r == 0 {
			return -1
		}
		return r
	}, s)
}

func drawLine(label string, t *rapid.T) string {
	return strings.Map(func(r rune) rune {
		if lineFault(string(r)) != "" {
			return -1
		}
		return r
	}, drawText(label, t))
}

// TestComposeProperty: whatever validate accepts becomes a message that a wire takes, that reads back as it was
// written, and in which nobody in Bcc shows.
func TestComposeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &Draft{
			From:    Contact{Name: drawLine("from", t), Address: Mailbox("clinic@example.org").Address},
			To:      []Recipient{{Contact: Contact{Name: drawLine("to", t), Address: Mailbox("anna@example.net").Address}}},
			Subject: drawLine("subject", t), Text: drawText("text", t), HTML: drawText("html", t),
			Header: map[string][]string{"X-Extra": {drawLine("extra", t)}},
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "bcc") {
			d.Bcc = append(d.Bcc, To(fmt.Sprintf("Hidden%d <hidden-%d@secret.example>", i, i))...)
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "files") {
			d.Attachments = append(d.Attachments, Attachment{
				Name: drawLine("name", t), Content: Bytes(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "content")),
				ContentID: rapid.SampledFrom([]string{"", fmt.Sprintf("c%d@example.org", i)}).Draw(t, "cid"),
			})
		}
		if len(d.validate(limits{maxSize: 1 << 20})) > 0 {
			t.Skip("not a draft")
		}
		m, _ := mustCompose(t, d)
		requireWire(t, m)
		all := strings.ToLower(string(wholeOf(t, m)))
		require.NotContains(t, all, "hidden")
		require.NotContains(t, all, "secret.example")
		requireSame(t, d, m)
	})
}

func requireSame(t require.TestingT, d *Draft, m *Message) {
	h, ls := leavesOf(t, m)
	subject, err := h.Subject()
	require.NoError(t, err)
	require.Equal(t, d.Subject, subject)
	to, err := h.AddressList("To")
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(d.To[0].Name), to[0].Name)
	var want, got []string
	if d.Text != "" {
		want = append(want, "text/plain||"+canonicalLines(d.Text))
	}
	if d.HTML != "" {
		want = append(want, "text/html||"+canonicalLines(d.HTML))
	}
	for _, a := range d.Attachments {
		want = append(want, "application/octet-stream|"+a.Name+"|"+string(wholeOf(t, a.Content)))
	}
	for _, l := range ls {
		got = append(got, l.mediaType+"|"+l.name+"|"+l.body)
	}
	require.ElementsMatch(t, want, got)
}
