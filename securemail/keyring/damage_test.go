package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
)

// rerun runs tests of this binary in a process that refuses every algorithm outside FIPS 140-3.
func rerun(t *testing.T, tests string) {
	t.Helper()
	if os.Getenv("GODEBUG") == "fips140=only" {
		t.Skip("is the child")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^("+tests+")$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS")
}

// sample makes a ring with live and destroyed scopes, closes it, and returns a wrapped key of a live one.
func sample(t testing.TB, path string) []byte {
	t.Helper()
	f, err := keyring.OpenFile(path, nil)
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "gone")
	require.NoError(t, err)
	_, err = f.Wrap(t.Context(), []byte("k"), "a", "b")
	require.NoError(t, err)
	w, err := f.Wrap(t.Context(), []byte("k"), "c")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return w
}

func TestEveryFlipInTheFilesIsFound(t *testing.T) {
	t.Parallel()
	path := ringPath(t)
	w := sample(t, path)
	saved := save(t, path)
	for name, p := range files(path) {
		for i := range saved[name] {
			b := bytes.Clone(saved[name])
			b[i] ^= 1 << (i % 8)
			require.NoError(t, os.WriteFile(p, b, 0o600))
			_, err := keyring.OpenFile(path, nil)
			require.ErrorIs(t, err, keyring.ErrCorrupt, "%s %d", name, i)
		}
		require.NoError(t, os.WriteFile(p, saved[name], 0o600))
	}
	f := open(t, path, nil)
	for i := range w {
		b := bytes.Clone(w)
		b[i] ^= 1 << (i % 8)
		_, err := f.Unwrap(t.Context(), b)
		require.ErrorIs(t, err, keyring.ErrCorrupt)
		_, err = f.Unwrap(t.Context(), w[:i])
		require.ErrorIs(t, err, keyring.ErrCorrupt)
	}
	_, err := f.Unwrap(t.Context(), append(bytes.Clone(w), 0))
	require.ErrorIs(t, err, keyring.ErrCorrupt)
}

// TestTornTail cuts the ledger at every third octet: what a crash can leave opens, and only the last append may be missing.
func TestTornTail(t *testing.T) {
	t.Parallel()
	path := ringPath(t)
	w := sample(t, path)
	saved := save(t, path)
	whole := saved["scopes"]
	opened := 0
	for n := 0; n < len(whole); n += 3 {
		restore(t, path, map[string][]byte{"root": saved["root"], "epoch": saved["epoch"], "scopes": whole[:n]})
		f, err := keyring.OpenFile(path, nil)
		if err != nil {
			require.ErrorIs(t, err, keyring.ErrCorrupt)
			require.Zero(t, opened, "once the snapshot is whole every tail is torn, not corrupt")
			continue
		}
		opened++
		_, err = f.Unwrap(t.Context(), w)
		require.ErrorIs(t, err, keyring.ErrUnknown)
		again, err := f.Wrap(t.Context(), []byte("k"), "a", "c")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		f, err = keyring.OpenFile(path, nil)
		require.NoError(t, err)
		_, err = f.Unwrap(t.Context(), again)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	require.Greater(t, opened, 100)

	t.Run("zeros in place of the end", func(t *testing.T) {
		b := bytes.Clone(whole)
		clear(b[len(b)-40:])
		restore(t, path, map[string][]byte{"root": saved["root"], "epoch": saved["epoch"], "scopes": b})
		open(t, path, nil)
	})
}

func TestFramesCantBeMoved(t *testing.T) {
	path := ringPath(t)
	sample(t, path)
	saved := save(t, path)
	b := saved["scopes"]
	var at []int
	for off := 0; off < len(b); {
		at = append(at, off)
		off += 8 + int(b[off])<<24 + int(b[off+1])<<16 + int(b[off+2])<<8 + int(b[off+3])
	}
	require.Len(t, at, 4, "header, snapshot, two appends")
	part := func(i int) []byte {
		if i == len(at)-1 {
			return b[at[i]:]
		}
		return b[at[i]:at[i+1]]
	}
	for name, parts := range map[string][]int{
		"swapped": {0, 1, 3, 2}, "repeated": {0, 1, 2, 2, 3}, "dropped": {0, 1, 3}, "no snapshot": {0, 2, 3}, "no header": {1, 2, 3},
		"only the header": {0}, "two headers": {0, 0, 1},
	} {
		var moved []byte
		for _, i := range parts {
			moved = append(moved, part(i)...)
		}
		restore(t, path, map[string][]byte{"root": saved["root"], "epoch": saved["epoch"], "scopes": moved})
		_, err := keyring.OpenFile(path, nil)
		require.ErrorIs(t, err, keyring.ErrCorrupt, name)
	}
}

func TestCutBackWhileOpen(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	fi, err := os.Stat(path + ".scopes")
	require.NoError(t, err)
	_, err = f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path+".scopes", fi.Size()))
	_, err = f.Wrap(t.Context(), []byte("k"), "a")
	require.ErrorIs(t, err, keyring.ErrCorrupt)
}

