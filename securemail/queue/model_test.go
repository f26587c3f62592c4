package queue_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"database/sql"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// model is what the queue must agree with: the state and the events of each parcel, in order, and who leases it.
type model struct {
	r       *rig
	queues  []*queue.Queue
	states  map[securemail.ParcelID]securemail.State
	history map[securemail.ParcelID][]string
	next    map[securemail.ParcelID]time.Time // zero: never by itself
	leases  []*leaseOf
	finals  map[securemail.ParcelID]int
}

type leaseOf struct {
	*securemail.Lease
	q     *queue.Queue
	until time.Time
	lost  bool
}

// TestModel: whatever is done in whatever order, each parcel ends in exactly one final state, no event is lost or comes
// out of order, Seq rises, and no parcel is leased twice at once.
func TestModel(t *testing.T) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(t.TempDir(), "q.db")
		r := newRig(t, func(testing.TB) func() *sql.DB {
			return func() *sql.DB {
				db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
				require.NoError(rt, err)
				return db
			}
		}, nil)
		m := &model{
			r: r, states: make(map[securemail.ParcelID]securemail.State), history: make(map[securemail.ParcelID][]string),
			next: make(map[securemail.ParcelID]time.Time), finals: make(map[securemail.ParcelID]int),
		}
		db2 := r.again()
		defer db2.Close()
		defer r.db.Close()
		m.queues = []*queue.Queue{r.Queue, r.open(db2, "second")}
		rt.Repeat(map[string]func(*rapid.T){
			"put": m.put, "take": m.take, "mark": m.mark, "order": m.order, "pass": m.pass, "": m.check,
		})
		m.drain(rt)
	})
}

func (m *model) put(rt *rapid.T) {
	b := m.r.batch(rapid.IntRange(1, 3).Draw(rt, "recipients"))
	for _, p := range b.Parcels {
		p.Priority = int8(rapid.IntRange(-1, 1).Draw(rt, "priority"))
		if rapid.Bool().Draw(rt, "scheduled") {
			p.NotBefore = m.r.clock().Add(10 * time.Second)
		}
	}
	_, err := m.queues[0].Put(rt.Context(), b)
	require.NoError(rt, err)
	for _, p := range b.Parcels {
		m.states[p.ID], m.next[p.ID] = securemail.StateAccepted, p.NotBefore
		if p.NotBefore.IsZero() {
			m.next[p.ID] = p.Submitted
		}
		m.history[p.ID] = []string{"accepted"}
	}
}

// holder is the living lease on id, nil without one.
func (m *model) holder(id securemail.ParcelID) *leaseOf {
	for _, l := range m.leases {
		if l.Parcel.ID == id && !l.lost {
			return l
		}
	}
	return nil
}

func (m *model) take(rt *rapid.T) {
	q := m.queues[rapid.IntRange(0, 1).Draw(rt, "process")]
	now := m.r.clock()
	ls, err := q.Take(rt.Context(), now, rapid.IntRange(1, 4).Draw(rt, "max"), 0)
	require.NoError(rt, err)
	for _, l := range ls {
		id := l.Parcel.ID
		require.Equal(rt, m.states[id], l.Last.State)
		require.False(rt, m.next[id].IsZero() || m.next[id].After(now), "not due")
		if h := m.holder(id); h != nil {
			require.False(rt, h.until.After(now), "leased twice")
			h.lost = true
		}
		m.leases = append(m.leases, &leaseOf{Lease: l, q: q, until: now.Add(15 * time.Second)})
	}
}

func (m *model) mark(rt *rapid.T) {
	if len(m.leases) == 0 {
		rt.Skip("no lease")
	}
	l := rapid.SampledFrom(m.leases).Draw(rt, "lease")
	to := rapid.SampledFrom(allStates).Draw(rt, "to")
	m.apply(rt, l, to)
}

