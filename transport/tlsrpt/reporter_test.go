package tlsrpt_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// desk is a Reporter with all that it touches.
type desk struct {
	store *moody
	dns   zone
	now   time.Time
	log   bytes.Buffer

	sent    []tlsrpt.Mail
	sendErr error
	fail    map[string]error // by destination
	sign    func(context.Context, []byte) ([]byte, error)
	https   tlsrpt.HTTPSOptions
	noMail  bool
}

func newDesk(t testing.TB) *desk {
	key, err := dkim.Generate(dkim.Ed25519)
	require.NoError(t, err)
	k := dkim.Key{Domain: "sender.example", Selector: "s", Private: key}
	s, err := dkim.New([]dkim.Key{k}, nil)
	require.NoError(t, err)
	return &desk{
		store: &moody{}, now: noon,
		dns: zone{
			k.RecordName():           {k.Record().String()},
			"_smtp._tls.example.com": {"v=TLSRPTv1; rua=mailto:tls@reports.example.com"},
		},
		sign: func(ctx context.Context, msg []byte) ([]byte, error) {
			return s.Sign(ctx, "sender.example", bytes.NewReader(msg))
		},
	}
}

func (d *desk) reporter(t testing.TB) *tlsrpt.Reporter {
	o := &tlsrpt.ReporterOptions{
		Organization: "Sender", Contact: "https://sender.example/tls", Submitter: "Sender.example.",
		HTTPS: &d.https, Now: func() time.Time { return d.now }, Jitter: none,
		Logger: slog.New(slog.NewTextHandler(&d.log, nil)),
		Mail: &tlsrpt.MailOptions{
			From: "tlsrpt@sender.example",
			Sign: func(ctx context.Context, m []byte) ([]byte, error) { return d.sign(ctx, m) },
			Send: d.send,
		},
	}
	if d.noMail {
		o.Mail = nil
	}
	r, err := tlsrpt.NewReporter(d.store, d.dns, o)
	require.NoError(t, err)
	return r
}

func (d *desk) send(ctx context.Context, m tlsrpt.Mail) error {
	if err := cmp.Or(d.fail[m.To], d.sendErr); err != nil {
		return err
	}
	d.sent = append(d.sent, m)
	// A delivery agent counts the session, but not under the ctx that it is given.
	c, err := tlsrpt.NewCollector(&d.store.Memory, nil)
	if err != nil {
		return err
	}
	c.Add(ctx, tlsrpt.Result{Domain: "reports.example.com"})
	return c.Flush(ctx)
}

// count puts sessions of noon's day into the store.
func (d *desk) count(t testing.TB, domains ...string) {
	c := collector(t, d.store, tlsrpt.CollectorOptions{})
	for _, domain := range domains {
		c.Add(t.Context(), tlsrpt.Result{Domain: domain, Type: tlsrpt.STS, Failure: tlsrpt.CertificateExpired, ReceivingMX: "mx." + domain})
		c.Add(t.Context(), tlsrpt.Result{Domain: domain, Type: tlsrpt.STS})
	}
	require.NoError(t, c.Flush(t.Context()))
}

// at sets the clock so long after the end of noon's day, and sends what is due.
func (d *desk) at(t testing.TB, after time.Duration) int {
	d.now = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC).Add(after)
	n, err := d.reporter(t).SendDue(t.Context())
	require.NoError(t, err)
	return n
}

