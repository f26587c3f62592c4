package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// fromFresh is where a parcel may be from which it may end any way.
var (
	fromFresh  = []securemail.State{securemail.StateAccepted, securemail.StateDeferred}
	fromLeased = append(slices.Clone(fromFresh), securemail.StateAttempting)
	fromAny    = append(slices.Clone(fromLeased), securemail.StateUncertain)
	fromHeld   = securemail.StateHeld // handed out only to expire
)

// mayCome lists the states from which a Mark may enter to; none: no Mark may.
func mayCome(to securemail.State) []securemail.State {
	switch to {
	case securemail.StateAttempting, securemail.StateUncertain, securemail.StateDelivered:
		return fromAny
	case securemail.StateDeferred, securemail.StateBounced, securemail.StateDropped:
		return fromLeased
	case securemail.StateHeld:
		return append(slices.Clone(fromLeased), fromHeld)
	case securemail.StateRefused:
		return fromFresh
	case securemail.StateExpired:
		return append(slices.Clone(fromFresh), fromHeld)
	}
	return nil
}

// packedMark is a Mark ready to be written.
type packedMark struct {
	m              *securemail.Mark
	epoch, attempt int64
	status         []byte
	keys, events   [][]any
}

// Mark implements [securemail.Queue]: all of ms or none, with their events, durable when it returns nil. StateAttempting
// keeps the lease and renews it; every other state ends it. Deferred must have Status.Next; uncertain with Next is tried
// again then. [ErrTransition] says that the table of states has no such change; securemail.ErrLease that some lease was
// lost, or already ended by another Mark. Where the parcel's scope was destroyed meanwhile, its state alone is recorded. A repeat of a Mark that holds, told by its events' ids, is nil: so it may be
// repeated after [ErrUnknown].
func (q *Queue) Mark(ctx context.Context, ms ...securemail.Mark) error {
	pms := make([]*packedMark, len(ms))
	for i := range ms {
		var err error
		if pms[i], err = q.packMark(ctx, &ms[i]); err != nil {
			return err
		}
	}
	// Rows are locked in one order, so that two Marks don't wait for each other.
	slices.SortStableFunc(pms, func(a, b *packedMark) int {
		return compareID(a.m.Lease.Parcel.ID, b.m.Lease.Parcel.ID)
	})
	var gone []string
	err := q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		gone, err = q.writeMarks(ctx, q.d.Prepared(tx), pms)
		return err
	})
	if err != nil && !(errors.Is(err, securemail.ErrLease) && q.recorded(ctx, pms)) {
		if errors.Is(err, securemail.ErrLease) {
			q.forgetLost(ctx, pms)
		}
		return failed("mark", err)
	}
	for _, m := range pms {
		if id := m.m.Lease.Parcel.ID; m.m.Status.State == securemail.StateAttempting {
			q.hold(id, int(m.attempt))
		} else {
			q.letGo(id, int(m.attempt))
		}
	}
	for _, id := range gone {
		q.deleteBlob(ctx, id)
	}
	return nil
}

