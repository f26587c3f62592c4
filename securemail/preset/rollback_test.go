package preset_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/preset"
)

// TestAnOlderDatabaseDoesNotRun: the copy has forgotten that the mail left, and would send it again.
func TestAnOlderDatabaseDoesNotRun(t *testing.T) {
	peer, so := far(t, true)
	path := filepath.Join(t.TempDir(), "mail.db")
	o := &preset.Options{SMTP: so, Logger: slog.New(slog.DiscardHandler)}
	use := func(do func(*preset.System)) {
		s, err := preset.Open(t.Context(), path, o)
		require.NoError(t, err)
		do(s)
		require.NoError(t, s.Close())
	}
	use(func(s *preset.System) {
		_, err := s.Send(t.Context(), draft())
		require.NoError(t, err)
	})
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	use(func(s *preset.System) {
		_, err := s.RunDue(t.Context())
		require.NoError(t, err)
	})
	require.Len(t, peer.Messages(), 1)

	require.NoError(t, os.WriteFile(path, old, 0o600))
	use(func(s *preset.System) {
		_, err := s.RunDue(t.Context())
		require.ErrorIs(t, err, audit.ErrOldDatabase)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, s.Run(ctx), audit.ErrOldDatabase)
		require.NoError(t, ctx.Err(), "it does not wait")
		_, err = s.Send(t.Context(), draft())
		require.NoError(t, err, "what is accepted waits")
	})
	use(func(s *preset.System) {
		_, err := s.RunDue(t.Context())
		require.ErrorIs(t, err, audit.ErrOldDatabase, "new events take the numbers of those that are lost, and are others")
	})
	require.Len(t, peer.Messages(), 1)

	use(func(s *preset.System) {
		require.NoError(t, s.Ledger.Emit(t.Context(), securemail.Event{
			ID: "restore-1", Kind: audit.KindRestored, Time: time.Now(), By: securemail.Actor{ID: "operator", Kind: "person"},
		}))
		_, err := s.RunDue(t.Context())
		require.NoError(t, err, "it was declared")
	})
	use(func(s *preset.System) {
		_, err := s.RunDue(t.Context())
		require.NoError(t, err)
	})
}
