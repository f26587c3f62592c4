package queue_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

func TestPutTakeMark(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(2)
		refused := securemail.Status{Slip: b.Parcels[0].Slip, State: securemail.StateRefused, Failure: "securemail: refused", Changed: r.clock()}
		refused.ID = securemail.ParcelID(r.newID("ref"))
		b.Refused = []securemail.Status{refused}
		sub, err := r.Put(t.Context(), b)
		require.NoError(t, err)
		require.False(t, sub.Repeated)
		require.Equal(t, b.Submission, sub.ID)
		require.Len(t, sub.Parcels, 3)

		ls := r.take(r.Queue, 10)
		require.Len(t, ls, 2)
		for i, l := range ls {
			require.Equal(t, b.Parcels[i].Slip, l.Parcel.Slip)
			require.Equal(t, b.Parcels[i].Factors, l.Parcel.Factors)
			require.Equal(t, content(t, b.Parcels[i].Message), content(t, l.Parcel.Message))
			require.Equal(t, 1, l.Attempt)
			require.Equal(t, securemail.StateAccepted, l.Last.State)
			require.Zero(t, l.Last.Attempt)
		}
		require.Same(t, ls[0].Parcel.Message.Body(), ls[1].Parcel.Message.Body(), "one body in memory")
		require.Empty(t, r.take(r.Queue, 10), "what is leased is not due")
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_body"))

		require.NoError(t, r.Mark(t.Context(), r.mark(ls[0], securemail.StateAttempting)))
		m := r.mark(ls[0], securemail.StateDelivered)
		m.Status.Choice = securemail.Choice{Method: securemail.MethodPGP}
		m.Status.Receipt = &securemail.Receipt{Peer: "mx.example.org", Time: r.clock()}
		m.Status.Reasons = []securemail.Reason{{Rule: "r", Text: "t"}}
		require.NoError(t, r.Mark(t.Context(), m))
		st := r.status(ls[0].Parcel.ID)
		require.Equal(t, m.Status, st)
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_body"), "the other one needs it")
		require.NoError(t, r.Mark(t.Context(), r.mark(ls[1], securemail.StateBounced)))
		require.Zero(t, r.count("SELECT count(*) FROM queue_body"))
		require.Zero(t, r.count("SELECT count(*) FROM queue_parcel WHERE letter IS NOT NULL"))
		require.Equal(t, securemail.StateRefused, r.status(refused.ID).State)
		require.Empty(t, r.take(r.Queue, 10))

		var kinds []string
		for _, e := range r.events("test") {
			kinds = append(kinds, e.Kind)
		}
		require.Equal(t, []string{"accepted", "accepted", "attempting", "delivered", "bounced"}, kinds)
	})
}

func TestBodiesAreShared(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(3)
		other, err := b.Parcels[1].Message.WithHead([]byte("Subject: to you alone\r\n\r\n"))
		require.NoError(t, err)
		b.Parcels[1].Message, b.Parcels[1].Size = other, other.Size()
		b.Parcels[2].Message = message(t, "x", "another body")
		b.Parcels[2].Size = b.Parcels[2].Message.Size()
		_, err = r.Put(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 2, r.count("SELECT count(*) FROM queue_body"))
		for i, l := range r.take(r.Queue, 3) {
			require.Equal(t, content(t, b.Parcels[i].Message), content(t, l.Parcel.Message))
		}
	})
}

func TestIdempotency(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(2)
		b.Key, b.Digest = "reminder anna", [32]byte{1}
		_, err := r.Put(t.Context(), b)
		require.NoError(t, err)
		l := r.take(r.Queue, 1)[0]
		require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)))

		again := r.batch(2)
		again.Key, again.Digest = b.Key, b.Digest
		sub, err := r.Put(t.Context(), again)
		require.NoError(t, err)
		require.True(t, sub.Repeated)
		require.Equal(t, b.Submission, sub.ID)
		require.Len(t, sub.Parcels, 2)
		require.Equal(t, securemail.StateDelivered, sub.Parcels[0].State, "statuses are as they are now")
		require.Equal(t, b.Parcels[1].Slip, sub.Parcels[1].Slip)

		again.Digest = [32]byte{2}
		_, err = r.Put(t.Context(), again)
		require.ErrorIs(t, err, securemail.ErrConflict)

		foreign := r.batch(1)
		foreign.Tenant, foreign.Key, foreign.Digest = "other", b.Key, [32]byte{3}
		foreign.Parcels[0].Actor.Tenant = "other"
		sub, err = r.Put(t.Context(), foreign)
		require.NoError(t, err, "a key is the tenant's own")
		require.False(t, sub.Repeated)
		require.Equal(t, 3, r.count("SELECT count(*) FROM queue_parcel"))
	})
}

