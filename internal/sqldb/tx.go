package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Bounds of repeating and of waiting.
const (
	busyFor        = 15 * time.Second     // a lock is asked for again for so long
	firstWait      = 2 * time.Millisecond // doubling, with jitter
	maxWait        = 250 * time.Millisecond
	maxRuns        = 10 // of one function
	sharedPatience = "SET LOCAL lock_timeout='500ms'"

	netBound = 30 * time.Second // a PostgreSQL that answers nothing
)

// Tx runs fn in a transaction of its own and commits it. Where the database says "try again" ([IsBusy]) it runs fn
// again, up to 10 times and 15 seconds. On SQLite the write lock is held from the start, so what fn reads stays true.
//
// A ctx that ends before the commit rolls back, and its error is returned; the commit itself is not stopped, so nil
// means committed, and an error means that nothing holds, but for [ErrUncertain].
func (d *DB) Tx(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	deadline := time.Now().Add(busyFor)
	for run := 1; ; run++ {
		err := d.once(ctx, fn)
		if err == nil || !IsBusy(err) || run == maxRuns || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, run); err != nil {
			return err
		}
	}
}

func (d *DB) once(ctx context.Context, fn Func) error {
	t, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	if err := fn(ctx, t.Tx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.commit()
}

// open is a transaction on a connection of its own. Its end does not depend on a caller's ctx.
type open struct {
	*sql.Tx
	conn   *sql.Conn
	cancel context.CancelFunc
}

// begin waits for a connection and, on SQLite, for the write lock, as long as ctx and the bounds allow.
func (d *DB) begin(ctx context.Context) (*open, error) {
	deadline := time.Now().Add(busyFor)
	for run := 1; ; run++ {
		t, err := d.beginOnce(ctx)
		if err == nil || !IsBusy(err) || time.Now().After(deadline) {
			return t, err
		}
		if err := pause(ctx, run); err != nil {
			return nil, err
		}
	}
}

func (d *DB) beginOnce(ctx context.Context) (_ *open, err error) {
	if d.Dialect == SQLite {
		d.prepared.prepare(ctx, d.db)
	}
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqldb: connect: %w", err)
	}
	t := &open{conn: conn, cancel: func() {}}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if d.raise() {
		if _, err := conn.ExecContext(ctx, "PRAGMA synchronous=EXTRA"); err != nil {
			return nil, fmt.Errorf("sqldb: synchronous: %w", err)
		}
	}
	detached := context.WithoutCancel(ctx)
	if d.Dialect == Postgres {
		detached, t.cancel = context.WithTimeout(detached, netBound)
	}
	if t.Tx, err = conn.BeginTx(detached, nil); err != nil {
		return nil, fmt.Errorf("sqldb: begin: %w", err)
	}
	if d.Dialect == SQLite {
		if err := writeLock(ctx, d.Prepared(t.Tx)); err != nil {
			return nil, fmt.Errorf("sqldb: write lock: %w", err)
		}
	}
	return t, nil
}

// impatient makes a shared PostgreSQL transaction give up a lock that somebody outside holds.
func (d *DB) impatient(ctx context.Context, t *open) error {
	if d.Dialect != Postgres {
		return nil
	}
	if _, err := t.ExecContext(ctx, sharedPatience); err != nil {
		return fmt.Errorf("sqldb: lock timeout: %w", err)
	}
	return nil
}

// writeLock makes a deferred transaction what BEGIN IMMEDIATE is: a write that touches no row takes the lock, waits for
// busy_timeout, and has no older snapshot to conflict with.
func writeLock(ctx context.Context, tx *Tx) error {
	const noRow = "DELETE FROM postseal_schema WHERE 1=0"
	_, err := tx.ExecContext(ctx, noRow)
	if sqliteCode(err) != sqliteError {
		return err
	}
	// No such table: nothing was migrated yet.
	if _, err := tx.ExecContext(ctx, versionTable); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, noRow)
	return err
}

func (t *open) commit() error {
	err := t.Tx.Commit()
	switch {
	case err == nil:
		return nil
	case definite(err) || errors.Is(err, sql.ErrTxDone):
		return fmt.Errorf("sqldb: commit: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrUncertain, err)
}

// close rolls back what was not committed and gives the connection back; a repeat does nothing.
func (t *open) close() {
	if t.Tx != nil {
		_ = t.Tx.Rollback() // after a commit: ErrTxDone
	}
	_ = t.conn.Close()
	t.cancel()
}

// pause waits before run+1, or until ctx ends.
func pause(ctx context.Context, run int) error {
	w := min(firstWait<<min(run-1, 10), maxWait)
	timer := time.NewTimer(w/2 + rand.N(w))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
