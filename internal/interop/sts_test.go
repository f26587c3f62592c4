//go:build interop

package interop_test

import (
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/smtp"
)

// stsCase is a domain with a record and a policy, and what both implementations make of them.
type stsCase struct {
	name string
	// txts are the TXT records at _mta-sts, in the syntax of a zone file; nil is one with the id 1, empty is none.
	txts []string
	// policy is the text; "" is a good one.
	policy string
	// answer, where not nil, replies in place of 200 and text/plain; cert is whose certificate the host has.
	answer http.HandlerFunc
	cert   string
	// want is what the library sees. differs is why mta-sts-query sees theirs instead; without it they agree.
	want, theirs, differs string
}

const (
	good      = "version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n"
	goodSeen  = "valid id=1 mode=enforce max_age=86400 mx=mx.a.test"
	stsNone   = "none"
	stsFailed = "error"
)

// with is the good policy with one line in another's place.
func with(line, by string) string { return strings.Replace(good, line+"\n", by, 1) }

func seen(mode, age, mx string) string {
	return fmt.Sprintf("valid id=1 mode=%s max_age=%s mx=%s", mode, age, mx)
}

func serve(status int, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{media}
		if media == "" {
			w.Header()["Content-Type"] = nil
		}
		w.Header().Set("Location", "https://mta-sts.c00.test/.well-known/mta-sts.txt")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func zipped(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = io.WriteString(z, good)
	_ = z.Close()
}

func recordCases() []stsCase {
	txt := func(lines ...string) []string {
		for i, l := range lines {
			lines[i] = `TXT "` + l + `"`
		}
		return lines
	}
	return []stsCase{
		{name: "plain", want: goodSeen},
		{name: "no record", txts: []string{}, want: stsNone},
		{name: "other record alone", txts: txt("v=spf1 -all"), want: stsNone},
		{name: "other record too", txts: txt("v=spf1 -all", "v=STSv1; id=1;"), want: goodSeen},
		{name: "two records", txts: txt("v=STSv1; id=1;", "v=STSv1; id=2;"), want: stsNone},
		{name: "two strings", txts: []string{`TXT "v=STSv1; i" "d=1;"`}, want: goodSeen},
		{name: "no last semicolon", txts: txt("v=STSv1; id=1"), want: goodSeen},
		{name: "no spaces", txts: txt("v=STSv1;id=1;"), want: goodSeen},
		{name: "more spaces", txts: txt("v=STSv1 ;  id=1 ; "), want: goodSeen},
		{name: "no id", txts: txt("v=STSv1;"), want: stsNone},
		{name: "long id", txts: txt("v=STSv1; id=" + strings.Repeat("1", 33) + ";"), want: stsNone,
			theirs: strings.Replace(goodSeen, "id=1", "id="+strings.Repeat("1", 33), 1), differs: "it takes any id; section 3.1 has 32 letters and digits at most"},
		{name: "id with a hyphen", txts: txt("v=STSv1; id=2026-01;"), want: stsNone,
			theirs: strings.Replace(goodSeen, "id=1", "id=2026-01", 1), differs: "it takes any id"},
		{name: "two ids", txts: txt("v=STSv1; id=1; id=2;"), want: goodSeen,
			theirs: strings.Replace(goodSeen, "id=1", "id=2", 1), differs: "it takes the last of two fields"},
		{name: "extension", txts: txt("v=STSv1; id=1; a=b;"), want: goodSeen},
		{name: "version behind", txts: txt("id=1; v=STSv1;"), want: stsNone},
		{name: "later version", txts: txt("v=STSv2; id=1;"), want: stsNone},
		{name: "longer version alone", txts: txt("v=STSv10; id=1;"), want: stsNone},
		{name: "longer version too", txts: txt("v=STSv10; id=2;", "v=STSv1; id=1;"), want: goodSeen,
			theirs: stsNone, differs: "it compares the start alone; section 3.1 discards what does not begin with \"v=STSv1;\""},
		{name: "version in lower case", txts: txt("v=stsv1; id=1;"), want: stsNone},
		{name: "alias", txts: []string{"CNAME _mta-sts.c00.test."}, want: goodSeen},
		{name: "server failure", txts: []string{dnspeer.ServFail}, want: stsFailed},
	}
}

func policyCases() []stsCase {
	return []stsCase{
		{name: "testing", policy: with("mode: enforce", "mode: testing\n"), want: seen("testing", "86400", "mx.a.test")},
		{name: "mode none", policy: with("mode: enforce", "mode: none\n"), want: seen("none", "86400", "mx.a.test")},
		{name: "mode none without mx", policy: "version: STSv1\nmode: none\nmax_age: 86400\n", want: seen("none", "86400", "")},
		{name: "CRLF", policy: strings.ReplaceAll(good, "\n", "\r\n"), want: goodSeen},
		{name: "no last line end", policy: strings.TrimSuffix(good, "\n"), want: goodSeen},
		{name: "no space", policy: strings.ReplaceAll(good, ": ", ":"), want: goodSeen},
		{name: "blank line", policy: with("mode: enforce", "mode: enforce\n\n"), want: stsFailed,
			theirs: goodSeen, differs: "it skips empty lines, which the grammar does not have"},
		{name: "no max_age", policy: with("max_age: 86400", ""), want: stsFailed},
		{name: "max_age 0", policy: with("max_age: 86400", "max_age: 0\n"), want: seen("enforce", "0", "mx.a.test")},
		{name: "max_age at the limit", policy: with("max_age: 86400", "max_age: 31557600\n"), want: seen("enforce", "31557600", "mx.a.test")},
		{name: "max_age over the limit", policy: with("max_age: 86400", "max_age: 31557601\n"), want: seen("enforce", "31557600", "mx.a.test"),
			theirs: stsFailed, differs: "it drops the policy; the domain would be without"},
		{name: "max_age of ten digits", policy: with("max_age: 86400", "max_age: 9999999999\n"), want: seen("enforce", "31557600", "mx.a.test"),
			theirs: stsFailed, differs: "as above"},
		{name: "max_age negative", policy: with("max_age: 86400", "max_age: -1\n"), want: stsFailed},
		{name: "max_age a word", policy: with("max_age: 86400", "max_age: day\n"), want: stsFailed},
		{name: "unknown mode", policy: with("mode: enforce", "mode: hard\n"), want: stsFailed},
		{name: "no mode", policy: with("mode: enforce", ""), want: stsFailed},
		{name: "no version", policy: with("version: STSv1", ""), want: stsFailed},
		{name: "later version of policy", policy: with("version: STSv1", "version: STSv2\n"), want: stsFailed},
		{name: "version last", policy: with("version: STSv1", "") + "version: STSv1\n", want: goodSeen},
		{name: "no mx", policy: with("mx: mx.a.test", ""), want: stsFailed},
		{name: "wildcard", policy: with("mx: mx.a.test", "mx: *.a.test\n"), want: seen("enforce", "86400", "*.a.test")},
		{name: "several mx", policy: with("mx: mx.a.test", "mx: mx.a.test\nmx: mx.b.test\n"), want: seen("enforce", "86400", "mx.a.test,mx.b.test")},
		{name: "long", policy: with("mx: mx.a.test", strings.Repeat("mx: mx.a.test\n", 1500)), want: seen("enforce", "86400", strings.Repeat("mx.a.test,", 1499)+"mx.a.test")},
		{name: "over 64 KiB", policy: good + strings.Repeat("a: b\n", 20000), want: stsFailed},
		{name: "address for mx", policy: with("mx: mx.a.test", "mx: 192.0.2.1\n"), want: stsFailed,
			theirs: seen("enforce", "86400", "192.0.2.1"), differs: "it does not look at mx; section 3.2 has domain names"},
		{name: "two modes", policy: with("mode: enforce", "mode: enforce\nmode: none\n"), want: goodSeen,
			theirs: seen("none", "86400", "mx.a.test"), differs: "it takes the last; section 3.2 has the first"},
		{name: "extension with colons", policy: good + "a: b: c: d\n", want: goodSeen},
		{name: "empty", policy: "\n", want: stsFailed},
	}
}

func hostCases() []stsCase {
	return []stsCase{
		{name: "media type with charset", answer: serve(200, "text/plain; charset=utf-8", good), want: goodSeen},
		{name: "media type in capitals", answer: serve(200, "Text/PLAIN", good), want: goodSeen},
		{name: "HTML", answer: serve(200, "text/html", good), want: stsFailed},
		{name: "no media type", answer: serve(200, "", good), want: stsFailed},
		{name: "404 with a policy", answer: serve(404, "text/plain", good), want: stsFailed},
		{name: "500 with a policy", answer: serve(500, "text/plain", good), want: stsFailed},
		{name: "203 with a policy", answer: serve(203, "text/plain", good), want: stsFailed},
		{name: "redirect", answer: serve(301, "text/plain", good), want: stsFailed},
		{name: "compressed", answer: zipped, want: stsFailed, theirs: goodSeen, differs: "it asks for compression; we do not"},
		{name: "certificate of another name", cert: "other", want: stsFailed},
		{name: "certificate that ended", cert: "ended", want: stsFailed},
		{name: "certificate of an own CA", cert: "foreign", want: stsFailed},
	}
}

// stsLab serves the cases, each under a domain of its own.
type stsLab struct {
	cases map[string]stsCase
	certs map[string]*tls.Certificate
	dns   *dnspeer.Peer
}

func newSTSLab(t *testing.T, cases []stsCase) *stsLab {
	t.Helper()
	l := &stsLab{cases: map[string]stsCase{}, certs: map[string]*tls.Certificate{}}
	zone, names := dnspeer.Zone{}, []string{}
	for i, c := range cases {
		host := fmt.Sprintf("mta-sts.c%02d.test", i)
		l.cases[host], names = c, append(names, host)
		zone[host] = []string{"A " + policyAddr}
		if c.txts == nil {
			c.txts = []string{`TXT "v=STSv1; id=1;"`}
		}
		zone[fmt.Sprintf("_mta-sts.c%02d.test", i)] = c.txts
	}
	ca, year := theAuthority(t), time.Now().AddDate(1, 0, 0)
	l.certs[""] = ca.issue(t, year, names...)
	l.certs["other"] = ca.issue(t, year, mxEvil)
	l.certs["ended"] = ca.issue(t, time.Now().Add(-time.Hour), names...)
	l.certs["foreign"] = foreign(t).issue(t, year, names...)
	dns, err := dnspeer.Start(zone)
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	l.dns = dns
	forwardDNS(t, dns.Addr())
	ln, err := net.Listen("tcp", policyAddr+":443")
	require.NoError(t, err)
	srv := &http.Server{Handler: l, TLSConfig: &tls.Config{GetCertificate: l.certificate}, ErrorLog: log.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(ln, "", "") })
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		wg.Wait()
	})
	return l
}

