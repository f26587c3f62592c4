package queue

import (
	"context"
	"io"

	"github.com/postseal/postseal/securemail"
)

// Inspected is what [Queue.Inspect] found.
type Inspected struct {
	// Parcels counts those that were looked at, Open those of them that have not ended, Bodies the messages read whole.
	Parcels, Open, Bodies int
	// Destroyed counts those whose key was destroyed.
	Destroyed int
	// Damaged are those that can't be opened; Problems say why, without content.
	Damaged  []securemail.ParcelID
	Problems []error
}

// Inspect opens parcels and changes nothing: every status and, of those that have not ended, header and body to the last
// octet. limit bounds how many it looks at, spread over all; 0: every one. An error is one of the database or the key ring.
func (q *Queue) Inspect(ctx context.Context, limit int) (*Inspected, error) {
	out := &Inspected{}
	every, err := q.spread(ctx, limit)
	if err != nil {
		return nil, failed("inspect", err)
	}
	n := 0
	for after := ""; ; {
		rows, err := q.rows(ctx, q.db, " WHERE p.id>? ORDER BY p.id LIMIT ?", after, pageSize)
		if err != nil {
			return nil, failed("inspect", err)
		}
		var chosen []*row
		for _, r := range rows {
			if n++; (n-1)%every == 0 {
				chosen = append(chosen, r)
			}
		}
		if err := q.inspectRows(ctx, chosen, out); err != nil {
			return nil, failed("inspect", err)
		}
		if len(rows) < pageSize {
			return out, nil
		}
		after = rows[len(rows)-1].id
	}
}

// spread says that every how many-th parcel is to be looked at.
func (q *Queue) spread(ctx context.Context, limit int) (int, error) {
	if limit <= 0 {
		return 1, nil
	}
	var n int
	err := q.db.QueryRowContext(ctx, "SELECT count(*) FROM queue_parcel").Scan(&n)
	return max(1, (n+limit-1)/limit), err
}

func (q *Queue) inspectRows(ctx context.Context, rows []*row, out *Inspected) error {
	bodies := map[string]*stored{}
	var open []*row
	for _, r := range rows {
		if !securemail.State(r.state).Final() {
			open = append(open, r)
		}
	}
	if len(open) > 0 {
		var err error
		if bodies, err = q.loadBodies(ctx, open); err != nil {
			return err
		}
	}
	read := map[string]bool{}
	for _, r := range rows {
		out.Parcels++
		err := q.inspect(ctx, r, bodies, read, out)
		switch {
		case err == nil:
		case isDestroyed(err):
			out.Destroyed++
		case isDamage(err):
			out.Damaged, out.Problems = append(out.Damaged, securemail.ParcelID(r.id)), append(out.Problems, err)
		default:
			return err
		}
	}
	return nil
}

func (q *Queue) inspect(ctx context.Context, r *row, bodies map[string]*stored, read map[string]bool, out *Inspected) error {
	if securemail.State(r.state).Final() {
		k, err := q.openKey(ctx, r.submission, r.wrapped)
		if err == nil {
			_, err = k.statusOf(r)
		}
		return err
	}
	out.Open++
	l, err := q.openLease(ctx, r, bodies)
	if err != nil || read[r.body] {
		return err
	}
	read[r.body] = true
	m, err := l.Parcel.Message.Open()
	if err != nil {
		return err
	}
	defer m.Close()
	out.Bodies++
	_, err = io.Copy(io.Discard, m)
	return err
}
