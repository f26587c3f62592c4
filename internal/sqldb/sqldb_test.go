package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

type opener func(t testing.TB) *sql.DB

func single(open opener) opener {
	return func(t testing.TB) *sql.DB {
		db := open(t)
		db.SetMaxOpenConns(1)
		return db
	}
}

// openers are the databases that the tests run on; the interop lane adds PostgreSQL.
func openers() map[string]opener {
	lite := func(t testing.TB) *sql.DB {
		return sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), sqldbtest.Safe)
	}
	m := map[string]opener{"sqlite": lite, "sqlite one connection": single(lite)}
	maps.Copy(m, servers())
	return m
}

func each(t *testing.T, f func(t *testing.T, db *sql.DB, d *sqldb.DB)) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			d, err := sqldb.Of(t.Context(), db)
			require.NoError(t, err)
			require.NoError(t, d.Migrate(t.Context(), "t", []string{
				"CREATE TABLE t_rows (id {serial}, v {int} NOT NULL UNIQUE, b {bytes});\n{sqlite}CREATE INDEX t_s ON t_rows (v);\n{postgres}CREATE INDEX t_p ON t_rows (v);",
			}))
			f(t, db, d)
		})
	}
}

func insert(d *sqldb.DB, v int) sqldb.Func {
	return func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, d.Rebind("INSERT INTO t_rows (v, b) VALUES (?, ?)"), v, []byte("b"))
		return err
	}
}

func count(t *testing.T, db *sql.DB) int {
	t.Helper()
	var n int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM t_rows").Scan(&n))
	return n
}

func TestCommitManyProducers(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		var wg sync.WaitGroup
		var ok, bad atomic.Int64
		for p := range 64 {
			wg.Go(func() {
				// Another wrapper of the same *sql.DB shares the committer.
				d, err := sqldb.Of(t.Context(), db)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range 10 {
					v := p*10 + i
					if i%5 == 4 { // a fault of one must not harm the others
						v = p * 10
					}
					if err := d.Commit(t.Context(), insert(d, v)); err != nil {
						bad.Add(1)
					} else {
						ok.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 64*8, ok.Load())
		require.EqualValues(t, 64*2, bad.Load())
		require.Equal(t, 64*8, count(t, db))
	})
}

func TestCommitCancelIsUnambiguous(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		started, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			err := d.Commit(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				close(started)
				<-release
				return insert(d, 1)(ctx, tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-started
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			err := d.Commit(ctx, insert(d, 2))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			close(release)
		})
		cancel()
		wg.Wait()
		require.Equal(t, 1, count(t, db))

		// Once picked up, the cancel does not count.
		ctx, cancel = context.WithCancel(t.Context())
		require.NoError(t, d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			cancel()
			return insert(d, 3)(ctx, tx)
		}))
		require.Equal(t, 2, count(t, db))
		require.ErrorIs(t, d.Commit(ctx, insert(d, 4)), context.Canceled)
	})
}

func TestCommitPanic(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		var wg sync.WaitGroup
		var panics atomic.Int64
		for i := range 16 {
			wg.Go(func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				err := d.Commit(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
					if err := insert(d, i)(ctx, tx); err != nil {
						return err
					}
					if i%4 == 0 {
						panic("mine")
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 4, panics.Load())
		require.Equal(t, 12, count(t, db))
	})
}

func TestCommitGoexit(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = d.Commit(t.Context(), func(context.Context, *sql.Tx) error { runtime.Goexit(); return nil })
		})
		wg.Wait()
		require.NoError(t, d.Commit(t.Context(), insert(d, 1)))
	})
}

func TestTxAndErrors(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		boom := errors.New("boom")
		err := d.Tx(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			return errors.Join(insert(d, 1)(ctx, tx), boom)
		})
		require.ErrorIs(t, err, boom)
		require.Zero(t, count(t, db))

		ctx, cancel := context.WithCancel(t.Context())
		err = d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
			defer cancel()
			return insert(d, 1)(ctx, tx)
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, count(t, db))

		runs := 0
		err = d.Tx(t.Context(), func(context.Context, *sql.Tx) error {
			if runs++; runs < 3 {
				return busy{}
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, runs)
		runs = 0
		err = d.Tx(t.Context(), func(context.Context, *sql.Tx) error { runs++; return busy{} })
		require.True(t, sqldb.IsBusy(err))
		require.Equal(t, 10, runs)

		runs = 0
		require.NoError(t, d.Commit(t.Context(), func(context.Context, *sql.Tx) error {
			if runs++; runs < 3 {
				return busy{}
			}
			return nil
		}))
		require.Equal(t, 3, runs)
	})
}

type busy struct{}

func (busy) Error() string { return "busy" }
func (busy) Code() int     { return 5 | 2<<8 }

type state string

func (state) Error() string      { return "state" }
func (s state) SQLState() string { return string(s) }

type code int

func (code) Error() string { return "code" }
func (c code) Code() int   { return int(c) }

func TestErrorClasses(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("x: %w", err) }
	for _, err := range []error{busy{}, code(6), state("40001"), state("40P01"), state("55P03")} {
		require.True(t, sqldb.IsBusy(wrap(err)))
		require.False(t, sqldb.IsFull(err) || sqldb.IsReadOnly(err))
	}
	for _, err := range []error{code(13), state("53100")} {
		require.True(t, sqldb.IsFull(wrap(err)))
	}
	for _, err := range []error{code(8 | 3<<8), state("25006")} {
		require.True(t, sqldb.IsReadOnly(wrap(err)))
	}
	require.False(t, sqldb.IsBusy(nil) || sqldb.IsFull(errors.New("x")) || sqldb.IsReadOnly(nil))
}

