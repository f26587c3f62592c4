package queue_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

func told(ts ...queue.Told) iter.Seq2[queue.Told, error] {
	return func(yield func(queue.Told, error) bool) {
		for _, t := range ts {
			if !yield(t, nil) {
				return
			}
		}
	}
}

// tell says that parcel p entered state after the database's moment.
func (r *rig) tell(p *securemail.Parcel, state securemail.State) queue.Told {
	t := queue.Told{
		Event: r.newID("log"), Parcel: p.ID, Submission: p.Submission, Tenant: "clinic", State: state, Time: r.clock().Add(time.Minute),
	}
	if state == securemail.StateDeferred {
		t.Next = r.clock().Add(time.Hour)
	}
	return t
}

func operator(t *testing.T) context.Context {
	return securemail.WithActor(t.Context(), securemail.Actor{ID: "op", Kind: "operator"})
}

func TestReconcileByTheLog(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.put(8)
		ps := b.Parcels
		lost := r.batch(2)
		for _, l := range r.take(r.Queue, 1) { // ps[0]: an intent in the database
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateAttempting)))
		}
		ts := []queue.Told{
			r.tell(ps[1], securemail.StateAttempting), r.tell(ps[1], securemail.StateDelivered),
			r.tell(ps[2], securemail.StateAttempting),
			r.tell(ps[3], securemail.StateDeferred),
			r.tell(ps[4], securemail.StateHeld),
			r.tell(ps[5], securemail.StateBounced),
			r.tell(ps[6], securemail.StateHeld), r.tell(ps[6], securemail.StateAccepted),
			r.tell(lost.Parcels[0], securemail.StateAccepted),
			r.tell(lost.Parcels[1], securemail.StateAccepted), r.tell(lost.Parcels[1], securemail.StateDelivered),
			{Event: b.Events[7].ID, Parcel: ps[7].ID, State: securemail.StateDelivered}, // an event that is here: no news
			{Event: "other"},
		}
		out, err := r.Reconcile(operator(t), &queue.ReconcileOptions{Told: told(ts...)})
		require.NoError(t, err)
		want := []securemail.State{"uncertain", "delivered", "uncertain", "deferred", "held", "bounced", "accepted", "accepted"}
		for i, p := range ps {
			require.Equal(t, want[i], r.status(p.ID).State, i)
		}
		require.Equal(t, r.clock().Add(time.Hour), r.status(ps[3].ID).Next.UTC())
		require.ElementsMatch(t, []securemail.ParcelID{ps[0].ID, ps[2].ID}, out.Uncertain)
		require.Equal(t, map[securemail.State]int{"delivered": 1, "deferred": 1, "held": 1, "bounced": 1}, out.Settled)
		require.Len(t, out.Unknown, 2)
		require.Equal(t, lost.Parcels[0].ID, out.Unknown[0].Parcel)
		require.Equal(t, securemail.StateDelivered, out.Unknown[1].State)

		es, err := r.History(t.Context(), "clinic", ps[1].ID)
		require.NoError(t, err)
		last := es[len(es)-1]
		require.Equal(t, "delivered", last.Kind)
		require.Equal(t, "log", last.Detail["reconciled"])
		require.Equal(t, "op", last.By.ID)

		// Nothing with a recorded outcome, and nothing that may have left, is handed out again.
		r.pass(time.Minute)
		var again []securemail.ParcelID
		for _, l := range r.take(r.Queue, 100) {
			again = append(again, l.Parcel.ID)
		}
		require.ElementsMatch(t, []securemail.ParcelID{ps[6].ID, ps[7].ID}, again)

		out, err = r.Reconcile(operator(t), &queue.ReconcileOptions{Told: told(ts[0], ts[1], ts[2])})
		require.NoError(t, err)
		require.Empty(t, out.Settled, "a repeat changes nothing")
		require.Empty(t, out.Uncertain)
	})
}

