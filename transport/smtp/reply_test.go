package smtp_test

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/smtp"
)

func TestReply(t *testing.T) {
	cases := []struct {
		in             string
		code           int
		text, enh, err string
	}{
		{"250 ok\r\n", 250, "ok", "", ""},
		{"250\r\n", 250, "", "", ""},
		{"250 ok\n", 250, "ok", "", ""},
		{"250-a\r\n250-b\r\n250 c\r\n", 250, "a\nb\nc", "", ""},
		{"550 5.1.1 no\r\n", 550, "5.1.1 no", "5.1.1", ""},
		{"550-5.1.1 no\r\n550 5.1.1 never\r\n", 550, "5.1.1 no\n5.1.1 never", "5.1.1", ""},
		{"550 5.1.1\r\n", 550, "5.1.1", "5.1.1", ""},
		{"550 4.1.1 no\r\n", 550, "4.1.1 no", "", ""},
		{"550 5.1234.1 no\r\n", 550, "5.1234.1 no", "", ""},
		{"550 5..1 no\r\n", 550, "5..1 no", "", ""},
		{"550 5.1.a no\r\n", 550, "5.1.a no", "", ""},
		{"550 5,1.1 no\r\n", 550, "5,1.1 no", "", ""},
		{"250 \x00\x1b[31m\r\n", 250, "  [31m", "", ""},
		{"250 " + strings.Repeat("x", 4000) + "\r\n", 250, strings.Repeat("x", 512), "", ""},
		{"250" + strings.Repeat("x", 10) + "\r\n", 0, "", "", "syntax"},
		{"25\r\n", 0, "", "", "syntax"},
		{"150 x\r\n", 0, "", "", "syntax"},
		{"650 x\r\n", 0, "", "", "syntax"},
		{"\r\n", 0, "", "", "syntax"},
		{"25a x\r\n", 0, "", "", "syntax"},
		{"250-a\r\n251 b\r\n", 0, "", "", "code-changed"},
		{"250 " + strings.Repeat("x", 5000) + "\r\n", 0, "", "", "line-too-long"},
		{strings.Repeat("250-x\r\n", 128) + "250 x\r\n", 0, "", "", "too-many-lines"},
		{strings.Repeat("250-"+strings.Repeat("x", 3000)+"\r\n", 30) + "250 x\r\n", 0, "", "", "too-long"},
		{"250 ok", 0, "", "", "unexpected EOF"},
		{"", 0, "", "", "EOF"},
	}
	for _, c := range cases {
		r, err := smtp.ReadReply(strings.NewReader(c.in))
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.code, r.Code)
		require.Equal(t, c.text, r.Text)
		require.Equal(t, c.enh, r.Enhanced)
	}
}

func TestQueueID(t *testing.T) {
	for in, want := range map[string]string{
		"2.0.0 Ok: queued as 4B2C3D1F2A":                                     "4B2C3D1F2A",
		"OK id=1qXyZ1-0001aB-2C":                                             "1qXyZ1-0001aB-2C",
		"2.6.0 <x@y> [InternalId=123456789, Hostname=H] Queued mail":         "123456789",
		"2.0.0 OK  1700000000 x12-20020a05 - gsmtp":                          "x12-20020a05",
		"2.0.0 07797c2e Message accepted for delivery":                       "07797c2e",
		"2.0.0 anna@example.org Message accepted for delivery":               "",
		"2.0.0 Ok: queued as anna@example.org":                               "",
		"2.0.0 Ok: queued as " + strings.Repeat("a", 65):                     "",
		"accepted for anna@example.org":                                      "",
		"2.0.0 Ok: queued as ":                                               "",
		"2.0.0 (abc) Message accepted; queued as <20261124.1@mx.test> there": "",
	} {
		r, err := smtp.ReadReply(strings.NewReader("250 " + in + "\r\n"))
		require.NoError(t, err)
		require.Equal(t, want, r.ID, in)
	}
}

