package alert

import (
	"container/list"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Outbox is the part of securemail.Outbox that alerts go into. Its Add must take an event's id once.
type Outbox interface {
	Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error
}

const (
	remembered    = 16_384 // ids of events
	defaultGroups = 4096
)

// Options are the options of [New]; nil and zero fields mean the defaults.
type Options struct {
	// Rules replace [Defaults]; nil means those. At most 256.
	Rules []Rule
	// Groups is how many groups of each rule are remembered; 0 is 4,096.
	Groups int
	// Notify is told of each alert after it is in the Outbox, in the goroutine of Emit, which waits for it. A crash in between loses
	// the call, not the event.
	Notify func(ctx context.Context, a Alert)
	// Now is the clock; nil is time.Now. An event that claims to be of a time to come counts as of now.
	Now func() time.Time
}

// Alert is a rule that fired.
type Alert struct {
	// Rule is the rule's id, Tenant whose events fired it; Actor is the caller's id for a rule PerActor, else "".
	Rule, Tenant, Actor string
	// Count is how many events there were since Since, within the rule's window; At is the time of the last one, and Event its id.
	Count     int
	Since, At time.Time
	Event     string
}

// Watcher is a securemail.Sink. It is safe for concurrent use.
type Watcher struct {
	outbox Outbox
	rules  []Rule
	notify func(context.Context, Alert)
	now    func() time.Time

	mu       sync.Mutex  // guards what follows
	counters []*counters // of each rule
	seen     *memory
}

var _ securemail.Sink = (*Watcher)(nil)

// New makes a Watcher whose alerts go into outbox.
func New(outbox Outbox, o *Options) (*Watcher, error) {
	if o == nil {
		o = &Options{}
	}
	w := &Watcher{outbox: outbox, rules: slices.Clone(o.Rules), notify: o.Notify, now: o.Now, seen: newMemory(remembered)}
	if o.Rules == nil {
		w.rules = Defaults()
	}
	var errs []error
	if outbox == nil {
		errs = append(errs, errors.New("alert: no outbox"))
	}
	if o.Groups < 0 || len(w.rules) > maxRules {
		errs = append(errs, errors.New("alert: negative Groups, or too many rules"))
	}
	groups := o.Groups
	if groups == 0 {
		groups = defaultGroups
	}
	ids := map[string]bool{}
	for i := range w.rules {
		r := &w.rules[i]
		errs = append(errs, r.check())
		if ids[r.ID] {
			errs = append(errs, fmt.Errorf("alert: rule %s is there twice", r.ID))
		}
		ids[r.ID] = true
		w.counters = append(w.counters, &counters{max: groups, byKey: map[group]*list.Element{}})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if w.notify == nil {
		w.notify = func(context.Context, Alert) {}
	}
	if w.now == nil {
		w.now = time.Now
	}
	return w, nil
}

// Emit implements securemail.Sink. An error is the Outbox's: the event was not counted and must come again.
func (w *Watcher) Emit(ctx context.Context, e securemail.Event) error {
	alerts, err := w.take(ctx, &e)
	if err != nil {
		return err
	}
	for _, a := range alerts {
		w.notify(ctx, a)
	}
	return nil
}

// EmitAll takes many events in their order; after an error they may all come again, and those that were counted count once.
func (w *Watcher) EmitAll(ctx context.Context, es ...securemail.Event) error {
	for _, e := range es {
		if err := w.Emit(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// change is what an event does to one counter.
type change struct {
	of    *counters
	c     *counter
	times []time.Time
	fired bool
}

// take counts e. Nothing of it holds where the alerts can't be stored.
func (w *Watcher) take(ctx context.Context, e *securemail.Event) ([]Alert, error) {
	if e.Kind == Kind {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen.knows(e.ID) {
		return nil, nil
	}
	at := e.Time
	if now := w.now(); at.After(now) {
		at = now
	}
	var changes []change
	var alerts []Alert
	var events []securemail.Event
	for i := range w.rules {
		r := &w.rules[i]
		if !r.matches(e) {
			continue
		}
		c := w.counters[i].get(r.group(e))
		ch := change{of: w.counters[i], c: c, times: c.with(at, r.Count, r.Window)}
		if a, ok := r.fire(&ch, at, e); ok {
			alerts = append(alerts, a)
			events = append(events, a.event(r, c.group))
		}
		changes = append(changes, ch)
	}
	if len(events) > 0 {
		if err := w.outbox.Add(ctx, nil, events...); err != nil {
			return nil, fmt.Errorf("alert: store: %w", err)
		}
	}
	for _, ch := range changes {
		ch.c.times = ch.times
		if ch.fired {
			ch.c.fired = at
		}
		ch.of.put(ch.c)
	}
	w.seen.add(e.ID)
	return alerts, nil
}

// fire says whether the event at the time at is the one that fires r: it is among those that count, they are enough, and the rule
// did not fire within its cool-down of that time.
func (r *Rule) fire(ch *change, at time.Time, e *securemail.Event) (Alert, bool) {
	first := ch.times[0]
	quiet := !ch.c.fired.IsZero() && at.Sub(ch.c.fired).Abs() < r.Cooldown
	if len(ch.times) < r.Count || at.Before(first) || quiet {
		return Alert{}, false
	}
	ch.fired = true
	a := Alert{Rule: r.ID, Tenant: ch.c.group.tenant, Count: len(ch.times), Since: first, At: at, Event: e.ID}
	if r.Per == PerActor {
		a.Actor = e.By.ID
	}
	return a, true
}

// event is a as it is recorded. Its id is the same whenever the same event fires the same rule.
func (a *Alert) event(r *Rule, g group) securemail.Event {
	h := sha256.New()
	for _, part := range []string{r.ID, g.tenant, g.id, a.Event} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	id := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:20]))
	d := map[string]string{
		"rule": a.Rule, "count": strconv.Itoa(a.Count), "window": r.Window.String(), "since": a.Since.UTC().Format(time.RFC3339), "event": a.Event,
	}
	if a.Actor != "" {
		d["actor"] = a.Actor
	}
	return securemail.Event{
		ID: "alert-" + id, Kind: Kind, Time: a.At, By: securemail.Actor{Tenant: a.Tenant, ID: "alert", Kind: "part"}, Detail: d,
	}
}
