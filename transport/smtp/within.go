package smtp

import (
	"context"
	"sync"
	"time"
)

// within is context.WithTimeout for work that seldom waits: the timer and the place in ctx's list of children are made when
// somebody asks for Done, and a delivery over a kept connection does not.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	b := &budget{Context: ctx, end: time.Now().Add(d)}
	if end, ok := ctx.Deadline(); ok && end.Before(b.end) {
		b.end = end
	}
	return b, b.cancel
}

// budget is a context that ends with another or at a time.
type budget struct {
	context.Context
	end time.Time

	mu   sync.Mutex // guards what follows
	real context.Context
	stop context.CancelFunc
	over bool
}

// Deadline implements context.Context.
func (b *budget) Deadline() (time.Time, bool) { return b.end, true }

// Done implements context.Context.
func (b *budget) Done() <-chan struct{} { return b.timed().Done() }

// timed makes the context with a timer.
func (b *budget) timed() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.real == nil {
		b.real, b.stop = context.WithDeadline(b.Context, b.end)
		if b.over {
			b.stop()
		}
	}
	return b.real
}

// Err implements context.Context.
func (b *budget) Err() error {
	b.mu.Lock()
	real, over := b.real, b.over
	b.mu.Unlock()
	switch {
	case real != nil && real.Err() != nil:
		return real.Err()
	case over:
		return context.Canceled
	}
	if err := b.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(b.end) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. The context package looks there for the one to hang children on.
func (b *budget) Value(key any) any {
	b.mu.Lock()
	real := b.real
	b.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return b.Context.Value(key)
}

func (b *budget) cancel() {
	b.mu.Lock()
	b.over = true
	stop := b.stop
	b.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// onEnd runs f when ctx is ended by whoever made it; its time is for deadlines of I/O to keep. stop is false if f ran.
func onEnd(ctx context.Context, f func()) (stop func() bool) {
	for {
		b, ok := ctx.(*budget)
		if !ok {
			break
		}
		ctx = b.Context
	}
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, f)
}

// deadline is d from now, or ctx's if that is sooner.
func deadline(ctx context.Context, d time.Duration) time.Time {
	at := time.Now().Add(d)
	if end, ok := ctx.Deadline(); ok && end.Before(at) {
		return end
	}
	return at
}
