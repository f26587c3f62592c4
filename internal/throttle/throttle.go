// Package throttle limits what is done at once, and how often, for each of many keys, such as the mail hosts of a domain,
// and learns from the answers how much a key can take.
//
// A key begins with [Limits].Connections. Each [Good] answer, once all of them were in use, adds a fraction, so that a
// round of good answers adds about one (additive increase); a [Slow] one halves the limit; a [Stop] closes the key for a while,
// longer each time, and lets a single caller through first when it opens. Answers to what began before the limit was
// lowered say nothing new, and don't lower it again.
//
// Callers wait in the order of their coming, for a bounded time; one that can't be served within it hears so at once.
// There is no goroutine and no timer but those of waiting callers: a key that is idle for [Limits].Forget goes when others
// come. What is known of an idle key takes less than 1 KB.
package throttle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits are what each key may have; zero fields mean the defaults.
type Limits struct {
	// Connections is how many callers a key has at once to begin with; 0 is 5, or Max where that is less.
	Connections int
	// Max is how many it has at most, however good the answers are; 0 is 20, or Connections where that is more.
	Max int
	// Rate is how many callers a second are let through; 0 bounds nothing. Burst is how many may come at once after a
	// quiet time; 0 is 1.
	Rate  float64
	Burst int
	// Wait is how long a caller waits; 0 is 30 s, and a negative one means not at all.
	Wait time.Duration
	// Pause is how long a key is closed after the first Stop; each further one without a Good between doubles it up to
	// MaxPause. 0 are 30 s and 15 min.
	Pause, MaxPause time.Duration
	// Forget is how long an idle key is remembered; 0 is 10 min.
	Forget time.Duration
}

// Check says what can't be meant. [New] takes a negative value for zero, Wait's apart.
func (l Limits) Check() error {
	if l.Connections < 0 || l.Max < 0 || l.Burst < 0 || !(l.Rate >= 0) || l.Rate > 1e9 || l.Pause < 0 || l.MaxPause < 0 || l.Forget < 0 {
		return errors.New("throttle: limits can't be negative")
	}
	return nil
}

func (l Limits) filled() Limits {
	switch {
	case l.Connections <= 0 && l.Max <= 0:
		l.Connections, l.Max = 5, 20
	case l.Max <= 0:
		l.Max = max(20, l.Connections)
	case l.Connections <= 0:
		l.Connections = 5
	}
	l.Connections = min(l.Connections, l.Max)
	l.Burst = max(1, l.Burst)
	if !(l.Rate > 0) {
		l.Rate = 0
	}
	l.Wait = orElse(l.Wait, 30*time.Second)
	l.Pause = positive(l.Pause, 30*time.Second)
	l.MaxPause = max(l.Pause, positive(l.MaxPause, 15*time.Minute))
	l.Forget = positive(l.Forget, 10*time.Minute)
	return l
}

