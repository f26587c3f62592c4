package keys

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
)

// errRow says that a row is not what was written, or not where.
var errRow = errors.New("keys: sql: a record was changed or moved")

// tenantKey is one tenant's key, in two parts: one to hash what is looked up, one to seal records.
type tenantKey struct {
	tenant     string
	hash, data []byte
}

func newTenantKey(tenant string, key []byte) (*tenantKey, error) {
	if len(key) != seal.KeySize {
		return nil, errRow
	}
	t := &tenantKey{tenant: tenant}
	var err1, err2 error
	t.hash, err1 = hkdf.Key(sha256.New, key, nil, "postseal keys hash 1", 32)
	t.data, err2 = hkdf.Key(sha256.New, key, nil, "postseal keys data 1", seal.KeySize)
	return t, errors.Join(err1, err2)
}

// scope is the key ring's scope of a tenant.
func scope(tenant string) string { return "tenant/" + tenant }

// tenant reads the tenant's key; nil: it has none, and so no pinned keys.
func (s *SQL) tenant(ctx context.Context, id string) (*tenantKey, error) {
	var wrapped []byte
	err := s.reader(ctx).QueryRowContext(ctx, s.db.Rebind("SELECT wrapped FROM keys_tenant WHERE tenant=?"), id).Scan(&wrapped)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keys: sql: read: %w", err)
	}
	key, err := s.ring.Unwrap(ctx, wrapped)
	if err != nil {
		return nil, fmt.Errorf("keys: sql: key ring: %w", err)
	}
	return newTenantKey(id, key)
}

// makeTenant is tenant, and makes the key where there is none. Of two who make one at once, the first wins.
func (s *SQL) makeTenant(ctx context.Context, id string) (*tenantKey, error) {
	t, err := s.tenant(ctx, id)
	if err != nil || t != nil {
		return t, err
	}
	wrapped, err := s.ring.Wrap(ctx, seal.NewKey(), scope(id))
	if err != nil {
		return nil, fmt.Errorf("keys: sql: key ring: %w", err)
	}
	err = s.db.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, s.db.Rebind("INSERT INTO keys_tenant (tenant, wrapped) VALUES (?, ?) ON CONFLICT (tenant) DO NOTHING"),
			id, wrapped)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keys: sql: write: %w", err)
	}
	t, err = s.tenant(ctx, id)
	if err == nil && t == nil {
		err = errRow // made and gone again
	}
	return t, err
}

// mac is a keyed hash over the parts, whose lengths it binds.
func (t *tenantKey) mac(parts ...string) string {
	h := hmac.New(sha256.New, t.hash)
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// lookup is where keys of the address are found, without regard to case.
func (t *tenantKey) lookup(m securemail.Method, a securemail.Address) string {
	return t.mac("lookup", string(m), encrypt.Fold(a))
}

// id is the one place of a key, whose fingerprint is in lower case.
func (t *tenantKey) id(m securemail.Method, a securemail.Address, fingerprint string) string {
	return t.mac("id", string(m), encrypt.Fold(a), fingerprint)
}

// record is the plaintext of a row.
type record struct {
	Address, By, Fingerprint string
	Method                   securemail.Method
	NotAfter, At             time.Time
	Public                   [][]byte
	Capabilities             []string
}

// place binds a sealed record to its row.
func (t *tenantKey) place(id string) []byte {
	return []byte("postseal keys 1\x00" + t.tenant + "\x00" + id)
}

func (t *tenantKey) seal(id string, p Pinned) ([]byte, error) {
	b, err := json.Marshal(record{
		Address: p.Address.Reveal(), By: p.By, Fingerprint: p.Key.Fingerprint, Method: p.Key.Method,
		NotAfter: p.Key.NotAfter, At: p.At, Public: p.Key.Public, Capabilities: p.Key.Capabilities,
	})
	if err != nil {
		return nil, errors.New("keys: sql: encode")
	}
	return seal.Seal(t.data, b, t.place(id))
}

func (t *tenantKey) open(id string, sealed []byte) (Pinned, error) {
	b, err := seal.Open(t.data, sealed, t.place(id))
	if err != nil {
		return Pinned{}, errRow
	}
	var r record
	if json.Unmarshal(b, &r) != nil {
		return Pinned{}, errRow
	}
	a, err := securemail.ParseAddress(r.Address)
	if err != nil {
		return Pinned{}, errRow
	}
	return Pinned{
		Tenant: t.tenant, Address: a, At: r.At, By: r.By,
		Key: securemail.Key{
			Method: r.Method, Fingerprint: r.Fingerprint, Origin: "pinned", Trust: securemail.TrustPinned,
			NotAfter: r.NotAfter, Public: r.Public, Capabilities: r.Capabilities,
		},
	}, nil
}
