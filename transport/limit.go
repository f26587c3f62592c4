package transport

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/throttle"
	"github.com/postseal/postseal/securemail"
)

// LimitOptions are the options of [Limit]; nil and zero fields mean the defaults.
type LimitOptions struct {
	// Connections is how many deliveries a recipient domain has at once to begin with; 0 is 5, or Max where that is less.
	// Max is how many it has at most, however well they go; 0 is 20, or Connections where that is more.
	Connections, Max int
	// Rate is how many deliveries a second may begin for a domain; 0 bounds nothing. Burst is how many may begin at once
	// after a quiet time; 0 is 1.
	Rate  float64
	Burst int
	// Total is how many deliveries there may be at once to all domains; 0 is 100. TotalRate and TotalBurst are as Rate and
	// Burst.
	Total      int
	TotalRate  float64
	TotalBurst int
	// Wait is how long a delivery waits for its domain, and then again for the total; 0 is 30 s, and a negative one means
	// not at all. It should be less than the lease of a queue.
	Wait time.Duration
	// Pause is how long a domain gets nothing after it refused a connection or said 421; each further time without a success
	// between doubles it up to MaxPause. 0 are 30 s and 15 min.
	Pause, MaxPause time.Duration
	// Forget is how long an idle domain is remembered; 0 is 10 min.
	Forget time.Duration
	// Now is the clock; nil is time.Now. Waiting itself is done by the system's.
	Now func() time.Time
	// Shared makes Max, Rate and Burst hold for all processes that share it together; what each learns of a domain stays its own.
	// See [LimitStore]. Nil: they are those of this process.
	Shared *SharedLimits
}

func (o *LimitOptions) domain() throttle.Limits {
	return throttle.Limits{
		Connections: o.Connections, Max: o.Max, Rate: o.Rate, Burst: o.Burst,
		Wait: o.Wait, Pause: o.Pause, MaxPause: o.MaxPause, Forget: o.Forget,
	}
}

func (o *LimitOptions) total() throttle.Limits {
	l := throttle.Limits{Connections: o.Total, Max: o.Total, Rate: o.TotalRate, Burst: o.TotalBurst, Wait: o.Wait}
	if o.Total == 0 {
		l.Connections, l.Max = 100, 100
	}
	return l
}

// Limiter is what [Limit] makes. It is safe for concurrent use if its Transport is.
type Limiter struct {
	t      securemail.Transport
	domain *throttle.Throttle
	total  *throttle.Throttle
	shared *SharedLimits // nil: none
	limits throttle.Limits
}

var (
	_ securemail.Transport = (*Limiter)(nil)
	_ securemail.Prober    = (*Limiter)(nil)
	_ Observer             = (*Limiter)(nil)
)

