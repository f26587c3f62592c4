//go:build interop

package backup_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/queue"
)

// TestPostgresThereAndBack: a backup of SQLite becomes a PostgreSQL that goes on, whose backup becomes a PostgreSQL and a
// SQLite that go on. It needs POSTSEAL_PG_DSN, as internal/interop/with-postgres sets it.
func TestPostgresThereAndBack(t *testing.T) {
	s := filled(t)
	b, _ := s.backup()
	dir := t.TempDir()
	pg, _, err := s.restored(b, sqldbtest.Postgres(t)(), dir)
	require.NoError(t, err)
	requireSame(t, s, pg)
	_, _, err = s.restored(b, pg.db, t.TempDir())
	require.ErrorIs(t, err, backup.ErrNotEmpty)

	goesOn(t, pg, 10)
	b, rep := pg.backup()
	require.Equal(t, "postgres", rep.Dialect)
	dir = t.TempDir()
	again, _, err := pg.restored(b, sqldbtest.Postgres(t)(), dir)
	require.NoError(t, err)
	requireSame(t, pg, again)
	goesOn(t, again, 20)
	dir = t.TempDir()
	back, _, err := pg.restored(b, lite(t, filepath.Join(dir, "mail.db")), dir)
	require.NoError(t, err)
	requireSame(t, pg, back)
	goesOn(t, back, 30)
}

func requireSame(t *testing.T, a, b *store) {
	t.Helper()
	require.Equal(t, a.statuses(), b.statuses())
	in, err := b.queue.Inspect(t.Context(), 0)
	require.NoError(t, err)
	require.Empty(t, in.Damaged)
	require.NoError(t, b.log.Check(t.Context()))
	m, err := backup.Pending(t.Context(), b.db)
	require.NoError(t, err)
	require.NotNil(t, m)
}

// goesOn takes mail, delivers all of it, and has every event in the log once.
func goesOn(t *testing.T, s *store, n int) {
	t.Helper()
	require.NoError(t, backup.Declare(t.Context(), s.db, time.Now()))
	_, err := s.queue.Reconcile(t.Context(), &queue.ReconcileOptions{NothingLeft: true})
	require.NoError(t, err)
	for i := range n {
		_, err := s.putAs(fmt.Sprintf("g%02d%023d", n, i), 1, 100)
		require.NoError(t, err)
	}
	s.mark(securemail.StateAttempting, securemail.StateDelivered)
	s.feed()
	for id, state := range s.statuses() {
		require.Equal(t, securemail.StateDelivered, state)
		_, err := s.log.Prove(t.Context(), fmt.Sprintf("e%sdelivered", id))
		require.NoError(t, err)
	}
}
