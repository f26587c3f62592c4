package pgp_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

// TestFIPS runs TestUnderFIPS in a process of its own, since GODEBUG=fips140 is read once.
func TestFIPS(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestUnderFIPS$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only", "POSTSEAL_FIPS=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: TestUnderFIPS")
}

func TestUnderFIPS(t *testing.T) {
	if os.Getenv("POSTSEAL_FIPS") == "" {
		t.Skip("run by TestFIPS under GODEBUG=fips140=only")
	}
	secret := securemail.NewSecret(string(fixture(t, "cv25519.key")))
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": secret}})
	key := securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{fixture(t, "cv25519.asc")}}
	_, err := e.Encrypt(t.Context(), job(t, key))
	require.ErrorIs(t, err, encrypt.ErrUnavailable)
	require.ErrorIs(t, err, securemail.ErrNoKey)
	_, err = pgp.ParseKey(fixture(t, "cv25519.asc"))
	require.ErrorIs(t, err, encrypt.ErrUnavailable)
	_, err = pgp.Open(t.Context(), job(t).Message, &pgp.OpenOptions{Keys: []securemail.Secret{secret}})
	require.ErrorIs(t, err, encrypt.ErrUnavailable)
	_, _, err = pgp.GenerateKey("x", address(t, "anna@example.org"))
	require.ErrorIs(t, err, encrypt.ErrUnavailable)
}
