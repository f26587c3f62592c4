package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// stepTable keeps the steps that each package made, in their neutral words, so that a backup can make the tables anew in
// either dialect without the package at hand.
const stepTable = "CREATE TABLE IF NOT EXISTS postseal_step (pkg TEXT NOT NULL, n BIGINT NOT NULL, step TEXT NOT NULL, PRIMARY KEY (pkg, n))"

// keepSteps writes down those of steps that are made and not yet kept.
func (d *DB) keepSteps(ctx context.Context, tx *sql.Tx, pkg string, steps []string) error {
	if _, err := tx.ExecContext(ctx, stepTable); err != nil {
		return err
	}
	last := -1
	err := tx.QueryRowContext(ctx, d.Rebind("SELECT n FROM postseal_step WHERE pkg=? ORDER BY n DESC LIMIT 1"), pkg).Scan(&last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	for n := last + 1; n < len(steps); n++ {
		if _, err := tx.ExecContext(ctx, d.Rebind("INSERT INTO postseal_step (pkg, n, step) VALUES (?, ?, ?)"), pkg, n, steps[n]); err != nil {
			return err
		}
	}
	return nil
}

// Snapshot runs fn in a transaction that only reads, and in which nothing changes: a deferred one on SQLite, which in WAL
// mode stops no writer, REPEATABLE READ READ ONLY on PostgreSQL. It is never repeated, may take as long as ctx lasts, and
// takes one connection.
func (d *DB) Snapshot(ctx context.Context, fn func(ctx context.Context, tx *sql.Tx) error) error {
	// ReadOnly keeps a driver that was told to begin IMMEDIATE from taking the write lock.
	o := sql.TxOptions{ReadOnly: true}
	if d.Dialect == Postgres {
		o.Isolation = sql.LevelRepeatableRead
	}
	tx, err := d.db.BeginTx(ctx, &o)
	if err != nil {
		return fmt.Errorf("sqldb: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	// A deferred transaction begins with its first read.
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM postseal_schema").Scan(&n); err != nil {
		return fmt.Errorf("sqldb: snapshot: %w", err)
	}
	return fn(ctx, tx)
}

// Steps are the steps of one package that made the tables as they are, in neutral words; [DB.Migrate] makes them again.
type Steps struct {
	Package string
	Steps   []string
}

var madeTable = regexp.MustCompile(`(?i)(?:CREATE TABLE(?: IF NOT EXISTS)?|RENAME TO)\s+([a-z_][a-z0-9_]*)`)

// Tables are the names of the tables that s made, in that order, those dropped or renamed since among them.
func (s *Steps) Tables() []string {
	var out []string
	for _, step := range s.Steps {
		for _, m := range madeTable.FindAllStringSubmatch(step, -1) {
			if !slices.Contains(out, m[1]) {
				out = append(out, m[1])
			}
		}
	}
	return out
}

// ErrNoSteps says that tables were made by a release that did not keep its steps: open them once with this one.
var ErrNoSteps = errors.New("sqldb: how the tables were made is not known: open their package once with this release")

// StepsOf reads how the tables of every package were made, in order of names.
func (d *DB) StepsOf(ctx context.Context, tx *sql.Tx) ([]Steps, error) {
	versions, order, err := d.versions(ctx, tx)
	if err != nil || len(order) == 0 {
		return nil, err
	}
	rs, err := tx.QueryContext(ctx, "SELECT pkg, step FROM postseal_step ORDER BY pkg, n")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSteps, err)
	}
	defer rs.Close()
	made := map[string][]string{}
	for rs.Next() {
		var pkg, step string
		if err := rs.Scan(&pkg, &step); err != nil {
			return nil, fmt.Errorf("sqldb: steps: %w", err)
		}
		made[pkg] = append(made[pkg], step)
	}
	if err := rs.Err(); err != nil {
		return nil, fmt.Errorf("sqldb: steps: %w", err)
	}
	var out []Steps
	for _, pkg := range order {
		if len(made[pkg]) != versions[pkg] {
			return nil, fmt.Errorf("sqldb: package %s: %w", pkg, ErrNoSteps)
		}
		out = append(out, Steps{pkg, made[pkg]})
	}
	return out, nil
}

func (d *DB) versions(ctx context.Context, tx *sql.Tx) (versions map[string]int, order []string, err error) {
	rs, err := tx.QueryContext(ctx, "SELECT pkg, version FROM postseal_schema ORDER BY pkg")
	if err != nil {
		return nil, nil, fmt.Errorf("sqldb: versions: %w", err)
	}
	defer rs.Close()
	versions = map[string]int{}
	for rs.Next() {
		var pkg string
		var n int
		if err := rs.Scan(&pkg, &n); err != nil {
			return nil, nil, fmt.Errorf("sqldb: versions: %w", err)
		}
		versions[pkg] = n
		order = append(order, pkg)
	}
	if err := rs.Err(); err != nil {
		return nil, nil, fmt.Errorf("sqldb: versions: %w", err)
	}
	return versions, order, nil
}

// Make makes the tables of s in tx, as [DB.Migrate] does step by step, for a restore. Nothing of s may be there.
func (d *DB) Make(ctx context.Context, tx *sql.Tx, s *Steps) error {
	if _, err := tx.ExecContext(ctx, versionTable); err != nil {
		return fmt.Errorf("sqldb: make %s: %w", s.Package, err)
	}
	if err := d.migrate(ctx, tx, s.Package, s.Steps); err != nil {
		return fmt.Errorf("sqldb: make %s: %w", s.Package, err)
	}
	return nil
}
