package portal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
)

// Times are microseconds since 1970; 0 is never. Tokens, locators and buckets are hashes, code is argon2id or empty.
var migrations = []string{`
CREATE TABLE portal_session (
	id TEXT PRIMARY KEY,
	token {bytes} NOT NULL UNIQUE,
	created {int} NOT NULL,
	seen {int} NOT NULL
);
CREATE INDEX portal_session_seen ON portal_session (seen);
CREATE TABLE portal_grant (
	session TEXT NOT NULL,
	locator {bytes} NOT NULL,
	asked TEXT NOT NULL,
	code {bytes} NOT NULL,
	code_until {int} NOT NULL,
	verified {int} NOT NULL,
	PRIMARY KEY (session, locator)
);
CREATE TABLE portal_bucket (
	bucket {bytes} PRIMARY KEY,
	touched {int} NOT NULL
);
CREATE TABLE portal_hit (
	id TEXT PRIMARY KEY,
	bucket {bytes} NOT NULL,
	made {int} NOT NULL,
	keep {int} NOT NULL
);
CREATE INDEX portal_hit_bucket ON portal_hit (bucket, made);
CREATE INDEX portal_hit_keep ON portal_hit (keep);
`}

// store is the portal's state in the database.
type store struct {
	db  *sql.DB
	sql *sqldb.DB

	mu    sync.Mutex // guards swept
	swept time.Time
}

func newStore(ctx context.Context, db *sql.DB) (*store, error) {
	d, err := sqldb.Of(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("portal: database: %w", err)
	}
	if err := d.Migrate(ctx, "portal", migrations); err != nil {
		return nil, fmt.Errorf("portal: %w", err)
	}
	return &store{db: db, sql: d}, nil
}

// tx is one transaction; what names it in the error.
func (s *store) tx(ctx context.Context, what string, fn func(exec execer) error) error {
	err := s.sql.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return fn(execer{ctx, tx, s.sql})
	})
	if err != nil && !errors.Is(err, errNo) {
		return fmt.Errorf("portal: %s: %w", what, err)
	}
	return err
}

// execer is a transaction's connection with its context; it does not outlive the call it is passed to.
type execer struct {
	ctx context.Context
	tx  *sql.Tx
	sql *sqldb.DB
}

func (x execer) run(q string, args ...any) (int64, error) {
	res, err := x.tx.ExecContext(x.ctx, x.sql.Rebind(q), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (x execer) count(q string, args ...any) (int64, error) {
	var n int64
	return n, x.tx.QueryRowContext(x.ctx, x.sql.Rebind(q), args...).Scan(&n)
}

// errNo rolls a transaction back because the answer is no.
var errNo = errors.New("portal: no")

const sweepEvery = time.Minute

// sweep deletes what is over, at most once a minute and before a form is worked on, so that the portal needs no
// background work. It fails silently but for the log: nothing depends on it.
func (s *store) sweep(ctx context.Context, now time.Time, log *slog.Logger) {
	s.mu.Lock()
	due := !within(now, s.swept, sweepEvery)
	if due {
		s.swept = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	err := s.tx(ctx, "sweep", func(x execer) error {
		_, err1 := x.run("DELETE FROM portal_session WHERE seen<=? OR created<=?",
			now.Add(-idleFor).UnixMicro(), now.Add(-sessionFor).UnixMicro())
		if err1 != nil {
			return err1
		}
		_, err2 := x.run("DELETE FROM portal_grant WHERE session NOT IN (SELECT id FROM portal_session)")
		if err2 != nil {
			return err2
		}
		_, err3 := x.run("DELETE FROM portal_hit WHERE keep<=?", now.UnixMicro())
		if err3 != nil {
			return err3
		}
		_, err4 := x.run("DELETE FROM portal_bucket WHERE touched<=?", now.Add(-longWindow).UnixMicro())
		return err4
	})
	if err != nil {
		log.WarnContext(ctx, "portal: sweep", slog.Any("err", err))
	}
}
