package preset_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/preset"
)

// TestAnOlderRingBringsNothingBack: its files were put back as they were before a destruction.
func TestAnOlderRingBringsNothingBack(t *testing.T) {
	for name, told := range map[string]bool{"the log knows": true, "only the outbox knows": false} {
		t.Run(name, func(t *testing.T) {
			_, so := far(t, true)
			path := filepath.Join(t.TempDir(), "mail.db")
			use := func(do func(*preset.System)) {
				s, err := preset.Open(t.Context(), path, quiet(so))
				require.NoError(t, err)
				do(s)
				require.NoError(t, s.Close())
			}
			var wrapped, kept []byte
			use(func(s *preset.System) {
				_, err := s.Send(t.Context(), draft()) // so that the tenant's scope is in the copy: what lacks it can't be read
				require.NoError(t, err)
				wrapped, err = s.KeyRing.Wrap(t.Context(), []byte("key"), "subject/anna")
				require.NoError(t, err)
				kept, err = s.KeyRing.Wrap(t.Context(), []byte("key"), "subject/ben")
				require.NoError(t, err)
			})
			old := map[string][]byte{}
			for _, end := range []string{".key", ".key.epoch", ".key.scopes"} {
				b, err := os.ReadFile(path + end)
				require.NoError(t, err)
				old[end] = b
			}
			use(func(s *preset.System) {
				_, err := s.KeyRing.Destroy(t.Context(), "subject/anna")
				require.NoError(t, err)
				require.NoError(t, s.KeyRing.RotateEpoch(t.Context()))
				if told {
					_, err = s.RunDue(t.Context())
					require.NoError(t, err)
				}
			})
			use(func(*preset.System) {}) // as it should be
			for end, b := range old {
				require.NoError(t, os.WriteFile(path+end, b, 0o600))
			}
			for range 2 { // however often
				_, err := preset.Open(t.Context(), path, quiet(so))
				_, older := errors.AsType[*keyring.RollbackError](err)
				require.True(t, older, "%v", err)
			}
			d, err := preset.Declare(t.Context(), path, quiet(so), declaration())
			require.NoError(t, err)
			require.Equal(t, 1, d.Destroyed)
			use(func(s *preset.System) {
				_, err := s.RunDue(t.Context())
				require.NoError(t, err)
				_, err = s.KeyRing.Unwrap(t.Context(), wrapped)
				require.ErrorIs(t, err, keyring.ErrDestroyed)
				_, err = s.KeyRing.Unwrap(t.Context(), kept)
				require.NoError(t, err)
				_, err = s.KeyRing.Destroy(t.Context(), "subject/ben")
				require.NoError(t, err)
			})
			use(func(s *preset.System) {
				_, err := s.KeyRing.Unwrap(t.Context(), kept)
				require.ErrorIs(t, err, keyring.ErrDestroyed)
			})
			_, err = preset.Declare(t.Context(), path, quiet(so), declaration())
			require.ErrorIs(t, err, preset.ErrNothingToDeclare)
		})
	}
}
