package keyring_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
)

// memRoot is a KMS in memory: versions of a key, and an error that it answers with.
type memRoot struct {
	mu       sync.Mutex
	versions [][]byte
	err      error
	wraps    int
	unwraps  int
	// stall is called by Unwrap, which then waits for its context to end.
	stall func()
}

func newMemRoot() *memRoot { return &memRoot{versions: [][]byte{seal.NewKey()}} }

func (r *memRoot) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *memRoot) rotate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions = append(r.versions, seal.NewKey())
}

// retire makes the oldest version unusable.
func (r *memRoot) retire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[0] = nil
}

func (r *memRoot) calls() (wraps, unwraps int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wraps, r.unwraps
}

func (r *memRoot) Wrap(_ context.Context, key []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wraps++
	if r.err != nil {
		return nil, r.err
	}
	n := len(r.versions) - 1
	b, err := seal.Seal(r.versions[n], key, nil)
	return append([]byte{byte(n)}, b...), err
}

func (r *memRoot) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwraps++
	if r.stall != nil {
		r.stall()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if r.err != nil {
		return nil, r.err
	}
	if len(wrapped) == 0 || int(wrapped[0]) >= len(r.versions) {
		return nil, keyring.ErrCorrupt
	}
	if r.versions[wrapped[0]] == nil {
		return nil, keyring.ErrLost
	}
	key, err := seal.Open(r.versions[wrapped[0]], wrapped[1:], nil)
	if err != nil {
		return nil, keyring.ErrCorrupt
	}
	return key, nil
}

var errOutage = fmt.Errorf("connection refused: %w", keyring.ErrUnavailable)

func TestRingUnderARoot(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	o := &keyring.Options{Root: root}
	f := open(t, path, o)
	require.NoFileExists(t, path, "no key file")
	require.NoFileExists(t, path+".new")
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "b")
	require.NoError(t, err)
	wraps, _ := root.calls()
	require.Equal(t, 1, wraps, "a Root is asked once, when the ring is made")
	for range 2 {
		got, err := open(t, path, o).Unwrap(t.Context(), w)
		require.NoError(t, err)
		require.Equal(t, []byte("k"), got)
	}
	_, err = keyring.OpenFile(path, nil)
	require.ErrorIs(t, err, keyring.ErrOtherRoot)
	require.ErrorContains(t, err, "Options.Root")
	_, err = keyring.OpenFile(path, &keyring.Options{Root: newMemRoot()})
	require.ErrorIs(t, err, keyring.ErrCorrupt, "another KMS key")

	other := ringPath(t)
	sample(t, other)
	_, err = keyring.OpenFile(other, o)
	require.ErrorIs(t, err, keyring.ErrOtherRoot)
	require.ErrorContains(t, err, "MoveRoot")
	require.NoError(t, os.Remove(other+".epoch"))
	require.NoError(t, os.Remove(other+".scopes"))
	_, err = keyring.OpenFile(other, o)
	require.ErrorIs(t, err, keyring.ErrOtherRoot, "a key file without its ring is a loss, not an empty place")
}

// TestOutage: while the Root is down, an open ring does everything but change its root; what needs the Root says that it
// is unavailable, never that something was destroyed.
func TestOutage(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	o := &keyring.Options{Root: root}
	f, other := open(t, path, o), open(t, path, o)
	w, err := f.Wrap(t.Context(), []byte("k"), "a", "b")
	require.NoError(t, err)
	root.fail(errOutage)
	_, err = f.Wrap(t.Context(), []byte("k"), "a", "new")
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "new")
	require.NoError(t, err)
	require.NoError(t, f.RotateEpoch(t.Context()))
	for _, ring := range []*keyring.File{f, other} {
		_, err = ring.Unwrap(t.Context(), w)
		require.NoError(t, err)
	}
	require.ErrorIs(t, f.RotateRoot(t.Context()), keyring.ErrUnavailable)
	_, err = keyring.OpenFile(path, o)
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	var d interface{ Destroyed() bool }
	require.False(t, errors.As(err, &d))
	_, err = keyring.OpenFile(ringPath(t), o)
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	root.fail(nil)
	open(t, path, o)
}

// TestRewrappedByAnother: a process that meets an epoch key under a wrapping it has not seen needs the Root, and works
// again when that is back.
func TestRewrappedByAnother(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	o := &keyring.Options{Root: root}
	f, other := open(t, path, o), open(t, path, o)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	require.NoError(t, f.RotateRoot(t.Context()))
	root.fail(errOutage)
	_, err = other.Unwrap(t.Context(), w)
	require.NoError(t, err, "the ledger is what it was")
	_, err = other.Destroy(t.Context(), "b")
	require.ErrorIs(t, err, keyring.ErrUnavailable, "it must not undo the new wrapping")
	require.NoError(t, f.RotateEpoch(t.Context()))
	_, err = other.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	root.fail(nil)
	_, err = other.Unwrap(t.Context(), w)
	require.NoError(t, err)
}