func TestReconcileWithoutALog(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.put(250)
		require.NoError(t, r.Order(operator(t), securemail.Cancel, "clinic", b.Parcels[0].ID))
		require.NoError(t, r.Order(operator(t), securemail.Hold, "clinic", b.Parcels[1].ID))
		out, err := r.Reconcile(operator(t), &queue.ReconcileOptions{NothingLeft: true})
		require.NoError(t, err)
		require.Empty(t, out.Uncertain)
		require.Equal(t, securemail.StateAccepted, r.status(b.Parcels[2].ID).State)

		out, err = r.Reconcile(operator(t), nil)
		require.NoError(t, err)
		require.Len(t, out.Uncertain, 249)
		for _, p := range b.Parcels[1:] {
			require.Contains(t, out.Uncertain, p.ID)
		}
		require.Empty(t, r.take(r.Queue, 1000), "a person decides")
		es, err := r.History(t.Context(), "clinic", b.Parcels[2].ID)
		require.NoError(t, err)
		require.Equal(t, "backup", es[len(es)-1].Detail["reconciled"])
		out, err = r.Reconcile(operator(t), nil)
		require.NoError(t, err)
		require.Empty(t, out.Uncertain)
	})
}

func TestReconcileRewindsTheLogsCursor(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.put(1)
		r.events("ledger")
		r.events("webhook")
		r.pass(2 * time.Hour)
		r.put(2)
		r.events("ledger")
		r.events("webhook")
		since := r.clock().Add(-time.Hour)
		_, err := r.Reconcile(operator(t), &queue.ReconcileOptions{NothingLeft: true, Rewind: since})
		require.NoError(t, err)
		require.Len(t, r.events("ledger"), 2)
		require.Empty(t, r.events("webhook"))
		_, err = r.Reconcile(operator(t), &queue.ReconcileOptions{NothingLeft: true, Rewind: r.clock().Add(time.Hour)})
		require.NoError(t, err)
		require.Empty(t, r.events("ledger"))
	})
}

func TestReconcileStopsWhereTheLogIsBroken(t *testing.T) {
	r := newRig(t, lite, nil)
	b := r.put(1)
	broken := errors.New("broken")
	_, err := r.Reconcile(operator(t), &queue.ReconcileOptions{Told: func(yield func(queue.Told, error) bool) {
		_ = yield(r.tell(b.Parcels[0], securemail.StateDelivered), nil) && yield(queue.Told{}, broken)
	}})
	require.ErrorIs(t, err, broken)
	require.Equal(t, securemail.StateAccepted, r.status(b.Parcels[0].ID).State)
}

func TestReconcileCountsWhatCantBeOpened(t *testing.T) {
	r := newRig(t, lite, nil)
	b := r.put(2)
	_, err := r.db.Exec("UPDATE queue_parcel SET status=x'00', slip=x'00' WHERE id=?", string(b.Parcels[0].ID))
	require.NoError(t, err)
	out, err := r.Reconcile(operator(t), &queue.ReconcileOptions{Told: told(r.tell(b.Parcels[0], securemail.StateDelivered), r.tell(b.Parcels[1], securemail.StateDelivered))})
	require.NoError(t, err)
	require.Equal(t, 1, out.Unread)
	require.Equal(t, 1, out.Settled["delivered"])
}

func TestInspect(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.put(3)
		c := r.put(2)
		require.NoError(t, r.Order(operator(t), securemail.Cancel, "clinic", c.Parcels[0].ID))
		in, err := r.Inspect(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, queue.Inspected{Parcels: 5, Open: 4, Bodies: 2}, *in)
		in, err = r.Inspect(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, 2, in.Parcels)
		_, err = r.db.Exec("UPDATE queue_parcel SET slip=status WHERE id='" + string(c.Parcels[0].ID) + "'")
		require.NoError(t, err)
		_, err = r.db.Exec("DELETE FROM queue_body WHERE submission='" + b.Submission + "'")
		require.NoError(t, err)
		in, err = r.open(r.again(), "other").Inspect(t.Context(), 0)
		require.NoError(t, err)
		require.Len(t, in.Damaged, 4)
		require.True(t, slices.IsSorted(in.Damaged))
	})
}
