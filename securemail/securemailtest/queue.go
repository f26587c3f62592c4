package securemailtest

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Queue is a memory Queue, Outbox and Desk with the state machine of the durable one. Leases end by Mark or by [Queue.Crash].
type Queue struct {
	mu      sync.Mutex // guards all
	now     func() time.Time
	wake    chan struct{}
	entries map[securemail.ParcelID]*entry
	keys    map[string]*put
	events  []securemail.Event
	cursors map[string]int64
	tokens  int
	fail    error
}

type entry struct {
	parcel  *securemail.Parcel
	status  securemail.Status
	attempt int
	token   string // "" where not leased
}

type put struct {
	digest     [32]byte
	submission string
	ids        []securemail.ParcelID
}

var (
	_ securemail.Queue  = (*Queue)(nil)
	_ securemail.Outbox = (*Queue)(nil)
	_ securemail.Desk   = (*Queue)(nil)
)

// NewQueue makes an empty queue; now nil: time.Now.
func NewQueue(now func() time.Time) *Queue {
	if now == nil {
		now = time.Now
	}
	return &Queue{
		now: now, wake: make(chan struct{}), entries: make(map[securemail.ParcelID]*entry),
		keys: make(map[string]*put), cursors: make(map[string]int64),
	}
}

// Fail makes every later Put and Mark answer err, as a full disk would; nil mends it.
func (q *Queue) Fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fail = err
}

// Crash drops every lease, as a killed process would: what was attempting is handed out again as such.
func (q *Queue) Crash() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.entries {
		e.token = ""
	}
	q.notify()
}

// notify wakes Take. The caller holds q.mu.
func (q *Queue) notify() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// Put implements [securemail.Queue].
func (q *Queue) Put(ctx context.Context, b *securemail.Batch) (*securemail.Submission, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := cmp.Or(ctx.Err(), q.fail); err != nil {
		return nil, err
	}
	key := b.Tenant + "\x00" + b.Key
	if p := q.keys[key]; p != nil && b.Key != "" {
		if p.digest != b.Digest {
			return nil, securemail.ErrConflict
		}
		return q.submission(p, true), nil
	}
	p := &put{digest: b.Digest, submission: b.Submission}
	for _, pc := range b.Parcels {
		q.entries[pc.ID] = &entry{parcel: pc, status: securemail.Status{
			Slip: pc.Slip, State: securemail.StateAccepted, Changed: pc.Submitted,
		}}
		p.ids = append(p.ids, pc.ID)
	}
	for _, st := range b.Refused {
		q.entries[st.ID] = &entry{status: st}
		p.ids = append(p.ids, st.ID)
	}
	if b.Key != "" {
		q.keys[key] = p
	}
	q.add(b.Events)
	q.notify()
	return q.submission(p, false), nil
}

func (q *Queue) submission(p *put, repeated bool) *securemail.Submission {
	s := &securemail.Submission{ID: p.submission, Repeated: repeated}
	for _, id := range slices.Sorted(slices.Values(p.ids)) {
		s.Parcels = append(s.Parcels, q.entries[id].status)
	}
	return s
}

func (q *Queue) add(es []securemail.Event) {
	for _, e := range es {
		e.Seq = int64(len(q.events)) + 1
		q.events = append(q.events, e)
	}
}

// Take implements [securemail.Queue].
func (q *Queue) Take(ctx context.Context, now time.Time, max int, wait time.Duration) ([]*securemail.Lease, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		q.mu.Lock()
		ls, wake := q.lease(now, max), q.wake
		q.mu.Unlock()
		if len(ls) > 0 || wait <= 0 {
			return ls, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return nil, nil
		case <-wake:
			now = q.now()
		}
	}
}

func (q *Queue) lease(now time.Time, max int) []*securemail.Lease {
	var due []*entry
	for _, e := range q.entries {
		if e.token == "" && e.due(now) {
			due = append(due, e)
		}
	}
	slices.SortFunc(due, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(b.parcel.Priority, a.parcel.Priority), cmp.Compare(a.parcel.ID, b.parcel.ID))
	})
	var ls []*securemail.Lease
	for _, e := range due[:min(max, len(due))] {
		q.tokens++
		e.attempt++
		e.token = fmt.Sprint(q.tokens)
		ls = append(ls, &securemail.Lease{Parcel: e.parcel, Attempt: e.attempt, Last: e.status, Token: e.token})
	}
	return ls
}

func (e *entry) due(now time.Time) bool {
	switch e.status.State {
	case securemail.StateAccepted:
		return !now.Before(e.parcel.NotBefore)
	case securemail.StateAttempting:
		return true
	case securemail.StateDeferred, securemail.StateUncertain, securemail.StateHeld:
		return !e.status.Next.IsZero() && !now.Before(e.status.Next)
	}
	return false
}

// Mark implements [securemail.Queue].
func (q *Queue) Mark(_ context.Context, ms ...securemail.Mark) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fail != nil {
		return q.fail
	}
	for _, m := range ms {
		e := q.entries[m.Lease.Parcel.ID]
		if e == nil || e.token == "" || e.token != m.Lease.Token {
			return securemail.ErrLease
		}
	}
	for _, m := range ms {
		from, to := q.entries[m.Lease.Parcel.ID].status.State, m.Status.State
		if !slices.Contains(mayCome(to), from) || to == securemail.StateDeferred && m.Status.Next.IsZero() {
			return fmt.Errorf("securemailtest: no such change of state: from %q to %q", from, to)
		}
	}
	for _, m := range ms {
		e := q.entries[m.Lease.Parcel.ID]
		read := e.status.Read
		if e.status = m.Status; e.status.Read.IsZero() {
			e.status.Read = read
		}
		if m.Status.State != securemail.StateAttempting {
			e.token = ""
		}
		q.add(m.Events)
	}
	return nil
}

