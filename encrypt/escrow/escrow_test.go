package escrow_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// Canaries that must show up nowhere but inside the seal.
const (
	canarySubject = "zq-subject-biopsy"
	canaryBody    = "zq-body-carcinoma"
	canaryLocal   = "zq-anna"
	canaryName    = "Zq-Anna Zq-Quist"
	canaryCode    = "ZQ77-3141"
	canaryAnswer  = "zq-rover"
	canaryPatient = "zq-mrn-4711"
)

// rig is an escrow on a SQLite file with one connection, as strict as a host can be.
type rig struct {
	t      *testing.T
	dir    string
	db     *sql.DB
	ring   *keyring.File
	e      *escrow.Escrow
	outbox *outbox
	log    *bytes.Buffer
	now    time.Time
	route  securemail.Route
	probe  error
}

func open(t *testing.T, change func(*escrow.Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), outbox: &outbox{}, log: &bytes.Buffer{}, now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	r.db = openDB(t, r.dir)
	ring, err := keyring.OpenFile(filepath.Join(r.dir, "ring.key"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ring.Close()) })
	r.ring = ring
	r.reopen(change)
	return r
}

// openDB gives the database of a rig; the interop lane puts PostgreSQL in its place.
var openDB = func(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db := sqldbtest.SQLite(t, filepath.Join(dir, "mail.db"), sqldbtest.Safe)
	db.SetMaxOpenConns(1)
	return db
}

func (r *rig) reopen(change func(*escrow.Options)) {
	r.t.Helper()
	o := &escrow.Options{
		BaseURL: "https://mail.example.org", Brand: escrow.Brand{Name: "Example Clinic"},
		Prober: prober(func() (securemail.Route, error) { return r.route, r.probe }),
		Outbox: r.outbox, Now: func() time.Time { return r.now },
		Logger: slog.New(slog.NewTextHandler(r.log, nil)),
	}
	if change != nil {
		change(o)
	}
	e, err := escrow.New(r.t.Context(), r.db, r.ring, o)
	require.NoError(r.t, err)
	require.Equal(r.t, uint32(19<<10), escrow.Memory(e)) // OWASP's, outside of tests
	r.e = escrow.Cheapen(e)
}

type prober func() (securemail.Route, error)

func (f prober) Probe(context.Context, string, string) (securemail.Route, error) { return f() }

type outbox struct {
	mu     sync.Mutex
	events []securemail.Event
	err    error
}

func (o *outbox) Add(_ context.Context, _ *sql.Tx, es ...securemail.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	o.events = append(o.events, es...)
	return nil
}

func (o *outbox) Next(context.Context, string, int) ([]securemail.Event, error) { return nil, nil }
func (o *outbox) Ack(context.Context, string, string) error                     { return nil }

func (o *outbox) kinds() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ks []string
	for _, e := range o.events {
		ks = append(ks, e.Kind)
	}
	return ks
}

func job(t *testing.T, id string, fs ...securemail.Factor) *securemail.Job {
	t.Helper()
	raw := "From: \"Dr " + canaryName + "\" <desk@clinic.example>\r\nTo: " + canaryName + " <" + canaryLocal + "@mail.example.com>\r\n" +
		"Subject: " + canarySubject + "\r\nDate: Tue, 24 Nov 2026 11:00:00 +0000\r\nMessage-ID: <m-" + id + "@clinic.example>\r\n" +
		"Reply-To: " + canaryName + " <back@clinic.example>\r\n\r\n" + canaryBody + "\r\n"
	m, err := securemail.NewMessage(securemail.Bytes([]byte(raw)))
	require.NoError(t, err)
	p := &securemail.Parcel{Message: m, Factors: fs}
	p.ID = securemail.ParcelID(id)
	p.Submission = "sub-" + id
	p.Actor = securemail.Actor{Tenant: "clinic", ID: "ehr", Kind: "service"}
	p.From = securemail.Mailbox("Dr " + canaryName + " <desk@clinic.example>")
	p.Recipient = securemail.Mailbox(canaryName + " <" + canaryLocal + "@mail.example.com>")
	p.Subjects = []securemail.Subject{canaryPatient}
	return &securemail.Job{Parcel: p, Choice: securemail.Choice{Method: securemail.MethodEscrow}}
}

