package securemail

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	takeWait   = time.Second            // how long Take may wait for work
	idleFeed   = 200 * time.Millisecond // pause of a reader that has read all
	feedBatch  = 1000
	gather     = 2 * time.Millisecond // how long a busy Run waits for more free workers, to lease for many at once
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second

	markTimeout = 10 * time.Second
)

// Run delivers what is due, feeds the Ledger and the Sinks, and runs the parts, until ctx ends. It then takes no more,
// lets deliveries in flight finish for up to Config.Drain, feeds once more, stops the parts, and returns nil. It returns
// early, with the part's error, when a part ends. Several processes may Run on one queue. It does not begin where the Ledger
// says that the database is an older copy (audit.ErrOldDatabase).
func (m *Mailer) Run(ctx context.Context) error {
	if err := m.admit(ctx); err != nil {
		return err
	}
	defer m.served()()
	m.policyInForce(ctx)
	taking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	parts, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	var partsWG sync.WaitGroup
	for _, r := range m.runners() {
		partsWG.Go(func() {
			if err := r.Run(parts); parts.Err() == nil {
				stop(fmt.Errorf("securemail: a part ended: %w", errors.Join(err, errPartEnded)))
			}
		})
	}
	feeding, stopFeeding := context.WithCancel(context.WithoutCancel(ctx))
	var feeders sync.WaitGroup
	for _, r := range m.readers {
		feeders.Go(func() { m.feed(feeding, r) })
	}
	feeders.Go(func() { m.recordAlways(feeding) })
	m.takeAll(taking)
	stopFeeding()
	feeders.Wait()
	stopParts()
	partsWG.Wait()
	if ctx.Err() == nil {
		return context.Cause(taking)
	}
	return nil
}

var errPartEnded = errors.New("securemail: before it was told to")

