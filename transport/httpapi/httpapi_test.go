package httpapi_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/httpapi"
	"github.com/postseal/postseal/transport/transporttest"
)

func TestNewReportsEveryFault(t *testing.T) {
	_, err := httpapi.New("ftp://user:secret@example.org/", httpapi.Mapping{Form: httpapi.FormJSON, Template: "{"}, &httpapi.Options{
		Operator:    &securemail.Operator{},
		Credentials: httpapi.Credentials{User: "u", Header: "X-Key"},
	})
	require.ErrorContains(t, err, "endpoint is no https URL")
	require.ErrorContains(t, err, "template is no JSON")
	require.ErrorContains(t, err, "operator without a name or an agreement")
	require.ErrorContains(t, err, "more than one kind")
	require.NotContains(t, err.Error(), "secret")
}

func TestNewArguments(t *testing.T) {
	const endpoint = "https://api.example/send"
	for name, c := range map[string]struct {
		endpoint string
		mapping  httpapi.Mapping
		options  *httpapi.Options
		fault    string
	}{
		"zero mapping":    {endpoint, httpapi.Mapping{}, nil, ""},
		"http":            {"http://api.example/", httpapi.Mapping{}, nil, "not https"},
		"http far away":   {"http://api.example/", httpapi.Mapping{}, &httpapi.Options{InsecureLoopbackHTTP: true}, "not https"},
		"http loopback":   {"http://127.0.0.1/", httpapi.Mapping{}, &httpapi.Options{InsecureLoopbackHTTP: true}, ""},
		"http localhost":  {"http://localhost/", httpapi.Mapping{}, &httpapi.Options{InsecureLoopbackHTTP: true}, ""},
		"no host":         {"https:///x", httpapi.Mapping{}, nil, "no https URL"},
		"fragment":        {endpoint + "#x", httpapi.Mapping{}, nil, "no https URL"},
		"bad url":         {"https://%zz", httpapi.Mapping{}, nil, "no https URL"},
		"bad place":       {endpoint, httpapi.Mapping{To: httpapi.Place{Header: "X To"}}, nil, "no field name"},
		"field without":   {endpoint, httpapi.Mapping{To: httpapi.Place{Field: "to"}}, nil, "needs FormMultipart"},
		"fields without":  {endpoint, httpapi.Mapping{Fields: map[string]string{"a": "b"}}, nil, "need FormMultipart"},
		"own header":      {endpoint, httpapi.Mapping{Header: map[string]string{"content-length": "1"}}, nil, "transport's own"},
		"broken header":   {endpoint, httpapi.Mapping{Header: map[string]string{"X-A": "a\r\nb"}}, nil, "malformed"},
		"pointer":         {endpoint, httpapi.Mapping{IDPointer: "id"}, nil, "RFC 6901"},
		"form":            {endpoint, httpapi.Mapping{Form: 9}, nil, "unknown form"},
		"no message":      {endpoint, httpapi.Mapping{Form: httpapi.FormJSON, Template: `{}`}, nil, "message once"},
		"two messages":    {endpoint, httpapi.Mapping{Form: httpapi.FormJSON, Template: `["{{message}}","{{message:url}}"]`}, nil, "message once"},
		"part of string":  {endpoint, httpapi.Mapping{Form: httpapi.FormJSON, Template: `["{{message}}","x {{to}}"]`}, nil, "whole string"},
		"credential line": {endpoint, httpapi.Mapping{}, &httpapi.Options{Credentials: httpapi.Credentials{Bearer: securemail.NewSecret("a\nb")}}, "as a header"},
		"credential name": {endpoint, httpapi.Mapping{}, &httpapi.Options{Credentials: httpapi.Credentials{Header: "X Y"}}, "as a header"},
	} {
		t.Run(name, func(t *testing.T) {
			tr, err := httpapi.New(c.endpoint, c.mapping, c.options)
			if c.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.fault)
			require.Nil(t, tr)
		})
	}
}

// scripted is an HTTPS server whose handler a test gives, and a Transport to it.
func scripted(t *testing.T, m httpapi.Mapping, o httpapi.Options, h http.HandlerFunc) (*httpapi.Transport, *atomic.Int64) {
	t.Helper()
	pki, err := transporttest.NewPKI("127.0.0.1")
	require.NoError(t, err)
	cfg, err := pki.Server(transporttest.Accept)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conns := new(atomic.Int64)
	srv := &http.Server{Handler: h, ErrorLog: discardLog, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}}
	go srv.Serve(tls.NewListener(ln, cfg))
	t.Cleanup(func() { srv.Close() })
	o.RootCAs = pki.Roots()
	if o.Operator == nil {
		o.Operator = &securemail.Operator{Name: "Provider", Agreement: "BAA-1"}
	}
	tr, err := httpapi.New("https://"+ln.Addr().String()+"?key=k", m, &o)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr, conns
}

