package smtp_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// store is a go-smtp backend: somebody else's reading of the same RFCs.
type store struct {
	mu    sync.Mutex
	mails []string
}

func (s *store) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return &session{store: s}, nil }

type session struct {
	*store
	user, from, to string
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Login} }

func (s *session) Auth(string) (sasl.Server, error) {
	return &loginServer{done: func(user, pass string) error {
		if user != "u" || pass != "secret" {
			return gosmtp.ErrAuthFailed
		}
		s.user = user
		return nil
	}}, nil
}

// loginServer asks in its own words.
type loginServer struct {
	user string
	step int
	done func(user, pass string) error
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	l.step++
	switch l.step {
	case 1:
		return []byte("User Name\x00"), false, nil
	case 2:
		l.user = string(response)
		return []byte("Pass phrase, please"), false, nil
	}
	return nil, true, l.done(l.user, string(response))
}

func (s *session) Mail(from string, o *gosmtp.MailOptions) error {
	if s.user == "" {
		return gosmtp.ErrAuthRequired
	}
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.to = to
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, s.from+" "+s.to+" "+string(b))
	return err
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func TestAgainstGoSMTP(t *testing.T) {
	backend := &store{}
	srv := gosmtp.NewServer(backend)
	srv.Domain, srv.EnableSMTPUTF8, srv.EnableREQUIRETLS = "relay.test", true, true
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{ca.Cert("127.0.0.1")}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	defer wg.Wait()
	defer srv.Close()
	tr, err := smtp.New(&smtp.Options{HELO: "client.test", RootCAs: ca.Pool(), Relay: &smtp.Relay{
		Addr: ln.Addr().String(), Operator: operator, User: "u", Password: securemail.NewSecret("secret"),
	}})
	require.NoError(t, err)
	defer tr.Close()

	long := hello + strings.Repeat("..dots\r\n.\r\n", 5000) + "\xc3\xbc\r\n"
	for _, text := range []string{hello, utf8Head, eightBit, long} {
		bad := shipment(t, verified, text)
		bad.Recipient.Address = address(t, "nobody@clinic.test")
		_, err := tr.Deliver(t.Context(), bad)
		d := wantDelivery(t, err)
		require.Equal(t, "5.1.1", d.Enhanced)
		s := shipment(t, verified, text)
		s.RequireTLS = true
		_, err = tr.Deliver(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, "bounce@sender.test "+canary+"@clinic.test "+text, backend.mails[len(backend.mails)-1])
	}
	require.Len(t, backend.mails, 4)
}
