package queue

import (
	"context"
	"database/sql"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

const (
	sweepEvery  = time.Hour
	sweepLook   = time.Minute
	listenAgain = 2 * time.Second
	sweepPage   = 100
	notifyEvery = 10 * time.Millisecond
)

// BlobLister is an optional part of a BlobStore: without it, blobs that a crash left without a row stay. List yields the
// keys of what was written before a time.
type BlobLister interface {
	List(ctx context.Context, before time.Time) iter.Seq2[string, error]
}

// Run implements [securemail.Runner]: until ctx ends it renews the leases of this process, listens for notifications, and
// once an hour removes what is no longer needed. What fails is logged and done again. It returns nil.
func (q *Queue) Run(ctx context.Context) error {
	q.running(1)
	defer q.running(-1)
	var wg sync.WaitGroup
	defer wg.Wait()
	if q.o.Listen != nil {
		wg.Go(func() { q.listen(ctx) })
	}
	wg.Go(func() { q.sweeps(ctx) }) // apart from the beat: a long sweep must not cost the leases
	beat := time.NewTicker(q.o.Lease / 3)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			if err := q.renew(ctx); err != nil && ctx.Err() == nil {
				q.log.ErrorContext(ctx, "queue: leases not renewed; trying again")
			}
		}
	}
}

