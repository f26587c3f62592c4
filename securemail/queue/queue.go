package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

const (
	inlineMax = 64 << 10               // a larger body goes to the blob store
	pollEvery = 250 * time.Millisecond // what another process committed is seen within that
	channel   = "postseal_queue"       // of PostgreSQL's NOTIFY

	defaultLease = 15 * time.Second
	defaultKeep  = 30 * 24 * time.Hour
	minKeep      = 24 * time.Hour
	eventsKeep   = 7 * 24 * time.Hour
	maxHold      = 30 * time.Minute // a heartbeat renews no lease for longer
	maxLease     = time.Hour
	wrongClock   = 2 * time.Hour // what lies further ahead than it can was written by a clock that was wrong
	blobGrace    = 48 * time.Hour
)

// Options tune a Queue. The zero value is ready for use.
type Options struct {
	// Owner names this process among those on one database, and stays the same when it restarts: New then takes back at once
	// what the last run had leased. No two living processes may share one. It is stored in clear. Empty: a random name, and
	// the leases of a crashed run come back after Lease.
	Owner string
	// Blobs keeps bodies over 64 KiB; nil: they too lie in the database. It must answer an unknown key with an error that
	// Is fs.ErrNotExist. Blobs that a crash left without a row are removed after 48 h if it is a [BlobLister].
	Blobs securemail.BlobStore
	// Lease is how long a parcel stays with a worker that gives no sign of life; 0: 15 s, at least 1 s, at most 1 h.
	Lease time.Duration
	// Keep is how long the status of a parcel that ended can be found, and its idempotency key is known; 0: 30 days, at
	// least 24 h.
	Keep time.Duration
	// KeepEvents is how long events are kept that every reader has acknowledged; 0: 7 days. What one reader has not
	// acknowledged stays.
	KeepEvents time.Duration
	// Listen waits for PostgreSQL notifications on channel and calls wake for each, until ctx ends; a driver is needed for
	// that, so the host gives it. Run calls it, again after an error. nil: the queue looks four times a second.
	Listen func(ctx context.Context, channel string, wake func()) error
	// Logger nil: slog.Default(). It gets no content and no address.
	Logger *slog.Logger
	// Now nil: time.Now. It must be the clock of the Mailer.
	Now func() time.Time
}

// Queue is the durable queue. It is safe for concurrent use. It starts no goroutine but in Run.
type Queue struct {
	d     *sqldb.DB
	db    *sql.DB
	ring  securemail.KeyRing
	o     Options
	log   *slog.Logger
	epoch int64
	index []byte // the key of keyed hashes

	keys   cache[*dataKey]
	bodies cache[*securemail.Message]
	opened cache[openedEvent]
	turns  turns
	puts   *sqldb.Group[*packed]

	mu    sync.Mutex // guards what follows
	wake  chan struct{}
	held  map[securemail.ParcelID]hold
	runs  int
	swept time.Time
	rang  time.Time // when the listeners of other processes were last told
}

// hold is a lease that this process renews.
type hold struct {
	attempt int
	since   time.Time
}

var (
	_ securemail.Queue   = (*Queue)(nil)
	_ securemail.TxQueue = (*Queue)(nil)
	_ securemail.Outbox  = (*Queue)(nil)
	_ securemail.Desk    = (*Queue)(nil)
	_ securemail.Runner  = (*Queue)(nil)
)

