package sqldb_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
)

func TestSnapshotSeesOneMoment(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		if db.Stats().MaxOpenConnections == 1 {
			t.Skip("the writer needs a connection of its own")
		}
		require.NoError(t, d.Commit(t.Context(), insert(d, 1)))
		err := d.Snapshot(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			require.NoError(t, d.Commit(ctx, insert(d, 2)), "a writer is not stopped")
			var n int
			require.NoError(t, tx.QueryRowContext(ctx, "SELECT count(*) FROM t_rows").Scan(&n))
			require.Equal(t, 1, n)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, count(t, db))
	})
}

func TestStepsAreKept(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		first := "CREATE TABLE u_a (id TEXT, n {int});\n{sqlite}CREATE TABLE u_b (n {int});\n{postgres}CREATE TABLE u_b (n {int})"
		second := "ALTER TABLE u_b RENAME TO u_c"
		require.NoError(t, d.Migrate(t.Context(), "u", []string{first}))
		require.NoError(t, d.Migrate(t.Context(), "u", []string{first, second}))
		require.NoError(t, d.Migrate(t.Context(), "u", []string{first, second}))
		steps := func() (out []sqldb.Steps, err error) {
			err = d.Snapshot(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				out, err = d.StepsOf(ctx, tx)
				return err
			})
			return out, err
		}
		got, err := steps()
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, "t", got[0].Package)
		require.Equal(t, sqldb.Steps{Package: "u", Steps: []string{first, second}}, got[1])
		require.Equal(t, []string{"u_a", "u_b", "u_c"}, got[1].Tables())

		// As an earlier release left it.
		_, err = db.Exec("DELETE FROM postseal_step WHERE pkg='u'")
		require.NoError(t, err)
		_, err = steps()
		require.ErrorIs(t, err, sqldb.ErrNoSteps)
		require.NoError(t, d.Migrate(t.Context(), "u", []string{first, second}))
		_, err = steps()
		require.NoError(t, err)
	})
}
