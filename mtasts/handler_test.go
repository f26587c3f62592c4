package mtasts_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
)

var own = mtasts.Policy{Mode: mtasts.Enforce, MX: []string{"mx.example.com", "*.example.net"}, MaxAge: 7 * 24 * time.Hour}

func TestHandler(t *testing.T) {
	h, err := mtasts.NewHandler(map[string]mtasts.Policy{"Example.com.": own, "bücher.example": {Mode: mtasts.None}})
	require.NoError(t, err)
	const path = "/.well-known/mta-sts.txt"
	for _, c := range []struct {
		name, method, host, path string
		status                   int
		body                     string
	}{
		{"the policy", "GET", "mta-sts.example.com", path, 200, own.String()},
		{"port, case, final dot", "GET", "MTA-STS.Example.com.:8443", path, 200, own.String()},
		{"a port alone", "GET", "mta-sts.example.com:443", path, 200, own.String()},
		{"converted name", "GET", "mta-sts.xn--bcher-kva.example", path, 200, "version: STSv1\nmode: none\nmax_age: 0\n"},
		{"HEAD", "HEAD", "mta-sts.example.com", path, 200, ""},
		{"query", "GET", "mta-sts.example.com", path + "?a=b", 200, own.String()},
		{"POST", "POST", "mta-sts.example.com", path, 405, "method not allowed\n"},
		{"the domain itself", "GET", "example.com", path, 404, "404 page not found\n"},
		{"another domain", "GET", "mta-sts.example.org", path, 404, "404 page not found\n"},
		{"a sub-domain", "GET", "mta-sts.a.example.com", path, 404, "404 page not found\n"},
		{"another path", "GET", "mta-sts.example.com", "/", 404, "404 page not found\n"},
		{"a longer path", "GET", "mta-sts.example.com", path + "/", 404, "404 page not found\n"},
		{"no host", "GET", "", path, 404, "404 page not found\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "https://x.example"+c.path, nil)
			r.Host = c.host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code)
			require.Equal(t, c.body, w.Body.String())
			if c.status == http.StatusOK {
				require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
				require.NotEqual(t, "0", w.Header().Get("Content-Length"))
			}
			if c.status == http.StatusMethodNotAllowed {
				require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
			}
		})
	}
}

func TestHandlerSwap(t *testing.T) {
	bad := map[string]map[string]mtasts.Policy{
		"domain":       {"a b": own},
		"mode":         {"example.com": {MX: own.MX}},
		"no mx":        {"example.com": {Mode: mtasts.Enforce}},
		"negative age": {"example.com": {Mode: mtasts.None, MaxAge: -time.Hour}},
		"two lines":    {"example.com": {Mode: mtasts.Enforce, MX: []string{"a.example\nmx: b.example"}, MaxAge: time.Hour, Extensions: []mtasts.Field{{Name: "mode", Value: "none"}}}},
		"address":      {"example.com": {Mode: mtasts.Enforce, MX: []string{"192.0.2.1"}}},
	}
	ca := smtppeer.NewCA()
	h, err := mtasts.NewHandler(map[string]mtasts.Policy{"example.com": own})
	require.NoError(t, err)
	p := serve(t, ca.Config("mta-sts.example.com"), h.ServeHTTP)
	c := p.client(t, ca)
	for name, policies := range bad {
		require.Error(t, h.Swap(policies), name)
		none, err := mtasts.NewHandler(policies)
		require.Error(t, err)
		require.Nil(t, none)
		text, err := c.Fetch(t.Context(), "example.com")
		require.NoError(t, err)
		require.Equal(t, own.String(), string(text), "as before")
	}
	require.NoError(t, h.Swap(map[string]mtasts.Policy{"example.com": {Mode: mtasts.None}}))
	text, err := c.Fetch(t.Context(), "example.com")
	require.NoError(t, err)
	require.Contains(t, string(text), "mode: none")
	require.NoError(t, h.Swap(nil))
	_, err = c.Fetch(t.Context(), "example.com")
	requireRule(t, mtasts.RuleStatus, err)
}

func TestNewID(t *testing.T) {
	at := time.Date(2026, 11, 25, 13, 0, 0, 0, time.FixedZone("", 3600))
	id := mtasts.NewID(own, at)
	require.True(t, strings.HasPrefix(id, "20261125120000"), id)
	_, err := mtasts.ParseRecord([]string{mtasts.Record{ID: id}.String()})
	require.NoError(t, err)
	other := own
	other.Mode = mtasts.Testing
	require.NotEqual(t, id, mtasts.NewID(other, at), "another policy in the same second")
	require.NotEqual(t, id, mtasts.NewID(own, at.Add(time.Second)), "the same policy again")
}
