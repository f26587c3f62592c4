package queue

import (
	"context"
	"database/sql"
	"errors"
)

// notePrefix keeps notes apart from the queue's own values in queue_meta.
const notePrefix = "note/"

// Note returns the note of that name, "" where there is none. The Mailer keeps here which policy was last recorded.
func (q *Queue) Note(ctx context.Context, name string) (string, error) {
	var value []byte
	err := q.db.QueryRowContext(ctx, q.d.Rebind("SELECT val FROM queue_meta WHERE name=?"), notePrefix+name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return string(value), failed("read note", err)
}

// SetNote keeps value under name, durably; it is not sealed, so it must hold no personal data.
func (q *Queue) SetNote(ctx context.Context, name, value string) error {
	err := q.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := q.exec(ctx, tx, "INSERT INTO queue_meta (name, num, val) VALUES (?,0,?) ON CONFLICT (name) DO UPDATE SET val=excluded.val",
			notePrefix+name, []byte(value))
		return err
	})
	return failed("set note", err)
}
