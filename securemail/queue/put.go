package queue

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// packed is a Batch ready to be written: everything sealed, the blobs stored.
type packed struct {
	b       *securemail.Batch
	key     *dataKey
	idem    []byte // nil: no idempotency key
	answer  []byte
	bodies  []*body
	parcels [][]any
	labels  [][]any
	events  [][]any
}

// errKnown says that somebody else used the idempotency key first.
var errKnown = errors.New("queue: idempotency key is known")

// Put implements [securemail.Queue]: when it returns nil, every parcel survives power loss. Concurrent Puts share commits.
// A known Key with the same Digest gives the first Submission with Repeated set and its statuses as they are now; with
// another Digest it is ErrConflict. Keys are known for [Options].Keep. On an error nothing was accepted, but for
// [ErrUnknown]. A ctx that ends while Put waits for its turn is an error; one that ends later does not stop the commit.
func (q *Queue) Put(ctx context.Context, b *securemail.Batch) (*securemail.Submission, error) {
	for range 3 {
		sub, err := q.put(ctx, b)
		if !errors.Is(err, errKnown) { // known a moment ago, and purged meanwhile: again
			return sub, err
		}
	}
	return nil, failed("put", errKnown)
}

func (q *Queue) put(ctx context.Context, b *securemail.Batch) (*securemail.Submission, error) {
	if q.worthLooking(b) {
		if sub, err := q.repeated(ctx, q.db, b); sub != nil || err != nil {
			return sub, err
		}
	}
	w, err := q.pack(ctx, b)
	if err != nil {
		return nil, err
	}
	if err = q.puts.Commit(ctx, w); err != nil {
		return q.putFailed(ctx, w, err)
	}
	q.keys.put(w.key.id, w.key)
	q.signal()
	return accepted(b), nil
}

// worthLooking says that to look for the idempotency key first is cheaper than to find out when it is written: a large
// body would be stored for nothing.
func (q *Queue) worthLooking(b *securemail.Batch) bool {
	return q.o.Blobs != nil && slices.ContainsFunc(b.Parcels, func(p *securemail.Parcel) bool { return p.Size > inlineMax })
}

func (q *Queue) putFailed(ctx context.Context, w *packed, err error) (*securemail.Submission, error) {
	err = failed("put", err)
	if errors.Is(err, ErrUnknown) {
		if q.holds(ctx, w.b.Submission) {
			q.signal()
			return accepted(w.b), nil
		}
		return nil, err
	}
	q.discard(ctx, w)
	return q.orRepeated(ctx, q.db, w.b, err)
}

// orRepeated is the first answer where b's key turns out to be known, and else err. The whole batch may have come again,
// so that any of its ids was the first to collide.
func (q *Queue) orRepeated(ctx context.Context, db querier, b *securemail.Batch, err error) (*securemail.Submission, error) {
	sub, rerr := q.repeated(ctx, db, b)
	if sub != nil || rerr != nil && (errors.Is(err, errKnown) || errors.Is(rerr, securemail.ErrConflict) || isDamage(rerr)) {
		return sub, rerr
	}
	return nil, err
}

// holds looks whether a commit that nobody answered was made.
func (q *Queue) holds(ctx context.Context, submission string) bool {
	var one int
	err := q.db.QueryRowContext(ctx, q.d.Rebind("SELECT 1 FROM queue_key WHERE id=?"), submission).Scan(&one)
	return err == nil
}

// PutTx implements [securemail.TxQueue]: Put inside the host's transaction. It touches only tx, the key ring and the blob
// store. On an error what it wrote is undone and tx can still be used, unless the database itself ended it. Where another
// open transaction used the same Key, it waits for that one's end.
func (q *Queue) PutTx(ctx context.Context, tx *sql.Tx, b *securemail.Batch) (*securemail.Submission, error) {
	if sub, err := q.repeated(ctx, tx, b); sub != nil || err != nil {
		return sub, err
	}
	w, err := q.pack(ctx, b)
	if err != nil {
		return nil, err
	}
	err = inSavepoint(ctx, tx, func() error { return q.insert(ctx, tx, w) })
	if err == nil {
		return accepted(b), nil
	}
	q.discard(ctx, w)
	return q.orRepeated(ctx, tx, b, failed("put", err))
}

// inSavepoint undoes what f wrote, and heals the transaction, where f fails.
func inSavepoint(ctx context.Context, tx *sql.Tx, f func() error) error {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT postseal_queue"); err != nil {
		return err
	}
	err := f()
	if err != nil {
		// A ctx that ended must not leave half a batch in a transaction that its owner may still commit.
		ctx = context.WithoutCancel(ctx)
		if _, rerr := tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT postseal_queue"); rerr != nil {
			return err
		}
	}
	_, rerr := tx.ExecContext(ctx, "RELEASE SAVEPOINT postseal_queue")
	if err != nil {
		return err
	}
	return rerr
}

