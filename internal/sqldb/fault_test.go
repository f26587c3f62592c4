package sqldb_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

func faulty(t *testing.T) (*sql.DB, *sqldb.DB, *sqldbtest.Faults) {
	path := filepath.Join(t.TempDir(), "q.db")
	plain := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	f := new(sqldbtest.Faults)
	db := sqldbtest.Open(plain, "file:"+path+sqldbtest.Safe, f)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int} UNIQUE, b {bytes})"}))
	return plain, d, f
}

// Whichever statement fails, an error means that nothing holds, and nil that all does.
func TestEachStatementFails(t *testing.T) {
	plain, d, f := faulty(t)
	v := 0
	ways := map[string]func(context.Context, func(context.Context, *sql.Tx) error) error{"tx": d.Tx, "commit": d.Commit}
	for name, way := range ways {
		for _, fault := range []sqldbtest.Error{sqldbtest.Busy, sqldbtest.IOErr, sqldbtest.Full} {
			for n, more := 1, true; more; n++ {
				v++
				before := count(t, plain)
				f.At(n, fault)
				err := way(t.Context(), insert(d, v))
				more = f.Clear() >= n
				switch {
				case err == nil:
					require.True(t, !more || fault == sqldbtest.Busy, "%s: statement %d failed with %d and nobody said so", name, n, fault)
					require.Equal(t, before+1, count(t, plain))
				default:
					require.ErrorIs(t, err, fault)
					require.NotEqual(t, sqldbtest.Busy, fault, "%s: busy is repeated", name)
					require.Equal(t, before, count(t, plain))
				}
			}
		}
	}
}

// The same with company: nobody suffers but from an error at the very commit, whose fate is open.
func TestEachStatementFailsInAGroup(t *testing.T) {
	plain, d, f := faulty(t)
	v := 0
	for n := 1; n <= 14; n++ {
		for _, fault := range []sqldbtest.Error{sqldbtest.Busy, sqldbtest.IOErr, sqldbtest.Full} {
			before := count(t, plain)
			started, release := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			var once sync.Once
			wg.Go(func() { // holds the lead until the others wait
				_ = d.Commit(t.Context(), func(context.Context, *sql.Tx) error {
					once.Do(func() { close(started) })
					<-release
					return nil
				})
			})
			<-started
			var mu sync.Mutex
			good := 0
			for range 3 {
				v++
				value := v
				wg.Go(func() {
					err := d.Commit(t.Context(), insert(d, value))
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						good++
					}
				})
			}
			f.At(n, fault)
			close(release)
			wg.Wait()
			f.Clear()
			require.Equal(t, before+good, count(t, plain), "statement %d, fault %d", n, fault)
		}
	}
}

func TestLostCommit(t *testing.T) {
	plain, d, f := faulty(t)
	for i, way := range []func(context.Context, func(context.Context, *sql.Tx) error) error{d.Tx, d.Commit} {
		f.LoseCommit()
		err := way(t.Context(), insert(d, i))
		require.ErrorIs(t, err, sqldb.ErrUncertain)
		require.ErrorIs(t, err, sqldbtest.ErrLost)
		require.Equal(t, i+1, count(t, plain), "it holds, and the caller must look")
	}
}

func TestFaultsElsewhere(t *testing.T) {
	_, d, f := faulty(t)
	for name, op := range map[string]func() error{
		"durable": func() error { return d.CheckDurable(t.Context()) },
		"migrate": func() error {
			return d.Migrate(t.Context(), "t", []string{"", "INSERT INTO t_rows VALUES (1000, NULL)"})
		},
	} {
		for n := 1; ; n++ {
			f.At(n, sqldbtest.IOErr)
			err := op()
			if f.Clear() < n {
				require.NoError(t, err)
				break
			}
			require.ErrorIs(t, err, sqldbtest.IOErr, name)
		}
	}
}
