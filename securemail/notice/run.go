package notice

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/postseal/postseal/securemail"
)

const (
	perReport  = 10_000 // entries of one report
	perLoad    = 1_000  // items that are read and looked up at once
	maxWaiting = 50_000 // items in memory; more wait in the table
	perScan    = 500    // late parcels looked at at once

	settleWait = 10 * time.Second
)

// group is what waits to be told one addressee.
type group struct {
	tenant, who string
	to          securemail.Contact
	items       []*item
}

// Run makes reports until ctx ends. Several processes may Run on one database: one of them leads, and another takes over
// within a minute. A pass that fails is logged and made again.
func (n *Notices) Run(ctx context.Context) error {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = n.resign(ctx) // else another process leads in a minute
	}()
	for ctx.Err() == nil {
		if _, err := n.Pass(ctx); err != nil && ctx.Err() == nil {
			n.o.Logger.Error("notice: a pass failed; trying again", "err", err)
		}
		t := time.NewTimer(n.o.Tick)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// Pass makes the reports that are due now and returns how many it mailed. It is for timers, commands and tests: what
// RunDue delivers is fed to the Sinks at its end, so a Pass stands behind it, and another RunDue behind that.
func (n *Notices) Pass(ctx context.Context) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.o.Now()
	if leads, err := n.lead(ctx, now); err != nil || !leads {
		n.forget()
		return 0, wrap("lead", err)
	}
	if err := n.late(ctx, now); err != nil {
		return 0, wrap("late mail", err)
	}
	mailed, resumeErr := n.resume(ctx, now)
	if now.Sub(n.fresh).Abs() >= n.o.Every {
		// PostgreSQL commits in another order than it counts: what came late under a number that was passed is found so.
		n.forget()
		n.fresh = now
	}
	if err := n.load(ctx); err != nil {
		n.forget()
		return mailed, wrap("load", errors.Join(resumeErr, err))
	}
	more, err := n.flush(ctx, now)
	if err = errors.Join(resumeErr, err); err == nil && now.Sub(n.purged).Abs() > time.Hour {
		if err = n.purge(ctx, now); err == nil {
			n.purged = now
		}
	}
	return mailed + more, wrap("report", err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("notice: %s: %w", what, err)
}

// forget drops what is in memory; the table has it.
func (n *Notices) forget() { n.seen = 0; clear(n.groups) }

// watched is a row of notice_watch that is due.
type watched struct {
	parcel, tenant, purpose string
	base                    time.Time
	step                    int
}

// late notes the parcels that are still on their way past an age of their rule.
func (n *Notices) late(ctx context.Context, now time.Time) error {
	for {
		ws, err := n.due(ctx, now)
		if err != nil || len(ws) == 0 {
			return err
		}
		items := make([]*item, len(ws))
		for i, w := range ws {
			r := n.rule(w.tenant, securemail.Purpose(w.purpose), Delayed)
			items[i] = &item{
				id: "delayed/" + w.parcel + "/" + strconv.Itoa(w.step), tenant: w.tenant, parcel: w.parcel, purpose: w.purpose,
				rule: r.Name, what: string(Delayed), reason: "late", entered: now,
			}
		}
		found, err := n.find(ctx, items)
		if err != nil {
			return err
		}
		var events []securemail.Event
		for i, it := range items {
			st, ok := found[it.parcel]
			if it.next = st.Next; ok && moving(&st) {
				events = append(events, n.event(it, "delayed", "seen", now))
			} else {
				items[i] = nil
			}
		}
		if err := n.add(ctx, events); err != nil { // before the commit: the ids are their own
			return err
		}
		if err := n.noteLate(ctx, ws, items, now); err != nil {
			return err
		}
	}
}

// moving says that it is on its way and not delivered.
func moving(st *securemail.Status) bool {
	return st.State == securemail.StateDeferred || st.State == securemail.StateAccepted || st.State == securemail.StateAttempting
}

func (n *Notices) due(ctx context.Context, now time.Time) ([]watched, error) {
	rs, err := n.db.QueryContext(ctx, n.d.Rebind(`SELECT parcel, tenant, purpose, base, step FROM notice_watch
		WHERE at>0 AND at<=? ORDER BY at LIMIT `+strconv.Itoa(perScan)), micros(now))
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	var out []watched
	for rs.Next() {
		var w watched
		var base int64
		if err := rs.Scan(&w.parcel, &w.tenant, &w.purpose, &base, &w.step); err != nil {
			return nil, err
		}
		w.base = timeOf(base)
		out = append(out, w)
	}
	return out, rs.Err()
}

// noteLate enters items, nil where the parcel is no longer late, and says when each is looked at next. Ages that passed
// while nobody ran are told as one.
func (n *Notices) noteLate(ctx context.Context, ws []watched, items []*item, now time.Time) error {
	return n.d.Commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for i, w := range ws {
			r := n.rule(w.tenant, securemail.Purpose(w.purpose), Delayed)
			if items[i] != nil {
				if err := n.note(ctx, tx, r, items[i]); err != nil {
					return err
				}
			}
			step, at := w.step+1, int64(0)
			for ages := r.ages(); step < len(ages); step++ {
				if t := w.base.Add(ages[step]); t.After(now) {
					at = micros(t)
					break
				}
			}
			if _, err := n.exec(ctx, tx, "UPDATE notice_watch SET step=?, at=? WHERE parcel=?", step, at, w.parcel); err != nil {
				return err
			}
		}
		return nil
	})
}