func factor(kind, value string) securemail.Factor {
	return securemail.Factor{Kind: kind, Hint: "hint of " + kind, Value: securemail.NewSecret(value)}
}

// locator reads the link out of a notice as a recipient's mail program would.
func locator(t *testing.T, m *securemail.Message) escrow.Locator {
	t.Helper()
	text, _ := bodies(t, m)
	_, rest, ok := strings.Cut(text, "https://mail.example.org/m/")
	require.True(t, ok, text)
	l, err := escrow.ParseLocator(strings.Fields(rest)[0])
	require.NoError(t, err)
	return l
}

func bodies(t *testing.T, m *securemail.Message) (text, html string) {
	t.Helper()
	r, err := m.Open()
	require.NoError(t, err)
	defer r.Close()
	msg, err := mail.ReadMessage(r)
	require.NoError(t, err)
	_, boundary, ok := strings.Cut(msg.Header.Get("Content-Type"), "boundary=")
	require.True(t, ok)
	mr := multipart.NewReader(msg.Body, strings.Trim(boundary, `"`))
	var out []string
	for {
		p, err := mr.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		b, err := io.ReadAll(quotedprintable.NewReader(p))
		require.NoError(t, err)
		out = append(out, string(b))
	}
	require.Len(t, out, 2)
	return out[0], out[1]
}

func whole(t *testing.T, m *securemail.Message) string {
	t.Helper()
	r, err := m.Open()
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

// plaintext fails if any file of the rig holds one of the canaries.
func (r *rig) plaintext(canaries ...string) {
	r.t.Helper()
	_, err := r.db.ExecContext(r.t.Context(), "PRAGMA wal_checkpoint(FULL)")
	require.NoError(r.t, err)
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	require.NoError(r.t, err)
	require.NotEmpty(r.t, files)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(r.t, err)
		for _, c := range canaries {
			require.NotContains(r.t, strings.ToLower(string(b)), strings.ToLower(c), filepath.Base(f))
		}
	}
}

func known(w securemail.Wire) securemail.Route { return securemail.Route{Wire: w, Known: true} }

var goodWire = securemail.Wire{TLS: &securemail.TLSFacts{Version: 0x0304, Suite: 0x1301}, Hop: securemail.HopFinal}

func TestNewNamesEveryFault(t *testing.T) {
	e, err := escrow.New(t.Context(), nil, nil, &escrow.Options{Brand: escrow.Brand{Name: "a\r\nBcc: x"}, Expiry: -1})
	require.Nil(t, e)
	for _, s := range []string{"base URL", "brand", "expiry", "database", "key ring"} {
		require.ErrorContains(t, err, s)
	}
	_, err = escrow.New(t.Context(), nil, nil, nil)
	require.Error(t, err)
}

func TestBaseURL(t *testing.T) {
	r := open(t, nil)
	for _, c := range []struct {
		url      string
		loopback bool
		ok       bool
	}{
		{"https://mail.example.org", false, true},
		{"https://mail.example.org/", false, true},
		{"https://mail.example.org:8443/secure", false, true},
		{"http://127.0.0.1:8080", true, true},
		{"http://[::1]:8080", true, true},
		{"http://localhost:8080", true, true},
		{"http://127.0.0.1:8080", false, false},
		{"http://mail.example.org", true, false},
		{"http://localhost.example.org", true, false},
		{"", false, false},
		{"mail.example.org", false, false},
		{"https://", false, false},
		{"https://:443", false, false},
		{"https://user@mail.example.org", false, false},
		{"https://mail.example.org?x=1", false, false},
		{"https://mail.example.org#x", false, false},
		{"https://mail.example.org/{id}", false, false},
		{"https://mail.example.org/a/../b", false, false},
		{"https://mail.example.org/a//b", false, false},
		{"https://mail.example.org/%2e", false, false},
		{"https://mail.example.org/\r\nX: y", false, false},
		{"javascript://mail.example.org", false, false},
	} {
		e, err := escrow.New(t.Context(), r.db, r.ring, &escrow.Options{BaseURL: c.url, InsecureLoopback: c.loopback})
		require.Equal(t, c.ok, err == nil, "%s %v", c.url, err)
		if c.ok {
			require.Equal(t, strings.TrimRight(c.url, "/"), e.BaseURL().String())
			require.Equal(t, strings.TrimRight(c.url, "/")+"/m/xyz", e.Link("xyz"))
		}
	}
}