func shipment(t *testing.T, body string) *securemail.Shipment {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes([]byte("Subject: x\r\n\r\n" + body)))
	require.NoError(t, err)
	to, err := securemail.ParseAddress("anna@recipient.example")
	require.NoError(t, err)
	return &securemail.Shipment{
		Parcel: &securemail.Parcel{Slip: securemail.Slip{Recipient: securemail.Contact{Address: to}}, Message: m}, Key: "key-1",
	}
}

func deliveryError(t *testing.T, err error) *securemail.DeliveryError {
	t.Helper()
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	require.True(t, ok, "%v", err)
	return de
}

func TestStatusCodes(t *testing.T) {
	for status, want := range map[int]struct {
		stage string
		fate  securemail.Fate
	}{
		301: {"http", securemail.FateRetry}, 307: {"http", securemail.FateRetry},
		400: {"http", securemail.FatePermanent}, 413: {"http", securemail.FatePermanent},
		401: {"auth", securemail.FateRetry}, 403: {"auth", securemail.FateRetry},
		404: {"http", securemail.FateRetry}, 408: {"http", securemail.FateRetry}, 409: {"http", securemail.FateUncertain},
		429: {"http", securemail.FateRetry}, 500: {"http", securemail.FateUncertain}, 501: {"http", securemail.FatePermanent},
		502: {"http", securemail.FateUncertain}, 503: {"http", securemail.FateRetry}, 504: {"http", securemail.FateUncertain},
		206: {"http", securemail.FateUncertain}, 299: {"http", securemail.FatePermanent},
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			followed := new(atomic.Int64)
			o := httpapi.Options{Codes: map[int]httpapi.Verdict{299: httpapi.VerdictPermanent}}
			tr, _ := scripted(t, httpapi.Mapping{}, o, func(w http.ResponseWriter, r *http.Request) {
				followed.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/elsewhere")
				w.Header().Set("Retry-After", "30")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "no \xff"+strings.Repeat("x", 5000))
			})
			_, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
			de := deliveryError(t, err)
			require.Equal(t, want.stage, de.Stage)
			require.Equal(t, want.fate, de.Fate)
			require.Equal(t, status, de.Code)
			require.LessOrEqual(t, len(de.Remote), 1100)
			require.NotNil(t, de.Wire.TLS)
			require.EqualValues(t, 1, followed.Load())
			if status == 429 {
				require.Equal(t, 30*time.Second, de.RetryAfter)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	m := httpapi.Mapping{
		To: httpapi.Place{Query: "rcpt"}, From: httpapi.Place{Header: "X-From"}, Key: httpapi.Place{Header: "Idempotency-Key"},
		Header: map[string]string{"X-Tag": "a"}, IDHeader: "X-Id",
	}
	for name, c := range map[string]struct {
		creds httpapi.Credentials
		want  [2]string
	}{
		"bearer": {httpapi.Credentials{Bearer: securemail.NewSecret("t")}, [2]string{"Authorization", "Bearer t"}},
		"basic":  {httpapi.Credentials{User: "u", Password: securemail.NewSecret("p")}, [2]string{"Authorization", "Basic dTpw"}},
		"header": {httpapi.Credentials{Header: "X-Api-Key", Value: securemail.NewSecret("v")}, [2]string{"X-Api-Key", "v"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got *http.Request
			tr, _ := scripted(t, m, httpapi.Options{Credentials: c.creds}, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				got = r
				w.WriteHeader(http.StatusEarlyHints) // an interim answer is skipped
				w.Header().Set("X-Id", "id-7")
			})
			receipt, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
			require.NoError(t, err)
			require.Equal(t, "id-7", receipt.RemoteID)
			require.Equal(t, c.want[1], got.Header.Get(c.want[0]))
			require.Equal(t, url.Values{"key": {"k"}, "rcpt": {"anna@recipient.example"}}, got.URL.Query())
			require.Equal(t, "key-1", got.Header.Get("Idempotency-Key"))
			require.Equal(t, "a", got.Header.Get("X-Tag"))
			require.Equal(t, "message/rfc822", got.Header.Get("Content-Type"))
			require.NotContains(t, got.Header, "X-From", "a null sender is left out")
		})
	}
}

