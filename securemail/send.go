package securemail

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Send accepts d: when it returns nil, every recipient's parcel survives power loss, or is refused by a Gate and says
// so. Every fault of d is named at once in a *DraftError. ErrRefused says that every recipient was refused; the
// Submission is then returned too. Send never waits for a delivery.
func (m *Mailer) Send(ctx context.Context, d *Draft) (*Submission, error) {
	b, err := m.prepare(ctx, d)
	if err != nil {
		return nil, err
	}
	sub, err := m.c.Queue.Put(ctx, b)
	if err != nil {
		return nil, err
	}
	m.watchBacklog(ctx, b.Tenant)
	return answer(sub)
}

// SendTx is Send inside the host's transaction: the mail leaves if and only if the host commits. Nothing is delivered
// before. ErrTx: the Queue can't. On another error the transaction is still usable, unless the database itself ended it.
func (m *Mailer) SendTx(ctx context.Context, tx *sql.Tx, d *Draft) (*Submission, error) {
	if m.tx == nil || tx == nil {
		return nil, ErrTx
	}
	ctx = withTx(ctx, tx)
	b, err := m.prepare(ctx, d)
	if err != nil {
		return nil, err
	}
	sub, err := m.tx.PutTx(ctx, tx, b)
	if err != nil {
		return nil, err
	}
	return answer(sub)
}

// SendBatch sends many drafts, each for itself, several at a time; the results are in the order of ds. Where ctx ends,
// those not begun have its error.
func (m *Mailer) SendBatch(ctx context.Context, ds []*Draft) []SendResult {
	out := make([]SendResult, len(ds))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(m.c.Workers, len(ds)) {
		wg.Go(func() {
			for i := range next {
				out[i] = m.sendOne(ctx, ds[i])
			}
		})
	}
	for i := range ds {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}

// sendOne runs in a goroutine of its own, where the caller could not recover from a panic of a part.
func (m *Mailer) sendOne(ctx context.Context, d *Draft) (r SendResult) {
	defer m.contain(func() { r = SendResult{Err: errPanic} })
	if err := ctx.Err(); err != nil {
		return SendResult{Err: err}
	}
	r.Submission, r.Err = m.Send(ctx, d)
	return r
}

// answer puts the recipients in order and says ErrRefused where none is left.
func answer(sub *Submission) (*Submission, error) {
	slices.SortFunc(sub.Parcels, func(a, b Status) int { return strings.Compare(string(a.ID), string(b.ID)) })
	if !slices.ContainsFunc(sub.Parcels, func(s Status) bool { return s.State != StateRefused }) {
		return sub, ErrRefused
	}
	return sub, nil
}

// prepare does all of Send but the queue: authorise, validate, compose, classify, ask the Gates.
func (m *Mailer) prepare(ctx context.Context, d *Draft) (*Batch, error) {
	ctx, a, tenant, err := m.may(ctx, actSend, "submission")
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, &DraftError{[]Fault{{"Draft", "required"}}}
	}
	if d.Purpose == PurposeSystem && a.Kind != "part" {
		m.denied(ctx, a, actSend, Resource{Kind: "submission"}, whyPurpose)
		return nil, fmt.Errorf("securemail: purpose system: %w", ErrDenied)
	}
	shared, each, err := m.messages(d)
	if err != nil {
		return nil, err
	}
	from, err := authorOf(d, firstOf(shared, each))
	if err != nil {
		return nil, err
	}
	if d.Purpose != PurposeSystem && slices.ContainsFunc(claims(d, from, firstOf(shared, each)), tenant.mayNotWriteAs) {
		m.denied(ctx, a, actSend, Resource{Kind: "submission"}, whyAuthor)
		return nil, fmt.Errorf("securemail: author: %w", ErrTenant)
	}
	b := &Batch{Tenant: a.Tenant, Key: d.Key, Submission: newID(m.c.Now())}
	if b.Digest, err = d.digest(); err != nil {
		return nil, err
	}
	slip := m.slip(d, a, from, b.Submission)
	if slip.Class, err = m.classify(ctx, d, firstOf(shared, each)); err != nil {
		return nil, err
	}
	m.fill(ctx, b, slip, m.parcels(d, slip, shared, each))
	return b, nil
}