func TestIdempotencyRace(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		first, ids := 0, make(map[string]bool)
		for range 16 {
			b := r.batch(1)
			b.Key = "one"
			wg.Go(func() {
				sub, err := r.Put(t.Context(), b)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				ids[sub.ID] = true
				if !sub.Repeated {
					first++
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, first)
		require.Len(t, ids, 1)
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel"))
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_event"))
	})
}

func TestPutTx(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.exec("CREATE TABLE host (v TEXT)")
		tx, err := r.db.Begin()
		require.NoError(t, err)
		b := r.batch(1)
		b.Key = "k"
		sub, err := r.PutTx(t.Context(), tx, b)
		require.NoError(t, err)
		require.False(t, sub.Repeated)
		sub, err = r.PutTx(t.Context(), tx, b)
		require.NoError(t, err)
		require.True(t, sub.Repeated, "a repeat in the same transaction")
		other := r.batch(1)
		other.Key, other.Digest = "k", [32]byte{9}
		_, err = r.PutTx(t.Context(), tx, other)
		require.ErrorIs(t, err, securemail.ErrConflict)
		_, err = tx.Exec("INSERT INTO host VALUES ('still usable')")
		require.NoError(t, err)
		require.NoError(t, tx.Rollback())
		require.Zero(t, r.count("SELECT count(*) FROM queue_parcel"))
		require.Zero(t, r.count("SELECT count(*) FROM queue_event"))
		require.Empty(t, r.take(r.Queue, 1))

		tx, err = r.db.Begin()
		require.NoError(t, err)
		_, err = r.PutTx(t.Context(), tx, b)
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		require.Len(t, r.take(r.Queue, 1), 1)

		// A batch that fails half way leaves nothing and does not harm the transaction.
		tx, err = r.db.Begin()
		require.NoError(t, err)
		bad := r.batch(2)
		bad.Parcels[1].ID = b.Parcels[0].ID
		_, err = r.PutTx(t.Context(), tx, bad)
		require.Error(t, err)
		_, err = tx.Exec("INSERT INTO host VALUES ('usable')")
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel"))
		require.Equal(t, 1, r.count("SELECT count(*) FROM queue_key"))
	})
}

func TestSendTxIsSeenWithinASecond(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		q := r.open(r.again(), "")
		type got struct {
			n   int
			err error
		}
		done := make(chan got, 1)
		go func() {
			ls, err := q.Take(t.Context(), r.clock(), 5, 10*time.Second)
			done <- got{len(ls), err}
		}()
		tx, err := r.db.Begin()
		require.NoError(t, err)
		_, err = r.PutTx(t.Context(), tx, r.batch(1))
		require.NoError(t, err)
		start := time.Now()
		require.NoError(t, tx.Commit())
		g := <-done
		require.NoError(t, g.err)
		require.Equal(t, 1, g.n)
		require.Less(t, time.Since(start), 5*time.Second) // a second on a machine with nothing else to do; Take would wait ten
	})
}

func TestTakeWaits(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		start := time.Now()
		ls, err := r.Take(t.Context(), r.clock(), 5, 30*time.Millisecond)
		require.NoError(t, err)
		require.Empty(t, ls)
		require.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = r.Take(ctx, r.clock(), 5, time.Minute)
		require.ErrorIs(t, err, context.Canceled)

		done := make(chan int, 1)
		go func() {
			ls, _ := r.Take(t.Context(), r.clock(), 5, 10*time.Second)
			done <- len(ls)
		}()
		r.put(2)
		require.Positive(t, <-done)
		ls, err = r.Take(t.Context(), r.clock(), 0, 0)
		require.NoError(t, err)
		require.Empty(t, ls)
	})
}

