package mtasts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// look asks the Store, DNS and the policy host, as far as it must, and shows what it learns to readers. The caller holds the
// node. It does nothing if somebody looked less than d ago.
func (c *Cache) look(ctx context.Context, n *node, d time.Duration) (State, error) {
	if v := n.view.Load(); v.fresh(c.now(), d) {
		return v.state, v.err
	}
	l := look{c: c, n: n}
	l.unread = c.load(ctx, n)
	l.record(ctx)
	v := l.view()
	// What a caller could not wait for says nothing of the domain.
	if ctx.Err() != nil && !v.state.Confirmed {
		if v.state.Policy == nil {
			return State{}, fmt.Errorf("mtasts: %s: %w", n.domain, ctx.Err())
		}
		return v.state, nil
	}
	n.view.Store(v)
	return v.state, v.err
}

// look is one look at a domain.
type look struct {
	c        *Cache
	n        *node
	unread   error // why the Store's entry is not known
	noAnswer error // why the record is not known
	id       string
	gone     bool // there surely is no record
	live     bool // the policy was fetched now
	findings []Finding
}

// record asks for the record and fetches the policy if it has an id that is new.
func (l *look) record(ctx context.Context) {
	rec, err := l.c.ask(ctx, l.n.domain)
	bound := l.n.held.binds(l.c.now())
	var broken *RecordError
	switch {
	case errors.As(err, &broken):
		l.gone = true
		l.find(broken.Rule, "", "the STS record is not usable")
	case errors.Is(err, ErrNoRecord):
		l.gone = true
		if bound {
			l.find(RuleRecordGone, "", "the STS record is gone, the cached policy binds until it expires")
		}
	case err != nil:
		l.noAnswer = err
		l.find(RuleDNS, "", "DNS gave no answer for the STS record")
	default:
		l.id = rec.ID
		if !bound || l.n.held.entry.ID != rec.ID {
			l.fetch(ctx, rec.ID)
		} else {
			l.c.keep(ctx, l.n)
		}
	}
}

func (l *look) fetch(ctx context.Context, id string) {
	if err := l.c.fetch(ctx, l.n, id); err != nil {
		rule, result := classify(err)
		l.find(rule, result, "the policy could not be fetched")
		return
	}
	l.live = true
}

func (l *look) find(r Rule, result, text string) {
	l.findings = append(l.findings, Finding{Rule: r, Result: result, Text: text})
}

// view is what the look has shown. This is where it is decided what counts: a policy that has not expired, before all
// else; then doubt; and only without either, that there is none.
func (l *look) view() *view {
	now, h := l.c.now(), l.n.held
	v := &view{checked: now}
	switch {
	case h.binds(now):
		if h.dirty {
			l.find(RuleStore, "", "the policy could not be stored and is held in memory")
		}
		v.until, v.dirty = h.until, h.dirty
		v.state = State{
			Policy: &h.policy, ID: h.entry.ID, Text: h.entry.Text, Source: SourceCached, Expires: h.until,
			Confirmed: l.live || l.id != "" && l.id == h.entry.ID,
		}
		if l.live {
			v.state.Source = SourceLive
		}
	case l.unread != nil:
		v.err = fmt.Errorf("mtasts: %s: %w: %w", l.n.domain, ErrUnknown, l.unread)
		return v
	case l.noAnswer != nil:
		v.err = fmt.Errorf("mtasts: %s: %w: %w", l.n.domain, ErrUnknown, l.noAnswer)
		return v
	default:
		// RFC 8461 section 3.3: where a record is there, but no policy can be had and none is cached, senders go on as if
		// the domain had none. The Finding tells.
		v.state = State{Source: SourceNone, Confirmed: l.gone}
	}
	v.state.Findings = l.findings
	return v
}

// ask looks the record up. An error is [ErrNoRecord] where there surely is none.
func (c *Cache) ask(ctx context.Context, domain string) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	// With the final dot: a search list of the machine must not lead to another domain's record.
	txts, err := c.resolver.LookupTXT(ctx, "_mta-sts."+domain+".")
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsNotFound && !dns.IsTimeout && !dns.IsTemporary {
			return Record{}, ErrNoRecord
		}
		return Record{}, err
	}
	return ParseRecord(txts)
}

// fetch gets the policy for an id and makes it the node's. It answers the last error again while the back-off lasts. RFC
// 8461 section 3.3 counts that per id; questions for the id bound the rate of both.
func (c *Cache) fetch(ctx context.Context, n *node, id string) error {
	if n.failedErr != nil && n.failedID == id && near(c.now(), n.failed, backoff) {
		return n.failedErr
	}
	text, err := c.fetcher.Fetch(ctx, n.domain)
	var p Policy
	if err == nil {
		p, err = ParsePolicy(text)
	}
	if err != nil {
		if ctx.Err() == nil {
			n.failed, n.failedID, n.failedErr = c.now(), id, err
			rule, _ := classify(err)
			c.log.WarnContext(ctx, "mtasts: no policy fetched", "domain", n.domain, "rule", rule)
		}
		return err
	}
	n.failedErr = nil
	now := c.now()
	from := latest(now, n.held)
	h := &held{policy: p, dirty: true, entry: Entry{
		Domain: n.domain, ID: id, Mode: p.Mode, Text: text, Fetched: from, Expires: from.Add(life(p)), Used: n.lastUsed(now),
	}}
	h.until = h.entry.Expires
	n.held = h
	c.weigh(n)
	c.save(ctx, n)
	return nil
}