// accepted is the answer to a first Put.
func accepted(b *securemail.Batch) *securemail.Submission {
	sub := &securemail.Submission{ID: b.Submission}
	for _, p := range b.Parcels {
		sub.Parcels = append(sub.Parcels, securemail.Status{
			Slip: p.Slip, State: securemail.StateAccepted, Changed: p.Submitted,
		})
	}
	sub.Parcels = append(sub.Parcels, b.Refused...)
	return sub
}

// repeated is the first answer to b's Key, or nil where the Key is new.
func (q *Queue) repeated(ctx context.Context, db querier, b *securemail.Batch) (*securemail.Submission, error) {
	if b.Key == "" {
		return nil, nil
	}
	var id string
	var wrapped, answer []byte
	err := db.QueryRowContext(ctx, q.d.Rebind("SELECT id, wrapped, answer FROM queue_key WHERE idem=?"),
		q.hash("key", b.Tenant, b.Key)).Scan(&id, &wrapped, &answer)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("look up idempotency key", err)
	}
	k, err := q.openKey(ctx, id, wrapped)
	if err != nil {
		return nil, err
	}
	var digest []byte
	if err := k.open("answer", id, answer, &digest); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(digest, b.Digest[:]) != 1 {
		return nil, fmt.Errorf("queue: put: %w", securemail.ErrConflict)
	}
	sub := &securemail.Submission{ID: id, Repeated: true}
	rows, err := q.rows(ctx, db, " WHERE p.submission=? ORDER BY p.id", id)
	if err != nil {
		return nil, failed("read submission", err)
	}
	for _, r := range rows {
		st, err := k.statusOf(r)
		if err != nil {
			return nil, err
		}
		sub.Parcels = append(sub.Parcels, st)
	}
	return sub, nil
}

// rows reads parcels with the keys they are sealed under. Nothing is left open when it returns.
func (q *Queue) rows(ctx context.Context, db querier, where string, args ...any) ([]*row, error) {
	rs, err := db.QueryContext(ctx, q.d.Rebind("SELECT "+rowColumns+where), args...)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var out []*row
	for rs.Next() {
		r := new(row)
		if err := rs.Scan(r.into()...); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rs.Err()
}

// pack seals b and stores its large bodies. The blobs come first: a row never names a blob that is not there.
func (q *Queue) pack(ctx context.Context, b *securemail.Batch) (_ *packed, err error) {
	w := &packed{b: b}
	if err := checkBatch(b); err != nil {
		return nil, err
	}
	if w.key, err = q.newKey(ctx, b.Tenant, b.Submission); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			q.discard(ctx, w)
		}
	}()
	if b.Key != "" {
		w.idem = q.hash("key", b.Tenant, b.Key)
		if w.answer, err = w.key.sealed("answer", b.Submission, b.Digest[:]); err != nil {
			return nil, err
		}
	}
	bodies := make(map[securemail.Source]string)
	for _, p := range b.Parcels {
		src := p.Message.Body()
		id, ok := bodies[src]
		if !ok {
			bd, err := q.storeBody(ctx, w.key, src)
			if bd != nil {
				w.bodies = append(w.bodies, bd)
			}
			if err != nil {
				return nil, err
			}
			id = bd.id
			bodies[src] = id
		}
		if err := q.packParcel(w, p, id); err != nil {
			return nil, err
		}
	}
	for i := range b.Refused {
		if err := q.packRefused(w, &b.Refused[i]); err != nil {
			return nil, err
		}
	}
	w.events, err = w.key.eventRows(b.Events)
	return w, err
}

func checkBatch(b *securemail.Batch) error {
	if b.Submission == "" || len(b.Parcels)+len(b.Refused) == 0 {
		return errors.New("queue: put: a batch needs a submission id and a recipient")
	}
	for _, p := range b.Parcels {
		if p.ID == "" || p.Message == nil || p.Submission != b.Submission || p.Actor.Tenant != b.Tenant {
			return errors.New("queue: put: a parcel needs an id, a message, and its batch's submission and tenant")
		}
	}
	for i := range b.Refused {
		s := &b.Refused[i]
		if s.ID == "" || !s.State.Final() || s.Submission != b.Submission || s.Actor.Tenant != b.Tenant {
			return errors.New("queue: put: a refusal needs an id, a final state, and its batch's submission and tenant")
		}
	}
	return nil
}

const parcelColumns = `id, submission, tenant, state, priority, not_before, due, ended, ref, body, slip, letter, status,
	attempt, rev, lease_owner, lease_epoch, lease_until, lane`

