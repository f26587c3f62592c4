package queue

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Told is what the audit log says about a parcel after the moment that the database was put back to.
type Told struct {
	// Event is the id of the event that the entry records, Seq its number; one that the database has too is no news.
	Event      string
	Seq        int64
	Parcel     securemail.ParcelID
	Submission string
	Tenant     string
	State      securemail.State
	// Time is the event's, Next when a deferred parcel was to be tried again.
	Time, Next time.Time
}

// ReconcileOptions say how [Queue.Reconcile] treats what nobody tells of.
type ReconcileOptions struct {
	// Told are the entries since, in order of the log; nil: no log survived that is newer than the database.
	Told iter.Seq2[Told, error]
	// NothingLeft says that the operator knows that nothing left after the database's moment. Without it, and without Told,
	// every open parcel becomes uncertain.
	NothingLeft bool
	// Rewind is how far back in time the audit log's cursor goes, so that events are offered again which the log may not
	// have kept; the log knows those that it has. Zero: the cursor stays.
	Rewind time.Time
}

// Reconciled says what Reconcile did.
type Reconciled struct {
	// Settled counts parcels by the state that they entered because the log says so.
	Settled map[securemail.State]int `json:"settled"`
	// Uncertain are those that may have left: an intent without an outcome, or open while nobody can tell.
	Uncertain []securemail.ParcelID `json:"uncertain,omitempty"`
	// Unknown are parcels that were accepted after the database's moment: only the log knows of them. In the order of ids.
	Unknown []Told `json:"unknown,omitempty"`
	// Unread counts open parcels that can't be opened, since their key was destroyed or they are damaged. Nothing of them
	// can leave.
	Unread int `json:"unread"`
}

// Reconcile brings the open parcels of a database that was put back to an earlier moment up to what the audit log tells,
// so that nothing with a recorded outcome is sent again: an outcome in the log is the parcel's outcome here, an intent
// without one is uncertain. It reads all of Told before it changes anything. Each change is an event of the state entered,
// by the Actor in ctx, with Detail reconciled=log, or backup where no log tells. Nobody may run the queue meanwhile, and a
// repeat changes nothing more.
func (q *Queue) Reconcile(ctx context.Context, o *ReconcileOptions) (*Reconciled, error) {
	if o == nil {
		o = &ReconcileOptions{}
	}
	r := &reconciling{
		q: q, out: &Reconciled{Settled: map[securemail.State]int{}}, last: map[securemail.ParcelID]Told{},
		born: map[securemail.ParcelID]bool{}, unread: map[string]bool{},
	}
	if o.Told != nil {
		if err := r.read(ctx, o.Told); err != nil {
			return nil, failed("reconcile", err)
		}
		if err := r.settle(ctx); err != nil {
			return nil, failed("reconcile", err)
		}
	}
	if !o.NothingLeft || o.Told != nil {
		if err := r.rest(ctx, o.Told != nil); err != nil {
			return nil, failed("reconcile", err)
		}
	}
	if !o.Rewind.IsZero() {
		if err := q.rewind(ctx, o.Rewind); err != nil {
			return nil, failed("reconcile", err)
		}
	}
	q.signal()
	r.out.Unread = len(r.unread)
	return r.out, nil
}

// reconciling is one Reconcile.
type reconciling struct {
	q    *Queue
	out  *Reconciled
	last map[securemail.ParcelID]Told
	born map[securemail.ParcelID]bool // accepted in what was told
	// unread are the ids of those that can't be opened.
	unread map[string]bool
}

// read keeps the last that was told of each parcel, but for what the database knows itself.
func (r *reconciling) read(ctx context.Context, told iter.Seq2[Told, error]) error {
	var part []Told
	for t, err := range told {
		if err != nil {
			return err
		}
		if t.Parcel == "" || t.State == "" {
			continue
		}
		if part = append(part, t); len(part) == inOneList {
			if err := r.news(ctx, part); err != nil {
				return err
			}
			part = part[:0]
		}
	}
	return r.news(ctx, part)
}

func (r *reconciling) news(ctx context.Context, part []Told) error {
	if len(part) == 0 {
		return nil
	}
	ids := make([]string, len(part))
	for i, t := range part {
		ids[i] = t.Event
	}
	known, err := r.q.strings(ctx, r.q.db, "SELECT id FROM queue_event WHERE id IN ("+marks(len(ids))+")", anys(nil, ids)...)
	if err != nil {
		return err
	}
	slices.Sort(known)
	for _, t := range part {
		if _, ok := slices.BinarySearch(known, t.Event); ok {
			continue
		}
		r.born[t.Parcel] = r.born[t.Parcel] || t.State == securemail.StateAccepted || t.State == securemail.StateRefused
		r.last[t.Parcel] = t
	}
	return nil
}

// settle gives every parcel that was told of its state.
func (r *reconciling) settle(ctx context.Context) error {
	ids := slices.Sorted(maps.Keys(r.last))
	for part := range slices.Chunk(ids, inOneList) {
		rows, err := r.q.rows(ctx, r.q.db, " WHERE p.id IN ("+marks(len(part))+") ORDER BY p.id", anys(nil, part)...)
		if err != nil {
			return err
		}
		here := make(map[securemail.ParcelID]bool, len(rows))
		var changes []*change
		for _, row := range rows {
			id := securemail.ParcelID(row.id)
			here[id] = true
			c, err := r.plan(ctx, row, r.last[id].entered, "log")
			if err != nil {
				return err
			}
			if c != nil {
				changes = append(changes, c)
			}
		}
		for _, id := range part {
			if !here[id] && r.born[id] {
				r.out.Unknown = append(r.out.Unknown, r.last[id])
			}
		}
		if err := r.write(ctx, changes); err != nil {
			return err
		}
	}
	return nil
}

