package queue

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

const maxNext = 1000

// packedEvents are events of parts, sealed: a key for each tenant; reads note the first readings that they tell of.
type packedEvents struct {
	keys, events [][]any
	reads        []statement
}

// eventRows seals es under k. Seq is given later and not sealed.
func (k *dataKey) eventRows(es []securemail.Event) ([][]any, error) {
	var out [][]any
	for _, e := range es {
		if e.Seq = 0; e.ID == "" {
			return nil, errors.New("queue: an event needs an id")
		}
		b, err := k.sealed("event", e.ID, &e)
		if err != nil {
			return nil, err
		}
		out = append(out, []any{e.ID, k.id, micros(e.Time), b})
	}
	return out, nil
}

// eventKey is the key that a tenant's events are sealed under; bare: his scope was destroyed, so that it is the queue's own.
type eventKey struct {
	*dataKey
	bare bool
}

// packEvents seals es, under a fresh key for each tenant. Where a tenant's scope was destroyed, the queue's own keeps what
// happened, without what it was about: an event that could never be added would stop whoever must add it.
func (q *Queue) packEvents(ctx context.Context, es []securemail.Event) (*packedEvents, error) {
	p := new(packedEvents)
	byTenant := make(map[string]eventKey)
	for _, e := range es {
		k, ok := byTenant[e.By.Tenant]
		if !ok {
			var err error
			if k, err = q.newEventKey(ctx, e.By.Tenant); err != nil {
				return nil, err
			}
			byTenant[e.By.Tenant] = k
			owner := e.By.Tenant
			if k.bare {
				owner = ""
			}
			p.keys = append(p.keys, []any{k.id, owner, k.wrapped, micros(q.o.Now())})
		}
		sealed := e
		if k.bare {
			sealed.Status, sealed.Facts, sealed.Decision = bareStatus(e.Status.ID, e.Submission, e.State), nil, nil
			sealed.Actor.Tenant, sealed.Attempt, sealed.Failure, sealed.Reasons = e.Actor.Tenant, e.Attempt, e.Failure, e.Reasons
		}
		rows, err := k.eventRows([]securemail.Event{sealed})
		if err != nil {
			return nil, err
		}
		p.events = append(p.events, rows...)
		if e.Kind == "read" && !e.Read.IsZero() {
			p.reads = append(p.reads, statement{
				"UPDATE queue_parcel SET opened=? WHERE id=? AND tenant=? AND opened=0",
				[]any{micros(e.Read), string(e.Status.ID), e.By.Tenant},
			})
		}
	}
	return p, nil
}

func (q *Queue) newEventKey(ctx context.Context, tenant string) (eventKey, error) {
	k, err := q.newKey(ctx, tenant, "e"+newRandom())
	if !isDestroyed(err) {
		return eventKey{k, false}, err
	}
	k, err = q.newKeyUnder(ctx, indexScope, "e"+newRandom())
	return eventKey{k, true}, err
}

func (q *Queue) writeEvents(ctx context.Context, tx querier, p *packedEvents) error {
	return q.runAll(ctx, tx, slices.Concat(q.insertEventKeys(p.keys), q.insertEvents(p.events), p.reads))
}

// insertEventKeys writes keys that only events are sealed under.
func (q *Queue) insertEventKeys(rows [][]any) []statement {
	return q.inserts("queue_key (id, tenant, wrapped, made)", rows, "")
}

// insertEvents takes each event id once: a repeat after an unknown outcome changes nothing.
func (q *Queue) insertEvents(rows [][]any) []statement {
	return q.inserts("queue_event (id, data_key, made, sealed)", rows, " ON CONFLICT (id) DO NOTHING")
}

