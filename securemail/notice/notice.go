package notice

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// Sender mails the reports; *securemail.Mailer is one. It is called with the Actor {tenant, "notice", "part"} and a Draft
// of PurposeSystem, and must have it durable when it returns.
type Sender interface {
	Send(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error)
}

// SenderFunc makes a Sender of a function. A Mailer is made after its Sinks, so that a closure over it comes in here.
type SenderFunc func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error)

// Send calls f.
func (f SenderFunc) Send(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
	return f(ctx, d)
}

// Store is the queue as far as it is needed here: to look into, and to add events to. *queue.Queue is one.
type Store interface {
	Find(ctx context.Context, q securemail.Query) iter.Seq2[securemail.Status, error]
	Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error
}

// Tenant says how one tenant's reports look and who answers for what its senders can't be told.
type Tenant struct {
	// Name signs reports and is their author's name; empty: none.
	Name string
	// From is the author of reports; zero: postmaster at the domain of whom the report goes to.
	From securemail.Contact
	// Role is the address of an office, such as the privacy office, that is told what a sender can't be. It should be read
	// daily, and be another mailbox than the senders'. Zero: there is none, and only an event says so.
	Role securemail.Contact
	// Subject and Text are templates (text/template) over [Data]; empty: English. New tries each on samples. What one makes of
	// real data must be UTF-8 without control characters, the subject at most 200 octets; else the English one is used.
	Subject, Text string
}

// Options of New. nil and the zero value are the defaults.
type Options struct {
	// Rules come before the Defaults.
	Rules []Rule
	// Tenants by id. The one of id "" is also that of every tenant that is not named.
	Tenants map[string]Tenant
	// Every is the least time between two reports to one addressee, but where 10,000 entries wait; what happens
	// meanwhile goes into one. 0: 10 minutes.
	Every time.Duration
	// Tick is how often Run looks for what is due; 0: 5 seconds.
	Tick time.Duration
	// ReportingMTA is this system's name in reports (RFC 3464 section 2.2.2), a domain; empty: the report's author's domain.
	ReportingMTA string
	// Keep is for how long what was told is remembered, so that events that come again tell nothing twice; 0: 30 days.
	Keep time.Duration
	// Now nil: time.Now. Logger nil: slog.Default().
	Now    func() time.Time
	Logger *slog.Logger
}

// Notices is the Sink and the Runner. It is made by [New] and safe for concurrent use.
type Notices struct {
	d      *sqldb.DB
	db     *sql.DB
	store  Store
	sender Sender
	o      Options
	rules  []Rule
	texts  map[string]*texts
	holder string

	mu     sync.Mutex // guards what follows, and lets one pass run at a time
	seen   int64      // the last item that is in a group
	groups map[string]*group
	last   map[string]time.Time // when each addressee was last mailed
	purged time.Time
	fresh  time.Time // when groups were last loaded from the beginning
}

var (
	_ securemail.Sink   = (*Notices)(nil)
	_ securemail.Runner = (*Notices)(nil)
)

// New makes the tables in db, if they are not there, and checks o: every fault at once. Rules that would let mail for
// treatment, or of no stated purpose, end in silence are a [*SilenceError].
func New(ctx context.Context, db *sql.DB, store Store, sender Sender, o *Options) (*Notices, error) {
	n := &Notices{
		db: db, store: store, sender: sender, texts: make(map[string]*texts), holder: newID(),
		groups: make(map[string]*group), last: make(map[string]time.Time),
	}
	if o != nil {
		n.o = *o
	}
	n.o.Rules, n.o.Tenants = slices.Clone(n.o.Rules), maps.Clone(n.o.Tenants)
	n.rules = append(slices.Clone(n.o.Rules), Defaults()...)
	if err := errors.Join(n.check(), n.checkRules()); err != nil {
		return nil, err
	}
	n.defaults()
	var err error
	if n.d, err = sqldb.Of(ctx, db); err != nil {
		return nil, fmt.Errorf("notice: %w", err)
	}
	if err := n.d.Migrate(ctx, "notice", schema); err != nil {
		return nil, fmt.Errorf("notice: %w", err)
	}
	return n, nil
}

func (n *Notices) check() error {
	var errs []error
	if n.db == nil || n.store == nil || n.sender == nil {
		errs = append(errs, errors.New("notice: db, store and sender are required"))
	}
	if n.o.Every < 0 || n.o.Tick < 0 || n.o.Keep < 0 {
		errs = append(errs, errors.New("notice: negative Every, Tick or Keep"))
	}
	if m := n.o.ReportingMTA; m != "" {
		if a, err := securemail.ParseAddress("postmaster@" + m); err != nil || a.Domain() != m {
			errs = append(errs, errors.New("notice: ReportingMTA is no domain in lower case A-labels"))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.o.Tenants)) {
		t, err := newTexts(n.o.Tenants[id])
		if err != nil {
			errs = append(errs, fmt.Errorf("notice: Tenants[%q]: %w", id, err))
		}
		n.texts[id] = t
	}
	if n.texts[""] == nil {
		n.texts[""], _ = newTexts(Tenant{}) // English, which is sound
	}
	return errors.Join(errs...)
}

func (n *Notices) defaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&n.o.Every, 10 * time.Minute}, {&n.o.Tick, 5 * time.Second}, {&n.o.Keep, 30 * 24 * time.Hour}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if n.o.Now == nil {
		n.o.Now = time.Now
	}
	if n.o.Logger == nil {
		n.o.Logger = slog.Default()
	}
}

func (n *Notices) tenant(id string) Tenant {
	if t, ok := n.o.Tenants[id]; ok {
		return t
	}
	return n.o.Tenants[""]
}

func (n *Notices) textsOf(id string) *texts {
	if t, ok := n.texts[id]; ok {
		return t
	}
	return n.texts[""]
}
