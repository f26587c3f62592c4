package securemail

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"
)

// What the Mailer records of calls: each that was denied, and each that read statuses, which name recipients. (Sending and
// orders have events of their own.) The first goes to the Outbox before the caller has his answer; what the same Actor
// repeats within a minute is counted, and the count is one event more. Somebody who hammers, under whatever names, so
// makes a few thousand events a minute at most.
//
// Under SendTx nothing is written, since the host's transaction may hold the only connection and an event inside it would
// go with its rollback: it is written by the next call outside, or by Run. So is what the Outbox could not take.

const (
	foldAccesses = time.Minute
	maxAccesses  = 1024 // actors and actions told apart; all others are counted as one
	accessWait   = 5 * time.Second

	kindDenied = "denied"
	kindAccess = "access"

	whyCaller     = "caller"     // no Actor, or his tenant is none
	whyTenant     = "tenant"     // of another tenant
	whyAuthor     = "author"     // the tenant may not write as this author
	whyPurpose    = "purpose"    // only a part may state it
	whyAuthorizer = "authorizer" // the Authorizer said no
	whyStepUp     = "step-up"    // it asks for a stronger sign-in
)

// accessKey is what is folded into one. For an access granted to a service it has no id: services ask about each of
// their mails, and one event for each would tell nothing that its "accepted" does not.
type accessKey struct {
	kind, tenant, actor, actorKind, session string
	action                                  Action
	resource, id, why                       string
}

// access is what was seen under one key since begin.
type access struct {
	begin   time.Time
	event   *Event // not written yet
	repeats int
	last    Event // the newest of repeats
}

type accesses struct {
	mu   sync.Mutex // guards all
	seen map[accessKey]*access
	late []Event // of keys that are gone, still to be written
}

func newAccesses() *accesses { return &accesses{seen: make(map[accessKey]*access)} }

func firstID(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[0]
}

func whyOf(err error) string {
	if _, ok := errors.AsType[*StepUpError](err); ok {
		return whyStepUp
	}
	return whyAuthorizer
}

// denied records that a may not do act to r.
func (m *Mailer) denied(ctx context.Context, a Actor, act Action, r Resource, why string) {
	k := accessKey{kindDenied, a.Tenant, a.ID, a.Kind, a.Auth.Session, act, r.Kind, "", why}
	m.access(ctx, k, a, r.ID)
}

// granted records that a read statuses: of a Submission or parcel, or of many where r has no ID. The library's own parts are not recorded: what they do has events.
func (m *Mailer) granted(ctx context.Context, a Actor, act Action, r Resource) {
	if a.Kind == "part" {
		return
	}
	if a.Kind == "service" {
		r.ID = ""
	}
	k := accessKey{kindAccess, a.Tenant, a.ID, a.Kind, a.Auth.Session, act, r.Kind, r.ID, ""}
	m.access(ctx, k, a, r.ID)
}

func (m *Mailer) access(ctx context.Context, k accessKey, a Actor, id string) {
	now := m.c.Now()
	e := Event{ID: newID(now), Kind: k.kind, Time: now, By: tidyActor(a), Detail: map[string]string{
		"action": string(k.action), "resource": k.resource,
	}}
	if validLabel(id) { // a caller's own text is no id of ours
		e.Detail["id"] = id
	}
	if k.why != "" {
		e.Detail["why"] = k.why
	}
	if k.why == whyCaller { // a tenant that is none gets no key to seal by
		if e.By.Tenant = ""; validLabel(a.Tenant) {
			e.Detail["tenant"] = a.Tenant
		}
	}
	m.accesses.note(k, e)
	if _, ok := TxOf(ctx); !ok {
		m.recordAccesses(ctx)
	}
}

