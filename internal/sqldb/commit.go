package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// maxBatch bounds the functions in one transaction, so that a follower's answer is never far.
const maxBatch = 256

// waiter is one caller of Commit.
type waiter struct {
	ctx  context.Context // carries values only: it never ends
	fn   Func
	done chan struct{} // closed when err and panicked are set
	kind *kind         // nil: fn shares a transaction with others, and no statements
	item any

	err      error
	panicked any
	alone    bool // err is the database's "try again": the caller does so by himself
}

func (w *waiter) finish(err error) {
	w.err = err
	close(w.done)
}

func (w *waiter) finished() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// Commit runs fn in a transaction that it may share with other callers' functions, and returns when that is durable.
// An error of fn undoes fn alone and is returned as it is; a panic in it panics here. fn runs in another caller's
// goroutine perhaps, and again where the database says "try again".
//
// A ctx that ends before fn was picked up: fn never runs, and ctx's error is returned. Once picked up, fn and the
// commit are no longer stopped by ctx, and the answer is the true one: nil means committed, an error that nothing of fn
// holds, but for [ErrUncertain]. fn's ctx has the caller's values and not his deadline.
//
// Commit must not be called from inside a Func, nor, with MaxOpenConns(1), while the caller holds a connection.
func (d *DB) Commit(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.commit(ctx, &waiter{ctx: context.WithoutCancel(ctx), fn: fn, done: make(chan struct{})})
}

func (d *DB) commit(ctx context.Context, w *waiter) error {
	d.s.push(w)
	select {
	case <-w.done:
	case d.lead <- struct{}{}:
		d.leadFor(ctx, w)
	case <-ctx.Done():
		if d.s.withdraw(w) {
			return ctx.Err()
		}
	}
	<-w.done
	if w.alone {
		w.err = d.Tx(w.ctx, w.guarded(d))
	}
	if w.panicked != nil {
		panic(w.panicked)
	}
	return w.err
}

// leadFor runs rounds until w has its answer, then lets the next waiter lead.
func (d *DB) leadFor(ctx context.Context, w *waiter) {
	defer func() { <-d.lead }()
	for !w.finished() {
		if err := d.round(ctx); err != nil && d.s.withdraw(w) {
			w.finish(err)
		}
	}
}

// round is one transaction for all who wait. An error means that it did not begin, and nobody's function was picked up.
//
// Savepoints cost as much as the work inside them and are seldom needed, so the first try has none: where a function
// fails, all is rolled back and run again, each in a savepoint.
func (d *DB) round(ctx context.Context) error {
	t, err := d.begin(ctx)
	if err != nil {
		return err
	}
	if err := d.impatient(ctx, t); err != nil {
		t.close()
		return err
	}
	batch := d.s.take()
	defer d.finishAlone(batch) // deferred, so that nobody is left waiting where a function ends this goroutine
	d.together(t, batch, plain)
	again := unfinished(batch)
	if len(again) < 2 {
		return nil
	}
	if t, err = d.begin(context.WithoutCancel(ctx)); err == nil {
		d.together(t, again, apart)
	}
	return nil
}

func unfinished(batch []*waiter) []*waiter {
	var out []*waiter
	for _, w := range batch {
		if !w.finished() {
			out = append(out, w)
		}
	}
	return out
}

// finishAlone gives those of batch a transaction each who lost theirs without a fault of their own.
func (d *DB) finishAlone(batch []*waiter) {
	for _, w := range unfinished(batch) {
		if w.panicked != nil {
			w.finish(errPanicked)
			continue
		}
		w.finish(d.Tx(w.ctx, w.guarded(d)))
	}
}

// mode says how functions share a transaction.
type mode bool

const (
	plain mode = false // one that fails fails all
	apart mode = true  // each in a savepoint
)

// together runs batch in t and answers everyone whose fate is known. Who was asked to try again does so in a transaction
// of his own, so that a lock that he waits for stops nobody else. Who has no answer afterwards was rolled back without
// a fault of his own.
func (d *DB) together(t *open, batch []*waiter, m mode) {
	defer t.close()
	held, singles := []*waiter(nil), batch
	if m == plain {
		var err error
		if held, singles, err = d.byKind(t, batch); err != nil {
			return
		}
	}
	for _, w := range singles {
		err := d.inside(t, w, m)
		switch {
		case err == nil:
			held = append(held, w)
			continue
		case errors.Is(err, errBroken):
			return
		case IsBusy(err):
			w.alone = true
			w.finish(err)
		case m == apart || len(batch) == 1 || w.panicked != nil:
			w.finish(err)
		}
		if m == plain {
			return
		}
	}
	if len(held) == 0 {
		return
	}
	err := t.commit()
	if err != nil && !errors.Is(err, ErrUncertain) && (len(held) > 1 || IsBusy(err)) {
		return
	}
	for _, w := range held {
		w.finish(err)
	}
}

// errBroken says that the shared transaction is gone. SQLite drops it whole where the disk is full.
var errBroken = errors.New("sqldb: shared transaction broken")

// inside runs w's function.
func (d *DB) inside(t *open, w *waiter, m mode) error {
	fn := w.guarded(d)
	if m == plain {
		return fn(w.ctx, t.Tx)
	}
	if _, err := t.ExecContext(w.ctx, "SAVEPOINT postseal"); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	err := fn(w.ctx, t.Tx)
	if err != nil {
		if _, err := t.ExecContext(w.ctx, "ROLLBACK TO SAVEPOINT postseal"); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	if _, rerr := t.ExecContext(w.ctx, "RELEASE SAVEPOINT postseal"); rerr != nil {
		return fmt.Errorf("%w: %w", errBroken, rerr)
	}
	return err
}

var errPanicked = errors.New("sqldb: function panicked")

// guarded is w's function with a bound on a silent network, and with its panic kept for w's own goroutine.
func (w *waiter) guarded(d *DB) Func {
	return func(ctx context.Context, tx *sql.Tx) (err error) {
		if d.Dialect == Postgres {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, netBound)
			defer cancel()
		}
		returned := false
		w.panicked = nil
		defer func() {
			if returned {
				return
			}
			w.panicked = recover()
			if w.panicked == nil { // runtime.Goexit
				w.panicked = errPanicked
			}
			err = errPanicked
		}()
		err = w.fn(ctx, tx)
		returned = true
		return err
	}
}

func (s *shared) push(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, w)
}

// withdraw takes w out before it was picked up; false: it was.
func (s *shared) withdraw(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range s.waiting {
		if v == w {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take picks up who waits, first come first served.
func (s *shared) take() []*waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), maxBatch)
	batch := append([]*waiter(nil), s.waiting[:n]...)
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
	return batch
}
