package securemail

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// attempt is one lease being carried out. It is used by one goroutine; only what leg returns may be
// called from a Transport's.
type attempt struct {
	m     *Mailer
	lease *Lease
	p     *Parcel
	by    Actor
	facts Facts
	dec   Decision
	// decided: dec is the Policy's.
	decided bool
	// again is set where an earlier delivery is uncertain: only that Choice's Method may be used.
	again bool
	// status is what the attempt will say; faults are further events for its commit.
	status Status
	faults []Event
	// causes are what went wrong with the Choices tried.
	temporary bool
	after     time.Duration // the far end's wish

	mu       sync.Mutex // guards intended and recorded
	intended bool
	recorded bool // the decision is in an event already
}

// verdict is what became of one Choice.
type verdict uint8

const (
	verdictNext verdict = iota // try the next Choice
	verdictStop                // the attempt ends; temporary
	verdictHold
	verdictPermanent
	verdictUncertain
	verdictDelivered
)

func (m *Mailer) newAttempt(l *Lease, by Actor) *attempt {
	st := l.Last
	st.Slip, st.Attempt, st.Next, st.Failure, st.Reasons = l.Parcel.Slip, l.Attempt, time.Time{}, "", nil
	return &attempt{
		m: m, lease: l, p: l.Parcel, by: by, status: st,
		again: l.Last.State == StateUncertain,
		facts: Facts{Slip: l.Parcel.Slip, Attempt: l.Attempt, Now: m.c.Now()},
	}
}

// run carries the lease out and leaves the outcome in a.status.
func (a *attempt) run(ctx context.Context) {
	if a.lease.Last.State == StateAttempting {
		a.recover(ctx)
		return
	}
	if a.expired() {
		if a.again {
			a.wait("useful-until", "it is of no use any more; whether it was delivered is not known")
			return
		}
		a.enter(StateExpired, "useful-until", "it was not delivered while it was useful")
		return
	}
	if a.lease.Last.State == StateHeld { // handed out to expire; a clock was set back meanwhile
		a.enter(StateHeld, "held", "a person must release it")
		return
	}
	if err := a.archive(ctx); err != nil {
		a.retry("archive", "securemail: archive failed")
		return
	}
	if err := a.m.gates(ctx, a.p); err != nil {
		a.gated(err)
		return
	}
	if err := a.decide(ctx); err != nil {
		if a.again {
			a.wait("policy", err.Error())
			return
		}
		a.enter(StateHeld, "policy", err.Error())
		return
	}
	a.choose(ctx)
}

func (a *attempt) decide(ctx context.Context) error {
	d, err := a.m.decide(ctx, &a.facts)
	if err != nil {
		return err
	}
	a.dec, a.decided = d, true
	a.status.Policy, a.status.Reasons = d.Policy, append(a.status.Reasons, d.Reasons...)
	return nil
}

// recover settles an intent without an outcome: the program stopped in between. The rule says whether it is delivered
// again; where it says nothing, a person must.
func (a *attempt) recover(ctx context.Context) {
	if err := a.decide(ctx); err != nil {
		a.wait("policy", err.Error())
		return
	}
	a.uncertain("crash", "the program stopped between intent and outcome")
}

func (a *attempt) expired() bool {
	return !a.p.UsefulUntil.IsZero() && !a.facts.Now.Before(a.p.UsefulUntil)
}

// archive keeps the original once a Submission and message, before any byte leaves.
func (a *attempt) archive(ctx context.Context) error {
	if a.m.c.Archiver == nil {
		return nil
	}
	key := a.p.Submission
	if ids := a.p.Message.Header("Message-ID"); len(ids) > 0 {
		key += " " + ids[0]
	}
	if a.m.archived.has(key) {
		return nil
	}
	err := a.m.c.Archiver.Archive(ctx, &Record{Slip: a.p.Slip, Stage: "original", Message: a.p.Message})
	if err == nil {
		a.m.archived.add(key)
	}
	return err
}

// gated settles what a Gate said before an attempt.
func (a *attempt) gated(err error) {
	if later, ok := errors.AsType[*NotYet](err); ok && later.Until.After(a.m.c.Now()) {
		a.reason("gate", "not yet")
		a.deferUntil(later.Until)
		return
	}
	if !errors.Is(err, ErrRefused) {
		a.retry("gate", "securemail: a gate could not tell")
		return
	}
	if a.again {
		a.wait("gate", "a gate refused a delivery whose first try is uncertain")
		return
	}
	a.enter(StateRefused, "gate", "a gate refused")
}

// choose tries the Choices in order.
func (a *attempt) choose(ctx context.Context) {
	if a.again {
		if !slices.ContainsFunc(a.dec.Choices, a.sameWay) {
			a.wait("uncertain", "the rule no longer has the method of the uncertain delivery")
			return
		}
	}
	for _, c := range a.dec.Choices {
		if a.again && !a.sameWay(c) {
			continue
		}
		if why, ok := bars(&a.p.Slip, c); !ok {
			a.reason(choiceRule(c.Method), why.Text)
			continue
		}
		if a.m.encryptors[c.Method] == nil {
			a.held(c, "no encryptor for the method")
			return
		}
		a.status.Choice, a.status.Protection = c, nil
		switch v := a.try(ctx, c); v {
		case verdictNext:
			continue
		case verdictDelivered:
			a.status.Failure = "" // of a Choice before it
			a.enter(StateDelivered, choiceRule(c.Method), "used")
			return
		case verdictHold:
			a.held(c, "the encryptor asks for a person")
			return
		default:
			a.failed(v)
			return
		}
	}
	a.exhausted()
}

func (a *attempt) sameWay(c Choice) bool { return c.Method == a.lease.Last.Choice.Method }

