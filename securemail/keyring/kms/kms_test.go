package kms_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/keyring/kms"
)

func TestWrapAndUnwrap(t *testing.T) {
	for _, s := range services(t) {
		r, err := s.make(nil)
		require.NoError(t, err, s.name)
		key := seal.NewKey()
		w, err := r.Wrap(t.Context(), key)
		require.NoError(t, err, s.name)
		s.peer.rotate(false)
		got, err := r.Unwrap(t.Context(), w)
		require.NoError(t, err, s.name)
		require.Equal(t, key, got)

		other, err := s.other()
		require.NoError(t, err)
		_, err = other.Unwrap(t.Context(), w)
		require.ErrorIs(t, err, keyring.ErrCorrupt, "%s: another context", s.name)
		for i := range w {
			bad := bytes.Clone(w)
			bad[i] ^= 1 << (i % 7)
			_, err := r.Unwrap(t.Context(), bad)
			require.Error(t, err, "%s %d", s.name, i)
			require.NotErrorIs(t, err, keyring.ErrUnavailable)
		}
		for _, bad := range [][]byte{nil, {}, w[:len(w)-1], []byte("vault:v1:"), []byte("vault:vx:AAAA"), []byte("vault:v1:a b")} {
			_, err := r.Unwrap(t.Context(), bad)
			require.Error(t, err, s.name)
		}
		s.peer.rotate(true)
		w, err = r.Wrap(t.Context(), key)
		require.NoError(t, err)
		s.peer.rotate(true)
		_, err = r.Unwrap(t.Context(), w)
		require.ErrorIs(t, err, keyring.ErrLost, "%s: its version is disabled", s.name)
	}
}

// TestRing runs a ring under each service: through an outage, a rotation of the service's key, and to the next service.
func TestRing(t *testing.T) {
	all := services(t)
	path := filepath.Join(t.TempDir(), "ring")
	first, err := all[0].make(nil)
	require.NoError(t, err)
	f, err := keyring.OpenFile(path, &keyring.Options{Root: first})
	require.NoError(t, err)
	defer f.Close()
	w, err := f.Wrap(t.Context(), []byte("k"), "a")
	require.NoError(t, err)
	for i, s := range all {
		r, err := s.make(func(o *kms.Options) { o.Tries = 1 })
		require.NoError(t, err)
		require.NoError(t, f.MoveRoot(t.Context(), r), s.name)
		s.peer.rotate(false)
		require.NoError(t, f.RotateRoot(t.Context()))
		s.peer.mu.Lock()
		s.peer.disabled[0] = true
		s.peer.mu.Unlock()
		g, err := keyring.OpenFile(path, &keyring.Options{Root: r})
		require.NoError(t, err, s.name)
		got, err := g.Unwrap(t.Context(), w)
		require.NoError(t, err)
		require.Equal(t, []byte("k"), got)

		s.peer.will(answer{status: 503})
		_, err = keyring.OpenFile(path, &keyring.Options{Root: r})
		require.ErrorIs(t, err, keyring.ErrUnavailable, s.name)
		_, err = g.Destroy(t.Context(), string(rune('m'+i)))
		require.NoError(t, err, "an open ring goes on")
		require.NoError(t, g.Close())
	}
}

