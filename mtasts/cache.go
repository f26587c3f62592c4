package mtasts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// checkEvery is the least time between two questions for the record of one domain, but for Recheck and for a policy
	// that has expired. It is also the least time that a fetched policy binds: one with max_age 0 binds at once, and must be
	// fetched again with the next question.
	checkEvery = time.Minute
	// recheckEvery is the least time between two questions that Recheck asks.
	recheckEvery = 10 * time.Second
	// backoff is the time without a new fetch for an id whose policy could not be fetched (RFC 8461 section 3.3).
	backoff = 5 * time.Minute
	// askTime bounds one question to DNS, storeTime one to the Store.
	askTime, storeTime = 20 * time.Second, 10 * time.Second
)

// Resolver looks TXT records up, as [*net.Resolver] does: the strings of one record joined; no such name and no such record
// are a [*net.DNSError] with IsNotFound, and every other error means that it is not known now. Names end with a dot.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Options are the options of [New]; nil and zero fields mean the defaults.
type Options struct {
	// Resolver answers for records; nil is [net.DefaultResolver].
	Resolver Resolver
	// Fetcher gets policies; nil is a [Client] without options.
	Fetcher Fetcher
	// MaxDomains bounds the memory, not the Store: about as many domains are held, fewer where policies are long. 0 is 20000.
	MaxDomains int
	// Logger gets a line where the Store or a fetch fails; nil is silence. Lines hold domains and rules.
	Logger *slog.Logger
	// Now is the clock; nil is [time.Now]. Where it has a monotonic reading, setting the wall clock does not disturb what
	// is in memory.
	Now func() time.Time
	// Rand returns numbers in [0,1) for the spreading of refreshes; nil is [rand.Float64].
	Rand func() float64
}

// Cache knows the policies of domains. Make one for the process: it is safe for use from many goroutines, and asks for each
// domain once however many deliveries wait. What it learns goes into its [Store] and outlives it.
type Cache struct {
	store    Store
	resolver Resolver
	fetcher  Fetcher
	log      *slog.Logger
	now      func() time.Time
	rand     func() float64
	seed     uint64 // spreads refreshes differently in each process

	mu    sync.RWMutex     // guards nodes, their weight, and total
	nodes map[string]*node // by canonical domain
	total int
	limit int
	sweep sync.Mutex // guards swept
	swept time.Time  // how far time has come for sure; see sweepOld
}

// New makes a Cache on a store, which must not be nil.
func New(store Store, o *Options) (*Cache, error) {
	if o == nil {
		o = &Options{}
	}
	var errs []error
	if store == nil {
		errs = append(errs, errors.New("mtasts: new: there is no store"))
	}
	if o.MaxDomains < 0 {
		errs = append(errs, errors.New("mtasts: new: MaxDomains is negative"))
	}
	c := &Cache{
		store: store, resolver: o.Resolver, fetcher: o.Fetcher, log: o.Logger, now: o.Now, rand: o.Rand,
		nodes: map[string]*node{}, limit: cmp.Or(o.MaxDomains, 20000),
	}
	if c.resolver == nil {
		c.resolver = net.DefaultResolver
	}
	if c.fetcher == nil {
		client, err := NewClient(nil)
		errs, c.fetcher = append(errs, err), client
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.rand == nil {
		c.rand = rand.Float64
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.seed = uint64(c.rand() * (1 << 53))
	return c, nil
}

// Source says where a [State] comes from.
type Source string

// The sources.
const (
	// SourceNone: the domain has no policy.
	SourceNone Source = "none"
	// SourceCached: a policy that was fetched earlier and has not expired.
	SourceCached Source = "cached"
	// SourceLive: a policy that was fetched when the domain was last looked at, less than a minute ago.
	SourceLive Source = "live"
)

// Finding is something that is not as it should be, though the [State] stands.
type Finding struct {
	// Rule is the rule that is broken.
	Rule Rule
	// Result is the result type of RFC 8460 section 4.3 for it, "sts-policy-fetch-error", "sts-policy-invalid" or
	// "sts-webpki-invalid", or empty.
	Result string
	// Text says it in English. It holds nothing that the far end said.
	Text string
}

// State is what is known of a domain. It is shared: nobody may change what its slices and pointer lead to.
type State struct {
	// Policy is the policy that binds, or nil where the domain surely has none. Its Mode counts: see [State.Enforced].
	Policy *Policy
	// ID is the id of the record that led to the policy.
	ID string
	// Text is the policy as it was fetched, in step with Policy.
	Text []byte
	// Source says where it comes from. Empty is no State at all.
	Source Source
	// Confirmed says that DNS showed the id of this very policy, or no record where there is no policy, when the domain
	// was last looked at. RFC 8461 section 5.1: without it a failure must not be final.
	Confirmed bool
	// Expires is when the policy stops to bind; zero without a policy.
	Expires time.Time
	// Findings are what is not as it should be.
	Findings []Finding
}

// Enforced says whether there is a policy of mode enforce: then hosts that the policy does not match, or that don't show a
// valid certificate for their name over STARTTLS, must get nothing (RFC 8461 section 5).
func (s State) Enforced() bool { return s.Policy != nil && s.Policy.Mode == Enforce }

// ErrUnknown says that it is not known now whether a domain has a policy. The caller must defer.
var ErrUnknown = errors.New("not known now")

// Lookup says what is known of a mail domain, and is meant to be called for each delivery. It asks DNS at most once a
// minute for the record, and where the id has changed, or nothing is known, fetches the policy, which takes up to a minute;
// meanwhile others get the cached policy if there is one. A policy that has not expired is returned whatever fails, with a
// Finding. An address literal has no policy. An error is [ErrUnknown], or the context's, or says that domain is no domain
// name.
func (c *Cache) Lookup(ctx context.Context, domain string) (State, error) {
	n, err := c.node(domain)
	if n == nil {
		return State{Source: SourceNone, Confirmed: true}, err
	}
	now := c.now()
	n.touch(now)
	v := n.view.Load()
	if v.fresh(now, checkEvery) {
		return v.state, v.err
	}
	if !n.tryLock() {
		if v.binds(now) {
			return v.state, nil
		}
		if err := n.lock(ctx); err != nil {
			return State{}, fmt.Errorf("mtasts: %s: %w", n.domain, err)
		}
	}
	defer n.unlock()
	return c.look(ctx, n, checkEvery)
}

// Recheck is Lookup that asks DNS now, unless that happened within the last 10 seconds. It comes before anything that would
// make a message fail for good because of a policy (RFC 8461 section 5.1); fail only if the State is Confirmed.
func (c *Cache) Recheck(ctx context.Context, domain string) (State, error) {
	n, err := c.node(domain)
	if n == nil {
		return State{Source: SourceNone, Confirmed: true}, err
	}
	n.touch(c.now())
	if err := n.lock(ctx); err != nil {
		return State{}, fmt.Errorf("mtasts: %s: %w", n.domain, err)
	}
	defer n.unlock()
	return c.look(ctx, n, recheckEvery)
}
