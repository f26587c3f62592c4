package securemail

import (
	"context"
	"database/sql"
	"io"
	"iter"
	"time"
)

// State is where a parcel stands.
type State string

const (
	StateAccepted   State = "accepted"   // durable, not tried yet
	StateAttempting State = "attempting" // intent recorded: the far end may accept at any moment
	StateDeferred   State = "deferred"   // will be tried again at Status.Next
	StateHeld       State = "held"       // waits for a person; with Next set it expires then
	StateDelivered  State = "delivered"  // final; for escrow: the notice was accepted
	StateBounced    State = "bounced"    // final
	StateDropped    State = "dropped"    // final, by rule
	StateUncertain  State = "uncertain"  // the reply was lost; waits for a person, or with Next set is tried again
	StateRefused    State = "refused"    // final: a Gate said no
	StateCancelled  State = "cancelled"  // final, by order
	StateExpired    State = "expired"    // final: UsefulUntil passed
)

// Final says whether the state can never change.
func (s State) Final() bool {
	switch s {
	case StateDelivered, StateBounced, StateDropped, StateRefused, StateCancelled, StateExpired:
		return true
	}
	return false
}

// Status is the one shape of query, event and webhook. Its JSON is thin; see [Status.MarshalJSON].
type Status struct {
	Slip    `cbor:"slip"`
	State   State
	Attempt int
	// Choice is the last one tried; Policy and Reasons say which rule chose it and why.
	Choice     Choice
	Policy     string
	Reasons    []Reason
	Protection *Protection
	Receipt    *Receipt
	// Failure is the last cause, without PHI.
	Failure string
	// Next is when it is tried again or, where it is held, expires; zero: nothing happens by itself. Changed is when the state was entered. Read is, for escrow, when
	// the message was first opened.
	Next, Changed, Read time.Time
}

// Event is a thing that happened. The Outbox gives Seq, which rises. By.Tenant is always set, also where there is no
// Slip. Kind is the state entered ("accepted", "delivered", ...), or "fault", "read" and what the parts add.
type Event struct {
	ID     string
	Seq    int64
	Kind   string
	Time   time.Time
	By     Actor
	Status `cbor:"status"`
	// Facts and Decision are set on the event that records a decision.
	Facts    *Facts
	Decision *Decision
	// Detail holds no PHI: webhooks and the log show it.
	Detail map[string]string
}

// Sink takes events: at least once, in order per parcel, so it must be idempotent by event id. An error means again later;
// ErrRefused skips this one. A Sink may also have EmitAll(context.Context, ...Event) error, for many events at the price
// of one; there every error means all of them again later.
type Sink interface {
	Emit(ctx context.Context, e Event) error
}

// SinkFunc makes a Sink of a function.
type SinkFunc func(ctx context.Context, e Event) error

// Emit calls f.
func (f SinkFunc) Emit(ctx context.Context, e Event) error { return f(ctx, e) }

// Ledger is the tamper-evident log, fed from the Outbox. Emit is idempotent by event id. Prove returns what a verifier
// needs to check offline that the event is in the log.
type Ledger interface {
	Sink
	Prove(ctx context.Context, eventID string) ([]byte, error)
}

// Outbox holds events between the commit that made them and the readers that need them, each with its own cursor.
type Outbox interface {
	// Add is for the parts: portal, tracking, posture. A nil tx: a transaction of its own. An event of Kind "read" with
	// Status.ID and Status.Read also sets Read of that parcel's Status, once.
	Add(ctx context.Context, tx *sql.Tx, es ...Event) error
	// Next returns up to max events behind reader's cursor, in order; none: all read.
	Next(ctx context.Context, reader string, max int) ([]Event, error)
	// Ack moves reader's cursor to the event id.
	Ack(ctx context.Context, reader, id string) error
}