func TestOrderOfTaking(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		put := func(prio int8, notBefore time.Duration) securemail.ParcelID {
			b := r.batch(1)
			b.Parcels[0].Priority = prio
			if notBefore != 0 {
				b.Parcels[0].NotBefore = r.clock().Add(notBefore)
			}
			_, err := r.Put(t.Context(), b)
			require.NoError(t, err)
			return b.Parcels[0].ID
		}
		low := put(-5, 0)
		later := put(100, time.Hour)
		r.pass(time.Second)
		first := put(7, 0)
		r.pass(time.Second)
		second := put(7, 0)
		var got []securemail.ParcelID
		for _, l := range r.take(r.Queue, 10) {
			got = append(got, l.Parcel.ID)
		}
		require.Equal(t, []securemail.ParcelID{first, second, low}, got)
		r.pass(time.Hour)
		ls, err := r.Take(t.Context(), r.clock(), 1, 0)
		require.NoError(t, err)
		require.Len(t, ls, 1)
		require.Equal(t, later, ls[0].Parcel.ID)
	})
}

// transitions is the table of the package comment: what a Mark may do.
var transitions = map[securemail.State][]securemail.State{
	securemail.StateAccepted:   {"attempting", "deferred", "held", "uncertain", "delivered", "bounced", "dropped", "refused", "expired"},
	securemail.StateDeferred:   {"attempting", "deferred", "held", "uncertain", "delivered", "bounced", "dropped", "refused", "expired"},
	securemail.StateAttempting: {"attempting", "deferred", "held", "uncertain", "delivered", "bounced", "dropped"},
	securemail.StateUncertain:  {"attempting", "uncertain", "delivered"},
}

var allStates = []securemail.State{
	"accepted", "attempting", "deferred", "held", "delivered", "bounced", "dropped", "uncertain", "refused", "cancelled", "expired", "", "nonsense",
}

// leased gives a lease on a parcel in state.
func (r *rig) leased(state securemail.State) *securemail.Lease {
	r.put(1)
	l := r.take(r.Queue, 1)[0]
	switch state {
	case securemail.StateAttempting:
		require.NoError(r.t, r.Mark(r.t.Context(), r.mark(l, state)))
	case securemail.StateDeferred, securemail.StateUncertain:
		m := r.mark(l, state)
		m.Status.Next = r.clock()
		require.NoError(r.t, r.Mark(r.t.Context(), m))
		l = r.take(r.Queue, 1)[0]
		require.Equal(r.t, state, l.Last.State)
		require.Equal(r.t, 2, l.Attempt)
	}
	return l
}

func TestTransitions(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for from, legal := range transitions {
			for _, to := range allStates {
				l := r.leased(from)
				err := r.Mark(t.Context(), r.mark(l, to))
				if !slices.Contains(legal, to) {
					require.ErrorIs(t, err, queue.ErrTransition, "%s -> %s", from, to)
					require.Equal(t, from, r.status(l.Parcel.ID).State)
					require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), "the lease is still there")
					continue
				}
				require.NoError(t, err, "%s -> %s", from, to)
				require.Equal(t, to, r.status(l.Parcel.ID).State)
				err = r.Mark(t.Context(), r.mark(l, securemail.StateDelivered))
				if to == securemail.StateAttempting {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, securemail.ErrLease, "%s -> %s ended the lease", from, to)
				}
			}
		}
		l := r.leased(securemail.StateAccepted)
		m := r.mark(l, securemail.StateDeferred)
		m.Status.Next = time.Time{}
		require.ErrorIs(t, r.Mark(t.Context(), m), queue.ErrTransition, "deferred for ever would lose mail")
		require.Error(t, r.Mark(t.Context(), securemail.Mark{}))
		l.Token = "nonsense"
		require.ErrorIs(t, r.Mark(t.Context(), r.mark(l, securemail.StateHeld)), securemail.ErrLease)
	})
}

