//go:build interop

package pgp_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

// gpg runs GnuPG in a home of its own and gives its output and its status lines.
type gpg struct {
	t    *testing.T
	home string
}

func newGPG(t *testing.T) *gpg {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("SKIPPED: no gpg on this machine; apt-get install gnupg")
	}
	home, err := os.MkdirTemp("", "gpg") // short: the agent's socket has a limit of 107 octets
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	return &gpg{t, home}
}

func (g *gpg) run(in []byte, args ...string) (out []byte, status string) {
	g.t.Helper()
	file := filepath.Join(g.home, "status")
	cmd := exec.CommandContext(g.t.Context(), "gpg", append([]string{"--homedir", g.home, "--batch", "--yes", "--no-tty",
		"--trust-model", "always", "--status-file", file, "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(g.t, err, stderr.String())
	b, err := os.ReadFile(file)
	require.NoError(g.t, err)
	return out, string(b)
}

func TestGnuPGReadsOurs(t *testing.T) {
	for _, name := range []string{"generated", "cv25519", "rsa", "p256"} {
		t.Run(name, func(t *testing.T) {
			g := newGPG(t)
			var secret securemail.Secret
			var key securemail.Key
			if name == "generated" {
				secret, key = pair(t, "anna@example.org")
			} else {
				var err error
				secret = securemail.NewSecret(string(fixture(t, name+".key")))
				key, err = pgp.ParseKey(fixture(t, name+".asc"))
				require.NoError(t, err)
			}
			signer, signerKey := pair(t, "bob@clinic.example")
			g.run([]byte(secret.Reveal()), "--import")
			g.run(signerKey.Public[0], "--import")
			e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": signer}})
			j := job(t, key)
			j.Parcel = parcel(t, original+strings.Repeat("line of text\r\n", 50000))
			s, err := e.Encrypt(t.Context(), j)
			require.NoError(t, err)
			// a mail program hands gpg the second part
			wire := text(t, s.Message)
			armored := wire[strings.Index(wire, "-----BEGIN PGP"):strings.LastIndex(wire, "\r\n--=_pgp_")]
			plain, status := g.run([]byte(armored), "--decrypt")
			back, err := encrypt.Restore(securemail.Bytes(plain))
			require.NoError(t, err)
			require.Equal(t, text(t, j.Message.Body()), text(t, back.Body()))
			require.Equal(t, []string{"Befund zebra-canary"}, back.Header("Subject"))
			require.Contains(t, status, "[GNUPG:] GOODSIG")
			require.Contains(t, status, "[GNUPG:] VALIDSIG "+strings.ToUpper(signerKey.Fingerprint))
			require.Contains(t, status, "[GNUPG:] GOODMDC")
			require.Contains(t, status, "[GNUPG:] DECRYPTION_INFO 2 9") // with MDC, AES-256
			require.NotContains(t, status, "WARNING")
		})
	}
}

func TestWeReadGnuPGs(t *testing.T) {
	const payload = "Content-Type: text/plain\r\nSubject: reply\r\n\r\nAnswer\r\n"
	for _, args := range [][]string{nil, {"--compress-algo", "none"}, {"--compress-algo", "bzip2"}, {"--throw-keyids"}, {"--cipher-algo", "AES128"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			g := newGPG(t)
			secret, key := pair(t, "clinic@example.org")
			g.run(key.Public[0], "--import")
			g.run(nil, "--quick-gen-key", "Anna <anna@example.org>", "ed25519", "sign", "0")
			cert, _ := g.run(nil, "--export", "--armor", "anna@example.org")
			// a certificate that only signs is no recipient's key, yet it may be a signer
			_, err := pgp.ParseKey(cert)
			require.ErrorIs(t, err, securemail.ErrNoKey)
			raw, _ := g.run(nil, "--export", "anna@example.org")
			signer := securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{raw}}

			sealed, _ := g.run([]byte(payload), append(append([]string{}, args...), "--armor", "--sign", "--encrypt",
				"--local-user", "anna@example.org", "--recipient", "clinic@example.org")...)
			mail := "From: anna@example.org\r\nContent-Type: multipart/encrypted; boundary=x; protocol=\"application/pgp-encrypted\"\r\n\r\n" +
				"--x\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n\r\n--x\r\nContent-Type: application/octet-stream\r\n\r\n" +
				strings.ReplaceAll(string(sealed), "\n", "\r\n") + "\r\n--x--\r\n"
			r, err := pgp.Open(t.Context(), message(t, mail), &pgp.OpenOptions{
				Keys: []securemail.Secret{secret}, Signers: []securemail.Key{signer},
			})
			require.NoError(t, err)
			require.Equal(t, payload, text(t, r.Payload))
			require.Equal(t, pgp.SignatureGood, r.Authenticity)
			r, err = pgp.Open(t.Context(), message(t, mail), &pgp.OpenOptions{Keys: []securemail.Secret{secret}})
			require.NoError(t, err)
			require.Equal(t, pgp.SignerUnknown, r.Authenticity)
		})
	}
}
