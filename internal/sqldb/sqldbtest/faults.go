// Package sqldbtest opens databases for tests, and makes one fail on purpose, at each statement in turn, so that a package's
// tests can show that whatever fails leaves nothing half written.
package sqldbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
)

// Error is a fault with SQLite's result code. It says nothing else.
type Error int

const (
	// Busy is SQLITE_BUSY: try again.
	Busy Error = 5
	// IOErr is SQLITE_IOERR: nobody knows why.
	IOErr Error = 10
	// Full is SQLITE_FULL.
	Full Error = 13
)

// Error implements error.
func (e Error) Error() string { return "sqldbtest: injected fault" }

// Code is the result code.
func (e Error) Code() int { return int(e) }

// ErrLost is what a lost commit answers.
var ErrLost = errors.New("sqldbtest: connection lost during commit")

// Faults counts statements and lets one of them fail. The zero value lets all pass. It is safe for concurrent use.
type Faults struct {
	mu   sync.Mutex // guards what follows
	seen int
	at   int
	err  error
	lose bool
}

// At lets the nth statement from now fail with err before it is run; begin, commit and the statements inside count, from 1.
// The ones after it pass.
func (f *Faults) At(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.at, f.err, f.lose = 0, n, err, false
}

// LoseCommit lets the next commit hold and its answer get lost.
func (f *Faults) LoseCommit() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.at, f.err, f.lose = 0, 0, nil, true
}

// Clear lets all pass, and tells how many statements there were since At or LoseCommit.
func (f *Faults) Clear() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.err, f.lose = 0, nil, false
	return f.seen
}

func (f *Faults) next() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen++; f.seen == f.at {
		return f.err
	}
	return nil
}

func (f *Faults) loses() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.lose
	f.lose = false
	return was
}

// Open gives a handle on the data source dsn of db's driver, whose statements f may fail. The driver must implement
// driver.ExecerContext, QueryerContext, ConnPrepareContext and ConnBeginTx.
func Open(db *sql.DB, dsn string, f *Faults) *sql.DB {
	return sql.OpenDB(&connector{db.Driver(), dsn, f})
}

type connector struct {
	d   driver.Driver
	dsn string
	f   *Faults
}

func (c *connector) Driver() driver.Driver { return c.d }

func (c *connector) Connect(context.Context) (driver.Conn, error) {
	inner, err := c.d.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	return &conn{inner, c.f}, nil
}

type conn struct {
	driver.Conn
	f *Faults
}

func (c *conn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.f.next(); err != nil {
		return nil, err
	}
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

func (c *conn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.f.next(); err != nil {
		return nil, err
	}
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
}

func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if err := c.f.next(); err != nil {
		return nil, err
	}
	t, err := c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	return &tx{t, c.f}, nil
}

// PrepareContext does not count: what can't be prepared is run as it comes.
func (c *conn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	s, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, q)
	if err != nil {
		return nil, err
	}
	return &stmt{s, c.f}, nil
}

type stmt struct {
	driver.Stmt
	f *Faults
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.f.next(); err != nil {
		return nil, err
	}
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.f.next(); err != nil {
		return nil, err
	}
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}

type tx struct {
	driver.Tx
	f *Faults
}

func (t *tx) Commit() error {
	if err := t.f.next(); err != nil {
		return errors.Join(err, t.Rollback())
	}
	err := t.Tx.Commit()
	if err == nil && t.f.loses() {
		return ErrLost
	}
	return err
}
