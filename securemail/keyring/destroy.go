package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Destroy destroys the key of scope, and with it every key wrapped under it, durably before it returns; concurrent
// calls share the work. The answer is the proof record. A scope that never was is destroyed as well: it can't come into
// being later. A repeat gives the first answer.
//
// With an Outbox the intent is recorded before anything is done, and where that fails nothing is. Under an error without
// ErrUnrecorded nothing was destroyed, unless its text says that it may be; with ErrUnrecorded the answer holds. A crash
// after the intent is made good by Run, Upkeep, RecordTo or a repeat.
func (f *File) Destroy(ctx context.Context, scope string) (securemail.Destruction, error) {
	if scope == "" {
		return securemail.Destruction{}, errEmptyScope
	}
	if err := f.refresh(ctx); err != nil {
		return securemail.Destruction{}, err
	}
	id, err := f.idOf(scope)
	if err != nil {
		return securemail.Destruction{}, err
	}
	end, gone, a, err := f.ended(id)
	if err != nil {
		return securemail.Destruction{}, err
	}
	if !gone || a.id != (actID{}) {
		end, err = f.destroy(ctx, &a, 0)
	}
	if end == (ending{}) {
		return securemail.Destruction{}, err
	}
	return securemail.Destruction{Scope: scope, At: end.at(), EpochRetires: end.retires()}, err
}

func (f *File) idOf(scope string) (scopeID, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return scopeID{}, ErrClosed
	}
	return f.st.id(scope), nil
}

// ended says whether the scope id was destroyed, and returns its act: with an id where one is pending, else a new one.
func (f *File) ended(id scopeID) (e ending, gone bool, a act, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return e, false, a, ErrClosed
	}
	a = act{kind: actDestroy, scope: id}
	if f.outbox != nil {
		for _, p := range f.st.pending {
			if p.kind == actDestroy && p.scope == id {
				a = p
			}
		}
	}
	e, gone = f.st.gone[id]
	return e, gone, a, nil
}

// destroy carries out a; at is when it first happened, 0: now. Under an error the ending is zero, unless it was reached.
func (f *File) destroy(ctx context.Context, a *act, at int64) (end ending, err error) {
	err = f.recorded(ctx, a, func(ctx context.Context) error {
		b, err := f.commit(ctx, order{destroy: []scopeID{a.scope}, at: at})
		if err == nil {
			end = b.ends[a.scope]
		}
		return err
	})
	if err != nil && a.done {
		// It failed only after it was durable.
		end, _, _, _ = f.ended(a.scope)
	}
	return end, err
}

// Run does what Upkeep does, in time. It blocks until ctx ends and then returns nil; any other return means that an epoch
// key could not be retired by the time that a Destruction promised, and why.
func (f *File) Run(ctx context.Context) error {
	every := time.Minute
	if f.o.Window > 0 {
		every = min(every, max(f.o.Window/8, time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		// What fails is tried again at the next tick: a disk or a database may be full for a while.
		if err := f.Upkeep(ctx); err != nil && ctx.Err() == nil && f.overdue() {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Upkeep takes up what a crash left in the Outbox, and where half of Options.Window has passed since a Destroy it retires
// the epoch key. Run does it all the time; a host without Run calls it from a timer, several times a window.
func (f *File) Upkeep(ctx context.Context) error {
	err := f.takeUp(ctx)
	if f.retireSoon() {
		return errors.Join(f.RotateEpoch(ctx), err)
	}
	return err
}

func (f *File) retireSoon() bool {
	due := f.due()
	return due != 0 && f.o.Now().UnixNano() >= due-int64(f.o.Window/2)
}

func (f *File) overdue() bool {
	due := f.due()
	return due != 0 && f.o.Now().UnixNano() >= due
}

// due is the earliest promised end of an epoch, 0: none.
func (f *File) due() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return 0
	}
	return f.st.due
}
