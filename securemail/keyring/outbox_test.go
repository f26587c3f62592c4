package keyring_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

// memOutbox keeps events, each ID once. Where fail answers an error for an event it is refused.
type memOutbox struct {
	mu     sync.Mutex
	events []securemail.Event
	fail   func(securemail.Event) error
	// during runs inside Add, as a queue does that wraps a key of its own.
	during func(ctx context.Context) error
}

func (o *memOutbox) Add(ctx context.Context, _ *sql.Tx, es ...securemail.Event) error {
	if o.during != nil {
		if err := o.during(ctx); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range es {
		if o.fail != nil {
			if err := o.fail(e); err != nil {
				return err
			}
		}
		known := false
		for _, old := range o.events {
			known = known || old.ID == e.ID
		}
		if !known {
			o.events = append(o.events, e)
		}
	}
	return nil
}

func (o *memOutbox) refuse(fail func(securemail.Event) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = fail
}

// told returns "action stage" of each event since.
func (o *memOutbox) told(since int) (all []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events[since:] {
		all = append(all, e.Detail["action"]+" "+e.Detail["stage"])
	}
	return all
}

var errFull = errors.New("database is full")

func refuseStage(stage string) func(securemail.Event) error {
	return func(e securemail.Event) error {
		if e.Detail["stage"] == stage {
			return errFull
		}
		return nil
	}
}

func TestActsAreRecorded(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out, Window: time.Hour})
	ctx := securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "officer", Kind: "person"})
	d, err := f.Destroy(ctx, "subject/4711")
	require.NoError(t, err)
	_, err = f.Destroy(ctx, "subject/4711")
	require.NoError(t, err, "a repeat is no new act")
	require.NoError(t, f.RotateEpoch(t.Context()))
	require.NoError(t, f.RotateRoot(t.Context()))
	require.NoError(t, f.MoveRoot(t.Context(), newMemRoot()))
	require.Equal(t, []string{
		"destroy intent", "destroy done", "rotate-epoch intent", "rotate-epoch done", "rotate-root intent", "rotate-root done",
		"move-root intent", "move-root done",
	}, out.told(0))
	hash, err := f.ScopeHash("subject/4711")
	require.NoError(t, err)
	intent, done := out.events[0], out.events[1]
	require.Equal(t, keyring.EventKind, done.Kind)
	require.Equal(t, map[string]string{"action": "destroy", "stage": "intent", "act": intent.ID, "scope": hash}, intent.Detail)
	require.Equal(t, intent.ID, done.Detail["act"])
	require.Equal(t, hash, done.Detail["scope"])
	require.Equal(t, d.At.Format(time.RFC3339Nano), done.Detail["at"])
	require.Equal(t, d.EpochRetires.Format(time.RFC3339Nano), done.Detail["epoch_retires"])
	require.Equal(t, "officer", done.By.ID)
	require.Equal(t, "clinic", done.By.Tenant)
	require.Equal(t, securemail.Actor{ID: "keyring", Kind: "part"}, out.events[2].By)
	for _, e := range out.events {
		require.Regexp(t, `^[0-9a-v]{26}$`, e.ID)
		for _, v := range e.Detail {
			require.NotContains(t, v, "4711", "no name of a scope")
		}
		if text := e.Detail["state"]; text != "" {
			s, err := keyring.ParseState(text)
			require.NoError(t, err)
			require.NoError(t, f.Check(t.Context(), s))
		}
	}
	require.NotEmpty(t, done.Detail["state"])
}

// TestTenantOfItsOwnDestruction: an event that is sealed under the tenant's scope could be read by nobody.
func TestTenantOfItsOwnDestruction(t *testing.T) {
	out := &memOutbox{}
	f := open(t, ringPath(t), &keyring.Options{Outbox: out})
	ctx := securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "officer"})
	_, err := f.Destroy(ctx, "tenant/clinic")
	require.NoError(t, err)
	for _, e := range out.events {
		require.Empty(t, e.By.Tenant)
		require.Equal(t, "officer", e.By.ID)
	}
}