func TestNewFailsWithoutDatabaseOrRing(t *testing.T) {
	r := open(t, nil)
	closed, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "x.db"))
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	_, err = escrow.New(t.Context(), closed, r.ring, &escrow.Options{BaseURL: "https://a.example"})
	require.Error(t, err)
	for n := range 3 {
		_, err = escrow.New(t.Context(), openDB(t, t.TempDir()), &brokenRing{KeyRing: r.ring, after: n}, &escrow.Options{BaseURL: "https://a.example"})
		require.Error(t, err)
	}
}

// brokenRing fails from its call number after on.
type brokenRing struct {
	securemail.KeyRing
	mu           sync.Mutex // guards calls
	after, calls int
}

func (b *brokenRing) broken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	return b.calls > b.after
}

var errRing = errors.New("ring: away")

func (b *brokenRing) Wrap(ctx context.Context, k []byte, s ...string) ([]byte, error) {
	if b.broken() {
		return nil, errRing
	}
	return b.KeyRing.Wrap(ctx, k, s...)
}

func (b *brokenRing) Unwrap(ctx context.Context, w []byte) ([]byte, error) {
	if b.broken() {
		return nil, errRing
	}
	return b.KeyRing.Unwrap(ctx, w)
}

func (b *brokenRing) Destroy(ctx context.Context, s string) (securemail.Destruction, error) {
	if b.broken() {
		return securemail.Destruction{}, errRing
	}
	return b.KeyRing.Destroy(ctx, s)
}

func TestNoticeHoldsNothing(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	s, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	require.Equal(t, securemail.MethodEscrow, r.e.Method())
	require.Equal(t, j.Message.Header("Message-ID"), s.Message.Header("Message-ID"))
	require.Equal(t, escrow.Algorithm, s.Algorithm)
	require.Len(t, s.Keys, 1)
	require.Len(t, s.Keys[0], 64)
	require.NotEmpty(t, s.Detail["deposit"])

	all := whole(t, s.Message)
	text, html := bodies(t, s.Message)
	for _, c := range []string{canarySubject, canaryBody, canaryName, canaryCode, canaryPatient, "back@clinic.example", "hint of"} {
		require.NotContains(t, all+text+html, c)
	}
	// RFC 5321: the recipient's address must be in the envelope; it is in To and nowhere else.
	require.Equal(t, 1, strings.Count(all, canaryLocal))
	require.Equal(t, []string{"<" + canaryLocal + "@mail.example.com>"}, s.Message.Header("To"))
	require.Equal(t, []string{`"Example Clinic" <desk@clinic.example>`}, s.Message.Header("From"))
	require.Equal(t, []string{"auto-generated"}, s.Message.Header("Auto-Submitted"))
	require.Contains(t, text, "clinic.example has sent you a secure message")
	require.Contains(t, text, "24 December 2026, 12:00 UTC")
	require.Contains(t, text, "Example Clinic")
	require.Contains(t, html, r.e.Link(locator(t, s.Message)))
	require.NotContains(t, html, "<script")
}

func TestNoticeOfOtherBrands(t *testing.T) {
	for name, from := range map[string]string{
		"":             "<desk@clinic.example>",
		"Klinik Süd":   "=?utf-8?b?S2xpbmlrIFPDvGQ=?= <desk@clinic.example>",
		`A "B", <c@d>`: `"A \"B\", <c@d>" <desk@clinic.example>`,
	} {
		r := open(t, func(o *escrow.Options) { o.Brand.Name = name })
		require.Equal(t, name, r.e.Brand().Name)
		s, err := r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
		require.NoError(t, err)
		require.Equal(t, []string{from}, s.Message.Header("From"))
		_, err = mail.ParseAddress(s.Message.Header("From")[0])
		require.NoError(t, err)
	}
	r := open(t, func(o *escrow.Options) { o.Brand.Name = strings.Repeat("ä", 80) })
	s, err := r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.NoError(t, err)
	for line := range strings.SplitSeq(string(s.Message.Head()), "\r\n") {
		require.LessOrEqual(t, len(line), 120)
	}
}

