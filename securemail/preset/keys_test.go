package preset_test

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/preset"
)

// TestDestructionIsRecorded: a scope key that goes is an entry before and after, and the ring is sealed anew in the window.
func TestDestructionIsRecorded(t *testing.T) {
	t.Setenv("RING_ROOT", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	c := &clock{t: time.Now()}
	s, err := preset.Open(t.Context(), filepath.Join(t.TempDir(), "mail.db"), &preset.Options{
		Root: keyring.EnvRoot("RING_ROOT"), Logger: slog.New(slog.DiscardHandler), Now: c.now,
	})
	require.NoError(t, err)
	defer s.Close()
	wrapped, err := s.KeyRing.Wrap(t.Context(), []byte("key"), "subject/anna")
	require.NoError(t, err)
	d, err := s.KeyRing.Destroy(t.Context(), "subject/anna")
	require.NoError(t, err)
	require.WithinRange(t, d.EpochRetires, c.now(), c.now().Add(24*time.Hour))
	_, err = s.KeyRing.Unwrap(t.Context(), wrapped)
	require.ErrorIs(t, err, keyring.ErrDestroyed)

	events, err := s.Queue.Next(t.Context(), "test", 10)
	require.NoError(t, err)
	n := 0
	for _, e := range events {
		if e.Kind != keyring.EventKind {
			continue
		}
		n++
		_, err := s.RunDue(t.Context())
		require.NoError(t, err)
		_, err = s.Ledger.Prove(t.Context(), e.ID)
		require.NoError(t, err)
	}
	require.Equal(t, 2, n)

	before, err := s.KeyRing.State(t.Context())
	require.NoError(t, err)
	c.add(23 * time.Hour)
	require.NoError(t, s.Upkeep(t.Context()))
	after, err := s.KeyRing.State(t.Context())
	require.NoError(t, err)
	require.Greater(t, after.Epoch, before.Epoch)
}

func TestDestroyWindowIsChecked(t *testing.T) {
	_, err := preset.Open(t.Context(), filepath.Join(t.TempDir(), "mail.db"), &preset.Options{DestroyWindow: time.Minute})
	require.ErrorContains(t, err, "DestroyWindow")
}
