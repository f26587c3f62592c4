package securemailtest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Clock is a clock that moves only when told to. The zero value stands at 2026-01-02 03:04:05 UTC.
type Clock struct {
	mu sync.Mutex // guards t
	t  time.Time
}

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

// Advance moves the clock on.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.now().Add(d)
}

// now is Now; the caller holds c.mu.
func (c *Clock) now() time.Time {
	if c.t.IsZero() {
		c.t = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	return c.t
}

// Ledger is a memory Ledger that keeps the events it was given.
type Ledger struct {
	mu     sync.Mutex // guards events
	events map[string]securemail.Event
}

var _ securemail.Ledger = (*Ledger)(nil)

// Emit implements [securemail.Sink].
func (l *Ledger) Emit(_ context.Context, e securemail.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events == nil {
		l.events = make(map[string]securemail.Event)
	}
	l.events[e.ID] = e
	return nil
}

// Prove gives the event's thin JSON; it proves nothing outside a test.
func (l *Ledger) Prove(_ context.Context, id string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.events[id]
	if !ok {
		return nil, errors.New("securemailtest: unknown event")
	}
	return json.Marshal(e)
}

// Kit is a Mailer and the parts it is made of.
type Kit struct {
	*securemail.Mailer
	Transport *Transport
	Queue     *Queue
	Ledger    *Ledger
	Clock     *Clock
}

// plain passes a message on unchanged, for MethodTLS.
type plain struct{}

func (plain) Method() securemail.Method                       { return securemail.MethodTLS }
func (plain) Undo(context.Context, securemail.ParcelID) error { return nil }
func (plain) Encrypt(_ context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	return &securemail.Sealed{Message: j.Message, Protection: securemail.Protection{Algorithm: "none"}}, nil
}

func named(context.Context, securemail.Facts) (securemail.Decision, error) {
	return securemail.Decision{
		Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelNamed}},
		Else:    securemail.OutcomeBounce, Policy: "securemailtest/forced-tls",
	}, nil
}

// New makes a Kit: TLS with floor Named or a bounce, one tenant, a service as the Actor. Change gets the last word on the
// Config and may be nil.
func New(tb testing.TB, change func(*securemail.Config)) *Kit {
	tb.Helper()
	k := &Kit{Transport: NewTransport(), Ledger: &Ledger{}, Clock: &Clock{}}
	k.Queue = NewQueue(k.Clock.Now)
	c := securemail.Config{
		Policy: securemail.PolicyFunc(named), Transport: k.Transport, Queue: k.Queue, Outbox: k.Queue, Ledger: k.Ledger,
		Prober: k.Transport, Encryptors: []securemail.Encryptor{plain{}},
		Service: securemail.Actor{ID: "test", Kind: "service"},
		Logger:  slog.New(slog.DiscardHandler), Now: k.Clock.Now,
		Retry: func(int) time.Duration { return time.Minute },
	}
	if change != nil {
		change(&c)
	}
	m, err := securemail.New(c)
	if err != nil {
		tb.Fatalf("securemailtest: %v", err)
	}
	k.Mailer = m
	return k
}

// Pass makes one pass over what is due and fails the test on an error. It returns the number of attempts.
func (k *Kit) Pass(tb testing.TB) int {
	tb.Helper()
	n, err := k.RunDue(context.Background())
	if err != nil {
		tb.Fatalf("securemailtest: %v", err)
	}
	return n
}
