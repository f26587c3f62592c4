package queue_test

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// FuzzStoredOctets puts octets of another's into each sealed column: nothing is handed out, and the error says what it is.
func FuzzStoredOctets(f *testing.F) {
	for column := range byte(5) {
		f.Add(column, []byte{7})
		f.Add(column, []byte("psl1"))
		f.Add(column, bytes.Repeat([]byte{0}, 200))
	}
	f.Fuzz(func(t *testing.T, column byte, octets []byte) {
		if len(octets) == 0 {
			t.Skip("an empty column is one that was not written yet, or a body in the blob store")
		}
		dir, err := os.MkdirTemp("", "queue") // the names of t.TempDir hold a #, which a data source can't
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
		r := newRig(t, func(t testing.TB) func() *sql.DB {
			return func() *sql.DB { return sqldbtest.SQLite(t, filepath.Join(dir, "q.db"), sqldbtest.Safe) }
		}, nil)
		p := r.put(1).Parcels[0]
		ls := r.take(r.Queue, 1)
		m := r.mark(ls[0], securemail.StateDeferred)
		m.Status.Next = r.clock()
		require.NoError(t, r.Mark(t.Context(), m))
		places := [][2]string{{"queue_parcel", "slip"}, {"queue_parcel", "letter"}, {"queue_parcel", "status"}, {"queue_body", "sealed"}, {"queue_event", "sealed"}}
		at := places[int(column)%len(places)]
		_, err = r.db.Exec("UPDATE "+at[0]+" SET "+at[1]+"=?", append([]byte{}, octets...))
		require.NoError(t, err)
		fresh := r.open(r.again(), "fresh") // with nothing in memory
		var corrupt *queue.CorruptError
		if at[0] == "queue_event" {
			_, err := fresh.Next(t.Context(), "r", 9)
			require.ErrorAs(t, err, &corrupt)
			return
		}
		require.ErrorAs(t, fresh.Check(t.Context()), &corrupt)
		require.Empty(t, r.take(fresh, 9))
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel WHERE state='held' AND id='"+string(p.ID)+"'"))
	})
}
