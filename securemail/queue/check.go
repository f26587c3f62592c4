package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/postseal/postseal/internal/sqldb"
)

const maxFaults = 100

// Check reads everything that open parcels need to leave, and on SQLite has the database check its own pages. It returns
// errors.Join of up to 100 faults: [ErrDamaged] for the database, a [CorruptError] for each parcel whose slip, status, letter
// or body can't be opened, and other errors where it could not look. It changes nothing, and takes as long as reading the
// whole queue does.
func (q *Queue) Check(ctx context.Context) error {
	var faults []error
	if q.d.Dialect == sqldb.SQLite {
		said, err := q.strings(ctx, q.db, "PRAGMA quick_check(1)")
		if err != nil {
			faults = append(faults, failed("check", err))
		} else if len(said) != 1 || said[0] != "ok" {
			faults = append(faults, fmt.Errorf("queue: check: %w", ErrDamaged))
		}
	}
	for last := ""; len(faults) < maxFaults; {
		rows, err := q.rows(ctx, q.db, " WHERE p.id>? AND p.ended=0 ORDER BY p.id LIMIT ?", last, pageSize)
		if err != nil {
			return errors.Join(append(faults, failed("check", err))...)
		}
		if len(rows) == 0 {
			break
		}
		last = rows[len(rows)-1].id
		bodies, err := q.loadBodies(ctx, rows)
		if err != nil {
			return errors.Join(append(faults, failed("check", err))...)
		}
		for _, r := range rows {
			if _, err := q.openLease(ctx, r, bodies); err != nil && len(faults) < maxFaults {
				faults = append(faults, err)
			}
		}
	}
	return errors.Join(faults...)
}
