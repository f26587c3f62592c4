package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/postseal/postseal/securemail"
)

// History gives the events of one parcel that are still kept, oldest first: what was accepted, decided, tried and ordered.
// Events that parts added (read, alert) are not among them; the audit log has all. An id that is unknown in the tenant is
// securemail.ErrTenant. It moves no reader's cursor.
func (q *Queue) History(ctx context.Context, tenant string, id securemail.ParcelID) ([]securemail.Event, error) {
	var submission string
	err := q.db.QueryRowContext(ctx, q.d.Rebind("SELECT submission FROM queue_parcel WHERE id=? AND tenant=?"),
		string(id), tenant).Scan(&submission)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("queue: history: %w", securemail.ErrTenant)
	}
	if err != nil {
		return nil, failed("history", err)
	}
	rs, err := q.db.QueryContext(ctx, q.d.Rebind(`SELECT e.pos, e.id, e.sealed, k.id, k.wrapped, e.made
		FROM queue_event e JOIN queue_key k ON k.id=e.data_key WHERE e.data_key=? ORDER BY e.pos`), submission)
	if err != nil {
		return nil, failed("history", err)
	}
	rows, err := scanEvents(rs)
	if err != nil {
		return nil, failed("history", err)
	}
	var out []securemail.Event
	for _, r := range rows {
		e, err := q.openEvent(ctx, r)
		if err != nil {
			return out, err
		}
		if e.Status.ID == id {
			out = append(out, e)
		}
	}
	return out, nil
}
