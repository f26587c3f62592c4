package smtppeer_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/smtppeer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o smtppeer.Options) *smtppeer.Peer {
	t.Helper()
	p, err := smtppeer.Start(o)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// wire is a bare client: it sends text and reads one reply.
type wire struct {
	t *testing.T
	net.Conn
	br *bufio.Reader
}

func dial(t *testing.T, p *smtppeer.Peer) *wire {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	t.Cleanup(func() { c.Close() })
	return &wire{t, c, bufio.NewReader(c)}
}

func (w *wire) say(s string) string {
	w.t.Helper()
	if s != "" {
		_, err := io.WriteString(w, s)
		require.NoError(w.t, err)
	}
	var all strings.Builder
	for {
		line, err := w.br.ReadString('\n')
		if err != nil {
			return all.String() + "<" + err.Error() + ">"
		}
		all.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		if len(line) < 4 || line[3] != '-' {
			return all.String()
		}
	}
}

func TestTakesMailOverSTARTTLS(t *testing.T) {
	ca := smtppeer.NewCA()
	p := start(t, smtppeer.Options{
		Hostname: "mx.test", TLS: ca.Config("mx.test"), Size: 1 << 20, Users: map[string]string{"u": "p"}, NeedAuth: true,
	})
	c, err := smtp.Dial(p.Addr())
	require.NoError(t, err)
	require.NoError(t, c.Hello("client.test"))
	ok, _ := c.Extension("AUTH")
	require.False(t, ok, "AUTH in the clear")
	require.Error(t, c.Mail("a@x.test"))
	require.NoError(t, c.StartTLS(&tls.Config{ServerName: "mx.test", RootCAs: ca.Pool()}))
	require.NoError(t, c.Auth(smtp.PlainAuth("", "u", "p", "127.0.0.1")))
	require.NoError(t, c.Mail("a@x.test"))
	require.NoError(t, c.Rcpt("b@y.test"))
	w, err := c.Data()
	require.NoError(t, err)
	_, err = io.WriteString(w, "Subject: s\r\n\r\n.dot\r\nend\r\n")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, c.Quit())

	ms := p.Messages()
	require.Len(t, ms, 1)
	m := ms[0]
	require.Equal(t, "Subject: s\r\n\r\n.dot\r\nend\r\n", string(m.Data))
	require.Equal(t, "a@x.test", m.From)
	require.Equal(t, []string{"b@y.test"}, m.Rcpts)
	require.Equal(t, "client.test", m.HELO)
	require.Equal(t, "u", m.User)
	require.NotNil(t, m.TLS)
	require.True(t, m.ESMTP && m.Complete && m.Taken && m.Replied)
	require.Contains(t, p.Transcript(), "STARTTLS")
	require.Equal(t, 1, p.Connections())
	p.Reset()
	require.Empty(t, p.Messages())
}

func TestAuth(t *testing.T) {
	p := start(t, smtppeer.Options{Users: map[string]string{"u": "p"}, AuthInClear: true})
	w := dial(t, p)
	w.say("")
	require.Contains(t, w.say("EHLO c\r\n"), "AUTH PLAIN LOGIN")
	require.Contains(t, w.say("AUTH PLAIN AHUAcA==\r\n"), "235")
	require.Contains(t, w.say("AUTH PLAIN\r\n"), "334")
	require.Contains(t, w.say("AHUAcQ==\r\n"), "535")
	require.Contains(t, w.say("AUTH LOGIN\r\n"), "334")
	require.Contains(t, w.say("dQ==\r\n"), "334")
	require.Contains(t, w.say("cA==\r\n"), "235")
	require.Contains(t, w.say("AUTH PLAIN !!!\r\n"), "535")
	require.Contains(t, w.say("AUTH X\r\n"), "504")
	p2 := start(t, smtppeer.Options{})
	w = dial(t, p2)
	w.say("")
	require.Contains(t, w.say("AUTH PLAIN AHUAcA==\r\n"), "503")
}

