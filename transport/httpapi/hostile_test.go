package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/httpapi"
)

// headOnly answers when it has the header, and takes what comes without ever looking at it.
func headOnly(answer string, said chan struct{}, seen *atomic.Int64) func(c net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(c, answer)
		close(said)
		n, _ := io.Copy(io.Discard, br)
		seen.Add(n)
	}
}

// A final answer before the last octet is no acceptance of the message, whatever it says, and no reason for an intent.
func TestAnswerBeforeTheLastOctet(t *testing.T) {
	for answer, want := range map[string]securemail.Fate{
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                               securemail.FateRetry,
		"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n":                             securemail.FateRetry,
		"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n":                               securemail.FatePermanent,
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Yes\r\nContent-Length: 0\r\n\r\n": securemail.FateRetry,
		"nonsense\r\n\r\n": securemail.FateRetry,
	} {
		var seen atomic.Int64
		said := make(chan struct{})
		tr := raw(t, httpapi.Options{}, headOnly(answer, said, &seen))
		s := shipment(t, "x\r\n")
		s.Message = slowMessage(t, said) // the answer is there before the message's end
		intends := 0
		s.OnIntend = func(context.Context) error { intends++; return nil }
		_, err := tr.Deliver(t.Context(), s)
		require.Equal(t, want, deliveryError(t, err).Fate, answer)
		require.Zero(t, intends, answer)
		require.Less(t, seen.Load(), s.Message.Size())
	}
}

// Interim answers are no answers.
func TestInterimAnswers(t *testing.T) {
	said := make(chan struct{})
	tr := raw(t, httpapi.Options{}, func(c net.Conn) {
		br := bufio.NewReader(c)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
		close(said)
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(c, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	s := shipment(t, "x\r\n")
	s.Message = slowMessage(t, said)
	_, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
}

// slow is a Source whose last octets come when more is closed, if it is opened again.
type slow struct {
	more  chan struct{}
	opens *atomic.Int64
}

// slowText is longer than what the transport holds back.
var slowText = "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 2000)

func (s slow) Size() int64 { return int64(len(slowText)) }

func (s slow) Open() (io.ReadCloser, error) {
	if s.opens.Add(1) == 1 {
		return io.NopCloser(strings.NewReader(slowText)), nil
	}
	const early = 100 << 10
	return io.NopCloser(io.MultiReader(strings.NewReader(slowText[:early]), late(s.more), strings.NewReader(slowText[early:]))), nil
}

type late <-chan struct{}

func (l late) Read([]byte) (int, error) { <-l; return 0, io.EOF }

func slowMessage(t *testing.T, more chan struct{}) *securemail.Message {
	t.Helper()
	m, err := securemail.NewMessage(slow{more, new(atomic.Int64)})
	require.NoError(t, err)
	return m
}

// An endpoint that takes an octet now and then has an end.
func TestTotalTime(t *testing.T) {
	tr := raw(t, httpapi.Options{Total: 1500 * time.Millisecond}, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		<-t.Context().Done()
	})
	_, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, securemail.FateUncertain, deliveryError(t, err).Fate)
}

// After Close nothing stays open.
func TestCloseKeepsNothing(t *testing.T) {
	gone := make(chan struct{})
	tr := raw(t, httpapi.Options{}, func(c net.Conn) {
		br := bufio.NewReader(c)
		if req, err := http.ReadRequest(br); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_, _ = br.ReadByte()
		}
		close(gone)
	})
	s := shipment(t, "hello\r\n")
	s.OnIntend = func(context.Context) error { return tr.Close() }
	_, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is still open")
	}
}

// What the transport writes itself is no place for what others choose.
func TestOwnHeadersAreNoPlaces(t *testing.T) {
	for _, name := range []string{"Host", "content-length", "Transfer-Encoding", "Content-Type", "Connection"} {
		_, err := httpapi.New("https://x.test", httpapi.Mapping{To: httpapi.Place{Header: name}}, nil)
		require.Error(t, err, name)
		_, err = httpapi.New("https://x.test", httpapi.Mapping{}, &httpapi.Options{
			Credentials: httpapi.Credentials{Header: name, Value: securemail.NewSecret("x")},
		})
		require.Error(t, err, name)
	}
}

// Loopback HTTP goes to loopback, whatever a resolver makes of the name.
func TestLoopbackHTTPStaysOnLoopback(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	tr, err := httpapi.New("http://localhost", httpapi.Mapping{}, &httpapi.Options{
		InsecureLoopbackHTTP: true, Credentials: httpapi.Credentials{Bearer: securemail.NewSecret("token")},
		Dial: func(context.Context, string, string) (net.Conn, error) { return elsewhere{far}, nil },
	})
	require.NoError(t, err)
	s := shipment(t, "hello\r\n")
	s.Channel = securemail.ChannelAny
	_, err = tr.Deliver(t.Context(), s)
	require.Equal(t, "connect", deliveryError(t, err).Stage)
	_, err = near.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80} }

var errLeaky = errors.New("open /srv/anna-canary.eml")

func TestSourceTextIsKeptOut(t *testing.T) {
	tr := raw(t, httpapi.Options{}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	s := shipment(t, "hello\r\n")
	src := &brokenSource{Source: securemail.Bytes([]byte("Subject: x\r\n\r\nhello\r\n")), broken: "open", err: errLeaky}
	m, err := securemail.NewMessage(src)
	require.NoError(t, err)
	s.Message = m
	_, err = tr.Deliver(t.Context(), s)
	require.ErrorIs(t, err, errLeaky)
	require.NotContains(t, err.Error(), "anna-canary")
}
