package posture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

// The actions asked of the Authorizer, on the kind "domain".
const (
	actRead  securemail.Action = "read.posture"
	actWrite securemail.Action = "write.posture"
)

// Resolver finds the TLSRPT record of a domain; *net.Resolver is one. "There is none" is a *net.DNSError with IsNotFound;
// any other error is "not known now".
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Options tune a [Monitor]. Nil and zero fields are the defaults.
type Options struct {
	// Outbox takes the alerts. It must be on the same database. Nil: none are told, and history is kept all the same.
	Outbox securemail.Outbox
	// Authorizer is asked for "write.posture" by Watch, Unwatch and overrides, and for "read.posture" by Check, History,
	// Ratchet and Report. Nil: the Actor's own tenant; writing needs the role "admin".
	Authorizer securemail.Authorizer
	// Resolver looks up TLSRPT records (RFC 8460 section 3). Nil: "unknown".
	Resolver Resolver
	// Prober answers CanForward. Nil: the Observer if it is one, else every answer is no.
	Prober securemail.Prober
	// AutoWatch watches the domains that mail went to, until none went there for AutoKeep; false: only what Watch
	// names. AutoKeep 0: 90 days. MaxAuto bounds them in each tenant; 0: 10,000.
	AutoWatch bool
	AutoKeep  time.Duration
	MaxAuto   int
	// Interval is the time between two looks at a domain, 0: 24 h; Jitter spreads them, 0: an eighth of Interval, at most
	// Interval. A look that found nothing out is repeated after a twelfth.
	Interval, Jitter time.Duration
	// Timeout bounds one look; 0: 2 min. Concurrency is how many run at once; 0: 4. PerPass bounds those of one pass of
	// Run, which makes one a minute; 0: 100.
	Timeout     time.Duration
	Concurrency int
	PerPass     int
	// ByTenant makes Run look at a domain for each tenant that watches it, for an Observer that sees other things for another
	// tenant. False: one look serves all tenants of this process for a twelfth of Interval. Check always looks.
	ByTenant bool
	// CertWarning is how long before a certificate's end it is told; 0: 14 days.
	CertWarning time.Duration
	// Retention is how long history is kept behind the last look that confirmed it; 0: 400 days.
	Retention time.Duration
	// Now nil: time.Now. Rand gives a number from 0 to below 1; nil: math/rand/v2. Logger nil: slog.Default(); it gets
	// domains, hosts and rules.
	Now    func() time.Time
	Rand   func() float64
	Logger *slog.Logger
}

// Monitor watches domains. It is safe for concurrent use, by several processes on one database as well.
type Monitor struct {
	o    Options
	d    *sqldb.DB
	raw  *sql.DB
	look atomic.Pointer[far]
	memo memory
	seen seen

	looks looks
	me    string // names this Monitor's leases

	purged atomic.Int64 // when the last purge was, in microseconds
}

var (
	_ securemail.Sink   = (*Monitor)(nil)
	_ securemail.Runner = (*Monitor)(nil)
)

// far is who looks.
type far struct {
	observer transport.Observer
	prober   securemail.Prober // nil: nobody
}

// New makes the tables in db, SQLite or PostgreSQL, if they are not there, and a Monitor on them. A nil observer is given
// later, by [Monitor.Use]; until then the Monitor is a ratchet and looks at nothing. New checks all options at once and
// answers nil with every fault joined.
func New(ctx context.Context, db *sql.DB, observer transport.Observer, o *Options) (*Monitor, error) {
	m := &Monitor{raw: db, me: newID()}
	if o != nil {
		m.o = *o
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	m.defaults()
	m.Use(observer)
	var err error
	if m.d, err = sqldb.Of(ctx, db); err != nil {
		return nil, fmt.Errorf("posture: %w", err)
	}
	if err := m.d.Migrate(ctx, "posture", schema); err != nil {
		return nil, fmt.Errorf("posture: %w", err)
	}
	return m, nil
}

func (m *Monitor) check() error {
	var errs []error
	if m.raw == nil {
		errs = append(errs, errors.New("posture: a database is required"))
	}
	o := &m.o
	for _, d := range []time.Duration{o.AutoKeep, o.Interval, o.Jitter, o.Timeout, o.CertWarning, o.Retention} {
		if d < 0 {
			errs = append(errs, errors.New("posture: options: a duration is negative"))
			break
		}
	}
	if o.MaxAuto < 0 || o.Concurrency < 0 || o.PerPass < 0 {
		errs = append(errs, errors.New("posture: options: a bound is negative"))
	}
	if o.Interval > 0 && o.Jitter > o.Interval {
		errs = append(errs, errors.New("posture: options: Jitter is over Interval"))
	}
	return errors.Join(errs...)
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (m *Monitor) defaults() {
	o := &m.o
	orElse(&o.AutoKeep, 90*24*time.Hour)
	orElse(&o.MaxAuto, 10_000)
	orElse(&o.Interval, 24*time.Hour)
	orElse(&o.Jitter, o.Interval/8)
	orElse(&o.Timeout, 2*time.Minute)
	orElse(&o.Concurrency, 4)
	orElse(&o.PerPass, 100)
	orElse(&o.CertWarning, 14*24*time.Hour)
	orElse(&o.Retention, 400*24*time.Hour)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Authorizer == nil {
		o.Authorizer = securemail.AuthorizerFunc(builtIn)
	}
}

// Use makes o the Observer, and where Options has no Prober and o is one, that too. It is for a Transport that asks the
// Monitor for its ratchet and so is made after it:
//
//	m, err := posture.New(ctx, db, nil, nil)
//	t, err := smtp.New(&smtp.Options{Ratchet: m})
//	m.Use(t)
func (m *Monitor) Use(o transport.Observer) {
	f := &far{o, m.o.Prober}
	if p, ok := o.(securemail.Prober); ok && f.prober == nil {
		f.prober = p
	}
	m.look.Store(f)
}

// builtIn is the Authorizer where Options has none.
func builtIn(_ context.Context, a securemail.Actor, act securemail.Action, r securemail.Resource) error {
	if a.Tenant == r.Tenant && (act == actRead || slices.Contains(a.Roles, "admin")) {
		return nil
	}
	return securemail.ErrDenied
}

// may asks the Authorizer. The Actor that it returns is of the tenant.
func (m *Monitor) may(ctx context.Context, act securemail.Action, k key) (securemail.Actor, error) {
	a, ok := securemail.ActorOf(ctx)
	if !ok || a.ID == "" {
		return a, fmt.Errorf("posture: no actor: %w", securemail.ErrDenied)
	}
	r := securemail.Resource{Tenant: k.tenant, Kind: "domain", ID: k.domain}
	if err := m.o.Authorizer.Authorize(ctx, a, act, r); err != nil {
		return a, fmt.Errorf("posture: %s: %w", act, err)
	}
	a.Tenant = k.tenant
	return a, nil
}

// now is in UTC, as precise as the database keeps it.
func (m *Monitor) now() time.Time { return m.o.Now().UTC().Truncate(time.Microsecond) }

// part is who acts where nobody calls.
func part(tenant string) securemail.Actor {
	return securemail.Actor{Tenant: tenant, ID: "posture", Kind: "part"}
}
