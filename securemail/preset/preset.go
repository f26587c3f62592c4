package preset

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/encrypt/escrow/portal"
	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/alert"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/policy"
	"github.com/postseal/postseal/securemail/queue"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/posture"
	"github.com/postseal/postseal/transport/smtp"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// Options tune a System. Nil is the zero value: direct delivery to mail hosts, PGP to pinned keys, no escrow.
type Options struct {
	// BaseURL is where the pick-up pages are reached from outside, https. Empty: no escrow; mail that would go there is held.
	BaseURL string
	// InsecureLoopback allows http for a BaseURL on a loopback address: demos and tests.
	InsecureLoopback bool
	// Brand names the service in notices and on pages; empty: the sender's domain.
	Brand string
	// KeyFile is where the root key lies; empty: the path given to Open, and ".key". It should be on another disk, or at
	// least in another back-up, than the database.
	KeyFile string
	// Root holds the root key in a KMS (package keyring/kms) or in the environment (keyring.EnvRoot) instead of in KeyFile,
	// beside which the other files of the ring still lie. A ring that exists changes its root by keyring.File.MoveRoot only.
	Root keyring.Root
	// DestroyWindow is how long a destroyed scope key may stay in the ring's files, out of its reach, until they are sealed
	// anew; 0: 24 h, at least 1 h. Certificates of destruction state it.
	DestroyWindow time.Duration
	// Log are the audit log's further options, such as Witnesses and a Stamper; Now here overrides that there.
	Log *audit.Options
	// Relay takes all mail instead of the recipients' own mail hosts. Unless its Operator vouches for the road beyond, it
	// meets no floor, and mail that needs one goes to PGP or escrow.
	Relay *smtp.Relay
	// SMTP are the transport's further options; Relay, Now and Logger here override those there.
	SMTP *smtp.Options
	// STS is how MTA-STS policies are fetched; nil: with the RootCAs and AllowPrivate of SMTP. It counts for nothing where
	// SMTP.STS is set, or with a Relay.
	STS *mtasts.ClientOptions
	// Limits bound what each recipient domain gets, by all processes on the database together. Nil: only those of SMTP.Limits
	// hold, for each process and mail host.
	Limits *transport.LimitOptions
	// DKIM signs all that leaves, notices too, by the keys of its author's domain, by way of a Relay as well. Mail whose
	// domain has no key now waits for one; transport.DKIM has other answers, and choices, for Override. Nil: nothing is signed.
	DKIM *dkim.Signer
	// TLSReports counts sessions and reports on them daily, by mail and HTTPS. It needs DKIM, and is an error with a Relay.
	// Nil: nothing is counted.
	TLSReports *TLSReports
	// Notices say who is told of what was not delivered, and how; nil: the sender, by the rules of package notice. Run mails
	// them, and Upkeep.
	Notices *notice.Options
	// Alerts say which events make an event "alert"; nil: the rules of package alert.
	Alerts *alert.Options
	// PGP are the PGP encryptor's options, such as signing keys; nil: it encrypts only.
	PGP *pgp.Options
	// Owner names this process among those on one database; see queue.Options. Empty: the host name.
	Owner string
	// Listen waits for PostgreSQL notifications, so that what another process commits leaves at once; see queue.Options.
	// examples/vendor has one for a pgxpool. Nil: the queue looks four times a second.
	Listen func(ctx context.Context, channel string, wake func()) error
	// Override is the last word on the Config before securemail.New. Add to Sinks and Parts rather than replace them: the
	// Monitor is among both.
	Override func(*securemail.Config)
	// Logger nil: slog.Default(). Now nil: time.Now.
	Logger *slog.Logger
	Now    func() time.Time

	declaring bool // a restore is being declared
}

// System is a Mailer and the parts it is made of, all of them ready.
type System struct {
	*securemail.Mailer
	// DB is the database; Close closes it where Open opened it.
	DB *sql.DB
	// Keys are the pinned recipient keys: Pin asks for the role "admin".
	Keys      *keys.SQL
	KeyRing   *keyring.File
	Queue     *queue.Queue
	Ledger    *audit.Log
	Transport *smtp.Transport
	// STS are the MTA-STS policies of domains, kept in DB; nil with a Relay, or where SMTP.Resolver can't answer for them.
	STS *mtasts.Cache
	// Monitor watches the TLS of the domains that mail goes to, and is the Transport's Ratchet; nil with a Relay. Unless
	// SMTP.Ratchet is set, a domain that proved its name must do so again.
	Monitor *posture.Monitor
	// Sessions counts TLS sessions, Reporter tells of those of finished days; nil without Options.TLSReports.
	Sessions *tlsrpt.Collector
	Reporter *tlsrpt.Reporter
	// Notices tells senders what was not delivered, Alerts watches all events.
	Notices *notice.Notices
	Alerts  *alert.Watcher
	// Escrow and Portal are nil without a BaseURL.
	Escrow *escrow.Escrow
	Portal *portal.Portal

	reports *smtp.Transport // the Reporter's

	path    string
	now     func() time.Time
	ownDB   bool
	oldRing bool // the key ring is older than the database knows it; only a declaration goes on with it
	stop    context.CancelFunc
	ended   context.Context

	mu     sync.Mutex // guards closed and adding to wg
	closed bool
	wg     sync.WaitGroup // calls of Run, RunDue and Upkeep under way
}

