package kms_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/keyring/kms"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secretToken = "s.CANARY-token-4711"

// peer is a stand-in for one service: it checks requests as the documentation says, keeps versions of one key, and fails
// as it is told.
type peer struct {
	t        *testing.T
	url      string
	client   *http.Client
	mu       sync.Mutex
	versions [][]byte
	disabled map[int]bool
	requests int
	// next are answers to give instead, one a request.
	next []answer
	// spoil changes an answer 200.
	spoil func(map[string]any)
}

type answer struct {
	status int
	header http.Header
	body   string
}

func newPeer(t *testing.T, serve func(p *peer, w http.ResponseWriter, r *http.Request, body []byte)) *peer {
	p := &peer{t: t, versions: [][]byte{seal.NewKey()}, disabled: map[int]bool{}}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.requests++
		if len(p.next) > 0 {
			a := p.next[0]
			p.next = p.next[1:]
			for k, v := range a.header {
				w.Header()[k] = v
			}
			w.WriteHeader(a.status)
			_, _ = io.WriteString(w, a.body)
			return
		}
		serve(p, w, r, body)
	}))
	t.Cleanup(s.Close)
	p.url, p.client = s.URL, s.Client()
	return p
}

func (p *peer) options() kms.Options {
	return kms.Options{Client: p.client, Endpoint: p.url, Pause: time.Millisecond}
}

func (p *peer) will(as ...answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next, p.requests = as, 0
}

func (p *peer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *peer) rotate(disableOld bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disabled[len(p.versions)-1] = disableOld
	p.versions = append(p.versions, seal.NewKey())
}

// seal and open are what the service does with its key; the version is in front.
func (p *peer) seal(plain, ad []byte) (int, []byte) {
	v := len(p.versions) - 1
	b, err := seal.Seal(p.versions[v], plain, ad)
	if err != nil {
		p.t.Error(err)
	}
	return v, b
}

var (
	errDisabled = errors.New("disabled")
	errInvalid  = errors.New("invalid")
)

func (p *peer) open(v int, b, ad []byte) ([]byte, error) {
	if v < 0 || v >= len(p.versions) {
		return nil, errInvalid
	}
	if p.disabled[v] {
		return nil, errDisabled
	}
	plain, err := seal.Open(p.versions[v], b, ad)
	if err != nil {
		return nil, errInvalid
	}
	return plain, nil
}

