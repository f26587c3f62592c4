package escrow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Algorithm is what Protection says about a deposit.
const Algorithm = "escrow AES-256-GCM chunked"

// The profiles of a Choice; see the package comment.
const (
	ProfileAny      = ""
	ProfileMailCode = "code-by-mail"
	ProfileCode     = "code"
	ProfileQuestion = "question"
)

// Why a parcel is held or tried again; none holds an address.
var (
	errNoJob       = errors.New("escrow: job without parcel, message or recipient")
	errNoMessageID = errors.New("escrow: message without one Message-ID")
	errNoFactor    = fmt.Errorf("escrow: the profile needs a factor that is not on file: %w", securemail.ErrHold)
	errProfile     = fmt.Errorf("escrow: profile not offered: %w", securemail.ErrHold)
	errNoProber    = fmt.Errorf("escrow: no factor on file and nobody to ask for the route: %w", securemail.ErrHold)
	errRouteBad    = fmt.Errorf("escrow: no factor on file and no route for a mailed code: %w", securemail.ErrHold)
	errClosed      = fmt.Errorf("escrow: deposit was revoked or has expired: %w", securemail.ErrHold)
	errTooLate     = fmt.Errorf("escrow: pick-up would have ended already: %w", securemail.ErrHold)
	errTooLarge    = fmt.Errorf("escrow: message over %d octets: %w", MaxSize, securemail.ErrHold)
	errRouteDark   = errors.New("escrow: route for a mailed code is not known right now")
)

// maxMessageID keeps the notice's lines below 998 octets (RFC 5322 section 2.1.1).
const maxMessageID = 900

// Encrypt deposits j's message and gives the notice. A second call for the parcel finds the deposit of the first and
// gives the same link; the first call's factors and message stay. It keeps nothing of j.
//
// ErrHold: no way for the recipient to prove himself, the deposit was revoked, destroyed or has expired, AccessUntil has passed, or
// the message is over MaxSize. Any other error is temporary, among them a route that is not known right now.
func (e *Escrow) Encrypt(ctx context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	if j == nil || j.Parcel == nil || j.Message == nil || j.ID == "" || j.Recipient.Address == (securemail.Address{}) {
		return nil, errNoJob
	}
	ids := j.Message.Header("Message-ID")
	if len(ids) != 1 || len(ids[0]) > maxMessageID || !printable(ids[0]) {
		return nil, errNoMessageID
	}
	r, err := e.rowWhere(ctx, "parcel=?", string(j.ID))
	if err != nil {
		return nil, err
	}
	if r == nil {
		return e.deposit(ctx, j, ids[0])
	}
	return e.again(ctx, r)
}

// deposit makes the one deposit of a parcel.
func (e *Escrow) deposit(ctx context.Context, j *securemail.Job, messageID string) (*securemail.Sealed, error) {
	now := e.o.Now()
	r := &row{
		id: newID(now), parcel: string(j.ID), tenant: j.Actor.Tenant, state: stateOpen,
		created: now, expires: j.AccessUntil,
	}
	if r.expires.IsZero() {
		r.expires = now.Add(e.o.Expiry)
	}
	switch {
	case !r.expires.After(now):
		return nil, errTooLate
	case j.Message.Size() > MaxSize:
		return nil, errTooLarge
	}
	rec := &record{Version: recordVersion, Slip: j.Slip, Salt: newSalt(), MessageID: messageID}
	if err := e.authentication(ctx, j, rec); err != nil {
		return nil, err
	}
	key, wrapped, head, err := e.sealHead(ctx, r.id, rec, scopesOf(r.id, &j.Slip)...)
	if err != nil {
		return nil, err
	}
	r.wrapped, r.head = wrapped, head
	m, err := withoutBcc(j.Message)
	if err != nil {
		return nil, err
	}
	body, err := sealBody(m, key, r.id)
	if err != nil {
		return nil, err
	}
	loc, err := locatorOf(key)
	if err != nil {
		return nil, err
	}
	ev := e.event(r, rec, "deposited", securemail.Actor{Tenant: r.tenant, ID: "escrow", Kind: "part"})
	stored, err := e.insert(ctx, r, loc.Hash(), body, ev)
	if err != nil {
		return nil, err
	}
	if !stored {
		return e.raced(ctx, r)
	}
	return e.sealed(r, rec, key)
}

// withoutBcc is m without the fields that name hidden recipients (RFC 5322 section 3.6.3). The Mailer writes none; what
// others hand in may hold some.
func withoutBcc(m *securemail.Message) (*securemail.Message, error) {
	if len(m.Header("Bcc")) == 0 && len(m.Header("Resent-Bcc")) == 0 {
		return m, nil
	}
	var head strings.Builder
	drop := false
	for line := range strings.SplitAfterSeq(string(m.Head()), "\r\n") {
		if folded := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"); !folded {
			name, _, _ := strings.Cut(line, ":")
			name = strings.TrimRight(name, " \t")
			drop = strings.EqualFold(name, "Bcc") || strings.EqualFold(name, "Resent-Bcc")
		}
		if !drop {
			head.WriteString(line)
		}
	}
	out, err := m.WithHead([]byte(head.String()))
	if err != nil {
		return nil, fmt.Errorf("escrow: remove Bcc: %w", err)
	}
	return out, nil
}

