//go:build interop

package interop_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// These tests say raw octets to the peers, past the library. They hold what is known of each peer's behaviour where one
// message follows another without waiting, so that a version that behaves otherwise is noticed.

// hazard is two messages in one flight: the first is for nobody, since its only recipient is refused.
type hazard struct {
	name string
	// between stands in front of the second message.
	between string
	// codes are the replies to MAIL, RCPT, BDAT, between, MAIL, RCPT, BDAT, QUIT.
	codes []int
	// sender is whose message the second one becomes.
	sender string
}

// flight puts both in octets. The first message's lines are commands that a peer would answer if it read them.
func (h hazard) flight(second mail) string {
	return "MAIL FROM:<first@sender.test>\r\nRCPT TO:<refused@named.test>\r\n" + bdat([]byte("NOOP\r\nNOOP\r\nNOOP\r\n")) +
		h.between + "MAIL FROM:<second@sender.test>\r\nRCPT TO:<" + second.to + ">\r\n" + bdat(second.bytes)
}

func (h hazard) run(t *testing.T, p peer) {
	t.Run(h.name, func(t *testing.T) {
		w := newWire(t, "127.0.0.1:25")
		require.Contains(t, w.offers, "PIPELINING")
		require.Contains(t, w.offers, "CHUNKING")
		m := newMail("anna@"+named, "the second\r\n")
		require.Equal(t, h.codes, w.flight(t, h.flight(m)))
		require.Equal(t, h.sender, returnPath(t, p.stored(t, m)))
	})
}

// TestPostfixHazard: a refused chunk is read and thrown away, and the transaction is over.
func TestPostfixHazard(t *testing.T) {
	p := thePeer(t)
	hazard{
		"without RSET", "", []int{250, 554, 554, 250, 250, 250, 221}, "second@sender.test",
	}.run(t, p)
	hazard{
		"with RSET", "RSET\r\n", []int{250, 554, 554, 250, 250, 250, 250, 221}, "second@sender.test",
	}.run(t, p)
}

// TestEximHazard: a refused chunk is read and thrown away, but the transaction goes on. The second MAIL is refused, and
// the second message leaves in the first one's name, unless RSET stands between them.
func TestEximHazard(t *testing.T) {
	p := thePeer(t)
	hazard{
		"without RSET", "", []int{250, 550, 503, 503, 250, 250, 221}, "first@sender.test",
	}.run(t, p)
	hazard{
		"with RSET", "RSET\r\n", []int{250, 550, 503, 250, 250, 250, 250, 221}, "second@sender.test",
	}.run(t, p)
}

// TestOpenSMTPDHazard: it offers neither PIPELINING nor CHUNKING, and ends a session that does the one and refuses the
// other.
func TestOpenSMTPDHazard(t *testing.T) {
	p := thePeer(t)
	w := newWire(t, "127.0.0.1:25")
	require.NotContains(t, w.offers, "PIPELINING")
	require.NotContains(t, w.offers, "CHUNKING")
	m := newMail("anna@"+named, "the second\r\n")
	codes := w.flight(t, "MAIL FROM:<first@sender.test>\r\nRCPT TO:<"+m.to+">\r\n")
	require.Equal(t, []int{500}, codes)
	w = newWire(t, "127.0.0.1:25")
	require.Equal(t, []int{500}, w.flight(t, bdat(m.bytes)))
	p.missing(t, newTransport(t), m)
}