// RunDue makes one pass over what is due now, feeds the Ledger and the Sinks, and returns how many parcels it attempted.
// It is for commands, timers and tests. The error joins what the queue and the readers said; parcels that failed are in
// their own state, not in the error.
func (m *Mailer) RunDue(ctx context.Context) (int, error) {
	if err := m.admit(ctx); err != nil {
		return 0, err
	}
	defer m.served()()
	m.policyInForce(ctx)
	now, n := m.c.Now().Round(0), 0
	stopBeat := m.heartbeat(ctx)
	var errs []error
	for ctx.Err() == nil {
		// A clock set back makes what was just deferred look due at the old time.
		if back := m.c.Now().Round(0); back.Before(now) {
			now = back
		}
		ls, err := m.c.Queue.Take(ctx, now, m.c.Workers, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("securemail: take: %w", err))
		}
		if err != nil || len(ls) == 0 {
			break
		}
		var wg sync.WaitGroup
		for _, l := range ls {
			wg.Go(func() { m.carry(ctx, l) })
		}
		wg.Wait()
		n += len(ls)
	}
	stopBeat()
	m.recordAccesses(ctx)
	for _, r := range m.readers {
		if err := m.feedAll(ctx, r); err != nil {
			errs = append(errs, err)
		}
	}
	if err := ctx.Err(); err != nil {
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// heartbeat runs the Queue's own background work, if it has any, while RunDue works.
func (m *Mailer) heartbeat(ctx context.Context) (stop func()) {
	r, ok := m.c.Queue.(Runner)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil && ctx.Err() == nil {
			m.log.Error("securemail: the queue's background work ended", "err", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// served notes that somebody runs the queue, until the function it returns is called.
func (m *Mailer) served() func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running++
	m.warned = false
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.running--
		m.looked = m.c.Now()
	}
}

// takeAll leases and carries out until taking ends, then waits for what is in flight, and cancels it after Drain.
func (m *Mailer) takeAll(taking context.Context) {
	work, stopWork := context.WithCancel(context.WithoutCancel(taking))
	defer stopWork()
	slots := make(chan struct{}, m.c.Workers)
	var wg sync.WaitGroup
	pause := firstPause
	for taking.Err() == nil {
		free := m.acquire(taking, slots)
		if free == 0 {
			break
		}
		ls, err := m.c.Queue.Take(taking, m.c.Now(), free, takeWait)
		for range free - len(ls) {
			<-slots
		}
		for _, l := range ls {
			wg.Go(func() {
				defer func() { <-slots }()
				m.carry(work, l)
			})
		}
		if err == nil {
			pause = firstPause
		} else if taking.Err() == nil {
			m.log.Error("securemail: the queue can't be read; trying again", "err", err)
			sleep(taking, pause)
			pause = min(2*pause, lastPause)
		}
	}
	drain := time.AfterFunc(m.c.Drain, stopWork)
	defer drain.Stop()
	wg.Wait()
}

// acquire takes at least one slot, and all others that are free; 0: ctx ended. Where most are at work it waits a moment for
// more of them, since a lease for many costs little more than for one.
func (m *Mailer) acquire(ctx context.Context, slots chan struct{}) int {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	n := 1 + fill(slots)
	if n >= cap(slots)/2 {
		return n
	}
	enough := time.NewTimer(gather)
	defer enough.Stop()
	for n < cap(slots)/2 {
		select {
		case slots <- struct{}{}:
			n++
		case <-enough.C:
			return n
		case <-ctx.Done():
			return n
		}
	}
	return n
}

// fill takes the slots that are free and says how many.
func fill(slots chan struct{}) (n int) {
	for {
		select {
		case slots <- struct{}{}:
			n++
		default:
			return n
		}
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// carry attempts one lease and records what became of it.
func (m *Mailer) carry(ctx context.Context, l *Lease) {
	ctx, by := m.part(ctx, l.Parcel.Actor.Tenant)
	a := m.newAttempt(l, by)
	func() {
		defer m.contain(a.broken)
		a.run(ctx)
	}()
	e := a.event()
	m.mark(ctx, Mark{Lease: l, Status: a.status, Events: append(a.faults, e)})
}

var errPanic = errors.New("securemail: a part panicked")

// contain is deferred: a panic of a part is logged, without its value, which may hold content, and ends in settle.
func (m *Mailer) contain(settle func()) {
	if recover() != nil {
		m.log.Error("securemail: a part panicked", "stack", string(debug.Stack()))
		settle()
	}
}

// mark repeats a Mark until it holds or the lease is lost. Where ctx has ended it still tries once: the outcome is known
// and must not be lost for a deadline.
func (m *Mailer) mark(ctx context.Context, mk Mark) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := m.markOnce(ctx, mk)
		if err == nil {
			return
		}
		if errors.Is(err, ErrLease) {
			m.log.Warn("securemail: lease lost; another worker has the parcel", "parcel", string(mk.Status.ID))
			return
		}
		if ctx.Err() != nil {
			// The lease runs out and the parcel is attempted again; an intent is then found to be uncertain.
			m.log.Error("securemail: stopped before an outcome was recorded", "parcel", string(mk.Status.ID), "err", err)
			return
		}
		m.log.Error("securemail: outcome not recorded yet; trying again", "parcel", string(mk.Status.ID), "err", err)
		sleep(ctx, pause)
	}
}

func (m *Mailer) markOnce(ctx context.Context, mk Mark) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	return m.c.Queue.Mark(ctx, mk)
}

// feed gives events to one reader until feeding ends, and then once more what the last deliveries left, within Drain.
func (m *Mailer) feed(feeding context.Context, r reader) {
	pause := firstPause
	for feeding.Err() == nil {
		if err := m.feedAll(feeding, r); err == nil {
			pause = firstPause
			sleep(feeding, idleFeed)
			continue
		} else if feeding.Err() == nil {
			m.log.Error("securemail: a reader of events failed; trying again", "reader", r.name)
		}
		sleep(feeding, pause)
		pause = min(2*pause, lastPause)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(feeding), m.c.Drain)
	defer cancel()
	if err := m.feedAll(ctx, r); err != nil {
		m.log.Error("securemail: events are left for the next run", "reader", r.name)
	}
}

// feedAll gives r every event that waits for it. ErrRefused skips one; any other error stops, and nothing is lost.
func (m *Mailer) feedAll(ctx context.Context, r reader) error {
	for {
		es, err := m.c.Outbox.Next(ctx, r.name, feedBatch)
		if err != nil {
			return fmt.Errorf("securemail: events: %w", err)
		}
		if len(es) == 0 {
			return nil
		}
		last, err := r.emit(ctx, es)
		if last != "" {
			if ackErr := m.c.Outbox.Ack(ctx, r.name, last); ackErr != nil {
				return fmt.Errorf("securemail: events: %w", ackErr)
			}
		}
		if err != nil {
			return fmt.Errorf("securemail: sink %s: %w", r.name, err)
		}
	}
}

// batchSink is what a Sink may have besides.
type batchSink interface {
	EmitAll(ctx context.Context, es ...Event) error
}

// emit gives es to the Sink, at once where it takes that. It returns the id of the last event that it has, "" for none.
func (r reader) emit(ctx context.Context, es []Event) (last string, err error) {
	defer func() {
		if recover() != nil { // the same event would stop the program again and again
			err = errPanic
		}
	}()
	if b, ok := r.sink.(batchSink); ok {
		if err := b.EmitAll(ctx, es...); err != nil {
			return "", err
		}
		return es[len(es)-1].ID, nil
	}
	for _, e := range es {
		if err := r.sink.Emit(ctx, e); err != nil && !errors.Is(err, ErrRefused) {
			return last, err
		}
		last = e.ID
	}
	return last, nil
}
