package securemail

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// try carries out one Choice: look up, track, encrypt, sign, deliver.
func (a *attempt) try(ctx context.Context, c Choice) verdict {
	rule := choiceRule(c.Method)
	job := &Job{Parcel: a.p, Choice: c}
	if needsKeys(c.Method) {
		if !a.facts.has(c.Method) {
			a.m.lookUp(ctx, &a.facts, []Method{c.Method})
		}
		k := a.facts.Keys[c.Method]
		if k.State == KeyUnknown || k.State == KeyPending {
			a.status.Failure = k.Why.Text
			a.reason(rule, k.Why.Text)
			return verdictStop
		}
		job.Keys = k.Keys
	}
	a.track(ctx, job)
	sealed, v := a.encrypt(ctx, job)
	if v != verdictDelivered {
		return v
	}
	leaving := a.p.With(sealed.Message)
	if a.m.c.Signer != nil {
		signed, err := a.m.c.Signer.Sign(ctx, leaving)
		if err != nil || signed == nil {
			a.status.Failure = "securemail: signing failed"
			a.reason(rule, "signing failed")
			return verdictStop
		}
		leaving = leaving.With(signed)
	}
	a.status.Protection = &sealed.Protection
	return a.deliver(ctx, leaving, c)
}

// track instruments the message where the Choice says so. Doubt means that it goes unchanged.
func (a *attempt) track(ctx context.Context, job *Job) {
	bits := job.Choice.Track & a.p.Track
	if bits == 0 || a.m.c.Tracker == nil || job.Choice.Method != MethodTLS || a.p.Purpose == PurposeSystem {
		return
	}
	msg, err := a.m.c.Tracker.Instrument(ctx, a.p, bits)
	if err != nil || msg == nil {
		a.reason("track", "not instrumented")
		return
	}
	job.Parcel = a.p.With(msg)
}

func (a *attempt) encrypt(ctx context.Context, job *Job) (*Sealed, verdict) {
	rule := choiceRule(job.Choice.Method)
	sealed, err := a.m.encryptors[job.Choice.Method].Encrypt(ctx, job)
	switch {
	case errors.Is(err, ErrNoKey):
		a.reason(rule, "no usable key")
		return nil, verdictNext
	case errors.Is(err, ErrHold):
		a.status.Failure = err.Error()
		return nil, verdictHold
	case err != nil:
		a.status.Failure = err.Error()
		a.reason(rule, "encryption failed")
		return nil, verdictStop
	case sealed == nil || sealed.Message == nil || !sameID(sealed.Message, a.p.Message):
		a.status.Failure = "securemail: encryptor broke its contract"
		a.fault("encryptor-result")
		return nil, verdictHold
	}
	return sealed, verdictDelivered
}

// sameID checks that the Message-ID stayed, without which neither replies nor evidence find the original.
func sameID(a, b *Message) bool {
	x, y := a.Header("Message-ID"), b.Header("Message-ID")
	return len(x) == 1 && len(y) >= 1 && x[0] == y[0]
}

// deliver hands the message to the Transport and judges what it says.
func (a *attempt) deliver(ctx context.Context, leaving *Parcel, c Choice) verdict {
	intend, end := a.leg()
	s := &Shipment{
		Parcel: leaving, Channel: c.Channel, RequireTLS: c.RequireTLS, Attempt: a.lease.Attempt, OnIntend: intend,
		Key: strings.Join([]string{string(a.p.ID), string(c.Method), strconv.Itoa(int(c.Channel))}, "-"),
	}
	r, err := a.m.c.Transport.Deliver(ctx, s)
	end()
	if err != nil {
		return a.judge(err, c)
	}
	if r == nil {
		a.fault("receipt-missing")
		a.status.Failure = "securemail: transport gave no receipt"
		if a.hasIntended() {
			return verdictUncertain
		}
		return verdictStop
	}
	receipt := *r
	if receipt.Time.IsZero() {
		receipt.Time = a.m.c.Now()
	}
	a.status.Receipt = &receipt
	if !a.hasIntended() {
		a.fault("receipt-without-intent")
	}
	if !receipt.Meets(c.Channel) {
		a.fault("receipt-below-floor")
	}
	a.archiveSent(ctx, leaving, &receipt)
	return verdictDelivered
}