// raced is for the loser of two calls for one parcel: his key goes, the winner's deposit is taken.
func (e *Escrow) raced(ctx context.Context, lost *row) (*securemail.Sealed, error) {
	if _, err := e.ring.Destroy(ctx, DepositScope(lost.id)); err != nil {
		return nil, fmt.Errorf("escrow: destroy spare key: %w", err)
	}
	r, err := e.rowWhere(ctx, "parcel=?", lost.parcel)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errors.New("escrow: deposit vanished while it was made")
	}
	return e.again(ctx, r)
}

// again gives the notice of a deposit that is there.
func (e *Escrow) again(ctx context.Context, r *row) (*securemail.Sealed, error) {
	if r.state != stateOpen || !r.expires.After(e.o.Now()) {
		return nil, errClosed
	}
	key, rec, err := e.openHead(ctx, r)
	if err != nil {
		if _, _, lost := e.openHead(ctx, e.decoy); lost == nil {
			// The ring answers, so the key of this one is gone for good, as after a restore of older rows.
			return nil, fmt.Errorf("%w: %w", errClosed, err)
		}
		return nil, err
	}
	return e.sealed(r, rec, key)
}

func (e *Escrow) sealed(r *row, rec *record, key []byte) (*securemail.Sealed, error) {
	loc, err := locatorOf(key)
	if err != nil {
		return nil, err
	}
	print, err := fingerprintOf(key)
	if err != nil {
		return nil, err
	}
	m, err := e.notice(r, rec, loc)
	if err != nil {
		return nil, err
	}
	return &securemail.Sealed{Message: m, Protection: securemail.Protection{
		Algorithm: Algorithm, Keys: []string{print}, Detail: map[string]string{"deposit": r.id},
	}}, nil
}

// authentication writes into rec how the recipient will prove himself.
func (e *Escrow) authentication(ctx context.Context, j *securemail.Job, rec *record) error {
	fs, err := e.hashFactors(ctx, j.Factors, rec.Salt)
	if errors.Is(err, errFactors) {
		return fmt.Errorf("%w: %w", err, securemail.ErrHold)
	}
	if err != nil {
		return fmt.Errorf("escrow: hash factors: %w", err)
	}
	switch p := j.Choice.Profile; p {
	case ProfileCode, ProfileQuestion: // a profile has the name of its factor
		rec.Factors = slices.DeleteFunc(fs, func(f factorRecord) bool { return f.Kind != p })
		if len(rec.Factors) == 0 {
			return errNoFactor
		}
		return nil
	case ProfileAny:
		if rec.Factors = fs; len(fs) > 0 {
			return nil
		}
	case ProfileMailCode:
		rec.Factors = fs
	default:
		return errProfile
	}
	rec.MailCode, err = e.mailRoute(ctx, j.Actor.Tenant, j.Recipient.Address.Domain())
	if len(rec.Factors) > 0 {
		return nil // another way is there: neither a bad nor a dark route matters
	}
	return err
}

// mailRoute says whether a code could be mailed at ChannelEncrypted. Where it can't, the error Is ErrHold; where that
// is not known right now, it is another.
func (e *Escrow) mailRoute(ctx context.Context, tenant, domain string) (bool, error) {
	if e.o.Prober == nil {
		return false, errNoProber
	}
	r, err := e.o.Prober.Probe(ctx, tenant, domain)
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: %w", errRouteDark, err)
	case !r.Known:
		return false, errRouteDark
	case !r.Meets(securemail.ChannelEncrypted):
		return false, errRouteBad
	}
	return true, nil
}

// Undo destroys the parcel's deposit: its key, then its rows. Unknown id: nil. A repeat completes what was cut short.
func (e *Escrow) Undo(ctx context.Context, id securemail.ParcelID) error {
	r, err := e.rowWhere(ctx, "parcel=?", string(id))
	if r == nil || err != nil {
		return err
	}
	if _, err := e.ring.Destroy(ctx, DepositScope(r.id)); err != nil {
		return fmt.Errorf("escrow: destroy deposit key: %w", err)
	}
	return e.wipe(ctx, r.id, "DELETE FROM escrow_deposit WHERE id=?", r.id)
}

func (e *Escrow) event(r *row, rec *record, kind string, by securemail.Actor) *securemail.Event {
	now := e.o.Now()
	ev := &securemail.Event{ID: newID(now), Kind: kind, Time: now, By: by, Detail: map[string]string{"deposit": r.id}}
	ev.Choice.Method = securemail.MethodEscrow
	if rec != nil {
		ev.Slip = rec.Slip
	} else {
		ev.Slip = securemail.Slip{ID: securemail.ParcelID(r.parcel), Actor: securemail.Actor{Tenant: r.tenant}}
	}
	return ev
}

// until is when pick-up ends, as people read it.
func until(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }
