package keys

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// actWrite is asked of the Authorizer by Pin, Remove and List.
const actWrite securemail.Action = "write.key"

// Limits of one pinned key, in octets.
const maxPinned = 1 << 20

var steps = []string{`
CREATE TABLE keys_tenant (
	tenant  TEXT PRIMARY KEY,
	wrapped {bytes} NOT NULL
);
CREATE TABLE keys_pinned (
	tenant  TEXT NOT NULL,
	id      TEXT NOT NULL,
	lookup  TEXT NOT NULL,
	sealed  {bytes} NOT NULL,
	PRIMARY KEY (tenant, id)
);
CREATE INDEX keys_pinned_lookup ON keys_pinned (tenant, lookup);
`}

// Options are what a [SQL] can be told. Nil is the zero value.
type Options struct {
	// Authorizer is asked for "write.key" on the kind "key" by Pin, Remove and List. Nil: the Actor's own tenant, with the
	// role "admin".
	Authorizer securemail.Authorizer
	// Outbox takes the events "key.pinned" and "key.removed", in the transaction that makes them true, with method and
	// fingerprint in Detail. It must be on the same database. Nil: none.
	Outbox securemail.Outbox
	// Now nil: time.Now.
	Now func() time.Time
}

// SQL keeps pinned keys in the host's database. It is safe for concurrent use, by several processes as well.
//
// What a thief of the database sees: the tenant's id, how many keys it has, and keyed hashes.
type SQL struct {
	db   *sqldb.DB
	raw  *sql.DB
	ring securemail.KeyRing
	o    Options
}

var _ securemail.KeySource = (*SQL)(nil)

// Pinned is a key that people of the tenant put there.
type Pinned struct {
	Tenant  string
	Address securemail.Address
	// Key has the Origin "pinned" and TrustPinned, whatever was given.
	Key securemail.Key
	// At and By are set by Pin: when, and the Actor's ID.
	At time.Time
	By string
}

// NewSQL makes the tables in db, SQLite or PostgreSQL, if they are not there. Ring holds the tenants' keys.
func NewSQL(ctx context.Context, db *sql.DB, ring securemail.KeyRing, o *Options) (*SQL, error) {
	if db == nil || ring == nil {
		return nil, errors.New("keys: sql: a database and a key ring are required")
	}
	s := &SQL{raw: db, ring: ring}
	if o != nil {
		s.o = *o
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if s.o.Authorizer == nil {
		s.o.Authorizer = securemail.AuthorizerFunc(adminOnly)
	}
	var err error
	if s.db, err = sqldb.Of(ctx, db); err != nil {
		return nil, fmt.Errorf("keys: sql: %w", err)
	}
	if err := s.db.Migrate(ctx, "keys", steps); err != nil {
		return nil, fmt.Errorf("keys: sql: %w", err)
	}
	return s, nil
}

// adminOnly is what securemail's own Authorizer says to "write.key".
func adminOnly(_ context.Context, a securemail.Actor, _ securemail.Action, r securemail.Resource) error {
	if a.Tenant == r.Tenant && slices.Contains(a.Roles, "admin") {
		return nil
	}
	return securemail.ErrDenied
}

// may asks the Authorizer.
func (s *SQL) may(ctx context.Context, tenant, id string) (securemail.Actor, error) {
	a, ok := securemail.ActorOf(ctx)
	if !ok {
		return a, fmt.Errorf("keys: no actor: %w", securemail.ErrDenied)
	}
	r := securemail.Resource{Tenant: tenant, Kind: "key", ID: id}
	if err := s.o.Authorizer.Authorize(ctx, a, actWrite, r); err != nil {
		return a, fmt.Errorf("keys: %s: %w", actWrite, err)
	}
	return a, nil
}

// querier is what a *sql.DB and a *sql.Tx have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// reader is the host's transaction under SendTx, else the database.
func (s *SQL) reader(ctx context.Context) querier {
	if tx, ok := securemail.TxOf(ctx); ok {
		return tx
	}
	return s.raw
}

// Keys implements [securemail.KeySource] for each method. Under [securemail.Mailer.SendTx] it reads through [securemail.TxOf].
// ErrNoKey: nothing is pinned for this address, method and tenant. A database or key ring that does not answer, and a row
// that was changed, is another error. Keys have the Origin "pinned".
func (s *SQL) Keys(ctx context.Context, l securemail.Lookup) ([]securemail.Key, error) {
	t, err := s.tenant(ctx, l.Tenant)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, fmt.Errorf("keys: sql: nothing pinned: %w", securemail.ErrNoKey)
	}
	pins, err := s.read(ctx, t, "SELECT id, sealed FROM keys_pinned WHERE tenant=? AND lookup=? ORDER BY id",
		l.Tenant, t.lookup(l.Method, l.Address))
	if err != nil {
		return nil, err
	}
	var found []securemail.Key
	for _, p := range pins {
		if p.Key.Method != l.Method || !same(p.Address, l.Address) {
			return nil, errRow // moved from another row
		}
		found = append(found, p.Key)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("keys: sql: nothing pinned: %w", securemail.ErrNoKey)
	}
	return found, nil
}