func (l *stsLab) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return l.certs[l.cases[h.ServerName].cert], nil
}

// ServeHTTP implements http.Handler.
func (l *stsLab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := l.cases[r.Host]
	if !ok || r.URL.Path != "/.well-known/mta-sts.txt" {
		http.NotFound(w, r)
		return
	}
	if c.answer == nil {
		c.answer = serve(200, "text/plain", cmp.Or(c.policy, good))
	}
	c.answer(w, r)
}

// forwardDNS puts a name server on port 53.
func forwardDNS(t *testing.T, to string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			question := make([]byte, 4096)
			n, from, err := pc.ReadFrom(question)
			if err != nil {
				return
			}
			wg.Go(func() {
				c, err := net.Dial("udp", to)
				if err != nil {
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				answer := make([]byte, 4096)
				if _, err = c.Write(question[:n]); err != nil {
					return
				}
				if n, err = c.Read(answer); err == nil {
					_, _ = pc.WriteTo(answer[:n], from)
				}
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, pc.Close())
		wg.Wait()
	})
}

// ours is what the library sees.
func (l *stsLab) ours(t *testing.T, c *mtasts.Cache, domain string) string {
	s, err := c.Lookup(t.Context(), domain)
	if err != nil {
		assert.ErrorIs(t, err, mtasts.ErrUnknown)
		return stsFailed
	}
	if p := s.Policy; p != nil {
		return fmt.Sprintf("valid id=%s mode=%s max_age=%d mx=%s", s.ID, p.Mode, p.MaxAge/time.Second, strings.Join(p.MX, ","))
	}
	for _, f := range s.Findings {
		if f.Result != "" {
			return stsFailed
		}
	}
	return stsNone
}

