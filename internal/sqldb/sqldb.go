// Package sqldb is the one way our packages write to the host's *sql.DB: dialect, migrations, transactions that repeat
// themselves where the database says "try again", and group commit.
//
// A package calls [Of] with the *sql.DB that it was given, [DB.Migrate] with its own steps, and writes through [DB.Tx]
// or [DB.Commit]. No driver is imported: SQLite and PostgreSQL are told apart by asking, and errors are read through the
// methods Code() int (SQLite's result code) and SQLState() string (PostgreSQL's).
//
// # Group commit
//
// One fsync costs more than hundreds of inserts. [DB.Commit] runs the functions of all callers that wait at the same
// moment in one transaction and commits once: the first caller that finds nobody at work leads, the others wait for his
// answer. On PostgreSQL a few may lead at once. Callers of one [Group] share statements too. Where a function fails, the others run again, each inside a savepoint. So there is no goroutine of ours and a
// lone caller waits for nobody. All wrappers of one *sql.DB share one committer, so several packages in one process share
// fsyncs too. It works with MaxOpenConns(1), as long as no function opens a second connection.
//
// # SQLite
//
// A transaction that first reads and then writes fails at once where another process wrote between; busy_timeout does
// not help. So each transaction here takes the write lock with its first statement, which does wait for busy_timeout,
// and that wait is repeated for a bounded time. The host's BEGIN need not be IMMEDIATE. A ctx that ends meanwhile is
// noticed when busy_timeout is over, since SQLite can't be woken from that wait.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"weak"
)

// Dialect is which SQL the database speaks.
type Dialect uint8

const (
	// SQLite is SQLite 3.35 or later (RETURNING, upsert).
	SQLite Dialect = iota + 1
	// Postgres is PostgreSQL 12 or later, or what speaks its protocol and dialect.
	Postgres
)

// String gives the lower-case name.
func (d Dialect) String() string {
	switch d {
	case SQLite:
		return "sqlite"
	case Postgres:
		return "postgres"
	}
	return "unknown"
}

// Func is work inside a transaction. It uses tx and ctx and nothing else of the database, returns at its first error,
// and may be run more than once: each run but the last was rolled back, so it must set its results anew.
type Func func(ctx context.Context, tx *sql.Tx) error

// DB wraps the host's *sql.DB. It is safe for concurrent use.
type DB struct {
	// Dialect never changes.
	Dialect Dialect

	db       *sql.DB
	s        *shared
	lead     chan struct{} // s.lead
	prepared *prepared
}

// shared is what all wrappers of one *sql.DB have in common. It must not point to the *sql.DB, so that the weak table
// below can forget it.
type shared struct {
	mu      sync.Mutex    // guards what follows
	lead    chan struct{} // holds a token for each caller that leads; made with dialect
	waiting []*waiter
	dialect Dialect // 0: not asked yet
	extra   bool    // raise synchronous to EXTRA on the connections that we write through
}

// byDB maps weak.Pointer[sql.DB] to *shared. An entry goes when its *sql.DB is collected.
var byDB sync.Map

func shareOf(db *sql.DB) *shared {
	key := weak.Make(db)
	if s, ok := byDB.Load(key); ok {
		return s.(*shared)
	}
	s, loaded := byDB.LoadOrStore(key, new(shared))
	if !loaded {
		runtime.AddCleanup(db, func(k weak.Pointer[sql.DB]) { byDB.Delete(k) }, key)
	}
	return s.(*shared)
}

// Of wraps db and finds out its dialect, which takes a connection the first time. It changes nothing in the database.
// It fails where db is nil, can't be reached, or is neither SQLite nor PostgreSQL.
func Of(ctx context.Context, db *sql.DB) (*DB, error) {
	if db == nil {
		return nil, errors.New("sqldb: no database")
	}
	s := shareOf(db)
	s.mu.Lock()
	known := s.dialect != 0
	s.mu.Unlock()
	if !known {
		d, err := detect(ctx, db)
		if err != nil {
			return nil, err
		}
		s.found(d)
	}
	out := &DB{Dialect: s.dialect, db: db, s: s, lead: s.lead} // they never change now
	out.prepared = newPrepared(out)
	return out, nil
}

// postgresLeaders is how many transactions of callers may be under way at once on PostgreSQL, which writes in many
// processes. SQLite has one writer.
const postgresLeaders = 3

func (s *shared) found(d Dialect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialect != 0 {
		return
	}
	n := 1
	if d == Postgres {
		n = postgresLeaders
	}
	s.dialect, s.lead = d, make(chan struct{}, n)
}

// detect asks version() first: SQLite has no such function and says so without a trace, while PostgreSQL would write
// a question for SQLite's into its log.
func detect(ctx context.Context, db *sql.DB) (Dialect, error) {
	var v string
	err := db.QueryRowContext(ctx, "SELECT version()").Scan(&v)
	if err == nil {
		if strings.Contains(v, "PostgreSQL") || strings.Contains(v, "CockroachDB") {
			return Postgres, nil
		}
		return 0, errors.New("sqldb: neither SQLite nor PostgreSQL")
	}
	if err2 := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&v); err2 != nil {
		return 0, fmt.Errorf("sqldb: ask for the dialect: %w", err)
	}
	return SQLite, nil
}

// Rebind turns each ? of q that stands outside quotes into the dialect's parameter: ? for SQLite, $1, $2, ... for
// PostgreSQL.
func (d *DB) Rebind(q string) string {
	if d.Dialect != Postgres || !strings.Contains(q, "?") {
		return q
	}
	var b strings.Builder
	b.Grow(len(q) + 16)
	n, quote := 0, byte(0)
	for i := range len(q) {
		c := q[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '?':
			n++
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
