package keyring

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

// order is what one caller wants of the ledger.
type order struct {
	create, destroy []scopeID
	// at is when destroy happened, in Unix nanoseconds; 0: now.
	at     int64
	rotate bool
	root   *rootChange
	// intend makes an act pending; withdraw ends one that was not done, settle one whose end was recorded.
	intend, withdraw *act
	settle           []actID
}

// rootChange puts top over the epoch key; root is the Root that wrapped it, nil: the key file is to hold it.
type rootChange struct {
	top  topKey
	root Root
}

// batch is the orders of all callers that came while the batch before was being made durable. Its first caller leads:
// he carries it out, and the others wait for done.
type batch struct {
	create  map[scopeID]bool
	destroy map[scopeID]int64
	rotate  bool
	roots   []*rootChange

	intend, withdraw []*act
	settle           []actID

	done chan struct{}
	// The fields below are set before done is closed.
	ends map[scopeID]ending
	err  error
	// orphaned: the leader's context ended before he began; another caller must lead.
	orphaned bool
}

func (b *batch) add(o order) {
	for _, id := range o.create {
		b.create[id] = true
	}
	for _, id := range o.destroy {
		b.destroy[id] = o.at
	}
	if o.intend != nil {
		b.intend = append(b.intend, o.intend)
	}
	if o.withdraw != nil {
		b.withdraw = append(b.withdraw, o.withdraw)
	}
	b.settle = append(b.settle, o.settle...)
	b.rotate = b.rotate || o.rotate
	if o.root != nil {
		b.roots = append(b.roots, o.root)
	}
}

// commit carries out o together with the orders of other callers, and returns once it is durable. Without a batch in the
// answer ctx ended while another caller had the order.
func (f *File) commit(ctx context.Context, o order) (*batch, error) {
	for {
		f.qmu.Lock()
		b, lead := f.next, f.next == nil
		if lead {
			b = &batch{create: map[scopeID]bool{}, destroy: map[scopeID]int64{}, done: make(chan struct{})}
			f.next = b
		}
		b.add(o)
		f.qmu.Unlock()
		if lead {
			f.lead(ctx, b)
			return b, b.err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.done:
		}
		if !b.orphaned {
			return b, b.err
		}
	}
}

func (f *File) lead(ctx context.Context, b *batch) {
	defer close(b.done)
	err := f.exclusive(ctx, func() error {
		f.take(b)
		if b.err = f.catchUp(ctx); b.err == nil {
			b.err = f.carryOut(ctx, b)
		}
		return nil
	})
	if err != nil {
		f.take(b)
		b.err, b.orphaned = err, ctx.Err() != nil
	}
}

// take closes b to further orders.
func (f *File) take(b *batch) {
	f.qmu.Lock()
	defer f.qmu.Unlock()
	if f.next == b {
		f.next = nil
	}
}

// exclusive runs do while no other goroutine and no other process changes the files.
func (f *File) exclusive(ctx context.Context, do func() error) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case f.writer <- struct{}{}:
		defer func() { <-f.writer }()
	case <-ctx.Done():
		return ctx.Err()
	}
	lock, err := durable.WaitLock(ctx, f.lockPath())
	if err != nil {
		return fmt.Errorf("keyring: lock: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	return do()
}

// refresh takes over what other processes changed. Where nothing changed it costs one stat.
func (f *File) refresh(ctx context.Context) error {
	if ok, err := f.current(); ok || err != nil {
		return err
	}
	return f.exclusive(ctx, func() error { return f.catchUp(ctx) })
}

// current says whether the state in memory is that of the files. While this process writes, it is.
func (f *File) current() (bool, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return false, ErrClosed
	}
	if f.writing.Load() {
		return true, nil
	}
	fi, err := os.Stat(f.ledgerPath())
	if err != nil {
		// The name may be missing for no longer than a restore takes; nothing is answered from memory meanwhile.
		return false, fmt.Errorf("keyring: ledger: %w", err)
	}
	return fi.Size() == f.st.size && os.SameFile(fi, f.st.info), nil
}