func TestReportByMail(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	require.Zero(t, d.at(t, 0), "processes still flush")
	require.Equal(t, 1, d.at(t, 5*time.Minute))
	require.Zero(t, d.at(t, 10*time.Minute))
	require.Zero(t, d.at(t, 24*time.Hour))
	require.Len(t, d.sent, 1)
	m := d.sent[0]
	require.Equal(t, "tlsrpt@sender.example", m.From)
	require.Equal(t, "tls@reports.example.com", m.To)

	msg, err := mail.ReadMessage(bytes.NewReader(m.Message))
	require.NoError(t, err)
	h := msg.Header
	id := stored(t, d.store, "example.com").ReportID
	require.Len(t, id, 26)
	require.Equal(t, "example.com", h.Get(tlsrpt.HeaderDomain))
	require.Equal(t, "sender.example", h.Get("TLS-Report-Submitter"))
	require.Equal(t, "No", h.Get("TLS-Required"))
	require.Equal(t, "Report Domain: example.com Submitter: sender.example Report-ID: <"+id+"@sender.example>", h.Get("Subject"))
	require.True(t, strings.HasPrefix(h.Get("Content-Type"), `multipart/report; report-type="tlsrpt";`))
	require.Contains(t, string(m.Message), `filename="sender.example!example.com!1795564800!1795651199!`+id+`.json.gz"`)
	for line := range strings.SplitSeq(string(m.Message), "\r\n") {
		require.LessOrEqual(t, len(line), 998)
		require.NotContains(t, line, "\n")
	}

	got, err := tlsrpt.ParseMail(bytes.NewReader(m.Message))
	require.NoError(t, err)
	require.Equal(t, &tlsrpt.Report{
		Organization: "Sender", Contact: "https://sender.example/tls", ID: id + "@sender.example",
		Range: tlsrpt.DateRange{Start: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC), End: time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC)},
		Policies: []tlsrpt.PolicyResult{{
			Policy: tlsrpt.Policy{Type: tlsrpt.STS, Domain: "example.com"}, Summary: tlsrpt.Summary{Success: 1, Failure: 1},
			Details: []tlsrpt.FailureDetail{{Type: tlsrpt.CertificateExpired, ReceivingMX: "mx.example.com", Sessions: 1}},
		}},
	}, got.Report)

	vs, err := dkim.Verify(t.Context(), d.dns, bytes.NewReader(m.Message))
	require.NoError(t, err)
	require.Equal(t, dkim.Pass, vs[0].Outcome)
	require.Contains(t, vs[0].Headers, "TLS-Report-Domain")
	require.Contains(t, vs[0].Headers, "TLS-Required")
	require.Empty(t, stored(t, d.store, "reports.example.com").Policies, "no report about reports")
}

// hook is an HTTPS service that takes reports.
type hook struct {
	mu      sync.Mutex
	got     [][]byte
	handler http.HandlerFunc
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.handler != nil {
		h.handler(w, r)
		return
	}
	b, _ := io.ReadAll(r.Body)
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	h.got = append(h.got, b)
	w.WriteHeader(http.StatusCreated)
}

// quiet takes no log.
func quietServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	return s
}

func (d *desk) serve(t testing.TB, h *hook) *httptest.Server {
	s := quietServer(h)
	t.Cleanup(s.Close)
	d.https.AllowPrivate, d.https.RootCAs = true, x509.NewCertPool()
	d.https.RootCAs.AddCert(s.Certificate())
	d.dns["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=" + s.URL + "/secret?x=y"}
	d.count(t, "example.com")
	return s
}

func TestReportByHTTPS(t *testing.T) {
	d, h := newDesk(t), &hook{}
	d.serve(t, h)
	require.Equal(t, 1, d.at(t, 5*time.Minute), d.log.String())
	require.Len(t, h.got, 1)
	r, err := tlsrpt.ParseReport(h.got[0])
	require.NoError(t, err)
	require.Equal(t, "example.com", r.Policies[0].Policy.Domain)
}

func TestHTTPSRefuses(t *testing.T) {
	elsewhere := &hook{}
	other := quietServer(elsewhere)
	t.Cleanup(other.Close)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		change  func(*desk)
		want    string
	}{
		"status":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, nil, "status 500"},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, nil, "status 304"},
		"other host": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusPermanentRedirect)
		}, nil, "redirected elsewhere"},
		"to GET":    {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/b", http.StatusFound) }, nil, "redirected elsewhere"},
		"for ever":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/b", http.StatusTemporaryRedirect) }, nil, "redirected elsewhere"},
		"private":   {nil, func(d *desk) { d.https.AllowPrivate = false }, "private address"},
		"untrusted": {nil, func(d *desk) { d.https.RootCAs = x509.NewCertPool() }, "certificate not verified"},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = c.Write([]byte("canary\r\n\r\n"))
			_ = c.Close()
		}, nil, "no HTTPS answer"},
		"silence": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client go
			<-r.Context().Done()
		}, func(d *desk) {
			d.https.Timeout = 50 * time.Millisecond
		}, "timed out"},
		"no name": {nil, func(d *desk) {
			d.dns["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=https://host.invalid/secret"}
		}, "post: "},
		"nobody": {nil, func(d *desk) {
			d.dns["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=https://127.0.0.1:1/secret"}
		}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			d, h := newDesk(t), &hook{handler: c.handler}
			d.serve(t, h)
			if c.change != nil {
				c.change(d)
			}
			require.Zero(t, d.at(t, 5*time.Minute))
			require.Contains(t, d.log.String(), c.want)
			require.NotContains(t, d.log.String(), "secret")
			require.NotContains(t, d.log.String(), "canary")
			require.Empty(t, h.got)
			require.Equal(t, d.now.Add(15*time.Minute), stored(t, d.store, "example.com").Next)
		})
	}
	require.Empty(t, elsewhere.got)
}

