package securemail

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	lookupTimeout = 30 * time.Second
	maxRounds     = 8 // of Decide and look-up; a Policy that needs more is broken
)

var (
	errPolicyFault  = errors.New("securemail: policy failed")
	errPolicyRounds = errors.New("securemail: policy keeps asking for what it was told")
)

// decide asks the Policy until it needs nothing more. It adds to f what the Policy asked for.
func (m *Mailer) decide(ctx context.Context, f *Facts) (Decision, error) {
	for range maxRounds {
		d, err := m.c.Policy.Decide(ctx, *f)
		if err != nil {
			return Decision{}, errPolicyFault
		}
		if len(d.Need) == 0 {
			d.Policy, d.Reasons = tidyText(d.Policy), tidyReasons(d.Reasons)
			return d, nil
		}
		missing := slices.DeleteFunc(slices.Clone(d.Need), f.has)
		if len(missing) == 0 {
			return Decision{}, errPolicyRounds
		}
		m.lookUp(ctx, f, missing)
	}
	return Decision{}, errPolicyRounds
}

// has says whether the look-up for method was made.
func (f *Facts) has(method Method) bool {
	if method == MethodTLS {
		return f.Route != nil
	}
	_, ok := f.Keys[method]
	return ok
}

// lookUp makes the look-ups in parallel and adds their answers to f.
func (m *Mailer) lookUp(ctx context.Context, f *Facts, methods []Method) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	keys := make(map[Method]KeyFact, len(f.Keys)+len(methods))
	for k, v := range f.Keys {
		keys[k] = v
	}
	var mu sync.Mutex // guards keys and route
	route := f.Route
	var wg sync.WaitGroup
	for _, method := range methods {
		wg.Go(func() {
			if method == MethodTLS {
				r := m.probe(ctx, &f.Slip)
				mu.Lock()
				defer mu.Unlock()
				route = &r
				return
			}
			k := m.keyFact(ctx, &f.Slip, method)
			mu.Lock()
			defer mu.Unlock()
			keys[method] = k
		})
	}
	wg.Wait()
	f.Keys, f.Route = keys, route
}

// probe asks the Prober; whatever goes wrong is "not known now".
func (m *Mailer) probe(ctx context.Context, s *Slip) (r Route) {
	unknown := Route{Wire: Wire{Reasons: []Reason{{"route-unknown", "the route could not be probed"}}}}
	defer m.contain(func() { r = unknown })
	if m.c.Prober == nil {
		return Route{}
	}
	r, err := m.c.Prober.Probe(ctx, s.Actor.Tenant, s.Recipient.Address.Domain())
	if err != nil {
		return unknown
	}
	r.Reasons = tidyReasons(r.Reasons)
	return r
}

// keyFact asks the KeySource and keeps what is of the method and still valid.
func (m *Mailer) keyFact(ctx context.Context, s *Slip, method Method) (k KeyFact) {
	unknown := KeyFact{State: KeyUnknown, Why: Reason{"key-unknown", "the key source did not answer"}}
	defer m.contain(func() { k = unknown })
	if m.c.Keys == nil {
		return KeyFact{State: KeyNone, Why: Reason{"no-key-source", "no key source is configured"}}
	}
	keys, err := m.c.Keys.Keys(ctx, Lookup{
		Tenant: s.Actor.Tenant, Sender: s.From.Address, Address: s.Recipient.Address, Method: method,
	})
	switch {
	case errors.Is(err, ErrPending):
		return KeyFact{State: KeyPending, Why: Reason{"key-pending", "a changed key waits for approval"}}
	case errors.Is(err, ErrNoKey):
		return KeyFact{State: KeyNone, Why: Reason{"no-key", "there surely is no key"}}
	case err != nil || len(keys) == 0:
		return unknown
	}
	now := m.c.Now()
	usable := slices.DeleteFunc(slices.Clone(keys), func(k Key) bool {
		return k.Method != method || !k.NotAfter.IsZero() && !now.Before(k.NotAfter)
	})
	if len(usable) == 0 {
		return KeyFact{State: KeyNone, Why: Reason{"key-expired", "every key has expired or is of another method"}}
	}
	return KeyFact{State: KeyFound, Keys: tidyKeys(usable)}
}

