package keyring_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("KEYRING_CHILD"); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string, o *keyring.Options) *keyring.File {
	t.Helper()
	f, err := keyring.OpenFile(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func ringPath(t testing.TB) string { return filepath.Join(t.TempDir(), "ring.key") }

// files are the parts of a ring on the disk.
func files(path string) map[string]string {
	return map[string]string{"root": path, "epoch": path + ".epoch", "scopes": path + ".scopes"}
}

func save(t testing.TB, path string) map[string][]byte {
	t.Helper()
	saved := map[string][]byte{}
	for name, p := range files(path) {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		saved[name] = b
	}
	return saved
}

func restore(t testing.TB, path string, saved map[string][]byte) {
	t.Helper()
	for name, p := range files(path) {
		require.NoError(t, os.Remove(p))
		require.NoError(t, os.WriteFile(p, saved[name], 0o600))
	}
}

func TestWrapAndUnwrap(t *testing.T) {
	ctx := t.Context()
	path := ringPath(t)
	f := open(t, path, nil)
	key := seal.NewKey()
	w, err := f.Wrap(ctx, key, "tenant/a", "submission/1")
	require.NoError(t, err)
	for _, ring := range []*keyring.File{f, open(t, path, nil)} {
		got, err := ring.Unwrap(ctx, w)
		require.NoError(t, err)
		require.Equal(t, key, got)
	}
	again, err := f.Wrap(ctx, key, "submission/1", "tenant/a", "tenant/a")
	require.NoError(t, err)
	require.Len(t, again, len(w), "order and repetition don't matter")
	require.NotEqual(t, w, again)
}

func TestWrapRefuses(t *testing.T) {
	f := open(t, ringPath(t), nil)
	for name, c := range map[string]struct {
		key    []byte
		scopes []string
		want   string
	}{
		"no scope":     {seal.NewKey(), nil, "needs a scope"},
		"empty scope":  {seal.NewKey(), []string{"a", ""}, "empty scope"},
		"empty key":    {nil, []string{"a"}, "octets"},
		"long key":     {make([]byte, keyring.MaxKey+1), []string{"a"}, "octets"},
		"many scopes":  {seal.NewKey(), make([]string, keyring.MaxScopes+1), "scopes"},
		"empty scope ": {seal.NewKey(), []string{""}, "empty scope"},
	} {
		_, err := f.Wrap(t.Context(), c.key, c.scopes...)
		require.ErrorContains(t, err, c.want, name)
	}
	_, err := f.Destroy(t.Context(), "")
	require.ErrorContains(t, err, "empty scope")
}

func TestMostScopes(t *testing.T) {
	f := open(t, ringPath(t), nil)
	scopes := make([]string, keyring.MaxScopes)
	for i := range scopes {
		scopes[i] = fmt.Sprint("s", i)
	}
	w, err := f.Wrap(t.Context(), []byte("k"), scopes...)
	require.NoError(t, err)
	got, err := f.Unwrap(t.Context(), w)
	require.NoError(t, err)
	require.Equal(t, []byte("k"), got)
}

// TestLosingAnyScopeDestroys is the promise of the package, with and without a window.
func TestLosingAnyScopeDestroys(t *testing.T) {
	for _, window := range []time.Duration{0, time.Hour} {
		for _, lost := range []string{"tenant", "submission", "subject"} {
			path := ringPath(t)
			o := &keyring.Options{Window: window}
			f := open(t, path, o)
			w, err := f.Wrap(t.Context(), seal.NewKey(), "tenant", "submission", "subject")
			require.NoError(t, err)
			other, err := f.Wrap(t.Context(), seal.NewKey(), "another")
			require.NoError(t, err)
			d, err := f.Destroy(t.Context(), lost)
			require.NoError(t, err)
			require.Equal(t, lost, d.Scope)
			require.Equal(t, window, d.EpochRetires.Sub(d.At))
			for _, ring := range []*keyring.File{f, open(t, path, o)} {
				_, err = ring.Unwrap(t.Context(), w)
				require.ErrorIs(t, err, keyring.ErrDestroyed)
				_, err = ring.Wrap(t.Context(), seal.NewKey(), "tenant", lost)
				require.ErrorIs(t, err, keyring.ErrDestroyed)
				_, err = ring.Unwrap(t.Context(), other)
				require.NoError(t, err)
				again, err := ring.Destroy(t.Context(), lost)
				require.NoError(t, err)
				require.Equal(t, d, again, "a repeat gives the first answer")
			}
		}
	}
}

func TestDestroyOfAScopeThatNeverWas(t *testing.T) {
	f := open(t, ringPath(t), nil)
	_, err := f.Destroy(t.Context(), "never")
	require.NoError(t, err)
	_, err = f.Wrap(t.Context(), seal.NewKey(), "never")
	require.ErrorIs(t, err, keyring.ErrDestroyed)
}

// TestOldCopiesOpenNothing: after Destroy, a copy of the ledger from before gives nothing, whatever it is put beside.
func TestOldCopiesOpenNothing(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	_, err := f.Wrap(t.Context(), seal.NewKey(), "subject")
	require.NoError(t, err)
	before := save(t, path)
	_, err = f.Destroy(t.Context(), "subject")
	require.NoError(t, err)
	after := save(t, path)
	require.Equal(t, before["root"], after["root"], "the root key need not change")
	require.NotEqual(t, before["epoch"], after["epoch"])

	restore(t, path, map[string][]byte{"root": after["root"], "epoch": after["epoch"], "scopes": before["scopes"]})
	_, err = keyring.OpenFile(path, nil)
	require.ErrorIs(t, err, keyring.ErrCorrupt)
	_, err = f.Unwrap(t.Context(), make([]byte, 200))
	require.ErrorIs(t, err, keyring.ErrCorrupt, "an open ring notices too")
	restore(t, path, after)
	open(t, path, nil)
}

func TestWindowIsKept(t *testing.T) {
	now := time.Unix(1e9, 0)
	o := &keyring.Options{Window: time.Hour, Now: func() time.Time { return now }}
	path := ringPath(t)
	f := open(t, path, o)
	w, err := f.Wrap(t.Context(), seal.NewKey(), "a")
	require.NoError(t, err)
	first := save(t, path)
	_, err = f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, first["epoch"], save(t, path)["epoch"], "within the window the epoch key stays")
	now = now.Add(time.Hour)
	_, err = f.Wrap(t.Context(), seal.NewKey(), "b")
	require.NoError(t, err)
	require.NotEqual(t, first["epoch"], save(t, path)["epoch"], "past it any change retires it, Run or no Run")
	_, err = f.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrDestroyed)
}