// mayCome lists the states from which a Mark may enter to: the table of package queue.
func mayCome(to securemail.State) []securemail.State {
	fresh := []securemail.State{securemail.StateAccepted, securemail.StateDeferred}
	switch to {
	case securemail.StateAttempting, securemail.StateUncertain, securemail.StateDelivered:
		return append(fresh, securemail.StateAttempting, securemail.StateUncertain)
	case securemail.StateDeferred, securemail.StateBounced, securemail.StateDropped:
		return append(fresh, securemail.StateAttempting)
	case securemail.StateHeld:
		return append(fresh, securemail.StateAttempting, securemail.StateHeld)
	case securemail.StateRefused:
		return fresh
	case securemail.StateExpired:
		return append(fresh, securemail.StateHeld)
	}
	return nil
}

// Add implements [securemail.Outbox]; tx must be nil. An event whose id is there is left as it is.
func (q *Queue) Add(_ context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if tx != nil {
		return securemail.ErrTx
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range es {
		if p := q.entries[e.Status.ID]; e.Kind == "read" && p != nil && p.status.Read.IsZero() {
			p.status.Read = e.Read
		}
	}
	q.add(slices.DeleteFunc(slices.Clone(es), func(e securemail.Event) bool {
		return slices.ContainsFunc(q.events, func(o securemail.Event) bool { return o.ID == e.ID })
	}))
	return nil
}

// Next implements [securemail.Outbox].
func (q *Queue) Next(_ context.Context, reader string, max int) ([]securemail.Event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	from := q.cursors[reader]
	return slices.Clone(q.events[from:min(from+int64(max), int64(len(q.events)))]), nil
}

// Ack implements [securemail.Outbox].
func (q *Queue) Ack(_ context.Context, reader, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.events {
		if e.ID == id {
			q.cursors[reader] = max(q.cursors[reader], e.Seq)
			return nil
		}
	}
	return errors.New("securemailtest: unknown event")
}

// Events returns all events so far, in order.
func (q *Queue) Events() []securemail.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.events)
}

// Find implements [securemail.Desk].
func (q *Queue) Find(_ context.Context, s securemail.Query) iter.Seq2[securemail.Status, error] {
	q.mu.Lock()
	defer q.mu.Unlock()
	var found []securemail.Status
	for _, id := range slices.Sorted(maps.Keys(q.entries)) {
		if st := q.entries[id].status; matches(&st, s) && (s.Limit == 0 || len(found) < s.Limit) {
			found = append(found, st)
		}
	}
	return func(yield func(securemail.Status, error) bool) {
		for _, st := range found {
			if !yield(st, nil) {
				return
			}
		}
	}
}

func matches(st *securemail.Status, q securemail.Query) bool {
	for k, v := range q.Labels {
		if st.Labels[k] != v {
			return false
		}
	}
	return st.Actor.Tenant == q.Tenant && st.ID > q.After &&
		(q.Submission == "" || q.Submission == st.Submission) &&
		(q.Ref == "" || q.Ref == st.Recipient.Ref) &&
		(len(q.IDs) == 0 || slices.Contains(q.IDs, st.ID)) &&
		(len(q.States) == 0 || slices.Contains(q.States, st.State))
}

// Order implements [securemail.Desk].
func (q *Queue) Order(ctx context.Context, o securemail.Order, tenant string, ids ...securemail.ParcelID) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range ids {
		e := q.entries[id]
		if e == nil || e.status.Actor.Tenant != tenant {
			return securemail.ErrTenant
		}
		if e.status.State.Final() || e.token != "" || e.status.State == securemail.StateAttempting {
			return securemail.ErrFinal
		}
	}
	by, _ := securemail.ActorOf(ctx)
	for _, id := range ids {
		e := q.entries[id]
		if !q.order(&e.status, o) {
			continue
		}
		e.status.Changed = q.now()
		q.add([]securemail.Event{{
			ID: fmt.Sprintf("order-%d", len(q.events)), Kind: string(e.status.State), Time: q.now(), By: by, Status: e.status,
			Detail: map[string]string{"order": orderNames[o]},
		}})
	}
	q.notify()
	return nil
}

var orderNames = map[securemail.Order]string{
	securemail.Cancel: "cancel", securemail.Hold: "hold", securemail.Release: "release", securemail.Retry: "retry",
}

// order changes st; false: there was nothing to change.
func (q *Queue) order(st *securemail.Status, o securemail.Order) bool {
	uncertain := st.State == securemail.StateUncertain
	switch o {
	case securemail.Cancel:
		st.State, st.Next = securemail.StateCancelled, time.Time{}
	case securemail.Hold:
		if st.State == securemail.StateHeld || uncertain && st.Next.IsZero() {
			return false
		}
		if st.Next = (time.Time{}); !uncertain {
			st.State, st.Next = securemail.StateHeld, st.UsefulUntil
		}
	case securemail.Release:
		if st.State != securemail.StateHeld {
			return false
		}
		st.State, st.Next = securemail.StateAccepted, time.Time{}
	case securemail.Retry:
		if st.Next = q.now(); !uncertain {
			st.State = securemail.StateDeferred
		}
	}
	return true
}