// entered changes st to what was told; false: there is nothing to change.
func (t Told) entered(st *securemail.Status) bool {
	to := t.State
	if to == securemail.StateAttempting {
		to = securemail.StateUncertain
	}
	if st.State == to && (to != securemail.StateDeferred || st.Next.Equal(t.Next)) {
		return false
	}
	st.State, st.Next, st.Changed = to, time.Time{}, t.Time
	switch to {
	case securemail.StateDeferred:
		st.Next = t.Next
	case securemail.StateHeld:
		st.Next = st.UsefulUntil
	}
	return true
}

// plan is the change that enter makes to row; nil: there is none. What can't be opened can't leave, and is counted.
func (r *reconciling) plan(ctx context.Context, row *row, enter func(*securemail.Status) bool, by string) (*change, error) {
	if securemail.State(row.state).Final() {
		return nil, nil
	}
	k, err := r.q.openKey(ctx, row.submission, row.wrapped)
	var st securemail.Status
	if err == nil {
		st, err = k.statusOf(row)
	}
	if isDamage(err) || isDestroyed(err) {
		r.unread[row.id] = true
		return nil, nil
	}
	if err != nil || !enter(&st) {
		return nil, err
	}
	now := r.q.o.Now()
	c := &change{r: row, to: st}
	switch st.State {
	case securemail.StateDeferred:
		c.due = max(micros(st.Next), 1)
	case securemail.StateHeld:
		c.due = micros(st.Next)
	case securemail.StateAccepted:
		c.due = max(micros(now), row.notBefore)
	}
	c.to.Reasons = append(slices.Clone(st.Reasons), securemail.Reason{Rule: "restore", Text: "settled after the database was restored"})
	if c.status, err = k.sealed("status", row.id, progressOf(&c.to)); err != nil {
		return nil, err
	}
	actor, _ := securemail.ActorOf(ctx)
	actor.Tenant = row.tenant
	c.events, err = k.eventRows([]securemail.Event{{
		ID: newID(now), Kind: string(c.to.State), Time: now, By: actor, Status: c.to, Detail: map[string]string{"reconciled": by},
	}})
	return c, err
}

func (r *reconciling) write(ctx context.Context, changes []*change) error {
	if len(changes) == 0 {
		return nil
	}
	var gone []string
	err := r.q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		gone, err = r.q.writeChanges(ctx, tx, changes)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		r.q.deleteBlob(ctx, id)
	}
	for _, c := range changes {
		if c.to.State == securemail.StateUncertain {
			r.out.Uncertain = append(r.out.Uncertain, c.to.ID)
		} else {
			r.out.Settled[c.to.State]++
		}
	}
	return nil
}

// rest goes through the open parcels that nobody told of. Where a log told of others, those with an intent only become
// uncertain; else all do.
func (r *reconciling) rest(ctx context.Context, told bool) error {
	by := "backup"
	if told {
		by = "log"
	}
	enter := func(st *securemail.Status) bool {
		if told && st.State != securemail.StateAttempting || st.State == securemail.StateUncertain && st.Next.IsZero() {
			return false
		}
		st.State, st.Next, st.Changed = securemail.StateUncertain, time.Time{}, r.q.o.Now()
		return true
	}
	for after := ""; ; {
		rows, err := r.q.rows(ctx, r.q.db, " WHERE p.ended=0 AND p.id>? ORDER BY p.id LIMIT ?", after, pageSize)
		if err != nil {
			return err
		}
		var changes []*change
		for _, row := range rows {
			c, err := r.plan(ctx, row, enter, by)
			if err != nil {
				return err
			}
			if c != nil {
				changes = append(changes, c)
			}
		}
		if err := r.write(ctx, changes); err != nil {
			return err
		}
		if len(rows) < pageSize {
			return nil
		}
		after = rows[len(rows)-1].id
	}
}

// rewind moves the audit log's cursor to before every event that was made since.
func (q *Queue) rewind(ctx context.Context, since time.Time) error {
	seq := q.seqColumn()
	return q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var before int64
		err := tx.QueryRowContext(ctx, q.d.Rebind("SELECT coalesce(min("+seq+"), 0)-1 FROM queue_event e WHERE e.made>=?"), micros(since)).Scan(&before)
		if err != nil || before < 0 {
			return err
		}
		_, err = q.exec(ctx, tx, "UPDATE queue_reader SET seq=? WHERE name='ledger' AND seq>?", before, before)
		return err
	})
}

// Adopt puts right, in the transaction of a restore that filled our tables with rows from the dialect from ("sqlite" or
// "postgres"), what the dialect to keeps otherwise: the numbers of events. From PostgreSQL to SQLite every reader of events
// starts at the oldest one kept again.
func Adopt(ctx context.Context, tx *sql.Tx, from, to string) error {
	var steps []string
	switch from + " " + to {
	case "sqlite postgres":
		steps = []string{
			"UPDATE queue_event SET seq=pos",
			"UPDATE queue_meta SET num=(SELECT coalesce(max(pos), 0) FROM queue_event) WHERE name='seq'",
		}
	case "postgres sqlite":
		steps = []string{"UPDATE queue_reader SET seq=0"}
	}
	for _, s := range steps {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("queue: adopt: %w", err)
		}
	}
	return nil
}
