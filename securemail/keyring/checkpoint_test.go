package keyring_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/keyring"
)

func stateOf(t testing.TB, f *keyring.File) keyring.State {
	t.Helper()
	s, err := f.State(t.Context())
	require.NoError(t, err)
	return s
}

// TestRollbackAcrossARestart puts each older whole set of files back, while nobody has the ring open: the state that was
// recorded outside tells.
func TestRollbackAcrossARestart(t *testing.T) {
	path := ringPath(t)
	steps := []func(f *keyring.File) error{
		func(f *keyring.File) error { _, err := f.Wrap(t.Context(), []byte("k"), "a"); return err },
		func(f *keyring.File) error { _, err := f.Wrap(t.Context(), []byte("k"), "b"); return err },
		func(f *keyring.File) error { _, err := f.Destroy(t.Context(), "a"); return err },
		func(f *keyring.File) error { _, err := f.Wrap(t.Context(), []byte("k"), "c"); return err },
		func(f *keyring.File) error { return f.RotateRoot(t.Context()) },
	}
	var sets []map[string][]byte
	var states []keyring.State
	for i := -1; i < len(steps); i++ {
		f, err := keyring.OpenFile(path, nil)
		require.NoError(t, err)
		if i >= 0 {
			require.NoError(t, steps[i](f))
		}
		states = append(states, stateOf(t, f))
		require.NoError(t, f.Close())
		sets = append(sets, save(t, path))
	}
	for i, set := range sets {
		for j, want := range states {
			restore(t, path, set)
			f, err := keyring.OpenFile(path, &keyring.Options{Expect: want})
			if i >= j {
				require.NoError(t, err, "files %d, recorded %d", i, j)
				require.NoError(t, f.Check(t.Context(), want))
				for _, later := range states[i+1:] {
					var e *keyring.RollbackError
					require.ErrorAs(t, f.Check(t.Context(), later), &e)
				}
				require.NoError(t, f.Close())
				continue
			}
			var e *keyring.RollbackError
			require.ErrorAs(t, err, &e, "files %d, recorded %d", i, j)
			require.Equal(t, keyring.RollbackError{Have: states[i], Want: want}, *e)
			require.ErrorContains(t, err, "Options.Restored")
			require.Equal(t, set, save(t, path), "nothing was changed")
		}
	}
}

// TestFork: two rings that came from one copy have different pasts, though equally long.
func TestFork(t *testing.T) {
	path := ringPath(t)
	sample(t, path)
	set := save(t, path)
	f := open(t, path, nil)
	_, err := f.Wrap(t.Context(), []byte("k"), "x")
	require.NoError(t, err)
	mine := stateOf(t, f)
	other := ringPath(t)
	for name, p := range files(other) {
		require.NoError(t, os.WriteFile(p, set[name], 0o600))
	}
	g := open(t, other, nil)
	for _, scope := range []string{"y", "z"} {
		_, err = g.Wrap(t.Context(), []byte("k"), scope)
		require.NoError(t, err)
		require.ErrorContains(t, g.Check(t.Context(), mine), "another past")
	}
}

func TestDeclaredRestore(t *testing.T) {
	path := ringPath(t)
	f, err := keyring.OpenFile(path, nil)
	require.NoError(t, err)
	old := save(t, path)
	for range 5 {
		require.NoError(t, f.RotateEpoch(t.Context()))
	}
	recorded := stateOf(t, f)
	require.NoError(t, f.Close())
	restore(t, path, old)
	_, err = keyring.OpenFile(path, &keyring.Options{Expect: recorded})
	require.Error(t, err)
	g := open(t, path, &keyring.Options{Expect: recorded, Restored: true})
	require.Greater(t, stateOf(t, g).Epoch, recorded.Epoch, "later states count as newer")
	open(t, path, &keyring.Options{Expect: stateOf(t, g)})
	before := stateOf(t, g)
	open(t, path, &keyring.Options{Expect: before, Restored: true})
	require.Equal(t, before, stateOf(t, g), "where it is not older, Restored does nothing")
}

func TestStateText(t *testing.T) {
	f := open(t, ringPath(t), nil)
	s := stateOf(t, f)
	require.EqualValues(t, 1, s.Epoch)
	require.Regexp(t, `^1\.2\.[-_A-Za-z0-9]{43}$`, s.String())
	got, err := keyring.ParseState(s.String())
	require.NoError(t, err)
	require.Equal(t, s, got)
	for _, bad := range []string{"", "1.2", "1.2.x", "01.2." + s.String()[4:], "+1.2." + s.String()[4:], s.String() + "A", s.String() + ".1"} {
		_, err = keyring.ParseState(bad)
		require.ErrorIs(t, err, keyring.ErrCorrupt, bad)
	}
	require.NoError(t, f.Close())
	_, err = f.State(t.Context())
	require.ErrorIs(t, err, keyring.ErrClosed)
	require.ErrorIs(t, f.Check(t.Context(), s), keyring.ErrClosed)
}

func FuzzParseState(f *testing.F) {
	f.Add("1.2.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := keyring.ParseState(text); err == nil {
			require.Equal(t, text, s.String())
		}
	})
}
