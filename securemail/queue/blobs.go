package queue

import (
	"context"
	"database/sql"
	"errors"
	"io"

	"github.com/postseal/postseal/internal/seal"
)

// EachBlob calls do for each body in the blob store that the rows in tx, a snapshot of this database, name: for a backup.
// key is the store's. check reads a sealed body to its end and proves it: a [CorruptError] where it is damaged, the key
// ring's error where its key can't be had. tx must see one moment; do may use the database.
func (q *Queue) EachBlob(ctx context.Context, tx *sql.Tx, do func(key string, check func(sealed io.Reader) error) error) error {
	for after := ""; ; {
		page, err := q.blobPage(ctx, tx, after)
		if err != nil {
			return failed("list blobs", err)
		}
		for _, b := range page {
			if err := do(blobKey(b.id), func(sealed io.Reader) error { return q.checkBlob(ctx, b, sealed) }); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1].id
	}
}

// blobRow is a body that lies in the blob store.
type blobRow struct {
	id, submission string
	size           int64
	wrapped        []byte
}

func (q *Queue) blobPage(ctx context.Context, tx *sql.Tx, after string) ([]*blobRow, error) {
	rs, err := tx.QueryContext(ctx, q.d.Rebind(`SELECT b.id, b.submission, b.size, k.wrapped FROM queue_body b
		JOIN queue_key k ON k.id=b.submission WHERE b.sealed IS NULL AND b.id>? ORDER BY b.id LIMIT ?`), after, pageSize)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var out []*blobRow
	for rs.Next() {
		b := new(blobRow)
		if err := rs.Scan(&b.id, &b.submission, &b.size, &b.wrapped); err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rs.Err()
}

var errBlobSize = errors.New("queue: body has another size")

func (q *Queue) checkBlob(ctx context.Context, b *blobRow, sealed io.Reader) error {
	k, err := q.openKey(ctx, b.submission, b.wrapped)
	if err != nil {
		return err
	}
	r, err := seal.NewReader(sealed, k.key, bind("body", b.id))
	if err == nil {
		var n int64
		if n, err = io.Copy(io.Discard, r); err == nil && n != b.size {
			err = errors.Join(errBlobSize, seal.ErrCorrupt)
		}
	}
	if isDamage(err) {
		return &CorruptError{Part: "body", ID: b.id, Err: err}
	}
	return failed("read body", err)
}