// TestAnswers: what each documented fault is to a caller, and that only what may pass is tried again.
func TestAnswers(t *testing.T) {
	const tries = 3
	vault := func(text string) string { return `{"errors":["` + text + `"]}` }
	aws := func(code string) string { return `{"__type":"` + code + `","message":"CANARY-text"}` }
	gcp := func(code string) string {
		return `{"error":{"code":1,"message":"CANARY-text","status":"` + code + `"}}`
	}
	un, denied, lost, corrupt := keyring.ErrUnavailable, keyring.ErrDenied, keyring.ErrLost, keyring.ErrCorrupt
	cases := map[string][]struct {
		status int
		body   string
		want   error
	}{
		"vault": {
			{403, vault("permission denied"), denied}, {404, vault(""), lost}, {429, "", un}, {500, vault("internal"), un}, {502, "<html>", un},
			{503, vault("Vault is sealed"), un}, {412, "", un}, {307, "", un}, {204, "", un}, {400, vault("encryption key not found"), lost},
			{400, vault("invalid ciphertext: no prefix"), corrupt}, {500, vault("cipher: message authentication failed"), corrupt},
		},
		"aws": {
			{400, aws("DisabledException"), lost}, {400, aws("KMSInvalidStateException"), lost}, {400, aws("NotFoundException"), lost},
			{400, aws("AccessDeniedException"), denied}, {400, aws("ExpiredTokenException"), denied}, {403, "", denied},
			{400, aws("ThrottlingException"), un}, {500, aws("KMSInternalException"), un}, {500, aws("KeyUnavailableException"), un},
			{503, aws("DependencyTimeoutException"), un}, {400, aws("IncorrectKeyException"), corrupt}, {400, aws("com.amazonaws.kms#InvalidCiphertextException"), corrupt},
			{400, aws("ValidationException"), nil}, {500, "not JSON", un},
		},
		"gcp": {
			{400, gcp("FAILED_PRECONDITION"), lost}, {404, gcp("NOT_FOUND"), lost}, {403, gcp("PERMISSION_DENIED"), denied},
			{401, gcp("UNAUTHENTICATED"), denied}, {429, gcp("RESOURCE_EXHAUSTED"), un}, {503, gcp("UNAVAILABLE"), un}, {500, gcp("INTERNAL"), un},
			{400, gcp("INVALID_ARGUMENT"), corrupt}, {502, "bad gateway", un}, {418, "", nil},
		},
	}
	for _, s := range services(t) {
		r, err := s.make(func(o *kms.Options) { o.Tries = tries })
		require.NoError(t, err)
		w, err := r.Wrap(t.Context(), seal.NewKey())
		require.NoError(t, err)
		for _, c := range cases[s.name] {
			a := answer{status: c.status, body: c.body}
			s.peer.will(a, a, a, a)
			_, err := r.Unwrap(t.Context(), w)
			var e *kms.Error
			require.ErrorAs(t, err, &e, "%s %v", s.name, c)
			require.Equal(t, c.status, e.Status)
			for _, kind := range []error{un, denied, lost, corrupt} {
				require.Equal(t, kind == c.want, errors.Is(err, kind), "%s %v: %v", s.name, c, err)
			}
			require.NotContains(t, err.Error(), "CANARY")
			want := 1
			if c.want == un {
				want = tries
			}
			require.Equal(t, want, s.peer.count(), "%s %v", s.name, c)
		}
		s.peer.will(answer{status: 400, body: cases[s.name][0].body[:1] + `"__type":"ValidationException","error":{"status":"INVALID_ARGUMENT"}}`})
		_, err = r.Wrap(t.Context(), seal.NewKey())
		require.Error(t, err)
		require.NotErrorIs(t, err, corrupt, "nothing stored is damaged when a request to seal is wrong")
		s.peer.will(answer{status: 503}, answer{status: 429})
		_, err = r.Unwrap(t.Context(), w)
		require.NoError(t, err, "%s: it came back", s.name)
		require.Equal(t, 3, s.peer.count())
	}
}

func TestHeaderNamesTheFault(t *testing.T) {
	s := services(t)[1]
	r, err := s.make(nil)
	require.NoError(t, err)
	s.peer.will(answer{status: 400, header: http.Header{"X-Amzn-Errortype": {"DisabledException:http://internal.amazon.com/"}}})
	_, err = r.Wrap(t.Context(), seal.NewKey())
	require.ErrorIs(t, err, keyring.ErrLost)
	require.EqualError(t, err, "kms: aws: encrypt: HTTP 400 DisabledException: keyring: a key is missing")
	s.peer.will(answer{status: 400, header: http.Header{"X-Amzn-Errortype": {"two words"}}})
	_, err = r.Wrap(t.Context(), seal.NewKey())
	require.EqualError(t, err, "kms: aws: encrypt: HTTP 400", "what is no code is not shown")
}