// life is how long a policy binds.
func life(p Policy) time.Duration { return max(p.MaxAge, checkEvery) }

// since is when a policy began to bind, to a second, by the clock of [latest].
func (h *held) since() time.Time { return h.entry.Expires.Add(-life(h.policy)).Truncate(time.Second) }

// latest is now, or later where the clock was set back: the policy before, if there was one, began to bind earlier. So
// policies of one domain stand in order, and one that is fetched by a wrong clock does not end too early by a right one.
func latest(now time.Time, before *held) time.Time {
	if before == nil {
		return now
	}
	if t := before.since().Add(time.Second); t.After(now) {
		return t
	}
	return now
}

func (n *node) lastUsed(now time.Time) time.Time {
	if s := n.used.Load(); s != 0 {
		return time.Unix(s, 0).UTC()
	}
	if n.held != nil {
		return n.held.entry.Used
	}
	return now
}

// load takes the Store's entry, unless memory holds a policy that binds. An error says that the entry is not known.
func (c *Cache) load(ctx context.Context, n *node) error {
	now := c.now()
	if n.held.binds(now) {
		return nil
	}
	e, err := c.read(ctx, n.domain)
	if errors.Is(err, ErrNoEntry) {
		return nil
	}
	var h *held
	if err == nil {
		h, err = hold(e, n.domain, now)
	}
	if err != nil {
		c.log.WarnContext(ctx, "mtasts: store not read", "domain", n.domain)
		return fmt.Errorf("store: %w", err)
	}
	if h != nil {
		c.take(n, h)
	}
	return nil
}

// take makes what was stored the node's policy, unless memory holds a newer one, which it could not store, though that has
// expired. It says whether it did.
func (c *Cache) take(n *node, h *held) bool {
	if old := n.held; old != nil && !h.since().After(old.since()) && !(h.since().Equal(old.since()) && h.entry.ID == old.entry.ID) {
		return false
	}
	n.held = h
	c.weigh(n)
	return true
}

func (c *Cache) read(ctx context.Context, domain string) (Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return c.store.Load(ctx, domain)
}

// hold makes a policy of an entry; nil without an error is for one that has expired. An entry that can't be read is not
// taken for none before it expires.
func hold(e Entry, domain string, now time.Time) (*held, error) {
	if !now.Before(e.Expires) {
		return nil, nil
	}
	p, err := ParsePolicy(e.Text)
	if err != nil || e.Domain != domain {
		return nil, errors.Join(errors.New("mtasts: the entry is damaged"), err)
	}
	h := &held{entry: e, policy: p, until: e.Expires}
	// No policy has longer than its max_age to go; more than that comes from a clock that was or is wrong.
	if most := now.Add(life(p)); h.until.After(most) {
		h.until = most
	} else {
		h.until = now.Add(e.Expires.Sub(now)) // with the monotonic reading of now, if it has one
	}
	return h, nil
}

// keep writes the entry again if the Store lacks it, or if it was used and the entry does not say so for a day. In the
// second case the Store may hold something newer by now, from another process.
func (c *Cache) keep(ctx context.Context, n *node) {
	if n.held.dirty {
		c.save(ctx, n)
		return
	}
	now := c.now()
	used := n.lastUsed(now)
	if near(used, n.held.entry.Used, 24*time.Hour) {
		return
	}
	e, err := c.read(ctx, n.domain)
	if err != nil && !errors.Is(err, ErrNoEntry) {
		return
	}
	if err == nil && e.Fetched.After(n.held.entry.Fetched.Add(2*time.Second)) {
		if newer, err := hold(e, n.domain, now); newer != nil && err == nil {
			n.held = newer
			c.weigh(n)
		}
		return
	}
	h := *n.held
	h.entry.Used = used
	n.held = &h
	c.save(ctx, n)
}

// save writes the node's entry. Where that fails the policy stays in memory, and is written later.
func (c *Cache) save(ctx context.Context, n *node) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	err := c.store.Save(ctx, n.held.entry)
	n.held.dirty = err != nil
	if err != nil {
		c.log.WarnContext(ctx, "mtasts: policy not stored", "domain", n.domain)
	}
}

// classify says which rule a failed fetch broke, and what RFC 8460 section 4.3.2.2 calls that.
func classify(err error) (rule Rule, result string) {
	var fe *FetchError
	var pe *PolicyError
	switch {
	case errors.As(err, &pe):
		return pe.Rule, "sts-policy-invalid"
	case errors.As(err, &fe) && fe.Rule == RuleCertificate:
		return fe.Rule, "sts-webpki-invalid"
	case errors.As(err, &fe):
		return fe.Rule, "sts-policy-fetch-error"
	}
	return RuleConnect, "sts-policy-fetch-error"
}
