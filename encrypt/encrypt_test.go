package encrypt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const original = "Received: from secret.example by x; Tue, 24 Nov 2026 10:00:00 +0000\r\n" +
	"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n" +
	"From: Dr Bob <bob@clinic.example>\r\n" +
	"Sender: desk@clinic.example\r\n" +
	"To: Anna <Anna@Example.org>, \"B, C\"\r\n <ben@example.net>\r\n" +
	"Cc: carl@example.net\r\n" +
	"Bcc: hidden@example.net\r\n" +
	"Reply-To: reply@clinic.example\r\n" +
	"Subject: =?utf-8?q?Befund_M=C3=BCller?=\r\n continued\r\n" +
	"Message-ID: <1@clinic.example>\r\n" +
	"In-Reply-To: <0@clinic.example>\r\n" +
	"References: <00@clinic.example>\r\n <0@clinic.example>\r\n" +
	"Comments: secret comment\r\n" +
	"Keywords: oncology\r\n" +
	"List-Unsubscribe: <https://x.example/u?who=anna>\r\n" +
	"X-Patient: 4711\r\n" +
	"DKIM-Signature: v=1\r\n" +
	"MIME-Version: 1.0\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\n" +
	"Content-Transfer-Encoding: 8bit\r\n" +
	"\r\n" +
	"Liebe Anna, der Befund ist da: gr\xc3\xbcn.\r\n"

func parcel(t testing.TB, msg, to string) *securemail.Parcel {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes([]byte(msg)))
	require.NoError(t, err)
	a, err := securemail.ParseAddress(to)
	require.NoError(t, err)
	return &securemail.Parcel{Slip: securemail.Slip{ID: "p1", Recipient: securemail.Contact{Address: a}}, Message: m}
}

func sealed() encrypt.Content {
	return encrypt.Content{
		Type:     "application/octet-stream; name=\"a; b.bin\"; x=y",
		Encoding: "base64", Disposition: "attachment; filename=\"m.bin\"",
		Body: securemail.Bytes([]byte("AAAA\r\n")),
	}
}

func read(t testing.TB, s securemail.Source) string {
	t.Helper()
	r, err := s.Open()
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.EqualValues(t, len(b), s.Size())
	return string(b)
}

func TestOuterKeepsTheListAndNothingElse(t *testing.T) {
	m, err := encrypt.Outer(parcel(t, original, "anna@example.org"), sealed())
	require.NoError(t, err)
	require.Equal(t, "Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n"+
		"From: Dr Bob <bob@clinic.example>\r\n"+
		"Reply-To: reply@clinic.example\r\n"+
		"To: Anna <Anna@Example.org>, \"B, C\"\r\n <ben@example.net>\r\n"+
		"Cc: carl@example.net\r\n"+
		"Subject: [...]\r\n"+
		"Message-ID: <1@clinic.example>\r\n"+
		"In-Reply-To: <0@clinic.example>\r\n"+
		"References: <00@clinic.example>\r\n <0@clinic.example>\r\n"+
		"MIME-Version: 1.0\r\n"+
		"Content-Type: application/octet-stream;\r\n name=\"a; b.bin\";\r\n x=y\r\n"+
		"Content-Transfer-Encoding: base64\r\n"+
		"Content-Disposition: attachment;\r\n filename=\"m.bin\"\r\n"+
		"\r\nAAAA\r\n", read(t, m))
}

func TestOuterForABccRecipientNamesHimAlone(t *testing.T) {
	m, err := encrypt.Outer(parcel(t, original, "hidden@example.net"), sealed())
	require.NoError(t, err)
	require.Equal(t, []string{"<hidden@example.net>"}, m.Header("To"))
	require.Empty(t, m.Header("Cc"))
	require.Empty(t, m.Header("Bcc"))
	require.NotContains(t, read(t, m), "carl")
}

