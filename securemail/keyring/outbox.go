package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Outbox takes the events of the ring; securemail/queue is one. Add must drop an event whose ID it has: what a crash cut
// short is told again.
type Outbox interface {
	Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error
}

// ErrUnrecorded says that what was asked for was done and is durable, but that its end could not be handed to the Outbox.
// Run, Upkeep, RecordTo and a repeat of the call hand it on.
var ErrUnrecorded = errors.New("keyring: done, but its end is not recorded yet")

// EventKind is the Kind of the ring's events. Each act is two of them: one of stage "intent", committed before anything is
// done, and one that says how it ended. Their Detail:
//
//	action        "destroy", "rotate-epoch", "rotate-root", "move-root"
//	stage         "intent"; "done"; "failed": nothing was done; "cut-short": a crash came between, look and repeat
//	act           the same text in both
//	scope         File.ScopeHash of what was destroyed, never its name
//	at            when the scope key went (RFC 3339, UTC), in "done"
//	epoch_retires when older copies of the key ledger open nothing either, in "done"
//	state         State of the ring after it, in "done"
//
// By is the Actor of the context or, where there is none, {ID: "keyring", Kind: "part"}. It has no Tenant in the events of a
// scope "tenant/" and that tenant: what is sealed under a destroyed scope is read by nobody.
const EventKind = "key"

const (
	stageIntent = "intent"
	stageDone   = "done"
	stageFailed = "failed"
	stageCut    = "cut-short"
)

// actID is the ID of an act's first event: 48 bits of milliseconds and 80 random bits, as all events have.
type actID [16]byte

func newActID(now time.Time) actID {
	var id actID
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(id[6:]) // never fails: crypto/rand
	return id
}

// of is the ID of the event that says how the act ended: the same whoever says so, and however often.
func (id actID) of(stage string) actID {
	if stage == stageIntent {
		return id
	}
	sum := sha256.Sum256(append([]byte("postseal key event "+stage), id[:]...))
	copy(sum[:6], id[:])
	return actID(sum[:16])
}

var eventEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

func hex26(b [16]byte) string { return strings.ToLower(eventEncoding.EncodeToString(b[:])) }

type actKind byte

const (
	actDestroy actKind = iota + 1
	actEpoch
	actRoot
	actMove
)

func (k actKind) String() string {
	return [...]string{"unknown", "destroy", "rotate-epoch", "rotate-root", "move-root"}[k]
}

// act is what one call does to the ring. It is pending, in the ledger, from before its intent is recorded until its end is.
type act struct {
	id    actID
	kind  actKind
	scope scopeID
	// epoch is the number of the epoch that it began in.
	epoch uint64

	// done answers whether it was done, where it was to be withdrawn. It is not stored.
	done bool
}

const actSize = 16 + 1 + 16 + 8

func (a *act) append(b []byte) []byte {
	b = append(append(b, a.id[:]...), byte(a.kind))
	return binary.BigEndian.AppendUint64(append(b, a.scope[:]...), a.epoch)
}

// parseAct reads actSize octets; a kind of a later version counts as unknown.
func parseAct(b []byte) act {
	a := act{id: actID(b), kind: actKind(b[16]), scope: scopeID(b[17:]), epoch: binary.BigEndian.Uint64(b[33:])}
	if a.kind > actMove {
		a.kind = 0
	}
	return a
}

// isDone says whether a surely was done. What a Root wrapped anew leaves no trace in the ledger.
func (a *act) isDone(s *state) bool {
	switch a.kind {
	case actDestroy:
		_, gone := s.gone[a.scope]
		return gone
	case actEpoch:
		return s.number > a.epoch
	}
	return false
}

// RecordTo makes o the Outbox, for wirings in which it needs the ring to be open first, and takes up what a crash left. It
// is called once, before the ring is used.
func (f *File) RecordTo(ctx context.Context, o Outbox) error {
	f.mu.Lock()
	f.outbox = o
	f.mu.Unlock()
	return f.takeUp(ctx)
}

func (f *File) recorder() Outbox {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.outbox
}

// concludeTimeout bounds the recording of what was done, which goes on when the caller's context ends.
const concludeTimeout = 10 * time.Second

// recorded carries do out between the two events of a. Where the intent can't be recorded, do is not called.
func (f *File) recorded(ctx context.Context, a *act, do func(context.Context) error) error {
	out := f.recorder()
	if out == nil {
		return do(ctx)
	}
	if a.id == (actID{}) {
		a.id = newActID(f.o.Now())
	}
	f.begin(a.id)
	defer f.end(a.id)
	if err := f.intend(ctx, a); err != nil {
		return err
	}
	if err := out.Add(ctx, nil, f.event(ctx, a, stageIntent)); err != nil {
		return f.withdraw(ctx, a, nil, fmt.Errorf("keyring: intent not recorded, so nothing was done: %w", err))
	}
	if err := do(ctx); err != nil {
		return f.withdraw(ctx, a, out, err)
	}
	return f.conclude(ctx, a, out, stageDone)
}

// intend makes a pending.
func (f *File) intend(ctx context.Context, a *act) error {
	in := *a // the batch's own: it may be at work when ctx ends
	b, err := f.commit(ctx, order{intend: &in})
	switch {
	case err == nil:
		a.epoch = in.epoch
		return nil
	case b == nil:
		// Another caller's batch has it, and may yet make it durable.
		return f.withdraw(ctx, a, nil, err)
	}
	return err
}