// TestRolledBackWhileOpen puts whole older sets of files in place of the present ones.
func TestRolledBackWhileOpen(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	early := save(t, path)
	_, err = f.Wrap(t.Context(), []byte("k"), "b")
	require.NoError(t, err)
	middle := save(t, path)
	_, err = f.Destroy(t.Context(), "a")
	require.NoError(t, err)
	present := save(t, path)
	for _, old := range []map[string][]byte{early, middle} {
		restore(t, path, old)
		_, err = f.Unwrap(t.Context(), w)
		require.ErrorIs(t, err, keyring.ErrCorrupt, "what was destroyed does not come back")
		_, err = f.Wrap(t.Context(), []byte("k"), "c")
		require.ErrorIs(t, err, keyring.ErrCorrupt)
	}
	restore(t, path, present)
	_, err = f.Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrDestroyed)
}

func TestDamagedAppendOfAnotherProcess(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	file, err := os.OpenFile(path+".scopes", os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.Write(bytes.Repeat([]byte{7}, 50))
	require.NoError(t, err)
	require.NoError(t, file.Close())
	_, err = f.Wrap(t.Context(), []byte("k"), "a")
	require.ErrorIs(t, err, keyring.ErrCorrupt)
}

func TestTornAppendOfAnotherProcess(t *testing.T) {
	path := ringPath(t)
	f := open(t, path, nil)
	file, err := os.OpenFile(path+".scopes", os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.Write([]byte{0, 0, 1})
	require.NoError(t, err)
	require.NoError(t, file.Close())
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	_, err = open(t, path, nil).Unwrap(t.Context(), w)
	require.NoError(t, err)
}

func TestMissingFilesAreNeverMadeAnew(t *testing.T) {
	for name := range files("") {
		path := ringPath(t)
		sample(t, path)
		require.NoError(t, os.Remove(files(path)[name]))
		_, err := keyring.OpenFile(path, nil)
		require.ErrorIs(t, err, keyring.ErrCorrupt, name)
		require.ErrorContains(t, err, "missing")
	}
	path := ringPath(t)
	f := open(t, path, nil)
	require.NoError(t, os.Remove(path+".scopes"))
	_, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = keyring.OpenFile(filepath.Join(path, "no", "folder"), nil)
	require.Error(t, err)
}

// TestInterruptedCreation: every state that a crash inside the first OpenFile leaves becomes a working ring.
func TestInterruptedCreation(t *testing.T) {
	for name, left := range map[string][]string{
		"staged": {".new"}, "staged, epoch": {".new", ".epoch"}, "all but the name": {".new", ".epoch", ".scopes"}, "temp": {".new.tmp"},
	} {
		path := ringPath(t)
		sample(t, path)
		saved := save(t, path)
		require.NoError(t, os.Rename(path, path+".new"))
		for _, p := range []string{".new", ".epoch", ".scopes"} {
			require.NoError(t, os.Remove(path+p))
		}
		for _, p := range left {
			require.NoError(t, os.WriteFile(path+p, map[string][]byte{
				".new": saved["root"], ".epoch": saved["epoch"], ".scopes": saved["scopes"], ".new.tmp": saved["root"][:10],
			}[p], 0o600))
		}
		f := open(t, path, nil)
		_, err := f.Wrap(t.Context(), []byte("k"), "a")
		require.NoError(t, err, name)
	}
}

// A ring that was restored over one whose making was cut short is not made anew when its key file is lost.
func TestRestoreOverAnInterruptedCreation(t *testing.T) {
	path := ringPath(t)
	sample(t, path)
	require.NoError(t, os.WriteFile(path+".new", []byte("left"), 0o600))
	open(t, path, nil)
	require.NoError(t, os.Remove(path))
	_, err := keyring.OpenFile(path, nil)
	require.ErrorIs(t, err, keyring.ErrCorrupt)
}

func TestKeyFile(t *testing.T) {
	path := ringPath(t)
	sample(t, path)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := keyring.OpenFile(path, nil)
		require.ErrorIs(t, err, keyring.ErrExposed)
		require.ErrorContains(t, err, "0600")
	}
	require.NoError(t, os.Chmod(path, 0o600))
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	line := good[bytes.IndexByte(good, '\n')+1:]
	for name, b := range map[string][]byte{
		"empty": nil, "no key": good[:len(good)-len(line)], "no newline": good[:len(good)-1], "short": append(bytes.Clone(good[:len(good)-5]), '\n'),
		"binary": seal.NewKey(), "three keys": bytes.Join([][]byte{good, line, line}, nil), "trailing": append(bytes.Clone(good), 'x'),
	} {
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err := keyring.OpenFile(path, nil)
		require.ErrorIs(t, err, keyring.ErrCorrupt, name)
	}
	require.NoError(t, os.WriteFile(path, good, 0o600))
	open(t, path, nil)
}

// TestOtherRingsFilesDontMix swaps single files between two rings.
func TestOtherRingsFilesDontMix(t *testing.T) {
	a, b := ringPath(t), ringPath(t)
	w := sample(t, a)
	sample(t, b)
	fa, fb := save(t, a), save(t, b)
	for name := range fa {
		mixed := map[string][]byte{}
		for n := range fa {
			mixed[n] = fa[n]
		}
		mixed[name] = fb[name]
		restore(t, a, mixed)
		_, err := keyring.OpenFile(a, nil)
		require.ErrorIs(t, err, keyring.ErrCorrupt, name)
	}
	_, err := open(t, b, nil).Unwrap(t.Context(), w)
	require.ErrorIs(t, err, keyring.ErrCorrupt)
}

func FuzzLedger(f *testing.F) {
	path := filepath.Join(f.TempDir(), "ring.key")
	sample(f, path)
	saved := save(f, path)
	f.Add(saved["scopes"])
	f.Add(saved["scopes"][:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		restore(t, path, map[string][]byte{"root": saved["root"], "epoch": saved["epoch"], "scopes": b})
		ring, err := keyring.OpenFile(path, nil)
		if err != nil {
			require.ErrorIs(t, err, keyring.ErrCorrupt)
			return
		}
		require.NoError(t, ring.Close())
		after, err := os.ReadFile(path + ".scopes")
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(b, after), "opening only ever cuts off a tail")
	})
}

func FuzzKeyFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "ring.key")
	sample(f, path)
	saved := save(f, path)
	f.Add(saved["root"], saved["epoch"])
	f.Fuzz(func(t *testing.T, root, epoch []byte) {
		restore(t, path, map[string][]byte{"root": root, "epoch": epoch, "scopes": saved["scopes"]})
		ring, err := keyring.OpenFile(path, nil)
		if err != nil {
			require.ErrorIs(t, err, keyring.ErrCorrupt)
			return
		}
		require.NoError(t, ring.Close())
	})
}

func FuzzUnwrap(f *testing.F) {
	path := filepath.Join(f.TempDir(), "ring.key")
	w := sample(f, path)
	ring, err := keyring.OpenFile(path, nil)
	require.NoError(f, err)
	defer ring.Close()
	f.Add(w)
	f.Add([]byte{1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := ring.Unwrap(context.Background(), b)
		if !bytes.Equal(b, w) {
			require.True(t, errors.Is(err, keyring.ErrCorrupt))
		}
	})
}

// TestMixturesOfOldAndNew puts together each file of a ring from before or after a destruction and a rotation of the root:
// what opens is the whole of one time, and of the two the log's State tells.
func TestMixturesOfOldAndNew(t *testing.T) {
	path := ringPath(t)
	w := sample(t, path)
	old := save(t, path)
	f, err := keyring.OpenFile(path, nil)
	require.NoError(t, err)
	_, err = f.Destroy(t.Context(), "c")
	require.NoError(t, err)
	require.NoError(t, f.RotateRoot(t.Context()))
	recorded := stateOf(t, f)
	require.NoError(t, f.Close())
	present := save(t, path)
	for mix := range 8 {
		set := map[string][]byte{}
		for i, name := range []string{"root", "epoch", "scopes"} {
			set[name] = old[name]
			if mix>>i&1 == 1 {
				set[name] = present[name]
			}
		}
		restore(t, path, set)
		f, err := keyring.OpenFile(path, nil)
		if mix != 0 && mix != 7 {
			require.ErrorIs(t, err, keyring.ErrCorrupt, "%b", mix)
			continue
		}
		require.NoError(t, err)
		_, err = f.Unwrap(t.Context(), w)
		require.Equal(t, mix == 7, errors.Is(err, keyring.ErrDestroyed))
		require.NoError(t, f.Close())
		f, err = keyring.OpenFile(path, &keyring.Options{Expect: recorded})
		var rolled *keyring.RollbackError
		require.Equal(t, mix == 0, errors.As(err, &rolled), "%v", err)
		if err == nil {
			require.NoError(t, f.Close())
		}
	}
}

func FuzzEpochFileUnderARoot(f *testing.F) {
	path, root := filepath.Join(f.TempDir(), "ring"), newMemRoot()
	o := &keyring.Options{Root: root}
	ring, err := keyring.OpenFile(path, o)
	require.NoError(f, err)
	_, wrapped, err := ring.BackupKey(context.Background())
	require.NoError(f, err)
	require.NoError(f, ring.Close())
	epoch, err := os.ReadFile(path + ".epoch")
	require.NoError(f, err)
	f.Add(epoch, wrapped)
	f.Add(epoch[:40], wrapped[:3])
	f.Fuzz(func(t *testing.T, b, w []byte) {
		require.NoError(t, os.WriteFile(path+".epoch", b, 0o600))
		ring, err := keyring.OpenFile(path, o)
		if err == nil {
			require.NoError(t, ring.Close())
			require.True(t, bytes.Equal(epoch, b))
		}
		_, err = keyring.OpenBackupKeyUnder(t.Context(), root, w)
		require.Equal(t, bytes.Equal(wrapped, w), err == nil)
	})
}
