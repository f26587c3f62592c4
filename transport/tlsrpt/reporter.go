package tlsrpt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ReporterOptions are what a [Reporter] can be told.
type ReporterOptions struct {
	// Organization is who reports, required. Contact is where readers may ask, such as "https://example.com/mail" or a
	// role's address, required. Both are shown to every domain that is reported to.
	Organization, Contact string
	// Submitter is our domain, in A-labels, required.
	Submitter string
	// Mail nil: mailto: destinations are skipped.
	Mail *MailOptions
	// HTTPS nil: its zero value.
	HTTPS *HTTPSOptions
	// Every is how often Run looks for what is due. Zero: 1 minute.
	Every time.Duration
	// Now nil: time.Now.
	Now func() time.Time
	// Jitter is as in [CollectorOptions]; it varies the time of the next try.
	Jitter func(max time.Duration) time.Duration
	// Logger takes what goes wrong: domains and hosts, no addresses. Nil: none.
	Logger *slog.Logger
}

// Reporter sends the reports of finished days. Several processes may each have one on the same Store.
//
// A domain's report is due between 5 minutes and 4 hours 5 minutes after midnight UTC, at random. Each destination of its
// record gets the report once; after a failure it is tried again, ever less often, for 24 hours (RFC 8460 section 5.5). A
// process that dies between sending a report and storing that it did makes a second copy, under the same report id.
type Reporter struct {
	store    Store
	resolver Resolver
	o        ReporterOptions
	client   *http.Client
}

// Times and bounds of reporting.
const (
	lease         = 15 * time.Minute // how long an account belongs to the process that works on it
	sendTimeout   = 2 * time.Minute  // of one destination
	maxDeliveries = 5                // so that a record can't make us write to everybody
	firstRetry    = 15 * time.Minute
	lastRetry     = 4 * time.Hour
	giveUp        = 24 * time.Hour
	keep          = 48 * time.Hour // after the end of the day
	dueAtOnce     = 100
)

// NewReporter makes one that reads from store and asks resolver for the domains' records.
func NewReporter(store Store, resolver Resolver, o *ReporterOptions) (*Reporter, error) {
	if o == nil {
		o = &ReporterOptions{}
	}
	r := &Reporter{store: store, resolver: resolver, o: *o}
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.o.HTTPS == nil {
		r.o.HTTPS = &HTTPSOptions{}
	}
	https := *r.o.HTTPS
	if https.Timeout == 0 {
		https.Timeout = time.Minute
	}
	if r.o.Every == 0 {
		r.o.Every = time.Minute
	}
	if r.o.Now == nil {
		r.o.Now = time.Now
	}
	if r.o.Jitter == nil {
		r.o.Jitter = jitter
	}
	if r.o.Logger == nil {
		r.o.Logger = slog.New(slog.DiscardHandler)
	}
	r.client = https.client()
	return r, nil
}

func (r *Reporter) check() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("tlsrpt: reporter: "+what))
		}
	}
	need(r.store != nil, "a store is required")
	need(r.resolver != nil, "a resolver is required")
	need(r.o.Organization != "", "Organization is required")
	need(r.o.Contact != "", "Contact is required")
	need(name(r.o.Submitter) != "", "Submitter is no domain")
	need(r.o.Every >= 0 && (r.o.HTTPS == nil || r.o.HTTPS.Timeout >= 0), "a negative time")
	if r.o.Mail != nil {
		errs = append(errs, r.o.Mail.check())
	}
	r.o.Submitter = name(r.o.Submitter)
	return errors.Join(errs...)
}

// Run sends what is due until ctx ends, then returns nil. Failures go to the Logger and are tried again.
func (r *Reporter) Run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if _, err := r.SendDue(ctx); err != nil && ctx.Err() == nil {
			r.o.Logger.WarnContext(ctx, "tlsrpt: reports not sent; tried again", "error", err)
		}
		t.Reset(r.o.Every)
	}
}

// SendDue sends what is due now, one domain after the other, removes what is over 48 hours old, and says how many
// destinations got a report. An error is the Store's: the failure of a destination is stored, logged and tried again.
func (r *Reporter) SendDue(ctx context.Context) (sent int, err error) {
	for {
		keys, err := r.store.Due(ctx, r.o.Now(), dueAtOnce)
		if err != nil {
			return sent, fmt.Errorf("tlsrpt: due: %w", err)
		}
		for _, k := range keys {
			n, err := r.account(ctx, k)
			sent += n
			if err != nil {
				return sent, err
			}
		}
		if len(keys) < dueAtOnce {
			break
		}
	}
	// A day may go when its end is 48 hours past.
	if _, err := r.store.Remove(ctx, DayOf(r.o.Now().Add(-keep))); err != nil {
		return sent, fmt.Errorf("tlsrpt: remove: %w", err)
	}
	return sent, nil
}