// TestFold: letters outside ASCII that fold into it are other letters, and so another person's address.
func TestFold(t *testing.T) {
	fold := func(s string) string {
		a, err := securemail.ParseAddress(s)
		require.NoError(t, err)
		return encrypt.Fold(a)
	}
	require.Equal(t, "anna@example.org", fold("ANNA@Example.ORG"))
	require.Equal(t, fold("J\u00fcrgen@example.org"), fold("J\u00dcRGEN@example.org"))
	for other, like := range map[string]string{"\u212aate": "kate", "\u017fam": "sam", "\u0130da": "ida", "\u0131da": "ida"} {
		require.NotEqual(t, fold(other+"@example.org"), fold(like+"@example.org"))
	}
	require.Empty(t, encrypt.Fold(securemail.Address{}))
	m, err := encrypt.Outer(parcel(t, strings.Replace(original, "carl@", "kate@", 1), "\u212aate@example.net"), sealed())
	require.NoError(t, err)
	require.Empty(t, m.Header("Cc"), "a Bcc recipient with an address that looks alike")
}

func TestOuterForAnUnreadableToNamesTheRecipient(t *testing.T) {
	msg := strings.Replace(original, "To: Anna", "To: ,,;<", 1)
	m, err := encrypt.Outer(parcel(t, msg, "anna@example.org"), sealed())
	require.NoError(t, err)
	require.Equal(t, []string{"<anna@example.org>"}, m.Header("To"))
}

func TestOuterReadsGroupsAndForeignCharsets(t *testing.T) {
	msg := strings.Replace(original, "To: Anna <Anna@Example.org>", "To: Team: =?x-unknown?q?A?= <anna@example.org>;", 1)
	msg = strings.Replace(msg, ", \"B, C\"\r\n <ben@example.net>", "", 1)
	m, err := encrypt.Outer(parcel(t, msg, "ANNA@example.org"), sealed())
	require.NoError(t, err)
	require.Equal(t, []string{"Team: =?x-unknown?q?A?= <anna@example.org>;"}, m.Header("To"))
}

func TestOuterRefuses(t *testing.T) {
	type tc struct {
		name, drop string
		edit       func(*encrypt.Content)
	}
	for _, c := range []tc{
		{name: "no from", drop: "From"},
		{name: "no date", drop: "Date"},
		{name: "no message id", drop: "Message-ID"},
		{name: "no body", edit: func(c *encrypt.Content) { c.Body = nil }},
		{name: "injected field", edit: func(c *encrypt.Content) { c.Type = "text/plain;\r\nX-Evil: 1;\r\n a=b" }},
		{name: "8-bit type", edit: func(c *encrypt.Content) { c.Type = "text/plain; name=\"\xc3\xbc\"" }},
		{name: "no type", edit: func(c *encrypt.Content) { c.Type = "" }},
		{name: "type without subtype", edit: func(c *encrypt.Content) { c.Type = "text" }},
		{name: "binary", edit: func(c *encrypt.Content) { c.Encoding = "binary" }},
		{name: "encoded multipart", edit: func(c *encrypt.Content) { c.Type = "multipart/mixed; boundary=x" }},
		{name: "disposition", edit: func(c *encrypt.Content) { c.Disposition = "a\r\nX-Evil: 1" }},
		{name: "bare LF", edit: func(c *encrypt.Content) { c.Body = securemail.Bytes([]byte("a\n")) }},
		{name: "broken source", edit: func(c *encrypt.Content) { c.Body = securemail.File("/nonexistent/x") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			msg := original
			if c.drop != "" {
				msg = strings.Replace(msg, "\r\n"+c.drop+":", "\r\nX-Was:", 1)
			}
			content := sealed()
			if c.edit != nil {
				c.edit(&content)
			}
			m, err := encrypt.Outer(parcel(t, msg, "anna@example.org"), content)
			require.Error(t, err)
			require.Nil(t, m)
			for _, canary := range []string{"anna", "Befund", "M=C3", "clinic"} {
				require.NotContains(t, err.Error(), canary)
			}
		})
	}
	_, err := encrypt.Outer(nil, sealed())
	require.Error(t, err)
	_, err = encrypt.Payload(&securemail.Parcel{})
	require.Error(t, err)
}