func (p *peer) reply(w http.ResponseWriter, v map[string]any) {
	if p.spoil != nil {
		p.spoil(v)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// Vault: developer.hashicorp.com/vault/api-docs/secret/transit#encrypt-data and #decrypt-data.
func serveVault(p *peer, w http.ResponseWriter, r *http.Request, body []byte) {
	if r.Method != http.MethodPost || r.Header.Get("X-Vault-Token") != secretToken || r.Header.Get("X-Vault-Request") != "true" {
		refuse(w, 403, `{"errors":["permission denied"]}`)
		return
	}
	if r.Header.Get("X-Vault-Namespace") != "clinics/north" {
		refuse(w, 404, `{"errors":[]}`)
		return
	}
	var q struct {
		Plaintext, Ciphertext, Context string
		AssociatedData                 string `json:"associated_data"`
	}
	if json.Unmarshal(body, &q) != nil {
		refuse(w, 400, `{"errors":["bad JSON"]}`)
		return
	}
	ad := []byte(q.Context + "|" + q.AssociatedData)
	switch r.URL.EscapedPath() {
	case "/v1/kv/transit/encrypt/post%20seal":
		plain, err := base64.StdEncoding.DecodeString(q.Plaintext)
		if err != nil || len(plain) == 0 {
			refuse(w, 400, `{"errors":["missing plaintext to encrypt"]}`)
			return
		}
		v, b := p.seal(plain, ad)
		p.reply(w, map[string]any{"data": map[string]any{
			"ciphertext": fmt.Sprintf("vault:v%d:%s", v+1, base64.StdEncoding.EncodeToString(b)), "key_version": v + 1,
		}})
	case "/v1/kv/transit/decrypt/post%20seal":
		parts := strings.SplitN(strings.TrimPrefix(q.Ciphertext, "vault:v"), ":", 2)
		v, err1 := strconv.Atoi(parts[0])
		b, err2 := base64.StdEncoding.DecodeString(parts[len(parts)-1])
		plain, err := p.open(v-1, b, ad)
		switch {
		case errors.Is(err, errDisabled):
			refuse(w, 400, `{"errors":["ciphertext or signature version is disallowed by policy (too old)"]}`)
		case err1 != nil || err2 != nil:
			refuse(w, 400, `{"errors":["invalid ciphertext: could not decode base64"]}`)
		case err != nil:
			refuse(w, 500, `{"errors":["1 error occurred:\n\t* cipher: message authentication failed\n\n"]}`)
		default:
			p.reply(w, map[string]any{"data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}})
		}
	default:
		refuse(w, 404, `{"errors":["no handler for route"]}`)
	}
}

const (
	awsID     = "AKIDEXAMPLE"
	awsSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	awsKey    = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// checkV4 verifies a signature from the documentation alone, over the request as it came in.
func checkV4(r *http.Request, body []byte, secret, region, service string, now time.Time) error {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return errors.New("MissingAuthenticationTokenException")
	}
	fields := map[string]string{}
	for _, part := range strings.Split(rest, ", ") {
		name, value, _ := strings.Cut(part, "=")
		fields[name] = value
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || now.Sub(at).Abs() > 5*time.Minute {
		return errors.New("RequestExpired")
	}
	scope := []string{date[:8], region, service, "aws4_request"}
	if fields["Credential"] != awsID+"/"+strings.Join(scope, "/") {
		return errors.New("UnrecognizedClientException")
	}
	names := strings.Split(fields["SignedHeaders"], ";")
	if !sort.StringsAreSorted(names) {
		return errors.New("IncompleteSignature")
	}
	covered := map[string]bool{}
	lines := []string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery}
	for _, n := range names {
		covered[n] = true
		v := r.Header.Get(n)
		if n == "host" {
			v = r.Host
		}
		lines = append(lines, n+":"+strings.TrimSpace(v))
	}
	for h := range r.Header {
		if h = strings.ToLower(h); (strings.HasPrefix(h, "x-amz-") || h == "content-type") && !covered[h] {
			return errors.New("IncompleteSignature")
		}
	}
	if !covered["host"] {
		return errors.New("IncompleteSignature")
	}
	payload := sha256.Sum256(body)
	lines = append(lines, "", fields["SignedHeaders"], hex.EncodeToString(payload[:]))
	request := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", date, strings.Join(scope, "/"), hex.EncodeToString(request[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, step := range append(scope, text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(step))
		key = h.Sum(nil)
	}
	if hex.EncodeToString(key) != fields["Signature"] {
		return errors.New("InvalidSignatureException")
	}
	return nil
}

// AWS: docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html and API_Decrypt.html.
func serveAWS(p *peer, w http.ResponseWriter, r *http.Request, body []byte) {
	fail := func(code string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		refuse(w, 400, `{"__type":"`+code+`","message":"CANARY-text"}`)
	}
	if err := checkV4(r, body, awsSecret, "eu-central-1", "kms", time.Now()); err != nil {
		fail(err.Error())
		return
	}
	if r.Header.Get("X-Amz-Security-Token") != "session" {
		fail("ExpiredTokenException")
		return
	}
	var q struct {
		KeyID                     string `json:"KeyId"`
		Plaintext, CiphertextBlob []byte
		EncryptionContext         map[string]string
	}
	if r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || json.Unmarshal(body, &q) != nil {
		fail("SerializationException")
		return
	}
	if q.KeyID != awsKey {
		fail("NotFoundException")
		return
	}
	ad, _ := json.Marshal(q.EncryptionContext)
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.Encrypt":
		v, b := p.seal(q.Plaintext, ad)
		p.reply(w, map[string]any{"KeyId": awsKey, "CiphertextBlob": append([]byte{byte(v)}, b...), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
	case "TrentService.Decrypt":
		plain, err := p.open(int(append(q.CiphertextBlob, 255)[0]), q.CiphertextBlob[min(1, len(q.CiphertextBlob)):], ad)
		switch {
		case errors.Is(err, errDisabled):
			fail("com.amazonaws.kms#DisabledException")
		case err != nil:
			fail("InvalidCiphertextException")
		default:
			p.reply(w, map[string]any{"KeyId": awsKey, "Plaintext": plain})
		}
	default:
		fail("UnknownOperationException")
	}
}

const gcpKey = "projects/clinic-1/locations/europe-west3/keyRings/mail/cryptoKeys/postseal"

func castagnoli(b []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), 10)
}

// Google: cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys/encrypt and decrypt.
func serveGCP(p *peer, w http.ResponseWriter, r *http.Request, body []byte) {
	fail := func(status int, code string) {
		refuse(w, status, fmt.Sprintf(`{"error":{"code":%d,"message":"CANARY-text","status":%q}}`, status, code))
	}
	if r.Header.Get("Authorization") != "Bearer "+secretToken {
		fail(401, "UNAUTHENTICATED")
		return
	}
	var q struct {
		Plaintext, Ciphertext                                                []byte
		AdditionalAuthenticatedData                                          []byte
		PlaintextCrc32c, CiphertextCrc32c, AdditionalAuthenticatedDataCrc32c string
	}
	if json.Unmarshal(body, &q) != nil || q.AdditionalAuthenticatedDataCrc32c != castagnoli(q.AdditionalAuthenticatedData) {
		fail(400, "INVALID_ARGUMENT")
		return
	}
	switch r.URL.Path {
	case "/v1/" + gcpKey + ":encrypt":
		if q.PlaintextCrc32c != castagnoli(q.Plaintext) {
			fail(400, "INVALID_ARGUMENT")
			return
		}
		v, b := p.seal(q.Plaintext, q.AdditionalAuthenticatedData)
		b = append([]byte{byte(v)}, b...)
		p.reply(w, map[string]any{
			"name": fmt.Sprint(gcpKey, "/cryptoKeyVersions/", v+1), "ciphertext": b, "ciphertextCrc32c": castagnoli(b),
			"verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true, "protectionLevel": "SOFTWARE",
		})
	case "/v1/" + gcpKey + ":decrypt":
		if q.CiphertextCrc32c != castagnoli(q.Ciphertext) {
			fail(400, "INVALID_ARGUMENT")
			return
		}
		plain, err := p.open(int(append(q.Ciphertext, 255)[0]), q.Ciphertext[min(1, len(q.Ciphertext)):], q.AdditionalAuthenticatedData)
		switch {
		case errors.Is(err, errDisabled):
			fail(400, "FAILED_PRECONDITION")
		case err != nil:
			fail(400, "INVALID_ARGUMENT")
		default:
			p.reply(w, map[string]any{"plaintext": plain, "plaintextCrc32c": castagnoli(plain), "usedPrimary": true, "protectionLevel": "SOFTWARE"})
		}
	default:
		fail(404, "NOT_FOUND")
	}
}

// service is one of the three, with its stand-in.
type service struct {
	name string
	peer *peer
	// make makes the root; change, if not nil, changes its options.
	make func(change func(*kms.Options)) (keyring.Root, error)
	// other is the root with another context, under which nothing of the first opens.
	other func() (keyring.Root, error)
}

func token(context.Context) (string, error) { return secretToken, nil }

func credentials(context.Context) (kms.Credential, error) {
	return kms.Credential{AccessKeyID: awsID, SecretAccessKey: awsSecret, SessionToken: "session"}, nil
}

func changed(o kms.Options, change func(*kms.Options)) kms.Options {
	if change != nil {
		change(&o)
	}
	return o
}

func services(t *testing.T) []service {
	v, a, g := newPeer(t, serveVault), newPeer(t, serveAWS), newPeer(t, serveGCP)
	vault := func(context string, o kms.Options) (keyring.Root, error) {
		return root(kms.NewVault(v.url, "post seal", token, &kms.VaultOptions{
			Mount: "/kv/transit/", Namespace: "clinics/north", Context: []byte(context), AssociatedData: []byte("ad"), Options: o,
		}))
	}
	return []service{
		{"vault", v, func(c func(*kms.Options)) (keyring.Root, error) { return vault("ring", changed(v.options(), c)) },
			func() (keyring.Root, error) { return vault("another", v.options()) }},
		{"aws", a, func(c func(*kms.Options)) (keyring.Root, error) {
			return root(kms.NewAWS("eu-central-1", awsKey, credentials, &kms.AWSOptions{Options: changed(a.options(), c)}))
		}, func() (keyring.Root, error) {
			return root(kms.NewAWS("eu-central-1", awsKey, credentials, &kms.AWSOptions{Context: map[string]string{"a": "b"}, Options: a.options()}))
		}},
		{"gcp", g, func(c func(*kms.Options)) (keyring.Root, error) {
			return root(kms.NewGCP(gcpKey, token, &kms.GCPOptions{Options: changed(g.options(), c)}))
		}, func() (keyring.Root, error) {
			return root(kms.NewGCP(gcpKey, token, &kms.GCPOptions{AssociatedData: []byte("x"), Options: g.options()}))
		}},
	}
}

// root keeps a nil *T out of the interface.
func root[T keyring.Root](r T, err error) (keyring.Root, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// request is a POST as a client sends it.
func request(t *testing.T, target string, header map[string]string, body string) *http.Request {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: http.Header{}, Body: io.NopCloser(bytes.NewBufferString(body))}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	return r
}
