package securemail

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

var errNoDesk = errors.New("securemail: this Queue can't be looked into")

// Find yields the statuses that q selects within the caller's tenant, in order of ParcelID. It asks for "read.status".
func (m *Mailer) Find(ctx context.Context, q Query) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		ctx, a, _, err := m.may(ctx, actStatus, "parcel")
		if err == nil && m.desk == nil {
			err = errNoDesk
		}
		if err == nil && q.Tenant != "" && q.Tenant != a.Tenant {
			m.denied(ctx, a, actStatus, Resource{Kind: "parcel"}, whyTenant)
			err = fmt.Errorf("securemail: find: %w", ErrTenant)
		}
		if err != nil {
			yield(Status{}, err)
			return
		}
		m.granted(ctx, a, actStatus, Resource{Kind: "parcel", ID: selected(q)})
		q.Tenant = a.Tenant
		for st, err := range m.desk.Find(ctx, q) {
			if !yield(st, err) {
				return
			}
		}
	}
}

// selected names the one thing that q asks about, "" where it is a search.
func selected(q Query) string {
	if len(q.IDs) == 1 {
		return string(q.IDs[0])
	}
	return q.Submission
}

// Order tells the queue what to do with parcels of the caller's tenant; all or none. ErrFinal: one of them already ended,
// or is leaving right now. It asks for "order" for each id.
func (m *Mailer) Order(ctx context.Context, o Order, ids ...ParcelID) error {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	ctx, a, _, err := m.may(ctx, actOrder, "parcel", names...)
	if err != nil {
		return err
	}
	if m.desk == nil {
		return errNoDesk
	}
	if o < Cancel || o > Retry || len(ids) == 0 {
		return errors.New("securemail: order: unknown order or no parcel")
	}
	err = m.desk.Order(ctx, o, a.Tenant, ids...)
	if errors.Is(err, ErrTenant) {
		m.denied(ctx, a, actOrder, Resource{Kind: "parcel", ID: firstID(names)}, whyTenant)
	}
	return err
}

// Replace sends d and cancels what q selects and has not left yet. Where d is faulty, may not be sent, is refused for every
// recipient or can't be stored, or the caller may not cancel, nothing changes. q must select by Submission, Ref, Labels or
// IDs. Recipients whose parcel had left get d all the same. An error beside a Submission says that d was accepted and not
// everything is cancelled yet: give d a Key, and a repeat finishes that.
func (m *Mailer) Replace(ctx context.Context, q Query, d *Draft) (*Submission, error) {
	if q.Submission == "" && q.Ref == "" && len(q.Labels) == 0 && len(q.IDs) == 0 {
		return nil, errors.New("securemail: replace: the query selects everything")
	}
	b, err := m.prepare(ctx, d)
	if err != nil {
		return nil, err
	}
	old, err := m.replaceable(ctx, q)
	if err != nil {
		return nil, err
	}
	// First the new one: a failure in between sends two, never none.
	sub, err := m.c.Queue.Put(ctx, b)
	if err != nil {
		return nil, err
	}
	if sub, err = answer(sub); err != nil {
		return sub, err
	}
	var errs []error
	for _, id := range old {
		if slices.ContainsFunc(sub.Parcels, func(s Status) bool { return s.ID == id }) {
			continue // a repeat: q selects the new one too
		}
		if err := m.Order(ctx, Cancel, id); err != nil && !errors.Is(err, ErrFinal) {
			errs = append(errs, err)
		}
	}
	return sub, errors.Join(errs...)
}

// replaceable are the parcels that q selects and that have not ended; the caller may cancel each.
func (m *Mailer) replaceable(ctx context.Context, q Query) ([]ParcelID, error) {
	var ids []ParcelID
	for st, err := range m.Find(ctx, q) {
		if err != nil {
			return nil, err
		}
		if st.State.Final() {
			continue
		}
		if _, _, _, err := m.may(ctx, actOrder, "parcel", string(st.ID)); err != nil {
			return nil, err
		}
		ids = append(ids, st.ID)
	}
	return ids, nil
}

// Wait returns the statuses of s once nothing in it changes by itself any more: each is final, held, or uncertain without
// a next try. Where ctx ends first it returns them as they are, with ctx's error; so it does for a SendTx that the host has
// not committed. A Submission that names no parcels and is unknown in the caller's tenant is ErrTenant. Somebody must run
// the queue meanwhile.
func (m *Mailer) Wait(ctx context.Context, s *Submission) ([]Status, error) {
	if _, _, _, err := m.may(ctx, actStatus, "parcel"); err != nil {
		return nil, err
	}
	if s == nil || s.ID == "" {
		return nil, errors.New("securemail: wait: no submission")
	}
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		var sts []Status
		settled := true
		for st, err := range m.Find(ctx, Query{Submission: s.ID}) {
			if err != nil {
				return sts, err
			}
			sts = append(sts, st)
			settled = settled && st.settled()
		}
		switch {
		case len(sts)+len(s.Parcels) == 0:
			return nil, fmt.Errorf("securemail: wait: unknown submission: %w", ErrTenant)
		case settled && len(sts) >= len(s.Parcels):
			return sts, nil
		}
		select {
		case <-ctx.Done():
			return sts, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// settled says that the state changes no more by itself.
func (s Status) settled() bool {
	return s.State.Final() || s.State == StateHeld || s.State == StateUncertain && s.Next.IsZero()
}
