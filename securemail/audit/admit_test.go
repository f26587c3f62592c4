package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// TestAdmits asks for the newest event that came by way of an Outbox, and for nothing before a declared restore.
func TestAdmits(t *testing.T) {
	errDown := errors.New("database is down")
	numbered := func(id string, seq int64) securemail.Event { e := event(id); e.Seq = seq; return e }
	restored := func(seq int64) securemail.Event {
		e := numbered("restored", seq)
		e.Kind = audit.KindRestored
		return e
	}
	direct := event("direct") // recorded without an Outbox
	long := numbered(strings.Repeat("x", 300), 9)
	for name, c := range map[string]struct {
		events []securemail.Event
		// asked is the number that is looked for, 0 for none; then known, holds and err answer.
		asked        int64
		known, holds bool
		err, want    error
	}{
		"an empty log":             {nil, 0, true, false, nil, nil},
		"the newest is there":      {[]securemail.Event{numbered("a", 1), numbered("b", 2)}, 2, true, true, nil, nil},
		"the newest is not there":  {[]securemail.Event{numbered("a", 1), numbered("b", 2)}, 2, true, false, nil, audit.ErrOldDatabase},
		"nobody can tell":          {[]securemail.Event{numbered("a", 1)}, 1, false, false, nil, nil},
		"the database is down":     {[]securemail.Event{numbered("a", 1)}, 1, false, false, errDown, errDown},
		"behind one without":       {[]securemail.Event{numbered("a", 1), direct}, 1, true, false, nil, audit.ErrOldDatabase},
		"behind one that is long":  {[]securemail.Event{numbered("a", 1), long}, 1, true, true, nil, nil},
		"a restore was declared":   {[]securemail.Event{numbered("a", 7), restored(0)}, 0, true, false, nil, nil},
		"and the database is new":  {[]securemail.Event{numbered("a", 7), restored(3)}, 3, true, true, nil, nil},
		"and then it was old":      {[]securemail.Event{numbered("a", 7), restored(3)}, 3, true, false, nil, audit.ErrOldDatabase},
		"only such without number": {[]securemail.Event{direct}, 0, true, false, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, logDir(t), nil)
			for _, e := range c.events {
				require.NoError(t, l.Emit(t.Context(), e))
			}
			var asked int64
			err := l.Admits(t.Context(), func(_ context.Context, seq int64, _ string) (bool, bool, error) {
				asked = seq
				return c.known, c.holds, c.err
			})
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.asked, asked)
		})
	}
	l := open(t, logDir(t), nil)
	require.NoError(t, l.Emit(t.Context(), numbered("a", 1)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.Admits(ctx, nil), context.Canceled)
}

// TestAdopt: a folder of checkpoint and tiles alone is a log again, and goes on.
func TestAdopt(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	emitFast(t, l, 0, 300)
	require.NoError(t, l.Close())
	key, err := audit.ReadPublicKey(dir + ".key")
	require.NoError(t, err)
	require.Equal(t, l.PublicKey(), key)

	journals, err := filepath.Glob(filepath.Join(dir, "journal-*"))
	require.NoError(t, err)
	for _, j := range journals {
		require.NoError(t, os.Remove(j))
	}
	require.NoError(t, audit.Adopt(dir))
	require.NoError(t, audit.Adopt(dir), "a repeat changes nothing")
	l = open(t, dir, nil)
	emitFast(t, l, 300, 301)
	require.NoError(t, l.Check(t.Context()))
	require.NoError(t, l.Close())
}

func TestAdoptRefuses(t *testing.T) {
	dir := t.TempDir()
	require.ErrorIs(t, audit.Adopt(dir), os.ErrNotExist)
	for _, cp := range []string{"", "origin\n", "origin\nmany\nhash\n", "origin\n-1\nhash\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), []byte(cp), 0o600))
		require.ErrorIs(t, audit.Adopt(dir), audit.ErrCorrupt)
	}
	_, err := audit.ReadPublicKey(filepath.Join(dir, "key"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
