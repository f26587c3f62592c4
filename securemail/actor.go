package securemail

import (
	"context"
	"database/sql"
	"time"
)

// Actor is who calls. A host sets one in the context, once, in its middleware; it scopes, authorises, and is in every
// Event.
type Actor struct {
	// Tenant is the organisation acted for; "" in a single-tenant program.
	Tenant string
	// ID is the host's name for the caller (no PHI). Kind is "person", "service", "operator", "recipient" or "part".
	ID, Kind string
	Roles    []string
	Auth     Auth
	Origin   Origin
	// Purpose is the purpose of use that the caller states when reading content.
	Purpose string
}

// Auth says how an Actor signed in, or how he must (see [StepUpError]).
type Auth struct {
	Method, Session   string
	PhishingResistant bool
	At                time.Time
}

// Origin says where an Actor calls from, as far as the host knows and may record.
type Origin struct{ Device, Posture, Network, Place string }

type actorKey struct{}
type txKey struct{}

// WithActor returns a context in which a is the caller.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf returns the caller. In Run it is {the parcel's tenant, "mailer", "part"}.
func ActorOf(ctx context.Context) (Actor, bool) {
	a, ok := ctx.Value(actorKey{}).(Actor)
	return a, ok
}

// TxOf returns the host's transaction where the call runs under [Mailer.SendTx]. Gates, Tenants, Authorizer and
// Classifier that read a database must read through it: with one connection anything else would wait for ever.
func TxOf(ctx context.Context) (*sql.Tx, bool) {
	tx, ok := ctx.Value(txKey{}).(*sql.Tx)
	return tx, ok
}

func withTx(ctx context.Context, tx *sql.Tx) context.Context {
	return context.WithValue(ctx, txKey{}, tx)
}

// Action names what an Actor wants to do; the table is in the package comment.
type Action string

// Resource is what he wants to do it to. ID may be empty: all of that kind in the tenant.
type Resource struct{ Tenant, Kind, ID string }

// Authorizer stands in front of every exported call that reads content or changes policy, keys or state. It answers
// nil, ErrDenied, or a *StepUpError. It is called from many goroutines; under SendTx it must use [TxOf].
type Authorizer interface {
	Authorize(ctx context.Context, a Actor, act Action, r Resource) error
}

// AuthorizerFunc makes an Authorizer of a function.
type AuthorizerFunc func(ctx context.Context, a Actor, act Action, r Resource) error

// Authorize calls f.
func (f AuthorizerFunc) Authorize(ctx context.Context, a Actor, act Action, r Resource) error {
	return f(ctx, a, act, r)
}

// Tenant is one organisation. From lists what it may write as: addresses, or whole domains as "@example.org".
type Tenant struct {
	ID   string
	From []string
}

// Tenants knows the organisations. An unknown id is ErrTenant. Under SendTx it must use [TxOf].
type Tenants interface {
	Tenant(ctx context.Context, id string) (Tenant, error)
}