// TestDamagedAnswers: an answer 200 that is not what it must be is never taken for a key.
func TestDamagedAnswers(t *testing.T) {
	for _, s := range services(t) {
		r, err := s.make(func(o *kms.Options) { o.Tries = 2 })
		require.NoError(t, err)
		key := seal.NewKey()
		w, err := r.Wrap(t.Context(), key)
		require.NoError(t, err)
		for _, body := range []string{"", "{}", "null", "[]", `{"data":{}}`, `{"data":{"ciphertext":"x"}}`, `{"ciphertext":"AA=="}`, strings.Repeat("x", 70<<10)} {
			for _, do := range []func() ([]byte, error){
				func() ([]byte, error) { return r.Wrap(t.Context(), key) }, func() ([]byte, error) { return r.Unwrap(t.Context(), w) },
			} {
				a := answer{status: 200, body: body}
				s.peer.will(a, a)
				got, err := do()
				require.ErrorIs(t, err, keyring.ErrUnavailable, "%s %.20q", s.name, body)
				require.Nil(t, got)
				require.Equal(t, 2, s.peer.count())
			}
		}
	}
}

func TestChecksumsBothWays(t *testing.T) {
	s := services(t)[2]
	r, err := s.make(func(o *kms.Options) { o.Tries = 2 })
	require.NoError(t, err)
	w, err := r.Wrap(t.Context(), seal.NewKey())
	require.NoError(t, err)
	for name, spoil := range map[string]func(map[string]any){
		"ciphertext": func(m map[string]any) { m["ciphertextCrc32c"] = "1" },
		"plaintext":  func(m map[string]any) { m["verifiedPlaintextCrc32c"] = false },
		"aad":        func(m map[string]any) { m["verifiedAdditionalAuthenticatedDataCrc32c"] = false },
		"none":       func(m map[string]any) { delete(m, "ciphertextCrc32c") },
	} {
		s.peer.spoil = spoil
		_, err = r.Wrap(t.Context(), seal.NewKey())
		require.ErrorIs(t, err, keyring.ErrUnavailable, name)
	}
	for name, spoil := range map[string]func(map[string]any){
		"plaintext": func(m map[string]any) { m["plaintextCrc32c"] = "1" },
		"none":      func(m map[string]any) { delete(m, "plaintextCrc32c") },
		"changed":   func(m map[string]any) { m["plaintext"] = seal.NewKey() },
	} {
		s.peer.spoil = spoil
		_, err = r.Unwrap(t.Context(), w)
		require.ErrorIs(t, err, keyring.ErrUnavailable, name)
	}
	s.peer.spoil = nil
	_, err = r.Unwrap(t.Context(), w)
	require.NoError(t, err)
}