func TestHTTPSRedirectOnTheSameHost(t *testing.T) {
	d, h := newDesk(t), &hook{}
	s := d.serve(t, h)
	h.handler = func(w http.ResponseWriter, r *http.Request) {
		h.handler = nil
		http.Redirect(w, r, "/new", http.StatusPermanentRedirect)
	}
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", u.Hostname())
	require.Equal(t, 1, d.at(t, 5*time.Minute), d.log.String())
	require.Len(t, h.got, 1)
}

// TestRetries: ever less often, for 24 hours, then never again.
func TestRetries(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	d.sendErr = errors.New("no route")
	var tries []time.Duration
	first := time.Date(2026, 11, 26, 0, 5, 0, 0, time.UTC)
	for at := first; at.Before(first.Add(36 * time.Hour)); at = at.Add(time.Minute) {
		before := stored(t, d.store, "example.com").Attempts
		d.at(t, at.Sub(first)+5*time.Minute)
		if stored(t, d.store, "example.com").Attempts > before {
			tries = append(tries, at.Sub(first))
		}
	}
	m := time.Minute
	require.Equal(t, []time.Duration{0, 15 * m, 45 * m, 105 * m, 225 * m, 465 * m, 705 * m, 945 * m, 1185 * m, 1425 * m}, tries)
	require.Zero(t, stored(t, d.store, "example.com").Next)
	require.Contains(t, d.log.String(), "no route")
	require.NotContains(t, d.log.String(), "tls@")
}

// TestRefusedForGood: a mailbox that does not exist is not asked for again; another destination is.
func TestRefusedForGood(t *testing.T) {
	d := newDesk(t)
	d.dns["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=mailto:gone@reports.example.com,mailto:full@reports.example.com"}
	d.count(t, "example.com")
	d.fail = map[string]error{
		"gone@reports.example.com": fmt.Errorf("550: %w", tlsrpt.ErrRefused), "full@reports.example.com": errors.New("452"),
	}
	require.Zero(t, d.at(t, time.Hour))
	require.NotZero(t, stored(t, d.store, "example.com").Next)
	d.fail = nil
	require.Equal(t, 1, d.at(t, 2*time.Hour))
	require.Len(t, d.sent, 1)
	require.Equal(t, "full@reports.example.com", d.sent[0].To)
	require.Zero(t, stored(t, d.store, "example.com").Next)
}

// TestEachDestinationOnce: a destination that has its report is left alone while others are tried again, also after a
// restart.
func TestEachDestinationOnce(t *testing.T) {
	d, h := newDesk(t), &hook{handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }}
	s := d.serve(t, h)
	d.dns["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=mailto:a@example.com," + s.URL + ",mailto:b@example.com"}
	require.Equal(t, 2, d.at(t, 5*time.Minute))
	h.handler = nil
	require.Equal(t, 1, d.at(t, 20*time.Minute))
	require.Zero(t, d.at(t, 24*time.Hour))
	require.Len(t, d.sent, 2)
	require.Len(t, h.got, 1)
	ids := map[string]bool{}
	for _, m := range d.sent {
		msg, err := mail.ReadMessage(bytes.NewReader(m.Message))
		require.NoError(t, err)
		ids[msg.Header.Get("Message-ID")] = true
	}
	require.Len(t, ids, 2)
}

func TestWhoWantsNoReport(t *testing.T) {
	for name, txts := range map[string][]string{
		"no record": nil, "broken record": {"v=TLSRPTv1; rua="}, "two records": {"v=TLSRPTv1; rua=mailto:a@b.example", "v=TLSRPTv1; rua=mailto:a@b.example"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			delete(d.dns, "_smtp._tls.example.com")
			if txts != nil {
				d.dns["_smtp._tls.example.com"] = txts
			}
			d.count(t, "example.com")
			require.Zero(t, d.at(t, 5*time.Minute))
			require.Zero(t, stored(t, d.store, "example.com").Next, "never asked again")
		})
	}
}

func TestRecordNotKnownNow(t *testing.T) {
	d := newDesk(t)
	record := d.dns["_smtp._tls.example.com"]
	d.dns["_smtp._tls.example.com"] = nil
	d.count(t, "example.com")
	require.Zero(t, d.at(t, 5*time.Minute))
	d.dns["_smtp._tls.example.com"] = record
	require.Zero(t, d.at(t, 6*time.Minute))
	require.Equal(t, 1, d.at(t, 20*time.Minute))
}