// load reads what waits and is in no group yet.
func (n *Notices) load(ctx context.Context) error {
	waiting := 0
	for _, g := range n.groups {
		waiting += len(g.items)
	}
	for waiting < maxWaiting {
		items, err := n.items(ctx, "step=0 AND pos>? ORDER BY pos LIMIT "+strconv.Itoa(perLoad), n.seen)
		if err != nil || len(items) == 0 {
			return err
		}
		found, err := n.find(ctx, items)
		if err != nil {
			return err
		}
		for _, it := range items {
			g := n.groupOf(it, found)
			g.items = append(g.items, it)
			n.seen = it.pos
		}
		waiting += len(items)
	}
	return nil
}

// groupOf is the group of whom it is told; without an address where there is none to tell.
func (n *Notices) groupOf(it *item, found map[string]securemail.Status) *group {
	var to securemail.Contact
	if it.who == role {
		to = n.tenant(it.tenant).Role
	} else if st, ok := found[it.parcel]; ok {
		to = securemail.Contact{Name: st.From.Name, Address: st.From.Address}
	}
	key := it.tenant + "\x00" + it.who + "\x00" + to.Address.Reveal()
	if n.groups[key] == nil {
		n.groups[key] = &group{tenant: it.tenant, who: it.who, to: to}
	}
	return n.groups[key]
}

// flush mails each group whose addressee was not mailed for a while, or that is full.
func (n *Notices) flush(ctx context.Context, now time.Time) (int, error) {
	var errs []error
	mailed := 0
	for key, g := range n.groups {
		last, ok := n.last[key]
		if wait := now.Sub(last); ok && wait >= 0 && wait < n.o.Every && len(g.items) < perReport {
			continue
		}
		sort(g.items)
		for part := range slices.Chunk(g.items, perReport) {
			id := newID()
			err := n.assign(ctx, id, part)
			if err == nil {
				err = n.report(ctx, id, g.who, g.to, now)
			}
			if err != nil {
				errs = append(errs, err) // what was assigned is resumed, what was not is loaded again
				continue
			}
			mailed++
		}
		n.last[key] = now
		delete(n.groups, key)
	}
	for key, last := range n.last {
		if now.Sub(last).Abs() >= n.o.Every {
			delete(n.last, key)
		}
	}
	if len(errs) > 0 {
		n.forget()
	}
	return mailed, errors.Join(errs...)
}

// sort puts first what a person must act on.
func sort(items []*item) {
	rank := func(it *item) int {
		r := slices.Index([]string{string(securemail.StateUncertain), string(securemail.StateHeld)}, it.what)
		if r < 0 {
			r = 2
		}
		if p := securemail.Purpose(it.purpose); p != securemail.PurposeTreatment && p != "" {
			r += 3
		}
		return r
	}
	slices.SortStableFunc(items, func(a, b *item) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.pos, b.pos)) })
}

// resume mails the reports that a program had begun when it stopped.
func (n *Notices) resume(ctx context.Context, now time.Time) (int, error) {
	var errs []error
	mailed, tried := 0, map[string]bool{}
	items, err := n.items(ctx, "step=1 ORDER BY pos LIMIT 1")
	for ; err == nil && len(items) > 0; items, err = n.items(ctx, "step=1 AND pos>? ORDER BY pos LIMIT 1", items[0].pos) {
		id := items[0].reportID
		if tried[id] {
			continue // another item of one that failed just now
		}
		tried[id] = true
		found, err := n.find(ctx, items)
		if err != nil {
			return mailed, err
		}
		g := n.groupOf(items[0], found)
		if err := n.report(ctx, id, g.who, g.to, now); err != nil {
			errs = append(errs, err) // it must not keep the others waiting
			continue
		}
		mailed++
	}
	return mailed, errors.Join(append(errs, err)...)
}

// report mails report id, whose items are in the table, and settles it.
func (n *Notices) report(ctx context.Context, id, who string, to securemail.Contact, now time.Time) error {
	items, err := n.items(ctx, "report=? AND step=1 ORDER BY pos", id)
	if err != nil || len(items) == 0 {
		return err
	}
	tenant := items[0].tenant
	outcome := "failed"
	if to.Address != (securemail.Address{}) {
		found, err := n.find(ctx, items)
		if err != nil {
			return err
		}
		sort(items)
		raw, from, err := n.compose(&letter{id, tenant, who, to, items, found, now})
		if err != nil {
			return err
		}
		_, err = n.sender.Send(securemail.WithActor(ctx, part(tenant)), &securemail.Draft{
			Key: "notice/" + id, From: from, To: []securemail.Recipient{{Contact: to}}, Raw: securemail.Bytes(raw),
			Purpose: securemail.PurposeSystem, Labels: map[string]string{label: id},
		})
		switch {
		case err == nil, errors.Is(err, securemail.ErrConflict): // it was mailed before a stop, when its parcels said other things
			outcome = "mailed"
		case !refused(err):
			return err
		}
	}
	// What was mailed is settled even if ctx ends just now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	var events []securemail.Event
	var escalated []*item
	for _, it := range items {
		events = append(events, n.event(it, "notice", outcome, now))
		if outcome == "failed" && it.who == sender {
			escalated = append(escalated, it)
		}
	}
	if err := n.add(ctx, events); err != nil {
		return err
	}
	if outcome == "failed" {
		n.o.Logger.Error("notice: a report can't be mailed", "to", who, "entries", len(items), "tenant", tenant)
	}
	return n.settle(ctx, id, escalated)
}

// refused says that trying again is of no use: among others, under a tenant whose keys were destroyed nothing can be sent.
func refused(err error) bool {
	_, faulty := errors.AsType[*securemail.DraftError](err)
	var d interface{ Destroyed() bool }
	return faulty || errors.As(err, &d) && d.Destroyed() || errors.Is(err, securemail.ErrRefused) || errors.Is(err, securemail.ErrDenied) || errors.Is(err, securemail.ErrTenant)
}