func (a *attempt) held(c Choice, why string) {
	if a.again {
		a.wait(choiceRule(c.Method), why)
		return
	}
	a.enter(StateHeld, choiceRule(c.Method), why)
}

// failed settles a verdict that ends the attempt without a delivery.
func (a *attempt) failed(v verdict) {
	switch {
	case v == verdictUncertain:
		a.uncertain("lost-reply", "the far end may have accepted")
	case v == verdictPermanent && a.again:
		a.wait("refused-again", "the far end refused; whether it had accepted before is not known")
	case v == verdictPermanent:
		a.enter(StateBounced, "permanent", "it can never be delivered there")
	default:
		a.temporary = true
		a.exhausted()
	}
}

// exhausted: no Choice is left for now. Retry while there is hope and patience, else what the Decision says.
func (a *attempt) exhausted() {
	if a.temporary && !a.impatient() {
		a.deferUntil(a.nextTry())
		return
	}
	if a.again {
		a.wait("exhausted", "no more tries; whether it was delivered is not known")
		return
	}
	switch a.dec.Else {
	case OutcomeBounce:
		a.enter(StateBounced, "exhausted", "no protection that the recipient can receive")
	case OutcomeDrop:
		a.enter(StateDropped, "exhausted", "dropped by rule")
	default:
		a.enter(StateHeld, "exhausted", "no protection that the recipient can receive")
	}
}

// impatient says whether the parcel has been due for longer than the Decision's Patience.
func (a *attempt) impatient() bool {
	due := a.p.Submitted
	if a.p.NotBefore.After(due) {
		due = a.p.NotBefore
	}
	return a.facts.Now.Sub(due) >= orDefault(a.dec.Patience, a.m.c.GiveUp)
}

func (a *attempt) nextTry() time.Time {
	return a.sensible(a.m.c.Now().Add(max(a.m.c.Retry(a.lease.Attempt), min(a.after, 24*time.Hour))))
}

// sensible keeps a time to try again at least a second away, and within bound.
func (a *attempt) sensible(t time.Time) time.Time {
	t = a.p.bound(t)
	if soonest := a.m.c.Now().Add(time.Second); t.Before(soonest) {
		return soonest
	}
	return t
}

// bound keeps t from lying behind UsefulUntil: the parcel expires then, and the sender must not learn it hours later; and
// within what every store and JSON can hold.
func (s *Slip) bound(t time.Time) time.Time {
	if u := s.UsefulUntil; !u.IsZero() && u.Before(t) {
		t = u
	}
	if badTime(t) {
		return time.Date(lastYear, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	return t
}

// retry settles a temporary failure outside the Choices.
func (a *attempt) retry(rule, failure string) {
	a.temporary, a.status.Failure = true, failure
	a.reason(rule, "not known now")
	a.exhausted()
}

// deferUntil tries again then; an uncertain delivery stays uncertain meanwhile.
func (a *attempt) deferUntil(t time.Time) {
	a.status.State, a.status.Next = StateDeferred, a.sensible(t)
	if a.again {
		a.status.State = StateUncertain
	}
}

// uncertain: the far end may have accepted. It is always reported; the Decision says whether to deliver again.
func (a *attempt) uncertain(rule, text string) {
	a.enter(StateUncertain, rule, text)
	if a.dec.Uncertain == OutcomeRetry && !a.impatient() {
		a.status.Next = a.nextTry()
	}
}

// wait leaves an uncertain delivery to a person.
func (a *attempt) wait(rule, text string) { a.enter(StateUncertain, rule, text) }

// enter is the end of an attempt. A held parcel is looked at again when it expires.
func (a *attempt) enter(s State, rule, text string) {
	a.status.State, a.status.Next = s, time.Time{}
	if s == StateHeld {
		a.status.Next = a.p.UsefulUntil
	}
	a.reason(rule, text)
}

// choiceRule is the Rule of the Reasons that say what became of a Choice.
func choiceRule(method Method) string { return "choice/" + string(method) }

func (a *attempt) reason(rule, text string) {
	a.status.Reasons = append(a.status.Reasons, Reason{rule, text})
}

// broken settles an attempt in which a part panicked: nobody else's mail waits for it, and a part that is mended takes it
// up again.
func (a *attempt) broken() {
	a.fault("panic")
	a.status.Failure = errPanic.Error()
	switch {
	case a.hasIntended() || a.lease.Last.State == StateAttempting:
		a.enter(StateUncertain, "panic", "a part broke down, and the far end may have accepted")
	case !a.impatient():
		a.reason("panic", "a part broke down")
		a.deferUntil(a.m.c.Now().Add(backoff(a.lease.Attempt)))
	case a.again:
		a.wait("panic", "a part broke down; whether it was delivered is not known")
	default:
		a.enter(StateHeld, "panic", "a part broke down each time")
	}
}

// event is the attempt's outcome as an Event, with the decision unless an earlier one has it.
func (a *attempt) event() Event {
	a.status.Changed = a.m.c.Now()
	a.status = tidyStatus(a.status)
	e := a.m.event(a.by, a.status)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.recorded && a.decided {
		a.record(&e)
	}
	return e
}

// record puts facts and decision into e. The caller holds a.mu.
func (a *attempt) record(e *Event) {
	facts, dec := a.facts, a.dec
	e.Facts, e.Decision, a.recorded = &facts, &dec, true
}

func (a *attempt) fault(rule string) {
	e := a.m.event(a.by, tidyStatus(a.status))
	e.Kind, e.Detail = "fault", map[string]string{"rule": rule}
	a.faults = append(a.faults, e)
	a.m.log.Error("securemail: fault of a part", "rule", rule, "parcel", string(a.p.ID), "method", string(a.status.Choice.Method))
}
