package queue

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"errors"

	"github.com/postseal/postseal/internal/canon"
	"github.com/postseal/postseal/internal/seal"
)

const indexScope = "queue/index"

// dataKey seals everything of one submission, or the events that a part added in one call.
type dataKey struct {
	id      string
	key     []byte
	wrapped []byte
}

// newKey makes a key and has it wrapped for tenant.
func (q *Queue) newKey(ctx context.Context, tenant, id string) (*dataKey, error) {
	return q.newKeyUnder(ctx, "tenant/"+tenant, id)
}

func (q *Queue) newKeyUnder(ctx context.Context, scope, id string) (*dataKey, error) {
	k := &dataKey{id: id, key: seal.NewKey()}
	var err error
	if k.wrapped, err = q.ring.Wrap(ctx, k.key, scope); err != nil {
		return nil, failed("wrap data key", err)
	}
	return k, nil
}

// openKey unwraps a stored key. An error of the ring is "not now", as it may be a service that is down, unless the scope
// was destroyed.
func (q *Queue) openKey(ctx context.Context, id string, wrapped []byte) (*dataKey, error) {
	// A submission whose transaction was rolled back may come again under another key: compare.
	if k, ok := q.keys.get(id); ok && bytes.Equal(k.wrapped, wrapped) {
		return k, nil
	}
	k := &dataKey{id: id, wrapped: wrapped}
	var err error
	if k.key, err = q.ring.Unwrap(ctx, wrapped); isDestroyed(err) {
		return nil, &CorruptError{Part: "key", ID: id, Err: err}
	} else if err != nil {
		return nil, failed("unwrap data key", err)
	}
	if len(k.key) != seal.KeySize {
		return nil, &CorruptError{Part: "key", ID: id, Err: errors.New("queue: unwrapped key has a wrong length")}
	}
	q.keys.put(id, k)
	return k, nil
}

// openIndex reads the key of keyed hashes, making it where there is none. It is the proof that ring fits this database.
func (q *Queue) openIndex(ctx context.Context) error {
	const read = "SELECT val FROM queue_meta WHERE name='index'"
	var wrapped []byte
	err := q.db.QueryRowContext(ctx, read).Scan(&wrapped)
	if errors.Is(err, sql.ErrNoRows) {
		if wrapped, err = q.ring.Wrap(ctx, seal.NewKey(), indexScope); err != nil {
			return failed("wrap index key", err)
		}
		err = q.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := q.exec(ctx, tx, `INSERT INTO queue_meta (name, num, val) VALUES ('index', ?, ?)
				ON CONFLICT (name) DO NOTHING`, micros(q.o.Now()), wrapped)
			if err != nil {
				return err
			}
			return tx.QueryRowContext(ctx, read).Scan(&wrapped)
		})
	}
	if err != nil {
		return failed("read index key", err)
	}
	if q.index, err = q.ring.Unwrap(ctx, wrapped); err != nil {
		return failed("unwrap index key: is this the key ring of this database?", err)
	}
	return nil
}

// hash is how a value that could name a person is looked up without being stored.
func (q *Queue) hash(kind, tenant, value string) []byte {
	m := hmac.New(sha256.New, q.index)
	for _, s := range []string{kind, tenant, value} {
		m.Write([]byte(s))
		m.Write([]byte{0})
	}
	return m.Sum(nil)
}

// bind is the associated data that ties sealed bytes to their place.
func bind(part, id string) []byte { return []byte("postseal/queue/" + part + "/" + id) }

// sealed is the canonical form of v under k, for part of id.
func (k *dataKey) sealed(part, id string, v any) ([]byte, error) {
	b, err := canon.Marshal(v)
	if err != nil {
		return nil, failed("encode "+part, err)
	}
	return seal.Seal(k.key, b, bind(part, id))
}

// open reads what sealed wrote into v.
func (k *dataKey) open(part, id string, sealed []byte, v any) error {
	b, err := seal.Open(k.key, sealed, bind(part, id))
	if err == nil {
		err = canon.Unmarshal(b, v)
	}
	if err != nil {
		return &CorruptError{Part: part, ID: id, Err: err}
	}
	return nil
}