var errNotOurs = errors.New("tlsrpt: another process works on it")

// account makes one attempt for one domain and day.
func (r *Reporter) account(ctx context.Context, k Key) (sent int, err error) {
	a, err := r.claim(ctx, k)
	if errors.Is(err, errNotOurs) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("tlsrpt: claim: %w", err)
	}
	if len(a.Deliveries) == 0 {
		if err := r.destinations(ctx, a); err != nil {
			r.o.Logger.InfoContext(ctx, "tlsrpt: no answer for the record", "domain", k.Domain, "error", err)
			return 0, r.settle(ctx, a, false)
		}
	}
	gz, err := a.report(r.o.Organization, r.o.Contact, r.o.Submitter).Gzip()
	if err != nil {
		return 0, err
	}
	done := true
	for i := range a.Deliveries {
		d := &a.Deliveries[i]
		if d.Done {
			continue
		}
		if err := r.deliver(ctx, a, i, gz); err != nil {
			r.o.Logger.InfoContext(ctx, "tlsrpt: report not taken", "domain", k.Domain, "host", d.To.Host(), "error", err)
			d.Done = errors.Is(err, ErrRefused)
			done = done && d.Done
			continue
		}
		d.Done = true
		sent++
		// At once, so that a crash repeats as little as can be.
		if err := r.save(ctx, a, a.Next); err != nil {
			return sent, err
		}
	}
	return sent, r.settle(ctx, a, done)
}

// claim takes the account for a while; from then on its counts don't change.
func (r *Reporter) claim(ctx context.Context, k Key) (*Account, error) {
	now, id := r.o.Now(), strings.ToLower(rand.Text())
	var ours *Account
	err := r.store.Update(ctx, []Key{k}, func(a *Account) error {
		if a.Next.IsZero() || a.Next.After(now) {
			return errNotOurs
		}
		if a.ReportID == "" {
			a.ReportID = id
		}
		if a.First.IsZero() {
			a.First = now
		}
		a.Attempts++
		a.Next = now.Add(lease)
		ours = a.clone()
		return nil
	})
	return ours, err
}

// destinations asks for the domain's record. No record is no destination; an error means not known now.
func (r *Reporter) destinations(ctx context.Context, a *Account) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	rec, err := LookupRecord(ctx, r.resolver, a.Domain)
	if _, broken := errors.AsType[*RecordError](err); broken || errors.Is(err, ErrNoRecord) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, to := range rec.RUA {
		if to.Mailbox() != "" && r.o.Mail == nil {
			continue
		}
		if len(a.Deliveries) == maxDeliveries {
			break
		}
		a.Deliveries = append(a.Deliveries, Delivery{To: to})
	}
	return nil
}

// deliver sends the report to one destination.
func (r *Reporter) deliver(ctx context.Context, a *Account, i int, gz []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	to := a.Deliveries[i].To
	box := to.Mailbox()
	switch {
	case box == "":
		return post(ctx, r.client, to, gz)
	case r.o.Mail == nil:
		return errors.New("tlsrpt: mail is not set up")
	}
	return r.o.Mail.mail(ctx, &letter{
		account: a, submitter: r.o.Submitter, to: box, number: i, date: r.o.Now().UTC(), gzip: gz,
	})
}

// settle says when the account is looked at again: never where all is done or the time is over.
func (r *Reporter) settle(ctx context.Context, a *Account, done bool) error {
	wait := min(firstRetry<<min(a.Attempts-1, 10), lastRetry)
	next := r.o.Now().Add(wait + r.o.Jitter(wait/4))
	if done || next.Sub(a.First) > giveUp {
		next = time.Time{}
	}
	return r.save(ctx, a, next)
}

// save stores how far the account has come. It is not stopped by the end of ctx: what was sent must be known. Where another
// process took the account over meanwhile, only what was sent is added.
func (r *Reporter) save(ctx context.Context, a *Account, next time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	err := r.store.Update(ctx, []Key{a.Key}, func(b *Account) error {
		switch {
		case b.ReportID != a.ReportID:
			return errNotOurs // removed since
		case b.Attempts == a.Attempts:
			b.Deliveries, b.Next = slices.Clone(a.Deliveries), next
			return nil
		}
		for i := range b.Deliveries {
			d := &b.Deliveries[i]
			d.Done = d.Done || slices.Contains(a.Deliveries, Delivery{d.To, true})
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNotOurs) {
		return fmt.Errorf("tlsrpt: save: %w", err)
	}
	return nil
}
