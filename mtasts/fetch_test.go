package mtasts_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
)

const good = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"

// policyHost is an HTTPS server on loopback. It notes the server names that it was asked for.
type policyHost struct {
	addr string
	mu   sync.Mutex
	sni  []string
	reqs []*http.Request
}

func serve(t *testing.T, conf *tls.Config, h http.HandlerFunc) *policyHost {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &policyHost{addr: ln.Addr().String()}
	conf = conf.Clone()
	conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sni = append(p.sni, hello.ServerName)
		return nil, nil
	}
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.mu.Lock()
			p.reqs = append(p.reqs, r)
			p.mu.Unlock()
			h(w, r)
		}),
		ErrorLog: nil, ReadHeaderTimeout: time.Minute,
	}
	s.ErrorLog = discard()
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(tls.NewListener(ln, conf)) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return p
}

// client trusts the CA and finds every host at p.
func (p *policyHost) client(t *testing.T, ca *smtppeer.CA) *mtasts.Client {
	t.Helper()
	c, err := mtasts.NewClient(&mtasts.ClientOptions{AllowPrivate: true, RootCAs: ca.Pool(), Dial: p.dial})
	require.NoError(t, err)
	return c
}

func (p *policyHost) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, p.addr)
}

func plain(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, body)
	}
}

func TestFetch(t *testing.T) {
	ca := smtppeer.NewCA()
	p := serve(t, ca.Config("mta-sts.example.com"), plain(good))
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	text, err := p.client(t, ca).Fetch(t.Context(), "Example.COM.")
	require.NoError(t, err)
	require.Equal(t, good, string(text))
	require.Equal(t, []string{"mta-sts.example.com"}, p.sni)
	r := p.reqs[0]
	require.Equal(t, "GET https://mta-sts.example.com/.well-known/mta-sts.txt HTTP/1.1", r.Method+" https://"+r.Host+r.URL.String()+" "+r.Proto)
	require.Empty(t, r.Header.Values("Accept-Encoding"))
	require.Empty(t, r.Cookies())
}

func TestFetchAccepts(t *testing.T) {
	ca := smtppeer.NewCA()
	for _, c := range []struct{ name, media, body string }{
		{"charset", `Text/Plain; charset="utf-8"`, good},
		{"broken parameter", "text/plain; charset", good},
		{"64 KiB", "text/plain", strings.Repeat("x", mtasts.MaxPolicy)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := serve(t, ca.Config("mta-sts.example.com"), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.media)
				w.Header().Set("Content-Encoding", "identity")
				_, _ = io.WriteString(w, c.body)
			})
			text, err := p.client(t, ca).Fetch(t.Context(), "example.com")
			require.NoError(t, err)
			require.Equal(t, c.body, string(text))
		})
	}
}

// TestFetchRefusesResponses: the body would be a good policy in each case that has room for it.
func TestFetchRefusesResponses(t *testing.T) {
	ca := smtppeer.NewCA()
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Add(header[i], header[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, good)
		}
	}
	big := good + strings.Repeat("x: y\n", mtasts.MaxPolicy/5)
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		want mtasts.FetchError
	}{
		{"404 (trap 8)", status(404, "Content-Type", "text/plain"), mtasts.FetchError{Rule: mtasts.RuleStatus, Status: 404}},
		{"301 (trap 8)", status(301, "Content-Type", "text/plain", "Location", "https://mta-sts.example.com/other"), mtasts.FetchError{Rule: mtasts.RuleStatus, Status: 301}},
		{"307", status(307, "Content-Type", "text/plain", "Location", "/other"), mtasts.FetchError{Rule: mtasts.RuleStatus, Status: 307}},
		{"203", status(203, "Content-Type", "text/plain"), mtasts.FetchError{Rule: mtasts.RuleStatus, Status: 203}},
		{"500", status(500, "Content-Type", "text/plain"), mtasts.FetchError{Rule: mtasts.RuleStatus, Status: 500}},
		{"HTML (trap 8)", status(200, "Content-Type", "text/html"), mtasts.FetchError{Rule: mtasts.RuleMedia}},
		{"text/plainer", status(200, "Content-Type", "text/plainer"), mtasts.FetchError{Rule: mtasts.RuleMedia}},
		{"no type", status(200, "Content-Type", ""), mtasts.FetchError{Rule: mtasts.RuleMedia}},
		{"two types", status(200, "Content-Type", "text/plain", "Content-Type", "text/html"), mtasts.FetchError{Rule: mtasts.RuleMedia}},
		{"said to be compressed", status(200, "Content-Type", "text/plain", "Content-Encoding", "br"), mtasts.FetchError{Rule: mtasts.RuleEncoding}},
		{"compressed bomb", bomb, mtasts.FetchError{Rule: mtasts.RuleEncoding}},
		{"64 KiB and more, chunked (trap 5)", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, good)
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, big)
		}, mtasts.FetchError{Rule: mtasts.RuleSize}},
		{"64 KiB and more, announced (trap 5)", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, big)
		}, mtasts.FetchError{Rule: mtasts.RuleSize}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := serve(t, ca.Config("mta-sts.example.com"), c.h)
			text, err := p.client(t, ca).Fetch(t.Context(), "example.com")
			require.Nil(t, text)
			var fe *mtasts.FetchError
			require.ErrorAs(t, err, &fe)
			require.Equal(t, c.want, mtasts.FetchError{Rule: fe.Rule, Status: fe.Status})
			require.Len(t, p.reqs, 1)
		})
	}
}

