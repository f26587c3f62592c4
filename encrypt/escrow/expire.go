package escrow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

const (
	sweepEvery = 10 * time.Minute
	sweepBatch = 100
)

// Revoke ends access to the parcel's deposit from the next request on and destroys its key and content; it can't be
// undone. The Actor must be allowed "destroy" on the deposit. An unknown parcel is ErrDenied too, so that nobody learns
// which exist; one that has ended already is nil.
func (e *Escrow) Revoke(ctx context.Context, id securemail.ParcelID) error {
	r, err := e.rowWhere(ctx, "parcel=?", string(id))
	if err != nil {
		return err
	}
	if r == nil {
		return fmt.Errorf("escrow: revoke: %w", securemail.ErrDenied)
	}
	if err := e.authorize(ctx, "destroy", r); err != nil {
		return err
	}
	a, _ := securemail.ActorOf(ctx)
	return e.end(ctx, r, stateRevoked, a)
}

// end closes r with an event that still has the slip, where the key ring gives it.
func (e *Escrow) end(ctx context.Context, r *row, state string, by securemail.Actor) error {
	var rec *record
	if r.state == stateOpen {
		_, opened, err := e.openHead(ctx, r)
		if err != nil { // its key may be gone by another scope: end it all the same
			e.o.Logger.WarnContext(ctx, "escrow: ending a deposit that does not open", slog.String("deposit", r.id), slog.Any("err", err))
		}
		rec = opened
	}
	return e.close(ctx, r, state, e.event(r, rec, "deposit."+state, by))
}

// authorize asks whether the Actor may do act to r.
func (e *Escrow) authorize(ctx context.Context, act securemail.Action, r *row) error {
	a, ok := securemail.ActorOf(ctx)
	if !ok || a.ID == "" || a.Tenant != r.tenant {
		return fmt.Errorf("escrow: %s: %w", act, securemail.ErrDenied)
	}
	if e.o.Authorizer != nil {
		res := securemail.Resource{Tenant: r.tenant, Kind: "deposit", ID: r.id}
		if err := e.o.Authorizer.Authorize(ctx, a, act, res); err != nil {
			return fmt.Errorf("escrow: %s: %w", act, err)
		}
		return nil
	}
	if !slices.Contains(a.Roles, "admin") {
		return fmt.Errorf("escrow: %s: %w", act, securemail.ErrDenied)
	}
	return nil
}

// Run calls Sweep every 10 minutes until ctx ends, and then returns nil. A sweep that fails is logged and made again.
func (e *Escrow) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		if err := e.Sweep(ctx); err != nil && ctx.Err() == nil {
			e.o.Logger.ErrorContext(ctx, "escrow: sweep", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Sweep destroys the deposits whose time is over, and completes destructions that were cut short. Access ends at the
// time itself, not with the sweep. It goes on after a deposit that fails and returns the errors joined.
func (e *Escrow) Sweep(ctx context.Context) error {
	var errs []error
	after := ""
	for {
		rs, err := e.due(ctx, after)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, e.endAll(ctx, rs)...)
		if len(rs) < sweepBatch {
			return errors.Join(errs...)
		}
		after = rs[len(rs)-1].id
	}
}

// endAll ends rs at once: a key ring shares the work of destructions that come together, and one by one each may cost a
// whole new ledger.
func (e *Escrow) endAll(ctx context.Context, rs []*row) []error {
	errs := make([]error, len(rs))
	var wg sync.WaitGroup
	for i, r := range rs {
		state := r.state
		if state == stateOpen {
			state = stateExpired
		}
		by := securemail.Actor{Tenant: r.tenant, ID: "escrow", Kind: "part"}
		wg.Go(func() { errs[i] = e.end(ctx, r, state, by) })
	}
	wg.Wait()
	return errs
}

// due lists deposits that are over but still hold a key, in order of id.
func (e *Escrow) due(ctx context.Context, after string) ([]*row, error) {
	rows, err := e.db.QueryContext(ctx, e.sql.Rebind(`SELECT id, parcel, tenant, state, wrapped, head FROM escrow_deposit
		WHERE id>? AND (state=? AND expires<=? OR state<>? AND length(wrapped)>0) ORDER BY id LIMIT ?`),
		after, stateOpen, e.o.Now().UnixMicro(), stateOpen, sweepBatch)
	if err != nil {
		return nil, fmt.Errorf("escrow: list due deposits: %w", err)
	}
	defer rows.Close()
	var out []*row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.parcel, &r.tenant, &r.state, &r.wrapped, &r.head); err != nil {
			return nil, fmt.Errorf("escrow: list due deposits: %w", err)
		}
		out = append(out, &r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("escrow: list due deposits: %w", err)
	}
	return out, nil
}