func TestOrders(t *testing.T) {
	states := []securemail.State{"accepted", "deferred", "held", "uncertain", "uncertain+"}
	want := map[securemail.Order][]string{ // state afterwards, and due: now, later, never
		securemail.Cancel:  {"cancelled never", "cancelled never", "cancelled never", "cancelled never", "cancelled never"},
		securemail.Hold:    {"held never", "held never", "held never", "uncertain never", "uncertain never"},
		securemail.Release: {"accepted later", "deferred later", "accepted later", "uncertain never", "uncertain later"},
		securemail.Retry:   {"deferred now", "deferred now", "deferred now", "uncertain now", "uncertain now"},
	}
	each(t, func(t *testing.T, r *rig) {
		for order, wants := range want {
			for i, from := range states {
				id := r.parked(from)
				ctx := securemail.WithActor(t.Context(), securemail.Actor{Tenant: "ignored", ID: "dr who", Kind: "person"})
				require.NoError(t, r.Order(ctx, order, "clinic", id, id))
				due := "never"
				if slices.ContainsFunc(r.take(r.Queue, 100), func(l *securemail.Lease) bool { return l.Parcel.ID == id }) {
					due = "now"
				}
				r.pass(2 * time.Hour)
				if ls := r.take(r.Queue, 100); due == "never" && slices.ContainsFunc(ls, func(l *securemail.Lease) bool { return l.Parcel.ID == id }) {
					due = "later"
				}
				require.Equal(t, wants[i], string(r.status(id).State)+" "+due, "order %d of %s", order, from)
			}
		}
		var orders int
		for _, e := range r.events("x") {
			if e.By.ID == "dr who" {
				orders++
				require.NotEmpty(t, e.Detail["order"])
				require.Equal(t, "clinic", e.By.Tenant)
				require.Equal(t, e.Kind, string(e.State))
			}
		}
		require.Equal(t, 5+3+1+5, orders, "an order that changes nothing makes no event")
	})
}

// parked makes a parcel without a lease in state; uncertain+ is one that is tried again in an hour.
func (r *rig) parked(state securemail.State) securemail.ParcelID {
	b := r.batch(1)
	if state == "accepted" || state == "held" {
		b.Parcels[0].NotBefore = r.clock().Add(time.Hour)
	}
	_, err := r.Put(r.t.Context(), b)
	require.NoError(r.t, err)
	id := b.Parcels[0].ID
	switch state {
	case "accepted":
	case "held":
		require.NoError(r.t, r.Order(r.t.Context(), securemail.Hold, "clinic", id))
	default:
		for _, l := range r.take(r.Queue, 100) {
			if l.Parcel.ID != id {
				continue
			}
			m := r.mark(l, state)
			m.Status.Next = r.clock().Add(time.Hour)
			if m.Status.State == "uncertain+" {
				m.Status.State = securemail.StateUncertain
			} else if state == "uncertain" {
				m.Status.Next = time.Time{}
			}
			require.NoError(r.t, r.Mark(r.t.Context(), m))
		}
	}
	return id
}

func TestOrderRefusals(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		free := r.put(1).Parcels[0].ID
		ls := r.take(r.Queue, 1)
		require.NoError(t, r.Mark(t.Context(), r.mark(ls[0], securemail.StateDeferred)))
		l := r.leased(securemail.StateAccepted)
		for o := securemail.Cancel; o <= securemail.Retry; o++ {
			require.ErrorIs(t, r.Order(t.Context(), o, "clinic", free, l.Parcel.ID), securemail.ErrFinal, "leased")
		}
		require.Equal(t, securemail.StateDeferred, r.status(free).State, "all or nothing")
		require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateAttempting)))
		r.pass(time.Hour) // the lease is over, the intent is not
		require.ErrorIs(t, r.Order(t.Context(), securemail.Cancel, "clinic", l.Parcel.ID), securemail.ErrFinal)
		require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), "nobody took it over")
		require.ErrorIs(t, r.Order(t.Context(), securemail.Retry, "clinic", l.Parcel.ID), securemail.ErrFinal)
		require.ErrorIs(t, r.Order(t.Context(), securemail.Cancel, "other", free), securemail.ErrTenant)
		require.ErrorIs(t, r.Order(t.Context(), securemail.Cancel, "clinic", free, "unknown"), securemail.ErrTenant)
		require.Error(t, r.Order(t.Context(), 0, "clinic", free))
		require.Error(t, r.Order(t.Context(), securemail.Cancel, "clinic"))

		// A lease that ran out before its intent: the order wins, and the late worker is fenced off.
		gone := r.leased(securemail.StateAccepted)
		r.pass(time.Minute)
		require.NoError(t, r.Order(t.Context(), securemail.Cancel, "clinic", gone.Parcel.ID))
		require.ErrorIs(t, r.Mark(t.Context(), r.mark(gone, securemail.StateAttempting)), securemail.ErrLease)
	})
}

