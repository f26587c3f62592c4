package preset_test

import (
	"bytes"
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/preset"
)

// countdown is a context that ends when it has been asked so many times whether it did.
type countdown struct {
	context.Context
	end  context.CancelFunc
	left atomic.Int64
}

func countFrom(t *testing.T, n int) *countdown {
	ctx, end := context.WithCancel(t.Context())
	t.Cleanup(end)
	c := &countdown{Context: ctx, end: end}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) asked() {
	if c.left.Add(-1) < 0 {
		c.end()
	}
}

// Done implements context.Context.
func (c *countdown) Done() <-chan struct{} { c.asked(); return c.Context.Done() }

// Err implements context.Context.
func (c *countdown) Err() error { c.asked(); return c.Context.Err() }

// TestStoppedAnywhere: a restore, a declaration and a drill that are stopped at any point have happened whole, or can be repeated.
func TestStoppedAnywhere(t *testing.T) {
	m := newMailSystem(t)
	m.send(3)
	m.run()
	m.send(2)
	b := m.backup()
	stopped := 0
	for n := 0; n < 1500; n += 1 + n/4 {
		path := filepath.Join(t.TempDir(), "back.db")
		restore := func(ctx context.Context) error {
			_, err := preset.Restore(ctx, path, bytes.NewReader(b), &preset.RestoreOptions{From: m.from(), LogDir: m.path + ".audit"})
			return err
		}
		if restore(countFrom(t, n)) != nil {
			stopped++
			require.NoError(t, restore(t.Context()))
		}
		if _, err := preset.Declare(countFrom(t, n), path, quiet(m.so), declaration()); err != nil {
			stopped++
			_, err = preset.Declare(t.Context(), path, quiet(m.so), declaration())
			require.True(t, err == nil || err == preset.ErrNothingToDeclare, err)
		}
		if d, err := preset.Drill(countFrom(t, n), path, quiet(nil), &preset.DrillOptions{Dir: t.TempDir()}); err != nil {
			stopped++
		} else {
			require.Empty(t, d.Findings)
		}
		s, err := preset.Open(t.Context(), path, quiet(m.so))
		require.NoError(t, err)
		before := len(m.peer.Messages())
		_, err = s.RunDue(t.Context())
		require.NoError(t, err)
		require.NoError(t, s.Close())
		require.LessOrEqual(t, len(m.peer.Messages())-before, 2, "what had left is not sent again")
	}
	require.Positive(t, stopped)
}