// TestUnrecordedIntent: what can't be recorded is not done, and not done later either.
func TestUnrecordedIntent(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out})
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	epoch := save(t, path)["epoch"]
	out.refuse(refuseStage("intent"))
	_, err = f.Destroy(t.Context(), "a")
	require.ErrorIs(t, err, errFull)
	require.NotErrorIs(t, err, keyring.ErrUnrecorded)
	require.ErrorIs(t, f.RotateEpoch(t.Context()), errFull)
	require.ErrorIs(t, f.RotateRoot(t.Context()), errFull)
	require.Equal(t, epoch, save(t, path)["epoch"])
	out.refuse(nil)
	require.NoError(t, f.Upkeep(t.Context()))
	g := open(t, path, nil)
	require.NoError(t, g.RecordTo(t.Context(), out))
	_, err = g.Unwrap(t.Context(), w)
	require.NoError(t, err)
	require.Empty(t, out.told(0))
}

// TestUnrecordedEnd: what was done says so, and its end is told by each of the ways there are.
func TestUnrecordedEnd(t *testing.T) {
	for name, later := range map[string]func(t *testing.T, f *keyring.File, path string, out *memOutbox){
		"repeat": func(t *testing.T, f *keyring.File, _ string, _ *memOutbox) {
			_, err := f.Destroy(t.Context(), "a")
			require.NoError(t, err)
		},
		"upkeep": func(t *testing.T, f *keyring.File, _ string, _ *memOutbox) { require.NoError(t, f.Upkeep(t.Context())) },
		"next start": func(t *testing.T, _ *keyring.File, path string, out *memOutbox) {
			require.NoError(t, open(t, path, nil).RecordTo(t.Context(), out))
		},
		"run": func(t *testing.T, f *keyring.File, _ string, out *memOutbox) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx) }()
			require.Eventually(t, func() bool { return len(out.told(0)) == 2 }, 30*time.Second, time.Millisecond)
			cancel()
			require.NoError(t, <-done)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, out := ringPath(t), &memOutbox{}
			f := open(t, path, &keyring.Options{Outbox: out})
			out.refuse(refuseStage("done"))
			d, err := f.Destroy(t.Context(), "a")
			require.ErrorIs(t, err, keyring.ErrUnrecorded)
			require.ErrorIs(t, err, errFull)
			require.Equal(t, "a", d.Scope)
			require.NotZero(t, d.At)
			again, err := f.Destroy(t.Context(), "a")
			require.ErrorIs(t, err, keyring.ErrUnrecorded)
			require.Equal(t, d, again)
			require.ErrorIs(t, f.Upkeep(t.Context()), errFull)
			out.refuse(nil)
			later(t, f, path, out)
			require.Equal(t, []string{"destroy intent", "destroy done"}, out.told(0))
			require.Equal(t, d.At.Format(time.RFC3339Nano), out.events[1].Detail["at"])
			require.NoError(t, f.Upkeep(t.Context()))
			require.Len(t, out.events, 2)
		})
	}
}

// TestFailedAct: an act that fails after its intent is recorded as failed, and not taken up.
func TestFailedAct(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out})
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(path+".scopes.tmp", 0o700))
	_, err = f.Destroy(t.Context(), "a")
	require.Error(t, err)
	require.NotErrorIs(t, err, keyring.ErrUnrecorded)
	require.Error(t, f.RotateEpoch(t.Context()))
	require.NoError(t, os.Remove(path+".scopes.tmp"))
	require.Equal(t, []string{"destroy intent", "destroy failed", "rotate-epoch intent", "rotate-epoch failed"}, out.told(0))
	require.NoError(t, open(t, path, nil).RecordTo(t.Context(), out))
	_, err = f.Unwrap(t.Context(), w)
	require.NoError(t, err)
	require.Len(t, out.events, 4)
}