func TestFencing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		other := r.open(r.again(), "")
		l := r.leased(securemail.StateAttempting)
		require.Empty(t, r.take(other, 10))
		r.pass(14 * time.Second)
		require.Empty(t, r.take(other, 10), "not yet")
		r.pass(2 * time.Second)
		ls := r.take(other, 10)
		require.Len(t, ls, 1)
		require.Equal(t, securemail.StateAttempting, ls[0].Last.State, "an intent without outcome")
		require.Equal(t, 2, ls[0].Attempt)
		fresh := r.put(1)
		l2 := r.take(r.Queue, 10)[0]
		require.Equal(t, fresh.Parcels[0].ID, l2.Parcel.ID)
		events := r.count("SELECT count(*) FROM queue_event")
		require.ErrorIs(t, r.Mark(t.Context(), r.mark(l2, securemail.StateDelivered), r.mark(l, securemail.StateDelivered)), securemail.ErrLease)
		require.Equal(t, securemail.StateAccepted, r.status(l2.Parcel.ID).State, "all or none")
		require.Equal(t, events, r.count("SELECT count(*) FROM queue_event"))
		require.NoError(t, other.Mark(t.Context(), r.mark(ls[0], securemail.StateUncertain)))
		require.ErrorIs(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), securemail.ErrLease)
	})
}

func TestRestartTakesItsOwnBackAtOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.open(r.again(), "a"), r.open(r.again(), "b")
		r.put(1)
		la := r.take(a, 1)[0]
		r.put(1)
		lb := r.take(b, 1)[0]
		a2 := r.open(r.again(), "a")
		ls := r.take(a2, 10)
		require.Len(t, ls, 1)
		require.Equal(t, la.Parcel.ID, ls[0].Parcel.ID)
		require.ErrorIs(t, a.Mark(t.Context(), r.mark(la, securemail.StateDelivered)), securemail.ErrLease)
		require.NoError(t, b.Mark(t.Context(), r.mark(lb, securemail.StateDelivered)))
		require.NoError(t, a2.Mark(t.Context(), r.mark(ls[0], securemail.StateDelivered)))
	})
}

// A second process of the same owner leaves the leases of a living one alone.
func TestLivingProcessKeepsItsLeases(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.open(r.again(), "a")
		r.put(1)
		l := r.take(a, 1)[0]
		sleeper := exec.Command("sleep", "60")
		require.NoError(t, sleeper.Start())
		pid := sleeper.Process.Pid
		r.exec(fmt.Sprintf("UPDATE queue_parcel SET lease_owner='a#%d'", pid))
		require.Empty(t, r.take(r.open(r.again(), "a"), 1))
		require.NoError(t, sleeper.Process.Kill())
		require.Error(t, sleeper.Wait())
		require.Empty(t, r.take(r.open(r.again(), "b"), 1), "another owner's")
		require.Len(t, r.take(r.open(r.again(), "a"), 1), 1)
		require.ErrorIs(t, a.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), securemail.ErrLease)
		r.exec("UPDATE queue_parcel SET lease_owner='nonsense'")
		require.Empty(t, r.take(r.open(r.again(), "nonsense"), 1))
	})
}