// messages validates and composes; every fault at once.
func (m *Mailer) messages(d *Draft) (shared *Message, each []*Message, err error) {
	faults := d.validate(limits{maxVisible: m.c.MaxVisible, maxSize: m.c.MaxSize})
	if len(faults) == 0 || d.Raw != nil {
		var more []Fault
		shared, each, more, err = compose(d, composeContext{
			domain: m.c.Domain, now: m.c.Now(), maxSize: m.c.MaxSize,
		})
		if err != nil {
			return nil, nil, err
		}
		for _, f := range more {
			if !slices.Contains(faults, f) {
				faults = append(faults, f)
			}
		}
	}
	if len(faults) > 0 {
		return nil, nil, &DraftError{faults}
	}
	return shared, each, nil
}

func firstOf(shared *Message, each []*Message) *Message {
	if shared != nil {
		return shared
	}
	return each[0]
}

// authorOf is Draft.From; for Raw it is the author whom the message itself shows, since that is whom the reader sees and
// whom the tenant must be allowed to write as.
func authorOf(d *Draft, msg *Message) (Contact, error) {
	if d.Raw == nil {
		return d.From, nil
	}
	author, fault := rawAuthor(msg)
	if fault != "" {
		return Contact{}, &DraftError{[]Fault{{"Raw", fault}}}
	}
	if d.From.Address != (Address{}) {
		if d.From.Address != author.Address {
			return Contact{}, &DraftError{[]Fault{{"From", ruleFrom}}}
		}
		return d.From, nil
	}
	return author, nil
}

// claims are all the addresses that d writes as.
func claims(d *Draft, from Contact, msg *Message) []Address {
	as := []Address{from.Address}
	if d.ReturnPath != (Address{}) {
		as = append(as, d.ReturnPath)
	}
	if d.Raw != nil {
		as = append(as, rawClaims(msg)...)
	}
	return as
}

func (m *Mailer) classify(ctx context.Context, d *Draft, msg *Message) (Class, error) {
	if m.c.Classifier == nil {
		return Class{}, nil
	}
	c, err := m.c.Classifier.Classify(ctx, d, msg)
	if errors.Is(err, ErrRefused) {
		return Class{}, fmt.Errorf("securemail: classifier: %w", ErrRefused)
	}
	if err != nil {
		// Not classified is PHI; the mail is not lost for it.
		m.log.WarnContext(ctx, "securemail: classifier failed; content counts as PHI")
		return Class{Findings: []Finding{{Rule: "classifier-failed", Count: 1}}}, nil
	}
	return tidyClass(c), nil
}

// slip is what all parcels of d have in common.
func (m *Mailer) slip(d *Draft, a Actor, from Contact, submission string) Slip {
	from.Attrs = maps.Clone(from.Attrs)
	return Slip{
		Submission: submission, Actor: a, From: from, ReturnPath: d.ReturnPath, Subjects: slices.Clone(d.Subjects),
		Purpose: d.Purpose, Escalate: d.Escalate, Track: d.Track, Priority: d.Priority, Labels: maps.Clone(d.Labels),
		Submitted: m.c.Now(), NotBefore: d.NotBefore, UsefulUntil: d.UsefulUntil, AccessUntil: d.AccessUntil,
	}
}