func (m *model) apply(rt *rapid.T, l *leaseOf, to securemail.State) {
	id := l.Parcel.ID
	mk := m.r.mark(l.Lease, to)
	if to == securemail.StateUncertain {
		mk.Status.Next = m.r.clock().Add(5 * time.Second)
	}
	err := l.q.Mark(rt.Context(), mk)
	switch {
	case err == nil:
		require.False(rt, l.lost)
		require.Contains(rt, transitions[m.states[id]], to)
		m.enter(id, to, mk.Status.Next)
		if to == securemail.StateAttempting {
			m.next[id] = m.r.clock()
			l.until = m.r.clock().Add(15 * time.Second)
		} else {
			l.lost = true
		}
	case errors.Is(err, securemail.ErrLease):
		require.True(rt, l.lost)
	default:
		require.ErrorIs(rt, err, queue.ErrTransition)
	}
}

func (m *model) enter(id securemail.ParcelID, to securemail.State, next time.Time) {
	m.states[id], m.next[id] = to, next
	m.history[id] = append(m.history[id], string(to))
	if to.Final() {
		m.finals[id]++
	}
}

func (m *model) order(rt *rapid.T) {
	if len(m.states) == 0 {
		rt.Skip("no parcel")
	}
	var ids []securemail.ParcelID
	for id := range m.states {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	id := rapid.SampledFrom(ids).Draw(rt, "parcel")
	o := securemail.Order(rapid.IntRange(1, 4).Draw(rt, "order"))
	before := m.states[id]
	err := m.queues[rapid.IntRange(0, 1).Draw(rt, "process")].Order(rt.Context(), o, "clinic", id)
	now := m.r.clock()
	h := m.holder(id)
	if before.Final() || before == securemail.StateAttempting || h != nil && h.until.After(now) {
		require.ErrorIs(rt, err, securemail.ErrFinal)
		return
	}
	require.NoError(rt, err)
	st := m.r.status(id)
	changed := true
	switch {
	case o == securemail.Cancel:
		m.enter(id, securemail.StateCancelled, time.Time{})
	case o == securemail.Hold && before == securemail.StateUncertain && !m.next[id].IsZero():
		m.enter(id, securemail.StateUncertain, time.Time{})
	case o == securemail.Hold && before != securemail.StateUncertain && before != securemail.StateHeld:
		m.enter(id, securemail.StateHeld, time.Time{})
	case o == securemail.Release && before == securemail.StateHeld:
		next := now
		if st.NotBefore.After(now) {
			next = st.NotBefore
		}
		m.enter(id, securemail.StateAccepted, next)
	case o == securemail.Retry && before == securemail.StateUncertain:
		m.enter(id, securemail.StateUncertain, now)
	case o == securemail.Retry:
		m.enter(id, securemail.StateDeferred, now)
	default:
		changed = false
	}
	if changed && h != nil {
		h.lost = true
	}
}

func (m *model) pass(rt *rapid.T) {
	m.r.pass(time.Duration(rapid.IntRange(1, 20).Draw(rt, "seconds")) * time.Second)
}

func (m *model) check(rt *rapid.T) {
	seen := 0
	for st, err := range m.queues[0].Find(rt.Context(), securemail.Query{Tenant: "clinic"}) {
		require.NoError(rt, err)
		require.Equal(rt, m.states[st.ID], st.State)
		seen++
	}
	require.Equal(rt, len(m.states), seen)
}

// drain ends everything, and compares the events with the history.
func (m *model) drain(rt *rapid.T) {
	for id, st := range m.states {
		if st == securemail.StateHeld || st == securemail.StateUncertain && m.next[id].IsZero() {
			require.NoError(rt, m.queues[0].Order(rt.Context(), securemail.Retry, "clinic", id))
			m.history[id] = append(m.history[id], string(m.r.status(id).State))
		}
	}
	m.r.pass(time.Hour)
	for {
		ls, err := m.queues[1].Take(rt.Context(), m.r.clock(), 100, 0)
		require.NoError(rt, err)
		if len(ls) == 0 {
			break
		}
		for _, l := range ls {
			require.NoError(rt, m.queues[1].Mark(rt.Context(), m.r.mark(l, securemail.StateDelivered)))
			m.enter(l.Parcel.ID, securemail.StateDelivered, time.Time{})
		}
	}
	for id, st := range m.states {
		require.True(rt, st.Final(), "%s is %s", id, st)
		require.Equal(rt, 1, m.finals[id])
	}
	got := make(map[securemail.ParcelID][]string)
	for _, e := range m.r.events("model") {
		got[e.Status.ID] = append(got[e.Status.ID], e.Kind)
	}
	require.Equal(rt, m.history, got)
}
