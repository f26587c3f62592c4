package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// numbered is an event that came by way of an Outbox.
func numbered(id string, seq int64) securemail.Event {
	e := event(id)
	e.Seq = seq
	return e
}

// outbox answers as one would that has the events of these numbers; purged ones it can't tell of.
func outbox(has map[int64]string, purged int64) func(context.Context, int64, string) (bool, bool, error) {
	return func(_ context.Context, seq int64, id string) (known, holds bool, err error) {
		if seq <= purged {
			return false, false, nil
		}
		return true, has[seq] == id, nil
	}
}

// The log says it after a restart too, from tiles and from the journal, and a declared restore ends it.
func TestAdmitsAfterRestartAndRestore(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	for i := int64(1); i <= 300; i++ {
		require.NoError(t, l.Emit(t.Context(), numbered(fmt.Sprint("e", i), i)))
	}
	require.NoError(t, l.Close())
	l = open(t, dir, nil)
	old := outbox(map[int64]string{299: "e299"}, 0)
	require.ErrorIs(t, l.Admits(t.Context(), old), audit.ErrOldDatabase)

	restored := event("restore")
	restored.Kind = audit.KindRestored
	require.NoError(t, l.Emit(t.Context(), restored))
	require.NoError(t, l.Admits(t.Context(), old), "declared")
	require.NoError(t, l.Emit(t.Context(), numbered("after", 300)))
	require.ErrorIs(t, l.Admits(t.Context(), old), audit.ErrOldDatabase, "the next rollback is noticed again")
}

// An event of that kind which the Outbox numbered declares nothing.
func TestAdmitsTakesNoNumberedEventForADeclaration(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := numbered("r", 5)
	e.Kind = audit.KindRestored
	require.NoError(t, l.Emit(t.Context(), e))
	require.ErrorIs(t, l.Admits(t.Context(), outbox(nil, 0)), audit.ErrOldDatabase)
}

// A question that can't be answered is no leave to run.
func TestAdmitsFailsClosedOnDamage(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	require.NoError(t, l.Emit(t.Context(), numbered("a", 1)))
	failed := errors.New("no database")
	err := l.Admits(t.Context(), func(context.Context, int64, string) (bool, bool, error) { return true, true, failed })
	require.ErrorIs(t, err, failed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.Admits(ctx, outbox(map[int64]string{1: "a"}, 0)), context.Canceled)

	for i := range 300 {
		require.NoError(t, l.Emit(t.Context(), event(fmt.Sprint("x", i))))
	}
	require.NoError(t, l.Publish(t.Context()))
	require.NoError(t, os.Remove(filepath.Join(dir, "tile", "entries", "000")))
	require.ErrorIs(t, l.Admits(t.Context(), outbox(nil, 0)), audit.ErrCorrupt)
}

// published copies what a log publishes, checkpoint and tiles, to a new folder, and its key beside it.
func published(t *testing.T, from string) (to string) {
	t.Helper()
	to = logDir(t)
	require.NoError(t, os.MkdirAll(to, 0o700))
	require.NoError(t, os.CopyFS(filepath.Join(to, "tile"), os.DirFS(filepath.Join(from, "tile"))))
	for src, dst := range map[string]string{filepath.Join(from, "checkpoint"): filepath.Join(to, "checkpoint"), from + ".key": to + ".key"} {
		b, err := os.ReadFile(src)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dst, b, 0o600))
	}
	return to
}

func TestAdoptWhatALogPublishes(t *testing.T) {
	from := logDir(t)
	l := open(t, from, nil)
	emitFast(t, l, 0, 300)
	require.NoError(t, l.Publish(t.Context()))
	to := published(t, from)
	_, err := audit.Open(t.Context(), to, nil)
	require.ErrorIs(t, err, audit.ErrCorrupt, "a journal that is not there may have held entries")
	for range 2 {
		require.NoError(t, audit.Adopt(to))
	}
	copied := open(t, to, nil)
	require.NoError(t, copied.Extends(t.Context(), l.Checkpoint()))
	emit(t, copied, 299, 302)
	require.NoError(t, copied.Publish(t.Context()))
	require.Contains(t, string(copied.Checkpoint()), "\n302\n", "it goes on, and knows what it has")
	require.NoError(t, copied.Check(t.Context()))
}

// Adopt must not make away with entries that wait, nor pass what is no checkpoint.
func TestAdoptChangesNoLog(t *testing.T) {
	dir := logDir(t)
	require.Error(t, audit.Adopt(dir), "no folder")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.Error(t, audit.Adopt(dir), "no checkpoint")
	for _, b := range []string{"", "origin\n1", "origin\nx\nhash\n", "origin\n-1\nhash\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), []byte(b), 0o600))
		require.Error(t, audit.Adopt(dir), "%q", b)
	}
	files, err := filepath.Glob(filepath.Join(dir, "journal-*"))
	require.NoError(t, err)
	require.Empty(t, files)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("origin\n5\nhash\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "journal-3"), []byte("waiting"), 0o600))
	require.NoError(t, audit.Adopt(dir))
	require.NoFileExists(t, filepath.Join(dir, "journal-5"))
}
