package securemail

import (
	"context"
	"slices"
	"time"
)

const (
	undoReader  = "undo"
	undoTries   = 3
	undoTimeout = 30 * time.Second
)

// undo is a reader of events: it destroys what encryptors left behind for a parcel that ended another way. Fed from the
// Outbox, it outlives a crash between the end of a parcel and its undoing, and serves orders as well as attempts. What
// fails three times is recorded as a fault and left; it must not hold up the others.
func (m *Mailer) undo(ctx context.Context, e Event) error {
	if !e.State.Final() || e.Kind != string(e.State) || e.Attempt == 0 {
		return nil
	}
	ctx, _ = m.part(ctx, e.Actor.Tenant)
	for method, enc := range m.encryptors {
		if !e.leftBehind(method) {
			continue
		}
		if err := m.undoOne(ctx, enc, e.Status.ID); err != nil {
			if ctx.Err() != nil {
				return ctx.Err() // the next run goes on here
			}
			if err := m.undoFailed(ctx, e.Status.ID, method); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftBehind says whether method may have left something that did not deliver. The reasons name what the last attempt
// tried; what earlier ones tried is not known.
func (s *Status) leftBehind(method Method) bool {
	if s.State == StateDelivered && s.Choice.Method == method {
		return false
	}
	tried := func(r Reason) bool { return r.Rule == choiceRule(method) }
	return s.Attempt > 1 || s.State == StateCancelled || slices.ContainsFunc(s.Reasons, tried)
}

func (m *Mailer) undoOne(ctx context.Context, enc Encryptor, id ParcelID) (err error) {
	for try := range undoTries {
		if err = m.undoOnce(ctx, enc, id); err == nil {
			return nil
		}
		sleep(ctx, firstPause<<try)
	}
	return err
}

func (m *Mailer) undoOnce(ctx context.Context, enc Encryptor, id ParcelID) (err error) {
	defer m.contain(func() { err = errPanic })
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	return enc.Undo(ctx, id)
}

func (m *Mailer) undoFailed(ctx context.Context, id ParcelID, method Method) error {
	m.log.Error("securemail: a fallback could not be undone", "parcel", string(id), "method", string(method))
	by, _ := ActorOf(ctx)
	st := Status{Slip: Slip{ID: id, Actor: by}, Choice: Choice{Method: method}}
	e := m.event(by, st)
	e.Kind, e.Detail = "fault", map[string]string{"rule": "undo-failed", "method": string(method)}
	return m.c.Outbox.Add(ctx, nil, e)
}
