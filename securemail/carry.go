package securemail

import (
	"context"
	"time"
)

// Job is what an Encryptor works on. Keys are exactly those that the Policy saw, where it saw any.
type Job struct {
	*Parcel
	Keys   []Key
	Choice Choice
}

// Protection is the evidence of encryption: algorithm, the fingerprints of the keys it was sealed to, and details
// (no PHI).
type Protection struct {
	Algorithm string
	Keys      []string
	Detail    map[string]string
}

// Sealed is an Encryptor's result: the message that leaves, and the evidence.
type Sealed struct {
	Message    *Message
	Protection `cbor:"protection"`
}

// Encryptor protects messages by one Method. It is called from many goroutines, must not keep the Job, and its errors
// and logs carry no content.
//
// Encrypt answers ErrNoKey for "next Choice" and ErrHold for "a person must look"; any other error stops the attempt
// and is retried. The Message-ID must stay. Encrypt may be called again for the same parcel and must then not leave
// twice what it leaves behind. Undo destroys what Encrypt left behind for a parcel that ended another way; for an
// encryptor that leaves nothing, and for an unknown id, it is nil. It is called soon after the end, from the events, and
// may be repeated. Undo is no optional interface, since a wrapper would
// hide it.
type Encryptor interface {
	Method() Method
	Encrypt(ctx context.Context, j *Job) (*Sealed, error)
	Undo(ctx context.Context, id ParcelID) error
}

// Tracker adds what tracking needs. An error, or doubt, means that the message goes unchanged.
type Tracker interface {
	Instrument(ctx context.Context, p *Parcel, t Tracking) (*Message, error)
}

// Signer signs what is about to leave (DKIM). An error stops the attempt and is retried.
type Signer interface {
	Sign(ctx context.Context, p *Parcel) (*Message, error)
}

// Shipment is what a Transport delivers: the parcel as it leaves, and the floor.
type Shipment struct {
	*Parcel
	Channel    Channel
	RequireTLS bool
	Attempt    int
	// Key is the idempotency key at a provider: one per parcel and Choice.
	Key string
	// OnIntend records the intent; nil: there is nothing to record.
	OnIntend func(context.Context) error
}

// Intend is the commit before the point of no return. A Transport calls it after the floor is proved and the recipient
// accepted, before the octet that can make the far end accept; a repeat is nil. An error stops the delivery with nothing
// accepted.
func (s *Shipment) Intend(ctx context.Context) error {
	if s.OnIntend == nil {
		return nil
	}
	return s.OnIntend(ctx)
}

// Receipt is the evidence of a delivery.
type Receipt struct {
	Wire `cbor:"wire"`
	Time time.Time
	// Peer is the far host's name; RemoteID its queue id or message id, as far as it said one.
	Peer, RemoteID string
}

// Transport delivers. It is called from many goroutines; each call is one delivery, and ctx bounds it. An error that Is
// ErrChannel says that the floor was not met and no byte of the message left; a *DeliveryError says the fate; any other
// error means retry before Intend and uncertain after it. Errors and logs carry no content and no address.
type Transport interface {
	Deliver(ctx context.Context, s *Shipment) (*Receipt, error)
}

// TransportFunc makes a Transport of a function.
type TransportFunc func(ctx context.Context, s *Shipment) (*Receipt, error)

// Deliver calls f.
func (f TransportFunc) Deliver(ctx context.Context, s *Shipment) (*Receipt, error) { return f(ctx, s) }

// Record is what an Archiver keeps. Stage is "original", the message as accepted, or "sent", with the Receipt.
type Record struct {
	Slip    `cbor:"slip"`
	Stage   string
	Message *Message `cbor:"-"`
	Receipt *Receipt
}

// Archiver keeps originals and receipts. "original" comes once a Submission, before any byte leaves, and again after a
// crash: it must be idempotent by Submission, Message-ID and Stage. An error defers the parcel.
type Archiver interface {
	Archive(ctx context.Context, r *Record) error
}
