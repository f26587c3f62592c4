package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// versionTable says how many steps of each package were made.
const versionTable = "CREATE TABLE IF NOT EXISTS postseal_schema (pkg TEXT PRIMARY KEY, version BIGINT NOT NULL)"

// migrateLock is the key of PostgreSQL's advisory lock that one migration holds; any constant of ours will do.
const migrateLock = 0x706f73747365616c

// ErrNewer says that the tables were made by a later release of this program; nothing was changed.
var ErrNewer = errors.New("sqldb: the tables are newer than this program")

var sqliteWords = strings.NewReplacer("{bytes}", "BLOB", "{int}", "INTEGER", "{serial}", "INTEGER PRIMARY KEY AUTOINCREMENT",
	"{clustered}", "WITHOUT ROWID")
var postgresWords = strings.NewReplacer("{bytes}", "BYTEA", "{int}", "BIGINT", "{serial}", "BIGSERIAL PRIMARY KEY", "{clustered}", "")

// Migrate brings pkg's tables up to date: of steps it makes those that were not made yet, in order, all in one
// transaction. Steps may only ever be added at the end. Any number of processes may call it at once.
//
// A step is one or more statements, each ending with ";" at the end of a line. Words in braces are the dialect's:
// {bytes} is a column of octets, {int} 64 bits, {serial} the type of a primary key that counts up by itself; {clustered}
// behind a table keeps it in order of its primary key where that saves an index. A statement that begins with {sqlite} or {postgres} is made there only. Table names begin with the package's name.
func (d *DB) Migrate(ctx context.Context, pkg string, steps []string) error {
	err := d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error { return d.migrate(ctx, tx, pkg, steps) })
	if err != nil {
		return fmt.Errorf("sqldb: migrate %s: %w", pkg, err)
	}
	return nil
}

func (d *DB) migrate(ctx context.Context, tx *sql.Tx, pkg string, steps []string) error {
	if d.Dialect == Postgres {
		// CREATE TABLE IF NOT EXISTS fails where two run it at once.
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrateLock)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, versionTable); err != nil {
			return err
		}
	}
	have := 0
	err := tx.QueryRowContext(ctx, d.Rebind("SELECT version FROM postseal_schema WHERE pkg=?"), pkg).Scan(&have)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if have > len(steps) {
		return ErrNewer
	}
	for i, step := range steps[have:] {
		for _, stmt := range d.statements(step) {
			if _, err := tx.ExecContext(ctx, stmt); err != nil {
				return fmt.Errorf("step %d: %w", have+i+1, err)
			}
		}
	}
	if err := d.keepSteps(ctx, tx, pkg, steps); err != nil {
		return err
	}
	if have == len(steps) {
		return nil
	}
	_, err = tx.ExecContext(ctx, d.Rebind(`INSERT INTO postseal_schema (pkg, version) VALUES (?, ?)
		ON CONFLICT (pkg) DO UPDATE SET version=excluded.version`), pkg, len(steps))
	return err
}

// statements are those of step that are for this dialect, in its words.
func (d *DB) statements(step string) []string {
	mine, other, words := "{sqlite}", "{postgres}", sqliteWords
	if d.Dialect == Postgres {
		mine, other, words = other, mine, postgresWords
	}
	var out []string
	for s := range strings.SplitSeq(step+"\n", ";\n") {
		s = strings.TrimSpace(s)
		if s == "" || strings.HasPrefix(s, other) {
			continue
		}
		out = append(out, words.Replace(strings.TrimPrefix(s, mine)))
	}
	return out
}
