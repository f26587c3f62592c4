package queue

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

const (
	maxTake   = 500
	laterBy   = 30 * time.Second // a parcel that can't be read now is looked at again then
	inOneList = 500              // ids in one IN (...)
)

// Take implements [securemail.Queue]. It leases up to max parcels, at most 500, that are due at now: higher priority
// first, and in each what a lost worker held first. Then tenants have turns, and so have the domains of a tenant's
// recipients, so that one's backlog keeps nobody else waiting; within a domain the one that has been due longest is first. While it waits it
// notices a Put of this process at once, and another's commit within a quarter of a second, or at once through
// [Options].Listen. A parcel whose stored bytes are damaged is not handed out: it is held, or stays uncertain where it may
// have left, with an event of Detail "rule": "corrupt". One whose key can't be had is tried again in half a minute; only
// where that is all that was due, Take returns the error.
//
// A ctx that ends while Take waits is its error. Leases that were got are always returned.
func (q *Queue) Take(ctx context.Context, now time.Time, max int, wait time.Duration) ([]*securemail.Lease, error) {
	start := time.Now()
	for {
		woken := q.signals()
		ls, err := q.takeDue(ctx, now.Add(time.Since(start)), min(max, maxTake))
		if len(ls) > 0 {
			return ls, nil
		}
		left := wait - time.Since(start)
		if err != nil || left <= 0 {
			return nil, err
		}
		timer := time.NewTimer(min(left, pollEvery))
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

func (q *Queue) takeDue(ctx context.Context, now time.Time, max int) ([]*securemail.Lease, error) {
	// Most looks find nothing; they should not cost a write transaction.
	found, err := q.anyDue(ctx, now)
	if err != nil || !found || max <= 0 {
		return nil, failed("take", err)
	}
	var c *claim
	err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		c = &claim{q: q, db: q.d.Prepared(tx), now: micros(now), left: max}
		return c.all(ctx)
	})
	if err != nil {
		return nil, failed("take", err)
	}
	if len(c.rows) == 0 {
		return nil, nil
	}
	return q.load(context.WithoutCancel(ctx), c.rows)
}

