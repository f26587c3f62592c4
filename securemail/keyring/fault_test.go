package keyring_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/securemail/keyring"
)

// TestLeaderGivesUp: a caller whose context ends must not fail those who joined him.
func TestLeaderGivesUp(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	lock, err := durable.TryLock(path + ".lock")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	leader, follower := make(chan error, 1), make(chan error, 1)
	go func() { _, err := f.Wrap(ctx, []byte("k"), "a"); leader <- err }()
	time.Sleep(20 * time.Millisecond)
	go func() { _, err := f.Wrap(t.Context(), []byte("k"), "b"); follower <- err }()
	impatient, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err = f.Wrap(impatient, []byte("k"), "c")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	cancel()
	require.ErrorIs(t, <-leader, context.Canceled)
	require.NoError(t, lock.Unlock())
	require.NoError(t, <-follower)
}

// TestFailedDestroy: at each step that can fail, a Destroy that was refused leaves a ring that works, and can be repeated.
func TestFailedDestroy(t *testing.T) {
	for _, blocked := range []string{".epoch.tmp", ".scopes.tmp"} {
		path := ringPath(t)
		f := open(t, path, nil)
		w, err := f.Wrap(t.Context(), []byte("k"), "a")
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(path+blocked, 0o700))
		_, err = f.Destroy(t.Context(), "a")
		require.Error(t, err, blocked)
		_, err = f.Unwrap(t.Context(), w)
		require.NoError(t, err, "not destroyed, and not said to be")
		require.NoError(t, os.Remove(path+blocked))
		open(t, path, nil)
		_, err = f.Unwrap(t.Context(), w)
		require.NoError(t, err)
		_, err = f.Destroy(t.Context(), "a")
		require.NoError(t, err)
		_, err = f.Unwrap(t.Context(), w)
		require.ErrorIs(t, err, keyring.ErrDestroyed)
	}
}

func TestFailedRotateRoot(t *testing.T) {
	for _, blocked := range []string{".tmp", ".epoch.tmp", ".scopes.tmp"} {
		path := ringPath(t)
		f := open(t, path, nil)
		w, err := f.Wrap(t.Context(), []byte("k"), "a")
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(path+blocked, 0o700))
		require.Error(t, f.RotateRoot(t.Context()))
		require.NoError(t, os.Remove(path+blocked))
		for _, ring := range []*keyring.File{f, open(t, path, nil)} {
			_, err = ring.Unwrap(t.Context(), w)
			require.NoError(t, err, blocked)
		}
		require.NoError(t, f.RotateRoot(t.Context()))
	}
}

func TestFailedCreation(t *testing.T) {
	for _, blocked := range []string{".new.tmp", ".epoch.tmp", ".scopes.tmp"} {
		path := ringPath(t)
		require.NoError(t, os.Mkdir(path+blocked, 0o700))
		_, err := keyring.OpenFile(path, nil)
		require.ErrorContains(t, err, "keyring: create")
		require.NoError(t, os.Remove(path+blocked))
		open(t, path, nil)
	}
}