// New opens the queue in db, making or migrating its tables, and takes back the leases of an earlier run of the same
// owner. It refuses a database whose settings can lose commits (see internal/sqldb: SQLite needs WAL, or another journal
// on disk, with synchronous FULL or EXTRA and a busy_timeout, and is faster with wal_autocheckpoint(8000); PostgreSQL needs fsync and synchronous_commit), a key ring
// that can't open what this queue sealed, and bad options, all faults at once.
func New(ctx context.Context, db *sql.DB, ring securemail.KeyRing, o *Options) (*Queue, error) {
	q := &Queue{db: db, ring: ring, wake: make(chan struct{}), held: make(map[securemail.ParcelID]hold)}
	if o != nil {
		q.o = *o
	}
	if err := q.defaults(); err != nil {
		return nil, err
	}
	var err error
	if q.d, err = sqldb.Of(ctx, db); err != nil {
		return nil, failed("open", err)
	}
	q.puts = sqldb.NewGroup(q.d, q.insertAll)
	if err := q.d.CheckDurable(ctx); err != nil {
		return nil, failed("settings", err)
	}
	if err := q.d.Migrate(ctx, "queue", schema); err != nil {
		return nil, failed("tables", err)
	}
	if err := q.openIndex(ctx); err != nil {
		return nil, err
	}
	if err := q.start(ctx); err != nil {
		return nil, failed("start", err)
	}
	return q, nil
}

func (q *Queue) defaults() error {
	var errs []error
	if q.db == nil || q.ring == nil {
		errs = append(errs, errors.New("queue: database and key ring are required"))
	}
	for _, f := range []struct {
		name        string
		v           *time.Duration
		zero, least time.Duration
	}{
		{"Lease", &q.o.Lease, defaultLease, time.Second},
		{"Keep", &q.o.Keep, defaultKeep, minKeep},
		{"KeepEvents", &q.o.KeepEvents, eventsKeep, 0},
	} {
		if *f.v == 0 {
			*f.v = f.zero
		}
		if *f.v < f.least || *f.v < 0 {
			errs = append(errs, fmt.Errorf("queue: option %s is below %v", f.name, f.least))
		}
	}
	if q.o.Lease > maxLease {
		errs = append(errs, fmt.Errorf("queue: option Lease is above %v", maxLease))
	}
	if q.o.Owner == "" {
		q.o.Owner = "process/" + newRandom()
	}
	if q.o.Now == nil {
		q.o.Now = time.Now
	}
	if q.log = q.o.Logger; q.log == nil {
		q.log = slog.Default()
	}
	q.keys.limit, q.bodies.limit, q.opened.limit = 4096, 256, 2048
	return errors.Join(errs...)
}

// start gives this Queue its epoch and frees what the same owner had leased under an earlier one.
func (q *Queue) start(ctx context.Context) error {
	return q.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, "UPDATE queue_meta SET num=num+1 WHERE name='epoch' RETURNING num").Scan(&q.epoch)
		if err != nil {
			return err
		}
		owners, err := q.strings(ctx, tx, "SELECT DISTINCT lease_owner FROM queue_parcel WHERE lease_epoch>0")
		if err != nil {
			return err
		}
		for _, o := range owners {
			if name, pid, ok := splitOwner(o); !ok || name != q.o.Owner || pid != os.Getpid() && alive(pid) {
				continue
			}
			_, err = q.exec(ctx, tx, "UPDATE queue_parcel SET lease_until=0 WHERE lease_owner=? AND lease_epoch>0 AND lease_epoch<?", o, q.epoch)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// owner is how a lease names this process.
func (q *Queue) owner() string { return q.o.Owner + "#" + strconv.Itoa(os.Getpid()) }

func splitOwner(s string) (name string, pid int, ok bool) {
	i := strings.LastIndexByte(s, '#')
	if i < 0 {
		return "", 0, false
	}
	pid, err := strconv.Atoi(s[i+1:])
	return s[:i], pid, err == nil
}

// alive says that there is a process pid on this machine, or that one can't tell.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	err = p.Signal(syscall.Signal(0))
	_ = p.Release()
	return err == nil || !errors.Is(err, os.ErrProcessDone)
}

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// exec returns how many rows query touched.
func (q *Queue) exec(ctx context.Context, db querier, query string, args ...any) (int64, error) {
	r, err := db.ExecContext(ctx, q.d.Rebind(query), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// signal wakes every Take of this process.
func (q *Queue) signal() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.wake)
	q.wake = make(chan struct{})
}

// signals gives the channel that the next signal closes.
func (q *Queue) signals() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wake
}

// micros is how the tables keep a time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMicro(), 1)
}