// Add implements [securemail.Outbox]. Each event needs an ID; one that is already there is left as it is, so Add may be
// repeated. By.Tenant is the scope it is sealed under; where that was destroyed, the queue's own scope keeps what
// names nobody: no Slip, Receipt, Facts or Decision. An event of Kind "read" also sets Status.Read of its parcel, once.
// With tx it touches only tx and the key ring, and on an error tx can still be used; without, it is durable when it returns.
func (q *Queue) Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if len(es) == 0 {
		return nil
	}
	p, err := q.packEvents(ctx, es)
	if err != nil {
		return err
	}
	if tx != nil {
		err = inSavepoint(ctx, tx, func() error { return q.writeEvents(ctx, tx, p) })
	} else {
		err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error { return q.writeEvents(ctx, q.d.Prepared(tx), p) })
	}
	return failed("add events", err)
}

// seqColumn is the event's number: see schema.
func (q *Queue) seqColumn() string {
	if q.d.Dialect == sqldb.Postgres {
		return "e.seq"
	}
	return "e.pos"
}

// Next implements [securemail.Outbox]: up to max events, at most 1,000, behind reader's cursor, in order of Seq. Seq rises
// without gaps that could fill later: what was read once is never preceded by something new. Two calls without an Ack
// between give the same events. A new reader starts at the oldest event kept, and from its first Next on no event is
// purged that it has not acknowledged. An event that can't be opened stops the reader with a [CorruptError], behind the
// events before it; one whose scope was destroyed comes as one of Kind "destroyed" with its id and time alone.
func (q *Queue) Next(ctx context.Context, reader string, max int) ([]securemail.Event, error) {
	cursor, err := q.cursor(ctx, reader)
	if err != nil {
		return nil, failed("read cursor", err)
	}
	if err := q.number(ctx); err != nil {
		return nil, failed("number events", err)
	}
	seq := q.seqColumn()
	rs, err := q.db.QueryContext(ctx, q.d.Rebind("SELECT "+seq+`, e.id, e.sealed, k.id, k.wrapped, e.made
		FROM queue_event e JOIN queue_key k ON k.id=e.data_key WHERE `+seq+">? ORDER BY "+seq+" LIMIT ?"), cursor, min(max, maxNext))
	if err != nil {
		return nil, failed("read events", err)
	}
	rows, err := scanEvents(rs)
	if err != nil {
		return nil, failed("read events", err)
	}
	var out []securemail.Event
	for _, r := range rows {
		e, err := q.openEvent(ctx, r)
		if isDestroyed(err) {
			e, err = unreadable(r), nil
		}
		if err != nil && len(out) > 0 {
			break // the next call says so
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// unreadable stands in the place of an event whose scope was destroyed before a reader had read it.
func unreadable(r *eventRow) securemail.Event {
	return securemail.Event{
		Seq: r.seq, ID: r.id, Kind: "destroyed", Time: time.UnixMicro(r.made).UTC(),
		By: securemail.Actor{ID: "queue", Kind: "part"}, Detail: map[string]string{"rule": "destroyed"},
	}
}

type eventRow struct {
	made            int64
	seq             int64
	id, key         string
	sealed, wrapped []byte
}

func scanEvents(rs *sql.Rows) ([]*eventRow, error) {
	defer rs.Close()
	var out []*eventRow
	for rs.Next() {
		r := new(eventRow)
		if err := rs.Scan(&r.seq, &r.id, &r.sealed, &r.key, &r.wrapped, &r.made); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rs.Err()
}

// openedEvent is an event that some reader has opened, and the sealed octets that it was opened from.
type openedEvent struct {
	sealed []byte
	event  securemail.Event
}

// openEvent opens each event once for all readers of this process, who come one soon after the other.
func (q *Queue) openEvent(ctx context.Context, r *eventRow) (securemail.Event, error) {
	if o, ok := q.opened.get(r.id); ok && bytes.Equal(o.sealed, r.sealed) {
		o.event.Seq = r.seq
		return o.event, nil
	}
	var e securemail.Event
	k, err := q.openKey(ctx, r.key, r.wrapped)
	if err != nil {
		return e, err
	}
	if err := k.open("event", r.id, r.sealed, &e); err != nil {
		return securemail.Event{}, err
	}
	e.Seq = r.seq
	q.opened.put(r.id, openedEvent{r.sealed, e})
	return e, nil
}

// cursor is where reader stands; a new one is entered at the beginning, so that the purge waits for it.
func (q *Queue) cursor(ctx context.Context, reader string) (int64, error) {
	const read = "SELECT seq FROM queue_reader WHERE name=?"
	var seq int64
	err := q.db.QueryRowContext(ctx, q.d.Rebind(read), reader).Scan(&seq)
	if !errors.Is(err, sql.ErrNoRows) {
		return seq, err
	}
	return 0, q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := q.exec(ctx, tx, "INSERT INTO queue_reader (name, seq) VALUES (?, 0) ON CONFLICT (name) DO NOTHING", reader)
		return err
	})
}

// number gives the committed events of a PostgreSQL their Seq, in order of writing. Writers can't: transactions commit in
// another order than they write, and a reader must never see an event whose number is below one that it has read. A
// writer of one parcel writes after the one before it has committed, so each parcel's events stay in order. One caller
// at a time does it, under the lock of a row.
func (q *Queue) number(ctx context.Context) error {
	if q.d.Dialect != sqldb.Postgres {
		return nil
	}
	var one int
	err := q.db.QueryRowContext(ctx, "SELECT 1 FROM queue_event WHERE seq IS NULL LIMIT 1").Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return q.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var last int64
		if err := tx.QueryRowContext(ctx, "SELECT num FROM queue_meta WHERE name='seq' FOR UPDATE").Scan(&last); err != nil {
			return err
		}
		n, err := q.exec(ctx, tx, `UPDATE queue_event e SET seq=?+n.r
			FROM (SELECT pos, row_number() OVER (ORDER BY pos) AS r FROM queue_event WHERE seq IS NULL) n WHERE e.pos=n.pos`, last)
		if err != nil {
			return err
		}
		_, err = q.exec(ctx, tx, "UPDATE queue_meta SET num=num+? WHERE name='seq'", n)
		return err
	})
}

