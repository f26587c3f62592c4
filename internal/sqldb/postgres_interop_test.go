//go:build interop

package sqldb_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

func servers() map[string]opener {
	return map[string]opener{"postgres": openPostgres, "postgres one connection": single(openPostgres)}
}

func openPostgres(t testing.TB) *sql.DB { return sqldbtest.Postgres(t)() }

func TestPostgresSettings(t *testing.T) {
	db := openPostgres(t)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.CheckDurable(t.Context()))
	db.SetMaxOpenConns(1)
	_, err = db.Exec("SET synchronous_commit=off")
	require.NoError(t, err)
	require.ErrorContains(t, d.CheckDurable(t.Context()), "synchronous_commit")
}

func TestPostgresDeadlockIsRepeated(t *testing.T) {
	db := openPostgres(t)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int}, b {bytes});\nINSERT INTO t_rows VALUES (1), (2)"}))
	touch := func(a, b int) sqldb.Func {
		return func(ctx context.Context, tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "UPDATE t_rows SET b=NULL WHERE v=$1", a); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
			_, err := tx.ExecContext(ctx, "UPDATE t_rows SET b=NULL WHERE v=$1", b)
			return err
		}
	}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if err := d.Tx(t.Context(), touch(1+i, 2-i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPostgresLostConnection(t *testing.T) {
	db := openPostgres(t)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int}, b {bytes})"}))
	kill := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
		return err
	}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if i == 7 {
				if err := d.Commit(t.Context(), kill); err == nil {
					t.Error("no error")
				}
				return
			}
			if err := d.Commit(t.Context(), insert(d, i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 31, count(t, db))
}

// A lock that somebody outside holds stops the one who wants it, and nobody else.
func TestPostgresForeignLock(t *testing.T) {
	db := openPostgres(t)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int} UNIQUE, b {bytes})"}))
	tx, err := db.Begin()
	require.NoError(t, err)
	require.NoError(t, insert(d, 1)(t.Context(), tx))
	var wg sync.WaitGroup
	wg.Go(func() {
		err := d.Commit(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO t_rows (v) VALUES (1) ON CONFLICT DO NOTHING")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	time.Sleep(700 * time.Millisecond)
	for i := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		require.NoError(t, d.Commit(ctx, insert(d, 10+i)))
		cancel()
	}
	require.NoError(t, tx.Commit())
	wg.Wait()
	require.Equal(t, 11, count(t, db))
}
