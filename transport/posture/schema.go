package posture

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// schema is the list of migrations; steps are only ever added. Times are microseconds since 1970 in UTC, 0 for none.
//
//   - posture_domain: one domain that was looked at. watched is 1 by hand; seen is when mail last went there, where it is
//     watched for that. due is 0 where it is not looked at by itself. seq counts entries of its history. state is JSON:
//     what is known, and which alerts stand.
//   - posture_check: an entry of history: looks from first to last that found the same. digest is over what was found.
//   - posture_ratchet: learned is JSON, what deliveries proved, last at last; override is -1, or the Channel that somebody set.
var schema = []string{`
CREATE TABLE posture_domain (
	tenant TEXT NOT NULL,
	domain TEXT NOT NULL,
	watched {int} NOT NULL DEFAULT 0,
	seen {int} NOT NULL DEFAULT 0,
	due {int} NOT NULL DEFAULT 0,
	lease_owner TEXT NOT NULL DEFAULT '',
	lease_until {int} NOT NULL DEFAULT 0,
	checked {int} NOT NULL DEFAULT 0,
	changed {int} NOT NULL DEFAULT 0,
	seq {int} NOT NULL DEFAULT 0,
	state TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (tenant, domain));
CREATE INDEX posture_domain_due ON posture_domain (due) WHERE due>0;
CREATE TABLE posture_check (
	tenant TEXT NOT NULL,
	domain TEXT NOT NULL,
	seq {int} NOT NULL,
	first {int} NOT NULL,
	last {int} NOT NULL,
	checks {int} NOT NULL,
	digest TEXT NOT NULL,
	found TEXT NOT NULL,
	PRIMARY KEY (tenant, domain, seq));
CREATE INDEX posture_check_last ON posture_check (last);
CREATE TABLE posture_ratchet (
	tenant TEXT NOT NULL,
	domain TEXT NOT NULL,
	learned TEXT NOT NULL DEFAULT '',
	last {int} NOT NULL DEFAULT 0,
	override {int} NOT NULL DEFAULT -1,
	reason TEXT NOT NULL DEFAULT '',
	actor TEXT NOT NULL DEFAULT '',
	set_at {int} NOT NULL DEFAULT 0,
	until {int} NOT NULL DEFAULT 0,
	PRIMARY KEY (tenant, domain));
`}

// wrongClock is how far ahead a stored time may lie before it counts as written by a clock that was wrong.
const wrongClock = 2 * time.Hour

// key names one domain of one tenant.
type key struct{ tenant, domain string }

var errDomain = errors.New("posture: malformed domain")

// keyOf folds domain to lower-case A-labels.
func keyOf(tenant, domain string) (key, error) {
	a, err := securemail.ParseAddress("x@" + strings.TrimSuffix(domain, "."))
	if err != nil || strings.Contains(domain, "@") {
		return key{}, errDomain
	}
	return key{tenant, a.Domain()}, nil
}

func newID() string { return rand.Text() }

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// exec runs one statement and tells how many rows it changed.
func (m *Monitor) exec(ctx context.Context, tx *sql.Tx, query string, args ...any) (int64, error) {
	r, err := m.d.Prepared(tx).ExecContext(ctx, m.d.Rebind(query), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// row reads one row inside a transaction; on PostgreSQL it is locked until the end.
func (m *Monitor) row(ctx context.Context, tx *sql.Tx, query string, args ...any) *sql.Row {
	if m.d.Dialect == sqldb.Postgres {
		query += " FOR UPDATE"
	}
	return m.d.Prepared(tx).QueryRowContext(ctx, m.d.Rebind(query), args...)
}

// event is one of ours.
func event(kind string, by securemail.Actor, at time.Time, detail map[string]string) securemail.Event {
	return securemail.Event{ID: newID(), Kind: "posture." + kind, Time: at, By: by, Detail: detail}
}

// tell adds events in the transaction.
func (m *Monitor) tell(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if m.o.Outbox == nil || len(es) == 0 {
		return nil
	}
	return m.o.Outbox.Add(ctx, tx, es...)
}
