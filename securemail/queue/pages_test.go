package queue_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// A page of bodies that a disk has spoiled costs its own parcels their delivery and nobody else, and nothing is deleted.
func TestDamagedPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	db := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	r := newRigOn(t, lite, fixedRing(), nil)
	r.db, r.Queue = db, r.open(db, "")
	for range 60 {
		b := r.batch(1)
		b.Parcels[0].Message = message(t, "result", strings.Repeat("your result\r\n", 60))
		_, err := r.Put(t.Context(), b)
		require.NoError(t, err)
	}
	require.NoError(t, r.Check(t.Context()))
	var page int64
	require.NoError(t, db.QueryRow("SELECT max(pageno) FROM dbstat WHERE name='queue_body' AND pagetype='leaf'").Scan(&page))
	r.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, db.Close())
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xee}, 4096), (page-1)*4096)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	r.db = sqldbtest.SQLite(t, path, sqldbtest.Safe)
	r.Queue = r.open(r.db, "")
	err = r.Check(t.Context())
	require.ErrorIs(t, err, queue.ErrDamaged)
	var corrupt *queue.CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, "body", corrupt.Part)
	good, held := 0, 0
	for {
		ls := r.take(r.Queue, 500)
		for _, l := range ls {
			require.Contains(t, content(t, l.Parcel.Message), "your result")
			good++
		}
		if len(ls) == 0 {
			break
		}
	}
	for range r.Find(t.Context(), securemail.Query{Tenant: "clinic", States: []securemail.State{securemail.StateHeld}}) {
		held++
	}
	require.Equal(t, 60, good+held)
	require.Positive(t, held)
	require.Greater(t, good, 50)
	require.Equal(t, 60, r.count("SELECT count(*) FROM queue_parcel"))
}

// A file that is no database any more says so.
func TestNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("nonsense"), 4096), 0o600))
	_, err := queue.New(t.Context(), sqldbtest.SQLite(t, path, sqldbtest.Safe), newRing(), nil)
	require.ErrorIs(t, err, queue.ErrDamaged)
}
