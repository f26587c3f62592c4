package portal_test

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/encrypt/escrow/portal"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const (
	canarySubject = "zq-subject-biopsy"
	canaryBody    = "zq-body-carcinoma"
	canaryLocal   = "zq-anna"
	canaryName    = "Zq-Quist"
	accessCode    = "ZQ77-3141"
	answer        = "zq-rover"
)

// rig is a portal as a host mounts it, on a SQLite file with one connection.
type rig struct {
	t    *testing.T
	dir  string
	db   *sql.DB
	ring *keyring.File
	e    *escrow.Escrow
	p    *portal.Portal
	mux  *http.ServeMux
	srv  *httptest.Server
	log  *bytes.Buffer
	path string // of BaseURL

	mu     sync.Mutex // guards what follows
	now    time.Time
	mails  []*securemail.Draft
	actors []securemail.Actor
	fail   error
	away   error
	events []securemail.Event
	route  securemail.Route
	logged sync.Mutex
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &bytes.Buffer{}, now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	r.db = openDB(t, r.dir)
	var err error
	r.ring, err = keyring.OpenFile(filepath.Join(r.dir, "ring.key"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.ring.Close()) })
	r.route = securemail.Route{Known: true, Wire: securemail.Wire{
		TLS: &securemail.TLSFacts{Version: 0x0304, Suite: 0x1301}, Hop: securemail.HopFinal,
	}}
	r.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.mux.ServeHTTP(w, req) }))
	r.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.srv.StartTLS()
	t.Cleanup(r.srv.Close)
	r.start()
	return r
}

// openDB gives the database of a rig; the interop lane puts PostgreSQL in its place.
var openDB = func(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db := sqldbtest.SQLite(t, filepath.Join(dir, "mail.db"), sqldbtest.Safe)
	db.SetMaxOpenConns(1)
	return db
}

// start opens escrow and portal anew on the same database, as a restart does.
func (r *rig) start() {
	r.t.Helper()
	var err error
	r.e, err = escrow.New(r.t.Context(), r.db, r.ring, &escrow.Options{
		BaseURL: r.srv.URL + r.path, Brand: escrow.Brand{Name: "Example Clinic"}, Prober: r, Outbox: r, Now: r.clock, Logger: r.logger(),
	})
	require.NoError(r.t, err)
	p, err := portal.New(&portal.Options{Escrow: r.e, Sender: r, Now: r.clock, Logger: r.logger(), Floor: -1})
	require.NoError(r.t, err)
	r.p, r.mux = p, http.NewServeMux()
	r.mux.Handle(p.Pattern(), p)
}

func (r *rig) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }
func (r *rig) Write(b []byte) (int, error) {
	r.logged.Lock()
	defer r.logged.Unlock()
	return r.log.Write(b)
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) Probe(context.Context, string, string) (securemail.Route, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.route, nil
}

func (r *rig) Send(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
	// A Sender that needs the one connection must get it.
	if err := r.db.PingContext(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	a, _ := securemail.ActorOf(ctx)
	r.mails, r.actors = append(r.mails, d), append(r.actors, a)
	return &securemail.Submission{}, nil
}

func (r *rig) Add(_ context.Context, _ *sql.Tx, es ...securemail.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil {
		return r.away
	}
	r.events = append(r.events, es...)
	return nil
}
func (r *rig) Next(context.Context, string, int) ([]securemail.Event, error) { return nil, nil }
func (r *rig) Ack(context.Context, string, string) error                     { return nil }

func (r *rig) kinds() (ks []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		ks = append(ks, e.Kind)
	}
	return ks
}

func (r *rig) mailed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mails)
}

// code is what the last mail says.
func (r *rig) code() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NotEmpty(r.t, r.mails)
	c := regexp.MustCompile(`\b[0-9]{8}\b`).FindAllString(r.mails[len(r.mails)-1].Text, -1)
	require.Len(r.t, c, 1)
	return c[0]
}

