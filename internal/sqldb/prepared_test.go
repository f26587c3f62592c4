package sqldb_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

// One who waits for the only connection must not stop the one who has it.
func TestPreparedWithOneConnection(t *testing.T) {
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), sqldbtest.Safe)
	db.SetMaxOpenConns(1)
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), "t", []string{"CREATE TABLE t_rows (v {int})"}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				err := d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
					p := d.Prepared(tx)
					// Many texts, so that there is always one to prepare, and more than are kept.
					for range 2 {
						q := fmt.Sprintf("INSERT INTO t_rows (v) VALUES (?) -- %d", i)
						if _, err := p.ExecContext(ctx, q, g); err != nil {
							return err
						}
					}
					var n int
					return p.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM t_rows -- %d", i)).Scan(&n)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 8*40*2, count(t, db))
}