// strings reads a query of one column.
func (q *Queue) strings(ctx context.Context, db querier, query string, args ...any) ([]string, error) {
	rs, err := db.QueryContext(ctx, q.d.Rebind(query), args...)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var out []string
	for rs.Next() {
		var s string
		if err := rs.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rs.Err()
}

// token is the fence: the epoch of the Queue that took the lease, and the attempt.
func token(epoch, attempt int64) string { return fmt.Sprintf("%d.%d", epoch, attempt) }

// load opens what was leased. Errors here leave the leases to run out.
func (q *Queue) load(ctx context.Context, rows []*row) ([]*securemail.Lease, error) {
	if err := q.loadKeys(ctx, rows); err != nil {
		return nil, failed("read keys", err)
	}
	bodies, err := q.loadBodies(ctx, rows)
	if err != nil {
		return nil, failed("read bodies", err)
	}
	var ls []*securemail.Lease
	var first error
	for _, r := range rows {
		l, err := q.openLease(ctx, r, bodies)
		if err == nil {
			ls = append(ls, l)
			q.hold(l.Parcel.ID, l.Attempt)
			continue
		}
		if first == nil && !isDamage(err) {
			first = err
		}
		if err := q.setAside(ctx, r, err); err != nil {
			q.log.ErrorContext(ctx, "queue: a parcel can't be read, nor that be recorded", "parcel", r.id)
		}
	}
	return ls, first
}

// loadKeys reads the wrapped key of each of rows.
func (q *Queue) loadKeys(ctx context.Context, rows []*row) error {
	wrapped := make(map[string][]byte)
	var need []string
	for _, r := range rows {
		if _, ok := wrapped[r.submission]; !ok {
			wrapped[r.submission] = nil
			need = append(need, r.submission)
		}
	}
	rs, err := q.db.QueryContext(ctx, q.d.Rebind("SELECT id, wrapped FROM queue_key WHERE id IN ("+marks(len(need))+")"), anys(nil, need)...)
	if err != nil {
		return err
	}
	defer rs.Close()
	for rs.Next() {
		var id string
		var w []byte
		if err := rs.Scan(&id, &w); err != nil {
			return err
		}
		wrapped[id] = w
	}
	for _, r := range rows {
		r.wrapped = wrapped[r.submission]
	}
	return rs.Err()
}

// loadBodies reads each body of rows that is not in memory once.
func (q *Queue) loadBodies(ctx context.Context, rows []*row) (map[string]*stored, error) {
	out := make(map[string]*stored)
	var need []string
	for _, r := range rows {
		if out[r.body] != nil {
			continue
		}
		s := &stored{body: body{id: r.body}, blobs: q.o.Blobs}
		if s.base, _ = q.bodies.get(r.body); s.base == nil {
			need = append(need, r.body)
		}
		out[r.body] = s
	}
	for ids := range slices.Chunk(need, inOneList) {
		if err := q.readBodies(ctx, ids, out); err != nil && !sqldb.IsCorrupt(err) {
			return nil, err
		} else if err == nil {
			continue
		}
		for _, id := range ids { // a damaged page must not keep the others waiting
			if err := q.readBodies(ctx, []string{id}, out); err != nil {
				out[id].err = err
			}
		}
	}
	return out, nil
}

func (q *Queue) readBodies(ctx context.Context, ids []string, out map[string]*stored) error {
	rs, err := q.db.QueryContext(ctx, q.d.Rebind("SELECT id, size, sealed FROM queue_body WHERE id IN ("+marks(len(ids))+")"),
		anys(nil, ids)...)
	if err != nil {
		return err
	}
	defer rs.Close()
	for rs.Next() {
		var b body
		if err := rs.Scan(&b.id, &b.size, &b.sealed); err != nil {
			return err
		}
		out[b.id].body, out[b.id].found = b, true
	}
	return rs.Err()
}

func (q *Queue) openLease(ctx context.Context, r *row, bodies map[string]*stored) (*securemail.Lease, error) {
	if r.wrapped == nil {
		return nil, &CorruptError{Part: "key", ID: r.submission, Err: sql.ErrNoRows}
	}
	k, err := q.openKey(ctx, r.submission, r.wrapped)
	if err != nil {
		return nil, err
	}
	last, err := k.statusOf(r)
	if err != nil {
		return nil, err
	}
	var let letter
	if err := k.open("letter", r.id, r.letter, &let); err != nil {
		return nil, err
	}
	s := bodies[r.body]
	s.key = k.key
	m, err := q.message(s, let.Head)
	if err != nil {
		return nil, err
	}
	last.Attempt-- // the status before this lease
	return &securemail.Lease{
		Parcel:  &securemail.Parcel{Slip: last.Slip, Factors: let.Factors, Message: m},
		Attempt: int(r.attempt), Last: last, Token: token(q.epoch, r.attempt),
	}, nil
}

// setAside ends the lease of a parcel that can't be read: to be looked at by a person where it is damaged, and else later.
func (q *Queue) setAside(ctx context.Context, r *row, cause error) error {
	now := q.o.Now()
	if !isDamage(cause) {
		q.log.WarnContext(ctx, "queue: a parcel can't be read now", "parcel", r.id)
		return q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := q.exec(ctx, tx, `UPDATE queue_parcel SET due=?, rev=rev+1, lease_epoch=0, lease_until=0
				WHERE id=? AND lease_epoch=? AND attempt=?`, micros(now.Add(laterBy)), r.id, q.epoch, r.attempt)
			return err
		})
	}
	q.log.ErrorContext(ctx, "queue: a stored parcel is damaged", "parcel", r.id)
	st := bareStatus(securemail.ParcelID(r.id), r.submission, securemail.StateHeld)
	st.Attempt, st.Failure, st.Changed, st.Actor.Tenant = int(r.attempt), "queue: the stored parcel is damaged", now, r.tenant
	if r.state == string(securemail.StateAttempting) || r.state == string(securemail.StateUncertain) {
		st.State = securemail.StateUncertain
	}
	rule := "corrupt"
	if isDestroyed(cause) {
		rule, st.Failure = "destroyed", "queue: the parcel's key was destroyed"
	}
	st.Reasons = []securemail.Reason{{Rule: rule, Text: strings.TrimPrefix(cause.Error(), "queue: ")}}
	status := r.status
	if k, err := q.openKey(ctx, r.submission, r.wrapped); err == nil && r.wrapped != nil {
		if status, err = k.sealed("status", r.id, progressOf(&st)); err != nil {
			return err
		}
	}
	add, err := q.packAside(ctx, &st, rule)
	if err != nil {
		return err
	}
	return q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := q.exec(ctx, tx, `UPDATE queue_parcel SET state=?, status=?, due=0, rev=rev+1, lease_epoch=0, lease_until=0
			WHERE id=? AND lease_epoch=? AND attempt=?`, string(st.State), status, r.id, q.epoch, r.attempt)
		if err != nil || n == 0 {
			return err
		}
		return q.writeEvents(ctx, tx, add)
	})
}

// packAside is the event that tells of a parcel that was set aside.
func (q *Queue) packAside(ctx context.Context, st *securemail.Status, rule string) (*packedEvents, error) {
	return q.packEvents(ctx, []securemail.Event{{
		ID: newID(st.Changed), Kind: string(st.State), Time: st.Changed, Status: *st, Detail: map[string]string{"rule": rule},
		By: securemail.Actor{Tenant: st.Actor.Tenant, ID: "queue", Kind: "part"},
	}})
}

func (q *Queue) hold(id securemail.ParcelID, attempt int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held[id] = hold{attempt, time.Now()}
}

// letGo ends the renewal of a lease.
func (q *Queue) letGo(id securemail.ParcelID, attempt int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[id].attempt == attempt {
		delete(q.held, id)
	}
}
