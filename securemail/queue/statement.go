package queue

import (
	"context"
	"strings"

	"github.com/postseal/postseal/internal/sqldb"
)

// statement is one query with its arguments.
type statement struct {
	query string
	args  []any
}

const (
	maxRows   = 100 // in one insert: within SQLite's 32,766 and PostgreSQL's 65,535 parameters
	fewRows   = 10
	fuseArgs  = 150 // larger statements gain nothing from a round trip less
	fuseParts = 4
)

// rung is how many of n rows go into the next statement. SQLite knows few texts of each, which stay prepared.
func (q *Queue) rung(n int) int {
	switch {
	case n >= maxRows || q.d.Dialect == sqldb.Postgres:
		return min(n, maxRows)
	case n >= fewRows:
		return fewRows
	}
	return 1
}

// inserts writes rows many at a time.
func (q *Queue) inserts(into string, rows [][]any, tail string) []statement {
	var out []statement
	for len(rows) > 0 {
		n := q.rung(len(rows))
		one := "(" + marks(len(rows[0])) + ")"
		args := make([]any, 0, n*len(rows[0]))
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		out = append(out, statement{"INSERT INTO " + into + " VALUES " + strings.Repeat(one+",", n-1) + one + tail, args})
		rows = rows[n:]
	}
	return out
}

// together runs main, which returns one row into dest, and others, which return none. No row of main is sql.ErrNoRows,
// and the caller must then roll back: the others may have been run. On PostgreSQL, where each statement is a trip to the
// server, a small group of them is one.
func (q *Queue) together(ctx context.Context, tx querier, main statement, dest any, others []statement) error {
	args := 0
	for _, s := range others {
		args += len(s.args)
	}
	if q.d.Dialect == sqldb.Postgres && len(others) > 0 && len(others) <= fuseParts && args <= fuseArgs {
		main = fuse(main, others)
		others = nil
	}
	if err := tx.QueryRowContext(ctx, q.d.Rebind(main.query), main.args...).Scan(dest); err != nil {
		return err
	}
	return q.runAll(ctx, tx, others)
}

func (q *Queue) runAll(ctx context.Context, tx querier, ss []statement) error {
	for _, s := range ss {
		if _, err := q.exec(ctx, tx, s.query, s.args...); err != nil {
			return err
		}
	}
	return nil
}

// fuse makes one statement of all: https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING
func fuse(main statement, others []statement) statement {
	var b strings.Builder
	var args []any
	for i, s := range others {
		b.WriteString([]string{"WITH a AS (", ", b AS (", ", c AS (", ", d AS ("}[i])
		b.WriteString(s.query)
		b.WriteString(")")
		args = append(args, s.args...)
	}
	b.WriteString(" ")
	b.WriteString(main.query)
	return statement{b.String(), append(args, main.args...)}
}
