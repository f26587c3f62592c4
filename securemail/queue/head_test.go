package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/queue"
)

func requireHolds(t *testing.T, q *queue.Queue, seq int64, id string, known, holds bool) {
	t.Helper()
	k, h, err := q.Holds(t.Context(), seq, id)
	require.NoError(t, err)
	require.Equal(t, []bool{known, holds}, []bool{k, h}, "event %d", seq)
}

func TestHeadAndHolds(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		seq, id, err := r.Head(t.Context())
		require.NoError(t, err)
		require.Zero(t, seq)
		require.Empty(t, id)
		requireHolds(t, r.Queue, 0, "", true, true)
		requireHolds(t, r.Queue, 0, "x", true, false)
		requireHolds(t, r.Queue, 1, "x", true, false)

		r.put(3)
		seq, id, err = r.Head(t.Context()) // numbers what nobody has read yet
		require.NoError(t, err)
		es := r.events("log")
		require.Len(t, es, 3)
		require.Equal(t, es[2].Seq, seq)
		require.Equal(t, es[2].ID, id)
		for _, e := range es {
			requireHolds(t, r.Queue, e.Seq, e.ID, true, true)
		}
		requireHolds(t, r.Queue, es[0].Seq, es[1].ID, true, false)
		requireHolds(t, r.Queue, seq+1, "later", true, false)

		r.pass(8 * 24 * time.Hour)
		r.Sweep(t.Context())
		requireHolds(t, r.Queue, es[0].Seq, es[0].ID, false, false)
		requireHolds(t, r.Queue, seq, id, true, true) // the newest stays
		again, _, err := r.Head(t.Context())
		require.NoError(t, err)
		require.Equal(t, seq, again)
	})
}

// An older copy of the database goes on with numbers that were given before.
func TestHoldsTellsAnOlderDatabase(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.put(1)
		seq, id, err := r.Head(t.Context())
		require.NoError(t, err)
		r.exec("DELETE FROM queue_event")
		r.exec("UPDATE queue_meta SET num=0 WHERE name='seq'")
		requireHolds(t, r.Queue, seq, id, true, false)
		r.put(1)
		_, _, err = r.Head(t.Context())
		require.NoError(t, err)
		requireHolds(t, r.Queue, seq, id, true, false)
	})
}

func TestHeadFailures(t *testing.T) {
	r := newRig(t, lite, nil)
	require.NoError(t, r.db.Close())
	_, _, err := r.Head(t.Context())
	require.ErrorContains(t, err, "newest event")
	_, _, err = r.Holds(t.Context(), 1, "x")
	require.ErrorContains(t, err, "read event")
}