// ErrClosed says that Close was called.
var ErrClosed = errors.New("preset: closed")

// Open opens or makes the SQLite file at path and what lies beside it, and wires a System. On an error nothing stays open.
// A key ring older than the database knows it is a *keyring.RollbackError: see Declare. Several processes may open one path, but only one at a time may write the audit log: the second gets its error.
func Open(ctx context.Context, path string, o *Options) (*System, error) {
	if path == "" {
		return nil, errors.New("preset: path required")
	}
	if err := notRestoring(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("preset: database file: %w", bare(err))
	}
	f.Close()
	db, err := sql.Open("sqlite", sqliteDSN(path))
	if err != nil {
		return nil, fmt.Errorf("preset: database: %w", err)
	}
	s, err := OpenDB(ctx, db, path, o)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.ownDB = true
	return s, nil
}

// sqliteDSN asks for what queue.New checks: WAL, a sync of every commit, and waiting for locks.
func sqliteDSN(path string) string {
	q := url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(1)", "wal_autocheckpoint(8000)"},
		"_txlock": {"immediate"},
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// OpenDB wires a System on the host's own database, SQLite or PostgreSQL, so that SendTx joins the host's transactions.
// The files lie beside path, which need not exist. Close does not close db.
func OpenDB(ctx context.Context, db *sql.DB, path string, o *Options) (_ *System, err error) {
	if o == nil {
		o = &Options{}
	}
	s := &System{DB: db, path: path, now: o.Now}
	if s.now == nil {
		s.now = time.Now
	}
	if err := notRestoring(path); err != nil {
		return nil, err
	}
	s.ended, s.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeParts())
		}
	}()
	if err := s.openState(ctx, path, o); err != nil {
		return nil, err
	}
	c, err := s.config(ctx, o)
	if err != nil {
		return nil, err
	}
	if o.Override != nil {
		o.Override(c)
	}
	if s.Mailer, err = securemail.New(*c); err != nil {
		return nil, err
	}
	if s.Escrow == nil {
		logger(o).WarnContext(ctx, "preset: no BaseURL, so no escrow: mail that nothing else can protect is held")
		return s, nil
	}
	s.Portal, err = portal.New(&portal.Options{Escrow: s.Escrow, Sender: s.Mailer, Now: o.Now, Logger: o.Logger})
	return s, err
}

func logger(o *Options) *slog.Logger { return cmp.Or(o.Logger, slog.Default()) }

// openState opens what remembers: key ring, queue, audit log, pinned keys.
func (s *System) openState(ctx context.Context, path string, o *Options) (err error) {
	ro := o.ring()
	if ro.Window < time.Hour {
		return errors.New("preset: Options.DestroyWindow must be at least 1 h")
	}
	if s.KeyRing, err = keyring.OpenFile(cmp.Or(o.KeyFile, path+".key"), ro); err != nil {
		return err
	}
	blobs, err := queue.Dir(path + ".blobs")
	if err != nil {
		return err
	}
	owner := o.Owner
	if owner == "" {
		owner, _ = os.Hostname() // none: the queue makes one up
	}
	s.Queue, err = queue.New(ctx, s.DB, s.KeyRing, &queue.Options{
		Owner: owner, Blobs: blobs, Listen: o.Listen, Logger: o.Logger, Now: o.Now,
	})
	if err != nil {
		return err
	}
	if err := s.recordRing(ctx, o); err != nil {
		return err
	}
	var lo audit.Options
	if o.Log != nil {
		lo = *o.Log
	}
	lo.Now = o.Now
	if lo.Trouble == nil {
		lo.Trouble = func(err error) { logger(o).Warn("preset: the audit log's witnesses or its time stamps", "err", err) }
	}
	if s.Ledger, err = audit.Open(ctx, path+".audit", &lo); err != nil {
		return err
	}
	s.Keys, err = keys.NewSQL(ctx, s.DB, s.KeyRing, &keys.Options{Outbox: s.Queue, Now: o.Now})
	return err
}