func orElse(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

func positive(d, other time.Duration) time.Duration { return orElse(max(d, 0), other) }

// Verdict is what a caller's work showed of a key.
type Verdict uint8

const (
	// Neutral says nothing.
	Neutral Verdict = iota
	// Good: the key took the work.
	Good
	// Slow: the key asked for less, such as by a 4xx reply.
	Slow
	// Stop: the key wants nobody now, as by a 421 reply or a refused connection.
	Stop
)

// BusyError says that a key can't be had within the time to wait.
type BusyError struct {
	// RetryAfter is when it is worth to ask again, never 0.
	RetryAfter time.Duration
	// Paused says that the key is closed after a Stop.
	Paused bool
}

// Error names no key.
func (e *BusyError) Error() string {
	if e.Paused {
		return fmt.Sprintf("throttle: closed for %v", e.RetryAfter.Round(time.Second))
	}
	return "throttle: busy"
}

// Throttle is what [New] makes. It is safe for concurrent use.
type Throttle struct {
	limits Limits
	now    func() time.Time
	base   time.Time

	mu   sync.Mutex // guards what follows
	keys map[string]*state
	idle queue
}

// New makes a Throttle; a nil now is time.Now. Waiting is done by the system's clock, and now says what is over.
func New(l Limits, now func() time.Time) *Throttle {
	if now == nil {
		now = time.Now
	}
	return &Throttle{limits: l.filled(), now: now, base: now(), keys: map[string]*state{}}
}

// Limits are those that hold, defaults filled in.
func (t *Throttle) Limits() Limits { return t.limits }

// clock is the time since the Throttle was made.
func (t *Throttle) clock() time.Duration { return t.now().Sub(t.base) }

// Acquire waits until key has room, and returns what must be called once the work is done; a repeat does nothing. The
// error is a [*BusyError], or that of ctx.
func (t *Throttle) Acquire(ctx context.Context, key string) (release func(Verdict), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := t.clock()
	t.mu.Lock()
	t.forget(now)
	s := t.state(key, now)
	if s.first == nil && t.gate(s, now) == 0 && s.room() {
		l := t.take(s)
		t.mu.Unlock()
		return l.release, nil
	}
	w := &waiter{wake: make(chan struct{}, 1), end: now + max(t.limits.Wait, 0)}
	if busy := t.hopeless(s, w, now); busy != nil {
		t.mu.Unlock()
		return nil, busy
	}
	t.idle.remove(s)
	s.push(w)
	t.mu.Unlock()
	return t.wait(ctx, s, w)
}

// wait is the caller's time in the queue. Only the first in it can take; whoever leaves wakes the next.
func (t *Throttle) wait(ctx context.Context, s *state, w *waiter) (func(Verdict), error) {
	end := time.After(t.limits.Wait)
	for {
		l, gate, busy := t.try(s, w)
		if busy != nil {
			return nil, busy
		}
		if l != nil {
			return l.release, nil
		}
		var open <-chan time.Time
		if gate > 0 {
			open = time.After(gate)
		}
		select {
		case <-w.wake:
		case <-open:
		case <-end:
			return nil, t.leave(s, w)
		case <-ctx.Done():
			_ = t.leave(s, w)
			return nil, ctx.Err()
		}
	}
}

// try takes for w if it is its turn. A gate above 0 is when to try again without being woken.
func (t *Throttle) try(s *state, w *waiter) (_ *lease, gate time.Duration, _ error) {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if busy := t.hopeless(s, w, now); busy != nil {
		t.drop(s, w, now)
		return nil, 0, busy
	}
	if s.first != w {
		return nil, 0, nil
	}
	if gate = t.gate(s, now); gate > 0 || !s.room() {
		return nil, gate, nil
	}
	s.remove(w)
	l := t.take(s)
	if s.room() {
		s.signal()
	}
	return l, 0, nil
}

// leave ends w's waiting without a result.
func (t *Throttle) leave(s *state, w *waiter) error {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(s, w, now)
	return &BusyError{RetryAfter: max(time.Second, t.gate(s, now)), Paused: s.pause(now) > 0}
}

// drop takes w out. The caller holds mu.
func (t *Throttle) drop(s *state, w *waiter, now time.Duration) {
	s.remove(w)
	s.signal()
	t.rest(s, now)
}

// hopeless says that w can't be served before its end. The caller holds mu.
func (t *Throttle) hopeless(s *state, w *waiter, now time.Duration) error {
	gate := t.gate(s, now)
	if t.limits.Rate > 0 && !w.queued {
		// It is behind all that wait already.
		gate += time.Duration(float64(s.waiting) / t.limits.Rate * float64(time.Second))
	}
	if gate <= w.end-now && t.limits.Wait > 0 {
		return nil
	}
	return &BusyError{RetryAfter: max(time.Second, gate), Paused: s.pause(now) > 0}
}

// gate is how long s is closed by a pause or its rate; 0: it is open. The caller holds mu.
func (t *Throttle) gate(s *state, now time.Duration) time.Duration {
	// A clock that was set back must not close a key for longer than any pause.
	s.until = min(s.until, now+t.limits.MaxPause)
	gate := s.pause(now)
	if t.limits.Rate == 0 {
		return gate
	}
	if now > s.filled {
		s.tokens = min(float64(t.limits.Burst), s.tokens+(now-s.filled).Seconds()*t.limits.Rate)
	}
	s.filled = now
	if s.tokens < 1 {
		gate = max(gate, time.Duration((1-s.tokens)/t.limits.Rate*float64(time.Second))+1)
	}
	return gate
}

// take lets a caller in. The caller holds mu.
func (t *Throttle) take(s *state) *lease {
	t.idle.remove(s)
	s.active++
	s.full = s.full || s.active >= s.allowed()
	s.tokens--
	return &lease{t: t, s: s, epoch: s.epoch, closes: s.closes}
}

// lease is one caller's place.
type lease struct {
	t             *Throttle
	s             *state
	epoch, closes uint32
	done          bool // guarded by t.mu
}

func (l *lease) release(v Verdict) {
	t, s := l.t, l.s
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.done {
		return
	}
	l.done = true
	s.judge(v, l, now)
	s.active--
	if v == Stop {
		// Those who can't wait for the end of the pause go now.
		for w := s.first; w != nil; w = w.next {
			w.signal()
		}
	} else {
		s.signal()
	}
	t.rest(s, now)
}

// State is what is known of a key.
type State struct {
	// Limit is how many callers it has at most now; Active are those it has, Waiting those who wait.
	Limit, Active, Waiting int
	// Paused is how long it is closed yet.
	Paused time.Duration
}

// Look tells the state of key.
func (t *Throttle) Look(key string) State {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.keys[key]
	if s == nil {
		return State{Limit: t.limits.Connections}
	}
	return State{Limit: s.allowed(), Active: s.active, Waiting: s.waiting, Paused: s.pause(now)}
}

// Len is how many keys are remembered.
func (t *Throttle) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.keys)
}
