//go:build interop

package timestamp_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/audit/timestamp"
)

// openssl runs the command in dir; the peer is `openssl ts`.
func openssl(t testing.TB, dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, out)
	}
	return out, nil
}

const opensslConfig = `
[tsa]
default_tsa = t
[t]
serial = serial
crypto_device = builtin
signer_cert = tsa.pem
signer_key = tsa.key
certs = ca.pem
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.5.6
digests = sha1, sha256, sha384, sha512
accuracy = secs:1, millisecs:500, microsecs:100
ordering = yes
tsa_name = yes
ess_cert_id_chain = %s
signer_digest = %s
ess_cert_id_alg = %s
`

// opensslTSA makes a CA and a TSA with openssl alone.
func opensslTSA(t testing.TB, newkey []string, config string) (dir string, roots *x509.CertPool) {
	dir = t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("ts.cnf", config)
	write("serial", "01\n")
	write("ext", "keyUsage=critical,digitalSignature\nextendedKeyUsage=critical,timeStamping\n")
	for _, args := range [][]string{
		{"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=TS root", "-keyout", "ca.key", "-out", "ca.pem"},
		append([]string{"req", "-nodes", "-subj", "/CN=TSA", "-keyout", "tsa.key", "-out", "tsa.csr"}, newkey...),
		{"x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "20", "-extfile", "ext", "-out", "tsa.pem"},
	} {
		_, err := openssl(t, dir, args...)
		require.NoError(t, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	roots = x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(b))
	return dir, roots
}

// opensslServer answers queries by `openssl ts -reply`.
func opensslServer(t testing.TB, dir string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if os.WriteFile(filepath.Join(dir, "query"), b, 0o600) != nil {
			return
		}
		if _, err := openssl(t, dir, "ts", "-reply", "-config", "ts.cnf", "-section", "t", "-queryfile", "query", "-out", "reply"); err != nil {
			t.Log(err)
		}
		b, _ = os.ReadFile(filepath.Join(dir, "reply"))
		w.Header().Set("Content-Type", "application/timestamp-reply")
		_, _ = w.Write(b)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestOpenSSLStamps: what `openssl ts` stamps we accept, and it accepts what we stored.
func TestOpenSSLStamps(t *testing.T) {
	rsa2048, p256, p384 := []string{"-newkey", "rsa:2048"}, []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"},
		[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"}
	for name, c := range map[string]struct {
		key                []string
		chain, digest, ess string
	}{
		"rsa sha256":         {rsa2048, "no", "sha256", "sha256"},
		"rsa sha384 chain":   {rsa2048, "yes", "sha384", "sha512"},
		"rsa sha512 by sha1": {rsa2048, "yes", "sha512", "sha1"},
		"ecdsa sha256":       {p256, "no", "sha256", "sha256"},
		"ecdsa sha384":       {p384, "no", "sha384", "sha384"},
		"ecdsa sha512":       {p384, "no", "sha512", "sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, roots := opensslTSA(t, c.key, fmt.Sprintf(opensslConfig, c.chain, c.digest, c.ess))
			s := opensslServer(t, dir)
			for _, o := range []timestamp.Options{{}, {Policy: []int{1, 2, 3, 4, 5, 6}}} {
				token, err := client(t, s.URL, roots, o).Stamp(t.Context(), digest)
				require.NoError(t, err)
				got, err := timestamp.Verify(token, digest, roots)
				require.NoError(t, err)
				require.WithinDuration(t, time.Now(), got.Time, time.Minute)
				require.Equal(t, 1500*time.Millisecond+100*time.Microsecond, got.Accuracy)
				opensslAccepts(t, dir, token, digest, true)
				opensslAccepts(t, dir, token, sha256.Sum256(nil), false)
			}
			_, err := client(t, s.URL, roots, timestamp.Options{Policy: []int{1, 9}}).Stamp(t.Context(), digest)
			require.ErrorContains(t, err, "policy not supported")
		})
	}
}

func opensslAccepts(t testing.TB, dir string, token []byte, digest [32]byte, want bool) {
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), token, 0o600))
	_, err := openssl(t, dir, "ts", "-verify", "-token_in", "-in", "token", "-digest", hex.EncodeToString(digest[:]), "-CAfile", "ca.pem")
	require.Equal(t, want, err == nil, "%v", err)
}

// TestOpenSSLAgrees: our stand-in's tokens, good and bad, are judged alike by `openssl ts -verify`.
func TestOpenSSLAgrees(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600))
	cert := a.certify(t, ecKey(), func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(1, 0, 0) })
	for name, c := range map[string]struct {
		change func(*spec)
		ok     bool
	}{
		"good":            {func(*spec) {}, true},
		"damaged":         {func(s *spec) { s.damage = func(sig []byte) { sig[len(sig)-1] ^= 1 } }, false},
		"another digest":  {func(s *spec) { s.imprint = make([]byte, 32) }, false},
		"two signers":     {func(s *spec) { s.signers = 2 }, false},
		"no certificate":  {func(s *spec) { s.certs = nil }, false},
		"not named":       {func(s *spec) { s.attrs = func(b []byte) [][]byte { return [][]byte{s.typeAttr(), s.digestAttr(b)} } }, false},
		"another TSA":     {func(s *spec) { s.tail = ctxTag(0, ctxTag(4, a.cert.RawSubject)) }, false},
		"the TSA's name":  {func(s *spec) { s.tail = ctxTag(0, ctxTag(4, cert.RawSubject)) }, true},
		"another content": {func(s *spec) { s.kind = oidSigned }, false},
	} {
		s := newSpec(cert, ecKey(), digest)
		c.change(s)
		token := s.token()
		_, err := timestamp.Verify(token, digest, a.roots)
		require.Equal(t, c.ok, err == nil, "%s: %v", name, err)
		opensslAccepts(t, dir, token, digest, c.ok)
	}
}