func TestMigrate(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			d, err := sqldb.Of(t.Context(), db)
			require.NoError(t, err)
			steps := []string{"CREATE TABLE m_a (id TEXT);", "INSERT INTO m_a VALUES ('x');\nCREATE TABLE m_b (id TEXT)"}
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if err := d.Migrate(t.Context(), "m", steps); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			require.NoError(t, d.Migrate(t.Context(), "m", append(steps, "INSERT INTO m_a VALUES ('y')")))
			require.ErrorIs(t, d.Migrate(t.Context(), "m", steps), sqldb.ErrNewer)
			require.Error(t, d.Migrate(t.Context(), "n", []string{"CREATE TABLE n_a (id TEXT)", "NONSENSE"}))
			require.NoError(t, d.Migrate(t.Context(), "n", []string{"CREATE TABLE n_a (id TEXT)"}), "a failed migration leaves nothing")
			var n int
			require.NoError(t, db.QueryRow("SELECT count(*) FROM m_a").Scan(&n))
			require.Equal(t, 2, n)
		})
	}
}

func TestForeignWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	db := sqldbtest.SQLite(t, path, "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(20)")
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int}, b {bytes})"}))
	foreign := sqldbtest.SQLite(t, path, "?_pragma=busy_timeout(5000)&_txlock=immediate")
	tx, err := foreign.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO t_rows VALUES (0, NULL)")
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, d.Commit(ctx, insert(d, 1)), context.DeadlineExceeded)

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f := d.Commit
			if i%2 == 0 {
				f = d.Tx
			}
			// Reading first would fail in a deferred transaction once the foreign writer has committed.
			err := f(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				var n int
				if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM t_rows").Scan(&n); err != nil {
					return err
				}
				return insert(d, n)(ctx, tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(150 * time.Millisecond) // longer than busy_timeout
	require.NoError(t, tx.Commit())
	wg.Wait()
	require.Equal(t, 9, count(t, db))
}

func TestCheckDurable(t *testing.T) {
	for params, want := range map[string]string{
		sqldbtest.Safe:              "",
		"?_pragma=busy_timeout(10)": "",
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(10)": "below FULL",
		"?_pragma=synchronous(OFF)&_pragma=journal_mode(MEMORY)":                          "journal_mode memory",
		"?_pragma=journal_mode(TRUNCATE)&_pragma=busy_timeout(0)":                         "busy_timeout",
	} {
		t.Run(params, func(t *testing.T) {
			db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), params)
			d, err := sqldb.Of(t.Context(), db)
			require.NoError(t, err)
			err = d.CheckDurable(t.Context())
			if want == "" {
				require.NoError(t, err)
				require.NoError(t, d.Tx(t.Context(), func(context.Context, *sql.Tx) error { return nil }))
				return
			}
			require.ErrorContains(t, err, want)
		})
	}
	// A setting made on one connection alone is no setting.
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), "")
	_, err := db.Exec("PRAGMA busy_timeout=5000")
	require.NoError(t, err)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.ErrorContains(t, d.CheckDurable(t.Context()), "busy_timeout")
}

func TestDeleteModeIsRaisedToExtra(t *testing.T) {
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), "?_pragma=busy_timeout(10)&_pragma=synchronous(FULL)")
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.CheckDurable(t.Context()))
	for _, f := range []func(context.Context, func(context.Context, *sql.Tx) error) error{d.Tx, d.Commit} {
		require.NoError(t, f(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			var level int
			require.NoError(t, tx.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&level))
			require.Equal(t, 3, level)
			return nil
		}))
	}
}

func TestFullDiskHarmsNobodyElse(t *testing.T) {
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), sqldbtest.Safe)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int}, b {bytes})"}))
	db.SetMaxOpenConns(1)
	_, err = db.Exec("PRAGMA max_page_count=60")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var full atomic.Int64
	for i := range 32 {
		wg.Go(func() {
			err := d.Commit(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				size := 10
				if i%4 == 0 {
					size = 1 << 20
				}
				_, err := tx.ExecContext(ctx, "INSERT INTO t_rows VALUES (?, ?)", i, make([]byte, size))
				return err
			})
			switch {
			case sqldb.IsFull(err) && i%4 == 0:
				full.Add(1)
			case err != nil:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 8, full.Load())
	require.Equal(t, 24, count(t, db))
}

func TestOf(t *testing.T) {
	_, err := sqldb.Of(t.Context(), nil)
	require.Error(t, err)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "no", "such", "q.db"))
	require.NoError(t, err)
	defer db.Close()
	_, err = sqldb.Of(t.Context(), db)
	require.Error(t, err)
	require.Equal(t, "sqlite", sqldb.SQLite.String())
	require.Equal(t, "postgres", sqldb.Postgres.String())
	require.Equal(t, "unknown", sqldb.Dialect(0).String())
}

func TestRebind(t *testing.T) {
	pg := &sqldb.DB{Dialect: sqldb.Postgres}
	require.Equal(t, `SELECT '?', "a?" FROM t WHERE a=$1 AND b=$2`, pg.Rebind(`SELECT '?', "a?" FROM t WHERE a=? AND b=?`))
	require.Equal(t, "SELECT 1", pg.Rebind("SELECT 1"))
	require.Equal(t, "a=?", (&sqldb.DB{Dialect: sqldb.SQLite}).Rebind("a=?"))
}
