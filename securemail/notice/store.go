package notice

import (
	"context"
	"crypto/rand"
	"database/sql"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// schema is the list of migrations; steps are only ever added. Times are microseconds since 1970 in UTC, 0 for none. No
// row holds an address, a name or a text of anybody's: what a report says is looked up when it is made.
//
//   - notice_item: one thing to tell one addressee. id is the event's, with who is told behind it. step is 0 while it waits,
//     1 once it belongs to a report, 2 when that was mailed or given up.
//   - notice_watch: a parcel that is not delivered yet, and when it is next looked at.
//   - notice_lease: who makes reports now.
var schema = []string{`
CREATE TABLE notice_item (
	pos {serial},
	id TEXT NOT NULL UNIQUE,
	tenant TEXT NOT NULL,
	parcel TEXT NOT NULL,
	purpose TEXT NOT NULL,
	rule TEXT NOT NULL,
	what TEXT NOT NULL,
	reason TEXT NOT NULL,
	entered {int} NOT NULL,
	next {int} NOT NULL,
	audience TEXT NOT NULL,
	step {int} NOT NULL DEFAULT 0,
	report TEXT NOT NULL DEFAULT '');
CREATE INDEX notice_item_open ON notice_item (step, pos) WHERE step<2;
CREATE INDEX notice_item_report ON notice_item (report) WHERE report<>'';
CREATE INDEX notice_item_done ON notice_item (entered) WHERE step=2;
CREATE TABLE notice_watch (
	parcel TEXT PRIMARY KEY,
	tenant TEXT NOT NULL,
	purpose TEXT NOT NULL,
	base {int} NOT NULL,
	step {int} NOT NULL,
	at {int} NOT NULL);
CREATE INDEX notice_watch_at ON notice_watch (at);
CREATE TABLE notice_lease (
	name TEXT PRIMARY KEY,
	holder TEXT NOT NULL,
	until {int} NOT NULL);
`}

// item is one thing to tell one addressee.
type item struct {
	pos                                                            int64
	id, tenant, parcel, purpose, rule, what, reason, who, reportID string
	entered, next                                                  time.Time
}

// Addressees.
const (
	sender = "sender"
	role   = "role"
)

const itemColumns = "pos, id, tenant, parcel, purpose, rule, what, reason, entered, next, audience, report"

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func newID() string { return strings.ToLower(rand.Text()) }

func (n *Notices) exec(ctx context.Context, tx *sql.Tx, q string, args ...any) (int64, error) {
	r, err := n.d.Prepared(tx).ExecContext(ctx, n.d.Rebind(q), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// insert enters it, unless it is there.
func (n *Notices) insert(ctx context.Context, tx *sql.Tx, it *item) error {
	_, err := n.exec(ctx, tx, `INSERT INTO notice_item (id, tenant, parcel, purpose, rule, what, reason, entered, next, audience)
		VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING`,
		it.id, it.tenant, it.parcel, it.purpose, it.rule, it.what, it.reason, micros(it.entered), micros(it.next), it.who)
	return err
}

func (n *Notices) items(ctx context.Context, where string, args ...any) ([]*item, error) {
	rs, err := n.db.QueryContext(ctx, n.d.Rebind("SELECT "+itemColumns+" FROM notice_item WHERE "+where), args...)
	if err != nil {
		return nil, err
	}
	return scanItems(rs)
}

func scanItems(rs *sql.Rows) ([]*item, error) {
	defer rs.Close()
	var out []*item
	for rs.Next() {
		it := new(item)
		var entered, next int64
		err := rs.Scan(&it.pos, &it.id, &it.tenant, &it.parcel, &it.purpose, &it.rule, &it.what, &it.reason, &entered, &next, &it.who, &it.reportID)
		if err != nil {
			return nil, err
		}
		it.entered, it.next = timeOf(entered), timeOf(next)
		out = append(out, it)
	}
	return out, rs.Err()
}

// lead says whether this process makes the reports until a minute from now.
func (n *Notices) lead(ctx context.Context, now time.Time) (bool, error) {
	leads := false
	err := n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		c, err := n.exec(ctx, tx, `INSERT INTO notice_lease (name, holder, until) VALUES ('reports',?,?) ON CONFLICT (name) DO UPDATE
			SET holder=excluded.holder, until=excluded.until WHERE notice_lease.holder=excluded.holder OR notice_lease.until<?
			OR notice_lease.until>?`,
			n.holder, micros(now.Add(time.Minute)), micros(now), micros(now.Add(time.Hour)))
		leads = c > 0
		return err
	})
	return leads, err
}

// resign lets another process lead at once.
func (n *Notices) resign(ctx context.Context) error {
	return n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := n.exec(ctx, tx, "UPDATE notice_lease SET until=0 WHERE name='reports' AND holder=?", n.holder)
		return err
	})
}

// assign makes items part of report id, as far as they wait.
func (n *Notices) assign(ctx context.Context, id string, items []*item) error {
	return n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, it := range items {
			if _, err := n.exec(ctx, tx, "UPDATE notice_item SET step=1, report=? WHERE pos=? AND step=0", id, it.pos); err != nil {
				return err
			}
		}
		return nil
	})
}

// settle ends report id; escalated items come anew, for the role.
func (n *Notices) settle(ctx context.Context, id string, escalated []*item) error {
	return n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, it := range escalated {
			if err := n.insert(ctx, tx, it.up()); err != nil {
				return err
			}
		}
		_, err := n.exec(ctx, tx, "UPDATE notice_item SET step=2 WHERE report=?", id)
		return err
	})
}

// up is the same thing, told to the role.
func (it *item) up() *item {
	u := *it
	u.id, u.who = strings.TrimSuffix(it.id, "/"+sender)+"/up", role
	return &u
}

// find looks the parcels of items up, tenant by tenant. What is gone is missing from the answer.
func (n *Notices) find(ctx context.Context, items []*item) (map[string]securemail.Status, error) {
	byTenant := make(map[string][]securemail.ParcelID)
	for _, it := range items {
		byTenant[it.tenant] = append(byTenant[it.tenant], securemail.ParcelID(it.parcel))
	}
	out := make(map[string]securemail.Status, len(items))
	for tenant, ids := range byTenant {
		for st, err := range n.store.Find(ctx, securemail.Query{Tenant: tenant, IDs: ids}) {
			if err == nil {
				out[string(st.ID)] = st
			} else if st.ID == "" {
				return nil, err
			}
		}
	}
	return out, nil
}

// purge forgets what was told long ago.
func (n *Notices) purge(ctx context.Context, now time.Time) error {
	return n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := n.exec(ctx, tx, "DELETE FROM notice_item WHERE step=2 AND entered<?", micros(now.Add(-n.o.Keep)))
		return err
	})
}