// TestIntentIsTakenUp copies the files while the intent is being recorded, as a crash leaves them.
func TestIntentIsTakenUp(t *testing.T) {
	for _, action := range []string{"destroy", "rotate-epoch", "rotate-root"} {
		path, out := ringPath(t), &memOutbox{}
		f := open(t, path, nil)
		w, err := f.Wrap(t.Context(), []byte("k"), "a")
		require.NoError(t, err)
		crashed := ringPath(t)
		out.fail = func(e securemail.Event) error {
			if e.Detail["stage"] == "intent" {
				for name, b := range save(t, path) {
					_ = os.WriteFile(files(crashed)[name], b, 0o600)
				}
			}
			return nil
		}
		require.NoError(t, f.RecordTo(t.Context(), out))
		switch action {
		case "destroy":
			_, err = f.Destroy(t.Context(), "a")
		case "rotate-epoch":
			err = f.RotateEpoch(t.Context())
		default:
			err = f.RotateRoot(t.Context())
		}
		require.NoError(t, err)

		after := &memOutbox{events: out.events[:1:1]}
		g := open(t, crashed, nil)
		_, err = g.Unwrap(t.Context(), w)
		require.NoError(t, err, "not yet done")
		require.NoError(t, g.RecordTo(t.Context(), after))
		_, err = g.Unwrap(t.Context(), w)
		if action == "destroy" {
			require.ErrorIs(t, err, keyring.ErrDestroyed)
			require.Equal(t, []string{"destroy intent", "destroy done"}, after.told(0))
			require.Equal(t, out.events[1].ID, after.events[1].ID, "whoever tells it, it is one event")
		} else {
			require.NoError(t, err)
			require.Equal(t, []string{action + " intent", action + " cut-short"}, after.told(0))
		}
	}
}

// TestEpochThatWasRotated: a rotation that was done before the crash is recorded as done.
func TestEpochThatWasRotated(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out})
	out.refuse(refuseStage("done"))
	require.ErrorIs(t, f.RotateEpoch(t.Context()), keyring.ErrUnrecorded)
	out.refuse(nil)
	require.NoError(t, f.Upkeep(t.Context()))
	require.Equal(t, []string{"rotate-epoch intent", "rotate-epoch done"}, out.told(0))
}

// TestOutboxThatUsesTheRing: a queue seals its events under a key of the ring; nothing waits for itself.
func TestOutboxThatUsesTheRing(t *testing.T) {
	out := &memOutbox{}
	f := open(t, ringPath(t), nil)
	n := 0
	out.during = func(ctx context.Context) error {
		n++
		_, err := f.Wrap(ctx, []byte("k"), "tenant/", time.Duration(n).String())
		return err
	}
	require.NoError(t, f.RecordTo(t.Context(), out))
	_, err := f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	require.Len(t, out.told(0), 2)
}

// TestReplay restores a copy from before a destruction and does it again from the log, where its scope is a hash.
func TestReplay(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out})
	w, err := f.Wrap(t.Context(), []byte("k"), "a", "b")
	require.NoError(t, err)
	before := save(t, path)
	d, err := f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, f.RotateEpoch(t.Context()))
	recorded := stateOf(t, f)
	require.NoError(t, f.Close())
	restore(t, path, before)

	again := &memOutbox{}
	g := open(t, path, &keyring.Options{Expect: recorded, Restored: true, Outbox: again})
	_, err = g.Unwrap(t.Context(), w)
	require.NoError(t, err, "the copy brings it back")
	n := 0
	for range 2 {
		for _, e := range out.events {
			done, err := g.Replay(t.Context(), e)
			require.NoError(t, err)
			if done {
				n++
			}
		}
	}
	require.Equal(t, 1, n, "a repeat does nothing")
	_, err = g.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrDestroyed)
	second, err := g.Destroy(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, d.At, second.At, "its time is the first one")
	require.Equal(t, []string{"destroy intent", "destroy done"}, again.told(0))
	require.NotEqual(t, out.events[0].ID, again.events[0].ID)

	for _, bad := range []map[string]string{{"scope": "x"}, {"scope": out.events[1].Detail["scope"]}, {"at": "2026-01-01T00:00:00Z"}} {
		bad["action"], bad["stage"] = "destroy", "done"
		_, err = g.Replay(t.Context(), securemail.Event{Kind: "key", Status: securemail.Status{}, Detail: bad})
		require.ErrorIs(t, err, keyring.ErrCorrupt)
	}
	require.NoError(t, g.Close())
	_, err = g.Replay(t.Context(), out.events[1])
	require.ErrorIs(t, err, keyring.ErrClosed)
	_, err = g.ScopeHash("a")
	require.ErrorIs(t, err, keyring.ErrClosed)
}

