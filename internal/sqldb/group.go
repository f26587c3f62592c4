package sqldb

import (
	"context"
	"database/sql"
)

// Group commits items of one kind. Those that wait at the same moment share not only a transaction but one call, so that
// their rows can share statements. Make one for each kind of work and keep it.
type Group[T any] struct {
	d *DB
	k kind
}

// kind is what makes waiters share a call.
type kind struct {
	run func(ctx context.Context, tx *sql.Tx, items []any) error
}

// NewGroup makes the group whose items run writes. What [DB.Commit] says of a function holds for run. An error of a call
// with several items undoes them all, and each is run again alone to find out whose it is.
func NewGroup[T any](d *DB, run func(ctx context.Context, tx *sql.Tx, items []T) error) *Group[T] {
	return &Group[T]{d, kind{func(ctx context.Context, tx *sql.Tx, items []any) error {
		ts := make([]T, len(items))
		for i, it := range items {
			ts[i] = it.(T)
		}
		return run(ctx, tx, ts)
	}}}
}

// Commit writes item: as [DB.Commit] does with a function.
func (g *Group[T]) Commit(ctx context.Context, item T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	alone := func(ctx context.Context, tx *sql.Tx) error { return g.k.run(ctx, tx, []any{item}) }
	return g.d.commit(ctx, &waiter{ctx: context.WithoutCancel(ctx), fn: alone, done: make(chan struct{}), kind: &g.k, item: item})
}

// byKind runs those of batch together that are of one kind, and returns them and the rest. An error is somebody's.
func (d *DB) byKind(t *open, batch []*waiter) (held, singles []*waiter, err error) {
	kinds := make(map[*kind][]*waiter)
	for _, w := range batch {
		if w.kind != nil {
			kinds[w.kind] = append(kinds[w.kind], w)
		}
	}
	for _, w := range batch {
		ws := kinds[w.kind]
		if w.kind == nil || len(ws) < 2 {
			singles = append(singles, w)
			continue
		}
		if ws[0] != w { // was run with the first of its kind
			continue
		}
		items := make([]any, len(ws))
		for i, o := range ws {
			items[i] = o.item
		}
		all := &waiter{ctx: w.ctx, fn: func(ctx context.Context, tx *sql.Tx) error { return w.kind.run(ctx, tx, items) }}
		if err := all.guarded(d)(all.ctx, t.Tx); err != nil {
			return nil, nil, err
		}
		held = append(held, ws...)
	}
	return held, singles, nil
}