func TestOpenRetiresWhatIsOverdue(t *testing.T) {
	for name, second := range map[string]*keyring.Options{
		"no window any more": nil,
		"overdue":            {Window: time.Minute, Now: func() time.Time { return time.Now().Add(time.Hour) }},
	} {
		path := ringPath(t)
		f := open(t, path, &keyring.Options{Window: time.Minute})
		_, err := f.Destroy(t.Context(), "a")
		require.NoError(t, err, name)
		before := save(t, path)
		open(t, path, second)
		require.NotEqual(t, before["epoch"], save(t, path)["epoch"], name)
	}
}

func TestRunRetires(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, &keyring.Options{Window: 40 * time.Millisecond})
	_, err := f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	before := save(t, path)["epoch"]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	require.Eventually(t, func() bool { return !bytes.Equal(before, save(t, path)["epoch"]) }, 20*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)

	g := open(t, ringPath(t), nil)
	require.NoError(t, g.Run(ctx), "without a window there is nothing to do")
}

func TestRunReportsAFailure(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, &keyring.Options{Window: time.Millisecond})
	_, err := f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, f.Run(t.Context()), os.ErrNotExist)
}

// TestRunWaitsOutAFailure: what can't be retired yet is tried again until the promised time, and then Run says so.
func TestRunWaitsOutAFailure(t *testing.T) {
	var clock, asked atomic.Int64
	clock.Store(1e18)
	o := &keyring.Options{Window: 40 * time.Millisecond, Now: func() time.Time {
		asked.Add(1)
		return time.Unix(0, clock.Load())
	}}
	path := ringPath(t)
	f := open(t, path, o)
	d, err := f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	before := save(t, path)["epoch"]
	require.NoError(t, os.Mkdir(path+".epoch.tmp", 0o700))
	clock.Add(int64(o.Window) * 3 / 4)
	require.Error(t, f.Upkeep(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	ticks := asked.Load() + 20
	require.Eventually(t, func() bool { return asked.Load() > ticks }, 30*time.Second, time.Millisecond)
	require.Empty(t, done, "there is time left")
	require.NoError(t, os.Remove(path+".epoch.tmp"))
	require.Eventually(t, func() bool { return !bytes.Equal(before, save(t, path)["epoch"]) }, 30*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)

	_, err = f.Destroy(t.Context(), "b")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(path+".epoch.tmp", 0o700))
	clock.Store(d.EpochRetires.UnixNano() + int64(time.Hour))
	require.Error(t, f.Run(t.Context()), "a promise is broken")
	require.NoError(t, os.Remove(path+".epoch.tmp"))
}

func TestRememberEnds(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := open(t, ringPath(t), &keyring.Options{Remember: time.Hour, Now: func() time.Time { return now }})
	w, err := f.Wrap(t.Context(), seal.NewKey(), "a")
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	now = now.Add(2 * time.Hour)
	require.NoError(t, f.RotateEpoch(t.Context()))
	_, err = f.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrUnknown)
	_, err = f.Wrap(t.Context(), seal.NewKey(), "a")
	require.NoError(t, err)
	_, err = f.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrCorrupt, "the new key of the scope is another")
}

