package queue

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// Fairness. Parcels of one tenant to one domain are a lane. A Take visits at most maxVisits lanes, of at most maxTenants
// tenants, each from where the Take before it stopped, and gives each an equal share; what the visited ones leave goes to
// whoever has been due longest. So a lane waits for its turn at most for the lanes before it, however long those are, and a
// Take costs a bounded number of index look-ups: the index leads from one tenant, and from one lane, to the next.
const (
	maxTenants = 16
	maxVisits  = 64
	maxTurns   = 4096 // tenants whose turn is remembered
)

// lane is the recipient's domain as a number that tells nothing without the key.
func (q *Queue) lane(s *securemail.Slip) int64 {
	return int64(binary.BigEndian.Uint64(q.hash("lane", s.Actor.Tenant, strings.ToLower(s.Recipient.Address.Domain()))))
}

// turns remembers who was served last. Each process has its own; they are hints.
type turns struct {
	mu     sync.Mutex // guards what follows
	tenant map[int64]string
	lane   map[turn]int64
}

type turn struct {
	priority int64
	tenant   string
}

func (t *turns) lastTenant(priority int64) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name, ok := t.tenant[priority]
	return name, ok
}

func (t *turns) lastLane(k turn) (int64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lane, ok := t.lane[k]
	return lane, ok
}

func (t *turns) served(k turn, lane int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tenant == nil || len(t.lane) >= maxTurns {
		t.tenant, t.lane = make(map[int64]string), make(map[turn]int64)
	}
	t.tenant[k.priority], t.lane[k] = k.tenant, lane
}