// Trap 11 among others: keywords compare without case.
func TestEHLO(t *testing.T) {
	x, err := smtp.ParseEHLO("250-STARTTLS is my name\r\n250-starttls\r\n250-Pipelining\r\n250-SIZE 1000\r\n250-8bitmime\r\n" +
		"250-SmtpUtf8\r\n250-AUTH plain LOGIN\r\n250-AUTH=CRAM-MD5\r\n250-X-OTHER y\r\n250 REQUIRETLS\r\n")
	require.NoError(t, err)
	require.Equal(t, smtp.Extensions{
		StartTLS: true, Pipelining: true, EightBit: true, UTF8: true, RequireTLS: true, HasSize: true, Size: 1000,
		Auth: []string{"PLAIN", "LOGIN", "CRAM-MD5"},
	}, x)
	x, err = smtp.ParseEHLO("250 STARTTLS\r\n") // a host of that name
	require.NoError(t, err)
	require.Zero(t, x)
	for in, want := range map[string]int64{"SIZE": 0, "SIZE 0": 0, "SIZE -1": 0, "SIZE 99999999999999999999": 0, "SIZE x": 0, "SIZE 7 ": 7} {
		x, err = smtp.ParseEHLO("250-h\r\n250 " + in + "\r\n")
		require.NoError(t, err)
		require.True(t, x.HasSize)
		require.Equal(t, want, x.Size, in)
	}
	x, err = smtp.ParseEHLO("250-h\r\n250 AUTH " + strings.Repeat("M ", 100) + strings.Repeat("x", 30) + "\r\n")
	require.NoError(t, err)
	require.Len(t, x.Auth, 32)
	x, err = smtp.ParseEHLO("250-h\r\n250-chunking\r\n250-DSN\r\n250 Limits MailMax=20 RCPTDOMAINMAX=3 RCPTMAX=1 X=2\r\n")
	require.NoError(t, err)
	require.Equal(t, smtp.Extensions{Chunking: true, DSN: true, MailMax: 20, DomainMax: 3}, x)
	// RFC 9422 section 3: what breaks the syntax is not there.
	for _, bad := range []string{"MAILMAX=0", "MAILMAX=", "MAILMAX", "MAILMAX=01", "MAILMAX=1234567", "MAILMAX=-1", "MAILMAX=1x", "MAILMAX =7"} {
		x, err = smtp.ParseEHLO("250-h\r\n250 LIMITS " + bad + "\r\n")
		require.NoError(t, err)
		require.Zero(t, x, bad)
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "550 5.1.1 x\n", "250 2.0.0 Ok: queued as A1\r\n", "", "\x00", "2501\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		src := strings.NewReader(in)
		r, err := smtp.ReadReply(src)
		if err != nil {
			return
		}
		if r.Code < 200 || r.Code > 599 || len(r.Text) > 512 || r.Lines < 1 || r.Lines > 128 || len(r.ID) > 64 || len(r.Enhanced) > 9 {
			t.Fatalf("out of bounds: %+v", r)
		}
		if strings.ContainsAny(r.ID, "@ \r\n") || strings.ContainsAny(r.Text, "\x00\r\x7f") {
			t.Fatalf("unsafe: %+v", r)
		}
		if rest, _ := io.ReadAll(src); len(rest) > 0 && len(in) <= 4096 {
			t.Fatal("read less than the buffer holds")
		}
	})
}

func FuzzEHLO(f *testing.F) {
	for _, s := range []string{"250-h\r\n250 STARTTLS\r\n", "250-h\r\n250-SIZE 1\r\n250 AUTH=PLAIN\r\n", "250-h\r\n250 AUTH a b\r\n", "250-h\r\n250 LIMITS MAILMAX=1 RCPTDOMAINMAX=9\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		x, err := smtp.ParseEHLO(in)
		if err == nil && !strings.Contains(in, "250-") && !strings.HasPrefix(in, "2") && x.StartTLS {
			t.Fatal("an extension out of nothing")
		}
		if x.Size < 0 || len(x.Auth) > 32 || x.MailMax < 0 || x.MailMax > 999999 || x.DomainMax < 0 || x.DomainMax > 999999 {
			t.Fatalf("out of bounds: %+v", x)
		}
		for _, m := range x.Auth {
			if len(m) > 64 || m != strings.ToUpper(m) {
				t.Fatalf("mechanism %q", m)
			}
		}
	})
}