// Limit makes a Transport that gives no recipient domain more than it takes, and all together no more than Total. A
// domain's limit rises by about one for each round of deliveries that went well and is halved by a 4xx reply or an
// uncertain end; a refused connection, 421 or an HTTP 429 or 503 closes the domain for a while. Replies about one mailbox
// (RFC 3463: 4.1.x, 4.2.x) and whatever happened before the domain was asked change nothing.
//
// A delivery that can't begin within Wait ends as FateRetry with RetryAfter, and its Transport is not called. What is
// known of an idle domain takes less than 1 KB. There is no goroutine.
func Limit(t securemail.Transport, o *LimitOptions) (*Limiter, error) {
	if o == nil {
		o = &LimitOptions{}
	}
	var errs []error
	if t == nil {
		errs = append(errs, errors.New("transport: limit: no transport"))
	}
	for _, l := range []throttle.Limits{o.domain(), o.total()} {
		if err := l.Check(); err != nil {
			errs = append(errs, fmt.Errorf("transport: limit: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l := &Limiter{t: t, domain: throttle.New(o.domain(), o.Now), total: throttle.New(o.total(), o.Now), shared: o.Shared}
	l.limits = l.domain.Limits()
	return l, nil
}

// Deliver implements securemail.Transport.
func (l *Limiter) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	release, err := l.domain.Acquire(ctx, s.Recipient.Address.Domain())
	if err != nil {
		return nil, turnedAway(err)
	}
	verdict := throttle.Neutral // a Transport that panics says nothing
	defer func() { release(verdict) }()
	back, err := l.share(ctx, s.Recipient.Address.Domain())
	if err != nil {
		return nil, turnedAway(err)
	}
	defer back()
	done, err := l.total.Acquire(ctx, "")
	if err != nil {
		return nil, turnedAway(err)
	}
	defer done(throttle.Neutral)
	r, err := l.t.Deliver(ctx, s)
	if ctx.Err() == nil {
		verdict = verdictOf(err)
	}
	return r, err
}

// share takes a place in what all nodes may do, where there is such a limit.
func (l *Limiter) share(ctx context.Context, domain string) (back func(), err error) {
	if l.shared == nil {
		return func() {}, nil
	}
	return l.shared.acquire(ctx, domain, sharedLimit{l.limits.Max, l.limits.Rate, l.limits.Burst}, l.limits.Wait)
}

// unreachableRetry is when a delivery comes again that found the shared limits out of reach.
const unreachableRetry = 30 * time.Second

// turnedAway is the answer where the Transport was not called.
func turnedAway(err error) error {
	// RFC 3463 section 3.5: X.4.5 is congestion.
	de := &securemail.DeliveryError{Stage: "connect", Enhanced: "4.4.5", Err: err}
	if busy, ok := errors.AsType[*throttle.BusyError](err); ok {
		de.RetryAfter = busy.RetryAfter
	}
	if _, ok := errors.AsType[*unreachable](err); ok {
		de.RetryAfter = unreachableRetry
	}
	return de
}

// verdictOf reads what a delivery says of its domain.
func verdictOf(err error) throttle.Verdict {
	if err == nil {
		return throttle.Good
	}
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	if _, ours := errors.AsType[*throttle.BusyError](err); !ok || ours || errors.Is(err, securemail.ErrChannel) {
		return throttle.Neutral
	}
	switch {
	case uncertain(err):
		return throttle.Slow
	case de.Fate == securemail.FatePermanent:
		return throttle.Neutral
	case de.Code == 421, de.Code == http.StatusTooManyRequests, de.Code == http.StatusServiceUnavailable:
		return throttle.Stop
	case de.Stage == "connect", de.Stage == "greeting":
		return throttle.Stop
	case de.Code/100 != 4, strings.HasPrefix(de.Enhanced, "4.1."), strings.HasPrefix(de.Enhanced, "4.2."):
		return throttle.Neutral
	}
	return throttle.Slow
}

// Probe implements securemail.Prober: it asks the Transport; one that can't tell leaves the route unknown. A probe does not
// count against the limits.
func (l *Limiter) Probe(ctx context.Context, tenant, domain string) (securemail.Route, error) {
	return probe(ctx, l.t, tenant, domain)
}

// Observe implements Observer as Probe implements Prober; the error of a Transport that can't look Is errors.ErrUnsupported.
func (l *Limiter) Observe(ctx context.Context, tenant, domain string) (*Observation, error) {
	return observe(ctx, l.t, tenant, domain)
}

// probe asks t where it is a Prober.
func probe(ctx context.Context, t securemail.Transport, tenant, domain string) (securemail.Route, error) {
	if p, ok := t.(securemail.Prober); ok {
		return p.Probe(ctx, tenant, domain)
	}
	return securemail.Route{}, nil
}

// observe asks t where it is an Observer.
func observe(ctx context.Context, t securemail.Transport, tenant, domain string) (*Observation, error) {
	if o, ok := t.(Observer); ok {
		return o.Observe(ctx, tenant, domain)
	}
	return nil, errNoObserver
}

var errNoObserver = fmt.Errorf("transport: this transport can't look at a domain: %w", errors.ErrUnsupported)