// catchUp brings the state in memory up to the files. The caller is exclusive.
func (f *File) catchUp(ctx context.Context) error {
	if ok, err := f.current(); ok || err != nil {
		return err
	}
	fi, err := os.Stat(f.ledgerPath())
	if err != nil {
		return fmt.Errorf("keyring: ledger: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if os.SameFile(fi, f.st.info) {
		if fi.Size() < f.st.size {
			return fmt.Errorf("keyring: ledger: cut back: %w", ErrCorrupt)
		}
		if err := f.st.catchUp(fi.Size(), nil); err != nil {
			return fmt.Errorf("keyring: ledger: %w", err)
		}
		return nil
	}
	st, err := f.load(ctx)
	if err != nil {
		return err
	}
	old := f.st
	if f.o.Remember == 0 && !st.continues(old) {
		return errors.Join(fmt.Errorf("keyring: ledger: older than this process knows it: %w", ErrCorrupt), st.forget())
	}
	f.st = st
	return old.forget()
}

// carryOut makes b durable. The caller is exclusive and caught up, so that it alone changes f.st.
func (f *File) carryOut(ctx context.Context, b *batch) error {
	if f.failed != nil {
		return f.failed
	}
	f.writing.Store(true)
	defer f.writing.Store(false)
	now := f.o.Now().UnixNano()
	b.ends = make(map[scopeID]ending, len(b.destroy))
	change := f.changeOf(b, now)
	defer change.clear()
	for _, c := range b.roots {
		if err := f.changeRoot(c); err != nil {
			return err
		}
	}
	overdue := f.st.due != 0 && now >= f.st.due
	if b.rotate || overdue || len(change.Gone) > 0 && f.o.Window == 0 {
		return f.rewrite(ctx, change, now)
	}
	if change.empty() {
		return nil
	}
	return f.append(change)
}

// changeOf makes b's orders a record, and sets its ends.
func (f *File) changeOf(b *batch, now int64) *record {
	change := &record{}
	for id, at := range b.destroy {
		e, known := f.st.gone[id]
		if !known {
			if at <= 0 || at > now {
				at = now
			}
			e = ending{at, now + int64(f.o.Window)}
			change.addGone(id, e)
		}
		b.ends[id] = e
	}
	for id := range b.create {
		_, gone := f.st.gone[id]
		if _, ending := b.destroy[id]; !gone && !ending && f.st.live[id] == nil {
			change.addLive(id, seal.NewKey())
		}
	}
	for _, a := range b.intend {
		if old, ok := f.st.pending[a.id]; ok {
			a.epoch = old.epoch
			continue
		}
		a.epoch = f.st.number
		change.Pending = a.append(change.Pending)
	}
	for _, a := range b.withdraw {
		_, ending := b.destroy[a.scope]
		if a.done = a.isDone(f.st) || ending && a.kind == actDestroy; !a.done {
			change.Settled = append(change.Settled, a.id[:]...)
		}
	}
	for _, id := range b.settle {
		change.Settled = append(change.Settled, id[:]...)
	}
	return change
}

// append adds change to the end of the ledger.
func (f *File) append(change *record) error {
	st := f.st
	b, err := formatRecord(nil, st.epoch, st.frames, change)
	if err != nil {
		return err
	}
	if _, err := st.file.WriteAt(b, st.size); err != nil {
		// What is left, if it can't be cut off, is a torn tail.
		return fmt.Errorf("keyring: ledger: %w", errors.Join(err, st.file.Truncate(st.size)))
	}
	if err := st.file.Sync(); err != nil {
		// Whether the octets are on the disk is now unknown, and asking again would not tell.
		f.failed = fmt.Errorf("keyring: ledger: sync, open it anew: %w", errors.Join(err, st.file.Truncate(st.size)))
		return f.failed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	st.size += int64(len(b))
	st.frames++
	if st.chain, err = linkAll(st.chain, b); err != nil {
		return err
	}
	return st.apply(change)
}

// rewrite replaces the ledger by a snapshot with change, under a new epoch key. The steps, each durable before the next:
// both epoch keys in the epoch file; the new ledger; the new epoch key alone. load finishes what a crash leaves.
func (f *File) rewrite(ctx context.Context, change *record, now int64) error {
	file, err := f.readEpochFile()
	if err != nil {
		return err
	}
	tops, err := f.tops(ctx, file)
	if err != nil {
		return err
	}
	defer forgetTops(tops)
	epoch := newEpoch()
	if err := f.writeEpochs(tops[0], epoch, f.st.epoch); err != nil {
		return fmt.Errorf("keyring: epoch file: %w", err)
	}
	forgetBefore := int64(0)
	if f.o.Remember > 0 {
		forgetBefore = now - int64(f.o.Remember)
	}
	change.Number = max(f.st.number, f.floor) + 1
	next, err := f.replaceLedger(epoch, f.st.snapshot(change, forgetBefore))
	if err != nil {
		return fmt.Errorf("keyring: ledger: %w", err)
	}
	// From here on the change is durable; what fails below is done by the next load.
	if err = f.finish(next.epoch, tops, true); err != nil {
		return errors.Join(fmt.Errorf("keyring: retire the epoch key: %w", err), next.forget())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root != nil {
		clear(f.st.top.key)
		f.st.top = tops[0].clone()
	}
	return f.st.moveTo(next, change, forgetBefore)
}

// replaceLedger writes the ledger anew with full as its only record, which it overwrites, and returns where it stands.
func (f *File) replaceLedger(epoch epochKey, full *record) (*state, error) {
	defer full.clear()
	b, err := formatLedger(epoch, full)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(f.ledgerPath(), b); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(f.ledgerPath(), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	next := &state{epoch: epoch, file: file, size: int64(len(b)), frames: snapshotFrames}
	if next.chain, err = linkAll([sha256.Size]byte{}, b); err != nil {
		return nil, errors.Join(err, next.forget())
	}
	if next.info, err = file.Stat(); err != nil {
		return nil, errors.Join(err, next.forget())
	}
	return next, nil
}