var (
	querySaid = regexp.MustCompile(`\(<STSFetchResult\.(\w+): `)
	queryID   = regexp.MustCompile(`\d>, \('([^']*)', \{`)
	queryWord = regexp.MustCompile(`'(mode|max_age)': '?(\w+)`)
	queryMX   = regexp.MustCompile(`'mx': \[([^\]]*)\]`)
)

// theirs is what mta-sts-query sees.
func theirs(t *testing.T, domain string) string {
	room := filepath.Dir(filepath.Dir(os.Getenv("POSTSEAL_PEER_BOX")))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "chroot", room, "mta-sts-query", "-v", "error", domain).Output()
	assert.NoError(t, err)
	said := querySaid.FindSubmatch(out)
	if !assert.NotNil(t, said, "%s", out) {
		return ""
	}
	switch string(said[1]) {
	case "NONE":
		return stsNone
	case "FETCH_ERROR":
		return stsFailed
	}
	words := map[string]string{}
	for _, w := range queryWord.FindAllSubmatch(out, -1) {
		words[string(w[1])] = string(w[2])
	}
	id, mx := queryID.FindSubmatch(out), queryMX.FindSubmatch(out)
	if !assert.NotNil(t, id, "%s", out) || !assert.NotNil(t, mx, "%s", out) {
		return ""
	}
	hosts := strings.NewReplacer("'", "", " ", "").Replace(string(mx[1]))
	return fmt.Sprintf("valid id=%s mode=%s max_age=%s mx=%s", id[1], words["mode"], words["max_age"], hosts)
}