func TestOrderAndSyntax(t *testing.T) {
	p := start(t, smtppeer.Options{Size: 10})
	w := dial(t, p)
	w.say("")
	for _, c := range []struct{ cmd, want string }{
		{"MAIL FROM:<a@x>", "503"}, {"HELO c", "250"}, {"MAIL FROM:a", "501"}, {"MAIL TO:<a>", "501"},
		{"MAIL FROM:<a@x> SIZE=11", "552"}, {"RCPT TO:<b@y>", "503"}, {"DATA", "503"}, {"MAIL FROM:<a@x> SIZE=9", "250"},
		{"MAIL FROM:<a@x>", "503"}, {"DATA", "503"}, {"RCPT TO:", "501"}, {"RSET", "250"}, {"NOOP", "250"}, {"VRFY x", "500"},
		{"STARTTLS", "502"},
	} {
		require.Contains(t, w.say(c.cmd+"\r\n"), c.want, c.cmd)
	}
	require.Contains(t, w.say("MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"), "250")
	require.Contains(t, w.say(""), "250")
	require.Contains(t, w.say(""), "354")
	require.Contains(t, w.say("more than ten octets\r\n.\r\n"), "552")
	require.Contains(t, w.say("QUIT\r\n"), "221")
	require.Empty(t, p.Messages())
	require.Len(t, p.Attempts(), 1)
}

// Only CRLF "." CRLF ends a message; anything looser lets one message smuggle another.
func TestFinalDotIsStrict(t *testing.T) {
	p := start(t, smtppeer.Options{})
	w := dial(t, p)
	w.say("")
	w.say("EHLO c\r\n")
	w.say("MAIL FROM:<>\r\n")
	w.say("RCPT TO:<b@y>\r\n")
	w.say("DATA\r\n")
	require.Contains(t, w.say("a\n.\nb\r\n.\nc\n.\r\n..x\r\n.\r\n"), "250")
	require.Equal(t, "a\n.\nb\r\n\nc\n.\r\n.x\r\n", string(p.Messages()[0].Data))
}

func TestActions(t *testing.T) {
	full := "MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"
	drive := func(t *testing.T, o smtppeer.Options) (*smtppeer.Peer, string) {
		p := start(t, o)
		w := dial(t, p)
		all := w.say("")
		for _, s := range []string{"EHLO c\r\n", full, "", "", "hello\r\n.\r\n", "QUIT\r\n"} {
			if strings.Contains(all, "<") {
				break
			}
			all += w.say(s)
		}
		return p, all
	}
	t.Run("greeting refused", func(t *testing.T) {
		_, all := drive(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{
			smtppeer.StageGreeting: {Code: 554, Text: "no", Close: true},
		}})
		require.Equal(t, "554 no\n<EOF>", all)
	})
	t.Run("drop after body", func(t *testing.T) {
		p, all := drive(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageDot: smtppeer.Drop()}})
		require.True(t, strings.HasSuffix(all, "<EOF>"))
		require.Len(t, p.Messages(), 1)
		require.False(t, p.Messages()[0].Replied)
	})
	t.Run("drop mid body", func(t *testing.T) {
		p, _ := drive(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageBody: smtppeer.Drop()}})
		require.Empty(t, p.Messages())
		require.Equal(t, "hello\r\n", string(p.Attempts()[0].Data))
	})
	t.Run("refused at dot", func(t *testing.T) {
		p, all := drive(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageDot: smtppeer.Refuse(550, "5.7.1 no")}})
		require.Contains(t, all, "550 5.7.1 no")
		require.Empty(t, p.Messages())
	})
	t.Run("lines", func(t *testing.T) {
		_, all := drive(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageEHLO: {Code: 250, Text: "x", Lines: 500}}})
		require.Equal(t, 499, strings.Count(all, "250-x"))
	})
	t.Run("banner", func(t *testing.T) {
		p := start(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageGreeting: {Banner: 5 << 20, Close: true}}})
		w := dial(t, p)
		n, err := io.Copy(io.Discard, w.Conn)
		require.NoError(t, err)
		require.EqualValues(t, 5<<20, n)
	})
	t.Run("stall and close", func(t *testing.T) {
		p := start(t, smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageGreeting: smtppeer.Stall()}})
		dial(t, p)
		p.Close()
	})
	t.Run("delay, raw, rcpt, hook, lower case", func(t *testing.T) {
		p, all := drive(t, smtppeer.Options{
			LowerCase: true,
			Rcpt: func(a string) *smtppeer.Action {
				r := smtppeer.Refuse(450, "4.2.1 "+a)
				return &r
			},
			Hook: func(e smtppeer.Event) *smtppeer.Action {
				if e.Stage == smtppeer.StageMail && e.N == 1 && e.Conn == 1 && !e.TLS && e.Taken == 0 {
					return &smtppeer.Action{Delay: time.Millisecond, Raw: "250 raw\r\n", Code: 250}
				}
				return nil
			},
		})
		require.Contains(t, all, "250-pipelining")
		require.Contains(t, all, "250 raw")
		require.Contains(t, all, "450 4.2.1 b@y")
		require.Empty(t, p.Attempts())
	})
}