func TestJSONEscapesAndURLAlphabet(t *testing.T) {
	var body string
	m := httpapi.Mapping{Form: httpapi.FormJSON, Template: `{"k":"{{key}}","f":"{{from}}","raw":"{{message:url}}"}`}
	tr, _ := scripted(t, m, httpapi.Options{}, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
	})
	s := shipment(t, "\xfb\xff\xbf\r\n")
	s.Key = `a"b`
	_, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, `{"k":"a\"b","f":"","raw":"U3ViamVjdDogeA0KDQr7_78NCg=="}`, body)
}

// TestIDWithAddressIsDropped: an id is recorded in evidence and must hold no address.
func TestIDWithAddressIsDropped(t *testing.T) {
	for id, want := range map[string]string{"<1@api.example>": "<1@api.example>", "q-Anna@recipient.example": "", "a b": "", "": ""} {
		tr, _ := scripted(t, httpapi.Mapping{IDHeader: "X-Id"}, httpapi.Options{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Id", id)
		})
		receipt, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
		require.NoError(t, err)
		require.Equal(t, want, receipt.RemoteID)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	ok := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	for idle, want := range map[int]int64{0: 1, -1: 4} {
		tr, conns := scripted(t, httpapi.Mapping{}, httpapi.Options{Idle: idle}, ok)
		_, err := tr.Probe(t.Context(), "", "")
		require.NoError(t, err)
		for range 3 {
			_, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
			require.NoError(t, err)
		}
		require.Equal(t, want, conns.Load())
	}
}

// TestAgreementEndsWhileConnected: the road is judged at each delivery, not once a connection.
func TestAgreementEndsWhileConnected(t *testing.T) {
	var offset atomic.Int64
	until := time.Now().Add(time.Hour)
	o := httpapi.Options{
		Operator: &securemail.Operator{Name: "P", Agreement: "BAA-1", Until: until},
		Now:      func() time.Time { return time.Now().Add(time.Duration(offset.Load())) },
	}
	tr, _ := scripted(t, httpapi.Mapping{}, o, func(http.ResponseWriter, *http.Request) {})
	_, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
	require.NoError(t, err)
	offset.Store(int64(2 * time.Hour))
	_, err = tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
	require.ErrorIs(t, err, securemail.ErrChannel)
	require.ErrorContains(t, err, "httpapi.agreement")
	s := shipment(t, "hello\r\n")
	s.Channel = securemail.ChannelAny
	receipt, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, securemail.HopRelay, receipt.Hop)
	require.Nil(t, receipt.Operator)
}

// TestUses: an agreement covers the uses that it names (45 CFR 164.504(e)(2)(i)).
func TestUses(t *testing.T) {
	op := &securemail.Operator{Name: "P", Agreement: "BAA-1", Uses: []string{string(securemail.PurposeTreatment)}}
	tr, conns := scripted(t, httpapi.Mapping{}, httpapi.Options{Operator: op}, func(http.ResponseWriter, *http.Request) {})
	op.Uses[0] = string(securemail.PurposeMarketing) // the caller's own
	s := shipment(t, "hello\r\n")
	for _, s.Purpose = range []securemail.Purpose{securemail.PurposeMarketing, securemail.PurposePayment, ""} {
		_, err := tr.Deliver(t.Context(), s)
		require.ErrorIs(t, err, securemail.ErrChannel)
		require.ErrorContains(t, err, "httpapi.use")
	}
	require.Zero(t, conns.Load())
	s.Purpose = securemail.PurposeTreatment
	receipt, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, securemail.HopAsserted, receipt.Hop)
	route, err := tr.Probe(t.Context(), "", "")
	require.NoError(t, err)
	require.True(t, route.Meets(securemail.ChannelVerified))
	s.Purpose, s.Channel = securemail.PurposeMarketing, securemail.ChannelAny
	receipt, err = tr.Deliver(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, securemail.HopRelay, receipt.Hop)
}

func TestRequireTLSIsRefused(t *testing.T) {
	tr, conns := scripted(t, httpapi.Mapping{}, httpapi.Options{}, func(http.ResponseWriter, *http.Request) {})
	s := shipment(t, "hello\r\n")
	s.RequireTLS = true
	_, err := tr.Deliver(t.Context(), s)
	require.ErrorIs(t, err, securemail.ErrChannel)
	require.Zero(t, conns.Load())
}

