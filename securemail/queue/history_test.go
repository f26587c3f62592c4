package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
)

func TestHistoryIsOneParcelsEventsInOrder(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.put(2)
		id := b.Parcels[0].ID
		for _, l := range r.take(r.Queue, 2) {
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateAttempting)))
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateUncertain)))
		}
		ctx := securemail.WithActor(t.Context(), securemail.Actor{ID: "op", Kind: "operator"})
		require.NoError(t, r.Order(ctx, securemail.Cancel, "clinic", id))
		es, err := r.History(t.Context(), "clinic", id)
		require.NoError(t, err)
		var kinds []string
		for _, e := range es {
			require.Equal(t, id, e.Status.ID)
			kinds = append(kinds, e.Kind)
		}
		require.Equal(t, []string{"accepted", "attempting", "uncertain", "cancelled"}, kinds)
		require.Equal(t, "op", es[3].By.ID)
		require.Equal(t, "cancel", es[3].Detail["order"])

		_, err = r.History(t.Context(), "other", id)
		require.ErrorIs(t, err, securemail.ErrTenant)
		_, err = r.History(t.Context(), "clinic", "unknown")
		require.ErrorIs(t, err, securemail.ErrTenant)
	})
}
