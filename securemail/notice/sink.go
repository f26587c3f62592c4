package notice

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// label is on each report; its value is the report's id.
const label = "notice"

// Emit implements [securemail.Sink]; see EmitAll.
func (n *Notices) Emit(ctx context.Context, e securemail.Event) error { return n.EmitAll(ctx, e) }

// EmitAll notes who is to be told of es, in one commit, and mails nothing: Run does. It is idempotent by event id, and
// writes nothing for mail that goes its way.
func (n *Notices) EmitAll(ctx context.Context, es ...securemail.Event) error {
	if !slices.ContainsFunc(es, concerns) {
		return nil
	}
	var events []securemail.Event
	err := n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		events = nil
		for _, e := range es {
			if !concerns(e) {
				continue
			}
			more, err := n.take(ctx, tx, &e)
			if err != nil {
				return err
			}
			events = append(events, more...)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("notice: %w", err)
	}
	// Behind the commit: es come again until both hold, and the ids of events are their own.
	return n.add(ctx, events)
}

func (n *Notices) add(ctx context.Context, events []securemail.Event) error {
	for es := range slices.Chunk(events, 500) {
		if err := n.store.Add(ctx, nil, es...); err != nil {
			return fmt.Errorf("notice: events: %w", err)
		}
	}
	return nil
}

// concerns says whether e can change anything here.
func concerns(e securemail.Event) bool {
	if e.Kind != string(e.State) || e.Status.ID == "" {
		return false
	}
	switch e.State {
	case securemail.StateAccepted, securemail.StateAttempting:
		return false
	case securemail.StateDelivered:
		return e.Attempt > 1 // at the first attempt nothing was late
	}
	return true
}

// take notes what e tells, and returns the events to add.
func (n *Notices) take(ctx context.Context, tx *sql.Tx, e *securemail.Event) ([]securemail.Event, error) {
	if e.State == securemail.StateDeferred {
		return nil, n.watch(ctx, tx, e)
	}
	if _, err := n.exec(ctx, tx, "DELETE FROM notice_watch WHERE parcel=?", string(e.Status.ID)); err != nil {
		return nil, err
	}
	if e.State == securemail.StateDelivered || !told(e) {
		return nil, nil
	}
	if id := ours(e); id != "" {
		return n.failed(ctx, tx, e, id)
	}
	r := n.rule(e.Actor.Tenant, e.Purpose, e.State)
	return nil, n.note(ctx, tx, r, &item{
		id: e.ID, tenant: e.Actor.Tenant, parcel: string(e.Status.ID), purpose: string(e.Purpose), rule: r.Name,
		what: string(e.State), reason: reasonOf(&e.Status), entered: e.Time, next: e.Next,
	})
}

// note enters it for each whom r tells. Where r tells a role that the tenant has not, the attempt to mail says so.
func (n *Notices) note(ctx context.Context, tx *sql.Tx, r *Rule, it *item) error {
	var who []string
	switch r.To {
	case ToSender:
		who = []string{sender}
	case ToRole:
		who = []string{role}
	case ToBoth:
		who = []string{sender, role}
	}
	for _, w := range who {
		c := *it
		c.id, c.who = it.id+"/"+w, w
		if err := n.insert(ctx, tx, &c); err != nil {
			return err
		}
	}
	return nil
}

// told says whether entering e's state is something to tell. An uncertain delivery enters that state with each attempt
// that settles nothing: what is told is each delivery that became uncertain, and that it waits for a person.
func told(e *securemail.Event) bool {
	if e.State != securemail.StateUncertain {
		return true
	}
	if e.Detail["order"] == "retry" {
		return false // a person has just said what to do
	}
	switch reasonOf(&e.Status) {
	case "lost-reply", "crash", "panic":
		return e.Purpose != securemail.PurposeSystem || e.Next.IsZero()
	}
	return e.Next.IsZero()
}

// reasonOf is the rule that the last of the reasons names.
func reasonOf(st *securemail.Status) string {
	if len(st.Reasons) == 0 {
		return ""
	}
	if r := st.Reasons[len(st.Reasons)-1].Rule; word(r) {
		return r
	}
	return "other"
}

// ours is the id of the report that e is about, "" for mail of anybody else.
func ours(e *securemail.Event) string {
	if e.Purpose == securemail.PurposeSystem && e.Actor.Kind == "part" && e.Actor.ID == "notice" {
		return e.Labels[label]
	}
	return ""
}

// failed is the end of a report that could not be delivered: what it told goes to the role, once, and never further.
func (n *Notices) failed(ctx context.Context, tx *sql.Tx, e *securemail.Event, id string) ([]securemail.Event, error) {
	rs, err := tx.QueryContext(ctx, n.d.Rebind("SELECT "+itemColumns+" FROM notice_item WHERE report=? AND tenant=? ORDER BY pos"), id, e.Actor.Tenant)
	if err != nil {
		return nil, err
	}
	items, err := scanItems(rs)
	if err != nil {
		return nil, err
	}
	var events []securemail.Event
	for _, it := range items {
		events = append(events, n.event(it, "notice", "failed", e.Time))
		if it.who == sender {
			if err := n.insert(ctx, tx, it.up()); err != nil {
				return nil, err
			}
		}
	}
	return events, nil
}

// watch looks at a parcel again when it will be late by the first of the rule's ages.
func (n *Notices) watch(ctx context.Context, tx *sql.Tx, e *securemail.Event) error {
	if e.Purpose == securemail.PurposeSystem {
		return nil
	}
	base := e.Submitted
	if e.NotBefore.After(base) {
		base = e.NotBefore
	}
	at := base.Add(n.rule(e.Actor.Tenant, e.Purpose, Delayed).ages()[0])
	_, err := n.exec(ctx, tx, `INSERT INTO notice_watch (parcel, tenant, purpose, base, step, at) VALUES (?,?,?,?,0,?)
		ON CONFLICT (parcel) DO NOTHING`, string(e.Status.ID), e.Actor.Tenant, string(e.Purpose), micros(base), micros(at))
	return err
}

// event is what is recorded of it. Its id is made of the item's, so that it is recorded once.
func (n *Notices) event(it *item, kind, outcome string, at time.Time) securemail.Event {
	e := securemail.Event{
		ID: it.id + "/" + outcome, Kind: kind, Time: at, By: part(it.tenant),
		Detail: map[string]string{"rule": it.rule, "about": it.parcel, "what": it.what},
	}
	if kind == "notice" {
		e.Detail["to"], e.Detail["outcome"] = it.who, outcome
	}
	return e
}

func part(tenant string) securemail.Actor {
	return securemail.Actor{Tenant: tenant, ID: "notice", Kind: "part"}
}
