package queue_test

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/queue"
)

// inTx runs f in a transaction of r's database that is rolled back.
func (r *rig) inTx(f func(tx *sql.Tx)) {
	r.t.Helper()
	tx, err := r.db.BeginTx(r.t.Context(), nil)
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, tx.Rollback()) }()
	f(tx)
}

func TestEachBlobProvesBodies(t *testing.T) {
	blobs, err := queue.Dir(t.TempDir())
	require.NoError(t, err)
	r := newRig(t, lite, &queue.Options{Blobs: blobs})
	for range 3 {
		b := r.batch(2)
		m := message(t, "large", strings.Repeat("text\r\n", 20<<10))
		for _, p := range b.Parcels {
			p.Message, p.Size = m, m.Size()
		}
		_, err := r.Put(t.Context(), b)
		require.NoError(t, err)
	}
	r.put(2) // small: in a row
	var keys []string
	r.inTx(func(tx *sql.Tx) {
		require.NoError(t, r.EachBlob(t.Context(), tx, func(key string, check func(io.Reader) error) error {
			keys = append(keys, key)
			in, err := blobs.Open(t.Context(), key)
			require.NoError(t, err)
			sealed, err := io.ReadAll(in)
			require.NoError(t, err)
			require.NoError(t, in.Close())
			require.NoError(t, check(bytes.NewReader(sealed)))
			var c *queue.CorruptError
			sealed[len(sealed)/2] ^= 1
			require.ErrorAs(t, check(bytes.NewReader(sealed)), &c)
			require.ErrorAs(t, check(bytes.NewReader(sealed[:100])), &c)
			require.ErrorIs(t, check(broken{}), io.ErrClosedPipe)
			return nil
		}))
		require.Len(t, keys, 3)
		err := r.EachBlob(t.Context(), tx, func(string, func(io.Reader) error) error { return io.ErrClosedPipe })
		require.ErrorIs(t, err, io.ErrClosedPipe)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		require.Error(t, r.EachBlob(ctx, tx, nil))
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestAdopt: readers see all again where the numbers of events can't be kept.
func TestAdopt(t *testing.T) {
	r := newRig(t, lite, nil)
	r.put(3)
	require.Len(t, r.events("a"), 3)
	tx, err := r.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, queue.Adopt(t.Context(), tx, "sqlite", "sqlite"))
	require.NoError(t, queue.Adopt(t.Context(), tx, "postgres", "sqlite"))
	require.NoError(t, tx.Commit())
	require.Len(t, r.events("a"), 3)
	r.inTx(func(tx *sql.Tx) {
		require.Error(t, queue.Adopt(t.Context(), tx, "sqlite", "postgres"), "this database is none")
	})
}
