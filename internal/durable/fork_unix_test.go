//go:build unix

package durable_test

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/durable"
)

// TestUnlockFreesInheritedCopies: between fork and exec a child of the host program has every descriptor too.
func TestUnlockFreesInheritedCopies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := durable.TryLock(path)
	require.NoError(t, err)
	child, err := syscall.Dup(int(l.Fd()))
	require.NoError(t, err)
	defer syscall.Close(child)
	_, err = durable.TryLock(path)
	require.ErrorIs(t, err, durable.ErrLocked)
	require.NoError(t, l.Unlock())
	l, err = durable.TryLock(path)
	require.NoError(t, err)
	require.NoError(t, l.Unlock())
}
