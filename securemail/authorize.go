package securemail

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The actions that the Mailer asks for; the table is in the package comment.
const (
	actSend   Action = "send"
	actStatus Action = "read.status"
	actOrder  Action = "order"
)

// builtIn is the Authorizer where Config has none.
func builtIn(_ context.Context, a Actor, act Action, r Resource) error {
	if r.Tenant != a.Tenant {
		return ErrDenied
	}
	switch act {
	case actSend, actStatus, actOrder:
		return nil
	}
	if slices.Contains(a.Roles, "admin") {
		return nil
	}
	return ErrDenied
}

// caller finds out who calls and for whom: the Actor in ctx, else Config.Service. The context it returns has him in it.
func (m *Mailer) caller(ctx context.Context) (context.Context, Actor, Tenant, error) {
	a, ok := ActorOf(ctx)
	if !ok {
		a = m.c.Service
	}
	if a.ID == "" || a.Kind == "" {
		return ctx, Actor{}, Tenant{}, fmt.Errorf("securemail: no actor: %w", ErrDenied)
	}
	a = tidyActor(a)
	ctx = WithActor(ctx, a)
	if m.c.Tenants == nil {
		if a.Tenant != "" {
			return ctx, a, Tenant{}, fmt.Errorf("securemail: no tenants configured: %w", ErrTenant)
		}
		return ctx, a, Tenant{From: []string{"*"}}, nil
	}
	if a.Tenant == "" {
		return ctx, a, Tenant{}, fmt.Errorf("securemail: actor without tenant: %w", ErrTenant)
	}
	t, err := m.c.Tenants.Tenant(ctx, a.Tenant)
	if err != nil {
		return ctx, a, Tenant{}, fmt.Errorf("securemail: tenant: %w", err)
	}
	if t.ID != "" && t.ID != a.Tenant {
		return ctx, a, Tenant{}, fmt.Errorf("securemail: another tenant than asked for: %w", ErrTenant)
	}
	return ctx, a, t, nil
}

// may is caller and Authorize in one.
func (m *Mailer) may(ctx context.Context, act Action, kind string, ids ...string) (context.Context, Actor, Tenant, error) {
	ctx, a, t, err := m.caller(ctx)
	if err != nil {
		if errors.Is(err, ErrDenied) || errors.Is(err, ErrTenant) {
			m.denied(ctx, a, act, Resource{Kind: kind, ID: firstID(ids)}, whyCaller)
		}
		return ctx, a, t, err
	}
	if len(ids) == 0 {
		ids = []string{""}
	}
	for _, id := range ids {
		if err := m.c.Authorizer.Authorize(ctx, a, act, Resource{Tenant: a.Tenant, Kind: kind, ID: id}); err != nil {
			if errors.Is(err, ErrDenied) {
				m.denied(ctx, a, act, Resource{Kind: kind, ID: id}, whyOf(err))
			}
			return ctx, a, t, fmt.Errorf("securemail: %s: %w", act, err)
		}
	}
	return ctx, a, t, nil
}

// mayNotWriteAs says whether the tenant may not write as from. An empty list allows nothing.
func (t Tenant) mayNotWriteAs(from Address) bool {
	return !slices.ContainsFunc(t.From, func(s string) bool {
		if s == "*" {
			return true
		}
		if domain, ok := strings.CutPrefix(s, "@"); ok {
			return foldASCII(domain) == from.Domain()
		}
		a, err := ParseAddress(s)
		return err == nil && a.domain == from.domain && foldASCII(a.local) == foldASCII(from.local)
	})
}

// foldASCII folds letters of ASCII only: in a question of rights no foreign letter may pass for one of them, as U+212A
// does for k in strings.EqualFold.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
