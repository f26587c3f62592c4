package securemail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Defaults of [Config].
const (
	defaultGiveUp     = 5 * 24 * time.Hour
	defaultDrain      = 25 * time.Second
	defaultWorkers    = 32
	defaultMaxVisible = 20
	defaultMaxSize    = 25 << 20
	firstRetry        = time.Minute
	lastRetry         = 4 * time.Hour
	ledgerReader      = "ledger"
)

// Mailer accepts drafts and carries them out. It is made by [New] and safe for concurrent use.
type Mailer struct {
	c          Config
	log        *slog.Logger
	encryptors map[Method]Encryptor
	tx         TxQueue // nil: the Queue can't join a transaction
	desk       Desk    // nil: the Queue can't be looked into
	readers    []reader
	archived   *recent
	accesses   *accesses

	mu      sync.Mutex // guards what follows
	running int        // calls of Run and RunDue under way
	looked  time.Time  // when Send last looked for a backlog
	warned  bool       // the backlog warning was logged
	// admitted: the Ledger has found the Outbox as new as it should be.
	admitted bool
	policy   string // the name of the Policy, as it was recorded
}

// reader is one Sink and the name of its cursor.
type reader struct {
	name string
	sink Sink
}

// New checks c and makes a Mailer of it. The error joins every fault of c; the Mailer is then nil.
func New(c Config) (*Mailer, error) {
	m := &Mailer{c: c, encryptors: make(map[Method]Encryptor), archived: newRecent(4096), accesses: newAccesses()}
	if err := errors.Join(m.required(), m.takeEncryptors(), m.checkPolicy(), m.takeReaders(), m.checkParts(), m.checkNumbers()); err != nil {
		return nil, err
	}
	m.defaults()
	m.tx, _ = c.Queue.(TxQueue)
	m.desk, _ = c.Queue.(Desk)
	return m, nil
}

func configFault(field, rule string) error {
	return fmt.Errorf("securemail: config: %s (%s)", field, rule)
}

func (m *Mailer) required() error {
	var errs []error
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Policy", m.c.Policy == nil},
		{"Transport", m.c.Transport == nil},
		{"Queue", m.c.Queue == nil},
		{"Outbox", m.c.Outbox == nil},
		{"Ledger", m.c.Ledger == nil},
	} {
		if f.missing {
			errs = append(errs, configFault(f.name, "required"))
		}
	}
	return errors.Join(errs...)
}

func (m *Mailer) takeEncryptors() error {
	var errs []error
	for i, e := range m.c.Encryptors {
		switch {
		case e == nil || e.Method() == "":
			errs = append(errs, configFault(fmt.Sprintf("Encryptors[%d]", i), "required"))
		case m.encryptors[e.Method()] != nil:
			errs = append(errs, configFault(fmt.Sprintf("Encryptors[%d]", i), "duplicate"))
		default:
			m.encryptors[e.Method()] = e
		}
	}
	if len(m.c.Encryptors) == 0 {
		errs = append(errs, configFault("Encryptors", "required"))
	}
	return errors.Join(errs...)
}

// checkPolicy asks the optional Methods of a Policy.
func (m *Mailer) checkPolicy() error {
	p, ok := m.c.Policy.(interface{ Methods() []Method })
	if !ok {
		return nil
	}
	var errs []error
	for _, method := range p.Methods() {
		if m.encryptors[method] == nil {
			errs = append(errs, configFault("Policy", "no encryptor for "+string(method)))
		}
	}
	return errors.Join(errs...)
}

func (m *Mailer) takeReaders() error {
	m.readers = []reader{{ledgerReader, m.c.Ledger}, {undoReader, SinkFunc(m.undo)}}
	var errs []error
	for name, s := range m.c.Sinks {
		if s == nil || name == "" || name == ledgerReader || name == undoReader {
			errs = append(errs, configFault("Sinks", "name or value"))
		}
		m.readers = append(m.readers, reader{name, s})
	}
	return errors.Join(errs...)
}

