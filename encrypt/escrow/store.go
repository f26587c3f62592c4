package escrow

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postseal/postseal/internal/canon"
	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
)

// Times are microseconds since 1970. wrap names the way in which the data key is kept; "server" is the only one so far.
var migrations = []string{`
CREATE TABLE escrow_deposit (
	id TEXT PRIMARY KEY,
	parcel TEXT NOT NULL UNIQUE,
	tenant TEXT NOT NULL,
	locator {bytes} NOT NULL UNIQUE,
	state TEXT NOT NULL,
	created {int} NOT NULL,
	expires {int} NOT NULL,
	opened {int} NOT NULL,
	wrap TEXT NOT NULL,
	wrapped {bytes} NOT NULL,
	head {bytes} NOT NULL
);
CREATE INDEX escrow_deposit_due ON escrow_deposit (state, expires);
CREATE TABLE escrow_body (
	deposit TEXT NOT NULL,
	n {int} NOT NULL,
	part {bytes} NOT NULL,
	PRIMARY KEY (deposit, n)
);
CREATE TABLE escrow_secret (
	name TEXT PRIMARY KEY,
	wrapped {bytes} NOT NULL
);
`}

// The states of a deposit. All but open keep no content and no key.
const (
	stateOpen    = "open"
	stateRevoked = "revoked"
	stateExpired = "expired"
)

// bodyPart is how many sealed octets one row holds.
const bodyPart = 256 << 10

const recordVersion = 1

// record is what is sealed beside the message.
type record struct {
	Version   int
	Slip      securemail.Slip
	MailCode  bool
	Salt      []byte
	Factors   []factorRecord
	MessageID string
}

// row is a deposit as it lies in the table.
type row struct {
	id, parcel, tenant, state string
	created, expires, opened  time.Time
	wrapped, head             []byte
}

const rowColumns = "id, parcel, tenant, state, created, expires, opened, wrapped, head"

func (e *Escrow) rowWhere(ctx context.Context, where string, arg any) (*row, error) {
	var r row
	var created, expires, opened int64
	err := e.db.QueryRowContext(ctx, e.sql.Rebind("SELECT "+rowColumns+" FROM escrow_deposit WHERE "+where), arg).
		Scan(&r.id, &r.parcel, &r.tenant, &r.state, &created, &expires, &opened, &r.wrapped, &r.head)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("escrow: read deposit: %w", err)
	}
	r.created, r.expires, r.opened = fromMicro(created), fromMicro(expires), fromMicro(opened)
	return &r, nil
}

func fromMicro(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func (e *Escrow) storedPepper(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, e.db.QueryRowContext(ctx, "SELECT wrapped FROM escrow_secret WHERE name='pepper'").Scan(&b)
}

func (e *Escrow) insertPepper(ctx context.Context, wrapped []byte) error {
	err := e.sql.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, e.sql.Rebind(`INSERT INTO escrow_secret (name, wrapped) VALUES ('pepper', ?)
			ON CONFLICT (name) DO NOTHING`), wrapped)
		return err
	})
	if err != nil {
		return fmt.Errorf("escrow: store secret: %w", err)
	}
	return nil
}

func headAD(id string) []byte { return []byte("postseal/escrow/v1/head\x00" + id) }
func bodyAD(id string) []byte { return []byte("postseal/escrow/v1/body\x00" + id) }

// sealHead draws the data key of a deposit, wraps it and seals the record.
func (e *Escrow) sealHead(ctx context.Context, id string, r *record, scopes ...string) (key, wrapped, head []byte, err error) {
	key = seal.NewKey()
	if wrapped, err = e.ring.Wrap(ctx, key, scopes...); err != nil {
		return nil, nil, nil, fmt.Errorf("escrow: wrap data key: %w", err)
	}
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("escrow: encode record: %w", err)
	}
	if head, err = seal.Seal(key, b, headAD(id)); err != nil {
		return nil, nil, nil, fmt.Errorf("escrow: seal record: %w", err)
	}
	return key, wrapped, head, nil
}

// openHead is sealHead's inverse.
func (e *Escrow) openHead(ctx context.Context, r *row) ([]byte, *record, error) {
	key, err := e.ring.Unwrap(ctx, r.wrapped)
	if err != nil {
		return nil, nil, fmt.Errorf("escrow: unwrap data key: %w", err)
	}
	b, err := seal.Open(key, r.head, headAD(r.id))
	if err != nil {
		return nil, nil, fmt.Errorf("escrow: open record: %w", err)
	}
	var rec record
	if err := canon.Unmarshal(b, &rec); err != nil {
		return nil, nil, fmt.Errorf("escrow: decode record: %w", err)
	}
	if rec.Version != recordVersion {
		return nil, nil, fmt.Errorf("escrow: record has unknown version %d", rec.Version)
	}
	if string(rec.Slip.ID) != r.parcel || rec.Slip.Actor.Tenant != r.tenant {
		return nil, nil, errMixed // parcel and tenant lie beside the seal in clear
	}
	return key, &rec, nil
}