// Batch is one Send: its parcels, the recipients that were refused, and the events of both.
type Batch struct {
	// Tenant and Key are the idempotency key; Digest is over content and recipients.
	Tenant, Key string
	Digest      [32]byte
	// Submission is the id of this Send.
	Submission string
	Parcels    []*Parcel
	Refused    []Status
	Events     []Event
}

// Lease is the right to attempt one parcel until it is marked, or until the queue takes it back.
type Lease struct {
	Parcel *Parcel
	// Attempt counts from 1, and counts attempts that crashed.
	Attempt int
	// Last is the status before this lease. State attempting is an intent without an outcome; uncertain one that is to be
	// delivered again the same way, by Last.Choice.
	Last Status
	// Token is the fence: a Mark with an old one is ErrLease.
	Token string
}

// Mark records what became of a lease, with its events, in one commit. Status.State attempting is the intent and keeps
// the lease; deferred sets Next; uncertain, held and the final states end it. Held with Next is handed out again then, with
// Last.State held, to expire.
type Mark struct {
	Lease  *Lease
	Status Status
	Events []Event
}

// Queue is the durable queue.
type Queue interface {
	// Put is atomic and durable. A known Key gives its first answer, with Repeated set, or ErrConflict.
	Put(ctx context.Context, b *Batch) (*Submission, error)
	// Take leases up to max due parcels; where none is due it waits up to wait for one.
	Take(ctx context.Context, now time.Time, max int, wait time.Duration) ([]*Lease, error)
	// Mark commits all of ms or none. ErrLease: some lease was lost, and nothing was recorded.
	Mark(ctx context.Context, ms ...Mark) error
}

// TxQueue is a Queue that can join the host's transaction; optional, without it SendTx is ErrTx. A repeated Key must not
// abort the transaction.
type TxQueue interface {
	PutTx(ctx context.Context, tx *sql.Tx, b *Batch) (*Submission, error)
}

// Desk looks into a queue and gives orders; optional for a Queue. It never reaches beyond the tenant.
type Desk interface {
	Find(ctx context.Context, q Query) iter.Seq2[Status, error]
	// Order is all or nothing; ErrFinal: one of ids already ended, or is leaving right now.
	Order(ctx context.Context, o Order, tenant string, ids ...ParcelID) error
}

// Query selects statuses, in order of ParcelID. Empty fields select all.
type Query struct {
	Tenant, Submission, Ref string
	Labels                  map[string]string
	IDs                     []ParcelID
	States                  []State
	// After and Limit page; Limit 0: no limit.
	After ParcelID
	Limit int
}

// Order is what a person can tell the queue about a parcel.
type Order uint8

const (
	Cancel  Order = iota + 1 // ends it
	Hold                     // keeps it until Release
	Release                  // back to the queue, due at once or at its NotBefore
	Retry                    // due now; for an uncertain one: deliver again the same way
)

// BlobStore keeps sealed bodies too large for a row. Put is durable (file and folder synced) when it returns. Keys are
// random: [0-9a-z/]+.
type BlobStore interface {
	Put(ctx context.Context, key string, r io.Reader) error
	// Open of an unknown key Is fs.ErrNotExist; any other error is "not now".
	Open(ctx context.Context, key string) (io.ReadCloser, error)
	// Delete of an unknown key is nil.
	Delete(ctx context.Context, key string) error
}

// Destruction is the proof record of a destroyed scope: At when the scope key went, EpochRetires when older copies of the
// key ledger open nothing either.
type Destruction struct {
	Scope            string
	At, EpochRetires time.Time
}

// KeyRing wraps data keys under scopes. Losing any one of a key's scopes destroys it. The library's own scopes are named
// "tenant/", "submission/", "subject/" and "cohort/" and what they are of; keyring has functions for them. An error that is
// by errors.As an interface{ Destroyed() bool }, and answers true, is final; under any other the key may be had later.
type KeyRing interface {
	Wrap(ctx context.Context, key []byte, scopes ...string) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
	Destroy(ctx context.Context, scope string) (Destruction, error)
}
