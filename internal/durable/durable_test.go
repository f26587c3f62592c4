package durable_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/durable"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, s := range []string{"one", "", "three"} {
		require.NoError(t, durable.WriteFile(path, []byte(s)))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, s, string(b))
	}
	_, err := durable.ReadPrivate(path, 1)
	require.NoError(t, err)
	require.NoFileExists(t, path+".tmp")
	require.NoError(t, durable.RemoveTemp(path))
	require.NoError(t, os.WriteFile(path+".tmp", nil, 0o600))
	require.NoError(t, durable.RemoveTemp(path))
	require.NoFileExists(t, path+".tmp")
	require.NoError(t, os.MkdirAll(path+".tmp/x", 0o700))
	require.Error(t, durable.RemoveTemp(path))
	require.Error(t, durable.WriteFile(path, nil))
	require.Error(t, durable.WriteFile(filepath.Join(path, "x"), nil))
	require.Error(t, durable.SyncDir(filepath.Join(path, "none")))
}

func TestReadPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	_, err := durable.ReadPrivate(path, 4)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, durable.WriteFile(path, []byte("secret")))
	b, err := durable.ReadPrivate(path, 4)
	require.NoError(t, err)
	require.Equal(t, "secr", string(b))
	for _, mode := range []os.FileMode{0o640, 0o604, 0o610} {
		require.NoError(t, os.Chmod(path, mode))
		_, err = durable.ReadPrivate(path, 4)
		require.ErrorIs(t, err, durable.ErrExposed, "%v", mode)
	}
	_, err = durable.ReadPrivate(filepath.Dir(path), 4)
	require.Error(t, err, "a folder")
}

func TestTree(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	tree := durable.Tree{Root: root}
	for range 2 {
		require.NoError(t, tree.Write("x/y/z", []byte("1")))
		require.NoError(t, tree.Write("x/w", []byte("2")))
		require.NoError(t, tree.Sync())
	}
	b, err := os.ReadFile(filepath.Join(root, "x", "y", "z"))
	require.NoError(t, err)
	require.Equal(t, "1", string(b))
	require.Error(t, tree.Write("x/w/v", nil), "a file is no folder")
	require.NoError(t, tree.Write("gone/f", nil))
	require.NoError(t, os.RemoveAll(filepath.Join(root, "gone")))
	require.Error(t, tree.Sync())
	require.NoError(t, durable.MkdirAll(filepath.Join(root, "p", "q")))
	require.DirExists(t, filepath.Join(root, "p", "q"))
	require.Error(t, durable.MkdirAll(filepath.Join(root, "x", "w", "v")))
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := durable.TryLock(path)
	require.NoError(t, err)
	_, err = durable.TryLock(path)
	require.ErrorIs(t, err, durable.ErrLocked)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = durable.WaitLock(ctx, path)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	time.AfterFunc(10*time.Millisecond, func() { _ = l.Unlock() })
	second, err := durable.WaitLock(t.Context(), path)
	require.NoError(t, err)
	require.NoError(t, second.Unlock())
	_, err = durable.TryLock(filepath.Join(path, "x"))
	require.Error(t, err)
}

var errRefused = errors.New("refused")

// proof is what the tests' payloads end in, so that none ends in zeros.
var proof = bytes.Repeat([]byte{9}, 16)

func scan(b []byte) (payloads [][]byte, whole int, err error) {
	whole, err = durable.Scan(b, func(p []byte) error {
		if !bytes.HasSuffix(p, proof) {
			return errRefused
		}
		payloads = append(payloads, bytes.Clone(p))
		return nil
	})
	return payloads, whole, err
}

func TestFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 50), 1, 5).Draw(t, "payloads")
		var b []byte
		ends := []int{0}
		for i, p := range want {
			want[i] = append(p, proof...)
			b = durable.AppendFrame(b, want[i])
			ends = append(ends, len(b))
		}
		got, whole, err := scan(b)
		require.NoError(t, err)
		require.Equal(t, len(b), whole)
		require.Equal(t, want, got)

		cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
		got, whole, err = scan(b[:cut])
		require.NoError(t, err, "a cut is a torn tail")
		require.Contains(t, ends, whole)
		require.LessOrEqual(t, whole, cut)
		require.Equal(t, want[:len(got)], append([][]byte{}, got...))

		last := ends[len(ends)-2]
		zeroed := bytes.Clone(b)
		clear(zeroed[max(last, len(b)-rapid.IntRange(16, 80).Draw(t, "zeros")):])
		_, whole, err = scan(zeroed)
		require.NoError(t, err, "so are zeros in place of the end")
		require.Equal(t, last, whole)

		i := rapid.IntRange(0, len(b)-1).Draw(t, "flip")
		for _, end := range ends {
			if i >= end && i < end+8 {
				b[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
				_, _, err = scan(b)
				require.ErrorIs(t, err, durable.ErrCorrupt, "a flipped length is no torn tail")
				return
			}
		}
	})
}

func TestRefusedFrameInTheMiddle(t *testing.T) {
	b := durable.AppendFrame(nil, make([]byte, 40))
	b = durable.AppendFrame(b, proof)
	_, whole, err := scan(b)
	require.ErrorIs(t, err, errRefused, "zeros that are not at the end are damage")
	require.Zero(t, whole)
	_, _, err = scan(durable.AppendFrame(nil, []byte("short")))
	require.ErrorIs(t, err, errRefused)
}

func FuzzScan(f *testing.F) {
	f.Add(durable.AppendFrame(durable.AppendFrame(nil, proof), proof))
	f.Fuzz(func(t *testing.T, b []byte) {
		payloads, whole, _ := scan(b)
		var again []byte
		for _, p := range payloads {
			again = durable.AppendFrame(again, p)
		}
		require.True(t, bytes.Equal(again, b[:whole]))
	})
}

// TestWriteFileFollowsNoLink: who can write the folder must not get the bytes by putting a file or a link there first.
func TestWriteFileFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	elsewhere, path := filepath.Join(dir, "elsewhere"), filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(elsewhere, nil, 0o666))
	require.NoError(t, os.Symlink(elsewhere, path+".tmp"))
	require.NoError(t, durable.WriteFile(path, []byte("secret")))
	b, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.Empty(t, b)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
}
