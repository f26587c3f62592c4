package posture_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/canon"
	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/posture"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const day = 24 * time.Hour

var start = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// opener gives a fresh database, and more handles on it.
type opener func(t testing.TB) func() *sql.DB

func lite(t testing.TB) func() *sql.DB {
	path := filepath.Join(t.TempDir(), "p.db")
	return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
}

// memory is a database that is not synced, for tests with many writes.
func memory(t testing.TB) func() *sql.DB {
	path := filepath.Join(t.TempDir(), "m.db")
	return func() *sql.DB {
		return sqldbtest.SQLite(t, path, "?_pragma=journal_mode(MEMORY)&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)")
	}
}

func single(t testing.TB) func() *sql.DB {
	again := lite(t)
	return func() *sql.DB {
		db := again()
		db.SetMaxOpenConns(1)
		return db
	}
}

func openers() map[string]opener {
	m := map[string]opener{"sqlite": lite, "sqlite one connection": single}
	maps.Copy(m, servers())
	return m
}

// each runs f on a fresh rig of each database.
func each(t *testing.T, f func(t *testing.T, r *rig)) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) { f(t, newRig(t, open, posture.Options{})) })
	}
}

// rig is a Monitor with a clock that stands still and an observer that says what it is told.
type rig struct {
	*posture.Monitor
	t     testing.TB
	db    *sql.DB
	again func() *sql.DB
	now   *atomic.Int64
	far   *far
	out   *outbox
	opts  posture.Options
}

func newRig(t testing.TB, open opener, o posture.Options) *rig {
	r := &rig{t: t, again: open(t), now: new(atomic.Int64), far: newFar(), opts: o}
	r.db = r.again()
	r.now.Store(start.UnixMicro())
	r.out = newOutbox(t, r.db)
	r.opts.Outbox, r.opts.Now, r.opts.Logger = r.out, r.clock, slog.New(slog.DiscardHandler)
	if r.opts.Rand == nil {
		r.opts.Rand = func() float64 { return 0.5 }
	}
	r.Monitor = r.open(r.db)
	return r
}

// open is another process's Monitor on db.
func (r *rig) open(db *sql.DB) *posture.Monitor {
	r.t.Helper()
	m, err := posture.New(r.t.Context(), db, r.far, &r.opts)
	require.NoError(r.t, err)
	return m
}

func (r *rig) clock() time.Time     { return time.UnixMicro(r.now.Load()).UTC() }
func (r *rig) pass(d time.Duration) { r.now.Add(d.Microseconds()) }

// as is an admin of the tenant.
func as(t testing.TB, tenant string, roles ...string) context.Context {
	return securemail.WithActor(t.Context(), securemail.Actor{Tenant: tenant, ID: "ann", Kind: "person", Roles: roles})
}

func (r *rig) admin(tenant string) context.Context { return as(r.t, tenant, "admin") }

// check looks at the domain as tenant "clinic".
func (r *rig) check(domain string) *posture.Entry {
	r.t.Helper()
	e, err := r.Check(r.admin("clinic"), "clinic", domain)
	require.NoError(r.t, err)
	return e
}

func (r *rig) least(tenant, domain string) securemail.Channel {
	r.t.Helper()
	c, err := r.Least(r.t.Context(), tenant, domain)
	require.NoError(r.t, err)
	return c
}

// far is the observer and prober.
type far struct {
	mu    sync.Mutex // guards what follows
	says  map[string]*transport.Observation
	err   error
	looks []string
	route securemail.Route
	fail  error
	block chan struct{} // looks wait for it
}

func newFar() *far { return &far{says: map[string]*transport.Observation{}} }

func (f *far) Observe(ctx context.Context, tenant, domain string) (*transport.Observation, error) {
	f.mu.Lock()
	f.looks = append(f.looks, tenant+"/"+domain)
	o, err, block := f.says[domain], f.err, f.block
	f.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err == nil && o == nil {
		err = errors.New("nobody knows")
	}
	return o, err
}

func (f *far) Probe(context.Context, string, string) (securemail.Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.route, f.fail
}

func (f *far) set(o *transport.Observation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.says[o.Domain] = o
}

func (f *far) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.looks)
}

// tls13 is an approved session.
func tls13() *securemail.TLSFacts {
	return &securemail.TLSFacts{Version: 0x0304, Suite: 0x1301, Group: 29}
}

func wire(p securemail.Proof) securemail.Wire {
	return securemail.Wire{TLS: tls13(), Proof: p, Hop: securemail.HopFinal}
}

// good is a domain with one mail host, MTA-STS enforce and a certificate for 60 days.
func good(domain string) *transport.Observation {
	mx := "mx." + domain
	w := wire(securemail.ProofSTS)
	return &transport.Observation{
		Domain: domain, Time: start, Known: true,
		Hosts: []transport.HostObservation{{
			Name: mx, Preference: 10, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Addr: netip.MustParseAddr("192.0.2.1"),
			STARTTLS: true, Extensions: []string{"SIZE", "PIPELINING"}, Versions: []uint16{0x0304, 0x0303}, Wire: w, DANE: "none",
			Certificates: []transport.Certificate{{Names: []string{mx}, Issuer: "Example CA", NotBefore: start.Add(-day), NotAfter: start.Add(60 * day), Key: "ECDSA P-256", SPKI: [32]byte{1}}},
		}},
		STS:   transport.STSObservation{State: "live", ID: "20260101", Mode: "enforce", MX: []string{mx}, MaxAge: 7 * day},
		Route: securemail.Route{Wire: w, Known: true, Until: start.Add(time.Hour)},
	}
}

// worsen takes MTA-STS away, so that PKIX is all that proves the name.
func worsen(o *transport.Observation) *transport.Observation {
	if len(o.Hosts) == 0 {
		return o
	}
	o.STS = transport.STSObservation{State: "none"}
	o.Route.Wire, o.Hosts[0].Wire = wire(securemail.ProofPKIX), wire(securemail.ProofPKIX)
	return o
}

// silent is a domain whose mail hosts can't be found out.
func silent(domain string) *transport.Observation {
	return &transport.Observation{Domain: domain, STS: transport.STSObservation{State: "unknown"}}
}

func address(t testing.TB, s string) securemail.Address {
	t.Helper()
	a, err := securemail.ParseAddress(s)
	require.NoError(t, err)
	return a
}

// delivered is the event of a delivery.
func delivered(t testing.TB, id, tenant, to string, at time.Time, w securemail.Wire) securemail.Event {
	by := securemail.Actor{Tenant: tenant, ID: "mailer", Kind: "part"}
	e := securemail.Event{ID: id, Kind: "delivered", Time: at, By: by}
	e.Status.ID, e.Status.Actor = securemail.ParcelID(id), securemail.Actor{Tenant: tenant, ID: "host", Kind: "service"}
	e.Recipient.Address = address(t, to)
	e.State = securemail.StateDelivered
	e.Receipt = &securemail.Receipt{Wire: w, Time: at, Peer: "mx.example"}
	return e
}

// deliver emits one delivery at the rig's time.
func (r *rig) deliver(tenant, domain string, w securemail.Wire) {
	r.t.Helper()
	require.NoError(r.t, r.Emit(r.t.Context(), delivered(r.t, "p", tenant, "anna@"+domain, r.clock(), w)))
}

// outbox keeps events in a table of the same database.
type outbox struct {
	t  testing.TB
	db *sql.DB
	d  *sqldb.DB
}

func newOutbox(t testing.TB, db *sql.DB) *outbox {
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "outboxtest", []string{"CREATE TABLE outboxtest_event (pos {serial}, id TEXT UNIQUE, body {bytes} NOT NULL);\n"}))
	return &outbox{t, db, d}
}

func (o *outbox) Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	for _, e := range es {
		b, err := canon.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, o.d.Rebind("INSERT INTO outboxtest_event (id, body) VALUES (?, ?)"), e.ID, b); err != nil {
			return err
		}
	}
	return nil
}

func (o *outbox) Next(context.Context, string, int) ([]securemail.Event, error) { return nil, nil }
func (o *outbox) Ack(context.Context, string, string) error                     { return nil }

// drain gives the events and forgets them.
func (o *outbox) drain() []securemail.Event {
	o.t.Helper()
	rows, err := o.db.Query("SELECT body FROM outboxtest_event ORDER BY pos")
	require.NoError(o.t, err)
	defer rows.Close()
	var out []securemail.Event
	for rows.Next() {
		var b []byte
		require.NoError(o.t, rows.Scan(&b))
		var e securemail.Event
		require.NoError(o.t, canon.Unmarshal(b, &e))
		out = append(out, e)
	}
	require.NoError(o.t, rows.Err())
	require.NoError(o.t, rows.Close())
	_, err = o.db.Exec("DELETE FROM outboxtest_event")
	require.NoError(o.t, err)
	return out
}

// kinds are the events' kinds without the prefix, and forgets them.
func (o *outbox) kinds() string {
	o.t.Helper()
	var ks []string
	for _, e := range o.drain() {
		require.NotEmpty(o.t, e.ID)
		require.Equal(o.t, "clinic", e.By.Tenant, "the tenant is always set")
		require.NotEmpty(o.t, e.Detail["domain"])
		ks = append(ks, strings.TrimPrefix(e.Kind, "posture."))
	}
	return strings.Join(ks, " ")
}