// TestDestroyedIsKnownToSiblings: without an import of this package.
func TestDestroyedIsKnownToSiblings(t *testing.T) {
	f := open(t, ringPath(t), nil)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	_, err = f.Unwrap(t.Context(), w)
	var d interface{ Destroyed() bool }
	require.ErrorAs(t, err, &d)
	require.True(t, d.Destroyed())
	_, err = f.Unwrap(t.Context(), w[:10])
	require.Error(t, err)
	require.False(t, errors.As(err, &d))
}

// TestManyDestroyersAreRecorded: concurrent calls, each with its pair of events.
func TestManyDestroyersAreRecorded(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := f.Destroy(t.Context(), string(rune('a'+i%10))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	acts := map[string]int{}
	for _, e := range out.events {
		acts[e.Detail["act"]]++
	}
	for _, n := range acts {
		require.Equal(t, 2, n)
	}
	require.GreaterOrEqual(t, len(acts), 10)
	require.NoError(t, f.Upkeep(t.Context()))
}

// TestIntentOfAnImpatientCaller: a caller who gives up while another's batch has his order is told an error, and what he
// asked for is not done later.
func TestIntentOfAnImpatientCaller(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, &keyring.Options{Outbox: out})
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	lock, err := durable.TryLock(path + ".lock")
	require.NoError(t, err)
	leader := make(chan error, 1)
	go func() { _, err := f.Wrap(t.Context(), []byte("k"), "new"); leader <- err }()
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() { _, err := f.Destroy(ctx, "a"); impatient <- err }()
	cancel()
	require.NoError(t, lock.Unlock())
	require.NoError(t, <-leader)
	err = <-impatient
	require.NoError(t, f.Upkeep(t.Context()))
	_, errUnwrap := f.Unwrap(t.Context(), w)
	if err != nil {
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, errUnwrap)
	}
}

// TestTakenUpByAnotherProcess: a process that starts while another is between intent and act takes the act up; both do it,
// it happens once, and it is told once.
func TestTakenUpByAnotherProcess(t *testing.T) {
	path, out := ringPath(t), &memOutbox{}
	f := open(t, path, nil)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	other := open(t, path, nil)
	second := &memOutbox{}
	out.fail = func(e securemail.Event) error {
		if e.Detail["stage"] != "intent" {
			return nil
		}
		return other.RecordTo(t.Context(), second)
	}
	require.NoError(t, f.RecordTo(t.Context(), out))
	d, err := f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	_, err = other.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrDestroyed)
	require.Equal(t, []string{"destroy intent", "destroy done"}, out.told(0))
	require.Equal(t, out.told(0), second.told(0))
	for i := range out.events {
		require.Equal(t, out.events[i].ID, second.events[i].ID)
		require.Equal(t, out.events[i].Detail["at"], second.events[i].Detail["at"])
	}
	require.Equal(t, d.At.Format(time.RFC3339Nano), out.events[1].Detail["at"])
	require.NoError(t, f.Upkeep(t.Context()))
	require.Len(t, out.events, 2)
}