// needsKeys: the two methods that work without a recipient key are known; every other is looked up.
func needsKeys(method Method) bool { return method != MethodTLS && method != MethodEscrow }

// bars says why a Choice is not allowed for s whatever the Policy says; ok: it is allowed. This is the last line of
// defence behind the Policy, not a replacement for it.
func bars(s *Slip, c Choice) (why Reason, ok bool) {
	switch {
	case s.Escalate >= EscalateSealed && c.Method == MethodTLS:
		return Reason{"escalated", "the sender asked for a sealed message"}, false
	case s.Escalate >= EscalateEscrow && c.Method != MethodEscrow:
		return Reason{"escalated", "the sender asked for escrow"}, false
	case s.Purpose == PurposeSystem && c.Method == MethodEscrow:
		return Reason{"system-mail", "system mail is never put in escrow"}, false
	case s.Purpose == PurposeSystem && c.Method == MethodTLS && c.Channel >= ChannelAny:
		return Reason{"system-mail", "system mail may hold a code: it needs an encrypted channel"}, false
	case c.Method == MethodTLS && s.Class.Level != LevelCleared && c.Channel >= ChannelAny:
		return Reason{"phi-in-clear", "content that is not cleared needs a channel floor"}, false
	}
	return Reason{}, true
}

// Explain says for each recipient of d what would happen now: what is known, what the Policy decides, and the first Choice
// whose keys or Route are there. It makes the look-ups that an attempt would make, and sends and stores nothing. It asks
// for "send".
func (m *Mailer) Explain(ctx context.Context, d *Draft) ([]Explanation, error) {
	b, err := m.prepare(ctx, d)
	if err != nil {
		return nil, err
	}
	ctx, _ = m.part(ctx, b.Tenant)
	slips := make([]*Slip, 0, len(b.Parcels)+len(b.Refused))
	for _, p := range b.Parcels {
		slips = append(slips, &p.Slip)
	}
	refused := len(slips)
	for i := range b.Refused {
		slips = append(slips, &b.Refused[i].Slip)
	}
	out := make([]Explanation, len(slips))
	limit := make(chan struct{}, m.c.Workers)
	var wg sync.WaitGroup
	for i, s := range slips {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			out[i] = m.explain(ctx, s)
			if i >= refused {
				out[i].Use, out[i].Err = nil, ErrRefused
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b Explanation) int {
		return cmpID(a.Facts.ID, b.Facts.ID)
	})
	return out, nil
}

func (m *Mailer) explain(ctx context.Context, s *Slip) (e Explanation) {
	defer m.contain(func() { e.Use, e.Err = nil, errPanic })
	e = Explanation{Facts: Facts{Slip: *s, Attempt: 1, Now: m.c.Now()}}
	if e.Decision, e.Err = m.decide(ctx, &e.Facts); e.Err != nil {
		return e
	}
	for i, c := range e.Decision.Choices {
		if why, ok := bars(s, c); !ok {
			e.Decision.Reasons = append(e.Decision.Reasons, why)
			continue
		}
		if m.ready(ctx, &e.Facts, c) {
			e.Use = &e.Decision.Choices[i]
			return e
		}
	}
	return e
}

// ready says whether c could be used now, as far as look-ups can tell.
func (m *Mailer) ready(ctx context.Context, f *Facts, c Choice) bool {
	if m.encryptors[c.Method] == nil {
		return false
	}
	if c.Method == MethodTLS {
		if !f.has(MethodTLS) {
			m.lookUp(ctx, f, []Method{MethodTLS})
		}
		return c.Channel == ChannelAny || f.Route.Known && f.Route.Meets(c.Channel)
	}
	if !needsKeys(c.Method) {
		return true
	}
	if !f.has(c.Method) {
		m.lookUp(ctx, f, []Method{c.Method})
	}
	return f.Keys[c.Method].State == KeyFound
}

func cmpID(a, b ParcelID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