// message is a multipart mail as clients make it.
const message = "From: \"Dr " + canaryName + "\" <desk@clinic.example>\r\nTo: <" + canaryLocal + "@mail.example.com>\r\n" +
	"Subject: =?utf-8?q?" + canarySubject + "_=E2=9C=93?=\r\nDate: Tue, 24 Nov 2026 11:00:00 +0000\r\nMessage-ID: <m1@clinic.example>\r\n" +
	"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" +
	"--a\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nplain " + canaryBody + "\r\n" +
	"--b\r\nContent-Type: multipart/related; boundary=c\r\n\r\n" +
	"--c\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>html " + canaryBody + "</p><img src=\"cid:logo@x\" alt=\"logo\">\r\n" +
	"--c\r\nContent-Type: image/png\r\nContent-ID: <logo@x>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--c--\r\n--b--\r\n" +
	"--a\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=\"report.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQK\r\n--a--\r\n"

type deposit struct {
	raw     string
	profile string
	until   time.Time
	factors []securemail.Factor
}

var (
	withCode     = securemail.Factor{Kind: "code", Value: securemail.NewSecret(accessCode)}
	withQuestion = securemail.Factor{Kind: "question", Hint: "Your first dog?", Value: securemail.NewSecret(answer)}
)

// put deposits a message and gives its link.
func (r *rig) put(id string, d deposit) string {
	r.t.Helper()
	if d.raw == "" {
		d.raw = message
	}
	m, err := securemail.NewMessage(securemail.Bytes([]byte(d.raw)))
	require.NoError(r.t, err)
	p := &securemail.Parcel{Message: m, Factors: d.factors}
	p.ID = securemail.ParcelID(id)
	p.Actor = securemail.Actor{Tenant: "clinic", ID: "ehr", Kind: "service"}
	p.From = securemail.Mailbox("Dr " + canaryName + " <desk@clinic.example>")
	p.Recipient = securemail.Mailbox(canaryName + " <" + canaryLocal + "@mail.example.com>")
	p.AccessUntil = d.until
	s, err := r.e.Encrypt(r.t.Context(), &securemail.Job{Parcel: p, Choice: securemail.Choice{Method: securemail.MethodEscrow, Profile: d.profile}})
	require.NoError(r.t, err)
	src, err := s.Message.Open()
	require.NoError(r.t, err)
	defer src.Close()
	b, err := io.ReadAll(src)
	require.NoError(r.t, err)
	flat := strings.ReplaceAll(string(b), "=\r\n", "") // soft line breaks of quoted-printable
	link := regexp.MustCompile(regexp.QuoteMeta(r.srv.URL+r.path) + `/m/[0-9a-v]{32}`).FindString(flat)
	require.NotEmpty(r.t, link)
	return link
}

// browser is one person's, with cookies and without following redirects.
type browser struct {
	r *rig
	*http.Client
}

func (r *rig) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(r.t, err)
	c := *r.srv.Client()
	c.Jar = jar
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{r, &c}
}

type answered struct {
	code int
	head http.Header
	body string
}

func (b *browser) do(req *http.Request) answered {
	b.r.t.Helper()
	res, err := b.Do(req)
	require.NoError(b.r.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(b.r.t, err)
	return answered{res.StatusCode, res.Header, string(body)}
}

func (b *browser) get(link string) answered { return b.ask(http.MethodGet, link) }

func (b *browser) ask(method, link string) answered {
	req, err := http.NewRequestWithContext(b.r.t.Context(), method, link, nil)
	require.NoError(b.r.t, err)
	return b.do(req)
}

func (b *browser) post(link string, kv ...string) answered {
	form := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		form.Set(kv[i], kv[i+1])
	}
	req, err := http.NewRequestWithContext(b.r.t.Context(), http.MethodPost, link, strings.NewReader(form.Encode()))
	require.NoError(b.r.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req)
}

// in signs in with the access code.
func (b *browser) in(link string) *browser {
	b.r.t.Helper()
	require.Equal(b.r.t, http.StatusSeeOther, b.post(link, "access_code", accessCode).code)
	return b
}

func (b *browser) reads(link string) bool {
	return strings.Contains(b.get(link).body, canarySubject)
}