// TestRotateRootRewrapsTheEpochKeyOnly rotates the KMS key: only the epoch file changes, and the old version may go.
func TestRotateRootRewrapsTheEpochKeyOnly(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	o := &keyring.Options{Root: root}
	f := open(t, path, o)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	before, err := os.ReadFile(path + ".scopes")
	require.NoError(t, err)
	root.rotate()
	require.NoError(t, f.RotateRoot(t.Context()))
	after, err := os.ReadFile(path + ".scopes")
	require.NoError(t, err)
	require.Equal(t, before, after)
	root.retire()
	for _, ring := range []*keyring.File{f, open(t, path, o)} {
		_, err = ring.Unwrap(t.Context(), w)
		require.NoError(t, err)
	}
	root.rotate()
	root.mu.Lock()
	root.versions[1] = nil
	root.mu.Unlock()
	_, err = keyring.OpenFile(path, o)
	require.ErrorIs(t, err, keyring.ErrLost, "the version that the ring needs was destroyed")
}

func TestStalledRoot(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	o := &keyring.Options{Root: root}
	f, other := open(t, path, o), open(t, path, o)
	require.NoError(t, f.RotateRoot(t.Context()))
	require.NoError(t, f.RotateEpoch(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	root.stall = cancel
	_, err := other.Wrap(ctx, []byte("k"), "a")
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
}

// TestMoveRoot goes from the file to a Root, to another Root, and back; every wrapped key stays as it is.
func TestMoveRoot(t *testing.T) {
	path, a, b := ringPath(t), newMemRoot(), newMemRoot()
	f := open(t, path, nil)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	for i, to := range []*memRoot{a, b, b, nil, nil} {
		o := &keyring.Options{}
		if to != nil {
			o.Root = to
		}
		require.NoError(t, f.MoveRoot(t.Context(), o.Root))
		_, err = os.Stat(path)
		require.Equal(t, to == nil, err == nil, "the key file is there where it is the root: %d", i)
		for _, ring := range []*keyring.File{f, open(t, path, o)} {
			got, err := ring.Unwrap(t.Context(), w)
			require.NoError(t, err)
			require.Equal(t, []byte("k"), got)
			_, err = ring.Destroy(t.Context(), fmt.Sprint("gone", i))
			require.NoError(t, err)
		}
	}
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.MoveRoot(t.Context(), a), keyring.ErrClosed)
	require.ErrorIs(t, f.RotateRoot(t.Context()), keyring.ErrClosed)
}

// TestMoveRootCutShort leaves what a crash at each step leaves: it opens under the old root or the new one.
func TestMoveRootCutShort(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	w := sample(t, path)
	key, err := os.ReadFile(path)
	require.NoError(t, err)
	f := open(t, path, nil)
	require.NoError(t, f.MoveRoot(t.Context(), root))
	require.NoError(t, os.WriteFile(path, key, 0o600)) // the old key file was not yet removed
	g := open(t, path, &keyring.Options{Root: root})
	_, err = g.Unwrap(t.Context(), w)
	require.NoError(t, err)
	require.NoError(t, g.MoveRoot(t.Context(), root))
	require.NoFileExists(t, path, "a repeat finishes")
	// Back: the key file is written, the epoch file not yet.
	require.NoError(t, os.WriteFile(path, key, 0o600))
	_, err = keyring.OpenFile(path, nil)
	require.ErrorIs(t, err, keyring.ErrOtherRoot)
	h := open(t, path, &keyring.Options{Root: root})
	require.NoError(t, h.MoveRoot(t.Context(), nil))
	_, err = open(t, path, nil).Unwrap(t.Context(), w)
	require.NoError(t, err)
}

func TestFailedMoveRoot(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	w := sample(t, path)
	f := open(t, path, nil)
	require.NoError(t, os.Mkdir(path+".epoch.tmp", 0o700))
	require.Error(t, f.MoveRoot(t.Context(), root))
	require.NoError(t, os.Remove(path+".epoch.tmp"))
	_, err := open(t, path, nil).Unwrap(t.Context(), w)
	require.NoError(t, err, "still under the key file")
	require.NoError(t, f.MoveRoot(t.Context(), root))
	require.NoError(t, os.Mkdir(path+".tmp", 0o700))
	require.Error(t, f.MoveRoot(t.Context(), nil))
	require.NoError(t, os.Remove(path+".tmp"))
	_, err = open(t, path, &keyring.Options{Root: root}).Unwrap(t.Context(), w)
	require.NoError(t, err)
}

// TestRepeatedRotateRootAfterAFailure: the key that the epoch file is under stays in the key file whatever fails, and
// however often it is tried.
func TestRepeatedRotateRootAfterAFailure(t *testing.T) {
	path := ringPath(t)
	w := sample(t, path)
	f := open(t, path, nil)
	for range 3 {
		require.NoError(t, os.Mkdir(path+".epoch.tmp", 0o700))
		require.Error(t, f.RotateRoot(t.Context()))
		require.NoError(t, os.Remove(path+".epoch.tmp"))
		saved := save(t, path)
		_, err := open(t, path, nil).Unwrap(t.Context(), w)
		require.NoError(t, err)
		restore(t, path, saved) // as if nobody had opened it in between
	}
	require.NoError(t, f.RotateRoot(t.Context()))
	_, err := open(t, path, nil).Unwrap(t.Context(), w)
	require.NoError(t, err)
}

func TestInterruptedCreationUnderARoot(t *testing.T) {
	root := newMemRoot()
	o := &keyring.Options{Root: root}
	done := ringPath(t)
	open(t, done, o)
	epoch, err := os.ReadFile(done + ".epoch")
	require.NoError(t, err)
	scopes, err := os.ReadFile(done + ".scopes")
	require.NoError(t, err)
	for name, left := range map[string]map[string][]byte{
		"mark": {".new": nil}, "epoch": {".new": nil, ".epoch": epoch}, "all": {".new": nil, ".epoch": epoch, ".scopes": scopes},
	} {
		path := ringPath(t)
		for suffix, b := range left {
			require.NoError(t, os.WriteFile(path+suffix, b, 0o600))
		}
		f := open(t, path, o)
		_, err := f.Wrap(t.Context(), []byte("k"), "a")
		require.NoError(t, err, name)
		require.NoFileExists(t, path+".new")
	}
	for _, lost := range []string{".epoch", ".scopes"} {
		path := ringPath(t)
		require.NoError(t, os.WriteFile(path+".epoch", epoch, 0o600))
		require.NoError(t, os.WriteFile(path+".scopes", scopes, 0o600))
		require.NoError(t, os.Remove(path+lost))
		_, err := keyring.OpenFile(path, o)
		require.ErrorIs(t, err, keyring.ErrLost)
		require.ErrorContains(t, err, "put the newest copies")
		require.NoFileExists(t, path+lost)
	}
}

func TestEnvRoot(t *testing.T) {
	const name = "POSTSEAL_TEST_ROOT"
	path := ringPath(t)
	o := &keyring.Options{Root: keyring.EnvRoot(name)}
	t.Setenv(name, "")
	_, err := keyring.OpenFile(path, o)
	require.ErrorIs(t, err, keyring.ErrLost)
	require.ErrorContains(t, err, name)
	key := base64.StdEncoding.EncodeToString(seal.NewKey())
	t.Setenv(name, key+"\n")
	f := open(t, path, o)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	_, err = open(t, path, o).Unwrap(t.Context(), w)
	require.NoError(t, err)
	for _, bad := range []string{key[:40], key + "A", "not base64 at all !", base64.StdEncoding.EncodeToString(make([]byte, 36))} {
		t.Setenv(name, bad)
		_, err = keyring.OpenFile(path, o)
		require.ErrorIs(t, err, keyring.ErrCorrupt)
		require.NotContains(t, err.Error(), bad)
	}
	t.Setenv(name, base64.StdEncoding.EncodeToString(seal.NewKey()))
	_, err = keyring.OpenFile(path, o)
	require.ErrorIs(t, err, keyring.ErrCorrupt, "another key")

	// A line of a key file will do too.
	file := ringPath(t)
	sample(t, file)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	t.Setenv(name, string(b[bytes.IndexByte(b, '\n')+1:]))
	open(t, ringPath(t), o)
}

func TestBadRoots(t *testing.T) {
	for name, r := range map[string]fixedRoot{
		"empty": {}, "huge": {wrapped: make([]byte, 9000)},
	} {
		_, err := keyring.OpenFile(ringPath(t), &keyring.Options{Root: r})
		require.ErrorIs(t, err, keyring.ErrCorrupt, name)
	}
	for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} {
		_, err := keyring.OpenFile(ringPath(t), &keyring.Options{Root: fixedRoot{wrapped: []byte("w"), key: key}})
		require.ErrorIs(t, err, keyring.ErrCorrupt)
	}
}