func (a *attempt) archiveSent(ctx context.Context, leaving *Parcel, r *Receipt) {
	if a.m.c.Archiver == nil {
		return
	}
	rec := &Record{Slip: a.p.Slip, Stage: "sent", Message: leaving.Message, Receipt: r}
	if err := a.m.c.Archiver.Archive(ctx, rec); err != nil {
		a.fault("archive-sent") // it has left; the receipt is in the event all the same
	}
}

// judge reads a Transport's error.
func (a *attempt) judge(err error, c Choice) verdict {
	a.status.Failure = err.Error()
	rule, intended := choiceRule(c.Method), a.hasIntended()
	if uncertain(err) { // whatever else the error says
		a.reason(rule, "delivery: the far end may have accepted")
		return verdictUncertain
	}
	if errors.Is(err, ErrChannel) {
		if intended {
			a.fault("channel-error-after-intent")
			return verdictUncertain
		}
		a.channelMissed(rule, err)
		return verdictNext
	}
	if errors.Is(err, ErrHold) && !intended {
		return verdictHold
	}
	de, ok := errors.AsType[*DeliveryError](err)
	if !ok {
		a.reason(rule, "delivery failed")
		if intended {
			return verdictUncertain
		}
		return verdictStop
	}
	a.reason(rule, withRules("delivery: "+de.Stage, de.Wire.Reasons))
	a.after = de.RetryAfter
	if de.Fate == FatePermanent {
		return verdictPermanent
	}
	return verdictStop
}

// uncertain says whether any error in err's tree is a delivery of which nobody knows.
func uncertain(err error) bool {
	if de, ok := err.(*DeliveryError); ok && de != nil && de.Fate == FateUncertain {
		return true
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		return uncertain(u.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(u.Unwrap(), uncertain)
	}
	return false
}

func (a *attempt) channelMissed(rule string, err error) {
	text := "the channel did not give the floor"
	if ce, ok := errors.AsType[*ChannelError](err); ok {
		a.temporary = a.temporary || ce.Temporary
		text = withRules(text, ce.Wire.Reasons)
	}
	a.reason(rule, text)
}

// withRules adds the chain that led there; its texts stay with the error.
func withRules(text string, chain []Reason) string {
	for _, r := range chain {
		text += "; " + r.Rule
	}
	return text
}

var errLateIntent = errors.New("securemail: intent of a delivery that has ended")

// leg is one call of Deliver. Its Intend may come from any goroutine; once end was called it fails, so that nothing that a
// Transport left running leaves behind the attempt's back.
func (a *attempt) leg() (intend func(context.Context) error, end func()) {
	over := false // guarded by a.mu
	intend = func(ctx context.Context) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if over {
			return errLateIntent
		}
		return a.intend(ctx)
	}
	return intend, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		over = true
	}
}

// intend is the commit before the point of no return. The caller holds a.mu.
func (a *attempt) intend(ctx context.Context) error {
	if a.intended {
		return nil
	}
	st := tidyStatus(a.status)
	st.State, st.Changed = StateAttempting, a.m.c.Now()
	e := a.m.event(a.by, st)
	if !a.recorded {
		a.record(&e)
	}
	if err := a.m.c.Queue.Mark(ctx, Mark{Lease: a.lease, Status: st, Events: []Event{e}}); err != nil {
		a.recorded = false
		return errors.Join(errors.New("securemail: intent not recorded"), err)
	}
	a.intended = true
	return nil
}

func (a *attempt) hasIntended() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.intended
}
