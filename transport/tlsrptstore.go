package transport

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// tlsrptSteps make the table of [TLSRPTStore]. Next is in Unix microseconds, 0 for none.
var tlsrptSteps = []string{`
CREATE TABLE transport_tlsrpt (
	day     TEXT NOT NULL,
	domain  TEXT NOT NULL,
	next    {int} NOT NULL,
	account {bytes} NOT NULL,
	PRIMARY KEY (day, domain)
);
CREATE INDEX transport_tlsrpt_next ON transport_tlsrpt (next);
`}

// TLSRPT keeps the accounts of transport/tlsrpt in the host's database, so that counts and the state of reports survive a
// restart and are shared by all processes. What it holds is names of domains and hosts, and where they want their
// reports; nothing of a message or a person, so it is not sealed.
type TLSRPT struct{ db *sqldb.DB }

var _ tlsrpt.Store = (*TLSRPT)(nil)

// TLSRPTStore makes the table in db, SQLite or PostgreSQL, if it is not there.
func TLSRPTStore(ctx context.Context, db *sql.DB) (*TLSRPT, error) {
	d, err := sqldb.Of(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("transport: tlsrpt: %w", err)
	}
	if err := d.Migrate(ctx, "transport_tlsrpt", tlsrptSteps); err != nil {
		return nil, fmt.Errorf("transport: tlsrpt: %w", err)
	}
	return &TLSRPT{d}, nil
}

// Update implements [tlsrpt.Store].
func (s *TLSRPT) Update(ctx context.Context, keys []tlsrpt.Key, fn func(*tlsrpt.Account) error) error {
	// Processes that update the same accounts lock them in one order, so that none waits for another in a ring.
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b tlsrpt.Key) int {
		return strings.Compare(string(a.Day)+" "+a.Domain, string(b.Day)+" "+b.Domain)
	})
	return s.db.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, k := range keys {
			if err := s.update(ctx, tx, k, fn); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *TLSRPT) update(ctx context.Context, tx *sql.Tx, k tlsrpt.Key, fn func(*tlsrpt.Account) error) error {
	text, err := s.lock(ctx, tx, k)
	if err != nil {
		return fmt.Errorf("transport: tlsrpt: read: %w", err)
	}
	a := &tlsrpt.Account{Key: k}
	if len(text) > 0 {
		if err := json.Unmarshal(text, a); err != nil || a.Key != k {
			return errors.New("transport: tlsrpt: a damaged row")
		}
	}
	if err := fn(a); err != nil {
		return err
	}
	if text, err = json.Marshal(a); err != nil {
		return fmt.Errorf("transport: tlsrpt: %w", err)
	}
	next := int64(0)
	if !a.Next.IsZero() {
		next = a.Next.UnixMicro()
	}
	_, err = tx.ExecContext(ctx, s.db.Rebind("UPDATE transport_tlsrpt SET next=?, account=? WHERE day=? AND domain=?"),
		next, text, string(k.Day), k.Domain)
	if err != nil {
		return fmt.Errorf("transport: tlsrpt: write: %w", err)
	}
	return nil
}

// lock reads a row so that nobody else changes it before tx ends. A row that is not there is made first, empty, since
// what is not there can't be locked.
func (s *TLSRPT) lock(ctx context.Context, tx *sql.Tx, k tlsrpt.Key) (text []byte, err error) {
	_, err = tx.ExecContext(ctx, s.db.Rebind(`INSERT INTO transport_tlsrpt (day, domain, next, account) VALUES (?, ?, 0, ?)
		ON CONFLICT (day, domain) DO NOTHING`), string(k.Day), k.Domain, []byte{})
	if err != nil {
		return nil, err
	}
	q := "SELECT account FROM transport_tlsrpt WHERE day=? AND domain=?"
	if s.db.Dialect == sqldb.Postgres {
		q += " FOR UPDATE"
	}
	err = tx.QueryRowContext(ctx, s.db.Rebind(q), string(k.Day), k.Domain).Scan(&text)
	return text, err
}

// Due implements [tlsrpt.Store].
func (s *TLSRPT) Due(ctx context.Context, now time.Time, max int) (keys []tlsrpt.Key, err error) {
	err = s.db.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		keys = nil
		rows, err := tx.QueryContext(ctx, s.db.Rebind(
			"SELECT day, domain FROM transport_tlsrpt WHERE next>0 AND next<=? ORDER BY next LIMIT ?"), now.UnixMicro(), max)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k tlsrpt.Key
			if err := rows.Scan(&k.Day, &k.Domain); err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("transport: tlsrpt: due: %w", err)
	}
	return keys, nil
}

// Remove implements [tlsrpt.Store].
func (s *TLSRPT) Remove(ctx context.Context, day tlsrpt.Day) (int, error) {
	var n int64
	err := s.db.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.db.Rebind("DELETE FROM transport_tlsrpt WHERE day<?"), string(day))
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("transport: tlsrpt: remove: %w", err)
	}
	return int(n), nil
}