func TestWithoutMail(t *testing.T) {
	d := newDesk(t)
	d.noMail = true
	d.count(t, "example.com")
	require.Zero(t, d.at(t, 5*time.Minute))
	require.Zero(t, stored(t, d.store, "example.com").Next)
	require.Empty(t, d.sent)
}

// TestMailSwitchedOff: a destination that was found while there was mail is not lost in a loop when there is none.
func TestMailSwitchedOff(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	d.sendErr = errors.New("no route")
	require.Zero(t, d.at(t, 5*time.Minute))
	d.noMail = true
	require.Zero(t, d.at(t, 20*time.Minute))
	require.Contains(t, d.log.String(), "not set up")
}

func TestAtMostFiveDestinations(t *testing.T) {
	d := newDesk(t)
	var to []string
	for _, c := range "abcdefgh" {
		to = append(to, "mailto:"+string(c)+"@example.com")
	}
	d.dns["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=" + strings.Join(to, ",")}
	d.count(t, "example.com")
	require.Equal(t, 5, d.at(t, 5*time.Minute))
}

// TestUnsignedReportsDoNotLeave: RFC 8460 section 5.3.
func TestUnsignedReportsDoNotLeave(t *testing.T) {
	for name, sign := range map[string]func(context.Context, []byte) ([]byte, error){
		"an error": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no key") },
		"nothing":  func(context.Context, []byte) ([]byte, error) { return nil, nil },
		"l=": func(context.Context, []byte) ([]byte, error) {
			return []byte("DKIM-Signature: v=1; a=x;\r\n l=100; b=x\r\n"), nil
		},
		"another field": func(context.Context, []byte) ([]byte, error) { return []byte("X-Signed: yes\r\n"), nil },
		"no line end":   func(context.Context, []byte) ([]byte, error) { return []byte("DKIM-Signature: v=1"), nil },
		"a whole mail": func(_ context.Context, m []byte) ([]byte, error) {
			return append([]byte("DKIM-Signature: v=1\r\n"), m...), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.sign = sign
			d.count(t, "example.com")
			require.Zero(t, d.at(t, 5*time.Minute))
			require.Empty(t, d.sent)
		})
	}
}

// TestDeadProcess: who dies between sending and storing makes a second copy, with the same id, when the lease is over.
func TestDeadProcess(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	d.now = time.Date(2026, 11, 26, 0, 5, 0, 0, time.UTC)
	r := d.reporter(t)
	lost := errors.New("disk gone")
	d.sign = func(next func(context.Context, []byte) ([]byte, error)) func(context.Context, []byte) ([]byte, error) {
		return func(ctx context.Context, m []byte) ([]byte, error) {
			d.store.set(lost)
			return next(ctx, m)
		}
	}(d.sign)
	_, err := r.SendDue(t.Context())
	require.ErrorIs(t, err, lost)
	d.store.set(nil)
	require.Len(t, d.sent, 1)
	require.Zero(t, d.at(t, 19*time.Minute))
	d.sign = newDesk(t).sign
	require.Equal(t, 1, d.at(t, 20*time.Minute))
	a, err := tlsrpt.ParseMail(bytes.NewReader(d.sent[0].Message))
	require.NoError(t, err)
	b, err := tlsrpt.ParseMail(bytes.NewReader(d.sent[1].Message))
	require.NoError(t, err)
	require.Equal(t, a.Report, b.Report)
}

// TestTakenOver: a process that was too slow adds what it sent to the state of the one that took over, and changes
// nothing else.
func TestTakenOver(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	k := tlsrpt.Key{Day: "2026-11-25", Domain: "example.com"}
	next := noon.Add(30 * time.Hour)
	sign := d.sign
	d.sign = func(ctx context.Context, m []byte) ([]byte, error) {
		require.NoError(t, d.store.Update(ctx, []tlsrpt.Key{k}, func(a *tlsrpt.Account) error {
			a.Attempts, a.Next = a.Attempts+1, next
			a.Deliveries = []tlsrpt.Delivery{{To: "mailto:tls@reports.example.com"}, {To: "https://x.example"}}
			return nil
		}))
		return sign(ctx, m)
	}
	require.Equal(t, 1, d.at(t, 5*time.Minute))
	a := stored(t, d.store, "example.com")
	require.Equal(t, next, a.Next)
	require.Equal(t, []tlsrpt.Delivery{{To: "mailto:tls@reports.example.com", Done: true}, {To: "https://x.example"}}, a.Deliveries)
}