// TestDataBehindDot sends the next envelope in the flight that ends a message (RFC 2920 section 3.1: the data of a
// message may begin a group).
func TestDataBehindDot(t *testing.T) {
	p := thePeer(t)
	if p.name == "opensmtpd" {
		require.NotContains(t, newWire(t, "127.0.0.1:25").offers, "PIPELINING")
		return // nothing may be sent behind the dot
	}
	w := newWire(t, "127.0.0.1:25")
	mails := []mail{newMail("anna@"+named, "one\r\n"), newMail("berta@"+named, "two\r\n"), newMail("carla@"+named, "three\r\n")}
	envelope := func(m mail) string {
		return "RSET\r\nMAIL FROM:<" + m.to + ">\r\nRCPT TO:<" + m.to + ">\r\nDATA\r\n"
	}
	codes := func(want ...int) {
		t.Helper()
		for _, c := range want {
			got, text, err := w.reply()
			require.NoError(t, err)
			require.Equal(t, c, got, text)
		}
	}
	w.say(t, envelope(mails[0]))
	codes(250, 250, 250, 354)
	for i := range mails[:2] {
		w.say(t, string(mails[i].bytes)+".\r\n"+envelope(mails[i+1]))
		codes(250, 250, 250, 250, 354)
	}
	w.say(t, string(mails[2].bytes)+".\r\n")
	codes(250)
	b := p.settled(t, mails...)
	for _, m := range mails {
		require.Equal(t, m.to, returnPath(t, b.fields(t, m)))
	}
}

// TestDataRefused has the only recipient of a group refused: the peer must not wait for a message then.
func TestDataRefused(t *testing.T) {
	p := thePeer(t)
	if p.name == "opensmtpd" {
		require.NotContains(t, newWire(t, "127.0.0.1:25").offers, "PIPELINING")
		return // there are no groups
	}
	codes := newWire(t, "127.0.0.1:25").flight(t, "MAIL FROM:<first@sender.test>\r\nRCPT TO:<refused@named.test>\r\nDATA\r\n")
	want := map[string][]int{"postfix": {250, 554, 554, 221}, "exim": {250, 550, 503, 221}}
	require.Equal(t, want[p.name], codes)
}

// store is a go-smtp server that keeps what it takes, and refuses the local part "refused".
type store struct {
	mu   sync.Mutex // guards what follows
	kept []kept
}

type kept struct{ from, to, text string }

func (s *store) mails() []kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]kept(nil), s.kept...)
}

// NewSession implements gosmtp.Backend.
func (s *store) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return &visit{store: s}, nil }

type visit struct {
	store    *store
	from, to string
}

func (v *visit) Reset()        { v.from, v.to = "", "" }
func (v *visit) Logout() error { return nil }

func (v *visit) Mail(from string, _ *gosmtp.MailOptions) error {
	v.from = from
	return nil
}

func (v *visit) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if strings.HasPrefix(to, "refused@") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	v.to = to
	return nil
}

func (v *visit) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	v.store.kept = append(v.store.kept, kept{v.from, v.to, string(b)})
	return nil
}

// goSMTP starts the server at addr.
func goSMTP(t *testing.T, addr string) *store {
	t.Helper()
	s := &store{}
	srv := gosmtp.NewServer(s)
	srv.Domain, srv.EnableSMTPUTF8 = "mx.gosmtp.test", true
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		wg.Wait()
	})
	return s
}

// TestGoSMTPHazard: go-smtp before 0.25.1 read a refused chunk as commands, so that whoever streamed a message to it let
// the message's author speak in the session. Now the chunk is thrown away, and the second message keeps its sender.
func TestGoSMTPHazard(t *testing.T) {
	s := goSMTP(t, "127.0.0.5:25")
	second := newMail("anna@"+named, "the second\r\n")
	for between, want := range map[string][]int{
		"":         {250, 550, 502, 250, 250, 250, 221},
		"RSET\r\n": {250, 550, 502, 250, 250, 250, 250, 221},
	} {
		w := newWire(t, "127.0.0.5:25")
		require.Contains(t, w.offers, "PIPELINING")
		require.Contains(t, w.offers, "CHUNKING")
		require.Equal(t, want, w.flight(t, hazard{between: between}.flight(second)))
	}
	one := kept{"second@sender.test", second.to, string(second.bytes)}
	require.Equal(t, []kept{one, one}, s.mails())
}
