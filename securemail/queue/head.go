package queue

import (
	"context"
	"database/sql"
	"errors"
)

// Head is the newest event's number and id; 0 and "" where no event was ever numbered. The newest one is never purged.
func (q *Queue) Head(ctx context.Context) (seq int64, id string, err error) {
	if err := q.number(ctx); err != nil {
		return 0, "", failed("number events", err)
	}
	return q.head(ctx)
}

func (q *Queue) head(ctx context.Context) (seq int64, id string, err error) {
	col := q.seqColumn()
	err = q.db.QueryRowContext(ctx, "SELECT "+col+", e.id FROM queue_event e WHERE "+col+" IS NOT NULL ORDER BY "+col+" DESC LIMIT 1").
		Scan(&seq, &id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, "", nil
	}
	return seq, id, failed("read newest event", err)
}

// Holds says whether event id has number seq here. A record of an event's number that was kept outside the database tells
// by it that an older copy of the database was put back: an event that was read by [Queue.Next] is then another one's, or
// lies above [Queue.Head]. known is false where the event at seq was purged, so nobody can tell. Number 0, of no event, is
// always held.
func (q *Queue) Holds(ctx context.Context, seq int64, id string) (known, holds bool, err error) {
	if seq <= 0 {
		return true, seq == 0 && id == "", nil
	}
	var have string
	err = q.db.QueryRowContext(ctx, q.d.Rebind("SELECT e.id FROM queue_event e WHERE "+q.seqColumn()+"=?"), seq).Scan(&have)
	if err == nil {
		return true, have == id, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return false, false, failed("read event", err)
	}
	newest, _, err := q.head(ctx)
	return err == nil && seq > newest, false, err
}