// TestSTSSecondOpinion holds the library's view of records and policies against mta-sts-query's. Each difference is meant,
// and says why.
func TestSTSSecondOpinion(t *testing.T) {
	thePeer(t)
	cases := slices.Concat(recordCases(), policyCases(), hostCases())
	l := newSTSLab(t, cases)
	pem, err := os.ReadFile(os.Getenv("POSTSEAL_PEER_CA"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	r, err := smtp.DNS(l.dns.Addr(), &smtp.DNSOptions{Timeout: time.Second, Attempts: 1})
	require.NoError(t, err)
	client, err := mtasts.NewClient(&mtasts.ClientOptions{
		RootCAs: roots, AllowPrivate: true, Timeout: 10 * time.Second,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, _, err := net.SplitHostPort(addr); err != nil || l.cases[host].name == "" {
				return nil, errors.New("no such host")
			}
			return new(net.Dialer).DialContext(ctx, network, policyAddr+":443")
		},
	})
	require.NoError(t, err)
	cache, err := mtasts.New(mtasts.NewMemory(nil), &mtasts.Options{Resolver: r, Fetcher: client})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(cases), 30)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			domain := fmt.Sprintf("c%02d.test", i)
			want := cmp.Or(c.theirs, c.want)
			assert.Equal(t, c.want, l.ours(t, cache, domain), "ours")
			assert.Equal(t, want, theirs(t, domain), "theirs")
			assert.Equal(t, want == c.want, c.differs == "", "a difference and its reason go together")
		})
	}
}