// TestEarlyRefusal: an endpoint that answers and closes before it read a large message is heard.
func TestEarlyRefusal(t *testing.T) {
	tr, _ := scripted(t, httpapi.Mapping{}, httpapi.Options{Timeout: 3 * time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	_, err := tr.Deliver(t.Context(), shipment(t, strings.Repeat(strings.Repeat("x", 70)+"\r\n", 1000)))
	require.Equal(t, 413, deliveryError(t, err).Code)
}

// raw is a TLS server that handles each connection by hand.
func raw(t *testing.T, o httpapi.Options, serve func(c net.Conn)) *httpapi.Transport {
	t.Helper()
	pki, err := transporttest.NewPKI("127.0.0.1")
	require.NoError(t, err)
	cfg, err := pki.Server(transporttest.Accept)
	require.NoError(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	o.RootCAs = pki.Roots()
	o.Operator = &securemail.Operator{Name: "Provider", Agreement: "BAA-1"}
	tr, err := httpapi.New("https://"+ln.Addr().String(), httpapi.Mapping{}, &o)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close() })
	return tr
}

// TestAnswers are answers that no HTTP library would write.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		say  string
		fate securemail.Fate
		ok   bool
	}{
		"success cut short":       {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", 0, true},
		"nothing":                 {"", securemail.FateUncertain, false},
		"half a header":           {"HTTP/1.1 200 OK\r\nX-A: ", securemail.FateUncertain, false},
		"switching protocols":     {"HTTP/1.1 101 X\r\n\r\n", securemail.FateUncertain, false},
		"status of no class":      {"HTTP/1.1 999 X\r\n\r\n", securemail.FateUncertain, false},
		"status 000":              {"HTTP/1.1 000 X\r\n\r\n", securemail.FateUncertain, false},
		"interim without end":     {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 4000), securemail.FateUncertain, false},
		"header without end":      {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: 1\r\n", 20000), securemail.FateUncertain, false},
		"line without end":        {"HTTP/1.1 200 " + strings.Repeat("x", 1<<20), securemail.FateUncertain, false},
		"two answers":             {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 X\r\n\r\n", 0, true},
		"HTTP/1.0":                {"HTTP/1.0 202 OK\r\n\r\nfine", 0, true},
		"conflicting length":      {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", securemail.FateUncertain, false},
		"refusal, then closed":    {"HTTP/1.1 422 X\r\nContent-Length: 9\r\n\r\nno", securemail.FatePermanent, false},
		"unreadable retry header": {"HTTP/1.1 503 X\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n", securemail.FateRetry, false},
	} {
		t.Run(name, func(t *testing.T) {
			tr := raw(t, httpapi.Options{Timeout: 5 * time.Second}, func(conn net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(conn, c.say)
			})
			receipt, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
			if c.ok {
				require.NoError(t, err)
				require.NotNil(t, receipt.TLS)
				return
			}
			de := deliveryError(t, err)
			require.Equal(t, c.fate, de.Fate)
			require.NotContains(t, err.Error(), "xxx")
		})
	}
}

// TestTimeoutAfterBody: silence is uncertain after Intend, whoever stops waiting.
func TestTimeoutAfterBody(t *testing.T) {
	tr := raw(t, httpapi.Options{Timeout: time.Second}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	_, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
	require.Equal(t, securemail.FateUncertain, deliveryError(t, err).Fate)
	require.ErrorContains(t, err, "wait for the answer")
}

// TestEndpointStopsReading: what can't be sent is retried, since the last octet never left.
func TestEndpointStopsReading(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	tr := raw(t, httpapi.Options{Timeout: 200 * time.Millisecond}, func(net.Conn) { <-done })
	s := shipment(t, strings.Repeat(strings.Repeat("x", 900)+"\r\n", 20_000))
	intended := false
	s.OnIntend = func(context.Context) error { intended = true; return nil }
	_, err := tr.Deliver(t.Context(), s)
	require.Equal(t, securemail.FateRetry, deliveryError(t, err).Fate)
	require.False(t, intended)
}

// TestDeadConnectionIsReplaced: the pool's connection dies unseen while a large message is sent; a fresh one takes over,
// since Intend was not reached.
func TestDeadConnectionIsReplaced(t *testing.T) {
	var n atomic.Int64
	tr := raw(t, httpapi.Options{}, func(c net.Conn) {
		first := n.Add(1) == 1
		br := bufio.NewReader(c)
		for i := 0; ; i++ {
			req, err := http.ReadRequest(br)
			if err != nil || first && i > 0 {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := shipment(t, strings.Repeat(strings.Repeat("x", 900)+"\r\n", 20_000))
	for range 2 {
		_, err := tr.Deliver(t.Context(), s)
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, n.Load())
}

// TestIntendIsBehindAllButOneOctet counts what the endpoint has when Intend is called.
func TestIntendIsBehindAllButOneOctet(t *testing.T) {
	var got atomic.Int64
	tr, _ := scripted(t, httpapi.Mapping{}, httpapi.Options{}, func(_ http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1)
		for {
			if _, err := r.Body.Read(b); err != nil {
				return
			}
			got.Add(1)
		}
	})
	s := shipment(t, "hello\r\n")
	s.OnIntend = func(context.Context) error {
		require.Eventually(t, func() bool { return got.Load() == s.Message.Size()-1 }, 5*time.Second, time.Millisecond)
		return nil
	}
	_, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
}

// TestFailingIntendOnReusedConnection: Intend's error is final, a connection from the pool is no reason to ask again.
func TestFailingIntendOnReusedConnection(t *testing.T) {
	tr, conns := scripted(t, httpapi.Mapping{}, httpapi.Options{}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})
	_, err := tr.Deliver(t.Context(), shipment(t, "hello\r\n"))
	require.NoError(t, err)
	lost := errors.New("lease lost")
	asked := 0
	s := shipment(t, "hello\r\n")
	s.OnIntend = func(context.Context) error { asked++; return lost }
	_, err = tr.Deliver(t.Context(), s)
	require.ErrorIs(t, err, lost)
	require.Equal(t, 1, asked)
	require.EqualValues(t, 1, conns.Load())
}

// TestContextEndsInIntend: a ctx that ends while the intent is recorded sends no last octet.
func TestContextEndsInIntend(t *testing.T) {
	tr, _ := scripted(t, httpapi.Mapping{}, httpapi.Options{}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})
	ctx, cancel := context.WithCancel(t.Context())
	s := shipment(t, "hello\r\n")
	s.OnIntend = func(context.Context) error { cancel(); return nil }
	_, err := tr.Deliver(ctx, s)
	require.Equal(t, securemail.FateRetry, deliveryError(t, err).Fate)
	require.ErrorIs(t, err, context.Canceled)
}

// brokenSource fails to open, or in the middle, after the message was checked.
type brokenSource struct {
	securemail.Source
	opens  int
	broken string
	err    error // nil: any
}

func (b *brokenSource) Open() (io.ReadCloser, error) {
	if b.opens++; b.opens == 1 {
		return b.Source.Open()
	}
	if b.broken == "open" {
		return nil, cmp.Or(b.err, errors.New("gone"))
	}
	return io.NopCloser(io.MultiReader(strings.NewReader("Subject: x\r\n\r\nhal"), failing{})), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk") }

func TestMessageCantBeRead(t *testing.T) {
	for _, broken := range []string{"open", "read"} {
		tr, _ := scripted(t, httpapi.Mapping{}, httpapi.Options{}, func(http.ResponseWriter, *http.Request) {})
		m, err := securemail.NewMessage(&brokenSource{Source: securemail.Bytes([]byte("Subject: x\r\n\r\nhalf\r\n")), broken: broken})
		require.NoError(t, err)
		s := shipment(t, "")
		s.Parcel = s.With(m)
		_, err = tr.Deliver(t.Context(), s)
		require.Equal(t, securemail.FateRetry, deliveryError(t, err).Fate)
		require.ErrorContains(t, err, "message can't be read")
	}
}

func TestLoopbackHTTP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ErrorLog: discardLog}
	go srv.Serve(ln)
	defer srv.Close()
	tr, err := httpapi.New("http://"+ln.Addr().String(), httpapi.Mapping{}, &httpapi.Options{
		InsecureLoopbackHTTP: true, Operator: &securemail.Operator{Name: "Provider", Agreement: "BAA-1"},
	})
	require.NoError(t, err)
	defer tr.Close()
	s := shipment(t, "hello\r\n")
	_, err = tr.Deliver(t.Context(), s)
	require.ErrorIs(t, err, securemail.ErrChannel)
	s.Channel = securemail.ChannelAny
	receipt, err := tr.Deliver(t.Context(), s)
	require.NoError(t, err)
	require.Nil(t, receipt.TLS)
	require.Empty(t, receipt.Proof)
}

func Example() {
	t, err := httpapi.New("https://api.provider.example/v3/messages", httpapi.Mapping{
		Form: httpapi.FormMultipart, Message: "message", To: httpapi.Place{Field: "to"},
		Key: httpapi.Place{Header: "Idempotency-Key"}, IDPointer: "/id",
	}, &httpapi.Options{
		Credentials: httpapi.Credentials{User: "api", Password: securemail.NewSecret("key")},
		Operator:    &securemail.Operator{Name: "Provider Inc.", Agreement: "BAA-2026-17"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer t.Close()
	fmt.Println("ready")
	// Output: ready
}
