package securemail

import (
	"context"
	"log/slog"
	"time"
)

// Runner is the background work of a part. Run blocks until ctx ends, then drains and returns nil; any other return ends
// the Mailer's Run.
type Runner interface {
	Run(ctx context.Context) error
}

// Config is everything a Mailer is made of. Policy, Transport, Queue, Outbox and Ledger are required.
type Config struct {
	Policy    Policy
	Transport Transport
	// Queue, and Outbox: the SQL queue is both, and a Desk and a TxQueue besides.
	Queue  Queue
	Outbox Outbox
	Ledger Ledger
	// Service is who acts where ctx has no Actor; zero: such a call is ErrDenied.
	Service Actor
	// Tenants nil: there is one tenant, "". Else an Actor of a known tenant is required, Service included.
	Tenants Tenants
	// Authorizer nil: the actions "send", "read.status" and "order" are allowed in the Actor's own tenant; everything else
	// needs the role "admin".
	Authorizer Authorizer
	// Encryptors, one a Method that the Policy can choose.
	Encryptors []Encryptor
	// Keys nil: no recipient has a key.
	Keys KeySource
	// Prober nil: no route is known before delivery.
	Prober Prober
	// Classifier nil: everything is PHI.
	Classifier Classifier
	Gates      []Gate
	Tracker    Tracker
	Signer     Signer
	Archiver   Archiver
	// Sinks, by the name of their cursor; "ledger" and "undo" are taken.
	Sinks map[string]Sink
	// Parts are run and stopped with the Mailer, as is every value above that is a Runner; one that fails ends Run.
	Parts []Runner
	// ReturnPath gives the envelope sender where the Draft has none; nil: From.
	ReturnPath func(*Parcel) Address
	// Retry is the wait behind a failed attempt, counted from 1; nil: 1 min doubling to 4 h, each with up to 20 % jitter.
	Retry func(attempt int) time.Duration
	// GiveUp ends retrying where a Decision has no Patience of its own; 0: 5 days. Drain bounds how long Run lets work in
	// flight finish; 0: 25 s.
	GiveUp, Drain time.Duration
	// Workers is how many deliveries run at once; 0: 32. MaxVisible bounds To and Cc together; 0: 20.
	Workers, MaxVisible int
	// MaxSize bounds a message, in octets; 0: 25 MiB.
	MaxSize int64
	// Domain is the right side of Message-IDs, in lower case A-labels; empty: From's domain.
	Domain string
	// Logger nil: slog.Default(). Now nil: time.Now.
	Logger *slog.Logger
	Now    func() time.Time
}

// Submission is the answer to a Send: an id, and a status per recipient in the order To, Cc, Bcc, Each.
type Submission struct {
	ID      string
	Parcels []Status
	// Repeated: the idempotency key was known; this is the first answer.
	Repeated bool
}

// SendResult is one answer of SendBatch. A recipient whom a Gate refused has StateRefused.
type SendResult struct {
	*Submission
	Err error
}

// Explanation says what would happen to one recipient now. Use is the first Choice whose keys or Route are there; nil:
// the Decision's Else.
type Explanation struct {
	Facts    Facts
	Decision Decision
	Use      *Choice
	Err      error
}