// sweeps removes what is no longer needed, at once and then once an hour, until ctx ends.
func (q *Queue) sweeps(ctx context.Context) {
	look := time.NewTicker(sweepLook)
	defer look.Stop()
	for {
		if q.sweepIsDue() {
			q.sweep(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// running counts Runs. When the last one ends nobody renews, so a lease that was dropped without a Mark runs out.
func (q *Queue) running(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.runs += n; q.runs == 0 {
		clear(q.held)
	}
}

func (q *Queue) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := q.o.Listen(ctx, channel, q.signal); err != nil && ctx.Err() == nil {
			q.log.WarnContext(ctx, "queue: listening for notifications failed; looking four times a second meanwhile")
		}
		t := time.NewTimer(listenAgain)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// notify tells the listeners of other processes, when and if tx commits.
func (q *Queue) notify(ctx context.Context, tx *sql.Tx) error {
	if q.d.Dialect != sqldb.Postgres || !q.mayNotify() {
		return nil
	}
	_, err := tx.ExecContext(ctx, "SELECT pg_notify($1, '')", channel)
	return err
}

// mayNotify says that the listeners were not told a moment ago. Transactions that notify commit one after the other
// (PostgreSQL holds a lock for it), which would cost more than the look that a listener takes a quarter of a second later.
func (q *Queue) mayNotify() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if now.Sub(q.rang) < notifyEvery {
		return false
	}
	q.rang = now
	return true
}

// renew prolongs what this process holds, but for what it has held for half an hour without a Mark.
func (q *Queue) renew(ctx context.Context) error {
	q.mu.Lock()
	var ids []string
	for id, h := range q.held {
		if time.Since(h.since) > maxHold {
			delete(q.held, id)
			continue
		}
		ids = append(ids, string(id))
	}
	q.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	return q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		until := micros(q.o.Now().Add(q.o.Lease))
		for part := range slices.Chunk(ids, inOneList) {
			ours := "lease_epoch=? AND id IN (" + marks(len(part)) + ")"
			if q.d.Dialect == sqldb.Postgres { // one that a Mark is writing needs no renewal, and is not waited for
				ours = "id IN (SELECT id FROM queue_parcel WHERE " + ours + " FOR UPDATE SKIP LOCKED)"
			}
			_, err := q.exec(ctx, tx, "UPDATE queue_parcel SET lease_until=? WHERE "+ours, anys([]any{until, q.epoch}, part)...)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (q *Queue) sweepIsDue() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.swept.IsZero() && time.Since(q.swept) < sweepEvery {
		return false
	}
	q.swept = time.Now()
	return true
}

// sweep removes what is no longer needed. It can be stopped anywhere.
func (q *Queue) sweep(ctx context.Context) {
	now := q.o.Now()
	for what, f := range map[string]func(context.Context, time.Time) error{
		"times": q.mendTimes, "events": q.purgeEvents, "submissions": q.purgeSubmissions, "bodies": q.purgeBodies, "blobs": q.purgeBlobs,
	} {
		if err := f(ctx, now); err != nil && ctx.Err() == nil {
			q.log.WarnContext(ctx, "queue: old rows or blobs not removed; trying again in an hour", "what", what)
		}
	}
}

// mendTimes makes due what was accepted under a clock that was far ahead, and would wait until that time comes.
func (q *Queue) mendTimes(ctx context.Context, now time.Time) error {
	for {
		ids, err := q.strings(ctx, q.db, "SELECT id FROM queue_parcel WHERE due>? AND due>not_before AND state='accepted' LIMIT ?",
			micros(now.Add(wrongClock)), sweepPage)
		if err != nil || len(ids) == 0 {
			return err
		}
		slices.Sort(ids)
		at := micros(now)
		err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := q.exec(ctx, tx, `UPDATE queue_parcel SET due=CASE WHEN not_before>? THEN not_before ELSE ? END, rev=rev+1
				WHERE due>not_before AND state='accepted' AND id IN (`+marks(len(ids))+")", anys([]any{at, at}, ids)...)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// purgeSubmissions drops submissions whose parcels all ended long ago, and data keys that nothing is sealed under.
func (q *Queue) purgeSubmissions(ctx context.Context, now time.Time) error {
	cutoff := micros(now.Add(-q.o.Keep))
	for last := ""; ; {
		ids, err := q.strings(ctx, q.db, `SELECT k.id FROM queue_key k WHERE k.id>? AND k.made<? AND NOT EXISTS
			(SELECT 1 FROM queue_parcel p WHERE p.submission=k.id AND (p.ended=0 OR p.ended>=?)) ORDER BY k.id LIMIT ?`,
			last, cutoff, cutoff, sweepPage)
		if err != nil || len(ids) == 0 {
			return err
		}
		last = ids[len(ids)-1]
		err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error { return q.dropSubmissions(ctx, tx, ids) })
		if err != nil {
			return err
		}
	}
}

func (q *Queue) dropSubmissions(ctx context.Context, tx *sql.Tx, ids []string) error {
	in := "(" + marks(len(ids)) + ")"
	for _, query := range []string{
		"DELETE FROM queue_label WHERE parcel IN (SELECT id FROM queue_parcel WHERE submission IN " + in + ")",
		"DELETE FROM queue_parcel WHERE submission IN " + in,
		"DELETE FROM queue_key WHERE id IN " + in + " AND NOT EXISTS (SELECT 1 FROM queue_event e WHERE e.data_key=queue_key.id)",
		"UPDATE queue_key SET idem=NULL, answer=NULL WHERE id IN " + in,
	} {
		if _, err := q.exec(ctx, tx, query, anys(nil, ids)...); err != nil {
			return err
		}
	}
	return nil
}

// purgeBodies drops bodies that no parcel needs; see dropBodies.
func (q *Queue) purgeBodies(ctx context.Context, _ time.Time) error {
	for {
		ids, err := q.strings(ctx, q.db, `SELECT b.id FROM queue_body b WHERE NOT EXISTS
			(SELECT 1 FROM queue_parcel p WHERE p.submission=b.submission AND p.ended=0 AND p.body=b.id) LIMIT ?`, sweepPage)
		if err != nil || len(ids) == 0 {
			return err
		}
		var gone []string
		err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
			gone, err = q.dropBodies(ctx, tx, ids)
			return err
		})
		if err != nil {
			return err
		}
		for _, id := range gone {
			q.deleteBlob(ctx, id)
		}
	}
}

// purgeBlobs deletes blobs that no row names, once no transaction can still be about to name them.
func (q *Queue) purgeBlobs(ctx context.Context, now time.Time) error {
	lister, ok := q.o.Blobs.(BlobLister)
	if !ok {
		return nil
	}
	var made int64
	if err := q.db.QueryRowContext(ctx, "SELECT num FROM queue_meta WHERE name='index'").Scan(&made); err != nil {
		return err
	}
	for key, err := range lister.List(ctx, time.UnixMicro(made).Add(-wrongClock)) {
		if err != nil {
			return err
		}
		if id := strings.ReplaceAll(key, "/", ""); len(id) == 26 && blobKey(id) == key {
			q.log.WarnContext(ctx, "queue: blobs are older than the database, so they may be another's; none is removed")
			return nil
		}
	}
	for key, err := range lister.List(ctx, now.Add(-blobGrace)) {
		if err != nil {
			return err
		}
		id := strings.ReplaceAll(key, "/", "")
		if len(id) != 26 || blobKey(id) != key {
			continue // not ours
		}
		ids, err := q.strings(ctx, q.db, "SELECT id FROM queue_body WHERE id=?", id)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			q.deleteBlob(ctx, id)
		}
	}
	return nil
}

var _ securemail.Runner = (*Queue)(nil)