func TestInjectAndStrip(t *testing.T) {
	ca := smtppeer.NewCA()
	p := start(t, smtppeer.Options{TLS: ca.Config("mx.test"), InjectAfterStartTLS: "250 injected\r\n"})
	w := dial(t, p)
	w.say("")
	w.say("EHLO c\r\n")
	require.Contains(t, w.say("STARTTLS\r\n"), "220")
	require.Contains(t, w.say(""), "250 injected")
	p = start(t, smtppeer.Options{TLS: ca.Config("mx.test"), StripTLS: true})
	w = dial(t, p)
	w.say("")
	require.NotContains(t, w.say("EHLO c\r\n"), "STARTTLS")
}

func TestImplicitAndOldTLS(t *testing.T) {
	ca := smtppeer.NewCA()
	p := start(t, smtppeer.Options{
		TLS: smtppeer.TLS10(ca.Cert("mx.test", "127.0.0.1")), Implicit: true, ExtensionsTLS: []string{"X-SECRET"},
	})
	_, err := tls.Dial("tcp", p.Addr(), &tls.Config{ServerName: "mx.test", RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12})
	require.Error(t, err)
	c, err := tls.Dial("tcp", p.Addr(), &tls.Config{ServerName: "127.0.0.1", RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10})
	require.NoError(t, err)
	defer c.Close()
	require.EqualValues(t, tls.VersionTLS10, c.ConnectionState().Version)
	_, err = fmt.Fprint(c, "EHLO c\r\nQUIT\r\n")
	require.NoError(t, err)
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(b), "X-SECRET")
}

func TestServeOnAPipeAndDrop(t *testing.T) {
	p := smtppeer.New(smtppeer.Options{})
	require.Empty(t, p.Addr())
	require.Zero(t, p.Port())
	require.Equal(t, "mx.test", p.Hostname())
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); p.Serve(b) }()
	line, err := bufio.NewReader(a).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "220 mx.test")
	require.Equal(t, 1, p.Open())
	p.Drop()
	<-done
	a.Close()
	p.Close()
	p.Close()
	c, d := net.Pipe()
	defer c.Close()
	p.Serve(d) // closed: returns at once
}

func TestCertificates(t *testing.T) {
	ca := smtppeer.NewCA()
	check := func(c tls.Certificate, name string) error {
		_, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Pool()})
		return err
	}
	require.NoError(t, check(ca.Cert("a.test", "b.test"), "b.test"))
	require.ErrorContains(t, check(ca.Cert("a.test"), "b.test"), "not b.test")
	require.ErrorContains(t, check(ca.Expired("a.test"), "a.test"), "expired")
	require.ErrorContains(t, check(smtppeer.SelfSigned("a.test"), "a.test"), "unknown authority")
}

func TestStartRefusesABadAddress(t *testing.T) {
	_, err := smtppeer.Start(smtppeer.Options{Listen: "256.0.0.1:0"})
	require.Error(t, err)
}