// conclude records how a ended, and settles it.
func (f *File) conclude(ctx context.Context, a *act, out Outbox, stage string) error {
	by := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), concludeTimeout)
	defer cancel()
	if err := out.Add(ctx, nil, f.event(by, a, stage)); err != nil {
		return errors.Join(ErrUnrecorded, err)
	}
	// Where this fails the event is told again later, with the same ID.
	_, err := f.commit(ctx, order{settle: []actID{a.id}})
	if err != nil {
		return errors.Join(ErrUnrecorded, err)
	}
	return nil
}

// withdraw ends an act that failed for cause. Where it turns out to be done, or nobody can say, it stays pending.
func (f *File) withdraw(ctx context.Context, a *act, out Outbox, cause error) error {
	by := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), concludeTimeout)
	defer cancel()
	w := *a // the batch's own
	if _, err := f.commit(ctx, order{withdraw: &w}); err != nil {
		return errors.Join(cause, fmt.Errorf("keyring: it may be done when the ring is opened next: %w", err))
	}
	if a.done = w.done; a.done {
		return errors.Join(cause, ErrUnrecorded)
	}
	if out != nil {
		// The intent stands alone in the log where this fails: nothing was done, and nothing is.
		return errors.Join(cause, out.Add(ctx, nil, f.event(by, a, stageFailed)))
	}
	return cause
}

func (f *File) event(ctx context.Context, a *act, stage string) securemail.Event {
	by, ok := securemail.ActorOf(ctx)
	if !ok {
		by = securemail.Actor{ID: "keyring", Kind: "part"}
	}
	now := f.o.Now().UTC()
	d := map[string]string{"action": a.kind.String(), "stage": stage, "act": hex26(a.id)}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if a.kind == actDestroy {
		d["scope"] = hex26(a.scope)
		if f.st != nil && f.st.id("tenant/"+by.Tenant) == a.scope {
			by.Tenant = ""
		}
	}
	if stage == stageDone && f.st != nil {
		d["state"] = f.st.at().String()
		if e, ok := f.st.gone[a.scope]; ok && a.kind == actDestroy {
			d["at"], d["epoch_retires"] = e.at().Format(time.RFC3339Nano), e.retires().Format(time.RFC3339Nano)
		}
	}
	return securemail.Event{ID: hex26(a.id.of(stage)), Kind: EventKind, Time: now, By: by, Detail: d}
}

// begin and end keep acts that are under way in this process from being taken up.
func (f *File) begin(id actID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy == nil {
		f.busy = map[actID]int{}
	}
	f.busy[id]++
}

func (f *File) end(id actID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy[id]--; f.busy[id] == 0 {
		delete(f.busy, id)
	}
}

// left returns the acts that nobody in this process is at.
func (f *File) left() []act {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var as []act
	if f.st == nil {
		return nil
	}
	for id, a := range f.st.pending {
		if f.busy[id] == 0 {
			as = append(as, a)
		}
	}
	return as
}

// takeUp finishes what a crash, or an Outbox that was down, left: a scope whose destruction was intended is destroyed, and
// of everything it is recorded how it ended.
func (f *File) takeUp(ctx context.Context) error {
	out := f.recorder()
	if out == nil {
		return nil
	}
	if err := f.refresh(ctx); err != nil {
		return err
	}
	var errs []error
	for _, a := range f.left() {
		errs = append(errs, f.takeUpOne(ctx, &a, out))
	}
	return errors.Join(errs...)
}

func (f *File) takeUpOne(ctx context.Context, a *act, out Outbox) error {
	f.begin(a.id)
	defer f.end(a.id)
	if err := out.Add(ctx, nil, f.event(ctx, a, stageIntent)); err != nil {
		return fmt.Errorf("keyring: take up: %w", err)
	}
	if a.kind == actDestroy {
		if _, err := f.commit(ctx, order{destroy: []scopeID{a.scope}}); err != nil {
			return err
		}
		return f.conclude(ctx, a, out, stageDone)
	}
	f.mu.RLock()
	done := f.st != nil && a.isDone(f.st)
	f.mu.RUnlock()
	if done {
		return f.conclude(ctx, a, out, stageDone)
	}
	return f.conclude(ctx, a, out, stageCut)
}

// ScopeHash is how events name scope: a keyed hash that is the same as long as the ring lives, in every copy of it.
func (f *File) ScopeHash(scope string) (string, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return "", ErrClosed
	}
	return hex26(f.st.id(scope)), nil
}

var errEvent = fmt.Errorf("keyring: replay: key event without its scope or time: %w", ErrCorrupt)

// Replay does again what a key event says was done, after a restore of the ring from a copy that is older than the event:
// give it the events since, in their order. A destruction is done again, with its first time, and recorded as a new one;
// what the ring knows already, other actions, stages and Kinds do nothing and answer false.
func (f *File) Replay(ctx context.Context, e securemail.Event) (bool, error) {
	if e.Kind != EventKind || e.Detail["action"] != actDestroy.String() || e.Detail["stage"] != stageDone {
		return false, nil
	}
	b, err := eventEncoding.DecodeString(strings.ToUpper(e.Detail["scope"]))
	at, errAt := time.Parse(time.RFC3339Nano, e.Detail["at"])
	if err != nil || errAt != nil || len(b) != len(scopeID{}) {
		return false, errEvent
	}
	if err := f.refresh(ctx); err != nil {
		return false, err
	}
	id := scopeID(bytes.Clone(b))
	_, gone, a, err := f.ended(id)
	if err != nil || gone && a.id == (actID{}) {
		return false, err
	}
	_, err = f.destroy(ctx, &a, at.UnixNano())
	return err == nil || errors.Is(err, ErrUnrecorded), err
}
