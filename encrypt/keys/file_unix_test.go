//go:build unix

package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/securemail"
)

// TestFileRefusesWhatOthersCouldHavePutThere: links out of the folder, pipes, and files that everybody may write.
func TestFileRefusesWhatOthersCouldHavePutThere(t *testing.T) {
	for name, edit := range map[string]func(key, index string) error{
		"link out": func(key, _ string) error {
			outside := filepath.Join(t.TempDir(), "k")
			return errors.Join(os.WriteFile(outside, []byte("pgp:aa"), 0o600), os.Remove(key), os.Symlink(outside, key))
		},
		"pipe":            func(key, _ string) error { return errors.Join(os.Remove(key), syscall.Mkfifo(key, 0o600)) },
		"writable key":    func(key, _ string) error { return os.Chmod(key, 0o666) },
		"writable index":  func(_, index string) error { return os.Chmod(index, 0o606) },
		"writable folder": func(key, _ string) error { return os.Chmod(filepath.Dir(key), 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, map[string]string{"keys.json": index(anna), "1": "pgp:aa"})
			early, err := keys.File(dir, parsers())
			require.NoError(t, err)
			require.NoError(t, edit(filepath.Join(dir, "1"), filepath.Join(dir, "keys.json")))
			_, err = keys.File(dir, parsers())
			require.Error(t, err)
			require.NotErrorIs(t, err, securemail.ErrNoKey)
			_, err = early.Keys(t.Context(), lookup(t, "", "anna@example.org"))
			require.Error(t, err)
			require.NotErrorIs(t, err, securemail.ErrNoKey)
			require.NotContains(t, err.Error(), dir)
		})
	}
	t.Run("folder with the sticky bit", func(t *testing.T) {
		dir := folder(t, map[string]string{"keys.json": index(anna), "1": "pgp:aa"})
		require.NoError(t, os.Chmod(dir, 0o777|os.ModeSticky))
		_, err := keys.File(dir, parsers())
		require.NoError(t, err)
	})
	t.Run("link inside", func(t *testing.T) { // as a mounted Kubernetes secret has it
		dir := folder(t, map[string]string{"keys.json": index(anna), "2": "pgp:aa"})
		require.NoError(t, os.Symlink("2", filepath.Join(dir, "1")))
		_, err := keys.File(dir, parsers())
		require.NoError(t, err)
	})
}
