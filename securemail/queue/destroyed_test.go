package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// Whatever is under way when a tenant's scope is destroyed comes to an end: a Mark is recorded by its state, what waits is
// held, and readers of events go on.
func TestDestroyedScope(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.put(1)
		r.put(1)
		done, intended := r.take(r.Queue, 1)[0], r.take(r.Queue, 1)[0]
		require.NoError(t, r.Mark(t.Context(), r.mark(intended, securemail.StateAttempting)))
		waits := r.put(1).Parcels[0].ID
		_, err := r.ring.Destroy(t.Context(), "tenant/clinic")
		require.NoError(t, err)

		other := r.open(r.again(), "other") // has no keys in memory
		r.pass(queue.DefaultLease)
		r.exec("UPDATE queue_parcel SET lease_epoch=lease_epoch+1, lease_until=lease_until*2 WHERE state='accepted' AND lease_epoch>0")
		done.Token = "2.1"
		require.NoError(t, other.Mark(t.Context(), r.mark(done, securemail.StateDelivered)))
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel WHERE state='delivered' AND ended>0 AND letter IS NULL AND status IS NULL"))

		require.Empty(t, r.take(other, 9))
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel WHERE state='held' AND due=0 AND lease_epoch=0 AND id='"+string(waits)+"'"))
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel WHERE state='uncertain' AND due=0 AND lease_epoch=0"))
		require.Empty(t, r.take(other, 9), "that is the end of it")

		kinds := map[string]int{}
		es, err := other.Next(t.Context(), "log", 100)
		require.NoError(t, err)
		for _, e := range es {
			kinds[e.Kind]++
			require.NotEmpty(t, e.ID)
			require.Equal(t, "destroyed", e.Detail["rule"])
		}
		require.Equal(t, map[string]int{"destroyed": 4, "delivered": 1, "held": 1, "uncertain": 1}, kinds)
		for st, err := range other.Find(t.Context(), securemail.Query{Tenant: "clinic"}) {
			var corrupt *queue.CorruptError
			require.ErrorAs(t, err, &corrupt)
			require.NotEmpty(t, st.ID)
		}
	})
}

// A part that has something to tell of a destroyed tenant is not stopped by it, nor are others' events that come with it;
// what is kept names nobody.
func TestEventsOfADestroyedScopeAreKept(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		p := r.put(1).Parcels[0]
		_, err := r.ring.Destroy(t.Context(), "tenant/clinic")
		require.NoError(t, err)
		gone := r.event(p.Slip, securemail.StateHeld)
		gone.Failure, gone.Detail = "why", map[string]string{"k": "v"}
		gone.Facts = &securemail.Facts{Slip: p.Slip}
		there := securemail.Event{ID: r.newID("e"), Kind: "notice", Time: r.clock(), By: securemail.Actor{Tenant: "ward", ID: "notice", Kind: "part"}}
		for range 2 {
			require.NoError(t, r.Add(t.Context(), nil, gone, there))
		}
		es, err := r.Next(t.Context(), "log", 100)
		require.NoError(t, err)
		got := es[len(es)-2:]
		require.Equal(t, []string{gone.ID, there.ID}, []string{got[0].ID, got[1].ID})
		require.Equal(t, gone.By, got[0].By)
		require.Equal(t, gone.Detail, got[0].Detail)
		want := securemail.Status{State: securemail.StateHeld, Failure: "why", Attempt: gone.Attempt}
		want.ID, want.Submission, want.Actor.Tenant = p.ID, p.Submission, "clinic"
		require.Equal(t, want, got[0].Status)
		require.Nil(t, got[0].Facts)
	})
}
