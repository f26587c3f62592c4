package queue

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/postseal/postseal/securemail"
)

const pageSize = 200

// Find implements [securemail.Desk], in order of ParcelID. Tenant is always matched exactly: empty is the tenant "". It
// reads a page of 200 at a time and holds no connection while it yields, so memory is flat and the caller may use the
// database. A parcel that can't be opened is yielded with its ID and a [CorruptError], and the search goes on; after any
// other error it ends.
func (q *Queue) Find(ctx context.Context, query securemail.Query) iter.Seq2[securemail.Status, error] {
	return func(yield func(securemail.Status, error) bool) {
		left, lists := query.Limit, [][]securemail.ParcelID{nil}
		if len(query.IDs) > 0 {
			ids := slices.Compact(slices.Sorted(slices.Values(query.IDs)))
			lists = slices.Collect(slices.Chunk(ids, inOneList))
		}
		for _, ids := range lists {
			for after, more := query.After, true; more; {
				n := pageSize
				if query.Limit > 0 {
					n = min(n, left)
				}
				if n == 0 {
					return
				}
				rows, err := q.page(ctx, &query, ids, after, n)
				if err != nil {
					yield(securemail.Status{}, failed("find", err))
					return
				}
				if !q.yieldRows(ctx, rows, yield) {
					return
				}
				left -= len(rows)
				if more = len(rows) == n; more {
					after = securemail.ParcelID(rows[n-1].id)
				}
			}
		}
	}
}

// yieldRows opens rows; false: stop.
func (q *Queue) yieldRows(ctx context.Context, rows []*row, yield func(securemail.Status, error) bool) bool {
	for _, r := range rows {
		k, err := q.openKey(ctx, r.submission, r.wrapped)
		var st securemail.Status
		if err == nil {
			st, err = k.statusOf(r)
		}
		if err != nil {
			st = securemail.Status{State: securemail.State(r.state), Attempt: int(r.attempt)}
			st.ID, st.Submission, st.Actor.Tenant = securemail.ParcelID(r.id), r.submission, r.tenant
		}
		if !yield(st, err) || err != nil && !isDamage(err) {
			return false
		}
	}
	return true
}

func (q *Queue) page(ctx context.Context, query *securemail.Query, ids []securemail.ParcelID, after securemail.ParcelID, n int) ([]*row, error) {
	var where strings.Builder
	args := []any{query.Tenant, string(after)}
	where.WriteString(" WHERE p.tenant=? AND p.id>?")
	and := func(cond string, vs ...any) {
		where.WriteString(" AND " + cond)
		args = append(args, vs...)
	}
	if query.Submission != "" {
		and("p.submission=?", query.Submission)
	}
	if query.Ref != "" {
		and("p.ref=?", q.hash("ref", query.Tenant, query.Ref))
	}
	for name, value := range query.Labels {
		and("p.id IN (SELECT parcel FROM queue_label WHERE name=? AND value=?)", name, value)
	}
	if len(ids) > 0 {
		and("p.id IN ("+marks(len(ids))+")", anys(nil, ids)...)
	}
	if len(query.States) > 0 {
		and("p.state IN ("+marks(len(query.States))+")", anys(nil, query.States)...)
		if !slices.ContainsFunc(query.States, securemail.State.Final) {
			and("p.ended=0")
		}
		if !slices.ContainsFunc(query.States, func(s securemail.State) bool {
			return s.Final() || s == securemail.StateAccepted || s == securemail.StateAttempting
		}) {
			and("p.state NOT IN ('accepted','attempting')") // for the index
		}
	}
	args = append(args, n)
	return q.rows(ctx, q.db, where.String()+" ORDER BY p.id LIMIT ?", args...)
}
