package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// TestRead: the portal's event sets Status.Read once, whatever the worker that delivers writes before or behind it.
func TestRead(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.put(2)
		ls := r.take(r.Queue, 2)
		read := func(id string, p *securemail.Parcel, tenant string, at time.Time) {
			e := r.event(p.Slip, securemail.StateDelivered)
			e.ID, e.Kind, e.Read, e.By.Tenant = id, "read", at, tenant
			require.NoError(t, r.Add(t.Context(), nil, e))
		}
		first := r.clock().Add(time.Minute)
		read("r1", b.Parcels[0], b.Tenant, first)
		require.NoError(t, r.Mark(t.Context(), r.mark(ls[0], securemail.StateDelivered), r.mark(ls[1], securemail.StateDelivered)))
		read("r2", b.Parcels[0], b.Tenant, first.Add(time.Hour))
		read("r3", b.Parcels[1], "another tenant", first)
		require.Equal(t, first, r.status(b.Parcels[0].ID).Read)
		require.Zero(t, r.status(b.Parcels[1].ID).Read)
		require.Equal(t, securemail.StateDelivered, r.status(b.Parcels[0].ID).State)
	})
}

// TestHeldExpires: a held parcel is handed out when it is of no use any more, and only to expire.
func TestHeldExpires(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(2)
		until := r.clock().Add(time.Hour)
		for _, p := range b.Parcels {
			p.UsefulUntil = until
		}
		_, err := r.Put(t.Context(), b)
		require.NoError(t, err)
		ls := r.take(r.Queue, 1)
		held := r.mark(ls[0], securemail.StateHeld)
		held.Status.Next = until
		require.NoError(t, r.Mark(t.Context(), held))
		var other securemail.ParcelID
		for _, p := range b.Parcels {
			if p.ID != ls[0].Parcel.ID {
				other = p.ID
			}
		}
		require.NoError(t, r.Order(t.Context(), securemail.Hold, b.Tenant, other))
		require.Empty(t, r.take(r.Queue, 2))
		r.pass(time.Hour)
		ls = r.take(r.Queue, 2)
		require.Len(t, ls, 2)
		for _, l := range ls {
			require.Equal(t, securemail.StateHeld, l.Last.State)
			require.ErrorIs(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), queue.ErrTransition)
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateExpired)))
		}
	})
}
