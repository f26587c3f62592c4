package escrow

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Deposit is what a locator finds. It is not safe for concurrent use. A Deposit that is not [Deposit.Live] answers every
// question as a live one does, at the same cost, and opens nothing.
type Deposit struct {
	e    *Escrow
	row  *row
	rec  *record
	key  []byte
	live bool
}

// Find looks a locator up. Unknown, expired, revoked and destroyed deposits give the same Deposit, which is not Live,
// for the same work. An error means that the database or the key ring does not answer.
func (e *Escrow) Find(ctx context.Context, l Locator) (*Deposit, error) {
	r, err := e.rowWhere(ctx, "locator=?", l.Hash())
	if err != nil {
		return nil, err
	}
	live := r != nil && r.state == stateOpen && r.expires.After(e.o.Now())
	if live {
		key, rec, err := e.openHead(ctx, r)
		if err == nil {
			return &Deposit{e: e, row: r, rec: rec, key: key, live: true}, nil
		}
		// One of its scopes was destroyed, or the ring does not answer: the decoy below tells the two apart.
		e.o.Logger.WarnContext(ctx, "escrow: deposit does not open", slog.String("deposit", r.id), slog.Any("err", err))
	}
	key, rec, err := e.openHead(ctx, e.decoy)
	if err != nil {
		return nil, err
	}
	return &Deposit{e: e, row: e.decoy, rec: rec, key: key}, nil
}

// Live says that the message is there and may be fetched by whoever proves to be its recipient.
func (d *Deposit) Live() bool { return d.live }

// ID names the deposit; it is safe in logs.
func (d *Deposit) ID() string { return d.row.id }

// Tenant is whose deposit it is.
func (d *Deposit) Tenant() string { return d.row.tenant }

// Recipient is where the notice went, and where a code goes.
func (d *Deposit) Recipient() securemail.Address { return d.rec.Slip.Recipient.Address }

// Sender is the author's address, which the notice was sent as.
func (d *Deposit) Sender() securemail.Address { return d.rec.Slip.From.Address }

// TakesMailCode says that a mailed code is a way to open it.
func (d *Deposit) TakesMailCode() bool { return d.live && d.rec.MailCode }

// Question is the hint of the first question on file, "" without one. It may be shown before the recipient proved
// himself, so it must not name him; see securemail.Factor.
func (d *Deposit) Question() string {
	i := slices.IndexFunc(d.rec.Factors, func(f factorRecord) bool { return f.Kind == FactorQuestion })
	if !d.live || i < 0 {
		return ""
	}
	return d.rec.Factors[i].Hint
}

// probeFor bounds how long a visitor waits for a look at the route.
const probeFor = 5 * time.Second

// MailRoute says whether a code could be mailed at ChannelEncrypted now; nil: yes. An error that Is ErrHold is a no; any
// other means that it is not known, and that delivery must prove it. It takes at most 5 seconds.
func (d *Deposit) MailRoute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	_, err := d.e.mailRoute(ctx, d.row.tenant, d.Recipient().Domain())
	return err
}

// Check says whether value is what the recipient must give for a factor of that kind (FactorCode or FactorQuestion). It
// costs one argon2id whatever the answer, and is not throttled here. Errors are those of [Escrow.Hash].
func (d *Deposit) Check(ctx context.Context, kind string, value securemail.Secret) (bool, error) {
	sum, err := d.e.sum(ctx, kind, normal(kind, value.Reveal()), d.rec.Salt)
	if err != nil {
		return false, err
	}
	ok := 0
	for _, f := range d.rec.Factors {
		if f.Kind == kind {
			ok |= subtle.ConstantTimeCompare(sum, f.Hash)
		}
	}
	return ok == 1 && d.live, nil
}

// Reader is the Actor that a portal sets in the context of Open and Opened once the recipient proved himself.
func (d *Deposit) Reader(auth securemail.Auth) securemail.Actor {
	return securemail.Actor{Tenant: d.row.tenant, ID: d.row.id, Kind: "recipient", Auth: auth}
}

// Open gives the message as it was accepted. The Actor must be the recipient, as [Deposit.Reader] makes him, or be
// allowed "read.deposit". Act on what was read only when reading ended with io.EOF: a cut body is an error there. It
// holds no connection between reads.
func (d *Deposit) Open(ctx context.Context) (io.Reader, error) {
	if !d.live {
		return nil, fmt.Errorf("escrow: open deposit: %w", securemail.ErrDenied)
	}
	if a, ok := securemail.ActorOf(ctx); !ok || !d.readBy(a) {
		if err := d.e.authorize(ctx, "read.deposit", d.row); err != nil {
			return nil, err
		}
	}
	return d.e.openBody(ctx, d.row.id, d.key)
}

func (d *Deposit) readBy(a securemail.Actor) bool {
	return a.Kind == "recipient" && a.ID == d.row.id && a.Tenant == d.row.tenant
}

// Opened records that the recipient, the Actor in ctx, has read the message. The first call makes the event "read",
// with Status.Read, in the same commit; a repeat does nothing and costs nothing.
func (d *Deposit) Opened(ctx context.Context) error {
	a, ok := securemail.ActorOf(ctx)
	if !ok || !d.live || !d.readBy(a) {
		return fmt.Errorf("escrow: record read: %w", securemail.ErrDenied)
	}
	if !d.row.opened.IsZero() {
		return nil
	}
	ev := d.e.event(d.row, d.rec, "read", a)
	ev.Read = ev.Time
	err := d.e.sql.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, d.e.sql.Rebind("UPDATE escrow_deposit SET opened=? WHERE id=? AND opened=0"),
			ev.Time.UnixMicro(), d.row.id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return d.e.tell(ctx, tx, ev)
	})
	if err != nil {
		return fmt.Errorf("escrow: record read: %w", err)
	}
	d.row.opened = ev.Time
	return nil
}