// parcels makes one for each recipient, in the order To, Cc, Bcc, Each; their ids sort in that order.
func (m *Mailer) parcels(d *Draft, slip Slip, shared *Message, each []*Message) []*Parcel {
	var ps []*Parcel
	add := func(r Recipient, msg *Message) {
		p := &Parcel{Slip: slip, Factors: slices.Clone(r.Factors), Message: msg}
		p.Recipient, p.Size = r.Contact, msg.Size()
		p.Recipient.Attrs = maps.Clone(r.Attrs)
		ps = append(ps, p)
	}
	for _, r := range slices.Concat(d.To, d.Cc, d.Bcc) {
		add(r, shared)
	}
	for i, r := range d.Each {
		add(r, each[i])
	}
	ids := make([]string, len(ps))
	for i := range ids {
		ids[i] = newID(slip.Submitted)
	}
	slices.Sort(ids)
	for i, p := range ps {
		p.ID = ParcelID(ids[i])
		p.ReturnPath = m.returnPath(p)
	}
	return ps
}

// returnPath is where bounces go: for a report of our own nowhere, so that no report can answer a report (RFC 3464
// section 2, RFC 5321 section 4.5.5).
func (m *Mailer) returnPath(p *Parcel) Address {
	if p.Purpose == PurposeSystem && isReport(p.Message) {
		return Address{}
	}
	if p.ReturnPath == (Address{}) && m.c.ReturnPath != nil {
		return m.c.ReturnPath(p)
	}
	return orDefault(p.ReturnPath, p.From.Address)
}

func isReport(m *Message) bool {
	types := m.Header("Content-Type")
	if len(types) != 1 {
		return false
	}
	t, _, err := mime.ParseMediaType(types[0])
	return err == nil && t == "multipart/report"
}

// fill asks the Gates and sorts the parcels into accepted and refused, with their events.
func (m *Mailer) fill(ctx context.Context, b *Batch, slip Slip, ps []*Parcel) {
	for _, p := range ps {
		st := Status{State: StateAccepted, Changed: slip.Submitted}
		if err := m.gates(ctx, p); errors.Is(err, ErrRefused) {
			st.State, st.Failure = StateRefused, ErrRefused.Error()
		} else if later, ok := errors.AsType[*NotYet](err); ok && later.Until.After(p.NotBefore) {
			p.NotBefore = p.bound(later.Until)
		}
		// Any other error is "not known now": the attempt asks again.
		st.Slip = p.Slip
		if st.State == StateRefused {
			b.Refused = append(b.Refused, st)
		} else {
			b.Parcels = append(b.Parcels, p)
		}
		b.Events = append(b.Events, m.event(slip.Actor, st))
	}
}

// gates asks each Gate in order; the first that is not content decides.
func (m *Mailer) gates(ctx context.Context, p *Parcel) error {
	for _, g := range m.c.Gates {
		if err := g.Allow(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// event is the Event that says that st.State was entered.
func (m *Mailer) event(by Actor, st Status) Event {
	now := m.c.Now()
	return Event{ID: newID(now), Kind: string(st.State), Time: now, By: by, Status: st}
}

// backlogLook is how many parcels Send looks at for a backlog.
const backlogLook = 100

// watchBacklog logs one warning when parcels have been due for a minute and nobody runs the queue. It looks at most once
// a minute.
func (m *Mailer) watchBacklog(ctx context.Context, tenant string) {
	now := m.c.Now()
	m.mu.Lock()
	look := m.desk != nil && m.running == 0 && !m.warned && now.Sub(m.looked) >= time.Minute
	if look {
		m.looked = now
	}
	m.mu.Unlock()
	if !look {
		return
	}
	for st, err := range m.desk.Find(ctx, Query{Tenant: tenant, States: []State{StateAccepted}, Limit: backlogLook}) {
		if err != nil {
			return
		}
		due := st.Submitted
		if st.NotBefore.After(due) {
			due = st.NotBefore
		}
		if now.Sub(due) < time.Minute {
			continue // mail for later may stand in front
		}
		m.mu.Lock()
		m.warned = true
		m.mu.Unlock()
		m.log.WarnContext(ctx, "securemail: mail has been due for a minute and nobody runs the queue; call Run or RunDue")
		return
	}
}