func TestMarkAttemptingRenews(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		l := r.leased(securemail.StateAccepted)
		r.pass(10 * time.Second)
		require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateAttempting)))
		r.pass(10 * time.Second)
		require.Empty(t, r.take(r.Queue, 1))
	})
}

func TestUncertainAndHeld(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		l := r.leased(securemail.StateAttempting)
		require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateUncertain)))
		h := r.leased(securemail.StateAccepted)
		require.NoError(t, r.Mark(t.Context(), r.mark(h, securemail.StateHeld)))
		r.pass(1000 * time.Hour)
		require.Empty(t, r.take(r.Queue, 10), "both wait for a person")
		require.NoError(t, r.Order(t.Context(), securemail.Retry, "clinic", l.Parcel.ID))
		got := r.take(r.Queue, 10)
		require.Len(t, got, 1)
		require.Equal(t, securemail.StateUncertain, got[0].Last.State)
	})
}

func TestFind(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(1)
		for range 3 {
			b = r.batch(301)
			_, err := r.Put(t.Context(), b)
			require.NoError(t, err)
		}
		all := r.find(securemail.Query{})
		require.Len(t, all, 903)
		require.True(t, slices.IsSortedFunc(all, func(a, b securemail.Status) int { return int(a.Submitted.Sub(b.Submitted)) }))
		require.Len(t, r.find(securemail.Query{Submission: b.Submission}), 301)
		require.Len(t, r.find(securemail.Query{Ref: "patient-7"}), 3)
		require.Len(t, r.find(securemail.Query{Labels: map[string]string{"n": "7"}}), 3)
		require.Empty(t, r.find(securemail.Query{Labels: map[string]string{"n": "7", "m": "7"}}))
		require.Len(t, r.find(securemail.Query{Limit: 250}), 250)
		require.Len(t, r.find(securemail.Query{Limit: 200}), 200)
		require.Equal(t, all[250:255], r.find(securemail.Query{After: all[249].ID, Limit: 5}))
		require.Len(t, r.find(securemail.Query{States: []securemail.State{"accepted"}, Limit: 1}), 1)
		require.Empty(t, r.find(securemail.Query{States: []securemail.State{"delivered", "held"}}))
		var ids []securemail.ParcelID
		for _, st := range all {
			ids = append(ids, st.ID)
		}
		slices.Reverse(ids)
		require.Equal(t, all, r.find(securemail.Query{IDs: ids}))
		require.Len(t, r.find(securemail.Query{IDs: ids, After: all[600].ID, Limit: 7}), 7)
		for _, err := range r.Find(t.Context(), securemail.Query{Tenant: "other"}) {
			require.NoError(t, err)
			t.Fatal("beyond the tenant")
		}
		n := 0
		for st, err := range r.Find(t.Context(), securemail.Query{Tenant: "clinic"}) {
			require.NoError(t, err)
			// With one connection this would wait for ever if Find held it.
			require.Equal(t, st.State, r.status(st.ID).State)
			if n++; n == 205 {
				break
			}
		}
	})
}