// read opens the rows of a query for id and sealed.
func (s *SQL) read(ctx context.Context, t *tenantKey, query string, args ...any) ([]Pinned, error) {
	rows, err := s.reader(ctx).QueryContext(ctx, s.db.Rebind(query), args...)
	if err != nil {
		return nil, fmt.Errorf("keys: sql: read: %w", err)
	}
	defer rows.Close()
	var pins []Pinned
	for rows.Next() {
		var id string
		var sealed []byte
		if err := rows.Scan(&id, &sealed); err != nil {
			return nil, fmt.Errorf("keys: sql: read: %w", err)
		}
		p, err := t.open(id, sealed)
		if err != nil {
			return nil, err
		}
		pins = append(pins, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("keys: sql: read: %w", err)
	}
	return pins, nil
}

// Pin puts p.Key there for p.Address and p.Tenant, beside other keys of the address, and it counts at once; the same
// fingerprint again replaces the record. Mail goes to every key that is pinned: who replaces a key removes the old one, first
// where it may be in other hands. The key needs Method, a Fingerprint in hex and Public (together at most 1 MiB); one with a Secret is refused,
// since secrets are never recorded. That the fingerprint is the key's is checked by the Encryptor.
//
// It asks for "write.key"; without right, and without Actor in ctx, it is [securemail.ErrDenied].
func (s *SQL) Pin(ctx context.Context, p Pinned) error {
	if err := checkPinned(p); err != nil {
		return err
	}
	p.Key.Fingerprint = strings.ToLower(p.Key.Fingerprint)
	by, err := s.may(ctx, p.Tenant, p.Key.Fingerprint)
	if err != nil {
		return err
	}
	t, err := s.makeTenant(ctx, p.Tenant)
	if err != nil {
		return err
	}
	p.At, p.By = s.o.Now().UTC(), by.ID
	id := t.id(p.Key.Method, p.Address, p.Key.Fingerprint)
	sealed, err := t.seal(id, p)
	if err != nil {
		return err
	}
	return s.write(ctx, "key.pinned", by, p, func(ctx context.Context, tx *sql.Tx) (int64, error) {
		r, err := tx.ExecContext(ctx, s.db.Rebind(`INSERT INTO keys_pinned (tenant, id, lookup, sealed) VALUES (?, ?, ?, ?)
			ON CONFLICT (tenant, id) DO UPDATE SET sealed=excluded.sealed`),
			p.Tenant, id, t.lookup(p.Key.Method, p.Address), sealed)
		if err != nil {
			return 0, err
		}
		return r.RowsAffected()
	})
}

func checkPinned(p Pinned) error {
	size := 0
	for _, b := range p.Key.Public {
		size += len(b)
	}
	_, err := hex.DecodeString(p.Key.Fingerprint)
	switch {
	case p.Address == (securemail.Address{}):
		return errors.New("keys: pin: no address")
	case p.Key.Method == "":
		return errors.New("keys: pin: no method")
	case p.Key.Fingerprint == "" || err != nil:
		return errors.New("keys: pin: fingerprint is not hex")
	case size == 0 || size > maxPinned:
		return errors.New("keys: pin: no public key, or over 1 MiB")
	case p.Key.Secret.Reveal() != "":
		return errors.New("keys: pin: a shared secret can't be pinned")
	}
	return nil
}

// Remove takes the key with p.Tenant, p.Address, p.Key.Method and p.Key.Fingerprint away; all keys of the method where
// the fingerprint is empty. An unknown one is nil. It asks for "write.key".
func (s *SQL) Remove(ctx context.Context, p Pinned) error {
	p.Key.Fingerprint = strings.ToLower(p.Key.Fingerprint)
	by, err := s.may(ctx, p.Tenant, p.Key.Fingerprint)
	if err != nil {
		return err
	}
	t, err := s.tenant(ctx, p.Tenant)
	if err != nil || t == nil {
		return err
	}
	query, arg := "DELETE FROM keys_pinned WHERE tenant=? AND lookup=?", t.lookup(p.Key.Method, p.Address)
	if p.Key.Fingerprint != "" {
		query, arg = "DELETE FROM keys_pinned WHERE tenant=? AND id=?", t.id(p.Key.Method, p.Address, p.Key.Fingerprint)
	}
	return s.write(ctx, "key.removed", by, p, func(ctx context.Context, tx *sql.Tx) (int64, error) {
		r, err := tx.ExecContext(ctx, s.db.Rebind(query), p.Tenant, arg)
		if err != nil {
			return 0, err
		}
		return r.RowsAffected()
	})
}

// write changes rows and tells the Outbox in one transaction; where no row changed there is nothing to tell.
func (s *SQL) write(ctx context.Context, kind string, by securemail.Actor, p Pinned,
	change func(context.Context, *sql.Tx) (int64, error)) error {
	by.Tenant = p.Tenant
	ev := securemail.Event{
		ID: rand.Text(), Kind: kind, Time: s.o.Now().UTC(), By: by,
		Detail: map[string]string{"method": string(p.Key.Method), "fingerprint": p.Key.Fingerprint},
	}
	err := s.db.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := change(ctx, tx)
		if err != nil || n == 0 || s.o.Outbox == nil {
			return err
		}
		return s.o.Outbox.Add(ctx, tx, ev)
	})
	if err != nil {
		return fmt.Errorf("keys: sql: write: %w", err)
	}
	return nil
}

// List gives all keys of the tenant, the oldest first. It reveals addresses, and asks for "write.key".
func (s *SQL) List(ctx context.Context, tenant string) ([]Pinned, error) {
	if _, err := s.may(ctx, tenant, ""); err != nil {
		return nil, err
	}
	t, err := s.tenant(ctx, tenant)
	if err != nil || t == nil {
		return nil, err
	}
	pins, err := s.read(ctx, t, "SELECT id, sealed FROM keys_pinned WHERE tenant=?", tenant)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(pins, func(a, b Pinned) int { return a.At.Compare(b.At) })
	return pins, nil
}
