package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Result says how a delivery ended.
type Result string

const (
	// Delivered: there is a receipt.
	Delivered Result = "delivered"
	// Retry: surely nothing was accepted, a later attempt may succeed.
	Retry Result = "retry"
	// Permanent: the far end refused for good.
	Permanent Result = "permanent"
	// Uncertain: the far end may or may not have accepted.
	Uncertain Result = "uncertain"
	// Channel: the floor was not met, and no byte of the message left.
	Channel Result = "channel"
	// Held: the parcel must wait for a person (securemail.ErrHold).
	Held Result = "held"
	// Panicked: the Transport panicked.
	Panicked Result = "panicked"
)

// Outcome is one delivery and its end. It has no address, no content and no text from the far end; Parcel leads to the
// rest in the records of the mailer. It is the recorder's own to keep and change.
type Outcome struct {
	Parcel             securemail.ParcelID
	Submission, Tenant string
	// Domain is the recipient's; Level is what the message was classified as.
	Domain     string
	Level      securemail.Level
	Floor      securemail.Channel
	RequireTLS bool
	Attempt    int

	Start    time.Time
	Duration time.Duration
	Result   Result
	// Intended says that the intent was recorded: the far end may have seen the last octet.
	Intended bool
	// Stage, Code, Enhanced and RetryAfter are those of the securemail.DeliveryError, where there was one; Temporary is that of
	// the securemail.ChannelError.
	Stage, Enhanced string
	Code            int
	RetryAfter      time.Duration
	Temporary       bool
	// Wire is what was proved, also where the delivery failed. Peer and RemoteID are those of the receipt.
	Wire           securemail.Wire
	Peer, RemoteID string
}

// Recorder takes outcomes, such as to count them or to keep them as evidence. Record is called once a delivery, from its
// goroutine and before it returns, so it should be quick; ctx has the values of the delivery's and does not end with it.
type Recorder interface {
	Record(ctx context.Context, o Outcome)
}

// RecorderFunc makes a Recorder of a function.
type RecorderFunc func(ctx context.Context, o Outcome)

// Record calls f.
func (f RecorderFunc) Record(ctx context.Context, o Outcome) { f(ctx, o) }

// RecordOptions are the options of [Record]; nil and zero fields mean the defaults.
type RecordOptions struct {
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger hears of a Recorder that panicked; nil discards.
	Logger *slog.Logger
}

// Recording is what [Record] makes. It is safe for concurrent use if its Transport and its Recorder are.
type Recording struct {
	t   securemail.Transport
	r   Recorder
	now func() time.Time
	log *slog.Logger
}

var (
	_ securemail.Transport = (*Recording)(nil)
	_ securemail.Prober    = (*Recording)(nil)
	_ Observer             = (*Recording)(nil)
)

// Record makes a Transport that does what t does, and tells r of each delivery's end. Nothing that r does changes a
// delivery: its panics are caught, and what it gets is a copy.
func Record(t securemail.Transport, r Recorder, o *RecordOptions) (*Recording, error) {
	var errs []error
	if t == nil {
		errs = append(errs, errors.New("transport: record: no transport"))
	}
	if r == nil {
		errs = append(errs, errors.New("transport: record: no recorder"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := &Recording{t: t, r: r, now: time.Now, log: slog.New(slog.DiscardHandler)}
	if o != nil && o.Now != nil {
		out.now = o.Now
	}
	if o != nil && o.Logger != nil {
		out.log = o.Logger
	}
	return out, nil
}

// Deliver implements securemail.Transport.
func (r *Recording) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	watched, seen := watch(s)
	out := Outcome{
		Parcel: s.ID, Submission: s.Submission, Tenant: s.Actor.Tenant, Domain: s.Recipient.Address.Domain(), Level: s.Class.Level,
		Floor: s.Channel, RequireTLS: s.RequireTLS, Attempt: s.Attempt, Start: r.now(), Result: Panicked,
	}
	defer func() {
		out.Duration = r.now().Sub(out.Start)
		out.Intended = seen.called.Load() && !seen.failed.Load()
		r.tell(ctx, out)
	}()
	receipt, err := r.t.Deliver(ctx, watched)
	out.end(receipt, err, seen)
	return receipt, err
}

// end fills in what a delivery returned.
func (o *Outcome) end(receipt *securemail.Receipt, err error, seen *intent) {
	if err == nil {
		o.Result = Delivered
		if receipt != nil {
			o.Wire, o.Peer, o.RemoteID = cloned(receipt.Wire), receipt.Peer, receipt.RemoteID
		}
		return
	}
	if ce, ok := errors.AsType[*securemail.ChannelError](err); ok {
		o.Wire, o.Temporary = cloned(ce.Wire), ce.Temporary
	}
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	if ok {
		o.Stage, o.Code, o.Enhanced, o.RetryAfter, o.Wire = de.Stage, de.Code, de.Enhanced, de.RetryAfter, cloned(de.Wire)
	}
	intended := seen.called.Load() && !seen.failed.Load()
	switch channel, held := errors.Is(err, securemail.ErrChannel), errors.Is(err, securemail.ErrHold); {
	case uncertain(err), intended && (channel || held || !ok):
		o.Result = Uncertain
	case channel:
		o.Result = Channel
	case held:
		o.Result = Held
	case ok && de.Fate == securemail.FatePermanent:
		o.Result = Permanent
	default:
		o.Result = Retry
	}
}

// cloned shares nothing with w.
func cloned(w securemail.Wire) securemail.Wire {
	if w.TLS != nil {
		facts := *w.TLS
		w.TLS = &facts
	}
	if w.Operator != nil {
		o := *w.Operator
		o.Uses, o.Regions = append([]string(nil), o.Uses...), append([]string(nil), o.Regions...)
		w.Operator = &o
	}
	w.Reasons = append([]securemail.Reason(nil), w.Reasons...)
	return w
}

// tell calls the Recorder and outlives its panic.
func (r *Recording) tell(ctx context.Context, o Outcome) {
	defer func() {
		if p := recover(); p != nil {
			// The value may hold anything.
			r.log.ErrorContext(ctx, "transport: recorder panicked", "parcel", o.Parcel, "type", fmt.Sprintf("%T", p))
		}
	}()
	r.r.Record(context.WithoutCancel(ctx), o)
}

// Probe implements securemail.Prober: it asks the Transport; one that can't tell leaves the route unknown.
func (r *Recording) Probe(ctx context.Context, tenant, domain string) (securemail.Route, error) {
	return probe(ctx, r.t, tenant, domain)
}

// Observe implements Observer: it asks the Transport; the error of one that can't look Is errors.ErrUnsupported.
func (r *Recording) Observe(ctx context.Context, tenant, domain string) (*Observation, error) {
	return observe(ctx, r.t, tenant, domain)
}