func TestProducersAndWorkers(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const producers, per = 64, 5
		var wg sync.WaitGroup
		batches := make([][]*securemail.Batch, producers)
		for p := range producers {
			for range per {
				batches[p] = append(batches[p], r.batch(2))
			}
		}
		for _, bs := range batches {
			wg.Go(func() {
				for _, b := range bs {
					if _, err := r.Put(t.Context(), b); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var mu sync.Mutex
		seen := make(map[securemail.ParcelID]int)
		for w := range 4 {
			q := r.Queue
			if w%2 == 1 {
				q = r.open(r.again(), fmt.Sprint("worker", w))
			}
			wg.Go(func() {
				for {
					ls, err := q.Take(t.Context(), r.clock(), 20, time.Second)
					if err != nil {
						t.Error(err)
						return
					}
					if len(ls) == 0 {
						return
					}
					var ms []securemail.Mark
					mu.Lock()
					for _, l := range ls {
						seen[l.Parcel.ID]++
						ms = append(ms, r.mark(l, securemail.StateDelivered))
					}
					mu.Unlock()
					if err := q.Mark(t.Context(), ms...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.Len(t, seen, producers*per*2)
		for id, n := range seen {
			require.Equal(t, 1, n, id)
		}
		require.Len(t, r.events("x"), producers*per*2*2)
		require.Zero(t, r.count("SELECT count(*) FROM queue_parcel WHERE ended=0"))
	})
}

func TestBusyForeignWriter(t *testing.T) {
	r := newRig(t, lite, nil)
	r.put(1)
	foreign := r.again()
	tx, err := foreign.Begin()
	require.NoError(t, err)
	_, err = tx.Exec("UPDATE queue_meta SET num=num")
	require.NoError(t, err)
	done := make(chan error, 1)
	b := r.batch(1)
	go func() { _, err := r.Put(t.Context(), b); done <- err }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = r.Put(ctx, r.batch(1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, tx.Commit())
	require.NoError(t, <-done)
	require.Equal(t, 2, r.count("SELECT count(*) FROM queue_parcel"))
}

func TestFullAndReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	r := newRig(t, func(t testing.TB) func() *sql.DB {
		return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
	}, nil)
	r.db.SetMaxOpenConns(1)
	r.put(1)
	r.exec(fmt.Sprintf("PRAGMA max_page_count=%d", r.count("PRAGMA page_count")+3))
	b := r.batch(1)
	b.Parcels[0].Message = message(t, "large", big())
	b.Parcels[0].Size = b.Parcels[0].Message.Size()
	_, err := r.Put(t.Context(), b)
	require.ErrorIs(t, err, queue.ErrFull)
	require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel"))
	require.Equal(t, 1, r.count("SELECT count(*) FROM queue_key"))
	r.exec("PRAGMA max_page_count=100000")
	_, err = r.Put(t.Context(), b)
	require.NoError(t, err)
	r.exec("PRAGMA query_only=1")
	_, err = r.Put(t.Context(), r.batch(1))
	require.ErrorIs(t, err, queue.ErrReadOnly)
	r.exec("PRAGMA query_only=0")
	require.Equal(t, 2, r.count("SELECT count(*) FROM queue_parcel"))
}

func TestNewRefuses(t *testing.T) {
	_, err := queue.New(t.Context(), nil, nil, &queue.Options{Lease: time.Millisecond, Keep: time.Hour, KeepEvents: -1})
	for _, want := range []string{"required", "Lease", "Keep ", "KeepEvents"} {
		require.ErrorContains(t, err, want)
	}
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "q.db"), "?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(10)")
	_, err = queue.New(t.Context(), db, newRing(), nil)
	require.ErrorContains(t, err, "synchronous")
	r := newRig(t, lite, nil)
	_, err = queue.New(t.Context(), r.again(), newRing(), nil)
	require.ErrorContains(t, err, "key ring", "another ring does not fit")
	q, err := queue.New(t.Context(), r.again(), r.ring, nil)
	require.NoError(t, err, "nil options")
	require.NotNil(t, q)
}

func TestBadBatches(t *testing.T) {
	r := newRig(t, lite, nil)
	for name, breakIt := range map[string]func(b *securemail.Batch){
		"nobody":           func(b *securemail.Batch) { b.Parcels = nil },
		"no submission":    func(b *securemail.Batch) { b.Submission = "" },
		"no message":       func(b *securemail.Batch) { b.Parcels[0].Message = nil },
		"no id":            func(b *securemail.Batch) { b.Parcels[0].ID = "" },
		"other tenant":     func(b *securemail.Batch) { b.Tenant = "other" },
		"event without id": func(b *securemail.Batch) { b.Events[0].ID = "" },
		"refused open":     func(b *securemail.Batch) { b.Refused = []securemail.Status{{Slip: b.Parcels[0].Slip, State: "held"}} },
	} {
		b := r.batch(1)
		breakIt(b)
		_, err := r.Put(t.Context(), b)
		require.Error(t, err, name)
	}
	r.ring.break_(errors.New("down"))
	_, err := r.Put(t.Context(), r.batch(1))
	require.ErrorContains(t, err, "wrap")
	require.Zero(t, r.count("SELECT count(*) FROM queue_key"))
}