// fixedRoot answers the same whatever it is asked.
type fixedRoot struct{ wrapped, key []byte }

func (r fixedRoot) Wrap(context.Context, []byte) ([]byte, error)   { return r.wrapped, nil }
func (r fixedRoot) Unwrap(context.Context, []byte) ([]byte, error) { return r.key, nil }

// TestEveryFlipUnderARootIsFound: of the epoch file and the ledger, as of the key file elsewhere.
func TestEveryFlipUnderARootIsFound(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	o := &keyring.Options{Root: root}
	open(t, path, o)
	for _, p := range []string{path + ".epoch", path + ".scopes"} {
		good, err := os.ReadFile(p)
		require.NoError(t, err)
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1 << (i % 8)
			require.NoError(t, os.WriteFile(p, b, 0o600))
			_, err := keyring.OpenFile(path, o)
			require.Error(t, err, "%s %d", p, i)
			require.True(t, errors.Is(err, keyring.ErrCorrupt) || errors.Is(err, keyring.ErrOtherRoot), "%v", err)
			if p == path+".epoch" {
				require.NoError(t, os.WriteFile(p, good[:i], 0o600))
				_, err := keyring.OpenFile(path, o)
				require.Error(t, err)
			}
		}
		require.NoError(t, os.WriteFile(p, good, 0o600))
	}
	open(t, path, o)
}