func TestOneDepositPerParcel(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	first, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	r.reopen(nil) // another process
	second, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	require.Equal(t, first.Protection, second.Protection)
	require.Equal(t, locator(t, first.Message), locator(t, second.Message))
	require.Equal(t, first.Message.Header("Date"), second.Message.Header("Date"))
	require.Equal(t, []string{"deposited"}, r.outbox.kinds())
	ev := r.outbox.events[0]
	require.Equal(t, securemail.ParcelID("p1"), ev.Status.ID)
	require.Equal(t, securemail.Actor{Tenant: "clinic", ID: "escrow", Kind: "part"}, ev.By)
	require.Equal(t, securemail.MethodEscrow, ev.Choice.Method)

	other, err := r.e.Encrypt(t.Context(), job(t, "p2", factor("code", canaryCode)))
	require.NoError(t, err)
	require.NotEqual(t, locator(t, first.Message), locator(t, other.Message))
}

func TestOneDepositPerParcelAtOnce(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	var wg sync.WaitGroup
	locs := make([]escrow.Locator, 4)
	for i := range locs {
		wg.Go(func() {
			s, err := r.e.Encrypt(t.Context(), j)
			if err == nil {
				locs[i] = locator(t, s.Message)
			}
		})
	}
	wg.Wait()
	for _, l := range locs {
		require.Equal(t, locs[0], l)
		require.NotEmpty(t, l)
	}
	require.Equal(t, []string{"deposited"}, r.outbox.kinds())
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT COUNT(DISTINCT deposit) FROM escrow_body").Scan(&n))
	require.Equal(t, 1, n)
}

func TestAuthentication(t *testing.T) {
	code, question := factor("code", canaryCode), factor("question", canaryAnswer)
	dark := securemail.Route{}
	bad := known(securemail.Wire{})
	relay := known(securemail.Wire{TLS: goodWire.TLS, Hop: securemail.HopRelay})
	for name, c := range map[string]struct {
		profile string
		factors []securemail.Factor
		route   securemail.Route
		probe   error
		want    string // "", "hold" or "retry"
		mail    bool
		ask     bool
	}{
		"factor, bad route":                {factors: []securemail.Factor{code}, route: bad},
		"factor, good route: no mail":      {factors: []securemail.Factor{code}, route: known(goodWire)},
		"no factor, good route":            {route: known(goodWire), mail: true},
		"no factor, bad route":             {route: bad, want: "hold"},
		"no factor, relay of nobody":       {route: relay, want: "hold"},
		"no factor, dark route":            {route: dark, want: "retry"},
		"no factor, probe fails":           {probe: errors.New("dns away"), want: "retry"},
		"no factor, hold in probe's error": {probe: errors.New("x"), route: bad, want: "retry"},
		"mail wished":                      {profile: "code-by-mail", route: known(goodWire), mail: true},
		"mail wished, factor too":          {profile: "code-by-mail", factors: []securemail.Factor{code, question}, route: known(goodWire), mail: true, ask: true},
		"mail wished, bad route, factor":   {profile: "code-by-mail", factors: []securemail.Factor{code}, route: bad},
		"mail wished, dark route, factor":  {profile: "code-by-mail", factors: []securemail.Factor{code}, route: dark},
		"mail wished, bad route":           {profile: "code-by-mail", route: bad, want: "hold"},
		"mail wished, dark route":          {profile: "code-by-mail", route: dark, want: "retry"},
		"code wished":                      {profile: "code", factors: []securemail.Factor{code, question}, route: bad},
		"code wished, none":                {profile: "code", factors: []securemail.Factor{question}, route: known(goodWire), want: "hold"},
		"question wished":                  {profile: "question", factors: []securemail.Factor{code, question}, route: bad, ask: true},
		"question wished, none":            {profile: "question", factors: []securemail.Factor{code}, route: known(goodWire), want: "hold"},
		"unknown profile":                  {profile: "passkey", factors: []securemail.Factor{code}, route: known(goodWire), want: "hold"},
		"code too short":                   {factors: []securemail.Factor{factor("code", "1234")}, route: bad, want: "hold"},
		"code too long":                    {factors: []securemail.Factor{factor("code", strings.Repeat("1", 300))}, route: bad, want: "hold"},
		"empty answer":                     {factors: []securemail.Factor{factor("question", "  ")}, route: bad, want: "hold"},
		"kind of later":                    {factors: []securemail.Factor{factor("sms", "+15551234567")}, route: bad, want: "hold"},
		"too many":                         {factors: []securemail.Factor{code, code, code, code, code, code, code, code, code}, want: "hold"},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, nil)
			r.route, r.probe = c.route, c.probe
			j := job(t, "p1", c.factors...)
			j.Choice.Profile = c.profile
			s, err := r.e.Encrypt(t.Context(), j)
			if c.want != "" {
				require.Error(t, err)
				require.Nil(t, s)
				require.Equal(t, c.want == "hold", errors.Is(err, securemail.ErrHold), err)
				require.False(t, errors.Is(err, securemail.ErrNoKey))
				require.NotContains(t, err.Error(), canaryLocal)
				require.Empty(t, r.outbox.kinds())
				return
			}
			require.NoError(t, err)
			d, err := r.e.Find(t.Context(), locator(t, s.Message))
			require.NoError(t, err)
			require.True(t, d.Live())
			require.Equal(t, c.mail, d.TakesMailCode())
			require.Equal(t, c.ask, d.Question() != "")
		})
	}
}