// Ack implements [securemail.Outbox]. A cursor never moves back. An id that is not kept is an error.
func (q *Queue) Ack(ctx context.Context, reader, id string) error {
	err := q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var seq int64
		err := tx.QueryRowContext(ctx, q.d.Rebind("SELECT "+q.seqColumn()+" FROM queue_event e WHERE e.id=?"), id).Scan(&seq)
		if err != nil {
			return err
		}
		_, err = q.exec(ctx, tx, `INSERT INTO queue_reader (name, seq) VALUES (?,?) ON CONFLICT (name)
			DO UPDATE SET seq=excluded.seq WHERE queue_reader.seq<excluded.seq`, reader, seq)
		return err
	})
	return failed("acknowledge", err)
}

// Forget drops a reader's cursor, for a Sink that is gone for good: until then its unread events are kept.
func (q *Queue) Forget(ctx context.Context, reader string) error {
	err := q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := q.exec(ctx, tx, "DELETE FROM queue_reader WHERE name=?", reader)
		return err
	})
	return failed("forget reader", err)
}

// purgeEvents drops what every reader has acknowledged and is old enough, but for the newest: SQLite would give its number
// again, and Head names it. Without a reader nothing goes.
func (q *Queue) purgeEvents(ctx context.Context, now time.Time) error {
	if err := q.number(ctx); err != nil { // else the newest that has a number stays too
		return err
	}
	seq := q.seqColumn()
	for {
		ids, err := q.strings(ctx, q.db, "SELECT e.id FROM queue_event e WHERE "+seq+
			"<=(SELECT min(seq) FROM queue_reader) AND e.made<? AND "+seq+"<(SELECT max("+seq[2:]+") FROM queue_event) ORDER BY "+seq+" LIMIT ?", micros(now.Add(-q.o.KeepEvents)), inOneList)
		if err != nil || len(ids) == 0 {
			return err
		}
		slices.Sort(ids)
		err = q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := q.exec(ctx, tx, "DELETE FROM queue_event WHERE id IN ("+marks(len(ids))+")", anys(nil, ids)...)
			return err
		})
		if err != nil {
			return err
		}
	}
}