func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = io.WriteString(z, good+strings.Repeat("x: y\n", 1<<20))
	_ = z.Close()
}

// TestFetchInterim: a few responses of class 1xx may come first, but not without end.
func TestFetchInterim(t *testing.T) {
	ca := smtppeer.NewCA()
	for n, ok := range map[int]bool{1: true, 50: false} {
		p := serve(t, ca.Config("mta-sts.example.com"), func(w http.ResponseWriter, r *http.Request) {
			for range n {
				w.WriteHeader(http.StatusEarlyHints)
			}
			plain(good)(w, r)
		})
		text, err := p.client(t, ca).Fetch(t.Context(), "example.com")
		if ok {
			require.NoError(t, err)
			require.Equal(t, good, string(text))
		} else {
			requireRule(t, mtasts.RuleConnect, err)
		}
	}
}

func TestFetchRefusesBrokenBodies(t *testing.T) {
	ca := smtppeer.NewCA()
	p := serve(t, ca.Config("mta-sts.example.com"), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(len(good)+1))
		_, _ = io.WriteString(w, good)
	})
	_, err := p.client(t, ca).Fetch(t.Context(), "example.com")
	requireRule(t, mtasts.RuleConnect, err)
}

func requireRule(t *testing.T, rule mtasts.Rule, err error) {
	t.Helper()
	var fe *mtasts.FetchError
	require.ErrorAs(t, err, &fe)
	require.Equal(t, rule, fe.Rule, "%v", fe.Err)
	require.Contains(t, err.Error(), string(rule))
}

func TestFetchRefusesCertificates(t *testing.T) {
	ca, other := smtppeer.NewCA(), smtppeer.NewCA()
	old := ca.Config("mta-sts.example.com")
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for _, c := range []struct {
		name string
		conf *tls.Config
		rule mtasts.Rule
	}{
		{"expired", smtppeer.ServerConfig(ca.Expired("mta-sts.example.com")), mtasts.RuleCertificate},
		{"name of the domain", ca.Config("example.com"), mtasts.RuleCertificate},
		{"name of the mail host", ca.Config("mail.example.com"), mtasts.RuleCertificate},
		{"wildcard of the parent", ca.Config("*.com"), mtasts.RuleCertificate},
		{"untrusted", other.Config("mta-sts.example.com"), mtasts.RuleCertificate},
		{"self-signed", smtppeer.ServerConfig(smtppeer.SelfSigned("mta-sts.example.com")), mtasts.RuleCertificate},
		{"TLS 1.1", old, mtasts.RuleConnect},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := serve(t, c.conf, plain(good))
			_, err := p.client(t, ca).Fetch(t.Context(), "example.com")
			requireRule(t, c.rule, err)
			require.Empty(t, p.reqs)
		})
	}
	t.Run("wildcard of the domain is good", func(t *testing.T) {
		p := serve(t, ca.Config("*.example.com"), plain(good))
		_, err := p.client(t, ca).Fetch(t.Context(), "example.com")
		require.NoError(t, err)
	})
}

