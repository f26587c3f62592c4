package preset_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-message"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

// TestSamples sends each message of examples/testdata to a recipient with TLS, one with a PGP key, and one with an access
// code, and opens it as each of them would.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/testdata/*.eml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 20)
	w := newSampleWorld(t)
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			require.NoError(t, err)
			w.send(t, raw)
			w.checkTLS(t, raw)
			w.checkPGP(t, raw)
			w.checkEscrow(t)
		})
	}
}

type sampleWorld struct {
	sys          *preset.System
	named, clear *smtppeer.Peer
	secret       securemail.Secret
	web          *httptest.Server
}

const accessCode = "tulip-4711"

func newSampleWorld(t *testing.T) *sampleWorld {
	t.Helper()
	ca := smtppeer.NewCA()
	w := &sampleWorld{}
	var err error
	w.named, err = smtppeer.Start(smtppeer.Options{Listen: "127.0.0.1:0", Hostname: "mx.named.test", TLS: ca.Config("mx.named.test")})
	require.NoError(t, err)
	t.Cleanup(w.named.Close)
	w.clear, err = smtppeer.Start(smtppeer.Options{Hostname: "mx.clear.test"})
	require.NoError(t, err)
	t.Cleanup(w.clear.Close)
	dns, err := dnspeer.Start(dnspeer.Zone{
		"named.test": {"MX 10 mx.named.test."}, "mx.named.test": {"A 127.0.0.2"},
		"clear.test": {"MX 10 mx.clear.test."}, "mx.clear.test": {"A 127.0.0.3"},
	})
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	r, err := smtp.DNS(dns.Addr(), nil)
	require.NoError(t, err)
	var handler http.Handler
	w.web = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, rq *http.Request) { handler.ServeHTTP(rw, rq) }))
	t.Cleanup(w.web.Close)
	w.sys = open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{
		BaseURL: w.web.URL, InsecureLoopback: true,
		SMTP: &smtp.Options{Resolver: r, RootCAs: ca.Pool(), Dial: dialTo(map[string]string{
			"127.0.0.2:25": w.named.Addr(), "127.0.0.3:25": w.clear.Addr(),
		})},
	})
	handler = w.sys.Handler()
	c := securemail.Mailbox("paul@clear.test")
	var key securemail.Key
	w.secret, key, err = pgp.GenerateKey("", c.Address)
	require.NoError(t, err)
	admin := securemail.WithActor(t.Context(), securemail.Actor{ID: "staff", Kind: "person", Roles: []string{"admin"}})
	require.NoError(t, w.sys.Keys.Pin(admin, keys.Pinned{Address: c.Address, Key: key}))
	return w
}

func (w *sampleWorld) send(t *testing.T, raw []byte) {
	t.Helper()
	d := &securemail.Draft{
		Raw: securemail.Bytes(raw), To: securemail.To("anna@named.test", "paul@clear.test", "dora@clear.test"),
		Purpose: securemail.PurposeTreatment,
	}
	d.To[2].Factors = []securemail.Factor{{Kind: "code", Value: securemail.NewSecret(accessCode)}}
	sub, err := w.sys.Send(t.Context(), d)
	require.NoError(t, err)
	_, err = w.sys.RunDue(t.Context())
	require.NoError(t, err)
	want := []securemail.Method{securemail.MethodTLS, securemail.MethodPGP, securemail.MethodEscrow}
	for st, err := range w.sys.Find(t.Context(), securemail.Query{Submission: sub.ID}) {
		require.NoError(t, err)
		require.Equal(t, securemail.StateDelivered, st.State, st.Reasons)
		require.Equal(t, want[0], st.Choice.Method)
		want = want[1:]
	}
	require.Empty(t, want)
}

func last(t *testing.T, p *smtppeer.Peer, rcpt string) []byte {
	t.Helper()
	for _, m := range slices.Backward(p.Messages()) {
		if slices.Contains(m.Rcpts, rcpt) {
			return m.Data
		}
	}
	t.Fatal("nothing arrived")
	return nil
}

// checkTLS: to the octet, but for fields that were missing and Bcc.
func (w *sampleWorld) checkTLS(t *testing.T, raw []byte) {
	t.Helper()
	got := last(t, w.named, "anna@named.test")
	if bytes.Contains(raw, []byte("\r\nMessage-ID:")) || bytes.Contains(raw, []byte("\r\nMessage-Id:")) {
		require.Equal(t, string(raw), string(got))
		return
	}
	_, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	require.True(t, bytes.HasSuffix(got, body))
}

func (w *sampleWorld) checkPGP(t *testing.T, raw []byte) {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes(last(t, w.clear, "paul@clear.test")))
	require.NoError(t, err)
	require.Equal(t, []string{"[...]"}, m.Header("Subject"))
	o, err := pgp.Open(t.Context(), m, &pgp.OpenOptions{Keys: []securemail.Secret{w.secret}})
	require.NoError(t, err)
	r, err := o.Payload.Open()
	require.NoError(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	for _, part := range leaves(t, raw) {
		require.Contains(t, leaves(t, got), part)
	}
}

// leaves are the decoded contents of a message's parts.
func leaves(t *testing.T, raw []byte) (out []string) {
	t.Helper()
	e, err := message.Read(bytes.NewReader(raw))
	if !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) {
		require.NoError(t, err)
	}
	_ = e.Walk(func(_ []int, part *message.Entity, _ error) error {
		if part == nil || part.MultipartReader() != nil {
			return nil
		}
		b, err := io.ReadAll(part.Body)
		require.NoError(t, err)
		out = append(out, strings.TrimRight(string(b), "\r\n"))
		return nil
	})
	return out
}

func (w *sampleWorld) checkEscrow(t *testing.T) {
	t.Helper()
	notice := last(t, w.clear, "dora@clear.test")
	link := regexp.MustCompile(`http://[^\s"<>]+/m/[A-Za-z0-9_-]+`).Find(notice)
	require.NotNil(t, link)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := &http.Client{Jar: jar}
	resp, err := browser.PostForm(string(link), url.Values{"access_code": {accessCode}})
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NotContains(t, string(page), "access_code", "the message is shown, not the form")
	require.Contains(t, string(page), `value="leave"`, "signed in")
	require.Less(t, len(page), 200<<10)
}

var errNoHost = errors.New("no such host in this test")