// TestSigV4 is the example of the AWS General Reference, "Signature Version 4 signing process", tasks 1 to 4.
func TestSigV4(t *testing.T) {
	const body = "Action=ListUsers&Version=2010-05-08"
	r := request(t, "http://iam.amazonaws.com/", map[string]string{"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, body)
	now := time.Date(2011, 9, 9, 23, 36, 0, 0, time.UTC)
	cred := kms.Credential{AccessKeyID: awsID, SecretAccessKey: awsSecret}
	kms.SignV4(r, []byte(body), cred, "us-east-1", "iam", now)
	require.Equal(t, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20110909/us-east-1/iam/aws4_request, "+
		"SignedHeaders=content-type;host;x-amz-date, Signature=ced6826de92d2bdeed8f846f0bf508e8559e98e4b0199114b84c54174deb456c",
		r.Header.Get("Authorization"))
	require.NoError(t, checkV4(r, []byte(body), awsSecret, "us-east-1", "iam", now), "the stand-in agrees with the document too")
	require.Error(t, checkV4(r, []byte(body+"x"), awsSecret, "us-east-1", "iam", now))
	require.Error(t, checkV4(r, []byte(body), awsSecret+"x", "us-east-1", "iam", now))
	require.Error(t, checkV4(r, []byte(body), awsSecret, "us-east-1", "iam", now.Add(time.Hour)))
}

func TestWrongCredentials(t *testing.T) {
	all := services(t)
	key := seal.NewKey()
	canary := errors.New("no metadata service")
	for _, bad := range []struct {
		text string
		err  error
	}{{"", nil}, {"two words", nil}, {"line\nbreak", nil}, {"wrong", nil}, {"", canary}} {
		tok := func(context.Context) (string, error) { return bad.text, bad.err }
		v, err := kms.NewVault(all[0].peer.url, "k", tok, &kms.VaultOptions{Options: all[0].peer.options()})
		require.NoError(t, err)
		g, err := kms.NewGCP(gcpKey, tok, &kms.GCPOptions{Options: all[2].peer.options()})
		require.NoError(t, err)
		a, err := kms.NewAWS("eu-central-1", awsKey, func(context.Context) (kms.Credential, error) {
			return kms.Credential{AccessKeyID: bad.text, SecretAccessKey: bad.text}, bad.err
		}, &kms.AWSOptions{Options: all[1].peer.options()})
		require.NoError(t, err)
		for _, r := range []keyring.Root{v, g, a} {
			_, err = r.Wrap(t.Context(), key)
			if bad.err != nil {
				require.ErrorIs(t, err, canary)
				continue
			}
			require.ErrorIs(t, err, keyring.ErrDenied, "%T %q", r, bad.text)
			if bad.text != "" {
				require.NotContains(t, err.Error(), bad.text)
			}
		}
	}
}

func TestNoAnswer(t *testing.T) {
	dead := httptest.NewTLSServer(http.NotFoundHandler())
	client := dead.Client()
	dead.Close()
	for _, s := range services(t) {
		r, err := s.make(func(o *kms.Options) { o.Endpoint, o.Client, o.Tries = dead.URL, client, 2 })
		require.NoError(t, err)
		_, err = r.Wrap(t.Context(), seal.NewKey())
		require.ErrorIs(t, err, keyring.ErrUnavailable)
		require.NotContains(t, err.Error(), "/v1/")

		// A certificate that nobody vouches for.
		r, err = s.make(func(o *kms.Options) { o.Client, o.Tries = &http.Client{Transport: &http.Transport{}}, 1 })
		require.NoError(t, err)
		_, err = r.Wrap(t.Context(), seal.NewKey())
		require.ErrorIs(t, err, keyring.ErrUnavailable)
		_, ok := errors.AsType[x509.UnknownAuthorityError](err)
		require.True(t, ok, "%v", err)
	}
}

func TestSlowService(t *testing.T) {
	release := make(chan struct{})
	slow := newPeer(t, func(_ *peer, _ http.ResponseWriter, r *http.Request, _ []byte) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	o := slow.options()
	o.Tries, o.Timeout = 2, 20*time.Millisecond
	r, err := kms.NewGCP(gcpKey, token, &kms.GCPOptions{Options: o})
	require.NoError(t, err)
	_, err = r.Wrap(t.Context(), seal.NewKey())
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	o.Tries, o.Timeout, o.Pause = 100, time.Millisecond, time.Hour
	r, err = kms.NewGCP(gcpKey, token, &kms.GCPOptions{Options: o})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = r.Wrap(ctx, seal.NewKey())
	require.ErrorIs(t, err, keyring.ErrUnavailable, "the pause ends with the caller's context")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestRedirectsAreNotFollowed: a redirect would carry the token to whoever is there.
func TestRedirectsAreNotFollowed(t *testing.T) {
	asked := false
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer thief.Close()
	for _, s := range services(t) {
		r, err := s.make(func(o *kms.Options) { o.Tries = 1 })
		require.NoError(t, err)
		s.peer.will(answer{status: 307, header: http.Header{"Location": {thief.URL}}})
		_, err = r.Wrap(t.Context(), seal.NewKey())
		require.ErrorIs(t, err, keyring.ErrUnavailable)
	}
	require.False(t, asked)
}

func TestConstructorsCheckAll(t *testing.T) {
	bad := kms.Options{Endpoint: "http://kms.example.org", Tries: -1}
	_, err := kms.NewVault("", "", nil, &kms.VaultOptions{Namespace: "a\nb", Options: bad})
	for _, want := range []string{"token function", "name of a key", "Namespace", "Tries", "Endpoint"} {
		require.ErrorContains(t, err, want)
	}
	_, err = kms.NewAWS("", "", nil, &kms.AWSOptions{Options: bad})
	for _, want := range []string{"region", "id of a key", "credentials function", "Tries", "Endpoint"} {
		require.ErrorContains(t, err, want)
	}
	_, err = kms.NewGCP("k", nil, &kms.GCPOptions{Options: bad})
	for _, want := range []string{"projects/P", "token function", "Tries", "Endpoint"} {
		require.ErrorContains(t, err, want)
	}
	for _, endpoint := range []string{
		"http://127.0.0.1", "ftp://x", "https://", "https://u:p@x", "https://x?y", "https://x#y", "://", "https://x/path",
	} {
		_, err = kms.NewAWS("eu-central-1", "k", credentials, &kms.AWSOptions{Options: kms.Options{Endpoint: endpoint}})
		require.ErrorContains(t, err, "Endpoint", endpoint)
	}
	for _, endpoint := range []string{"http://127.0.0.1:1", "http://[::1]:1", "http://localhost"} {
		_, err = kms.NewAWS("eu-central-1", "k", credentials, &kms.AWSOptions{Options: kms.Options{Endpoint: endpoint, InsecureLoopback: true}})
		require.NoError(t, err, endpoint)
	}
	_, err = kms.NewAWS("eu-central-1", "k", credentials, &kms.AWSOptions{Options: kms.Options{Endpoint: "http://10.0.0.1", InsecureLoopback: true}})
	require.Error(t, err)
	_, err = kms.NewVault("https://vault.example.org:8200/", "k", token, nil)
	require.NoError(t, err)
	_, err = kms.NewAWS("cn-north-1", "k", credentials, nil)
	require.NoError(t, err)
	_, err = kms.NewGCP(gcpKey, token, nil)
	require.NoError(t, err)
}

// answering is a RoundTripper that gives one answer.
type answering struct {
	status int
	header http.Header
	body   []byte
}

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
	return w.Result(), nil
}

// FuzzAnswers gives each service any answer: no panic, and what is taken for a key came from an answer 200.
func FuzzAnswers(f *testing.F) {
	f.Add(200, "", []byte(`{"data":{"ciphertext":"vault:v1:AAAA","plaintext":"AAAA"}}`))
	f.Add(200, "", []byte(`{"Plaintext":"AAAA","CiphertextBlob":"AAAA"}`))
	f.Add(200, "", []byte(`{"plaintext":"AAAA","plaintextCrc32c":"1218926424","ciphertext":"AAAA","ciphertextCrc32c":"1"}`))
	f.Add(400, "DisabledException:x", []byte(`{"__type":"a#b","error":{"status":"NOT_FOUND"},"errors":["key not found"]}`))
	f.Fuzz(func(t *testing.T, status int, typ string, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		o := kms.Options{Client: &http.Client{Transport: answering{status, http.Header{"X-Amzn-Errortype": {typ}}, body}}, Tries: 1}
		v, err := kms.NewVault("https://vault.example.org", "k", token, &kms.VaultOptions{Options: o})
		require.NoError(t, err)
		a, err := kms.NewAWS("eu-central-1", "k", credentials, &kms.AWSOptions{Options: o})
		require.NoError(t, err)
		g, err := kms.NewGCP(gcpKey, token, &kms.GCPOptions{Options: o})
		require.NoError(t, err)
		for _, r := range []keyring.Root{v, a, g} {
			for _, do := range []func(context.Context, []byte) ([]byte, error){r.Wrap, r.Unwrap} {
				got, err := do(t.Context(), []byte("vault:v1:AAAA"))
				if err == nil {
					require.Equal(t, 200, status)
					require.NotEmpty(t, got)
					continue
				}
				require.Nil(t, got)
				require.NotContains(t, err.Error(), secretToken)
				require.NotContains(t, err.Error(), awsSecret)
			}
		}
	})
}
