//go:build interop

package pgp_test

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// TestGnuPGReadsEverySample: each sample mail comes out of gpg --decrypt with its subject and its leaves, octet by octet.
func TestGnuPGReadsEverySample(t *testing.T) {
	g := newGPG(t)
	secret, key := pair(t, "anna@example.org")
	signer, signerKey := pair(t, "bob@clinic.example")
	g.run([]byte(secret.Reveal()), "--import")
	g.run(signerKey.Public[0], "--import")
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": signer}})
	samples, err := filepath.Glob("../../examples/testdata/*.eml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(samples), 20)
	for _, name := range samples {
		t.Run(filepath.Base(name), func(t *testing.T) {
			g := &gpg{t, g.home}
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			sample := regexp.MustCompile("\r?\n").ReplaceAllString(string(b), "\r\n")
			for _, field := range []string{"Date: Tue, 24 Nov 2026 10:00:00 +0000", "Message-ID: <sample@clinic.example>"} {
				word, _, _ := strings.Cut(field, " ")
				if !regexp.MustCompile("(?im)^" + word).MatchString(sample) {
					sample = field + "\r\n" + sample // as the Mailer does
				}
			}
			j := job(t, key)
			j.Parcel = parcel(t, sample)
			s, err := e.Encrypt(t.Context(), j)
			require.NoError(t, err)
			version, armored := rfc3156(t, s.Message)
			require.Equal(t, "Version: 1\r\n", version)
			plain, status := g.run([]byte(armored), "--decrypt")
			require.Contains(t, status, "[GNUPG:] GOODSIG")
			require.Contains(t, status, "[GNUPG:] GOODMDC")
			require.Contains(t, string(plain), "protected-headers=\"v1\"")
			back, err := encrypt.Restore(securemail.Bytes(plain))
			require.NoError(t, err)
			require.Equal(t, text(t, j.Message.Body()), text(t, back.Body()))
			for _, field := range []string{"Subject", "From", "To", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition"} {
				require.Equal(t, j.Message.Header(field), back.Header(field), field)
			}
			require.Equal(t, leaves(t, j.Message.Header("Content-Type"), text(t, j.Message.Body())), payloadLeaves(t, plain))
		})
	}
}

// rfc3156 takes a message apart as RFC 3156 section 4 has it: two parts, 7bit, lines of armor that everybody reads.
func rfc3156(t *testing.T, m *securemail.Message) (version, armored string) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(m.Header("Content-Type")[0])
	require.NoError(t, err)
	require.Equal(t, "multipart/encrypted", kind)
	require.Equal(t, "application/pgp-encrypted", params["protocol"])
	require.Equal(t, []string{"7bit"}, m.Header("Content-Transfer-Encoding"))
	body := text(t, m.Body())
	for line := range strings.SplitSeq(body, "\r\n") {
		require.LessOrEqual(t, len(line), 76)
		require.NotRegexp(t, "[^ -~\t]", line)
	}
	r := multipart.NewReader(strings.NewReader(body), params["boundary"])
	var parts []string
	for i, want := range []string{"application/pgp-encrypted", "application/octet-stream"} {
		p, err := r.NextRawPart()
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(p.Header.Get("Content-Type"), want), i)
		b, err := io.ReadAll(p)
		require.NoError(t, err)
		parts = append(parts, string(b))
	}
	_, err = r.NextRawPart()
	require.ErrorIs(t, err, io.EOF)
	return parts[0], parts[1]
}

// payloadLeaves are those behind the one wrapper that a payload may have.
func payloadLeaves(t *testing.T, plain []byte) []string {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes(plain))
	require.NoError(t, err)
	return leaves(t, m.Header("Content-Type"), text(t, m.Body()))
}

// leaves are the raw octets of every part that is no multipart, by a reader that is not ours.
func leaves(t *testing.T, contentType []string, body string) []string {
	t.Helper()
	if len(contentType) == 0 {
		return []string{body}
	}
	kind, params, err := mime.ParseMediaType(contentType[0])
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		return []string{body}
	}
	var all []string
	r := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		b, err := io.ReadAll(p)
		require.NoError(t, err)
		all = append(all, leaves(t, p.Header["Content-Type"], string(b))...)
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
