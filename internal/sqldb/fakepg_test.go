package sqldb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
)

// script answers like a PostgreSQL that does nothing, and remembers what it was told. The real one is in the interop
// lane; this one shows what is said to it, and can answer what the real one never does.
type script struct {
	mu      sync.Mutex // guards all
	answers map[string]string
	said    []string
	commit  error // what COMMIT answers
}

func (s *script) tell(q string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, q)
	v, ok := s.answers[q]
	return v, ok
}

func (s *script) Connect(context.Context) (driver.Conn, error) { return (*scripted)(s), nil }
func (s *script) Driver() driver.Driver                        { return nil }

type scripted script

func (c *scripted) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *scripted) Close() error                        { return nil }
func (c *scripted) Begin() (driver.Tx, error)           { return c, nil }
func (c *scripted) Commit() error                       { (*script)(c).tell("COMMIT"); return c.commit }
func (c *scripted) Rollback() error                     { (*script)(c).tell("ROLLBACK"); return nil }

func (c *scripted) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return c, nil }

func (c *scripted) ExecContext(_ context.Context, q string, _ []driver.NamedValue) (driver.Result, error) {
	(*script)(c).tell(q)
	return driver.RowsAffected(1), nil
}

func (c *scripted) QueryContext(_ context.Context, q string, _ []driver.NamedValue) (driver.Rows, error) {
	v, ok := (*script)(c).tell(q)
	return &oneRow{v, ok}, nil
}

type oneRow struct {
	v    string
	more bool
}

func (r *oneRow) Columns() []string { return []string{"v"} }
func (r *oneRow) Close() error      { return nil }
func (r *oneRow) Next(dest []driver.Value) error {
	if !r.more {
		return io.EOF
	}
	dest[0], r.more = r.v, false
	return nil
}

func scriptedDB(t *testing.T, version string) (*script, *sql.DB) {
	s := &script{answers: map[string]string{"SELECT version()": version, "SHOW fsync": "on", "SHOW synchronous_commit": "on"}}
	db := sql.OpenDB(s)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return s, db
}

func TestWhatPostgresIsTold(t *testing.T) {
	s, db := scriptedDB(t, "PostgreSQL 15.1")
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, sqldb.Postgres, d.Dialect)
	require.NoError(t, d.Migrate(t.Context(), "x", []string{"CREATE TABLE x (id {serial}, n {int}, b {bytes});\n{sqlite}SELECT 1;"}))
	said := strings.Join(s.said, "\n")
	require.Less(t, strings.Index(said, "pg_advisory_xact_lock"), strings.Index(said, "CREATE TABLE IF NOT EXISTS"))
	require.Contains(t, said, "id BIGSERIAL PRIMARY KEY, n BIGINT, b BYTEA")
	require.Contains(t, said, "pkg=$1")
	require.NotContains(t, said, "SELECT 1")

	s.said = nil
	require.NoError(t, d.Commit(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
		_, bounded := ctx.Deadline()
		require.True(t, bounded, "a silent network must not hang the process")
		_, err := tx.ExecContext(ctx, "INSERT")
		return err
	}))
	require.Equal(t, []string{"SET LOCAL lock_timeout='500ms'", "INSERT", "COMMIT"}, s.said)

	require.NoError(t, d.CheckDurable(t.Context()))
	s.answers["SHOW fsync"], s.answers["SHOW synchronous_commit"] = "off", "off"
	err = d.CheckDurable(t.Context())
	require.ErrorContains(t, err, "fsync")
	require.ErrorContains(t, err, "synchronous_commit")
	delete(s.answers, "SHOW fsync")
	require.ErrorIs(t, d.CheckDurable(t.Context()), sql.ErrNoRows)
}

func TestForeignDatabase(t *testing.T) {
	_, db := scriptedDB(t, "8.0.36 MySQL")
	_, err := sqldb.Of(t.Context(), db)
	require.ErrorContains(t, err, "neither")
}

// A server that is shut down may say so after it has made the commit.
func TestErrorOfCommit(t *testing.T) {
	s, db := scriptedDB(t, "PostgreSQL 15.1")
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	for answer, uncertain := range map[error]bool{
		state("57P01"): true, state("57014"): true, state("08006"): true, state("XX000"): true, state("58030"): true,
		driver.ErrBadConn: true, code(10): true, code(11): true,
		state("23505"): false, state("40001"): false, state("53100"): false, code(13): false,
	} {
		s.commit = answer
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := d.Tx(ctx, func(context.Context, *sql.Tx) error { return nil })
		cancel()
		require.Error(t, err)
		require.Equal(t, uncertain, errors.Is(err, sqldb.ErrUncertain), "%v", answer)
	}
}