func TestWithoutProberIsHeld(t *testing.T) {
	r := open(t, func(o *escrow.Options) { o.Prober = nil })
	_, err := r.e.Encrypt(t.Context(), job(t, "p1"))
	require.ErrorIs(t, err, securemail.ErrHold)
}

func TestBadJobs(t *testing.T) {
	r := open(t, nil)
	_, err := r.e.Encrypt(t.Context(), nil)
	require.Error(t, err)
	_, err = r.e.Encrypt(t.Context(), &securemail.Job{Parcel: &securemail.Parcel{}})
	require.Error(t, err)

	for _, head := range []string{"Subject: x\r\n\r\n", "Message-ID: <a@b>\r\nMessage-ID: <c@d>\r\n\r\n"} {
		j := job(t, "p1", factor("code", canaryCode))
		m, err := j.Message.WithHead([]byte(head))
		require.NoError(t, err)
		j.Parcel = j.With(m)
		_, err = r.e.Encrypt(t.Context(), j)
		require.Error(t, err)
		require.NotErrorIs(t, err, securemail.ErrHold)
	}

	late := job(t, "p2", factor("code", canaryCode))
	late.AccessUntil = r.now
	_, err = r.e.Encrypt(t.Context(), late)
	require.ErrorIs(t, err, securemail.ErrHold)

	broken := job(t, "p3", factor("code", canaryCode))
	src := &source{b: []byte(whole(t, broken.Message))}
	m, err := securemail.NewMessage(src)
	require.NoError(t, err)
	src.err = errors.New("disk away")
	broken.Parcel = broken.With(m)
	_, err = r.e.Encrypt(t.Context(), broken)
	require.ErrorContains(t, err, "disk away")
	require.Empty(t, r.outbox.kinds())
}

type source struct {
	b   []byte
	err error
}

func (s *source) Size() int64 { return int64(len(s.b)) }
func (s *source) Open() (io.ReadCloser, error) {
	if s.err != nil {
		return nil, s.err
	}
	return io.NopCloser(bytes.NewReader(s.b)), nil
}