// config makes the parts that carry out, and the Config of all.
func (s *System) config(ctx context.Context, o *Options) (*securemail.Config, error) {
	var so smtp.Options
	if o.SMTP != nil {
		so = *o.SMTP
	}
	so.Relay, so.Now, so.Logger = cmp.Or(o.Relay, so.Relay), o.Now, o.Logger
	if err := s.openTransport(ctx, &so, o); err != nil {
		return nil, err
	}
	var po pgp.Options
	if o.PGP != nil {
		po = *o.PGP
	}
	if po.Now == nil {
		po.Now = o.Now
	}
	seal, err := pgp.New(&po)
	if err != nil {
		return nil, err
	}
	c := &securemail.Config{
		Transport: s.Transport, Prober: s.Transport, Queue: s.Queue, Outbox: s.Queue, Ledger: s.Ledger, Keys: s.Keys,
		Encryptors: []securemail.Encryptor{encrypt.TLSOnly{}, seal},
		Parts:      []securemail.Runner{s.KeyRing},
		Sinks:      map[string]securemail.Sink{},
		Service:    securemail.Actor{ID: "host", Kind: "service"},
		Logger:     o.Logger, Now: o.Now,
	}
	if err := errors.Join(s.addChannel(ctx, c, o), s.addWatch(ctx, c, o)); err != nil {
		return nil, err
	}
	methods := []securemail.Method{securemail.MethodPGP}
	if o.BaseURL != "" {
		s.Escrow, err = escrow.New(ctx, s.DB, s.KeyRing, &escrow.Options{
			BaseURL: o.BaseURL, InsecureLoopback: o.InsecureLoopback, Brand: escrow.Brand{Name: o.Brand},
			Prober: s.Transport, Outbox: s.Queue, Now: o.Now, Logger: o.Logger,
		})
		if err != nil {
			return nil, err
		}
		c.Encryptors = append(c.Encryptors, s.Escrow)
		methods = append(methods, securemail.MethodEscrow)
	}
	c.Policy, err = policy.HIPAA(&policy.Options{Methods: methods})
	return c, err
}

// Handler serves what recipients' browsers ask for, at the path of Options.BaseURL; without one it answers 404. Mount it
// behind TLS: mux.Handle("/", sys.Handler()).
func (s *System) Handler() http.Handler {
	mux := http.NewServeMux()
	if s.Portal != nil {
		mux.Handle(s.Portal.Pattern(), s.Portal)
	}
	return mux
}

// Run is Mailer.Run; Close ends it too. A store that was restored does not run before that is declared: backup.ErrUndeclared.
func (s *System) Run(ctx context.Context) error {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := s.declared(ctx); err != nil {
		return err
	}
	return s.Mailer.Run(ctx)
}

// RunDue is Mailer.RunDue; Close waits for it, and ends it early.
func (s *System) RunDue(ctx context.Context) (int, error) {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := s.declared(ctx); err != nil {
		return 0, err
	}
	return s.Mailer.RunDue(ctx)
}

// Upkeep does once, now, what the parts do in Run beside the mail: it tells senders what was not delivered (the next RunDue
// delivers that), has the log cosigned and stamped, seals the key ring anew where a key was destroyed,
// fetches MTA-STS policies again, looks at domains, writes the sessions counted, and sends the TLS reports that are due. A host that calls RunDue from a timer calls this
// from another, every ten minutes, say. A part that fails stops no other.
func (s *System) Upkeep(ctx context.Context) error {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = s.Notices.Pass(ctx)
	errs := []error{s.KeyRing.Upkeep(ctx), s.Ledger.Upkeep(ctx), err}
	if s.STS != nil {
		_, err := s.STS.Refresh(ctx)
		errs = append(errs, err)
	}
	if s.Monitor != nil {
		_, err := s.Monitor.Refresh(ctx)
		errs = append(errs, err)
	}
	if s.Sessions != nil {
		errs = append(errs, s.Sessions.Flush(ctx)) // first: what is due may lie there
		_, err := s.Reporter.SendDue(ctx)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *System) begin(ctx context.Context) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	s.wg.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ended, cancel)
	return ctx, func() { stop(); cancel(); s.wg.Done() }, nil
}

// Close stops Run, waits for it, writes the sessions counted since the last Flush, and closes the parts, and the database
// where Open opened it. A second Close is nil.
func (s *System) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
	err := s.closeParts()
	if s.ownDB {
		err = errors.Join(err, s.DB.Close())
	}
	return err
}

func (s *System) closeParts() error {
	s.stop()
	var errs []error
	if s.Transport != nil {
		errs = append(errs, s.Transport.Close())
	}
	if s.reports != nil {
		errs = append(errs, s.reports.Close())
	}
	if s.Sessions != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		errs = append(errs, s.Sessions.Flush(ctx))
	}
	if s.Ledger != nil {
		errs = append(errs, s.Ledger.Close())
	}
	if s.KeyRing != nil {
		errs = append(errs, s.KeyRing.Close())
	}
	return errors.Join(errs...)
}

// bare is the cause without the path, which may name a person.
func bare(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