func TestOuterWithoutSubjectOrDisposition(t *testing.T) {
	msg := strings.Replace(original, "Subject:", "X-Was:", 1)
	m, err := encrypt.Outer(parcel(t, msg, "anna@example.org"),
		encrypt.Content{Type: "multipart/encrypted; boundary=x", Encoding: "7bit", Body: securemail.Bytes([]byte("--x--\r\n"))})
	require.NoError(t, err)
	require.Empty(t, m.Header("Subject"))
	require.Empty(t, m.Header("Content-Disposition"))
	require.Equal(t, []string{"7bit"}, m.Header("Content-Transfer-Encoding"))
}

func TestPayloadWrapsASinglePart(t *testing.T) {
	s, err := encrypt.Payload(parcel(t, original, "anna@example.org"))
	require.NoError(t, err)
	got := read(t, s)
	require.Equal(t, got, read(t, s), "the same bytes at each Open")
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	for _, line := range []string{
		"Subject: =?utf-8?q?Befund_M=C3=BCller?=\r\n continued\r\n",
		"Comments: secret comment\r\n", "Keywords: oncology\r\n", "Sender: desk@clinic.example\r\n",
		"\r\nHP-Outer: Subject: [...]\r\n",
		"\r\nHP-Outer: To: Anna <Anna@Example.org>, \"B, C\"\r\n <ben@example.net>\r\n",
		"\r\nHP-Outer: Message-ID: <1@clinic.example>\r\n",
		"hp=\"cipher\"; protected-headers=\"v1\"",
		"Content-Type: multipart/mixed; boundary=\"=_wrap_",
	} {
		require.Contains(t, head, line)
	}
	for _, gone := range []string{"Bcc", "hidden", "Received", "X-Patient", "List-", "DKIM", "HP-Outer: Comments", "HP-Outer: Keywords"} {
		require.NotContains(t, got, gone)
	}
	require.Contains(t, body, "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nLiebe Anna")
}

func TestPayloadRoundTrip(t *testing.T) {
	multipart := func(ct string) string {
		m := strings.Replace(original, "text/plain; charset=utf-8", ct, 1)
		head, _, _ := strings.Cut(m, "\r\n\r\n")
		return head + "\r\n\r\npre\r\n--b1\r\n\r\nLiebe Anna\r\n--b1--\r\npost"
	}
	long := "References: <" + strings.Repeat("r", 980) + ">"
	longest := "References: <" + strings.Repeat("r", 998-len("References: <>")) + ">"
	longType := "multipart/mixed; boundary=b1; x="
	longType += strings.Repeat("y", 998-len("Content-Type: ")-len(longType))
	for name, msg := range map[string]string{
		"text":            original,
		"no content type": strings.Replace(strings.Replace(original, "Content-Type", "X-Was", 1), "Content-Transfer-Encoding", "X-Was", 1),
		"no final CRLF":   strings.TrimSuffix(original, "\r\n"),
		"empty body":      original[:strings.Index(original, "Liebe")],
		"multipart":       multipart("multipart/alternative;\r\n boundary=b1"),
		"trailing ;":      multipart("multipart/alternative; boundary=b1;"),
		"signed":          multipart("multipart/signed; boundary=b1; protocol=\"application/pgp-signature\""),
		"encrypted":       multipart("multipart/encrypted; boundary=b1"),
		"marked":          multipart("multipart/mixed; boundary=b1; protected-headers=v1"),
		"no boundary":     multipart("multipart/mixed"),
		"broken type":     multipart("multipart/mixed; boundary=b1; ;=;"),
		"ours":            multipart("multipart/mixed; boundary=\"=_wrap_X\"; hp=\"cipher\""),
		"long references": strings.Replace(original, "References: <00@clinic.example>\r\n", long+"\r\n", 1),
		"longest line":    strings.Replace(original, "References: <00@clinic.example>\r\n", longest+"\r\n", 1),
		"longest, tight":  strings.Replace(original, "References: <00@clinic.example>\r\n", strings.Replace(longest, ": <", ":<r", 1)+"\r\n", 1),
		"longest type":    multipart(longType),
		"content twice":   strings.Replace(original, "MIME-Version: 1.0\r\n", "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			p := parcel(t, msg, "anna@example.org")
			s, err := encrypt.Payload(p)
			require.NoError(t, err)
			m, err := encrypt.Restore(s)
			require.NoError(t, err)
			require.Equal(t, read(t, p.Message.Body()), read(t, m.Body()))
			for _, f := range []string{"Subject", "From", "To", "Message-ID", "References", "Comments"} {
				require.Equal(t, p.Message.Header(f), m.Header(f), f)
			}
			if ct := p.Message.Header("Content-Type"); len(ct) > 0 && name != "trailing ;" {
				require.Equal(t, ct[:1], m.Header("Content-Type"))
			}
			require.Empty(t, m.Header("HP-Outer"))
			require.Empty(t, m.Header("Bcc"))
		})
	}
}

func TestRestoreRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"bare LF":      "A: b\n\nx",
		"no delimiter": "Content-Type: multipart/mixed; hp=cipher; boundary=\"=_wrap_A\"\r\n\r\nx\r\n--=_wrap_A--\r\n",
		"no close":     "Content-Type: multipart/mixed; hp=cipher; boundary=\"=_wrap_A\"\r\n\r\n--=_wrap_A\r\nx\r\n",
		"bad part":     "Content-Type: multipart/mixed; hp=cipher; boundary=\"=_wrap_A\"\r\n\r\n--=_wrap_A\r\nno colon\r\n\r\n\r\n--=_wrap_A--\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := encrypt.Restore(securemail.Bytes([]byte(s)))
			require.Error(t, err)
		})
	}
}

var errDead = errors.New("dead disk")

type deadSource struct{}

func (deadSource) Open() (io.ReadCloser, error) { return nil, errDead }
func (deadSource) Size() int64                  { return 3 }

func TestTLSOnlyLeavesTheMessageAsItIs(t *testing.T) {
	var e encrypt.TLSOnly
	require.Equal(t, securemail.MethodTLS, e.Method())
	j := &securemail.Job{Parcel: parcel(t, original, "anna@example.org")}
	s, err := e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	require.Same(t, j.Message, s.Message)
	require.Equal(t, securemail.Protection{Algorithm: "none"}, s.Protection)
	require.NoError(t, e.Undo(t.Context(), "x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Encrypt(ctx, j)
	require.ErrorIs(t, err, context.Canceled)
}

func TestOuterPassesTheSourcesError(t *testing.T) {
	c := sealed()
	c.Body = deadSource{}
	_, err := encrypt.Outer(parcel(t, original, "anna@example.org"), c)
	require.ErrorIs(t, err, errDead)
}

func FuzzRestore(f *testing.F) {
	p := parcel(f, original, "anna@example.org")
	s, err := encrypt.Payload(p)
	require.NoError(f, err)
	f.Add([]byte(read(f, s)))
	f.Add([]byte("Content-Type: multipart/mixed;\r\n boundary=a;\r\n hp=\"cipher\"; protected-headers=\"v1\"\r\nHP-Outer: x\r\n\r\n--a--"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		m, err := encrypt.Restore(securemail.Bytes(b))
		require.Equal(t, in, b)
		if err != nil {
			return
		}
		require.Empty(t, m.Header("HP-Outer"))
		read(t, m)
	})
}