func (q *Queue) packParcel(w *packed, p *securemail.Parcel, body string) error {
	id := string(p.ID)
	slip, err := w.key.sealed("slip", id, &p.Slip)
	if err != nil {
		return err
	}
	let, err := w.key.sealed("letter", id, letter{p.Message.Head(), p.Factors})
	if err != nil {
		return err
	}
	notBefore := micros(p.NotBefore)
	due := max(micros(p.Submitted), notBefore, 1)
	w.parcels = append(w.parcels, []any{
		id, p.Submission, w.b.Tenant, string(securemail.StateAccepted), int64(p.Priority), notBefore, due, int64(0),
		q.ref(&p.Slip), body, slip, let, nil, 0, 0, "", 0, 0, q.lane(&p.Slip),
	})
	w.label(&p.Slip)
	return nil
}

func (q *Queue) packRefused(w *packed, s *securemail.Status) error {
	id := string(s.ID)
	slip, err := w.key.sealed("slip", id, &s.Slip)
	if err != nil {
		return err
	}
	status, err := w.key.sealed("status", id, progressOf(s))
	if err != nil {
		return err
	}
	w.parcels = append(w.parcels, []any{
		id, s.Submission, w.b.Tenant, string(s.State), int64(s.Priority), int64(0), int64(0), micros(q.o.Now()),
		q.ref(&s.Slip), "", slip, nil, status, 0, 0, "", 0, 0, 0,
	})
	w.label(&s.Slip)
	return nil
}

// ref is the keyed hash of the recipient's Ref; nil where he has none.
func (q *Queue) ref(s *securemail.Slip) any {
	if s.Recipient.Ref == "" {
		return nil
	}
	return q.hash("ref", s.Actor.Tenant, s.Recipient.Ref)
}

func (w *packed) label(s *securemail.Slip) {
	for name, value := range s.Labels {
		w.labels = append(w.labels, []any{string(s.ID), name, value})
	}
}

// insertAll writes the batches of all who Put at the same moment. It is run again where the database says "try again".
func (q *Queue) insertAll(ctx context.Context, tx *sql.Tx, ws []*packed) error {
	if len(ws) == 1 {
		return q.insert(ctx, q.d.Prepared(tx), ws[0])
	}
	var keys, bodies, parcels, labels, events [][]any
	for _, w := range ws {
		keys, bodies = append(keys, q.keyRow(w)), append(bodies, w.bodyRows()...)
		parcels, labels, events = append(parcels, w.parcels...), append(labels, w.labels...), append(events, w.events...)
	}
	db := q.d.Prepared(tx)
	for _, s := range q.inserts(keyInto, keys, keyOnce) {
		n, err := q.exec(ctx, db, s.query, s.args...)
		if err != nil {
			return err
		}
		if int(n)*len(keys[0]) != len(s.args) {
			return errKnown
		}
	}
	if err := q.runAll(ctx, db, q.insertRest(bodies, parcels, labels, events)); err != nil {
		return err
	}
	return q.notify(ctx, tx)
}

const (
	keyInto = "queue_key (id, tenant, wrapped, idem, answer, made)"
	keyOnce = " ON CONFLICT (idem) WHERE idem IS NOT NULL DO NOTHING"
)

func (q *Queue) keyRow(w *packed) []any {
	return []any{w.b.Submission, w.b.Tenant, w.key.wrapped, w.idem, w.answer, micros(q.o.Now())}
}

func (w *packed) bodyRows() [][]any {
	rows := make([][]any, len(w.bodies))
	for i, b := range w.bodies {
		rows[i] = []any{b.id, w.b.Submission, b.size, b.sealed}
	}
	return rows
}

func (q *Queue) insertRest(bodies, parcels, labels, events [][]any) []statement {
	return slices.Concat(
		q.inserts("queue_body (id, submission, size, sealed)", bodies, ""),
		q.inserts("queue_parcel ("+parcelColumns+")", parcels, ""),
		q.inserts("queue_label (parcel, name, value)", labels, ""),
		q.insertEvents(events),
	)
}

// insert writes w.
func (q *Queue) insert(ctx context.Context, tx querier, w *packed) error {
	returning := "1"
	if q.d.Dialect == sqldb.Postgres && q.mayNotify() {
		returning = "pg_notify('" + channel + "','')" // tells the listeners of other processes when and if tx commits
	}
	row := q.keyRow(w)
	key := statement{"INSERT INTO " + keyInto + " VALUES (" + marks(len(row)) + ")" + keyOnce + " RETURNING " + returning, row}
	err := q.together(ctx, tx, key, new(any), q.insertRest(w.bodyRows(), w.parcels, w.labels, w.events))
	if errors.Is(err, sql.ErrNoRows) {
		return errKnown
	}
	return err
}

// discard removes the blobs of a batch that was not written.
func (q *Queue) discard(ctx context.Context, w *packed) {
	for _, b := range w.bodies {
		if b.sealed == nil {
			q.deleteBlob(ctx, b.id)
		}
	}
}
