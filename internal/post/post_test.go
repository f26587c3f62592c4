package post_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/post"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func endpoint(t testing.TB, url string, o post.Options) *post.Endpoint {
	o.InsecureLoopbackHTTP = true
	e, err := post.New(url, o)
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

func TestPost(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		user, pass, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "Text/X.Size; charset=x")
		w.WriteHeader(409)
		_, _ = io.WriteString(w, r.Method+" "+r.Header.Get("Content-Type")+" "+user+pass+string(b))
	}))
	defer s.Close()
	e := endpoint(t, strings.Replace(s.URL, "://", "://a:b@", 1), post.Options{})
	a, err := e.Post(t.Context(), "text/plain", []byte("body"), 22)
	require.NoError(t, err)
	require.Equal(t, &post.Answer{Status: 409, Type: "text/x.size", Body: []byte("POST text/plain abbody")}, a)
	_, err = e.Post(t.Context(), "text/plain", []byte("body"), 21)
	require.ErrorIs(t, err, post.ErrTooLong)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	a, err := endpoint(t, s.URL, post.Options{}).Post(t.Context(), "text/plain", nil, 100)
	require.NoError(t, err)
	require.Equal(t, 307, a.Status)
	require.Equal(t, 1, asked)
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := endpoint(t, s.URL, post.Options{}).Post(t.Context(), "text/plain", nil, 100)
	require.ErrorContains(t, err, "certificate of the service does not verify")
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	own := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	a, err := endpoint(t, s.URL, post.Options{Transport: own}).Post(t.Context(), "text/plain", nil, 100)
	require.NoError(t, err)
	require.Equal(t, 404, a.Status)
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
func (broken) Close() error               { return nil }

type cut struct{ err error }

func (c cut) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: broken(c)}, nil
}

type canary struct{}

func (canary) Error() string { return "canary" }

func TestErrorsTellNothing(t *testing.T) {
	for _, rt := range []http.RoundTripper{failing{canary{}}, cut{canary{}}} {
		_, err := endpoint(t, "https://u:canary@x.test", post.Options{Transport: rt}).Post(t.Context(), "a/b", nil, 9)
		require.ErrorContains(t, err, "call failed (post_test.canary)")
		require.NotContains(t, strings.ReplaceAll(err.Error(), "post_test.canary", ""), "canary")
	}
	_, err := endpoint(t, "https://x.test", post.Options{Transport: cut{io.ErrUnexpectedEOF}}).Post(t.Context(), "a/b", nil, 9)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = endpoint(t, "https://x.test", post.Options{}).Post(ctx, "a/b", nil, 9)
	require.ErrorIs(t, err, context.Canceled)
}

func TestGone(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	url := s.URL
	s.Close()
	_, err := endpoint(t, url+"/canary", post.Options{}).Post(t.Context(), "a/b", nil, 9)
	require.ErrorContains(t, err, "connect")
	require.NotContains(t, err.Error(), "canary")
}

func TestTimeout(t *testing.T) {
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer s.Close()
	defer close(stop)
	_, err := endpoint(t, s.URL, post.Options{Timeout: 20 * time.Millisecond}).Post(t.Context(), "a/b", nil, 9)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestNew(t *testing.T) {
	for url, says := range map[string]string{
		"https://x.test/%zz": "malformed", "x.test": "no host", "https://": "no host", "https://x.test/#a": "fragment", "ftp://x.test": "https",
		"http://x.test": "https", "http://10.0.0.1": "https", "http://localhost": "https", "http://[::1%25eth0]/": "https",
	} {
		_, err := post.New(url, post.Options{InsecureLoopbackHTTP: true})
		require.ErrorContains(t, err, says, url)
	}
	_, err := post.New("http://127.0.0.1", post.Options{})
	require.Error(t, err)
	_, err = post.New("https://x.test", post.Options{Timeout: -1})
	require.Error(t, err)
	_, err = post.New("http://[::1]:80", post.Options{InsecureLoopbackHTTP: true})
	require.NoError(t, err)
}