var errMixed = errors.New("escrow: deposit is of another parcel or tenant")

// parts collects what is written to it in rows of bodyPart.
type parts struct{ rows [][]byte }

func (p *parts) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if len(p.rows) == 0 || len(p.rows[len(p.rows)-1]) == bodyPart {
			p.rows = append(p.rows, make([]byte, 0, bodyPart))
		}
		last := &p.rows[len(p.rows)-1]
		k := min(len(b), bodyPart-len(*last))
		*last = append(*last, b[:k]...)
		b = b[k:]
	}
	return n, nil
}

// sealBody reads m whole before the transaction: m may lie in the same database, which may have one connection.
func sealBody(m *securemail.Message, key []byte, id string) ([][]byte, error) {
	r, err := m.Open()
	if err != nil {
		return nil, fmt.Errorf("escrow: open message: %w", err)
	}
	defer r.Close()
	var p parts
	w, err := seal.NewWriter(&p, key, bodyAD(id))
	if err != nil {
		return nil, fmt.Errorf("escrow: seal message: %w", err)
	}
	if _, err := io.Copy(w, r); err != nil {
		return nil, fmt.Errorf("escrow: seal message: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("escrow: seal message: %w", err)
	}
	return p.rows, nil
}

// bodyReader reads the rows of a body one by one and holds no connection between them.
type bodyReader struct {
	next func(n int) ([]byte, error)
	n    int
	left []byte
}

func (b *bodyReader) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		part, err := b.next(b.n)
		if err != nil {
			return 0, err
		}
		b.n++
		b.left = part
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (e *Escrow) openBody(ctx context.Context, id string, key []byte) (io.Reader, error) {
	next := func(n int) ([]byte, error) {
		var part []byte
		err := e.db.QueryRowContext(ctx,
			e.sql.Rebind("SELECT part FROM escrow_body WHERE deposit=? AND n=?"), id, n).Scan(&part)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("escrow: read body: %w", err)
		}
		return part, nil
	}
	r, err := seal.NewReader(&bodyReader{next: next}, key, bodyAD(id))
	if err != nil {
		return nil, fmt.Errorf("escrow: open body: %w", err)
	}
	return r, nil
}

// insert stores a deposit; false: the parcel has one already.
func (e *Escrow) insert(ctx context.Context, r *row, locator []byte, body [][]byte, ev *securemail.Event) (bool, error) {
	stored := false
	err := e.sql.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, e.sql.Rebind(`INSERT INTO escrow_deposit
			(id, parcel, tenant, locator, state, created, expires, opened, wrap, wrapped, head)
			VALUES (?, ?, ?, ?, ?, ?, ?, 0, 'server', ?, ?) ON CONFLICT (parcel) DO NOTHING`),
			r.id, r.parcel, r.tenant, locator, stateOpen, r.created.UnixMicro(), r.expires.UnixMicro(), r.wrapped, r.head)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if stored = n == 1; err != nil || !stored {
			return err
		}
		for i, part := range body {
			if _, err := tx.ExecContext(ctx,
				e.sql.Rebind("INSERT INTO escrow_body (deposit, n, part) VALUES (?, ?, ?)"), r.id, i, part); err != nil {
				return err
			}
		}
		return e.tell(ctx, tx, ev)
	})
	if err != nil {
		return false, fmt.Errorf("escrow: store deposit: %w", err)
	}
	return stored, nil
}

// close ends an open deposit: access at once, then the key, then the bytes. A repeat completes what a crash left. ev is
// told by whoever ends it first.
func (e *Escrow) close(ctx context.Context, r *row, state string, ev *securemail.Event) error {
	err := e.sql.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, e.sql.Rebind("UPDATE escrow_deposit SET state=? WHERE id=? AND state=?"),
			state, r.id, stateOpen)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return e.tell(ctx, tx, ev)
	})
	if err != nil {
		return fmt.Errorf("escrow: close deposit: %w", err)
	}
	if _, err := e.ring.Destroy(ctx, DepositScope(r.id)); err != nil {
		return fmt.Errorf("escrow: destroy deposit key: %w", err)
	}
	return e.wipe(ctx, r.id, "UPDATE escrow_deposit SET wrapped=?, head=? WHERE id=?", []byte{}, []byte{}, r.id)
}

// wipe deletes the body of a deposit and runs last.
func (e *Escrow) wipe(ctx context.Context, id, last string, args ...any) error {
	err := e.sql.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, e.sql.Rebind("DELETE FROM escrow_body WHERE deposit=?"), id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, e.sql.Rebind(last), args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("escrow: delete deposit: %w", err)
	}
	return nil
}

// tell hands an event to the Outbox inside tx.
func (e *Escrow) tell(ctx context.Context, tx *sql.Tx, ev *securemail.Event) error {
	if e.o.Outbox == nil || ev == nil {
		return nil
	}
	return e.o.Outbox.Add(ctx, tx, *ev)
}