// TestRemovedMeanwhile: an account that was removed while its report was sent stays removed.
func TestRemovedMeanwhile(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	sign := d.sign
	d.sign = func(ctx context.Context, m []byte) ([]byte, error) {
		n, err := d.store.Remove(ctx, "2027-01-01")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		return sign(ctx, m)
	}
	require.Equal(t, 1, d.at(t, 5*time.Minute))
	n, err := d.store.Remove(t.Context(), "2027-01-01")
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestKeptFor48Hours(t *testing.T) {
	d := newDesk(t)
	d.count(t, "example.com")
	d.at(t, 48*time.Hour-time.Second)
	require.NotEmpty(t, stored(t, d.store, "example.com").Policies)
	d.at(t, 48*time.Hour)
	require.Empty(t, stored(t, d.store, "example.com").Policies)
}

func TestTwoReporters(t *testing.T) {
	d := newDesk(t)
	var domains []string
	for _, c := range "abcdefghij" {
		domain := string(c) + ".example"
		domains = append(domains, domain)
		d.dns["_smtp._tls."+domain] = []string{"v=TLSRPTv1; rua=mailto:r@" + domain}
	}
	d.count(t, domains...)
	d.now = time.Date(2026, 11, 26, 0, 5, 0, 0, time.UTC)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 2 {
		r, err := tlsrpt.NewReporter(d.store, d.dns, &tlsrpt.ReporterOptions{
			Organization: "Sender", Contact: "x", Submitter: "sender.example", Now: func() time.Time { return noon.Add(24 * time.Hour) },
			Mail: &tlsrpt.MailOptions{From: "t@sender.example", Sign: d.sign, Send: func(_ context.Context, m tlsrpt.Mail) error {
				mu.Lock()
				defer mu.Unlock()
				seen[m.To]++
				return nil
			}},
		})
		require.NoError(t, err)
		wg.Go(func() {
			if _, err := r.SendDue(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 10)
	for _, n := range seen {
		require.Equal(t, 1, n)
	}
}

// TestReporterRun: all reports of a day leave in the first hours of the next, spread, and Run ends with its ctx.
func TestReporterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		start := time.Now().UTC().Truncate(24 * time.Hour) // synctest begins at midnight UTC
		c, err := tlsrpt.NewCollector(d.store, nil)
		require.NoError(t, err)
		for i := range 150 {
			domain := "d" + strings.Repeat("x", i%40) + string(rune('a'+i/40)) + ".example"
			d.dns["_smtp._tls."+domain] = []string{"v=TLSRPTv1; rua=mailto:r@" + domain}
			c.Add(t.Context(), tlsrpt.Result{Domain: domain})
		}
		require.NoError(t, c.Flush(t.Context()))
		var times []time.Time
		r, err := tlsrpt.NewReporter(d.store, d.dns, &tlsrpt.ReporterOptions{
			Organization: "Sender", Contact: "x", Submitter: "sender.example", Logger: slog.New(slog.NewTextHandler(&d.log, nil)),
			Mail: &tlsrpt.MailOptions{From: "t@sender.example", Sign: d.sign, Send: func(context.Context, tlsrpt.Mail) error {
				times = append(times, time.Now())
				return nil
			}},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(23 * time.Hour)
		require.Empty(t, times)
		d.store.set(errors.New("boom"))
		time.Sleep(90 * time.Second)
		d.store.set(nil)
		time.Sleep(24 * time.Hour)
		cancel()
		require.NoError(t, <-done)
		require.Contains(t, d.log.String(), "boom")
		require.Len(t, times, 150)
		first, last := start.Add(24*time.Hour+5*time.Minute), start.Add(28*time.Hour+6*time.Minute)
		hours := map[int]int{}
		for _, at := range times {
			require.WithinRange(t, at, first, last)
			hours[at.Hour()]++
		}
		require.GreaterOrEqual(t, len(hours), 4, "spread")
	})
}

func TestNewReporterRefuses(t *testing.T) {
	r, err := tlsrpt.NewReporter(nil, nil, nil)
	require.Nil(t, r)
	for _, want := range []string{"a store is", "a resolver is", "Organization", "Contact", "Submitter"} {
		require.ErrorContains(t, err, want)
	}
	_, err = tlsrpt.NewReporter(&tlsrpt.Memory{}, zone{}, &tlsrpt.ReporterOptions{
		Organization: "x", Contact: "x", Submitter: "x", Every: -1, Mail: &tlsrpt.MailOptions{From: "Anna <canary@x.example>"},
	})
	for _, want := range []string{"negative", "From", "Sign", "Send"} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), "canary")
}