func TestRotationKeepsWrappedKeys(t *testing.T) {
	path := ringPath(t)
	f, other := open(t, path, nil), open(t, path, nil)
	w, err := f.Wrap(t.Context(), []byte("data key"), "a", "b")
	require.NoError(t, err)
	for name, rotate := range map[string]func(context.Context) error{"epoch": f.RotateEpoch, "root": f.RotateRoot} {
		before := save(t, path)
		require.NoError(t, rotate(t.Context()))
		after := save(t, path)
		require.Equal(t, name == "root", !bytes.Equal(before["root"], after["root"]))
		require.NotEqual(t, before["epoch"], after["epoch"])
		for _, ring := range []*keyring.File{f, other, open(t, path, nil)} {
			got, err := ring.Unwrap(t.Context(), w)
			require.NoError(t, err)
			require.Equal(t, []byte("data key"), got)
		}
	}
}

func TestProcessesSeeEachOther(t *testing.T) {
	path := ringPath(t)
	a, b := open(t, path, nil), open(t, path, nil)
	w, err := a.Wrap(t.Context(), []byte("k"), "new")
	require.NoError(t, err)
	_, err = b.Unwrap(t.Context(), w)
	require.NoError(t, err, "a scope that the other added")
	w2, err := b.Wrap(t.Context(), []byte("k"), "new", "newer")
	require.NoError(t, err)
	_, err = a.Unwrap(t.Context(), w2)
	require.NoError(t, err)
	_, err = b.Destroy(t.Context(), "newer")
	require.NoError(t, err)
	_, err = a.Unwrap(t.Context(), w2)
	require.ErrorIs(t, err, keyring.ErrDestroyed, "at once, though a had the key in memory")
	_, err = a.Unwrap(t.Context(), w)
	require.NoError(t, err)
}

func TestManyProducers(t *testing.T) {
	t.Parallel()
	path := ringPath(t)
	rings := []*keyring.File{open(t, path, nil), open(t, path, &keyring.Options{Window: time.Hour})}
	const producers, each = 16, 20
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			f := rings[p%2]
			for i := range each {
				one := fmt.Sprintf("submission/%d/%d", p, i)
				w, err := f.Wrap(t.Context(), []byte("k"), "tenant", one)
				if err == nil {
					_, err = rings[(p+1)%2].Unwrap(t.Context(), w)
				}
				if err == nil && i%4 == 0 {
					_, err = f.Destroy(t.Context(), one)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestClosed(t *testing.T) {
	f := open(t, ringPath(t), nil)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	_, err := f.Wrap(t.Context(), seal.NewKey(), "a")
	require.ErrorIs(t, err, keyring.ErrClosed)
	_, err = f.Unwrap(t.Context(), nil)
	require.ErrorIs(t, err, keyring.ErrClosed)
	_, err = f.Destroy(t.Context(), "a")
	require.ErrorIs(t, err, keyring.ErrClosed)
	require.ErrorIs(t, f.RotateEpoch(t.Context()), keyring.ErrClosed)
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := keyring.OpenFile(ringPath(t), &keyring.Options{Window: -1, Remember: -1})
	require.ErrorContains(t, err, "Window")
	require.ErrorContains(t, err, "Remember")
}

func TestContextEnds(t *testing.T) {
	f := open(t, ringPath(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Wrap(ctx, seal.NewKey(), "new")
	require.ErrorIs(t, err, context.Canceled)
	_, err = f.Wrap(t.Context(), seal.NewKey(), "new")
	require.NoError(t, err)
	_, err = f.Wrap(ctx, seal.NewKey(), "new")
	require.NoError(t, err, "a hot scope waits for nothing")
}

// TestNothingIsInClear plants a canary in every place that takes a name.
func TestNothingIsInClear(t *testing.T) {
	const canary = "CANARY-anna-schmidt"
	path := ringPath(t)
	f := open(t, path, nil)
	w, err := f.Wrap(t.Context(), []byte(canary), "subject/"+canary, "tenant/"+canary)
	require.NoError(t, err)
	_, err = f.Wrap(t.Context(), []byte(canary), "other/"+canary)
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "subject/"+canary)
	require.NoError(t, err)
	require.NotContains(t, string(w), canary)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	for _, e := range entries {
		require.NotContains(t, e.Name(), canary)
		b, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
		require.NoError(t, err)
		require.NotContains(t, string(b), "CANARY", e.Name())
		require.False(t, strings.HasSuffix(e.Name(), ".tmp"), "nothing is left over")
	}
	_, errW := f.Wrap(t.Context(), []byte(canary), "subject/"+canary)
	_, errU := f.Unwrap(t.Context(), w)
	_, errK := f.Wrap(t.Context(), bytes.Repeat([]byte(canary), 1000), canary)
	for _, err := range []error{errW, errU, errK} {
		require.Error(t, err)
		require.NotContains(t, err.Error(), "CANARY")
	}
}

func TestFIPSOnly(t *testing.T) {
	rerun(t, "TestRingUnderARoot|TestSplitAndJoin|TestBackupKey|TestWrapAndUnwrap|TestLosingAnyScopeDestroys|TestRotationKeepsWrappedKeys")
}
