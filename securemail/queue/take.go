package queue

import (
	"context"
	"database/sql"
	"fmt"
	"math"
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

// Take implements [securemail.Queue]. It leases up to max parcels, at most 500, that are due at now: higher priority first,
// then the one that has been due longest. Parcels that a lost worker held come back the same way. While it waits it
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
	ids, err := q.due(ctx, q.db, now, min(max, 1))
	if err == nil && len(ids) > 0 {
		err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			if ids, err = q.due(ctx, tx, now, max); err != nil {
				return err
			}
			return q.lease(ctx, tx, ids)
		})
	}
	if err != nil {
		return nil, failed("take", err)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return q.load(context.WithoutCancel(ctx), ids)
}

// due selects, one priority after the other, so that parcels of a high priority that are due later cost nothing.
func (q *Queue) due(ctx context.Context, db querier, now time.Time, max int) ([]string, error) {
	lock := ""
	if _, ok := db.(*sql.Tx); ok && q.d.Dialect == sqldb.Postgres {
		lock = " FOR UPDATE SKIP LOCKED"
	}
	var ids []string
	below := int64(math.MaxInt8 + 1)
	for len(ids) < max {
		var prio sql.NullInt64
		err := db.QueryRowContext(ctx, q.d.Rebind("SELECT max(priority) FROM queue_parcel WHERE due>0 AND priority<?"), below).Scan(&prio)
		if err != nil {
			return nil, err
		}
		if !prio.Valid {
			break
		}
		below = prio.Int64
		more, err := q.strings(ctx, db, `SELECT id FROM queue_parcel WHERE due>0 AND priority=? AND due<=?
			AND (lease_until<=? OR lease_until>?) ORDER BY due, id LIMIT ?`+lock,
			below, micros(now), micros(q.o.Now()), micros(q.o.Now().Add(wrongClock)), max-len(ids))
		if err != nil {
			return nil, err
		}
		ids = append(ids, more...)
	}
	return ids, nil
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

func (q *Queue) lease(ctx context.Context, tx *sql.Tx, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	args := anys([]any{q.owner(), q.epoch, micros(q.o.Now().Add(q.o.Lease))}, ids)
	_, err := q.exec(ctx, tx, `UPDATE queue_parcel SET attempt=attempt+1, rev=rev+1, lease_owner=?, lease_epoch=?, lease_until=?
		WHERE id IN (`+marks(len(ids))+`)`, args...)
	return err
}

// token is the fence: the epoch of the Queue that took the lease, and the attempt.
func token(epoch, attempt int64) string { return fmt.Sprintf("%d.%d", epoch, attempt) }

// load reads what was leased. Errors here leave the leases to run out.
func (q *Queue) load(ctx context.Context, ids []string) ([]*securemail.Lease, error) {
	rows, err := q.rows(ctx, q.db, " WHERE p.id IN ("+marks(len(ids))+")", anys(nil, ids)...)
	if err != nil {
		return nil, failed("read parcels", err)
	}
	slices.SortFunc(rows, func(a, b *row) int { return slices.Index(ids, a.id) - slices.Index(ids, b.id) })
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
		if err := q.readBodies(ctx, ids, out); err != nil {
			return nil, err
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
	st := securemail.Status{State: securemail.StateHeld, Attempt: int(r.attempt), Failure: "queue: the stored parcel is damaged", Changed: now}
	if r.state == string(securemail.StateAttempting) || r.state == string(securemail.StateUncertain) {
		st.State = securemail.StateUncertain
	}
	st.ID, st.Submission, st.Actor.Tenant = securemail.ParcelID(r.id), r.submission, r.tenant
	st.Reasons = []securemail.Reason{{Rule: "corrupt", Text: strings.TrimPrefix(cause.Error(), "queue: ")}}
	e := securemail.Event{
		ID: newID(now), Kind: string(st.State), Time: now, Status: st, Detail: map[string]string{"rule": "corrupt"},
		By: securemail.Actor{Tenant: r.tenant, ID: "queue", Kind: "part"},
	}
	status := r.status
	if k, err := q.openKey(ctx, r.submission, r.wrapped); err == nil {
		if status, err = k.sealed("status", r.id, progressOf(&st)); err != nil {
			return err
		}
	}
	add, err := q.packEvents(ctx, []securemail.Event{e})
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
