package transport

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/mtasts"
)

// stsSteps make the tables. Domains are compared octet by octet, so that pages have the same order everywhere. Times are
// microseconds since 1970.
var stsSteps = []string{`
{sqlite}CREATE TABLE transport_sts (
	domain  TEXT PRIMARY KEY,
	id      TEXT NOT NULL,
	mode    TEXT NOT NULL,
	policy  {bytes} NOT NULL,
	fetched {int} NOT NULL,
	expires {int} NOT NULL,
	used    {int} NOT NULL
) {clustered};
{postgres}CREATE TABLE transport_sts (
	domain  TEXT COLLATE "C" PRIMARY KEY,
	id      TEXT NOT NULL,
	mode    TEXT NOT NULL,
	policy  {bytes} NOT NULL,
	fetched {int} NOT NULL,
	expires {int} NOT NULL,
	used    {int} NOT NULL
);
CREATE INDEX transport_sts_expires ON transport_sts (expires);
`}

const (
	stsColumns = "SELECT domain, id, mode, policy, fetched, expires, used FROM transport_sts"
	stsSave    = `INSERT INTO transport_sts (domain, id, mode, policy, fetched, expires, used) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (domain) DO UPDATE SET id=excluded.id, mode=excluded.mode, policy=excluded.policy,
		fetched=excluded.fetched, expires=excluded.expires
		WHERE transport_sts.fetched<=excluded.fetched OR transport_sts.fetched>?`
	stsUsed  = "UPDATE transport_sts SET used=? WHERE domain=? AND used<?"
	stsSweep = "DELETE FROM transport_sts WHERE expires<?"
)

// maxSkew is how far in the future a fetch may lie that another process has noted.
const maxSkew = time.Hour

// STSOptions are the options of [STSStore]; nil and zero fields mean the defaults.
type STSOptions struct {
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// STSDatabase is what [STSStore] makes. It is safe for concurrent use, by several processes as well.
type STSDatabase struct {
	db  *sqldb.DB
	raw *sql.DB
	now func() time.Time
}

var (
	_ mtasts.Store   = (*STSDatabase)(nil)
	_ mtasts.Sweeper = (*STSDatabase)(nil)
)

// STSStore keeps MTA-STS policies in db, SQLite or PostgreSQL, so that they bind after a restart too and processes share
// them. It makes its table, transport_sts, if it is not there. Nothing is dropped but what Sweep is asked for. What somebody
// can read there is which domains mail was sent to, and which of them published a policy.
func STSStore(ctx context.Context, db *sql.DB, o *STSOptions) (*STSDatabase, error) {
	if db == nil {
		return nil, errors.New("transport: sts store: no database")
	}
	s := &STSDatabase{raw: db, now: time.Now}
	if o != nil && o.Now != nil {
		s.now = o.Now
	}
	var err error
	if s.db, err = sqldb.Of(ctx, db); err != nil {
		return nil, fmt.Errorf("transport: sts store: %w", err)
	}
	if err := s.db.Migrate(ctx, "transport_sts", stsSteps); err != nil {
		return nil, fmt.Errorf("transport: sts store: %w", err)
	}
	return s, nil
}

// Load implements mtasts.Store.
func (s *STSDatabase) Load(ctx context.Context, domain string) (mtasts.Entry, error) {
	e, err := scanSTS(s.raw.QueryRowContext(ctx, s.db.Rebind(stsColumns+" WHERE domain=?"), domain).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return mtasts.Entry{}, mtasts.ErrNoEntry
	}
	if err != nil {
		return mtasts.Entry{}, fmt.Errorf("transport: load policy: %w", err)
	}
	return e, nil
}

// Save implements mtasts.Store. An entry that was fetched before the one that is there does not replace it: another process
// was faster. Used only ever rises. What is there counts for nothing if it claims to be fetched over an hour in the future.
func (s *STSDatabase) Save(ctx context.Context, e mtasts.Entry) error {
	if e.Domain == "" || len(e.Text) > mtasts.MaxPolicy {
		return errors.New("transport: save policy: no domain, or a policy that is too long")
	}
	text := e.Text
	if text == nil {
		text = []byte{}
	}
	used := e.Used.UnixMicro()
	future := s.now().Add(maxSkew).UnixMicro()
	err := s.db.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		p := s.db.Prepared(tx)
		if _, err := p.ExecContext(ctx, s.db.Rebind(stsSave), e.Domain, e.ID, string(e.Mode), text,
			e.Fetched.UnixMicro(), e.Expires.UnixMicro(), used, future); err != nil {
			return err
		}
		_, err := p.ExecContext(ctx, s.db.Rebind(stsUsed), used, e.Domain, used)
		return err
	})
	if err != nil {
		return fmt.Errorf("transport: save policy: %w", err)
	}
	return nil
}

// List implements mtasts.Store.
func (s *STSDatabase) List(ctx context.Context, after string, limit int) (_ []mtasts.Entry, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("transport: list policies: %w", err)
		}
	}()
	rows, err := s.raw.QueryContext(ctx, s.db.Rebind(stsColumns+" WHERE domain>? ORDER BY domain LIMIT ?"), after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []mtasts.Entry
	for rows.Next() {
		e, err := scanSTS(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// Sweep implements mtasts.Sweeper.
func (s *STSDatabase) Sweep(ctx context.Context, before time.Time) (int, error) {
	var n int64
	err := s.db.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.db.Rebind(stsSweep), before.UnixMicro())
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("transport: sweep policies: %w", err)
	}
	return int(n), nil
}

// scanSTS reads one row of stsColumns.
func scanSTS(scan func(...any) error) (e mtasts.Entry, err error) {
	var mode string
	var fetched, expires, used int64
	err = scan(&e.Domain, &e.ID, &mode, &e.Text, &fetched, &expires, &used)
	e.Mode = mtasts.Mode(mode)
	e.Fetched, e.Expires, e.Used = at(fetched), at(expires), at(used)
	return e, err
}

func at(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