// A message that lies in the same database must not wait for the one connection that the deposit's transaction holds.
func TestMessageFromTheSameDatabase(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	m, err := securemail.NewMessage(&inDB{r.db, []byte(whole(t, j.Message))})
	require.NoError(t, err)
	j.Parcel = j.With(m)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = r.e.Encrypt(ctx, j)
	require.NoError(t, err)
}

type inDB struct {
	db *sql.DB
	b  []byte
}

func (s *inDB) Size() int64 { return int64(len(s.b)) }
func (s *inDB) Open() (io.ReadCloser, error) {
	var b []byte
	if err := s.db.QueryRow("SELECT ?", s.b).Scan(&b); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func TestAtRestNothingIsReadable(t *testing.T) {
	r := open(t, nil)
	r.route = known(goodWire)
	j := job(t, "p1", factor("code", canaryCode), factor("question", canaryAnswer))
	s, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	l := locator(t, s.Message)
	r.plaintext(canarySubject, canaryBody, canaryLocal, "zq-quist", canaryCode, "zq773141", canaryAnswer, canaryPatient,
		string(l), "hint of", "desk@clinic.example")
	require.NotContains(t, r.log.String(), canaryLocal)
	require.NotContains(t, r.log.String(), string(l))
}

func TestUndoLeavesNothing(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	s, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	l := locator(t, s.Message)

	copied := filepath.Join(t.TempDir(), "copy.db")
	_, err = r.db.ExecContext(t.Context(), "VACUUM INTO ?", copied)
	require.NoError(t, err)

	require.NoError(t, r.e.Undo(t.Context(), "unknown"))
	require.NoError(t, r.e.Undo(t.Context(), "p1"))
	require.NoError(t, r.e.Undo(t.Context(), "p1"))
	d, err := r.e.Find(t.Context(), l)
	require.NoError(t, err)
	require.False(t, d.Live())
	for _, q := range []string{"SELECT COUNT(*) FROM escrow_deposit", "SELECT COUNT(*) FROM escrow_body"} {
		var n int
		require.NoError(t, r.db.QueryRowContext(t.Context(), q).Scan(&n))
		require.Zero(t, n)
	}

	// An older copy of the database opens nothing either: the key is gone.
	old, err := sql.Open("sqlite", "file:"+copied)
	require.NoError(t, err)
	defer old.Close()
	e, err := escrow.New(t.Context(), old, r.ring, &escrow.Options{BaseURL: "https://mail.example.org", Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	d, err = e.Find(t.Context(), l)
	require.NoError(t, err)
	require.False(t, d.Live())
	_, err = e.Encrypt(t.Context(), j)
	require.ErrorIs(t, err, keyring.ErrDestroyed)
	require.ErrorIs(t, err, securemail.ErrHold) // trying again would not help

	// After Undo the parcel may come back: that is a new deposit.
	s, err = r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	require.NotEqual(t, l, locator(t, s.Message))
}

func TestUndoGoesOnAfterACrash(t *testing.T) {
	r := open(t, nil)
	s, err := r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.NoError(t, err)
	_, err = r.ring.Destroy(t.Context(), escrow.DepositScope(s.Detail["deposit"])) // the key went, the rows are there
	require.NoError(t, err)
	require.NoError(t, r.e.Undo(t.Context(), "p1"))
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM escrow_body").Scan(&n))
	require.Zero(t, n)
}

func TestAnyScopeDestroysTheDeposit(t *testing.T) {
	for _, scope := range []string{escrow.TenantScope("clinic"), escrow.SubjectScope("clinic", canaryPatient)} {
		r := open(t, nil)
		s, err := r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
		require.NoError(t, err)
		_, err = r.ring.Destroy(t.Context(), scope)
		require.NoError(t, err)
		d, err := r.e.Find(t.Context(), locator(t, s.Message))
		require.NoError(t, err)
		require.False(t, d.Live())
		require.Empty(t, d.Tenant())
	}
	require.Equal(t, "subject/4711", escrow.SubjectScope("", "4711"))
	require.NotEqual(t, escrow.SubjectScope("a/b", "c"), escrow.SubjectScope("a", "b/c"))
	require.NotEqual(t, escrow.SubjectScope("a%2Fb", "c"), escrow.SubjectScope("a/b", "c"))
}
