package keys_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/securemail"
)

func TestFilePassesTheKit(t *testing.T) {
	encrypttest.RunKeys(t, encrypttest.KeyHarness{New: func(_ context.Context, s encrypttest.KeySetup) (*encrypttest.KeyRig, error) {
		if s.State == encrypttest.KeyPending {
			return nil, fmt.Errorf("a pinned key never waits: %w", errors.ErrUnsupported)
		}
		who := s.Lookup.Address
		if s.State == encrypttest.KeyNone {
			who = s.Other
		}
		dir := folder(t, map[string]string{
			"keys.json": index(fmt.Sprintf(`{"tenant":%q,"address":%q,"method":%q,"file":"1"}`, s.Lookup.Tenant, who.Reveal(), s.Lookup.Method)),
			"1":         string(s.Lookup.Method) + ":aa",
		})
		f, err := keys.File(dir, parsers())
		require.NoError(t, err)
		switch s.State {
		case encrypttest.KeyDead:
			require.NoError(t, os.RemoveAll(dir))
		case encrypttest.KeyDamaged:
			require.NoError(t, os.WriteFile(filepath.Join(dir, "1"), []byte("x"), 0o600))
		}
		return &encrypttest.KeyRig{Source: keys.Chain(f)}, nil
	}})
}

func TestSQLPassesTheKit(t *testing.T) {
	encrypttest.RunKeys(t, encrypttest.KeyHarness{New: func(_ context.Context, s encrypttest.KeySetup) (*encrypttest.KeyRig, error) {
		if s.State == encrypttest.KeyPending {
			return nil, fmt.Errorf("a pinned key never waits: %w", errors.ErrUnsupported)
		}
		db := database(t)
		st := store(t, db, newRing(), nil)
		p := pinned(t, s.Lookup.Tenant, "x@example.org", "aa")
		p.Address, p.Key.Method = s.Lookup.Address, s.Lookup.Method
		if s.State == encrypttest.KeyNone {
			p.Address = s.Other
		}
		require.NoError(t, st.Pin(admin(t, s.Lookup.Tenant), p))
		// another tenant has keys as well, of another address
		p.Tenant, p.Address = "tenant-2", s.Other
		require.NoError(t, st.Pin(admin(t, "tenant-2"), p))
		switch s.State {
		case encrypttest.KeyDead:
			require.NoError(t, db.Close())
		case encrypttest.KeyDamaged:
			_, err := db.Exec("UPDATE keys_pinned SET sealed=x'00'")
			require.NoError(t, err)
		}
		return &encrypttest.KeyRig{Source: securemail.KeySource(st)}, nil
	}})
}