func (as *accesses) note(k accessKey, e Event) {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.expire(e.Time)
	s := as.seen[k]
	if s == nil && len(as.seen) >= maxAccesses {
		k = accessKey{kind: k.kind}
		e.By, e.Detail = Actor{ID: "others"}, map[string]string{"folded": "others"}
		s = as.seen[k]
	}
	if s == nil {
		as.seen[k] = &access{begin: e.Time, event: &e}
		return
	}
	s.repeats++
	s.last = e
}

// expire ends what began a minute ago. The caller holds as.mu.
func (as *accesses) expire(now time.Time) {
	for k, s := range as.seen {
		if now.Sub(s.begin).Abs() < foldAccesses {
			continue
		}
		as.late = append(as.late, s.events()...)
		delete(as.seen, k)
	}
}

// events are what is left to write of s.
func (s *access) events() []Event {
	var out []Event
	if s.event != nil {
		out = append(out, *s.event)
	}
	if s.repeats > 0 {
		e := s.last
		e.Detail["repeats"] = strconv.Itoa(s.repeats)
		out = append(out, e)
	}
	return out
}

// take gives what is to be written now, and forgets it.
func (as *accesses) take(now time.Time) []Event {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.expire(now)
	out := as.late
	as.late = nil
	for _, s := range as.seen {
		if s.event != nil {
			out, s.event = append(out, *s.event), nil
		}
	}
	return out
}

// back takes es again, which could not be written. Beyond a bound the oldest are lost, and logged by the caller.
func (as *accesses) back(es []Event) (lost int) {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.late = append(es, as.late...)
	if lost = len(as.late) - 4*maxAccesses; lost > 0 {
		as.late = as.late[lost:]
	}
	return max(lost, 0)
}

// recordAccesses writes what waits. A caller's answer does not depend on it.
func (m *Mailer) recordAccesses(ctx context.Context) {
	es := m.accesses.take(m.c.Now())
	if len(es) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), accessWait)
	defer cancel()
	if err := m.c.Outbox.Add(ctx, nil, es...); err != nil {
		lost := m.accesses.back(es)
		m.log.Error("securemail: accesses are not recorded yet", "events", len(es), "lost", lost, "err", err)
	}
}

// recordAlways writes what waits until ctx ends, and once more then.
func (m *Mailer) recordAlways(ctx context.Context) {
	for ctx.Err() == nil {
		m.recordAccesses(ctx)
		sleep(ctx, idleFeed)
	}
	m.recordAccesses(ctx)
}

// noteKeeper is what an Outbox may have besides: small notes that outlive the process.
type noteKeeper interface {
	Note(ctx context.Context, name string) (string, error)
	SetNote(ctx context.Context, name, value string) error
}

// policyInForce records an event "policy" where the Policy's name is another than was last recorded; with an Outbox that
// keeps no notes, than this Mailer recorded. A Policy says its name by Version() or Name().
func (m *Mailer) policyInForce(ctx context.Context) {
	name := ""
	switch p := m.c.Policy.(type) {
	case interface{ Version() string }:
		name = p.Version()
	case interface{ Name() string }:
		name = p.Name()
	}
	m.mu.Lock()
	known := name == "" || m.policy == name
	was := m.policy
	m.mu.Unlock()
	if known {
		return
	}
	name = tidyText(name)
	notes, keeps := m.c.Outbox.(noteKeeper)
	var err error
	if keeps {
		was, err = notes.Note(ctx, "policy")
	}
	if err == nil && was != name {
		by := Actor{ID: "mailer", Kind: "part"}
		now := m.c.Now()
		e := Event{ID: newID(now), Kind: "policy", Time: now, By: by, Detail: map[string]string{"policy": name, "was": was}}
		// The event first: where a stop comes in between it is there twice, never missing.
		if err = m.c.Outbox.Add(ctx, nil, e); err == nil && keeps {
			err = notes.SetNote(ctx, "policy", name)
		}
	}
	if err != nil {
		m.log.Error("securemail: the policy in force is not recorded yet", "err", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policy = name
}
