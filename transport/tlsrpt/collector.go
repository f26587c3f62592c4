package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// CollectorOptions are what a [Collector] can be told. Nil is the zero value.
type CollectorOptions struct {
	// FlushEvery is how often Run writes to the Store. Zero: 30 seconds. What was added since is lost if the process dies.
	FlushEvery time.Duration
	// MaxDomains bounds the domains held between two flushes. Zero: 10,000. What is beyond is counted in Lost.
	MaxDomains int
	// Now nil: time.Now.
	Now func() time.Time
	// Jitter gives a duration from 0 up to, but not including, max. It spreads the reports of a day. Nil: at random.
	Jitter func(max time.Duration) time.Duration
	// Logger takes what goes wrong in Run: no names of domains. Nil: none.
	Logger *slog.Logger
}

// Collector counts results by UTC day, domain and policy, in memory, and writes the counts to a [Store] in [Collector.Run].
// It is safe for concurrent use.
type Collector struct {
	store Store
	o     CollectorOptions

	mu      sync.Mutex // guards what follows
	pending map[Key]*Account
	lost    int64

	flushing sync.Mutex // one flush at a time, so that counts that failed go back before the next
}

// batch is how many accounts one Store.Update changes.
const batch = 100

// NewCollector makes one that writes to store.
func NewCollector(store Store, o *CollectorOptions) (*Collector, error) {
	c := &Collector{store: store, pending: map[Key]*Account{}}
	if o != nil {
		c.o = *o
	}
	var errs []error
	if store == nil {
		errs = append(errs, errors.New("tlsrpt: collector: a store is required"))
	}
	if c.o.FlushEvery < 0 || c.o.MaxDomains < 0 {
		errs = append(errs, errors.New("tlsrpt: collector: a negative limit"))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.o.FlushEvery == 0 {
		c.o.FlushEvery = 30 * time.Second
	}
	if c.o.MaxDomains == 0 {
		c.o.MaxDomains = 10000
	}
	if c.o.Now == nil {
		c.o.Now = time.Now
	}
	if c.o.Jitter == nil {
		c.o.Jitter = jitter
	}
	return c, nil
}

// jitter is the default of the options named so.
func jitter(max time.Duration) time.Duration {
	if max <= 0 {
		return 0
	}
	return rand.N(max)
}

type quietKey struct{}

// Quiet marks ctx, so that [Collector.Add] counts nothing under it: for the delivery of reports themselves, which must not
// be reported on (RFC 8460 section 5.3). A delivery agent behind a queue, where ctx does not reach, tells a report by its
// header field [HeaderDomain].
func Quiet(ctx context.Context) context.Context { return context.WithValue(ctx, quietKey{}, true) }

// Add counts r. It takes a lock and memory only, so it never waits for disk or network. A Result whose Domain is no
// domain name counts as lost.
func (c *Collector) Add(ctx context.Context, r Result) {
	if ctx.Value(quietKey{}) != nil {
		return
	}
	r, ok := r.clean()
	day := DayOf(c.o.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok {
		c.lost++
		return
	}
	c.add(Key{day, r.Domain}, r)
	if r.Type == TLSA && r.PolicyDomain != r.Domain {
		// RFC 8460 section 1.1: for DANE the policy domain is the TLSA base domain, whose operator may want a report as
		// well.
		c.add(Key{day, r.PolicyDomain}, r)
	}
}

// add runs under mu.
func (c *Collector) add(k Key, r Result) {
	a := c.pending[k]
	if a == nil {
		if len(c.pending) >= c.o.MaxDomains {
			c.lost++
			return
		}
		a = &Account{Key: k}
		c.pending[k] = a
	}
	if !a.add(r) {
		c.lost++
	}
}

// Lost is how many results were dropped since the Collector was made: over MaxDomains, over 20 policies of one domain and
// day, or too late for the report of their day.
func (c *Collector) Lost() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// Flush writes what was added to the Store. What could not be written is kept for the next Flush.
func (c *Collector) Flush(ctx context.Context) error {
	c.flushing.Lock()
	defer c.flushing.Unlock()
	c.mu.Lock()
	full := c.pending
	c.pending = map[Key]*Account{}
	c.mu.Unlock()

	var keys []Key
	for k := range full {
		keys = append(keys, k)
	}
	for len(keys) > 0 {
		n := min(batch, len(keys))
		if err := c.write(ctx, keys[:n], full); err != nil {
			c.putBack(keys, full)
			return fmt.Errorf("tlsrpt: flush: %w", err)
		}
		keys = keys[n:]
	}
	return nil
}

// write adds the counts of keys to the Store, all or none.
func (c *Collector) write(ctx context.Context, keys []Key, full map[Key]*Account) error {
	next := make(map[Key]time.Time, len(keys)) // chosen once: the function below may run again
	for _, k := range keys {
		next[k] = k.Day.End().Add(settle + c.o.Jitter(spread))
	}
	late := map[Key]int64{}
	err := c.store.Update(ctx, keys, func(a *Account) error {
		late[a.Key] = 0
		if a.ReportID != "" {
			late[a.Key] = full[a.Key].sessions() // its report is made already
			return nil
		}
		if a.Next.IsZero() {
			a.Next = next[a.Key]
		}
		late[a.Key] = a.merge(full[a.Key])
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range late {
		c.lost += n
	}
	return nil
}

func (c *Collector) putBack(keys []Key, full map[Key]*Account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		switch a := c.pending[k]; {
		case a != nil:
			c.lost += a.merge(full[k])
		case len(c.pending) >= c.o.MaxDomains:
			c.lost += full[k].sessions()
		default:
			c.pending[k] = full[k]
		}
	}
}

// Run flushes every FlushEvery until ctx ends, then a last time within 10 seconds. It returns an error only where that
// last flush fails; earlier ones go to the Logger and are tried again.
func (c *Collector) Run(ctx context.Context) error {
	t := time.NewTicker(c.o.FlushEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := c.Flush(ctx); err != nil && ctx.Err() == nil && c.o.Logger != nil {
				c.o.Logger.WarnContext(ctx, "tlsrpt: counts not stored; kept for the next time", "error", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return c.Flush(last)
		}
	}
}
