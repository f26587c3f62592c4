package securemail

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@example.org", `"a b"@example.org`, "δ@παράδειγμα.example", "a@[::1]", "a@b@c", "\x00@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			require.Equal(t, Address{}, a)
			return
		}
		wire := a.Reveal()
		require.NotContains(t, wire, "\r")
		require.NotContains(t, wire, "\n")
		require.NotContains(t, wire, "\x00")
		require.LessOrEqual(t, len(a.local), maxLocal)
		again, err := ParseAddress(wire)
		require.NoError(t, err, "%q", wire)
		require.Equal(t, a, again)
	})
}

func FuzzMailbox(f *testing.F) {
	for _, s := range []string{"A <a@example.org>", `"A, B" <a@example.org>`, "=?utf-8?q?=0D=0A?= <a@example.org>", "a", "g: a@b;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := Mailbox(s)
		require.Equal(t, c.fault == nil, c.Address != Address{})
		d := anna()
		d.To = []Recipient{{Contact: c}}
		if len(d.validate(limits{})) > 0 {
			return
		}
		m, _ := mustCompose(t, &d)
		requireWire(t, m)
		require.Len(t, m.Header("To"), 1)
		require.Empty(t, m.Header("Bcc"))
	})
}

func FuzzNewMessage(f *testing.F) {
	for _, s := range []string{rawText, "A: 1", "A: 1\r\n\r\nx", "\r\n", " A: 1\r\n\r\n", "A: 1\n\n", "A:\r\n \r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := NewMessage(Bytes(b))
		if err != nil {
			require.Nil(t, m)
			return
		}
		all := wholeOf(t, m)
		require.True(t, bytes.HasPrefix(all, b))
		require.Equal(t, all, append(m.Head(), wholeOf(t, m.Body())...))
		var fields strings.Builder
		for field := range headFields(m.head) {
			fields.WriteString(field)
		}
		require.Equal(t, string(m.Head()), fields.String()+"\r\n")
		again, err := m.WithHead(m.Head())
		require.NoError(t, err)
		require.Equal(t, all, wholeOf(t, again))
		fuzzRaw(t, all)
	})
}

// fuzzRaw: what compose leaves of a foreign message has no Bcc and is else the same.
func fuzzRaw(t *testing.T, all []byte) {
	m, _, faults, err := compose(&Draft{Raw: Bytes(all), To: To("a@example.org")}, testContext())
	require.NoError(t, err)
	if len(faults) > 0 {
		return
	}
	require.Empty(t, m.Header("Bcc"))
	require.Empty(t, m.Header("Resent-Bcc"))
	require.NotEmpty(t, m.Header("Date"))
	require.NotEmpty(t, m.Header("Message-ID"))
	_, err = NewMessage(m)
	require.NoError(t, err)
}

func FuzzCompose(f *testing.F) {
	f.Add("subject", "text", "<p>html</p>", "name.pdf", []byte("content"))
	f.Add("Ünï", "日本\r\n.\r\n", "", "日本.txt", []byte{0, 255})
	f.Add("=?utf-8?q?x?=", strings.Repeat("x", 2000), "--", strings.Repeat("ü", 300), []byte("--=_\r\n"))
	f.Fuzz(func(t *testing.T, subject, text, html, name string, content []byte) {
		d := anna()
		d.Subject, d.Text, d.HTML = subject, text, html
		d.Bcc = To("Hidden <hidden@secret.example>")
		d.Attachments = []Attachment{{Name: name, Content: Bytes(content)}}
		if len(d.validate(limits{maxSize: 1 << 20})) > 0 {
			return
		}
		m, _, faults, err := compose(&d, testContext())
		require.NoError(t, err)
		if len(faults) > 0 {
			require.Equal(t, []Fault{{"Message", ruleSize}}, faults)
			return
		}
		requireWire(t, m)
		require.Empty(t, m.Header("Bcc"))
		requireSame(t, &d, m)
	})
}
