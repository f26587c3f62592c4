package timestamp_test

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	tags "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/postseal/postseal/securemail/audit/timestamp"
)

func client(t testing.TB, url string, roots *x509.CertPool, o timestamp.Options) *timestamp.Client {
	o.InsecureLoopbackHTTP, o.Timeout = true, 30*time.Second
	c, err := timestamp.New(url, roots, &o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestStamp(t *testing.T) {
	f, s := newFar(t)
	for _, o := range []timestamp.Options{{}, {Policy: asn1.ObjectIdentifier{1, 2, 3, 4}}} {
		token, err := client(t, s.URL, f.roots, o).Stamp(t.Context(), digest)
		require.NoError(t, err)
		got, err := timestamp.Verify(token, digest, f.roots)
		require.NoError(t, err)
		require.Equal(t, stampedAt, got.Time)
		require.Equal(t, o.Policy != nil, !got.Policy.Equal(policy))
	}
	f.answer = func(w http.ResponseWriter, token []byte) { // granted with modifications
		w.Header().Set("Content-Type", "application/timestamp-reply; x=y")
		_, _ = w.Write(seq(seq(number(1), seq(wrap(tags.UTF8String, []byte("x")))), token))
	}
	_, err := client(t, s.URL, f.roots, timestamp.Options{}).Stamp(t.Context(), digest)
	require.NoError(t, err)
}

// TestStampRefuses: a token that is good in itself, but is not the answer to what was asked.
func TestStampRefuses(t *testing.T) {
	f, s := newFar(t)
	for name, c := range map[string]struct {
		change func(*spec)
		says   string
	}{
		"replayed":       {func(s *spec) { s.nonce = number(1) }, "another request"},
		"without nonce":  {func(s *spec) { s.nonce = nil }, "another request"},
		"another policy": {func(s *spec) { s.policy = policy }, "another policy"},
		"another digest": {func(s *spec) { s.imprint = make([]byte, 32) }, "another digest"},
		"damaged":        {func(s *spec) { s.damage = func(sig []byte) { sig[len(sig)-1] ^= 1 } }, "signature"},
	} {
		f.change = c.change
		token, err := client(t, s.URL, f.roots, timestamp.Options{Policy: asn1.ObjectIdentifier{1, 2, 3}}).Stamp(t.Context(), digest)
		require.Nil(t, token, name)
		require.ErrorIs(t, err, timestamp.ErrToken, name)
		require.ErrorContains(t, err, c.says, name)
	}
}

func TestHostileAnswers(t *testing.T) {
	f, s := newFar(t)
	reply := "application/timestamp-reply"
	bits := func(b ...byte) []byte { return wrap(tags.BIT_STRING, b) }
	for name, c := range map[string]struct {
		code      int
		kind      string
		body      []byte
		status    int // of RejectedError; -2: ErrToken
		temporary bool
		says      string
	}{
		"page":               {200, "text/html", []byte("canary"), -1, false, "HTTP status 200"},
		"overload":           {503, reply, []byte("canary"), -1, true, "HTTP status 503"},
		"too many":           {429, reply, nil, -1, true, "429"},
		"unauthorised":       {401, reply, nil, -1, false, "401"},
		"redirect":           {302, reply, nil, -1, false, "302"},
		"bad algorithm":      {200, reply, seq(seq(number(2), seq(wrap(tags.UTF8String, []byte("canary"))), bits(7, 0x80))), 2, false, "algorithm not recognised"},
		"no time":            {200, reply, seq(seq(number(2), bits(1, 0, 2))), 2, true, "time source"},
		"system failure":     {200, reply, seq(seq(number(2), bits(6, 0, 0, 0, 0x40))), 2, true, "system failure"},
		"no reason":          {200, reply, seq(seq(number(4))), 4, false, "no reason"},
		"prose":              {200, reply, []byte("canary"), -2, false, "malformed answer"},
		"empty":              {200, reply, nil, -2, false, "malformed answer"},
		"unknown status":     {200, reply, seq(seq(number(6))), -2, false, "malformed answer"},
		"granted nothing":    {200, reply, seq(seq(number(0))), -2, false, "malformed answer"},
		"octets behind":      {200, reply, append(seq(seq(number(0)), seq()), 0), -2, false, "malformed answer"},
		"empty token":        {200, reply, seq(seq(number(0)), seq()), -2, false, "not DER"},
		"status with more":   {200, reply, seq(seq(number(0), number(1)), seq()), -2, false, "malformed answer"},
		"longer than a page": {200, reply, make([]byte, 100<<10), -3, false, "too long"},
	} {
		f.answer = func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Content-Type", c.kind)
			w.Header().Set("Location", "/canary")
			w.WriteHeader(c.code)
			_, _ = w.Write(c.body)
		}
		asked := f.asked
		token, err := client(t, s.URL, f.roots, timestamp.Options{}).Stamp(t.Context(), digest)
		require.Nil(t, token, name)
		require.ErrorContains(t, err, c.says, name)
		require.NotContains(t, err.Error(), "canary", name)
		require.Equal(t, asked+1, f.asked, name)
		if c.status == -2 {
			require.ErrorIs(t, err, timestamp.ErrToken, name)
		}
		if c.status > -2 {
			re, ok := errors.AsType[*timestamp.RejectedError](err)
			require.True(t, ok, name)
			require.Equal(t, c.status, re.Status, name)
			require.Equal(t, c.temporary, re.Temporary(), name)
		}
	}
}

func TestNetwork(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	c := client(t, s.URL, newAuthority(t).roots, timestamp.Options{})
	s.Close()
	_, err := c.Stamp(t.Context(), digest)
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Stamp(ctx, digest)
	require.ErrorIs(t, err, context.Canceled)
}

func TestNew(t *testing.T) {
	roots := x509.NewCertPool()
	_, err := timestamp.New("https://tsa.test/", roots, nil)
	require.NoError(t, err)
	_, err = timestamp.New("http://127.0.0.1/", nil, &timestamp.Options{Policy: asn1.ObjectIdentifier{9}})
	for _, says := range []string{"https", "no roots", "Policy"} {
		require.ErrorContains(t, err, says)
	}
}

type answers struct {
	status int
	kind   string
	body   string
}

func (a *answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: http.Header{"Content-Type": {a.kind}}, Body: io.NopCloser(strings.NewReader(a.body))}, nil
}

// FuzzStamp: no answer that was made before the question is a stamp.
func FuzzStamp(f *testing.F) {
	a := newAuthority(f)
	s := newSpec(a.certify(f, ecKey(), nil), ecKey(), digest)
	s.nonce = number(5)
	f.Add(200, "application/timestamp-reply", string(seq(seq(number(0)), s.token())))
	f.Add(200, "application/timestamp-reply", string(seq(seq(number(2), wrap(tags.BIT_STRING, []byte{1, 0, 2})))))
	f.Add(302, "", "")
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		c, err := timestamp.New("https://tsa.test", a.roots, &timestamp.Options{Transport: &answers{status, kind, body}})
		if err != nil {
			t.Fatal(err)
		}
		if token, err := c.Stamp(t.Context(), digest); err == nil || token != nil {
			t.Fatal("a stamp")
		}
	})
}
