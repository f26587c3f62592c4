package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
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