// TestFetchRefusesAddresses is trap 9: nothing is sent to an address that is not public.
func TestFetchRefusesAddresses(t *testing.T) {
	ca := smtppeer.NewCA()
	p := serve(t, ca.Config("mta-sts.example.com"), plain(good))
	_, port, err := net.SplitHostPort(p.addr)
	require.NoError(t, err)
	number, err := strconv.ParseUint(port, 10, 16)
	require.NoError(t, err)
	names, err := dnspeer.Start(dnspeer.Zone{"mta-sts.example.com": {"A 127.0.0.1"}, "mta-sts.example.com.example.com": {"A 192.0.2.1"}})
	require.NoError(t, err)
	t.Cleanup(names.Close)
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, names.Addr())
	}}

	t.Run("before it connects", func(t *testing.T) {
		c, err := mtasts.NewClient(&mtasts.ClientOptions{Resolver: resolver, RootCAs: ca.Pool(), Port: uint16(number)})
		require.NoError(t, err)
		_, err = c.Fetch(t.Context(), "example.com")
		requireRule(t, mtasts.RuleAddress, err)
		require.Empty(t, p.sni)
	})
	t.Run("unless it is allowed", func(t *testing.T) {
		c, err := mtasts.NewClient(&mtasts.ClientOptions{Resolver: resolver, RootCAs: ca.Pool(), Port: uint16(number), AllowPrivate: true})
		require.NoError(t, err)
		_, err = c.Fetch(t.Context(), "example.com")
		require.NoError(t, err)
		require.Len(t, p.sni, 1)
		p.sni = nil
	})
	t.Run("behind another Dial", func(t *testing.T) {
		c, err := mtasts.NewClient(&mtasts.ClientOptions{RootCAs: ca.Pool(), Dial: p.dial})
		require.NoError(t, err)
		_, err = c.Fetch(t.Context(), "example.com")
		requireRule(t, mtasts.RuleAddress, err)
		require.Empty(t, p.sni)
	})
	t.Run("a connection of no known address", func(t *testing.T) {
		c, err := mtasts.NewClient(&mtasts.ClientOptions{Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			return near, far.Close()
		}})
		require.NoError(t, err)
		_, err = c.Fetch(t.Context(), "example.com")
		requireRule(t, mtasts.RuleAddress, err)
	})
}

func TestFetchTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := mtasts.NewClient(&mtasts.ClientOptions{AllowPrivate: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		require.NoError(t, err)
		began := time.Now()
		_, err = c.Fetch(t.Context(), "example.com")
		requireRule(t, mtasts.RuleTimeout, err)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

// TestFetchDrips: the time is for all of it, so a host that sends an octet now and then gains nothing.
func TestFetchDrips(t *testing.T) {
	ca := smtppeer.NewCA()
	p := serve(t, ca.Config("mta-sts.example.com"), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-tick.C
		}
	})
	c, err := mtasts.NewClient(&mtasts.ClientOptions{AllowPrivate: true, RootCAs: ca.Pool(), Dial: p.dial, Timeout: 300 * time.Millisecond})
	require.NoError(t, err)
	_, err = c.Fetch(t.Context(), "example.com")
	requireRule(t, mtasts.RuleTimeout, err)
}

func TestFetchErrors(t *testing.T) {
	_, err := mtasts.NewClient(&mtasts.ClientOptions{Timeout: -1})
	require.Error(t, err)
	cause := errors.New("secret of the far end")
	c, err := mtasts.NewClient(&mtasts.ClientOptions{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, cause }})
	require.NoError(t, err)
	_, err = c.Fetch(t.Context(), "example.com")
	requireRule(t, mtasts.RuleConnect, err)
	require.ErrorIs(t, err, cause)
	require.NotContains(t, err.Error(), "secret")
	_, err = c.Fetch(t.Context(), "a b")
	requireRule(t, mtasts.RuleConnect, err)
}

// FuzzFetch: whatever a policy host answers, what comes out is a text within its limit, or a typed error.
func FuzzFetch(f *testing.F) {
	ca := smtppeer.NewCA()
	conf := ca.Config("mta-sts.example.com")
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", "",
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
	} {
		f.Add([]byte(s))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f, err)
	defer ln.Close()
	f.Fuzz(func(t *testing.T, answer []byte) {
		c, err := mtasts.NewClient(&mtasts.ClientOptions{
			AllowPrivate: true, RootCAs: ca.Pool(), Timeout: 10 * time.Second,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
			},
		})
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, conf)
			defer conn.Close()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = conn.Write(answer)
			}
		}()
		text, err := c.Fetch(t.Context(), "example.com")
		<-done
		var fe *mtasts.FetchError
		if err != nil {
			require.ErrorAs(t, err, &fe)
			require.NotEqual(t, mtasts.RuleTimeout, fe.Rule)
			return
		}
		require.LessOrEqual(t, len(text), mtasts.MaxPolicy)
		require.Contains(t, string(answer), " 200")
	})
}