// anyDue looks whether a Take would find something.
func (q *Queue) anyDue(ctx context.Context, now time.Time) (bool, error) {
	c := &claim{q: q, db: q.db, now: micros(now)}
	found := false
	err := c.priorities(ctx, func(priority int64) (bool, error) {
		for _, b := range append(c.lost(), bound{waiting + " AND priority=? AND due<=?", c.now}) {
			var err error
			if found, err = c.exists(ctx, b.where, priority, b.at); found || err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return found, err
}

// waiting selects what nobody has leased; it is in the indexes word for word.
const waiting = "due>0 AND lease_epoch=0"

// claim is one Take's work in its transaction.
type claim struct {
	q    *Queue
	db   querier
	now  int64
	left int
	rows []*row
}

func (c *claim) exists(ctx context.Context, where string, args ...any) (bool, error) {
	var one bool
	err := c.db.QueryRowContext(ctx, c.q.d.Rebind("SELECT EXISTS (SELECT 1 FROM queue_parcel WHERE "+where+")"), args...).Scan(&one)
	return one, err
}

// lost are the leases of one priority that nobody renews, and those that a clock made which was wrong.
func (c *claim) lost() []bound {
	now := c.q.o.Now()
	return []bound{
		{"lease_epoch>0 AND priority=? AND lease_until<=?", micros(now)},
		{"lease_epoch>0 AND priority=? AND lease_until>?", micros(now.Add(wrongClock))},
	}
}

type bound struct {
	where string
	at    int64
}

// priorities calls f with each priority that something waits or is leased in, the highest first, until f says no.
func (c *claim) priorities(ctx context.Context, f func(int64) (more bool, err error)) error {
	const next = "SELECT max(priority) FROM queue_parcel WHERE "
	for below := int64(math.MaxInt8 + 1); ; {
		var a, b sql.NullInt64
		err := c.db.QueryRowContext(ctx, c.q.d.Rebind("SELECT ("+next+waiting+" AND priority<?), ("+next+"lease_epoch>0 AND priority<?)"),
			below, below).Scan(&a, &b)
		if err != nil || !a.Valid && !b.Valid {
			return err
		}
		switch below = a.Int64; {
		case !a.Valid, b.Valid && b.Int64 > a.Int64:
			below = b.Int64
		}
		if more, err := f(below); err != nil || !more {
			return err
		}
	}
}

// all leases what is due, as Take says.
func (c *claim) all(ctx context.Context) error {
	err := c.priorities(ctx, func(priority int64) (bool, error) {
		err := c.onePriority(ctx, priority)
		return c.left > 0, err
	})
	slices.SortStableFunc(c.rows, func(a, b *row) int {
		return cmp.Or(-cmp.Compare(a.priority, b.priority), cmp.Compare(a.due, b.due), cmp.Compare(a.id, b.id))
	})
	return err
}

func (c *claim) onePriority(ctx context.Context, priority int64) error {
	for _, l := range c.lost() {
		if err := c.lease(ctx, l.where, "lease_until", c.left, priority, l.at); err != nil {
			return err
		}
	}
	if err := c.turnsOf(ctx, priority); err != nil {
		return err
	}
	return c.lease(ctx, waiting+" AND priority=? AND due<=?", "due", c.left, priority, c.now)
}

// turnsOf gives each lane that has its turn its share.
func (c *claim) turnsOf(ctx context.Context, priority int64) error {
	n := min(maxTenants, c.left)
	last, ok := c.q.turns.lastTenant(priority)
	tenants, err := round(ctx, c, walk[string]{"tenant", n, last, ok, []any{priority}})
	if err != nil {
		return err
	}
	for i, t := range tenants {
		share := (c.left + len(tenants) - i - 1) / (len(tenants) - i)
		if err := c.turnsIn(ctx, turn{priority, t.at}, share, max(1, maxVisits/len(tenants))); err != nil {
			return err
		}
	}
	return nil
}

// turnsIn gives up to visits lanes of one tenant their shares of share.
func (c *claim) turnsIn(ctx context.Context, k turn, share, visits int) error {
	if share <= 0 {
		return nil
	}
	last, ok := c.q.turns.lastLane(k)
	lanes, err := round(ctx, c, walk[int64]{"lane", min(share, visits), last, ok, []any{k.priority, k.tenant}})
	if err != nil {
		return err
	}
	due := 0
	for _, l := range lanes {
		if l.due {
			due++
		}
	}
	for _, l := range lanes {
		c.q.turns.served(k, l.at)
		if !l.due {
			continue
		}
		part := (share + due - 1) / due
		before := c.left
		err := c.lease(ctx, waiting+" AND priority=? AND tenant=? AND lane=? AND due<=?", "due", part, k.priority, k.tenant, l.at, c.now)
		if err != nil {
			return err
		}
		share, due = share-(before-c.left), due-1
	}
	return nil
}

// stop is a tenant or a lane on the round.
type stop[T any] struct {
	at  T
	due bool
}

// walk goes over up to n values of column, under the values of the columns before it in the index.
type walk[T any] struct {
	column string
	n      int
	last   T // where the one before it stopped, if any did
	began  bool
	before []any
}

// round goes on behind last, and then from the beginning up to last.
func round[T any](ctx context.Context, c *claim, w walk[T]) ([]stop[T], error) {
	if !w.began {
		return hop(ctx, c, w, "")
	}
	out, err := hop(ctx, c, w, ">", w.last)
	if w.n -= len(out); err != nil || w.n <= 0 {
		return out, err
	}
	again, err := hop(ctx, c, w, "<=", w.last)
	return append(out, again...), err
}

// hop leads from one value of column to the next by one look-up in the index each, where a DISTINCT would read all rows.
func hop[T any](ctx context.Context, c *claim, w walk[T], side string, from ...any) ([]stop[T], error) {
	beyond := ""
	if side != "" {
		beyond = " AND " + w.column + side + "?"
	}
	where := waiting + " AND priority=?"
	if len(w.before) > 1 {
		where += " AND tenant=?"
	}
	all := append(slices.Clone(w.before), from...)
	query := fmt.Sprintf(`WITH RECURSIVE hop(at, n) AS (
		SELECT (SELECT min(%[1]s) FROM queue_parcel WHERE %[2]s%[3]s), 1
		UNION ALL
		SELECT (SELECT min(%[1]s) FROM queue_parcel WHERE %[2]s%[3]s AND %[1]s>hop.at), n+1 FROM hop WHERE at IS NOT NULL AND n<?)
		SELECT at, EXISTS (SELECT 1 FROM queue_parcel WHERE %[2]s AND %[1]s=hop.at AND due<=?) FROM hop WHERE at IS NOT NULL ORDER BY n`,
		w.column, where, beyond)
	args := slices.Concat(all, all, []any{w.n}, w.before, []any{c.now})
	rs, err := c.db.QueryContext(ctx, c.q.d.Rebind(query), args...)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var out []stop[T]
	for rs.Next() {
		var s stop[T]
		if err := rs.Scan(&s.at, &s.due); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rs.Err()
}

// leasedColumns are of a row that was just leased.
const leasedColumns = `p.id, p.submission, p.tenant, p.state, p.body, p.slip, p.letter, p.status, p.attempt, p.rev, p.not_before,
	p.lease_epoch, p.lease_until, p.opened, p.priority, p.due`

// lease leases up to n of where in order: one statement. On PostgreSQL it goes past what another one is leasing just now.
func (c *claim) lease(ctx context.Context, where, order string, n int, args ...any) error {
	n = min(n, c.left)
	if n <= 0 {
		return nil
	}
	q := c.q
	set := " SET attempt=p.attempt+1, rev=p.rev+1, lease_owner=?, lease_epoch=?, lease_until=?"
	set3 := []any{q.owner(), q.epoch, micros(q.o.Now().Add(q.o.Lease))}
	pick := "SELECT id FROM queue_parcel WHERE " + where + " ORDER BY " + order + " LIMIT ?"
	args = append(args, n)
	query := "UPDATE queue_parcel AS p" + set + " WHERE id IN (" + pick + ") RETURNING " + strings.ReplaceAll(leasedColumns, "p.", "")
	all := slices.Concat(set3, args)
	if q.d.Dialect == sqldb.Postgres {
		query = "WITH c AS MATERIALIZED (" + pick + " FOR UPDATE SKIP LOCKED) UPDATE queue_parcel p" + set +
			" FROM c WHERE p.id=c.id RETURNING " + leasedColumns
		all = slices.Concat(args, set3)
	}
	rs, err := c.db.QueryContext(ctx, q.d.Rebind(query), all...)
	if err != nil {
		return err
	}
	defer rs.Close()
	for rs.Next() {
		r := new(row)
		err := rs.Scan(&r.id, &r.submission, &r.tenant, &r.state, &r.body, &r.slip, &r.letter, &r.status, &r.attempt, &r.rev,
			&r.notBefore, &r.leaseEpoch, &r.leaseUntil, &r.opened, &r.priority, &r.due)
		if err != nil {
			return err
		}
		c.rows = append(c.rows, r)
		c.left--
	}
	return rs.Err()
}