func (m *Mailer) checkParts() error {
	c := &m.c
	var errs []error
	for i, g := range c.Gates {
		if g == nil {
			errs = append(errs, configFault(fmt.Sprintf("Gates[%d]", i), "required"))
		}
	}
	for i, p := range c.Parts {
		if p == nil {
			errs = append(errs, configFault(fmt.Sprintf("Parts[%d]", i), "required"))
		}
	}
	if a, err := ParseAddress("x@" + c.Domain); c.Domain != "" && (err != nil || a.domain != c.Domain) {
		errs = append(errs, configFault("Domain", "no domain in lower case A-labels"))
	}
	if s := &c.Service; (s.ID == "") != (s.Kind == "") {
		errs = append(errs, configFault("Service", "ID and Kind go together"))
	}
	return errors.Join(errs...)
}

func (m *Mailer) checkNumbers() error {
	c := &m.c
	if c.GiveUp < 0 || c.Drain < 0 || c.Workers < 0 || c.MaxVisible < 0 || c.MaxSize < 0 {
		return configFault("GiveUp, Drain, Workers, MaxVisible, MaxSize", "negative")
	}
	return nil
}

func (m *Mailer) defaults() {
	c := &m.c
	c.GiveUp = orDefault(c.GiveUp, defaultGiveUp)
	c.Drain = orDefault(c.Drain, defaultDrain)
	c.Workers = orDefault(c.Workers, defaultWorkers)
	c.MaxVisible = orDefault(c.MaxVisible, defaultMaxVisible)
	c.MaxSize = orDefault(c.MaxSize, int64(defaultMaxSize))
	if c.Retry == nil {
		c.Retry = backoff
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Authorizer == nil {
		c.Authorizer = AuthorizerFunc(builtIn)
	}
	if m.log = c.Logger; m.log == nil {
		m.log = slog.Default()
	}
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// backoff is 1 min doubling to 4 h, with up to 20 % on top so that parcels of one outage spread.
func backoff(attempt int) time.Duration {
	d := lastRetry
	if n := attempt - 1; n >= 0 && n < 8 {
		d = min(firstRetry<<n, lastRetry)
	}
	return d + rand.N(d/5)
}

// runners are the parts to run with the Mailer: Config.Parts and every other value of Config that is a Runner, once each.
func (m *Mailer) runners() []Runner {
	c := &m.c
	values := []any{
		c.Policy, c.Transport, c.Queue, c.Outbox, c.Ledger, c.Tenants, c.Authorizer, c.Keys, c.Prober, c.Classifier,
		c.Tracker, c.Signer, c.Archiver,
	}
	for _, p := range c.Parts {
		values = append(values, p)
	}
	for _, e := range c.Encryptors {
		values = append(values, e)
	}
	for _, g := range c.Gates {
		values = append(values, g)
	}
	for _, s := range c.Sinks {
		values = append(values, s)
	}
	var rs []Runner
	for _, v := range values {
		r, ok := v.(Runner)
		if ok && !slices.ContainsFunc(rs, func(o Runner) bool { return same(o, r) }) {
			rs = append(rs, r)
		}
	}
	return rs
}

// same compares two interface values; values of uncomparable types are never the same.
func same(a, b any) (eq bool) {
	defer func() {
		if recover() != nil {
			eq = false
		}
	}()
	return a == b
}

// recent remembers the last n keys. It saves work; nothing depends on it.
type recent struct {
	mu   sync.Mutex // guards all
	n    int
	seen map[string]struct{}
	ring []string
	next int
}

func newRecent(n int) *recent {
	return &recent{n: n, seen: make(map[string]struct{}, n), ring: make([]string, n)}
}

func (r *recent) has(k string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.seen[k]
	return ok
}

func (r *recent) add(k string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.seen[k]; ok {
		return
	}
	delete(r.seen, r.ring[r.next])
	r.ring[r.next], r.seen[k] = k, struct{}{}
	r.next = (r.next + 1) % r.n
}

// part is the Actor under which the Mailer itself works on a parcel.
func (m *Mailer) part(ctx context.Context, tenant string) (context.Context, Actor) {
	a := Actor{Tenant: tenant, ID: "mailer", Kind: "part"}
	return WithActor(ctx, a), a
}
