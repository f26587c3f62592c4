package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
)

func backup(t testing.TB, f *keyring.File) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, f.Backup(t.Context(), &b))
	return b.Bytes()
}

func TestBackupAndRestore(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	gone, err := f.Destroy(t.Context(), "gone")
	require.NoError(t, err)
	b := backup(t, f)
	late, err := f.Wrap(t.Context(), []byte("k"), "late")
	require.NoError(t, err)
	key, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(b), string(key[len(key)-40:]), "the root key is not in it")

	to := ringPath(t)
	require.ErrorContains(t, keyring.Restore(t.Context(), path, bytes.NewReader(b)), "already")
	require.NoError(t, keyring.Restore(t.Context(), to, bytes.NewReader(b)))
	require.Error(t, keyring.Restore(t.Context(), to, bytes.NewReader(b)))
	_, err = keyring.OpenFile(to, nil)
	require.ErrorIs(t, err, keyring.ErrLost)
	require.NoError(t, os.WriteFile(to, key, 0o600))
	g := open(t, to, nil)
	got, err := g.Unwrap(t.Context(), w)
	require.NoError(t, err)
	require.Equal(t, []byte("k"), got)
	_, err = g.Unwrap(t.Context(), late)
	require.ErrorIs(t, err, keyring.ErrUnknown)
	again, err := g.Destroy(t.Context(), "gone")
	require.NoError(t, err)
	require.Equal(t, gone, again, "tombstones are in it")
}

// TestRestoreCutShort: what a crash inside Restore leaves can be restored over; nothing else can.
func TestRestoreCutShort(t *testing.T) {
	f := open(t, ringPath(t), nil)
	b, other := backup(t, f), backup(t, open(t, ringPath(t), nil))
	to := ringPath(t)
	require.NoError(t, os.Mkdir(to+".scopes.tmp", 0o700))
	require.Error(t, keyring.Restore(t.Context(), to, bytes.NewReader(b)))
	require.NoError(t, os.Remove(to+".scopes.tmp"))
	require.FileExists(t, to+".epoch")
	require.Error(t, keyring.Restore(t.Context(), to, bytes.NewReader(other)))
	require.NoError(t, keyring.Restore(t.Context(), to, bytes.NewReader(b)))
	blocked := ringPath(t)
	require.NoError(t, os.Mkdir(blocked+".epoch.tmp", 0o700))
	require.Error(t, keyring.Restore(t.Context(), blocked, bytes.NewReader(b)))
}

func TestEveryFlipInABackupIsFound(t *testing.T) {
	b := backup(t, open(t, ringPath(t), nil))
	to := ringPath(t)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		require.ErrorIs(t, keyring.Restore(t.Context(), to, bytes.NewReader(bad)), keyring.ErrCorrupt)
		require.ErrorIs(t, keyring.Restore(t.Context(), to, bytes.NewReader(b[:i])), keyring.ErrCorrupt)
	}
	require.ErrorIs(t, keyring.Restore(t.Context(), to, bytes.NewReader(append(bytes.Clone(b), 0))), keyring.ErrCorrupt)
	require.NoFileExists(t, to+".epoch")
	require.NoFileExists(t, to+".scopes")
	broken := errors.New("broken")
	for _, n := range []int{0, 30, 60, len(b)} {
		r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken))
		require.ErrorIs(t, keyring.Restore(t.Context(), to, r), broken)
	}
}

// failAfter takes n octets and then none.
type failAfter struct{ n int }

func (w *failAfter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestBackupFails(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	for _, n := range []int{0, 100, len(backup(t, f)) - 1} {
		require.ErrorIs(t, f.Backup(t.Context(), &failAfter{n}), io.ErrShortWrite)
	}
	require.NoError(t, os.Remove(path+".epoch"))
	require.ErrorIs(t, f.Backup(t.Context(), io.Discard), os.ErrNotExist)
	_, _, err := f.BackupKey(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = f.Split(t.Context(), 1, 1)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.Backup(t.Context(), io.Discard), keyring.ErrClosed)
}

// TestBackupDuringUse: a copy made while others change the ring opens whole.
func TestBackupDuringUse(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	key, err := os.ReadFile(path)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; err == nil && i < 40; i++ {
			if _, err = f.Wrap(t.Context(), []byte("k"), fmt.Sprint(i)); err == nil && i%4 == 0 {
				_, err = f.Destroy(t.Context(), fmt.Sprint(i))
			}
		}
		done <- err
	}()
	for range 10 {
		to := ringPath(t)
		require.NoError(t, keyring.Restore(t.Context(), to, bytes.NewReader(backup(t, f))))
		require.NoError(t, os.WriteFile(to, key, 0o600))
		open(t, to, nil)
	}
	require.NoError(t, <-done)
}

func FuzzRestore(f *testing.F) {
	ring, err := keyring.OpenFile(ringPath(f), nil)
	require.NoError(f, err)
	b := backup(f, ring)
	require.NoError(f, ring.Close())
	f.Add(b)
	f.Add(b[:50])
	f.Fuzz(func(t *testing.T, in []byte) {
		to := ringPath(t)
		if err := keyring.Restore(t.Context(), to, bytes.NewReader(in)); err != nil {
			require.ErrorIs(t, err, keyring.ErrCorrupt)
			require.NoFileExists(t, to+".scopes")
			return
		}
		_, err := keyring.OpenFile(to, nil)
		require.Error(t, err, "without the root key")
	})
}

func TestBackupKey(t *testing.T) {
	path, root := ringPath(t), newMemRoot()
	f := open(t, path, nil)
	key, wrapped, err := f.BackupKey(t.Context())
	require.NoError(t, err)
	rootKey, err := keyring.ReadRootKey(path)
	require.NoError(t, err)
	got, err := keyring.OpenBackupKey(rootKey, wrapped)
	require.NoError(t, err)
	require.Equal(t, key, got)
	_, err = keyring.OpenBackupKeyUnder(t.Context(), root, wrapped)
	require.ErrorIs(t, err, keyring.ErrOtherRoot)

	require.NoError(t, f.MoveRoot(t.Context(), root))
	shares, err := f.Split(t.Context(), 2, 2)
	require.NoError(t, err)
	key, wrapped, err = f.BackupKey(t.Context())
	require.NoError(t, err)
	got, err = keyring.OpenBackupKeyUnder(t.Context(), root, wrapped)
	require.NoError(t, err)
	require.Equal(t, key, got)
	joined, err := keyring.Join(shares...)
	require.NoError(t, err)
	got, err = keyring.OpenBackupKey(joined, wrapped)
	require.NoError(t, err)
	require.Equal(t, key, got, "custodians need no KMS")
	for i := range wrapped {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		_, err = keyring.OpenBackupKey(joined, bad)
		require.ErrorIs(t, err, keyring.ErrCorrupt)
		_, err = keyring.OpenBackupKeyUnder(t.Context(), root, wrapped[:i])
		require.Error(t, err)
	}
	_, err = keyring.OpenBackupKey(seal.NewKey(), wrapped)
	require.ErrorIs(t, err, keyring.ErrCorrupt)
	_, err = keyring.OpenBackupKey(nil, wrapped)
	require.ErrorContains(t, err, "32 octets")
	root.fail(errOutage)
	_, err = keyring.OpenBackupKeyUnder(t.Context(), root, wrapped)
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	_, err = keyring.ReadRootKey(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