func compareID(a, b securemail.ParcelID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (q *Queue) packMark(ctx context.Context, m *securemail.Mark) (*packedMark, error) {
	p := &packedMark{m: m}
	if m.Lease == nil || m.Lease.Parcel == nil {
		return nil, errors.New("queue: mark: no lease")
	}
	if n, err := fmt.Sscanf(m.Lease.Token, "%d.%d", &p.epoch, &p.attempt); n != 2 || err != nil {
		return nil, fmt.Errorf("queue: mark: %w", securemail.ErrLease)
	}
	if mayCome(m.Status.State) == nil {
		return nil, fmt.Errorf("%w: to %q", ErrTransition, m.Status.State)
	}
	if m.Status.State == securemail.StateDeferred && m.Status.Next.IsZero() {
		return nil, fmt.Errorf("%w: deferred without a time to try again", ErrTransition)
	}
	k, err := q.submissionKey(ctx, m.Lease.Parcel.Submission)
	if isDestroyed(err) {
		return p, q.packBare(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	st := m.Status
	if st.Changed.IsZero() {
		st.Changed = q.o.Now()
	}
	if p.status, err = k.sealed("status", string(m.Lease.Parcel.ID), progressOf(&st)); err != nil {
		return nil, err
	}
	p.events, err = k.eventRows(m.Events)
	return p, err
}

// packBare packs a Mark of a parcel whose scope was destroyed while it was leased: what can still be told is its state, in
// events without content that the queue's own scope keeps.
func (q *Queue) packBare(ctx context.Context, p *packedMark) error {
	k, err := q.newKeyUnder(ctx, indexScope, "e"+newRandom())
	if err != nil {
		return err
	}
	bare := make([]securemail.Event, len(p.m.Events))
	for i, e := range p.m.Events {
		bare[i] = securemail.Event{
			ID: e.ID, Kind: e.Kind, Time: e.Time, By: securemail.Actor{ID: "queue", Kind: "part"},
			Status: bareStatus(p.m.Lease.Parcel.ID, p.m.Lease.Parcel.Submission, e.Status.State),
			Detail: map[string]string{"rule": "destroyed"},
		}
	}
	p.keys = [][]any{{k.id, "", k.wrapped, micros(q.o.Now())}}
	p.events, err = k.eventRows(bare)
	return err
}

func bareStatus(id securemail.ParcelID, submission string, state securemail.State) securemail.Status {
	st := securemail.Status{State: state}
	st.ID, st.Submission = id, submission
	return st
}

// submissionKey is the data key of a submission, from memory as a rule.
func (q *Queue) submissionKey(ctx context.Context, id string) (*dataKey, error) {
	if k, ok := q.keys.get(id); ok { // Take put it there
		return k, nil
	}
	var wrapped []byte
	err := q.db.QueryRowContext(ctx, q.d.Rebind("SELECT wrapped FROM queue_key WHERE id=?"), id).Scan(&wrapped)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, &CorruptError{Part: "key", ID: id, Err: err}
	}
	if err != nil {
		return nil, failed("read data key", err)
	}
	return q.openKey(ctx, id, wrapped)
}

// writeMarks returns the blobs that nobody needs any more.
func (q *Queue) writeMarks(ctx context.Context, tx querier, ms []*packedMark) ([]string, error) {
	var bodies []string
	var err error
	for left := ms; len(left) > 0; {
		n := q.alike(left)
		if n == 1 {
			var body string
			if body, err = q.writeMark(ctx, tx, left[0]); left[0].m.Status.State.Final() {
				bodies = append(bodies, body)
			}
		} else {
			bodies, err = q.writeAlike(ctx, tx, left[:n], bodies)
		}
		if err != nil {
			return nil, err
		}
		left = left[n:]
	}
	return q.dropBodies(ctx, tx, bodies)
}

// alike is how many of ms, from the first on, one statement can write: of one state, and no parcel twice.
func (q *Queue) alike(ms []*packedMark) int {
	n := 1
	for n < len(ms) && ms[n].m.Status.State == ms[0].m.Status.State && ms[n].m.Lease.Parcel.ID != ms[n-1].m.Lease.Parcel.ID {
		n++
	}
	return q.rung(n)
}

// writeAlike writes what alike found, and adds the bodies of those that ended.
func (q *Queue) writeAlike(ctx context.Context, tx querier, ms []*packedMark, bodies []string) ([]string, error) {
	to := ms[0].m.Status.State
	set, args := q.markSet(to, "v.due")
	set += ", state=?, status=v.sealed, rev=rev+1"
	args = append(args, string(to))
	values, events := make([]any, 0, 5*len(ms)), make([][]any, 0, len(ms))
	var keys [][]any
	for _, m := range ms {
		keys = append(keys, m.keys...)
		values = append(values, string(m.m.Lease.Parcel.ID), m.epoch, m.attempt, m.status, micros(m.m.Status.Next))
		events = append(events, m.events...)
	}
	first, one := "(?,?,?,?,?)", ",(?,?,?,?,?)"
	if q.d.Dialect == sqldb.Postgres {
		first = "(CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BYTEA), CAST(? AS BIGINT))"
	}
	from := mayCome(to)
	rs, err := tx.QueryContext(ctx, q.d.Rebind("WITH v(parcel, epoch, try, sealed, due) AS (VALUES "+first+strings.Repeat(one, len(ms)-1)+
		") UPDATE queue_parcel AS p SET "+set+" FROM v WHERE p.id=v.parcel AND p.lease_epoch=v.epoch AND p.attempt=v.try AND p.state IN ("+
		marks(len(from))+") RETURNING id, body"), anys(slices.Concat(values, args), from)...)
	if err != nil {
		return nil, err
	}
	written, err := scanPairs(rs)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		body, ok := written[string(m.m.Lease.Parcel.ID)]
		if !ok {
			return nil, q.whyNot(ctx, tx, m)
		}
		if to.Final() {
			bodies = append(bodies, body)
		}
	}
	return bodies, q.runAll(ctx, tx, slices.Concat(q.insertEventKeys(keys), q.insertEvents(events)))
}

func scanPairs(rs *sql.Rows) (map[string]string, error) {
	defer rs.Close()
	out := make(map[string]string)
	for rs.Next() {
		var k, v string
		if err := rs.Scan(&k, &v); err != nil {
			return nil, err
		}
		out[k] = v
	}
	return out, rs.Err()
}

// markSet is what entering a state sets beside state and status; due is where a state that waits has its time from.
func (q *Queue) markSet(to securemail.State, due string) (string, []any) {
	switch {
	case to == securemail.StateAttempting:
		return "lease_until=?", []any{micros(q.o.Now().Add(q.o.Lease))}
	case to.Final():
		return "due=0, lease_epoch=0, lease_until=0, letter=NULL, ended=?", []any{micros(q.o.Now())}
	}
	return "due=" + due + ", lease_epoch=0, lease_until=0", nil
}

// writeMark returns the parcel's body.
func (q *Queue) writeMark(ctx context.Context, tx querier, m *packedMark) (body string, err error) {
	id, to := string(m.m.Lease.Parcel.ID), m.m.Status.State
	from := mayCome(to)
	set, args := q.markSet(to, "?")
	if args == nil {
		args = []any{micros(m.m.Status.Next)}
	}
	args = append(args, string(to), m.status, id, m.epoch, m.attempt)
	update := statement{"UPDATE queue_parcel SET " + set + `, state=?, status=?, rev=rev+1
		WHERE id=? AND lease_epoch=? AND attempt=? AND state IN (` + marks(len(from)) + ") RETURNING body", anys(args, from)}
	err = q.together(ctx, tx, update, &body, slices.Concat(q.insertEventKeys(m.keys), q.insertEvents(m.events)))
	if errors.Is(err, sql.ErrNoRows) {
		err = q.whyNot(ctx, tx, m)
	}
	return body, err
}

// whyNot says why a Mark touched no row.
func (q *Queue) whyNot(ctx context.Context, tx querier, m *packedMark) error {
	var state string
	err := tx.QueryRowContext(ctx, q.d.Rebind("SELECT state FROM queue_parcel WHERE id=? AND lease_epoch=? AND attempt=?"),
		string(m.m.Lease.Parcel.ID), m.epoch, m.attempt).Scan(&state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return securemail.ErrLease
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: from %q to %q", ErrTransition, state, m.m.Status.State)
}

// dropBodies removes those that no parcel needs any more, and returns the ones whose bytes lie in the blob store. Two
// transactions that end a body's last two parcels at once may both leave it; the sweep finds it.
func (q *Queue) dropBodies(ctx context.Context, tx querier, ids []string) ([]string, error) {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	var blobs []string
	for len(ids) > 0 {
		n := q.rung(len(ids))
		rs, err := tx.QueryContext(ctx, q.d.Rebind("DELETE FROM queue_body WHERE id IN ("+marks(n)+`)
			AND NOT EXISTS (SELECT 1 FROM queue_parcel p WHERE p.submission=queue_body.submission AND p.ended=0 AND p.body=queue_body.id)
			RETURNING id, CASE WHEN sealed IS NULL THEN 'blob' ELSE '' END`), anys(nil, ids[:n])...)
		if err != nil {
			return nil, err
		}
		gone, err := scanPairs(rs)
		if err != nil {
			return nil, err
		}
		for _, id := range ids[:n] {
			if gone[id] == "blob" {
				blobs = append(blobs, id)
			}
		}
		ids = ids[n:]
	}
	return blobs, nil
}

// recorded says that ms hold already: all their events are there.
func (q *Queue) recorded(ctx context.Context, ms []*packedMark) bool {
	for _, m := range ms {
		if len(m.events) == 0 {
			return false
		}
		for _, e := range m.events {
			var one int
			err := q.db.QueryRowContext(ctx, q.d.Rebind("SELECT 1 FROM queue_event WHERE id=?"), e[0]).Scan(&one)
			if err != nil {
				return false
			}
		}
	}
	return true
}

// forgetLost stops renewing those of ms that are no longer ours.
func (q *Queue) forgetLost(ctx context.Context, ms []*packedMark) {
	for _, m := range ms {
		id := m.m.Lease.Parcel.ID
		var one int
		err := q.db.QueryRowContext(ctx, q.d.Rebind("SELECT 1 FROM queue_parcel WHERE id=? AND lease_epoch=? AND attempt=?"),
			string(id), m.epoch, m.attempt).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			q.letGo(id, int(m.attempt))
		}
	}
}
