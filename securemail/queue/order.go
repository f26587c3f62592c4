package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// errMoved says that a parcel changed between being read and being written.
var errMoved = errors.New("queue: the parcel is changing all the time")

var orderNames = map[securemail.Order]string{
	securemail.Cancel: "cancel", securemail.Hold: "hold", securemail.Release: "release", securemail.Retry: "retry",
}

// change is what an Order does to one parcel, ready to be written.
type change struct {
	r      *row
	to     securemail.Status
	due    int64
	status []byte
	events [][]any
}

// Order implements [securemail.Desk]: all of ids or none, each with an event of Detail "order", by the Actor in ctx, in the
// same commit. securemail.ErrFinal: one of them ended, or is leased or attempting and so leaving right now.
// securemail.ErrTenant: one is unknown, or another tenant's. Retry is due now whatever NotBefore says; Release keeps
// NotBefore.
func (q *Queue) Order(ctx context.Context, o securemail.Order, tenant string, ids ...securemail.ParcelID) error {
	if orderNames[o] == "" || len(ids) == 0 {
		return errors.New("queue: order: unknown order or no parcel")
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	err := errMoved
	for try := 0; errors.Is(err, errMoved) && try < 20; try++ {
		err = q.order(ctx, o, tenant, ids)
	}
	if err != nil {
		return failed("order", err)
	}
	q.signal()
	return nil
}

func (q *Queue) order(ctx context.Context, o securemail.Order, tenant string, ids []securemail.ParcelID) error {
	var changes []*change
	for part := range slices.Chunk(ids, inOneList) {
		args := append(anys(nil, part), tenant)
		rows, err := q.rows(ctx, q.db, " WHERE p.id IN ("+marks(len(part))+") AND p.tenant=? ORDER BY p.id", args...)
		if err != nil {
			return err
		}
		if len(rows) != len(part) {
			return fmt.Errorf("a parcel is unknown: %w", securemail.ErrTenant)
		}
		for _, r := range rows {
			c, err := q.plan(ctx, o, r)
			if err != nil {
				return err
			}
			changes = append(changes, c)
		}
	}
	var gone []string
	err := q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		gone, err = q.writeChanges(ctx, tx, changes)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		q.deleteBlob(ctx, id)
	}
	return nil
}

// plan says what o does to r; a change without events changes nothing.
func (q *Queue) plan(ctx context.Context, o securemail.Order, r *row) (*change, error) {
	now := q.o.Now()
	state := securemail.State(r.state)
	if state.Final() || state == securemail.StateAttempting || r.leaseEpoch > 0 && r.leaseUntil > micros(now) {
		return nil, securemail.ErrFinal
	}
	k, err := q.openKey(ctx, r.submission, r.wrapped)
	if err != nil {
		return nil, err
	}
	c := &change{r: r}
	if c.to, err = k.statusOf(r); err != nil {
		return nil, err
	}
	if !c.apply(o, now) {
		return c, nil
	}
	c.to.Changed = now
	if c.status, err = k.sealed("status", r.id, progressOf(&c.to)); err != nil {
		return nil, err
	}
	by, _ := securemail.ActorOf(ctx)
	by.Tenant = r.tenant
	c.events, err = k.eventRows([]securemail.Event{{
		ID: newID(now), Kind: string(c.to.State), Time: now, By: by, Status: c.to,
		Detail: map[string]string{"order": orderNames[o]},
	}})
	return c, err
}

// apply changes c as the table of states says; false: there is nothing to change.
func (c *change) apply(o securemail.Order, now time.Time) bool {
	st := &c.to
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
		c.due = micros(st.Next)
	case securemail.Release:
		if st.State != securemail.StateHeld {
			return false
		}
		st.State, st.Next = securemail.StateAccepted, time.Time{}
		c.due = max(micros(now), c.r.notBefore)
	case securemail.Retry:
		if st.Next = now; !uncertain {
			st.State = securemail.StateDeferred
		}
		c.due = micros(now)
	}
	return true
}

// writeChanges returns the blobs that nobody needs any more.
func (q *Queue) writeChanges(ctx context.Context, tx *sql.Tx, cs []*change) ([]string, error) {
	var events [][]any
	var bodies []string
	for _, c := range cs {
		if c.events == nil {
			continue
		}
		set, args := "", []any{string(c.to.State), c.due, c.status}
		if c.to.State.Final() {
			set, args = ", letter=NULL, ended=?", append(args, micros(c.to.Changed))
			bodies = append(bodies, c.r.body)
		}
		n, err := q.exec(ctx, tx, "UPDATE queue_parcel SET state=?, due=?, status=?"+set+`, rev=rev+1, lease_epoch=0, lease_until=0
			WHERE id=? AND rev=?`, append(args, c.r.id, c.r.rev)...)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, errMoved
		}
		events = append(events, c.events...)
	}
	if err := q.runAll(ctx, tx, q.insertEvents(events)); err != nil {
		return nil, err
	}
	gone, err := q.dropBodies(ctx, tx, bodies)
	if err != nil {
		return nil, err
	}
	return gone, q.notify(ctx, tx)
}
