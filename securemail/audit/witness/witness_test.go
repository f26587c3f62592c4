package witness_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/cosign"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/witness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const origin = "log.test/1"

// tree is a log of n entries in memory. Entries from fork on differ from those of another tree.
type tree struct {
	signer   note.Signer
	verifier note.Verifier
	hashes   []tlog.Hash
	size     int64
}

func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, t.hashes[i])
	}
	return out, nil
}

func newTree(t testing.TB) *tree {
	// A key of our own making, always the same, so that trees of one test share it.
	private, public, err := note.GenerateKey(strings.NewReader(strings.Repeat("k", 64)), origin)
	require.NoError(t, err)
	out := &tree{}
	out.signer, err = note.NewSigner(private)
	require.NoError(t, err)
	out.verifier, err = note.NewVerifier(public)
	require.NoError(t, err)
	return out
}

func (t *tree) grow(n int, word string) *tree {
	for range n {
		hs, err := tlog.StoredHashes(t.size, fmt.Appendf(nil, "%s %d", word, t.size), t)
		if err != nil {
			panic(err)
		}
		t.hashes = append(t.hashes, hs...)
		t.size++
	}
	return t
}

func (t *tree) checkpoint(tb testing.TB) []byte {
	h, err := tlog.TreeHash(t.size, t)
	require.NoError(tb, err)
	b, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, t.size, h)}, t.signer)
	require.NoError(tb, err)
	return b
}

func (t *tree) request(tb testing.TB, old int64) audit.WitnessRequest {
	r := audit.WitnessRequest{OldSize: old, Checkpoint: t.checkpoint(tb)}
	if old > 0 && old < t.size {
		p, err := tlog.ProveTree(t.size, old, t)
		require.NoError(tb, err)
		r.Proof = p
	}
	return r
}

func client(t testing.TB, base string, c *cosigner) *witness.Client {
	w, err := witness.New(base+"/w/", c.vkey(), &witness.Options{InsecureLoopbackHTTP: true, Timeout: 30 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func TestCosigns(t *testing.T) {
	log := newTree(t).grow(10, "entry")
	f, s := newFar(t, 1, log.verifier)
	c := client(t, s.URL, f.cosigner)
	require.Equal(t, f.name, c.Name())
	for _, step := range []int{0, 1, 7, 300} { // first ever, the same size again, and growth
		old := f.has[origin].N
		r := log.grow(step, "entry").request(t, old)
		lines, err := c.Cosign(t.Context(), r)
		require.NoError(t, err)
		require.NotContains(t, string(lines), "stranger")
		n, err := note.Open(append(r.Checkpoint, lines...), note.VerifierList(log.verifier, c.Verifier()))
		require.NoError(t, err)
		require.Len(t, n.Sigs, 2)
		at, err := witness.Time(n.Sigs[1])
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), at, time.Minute)
	}
	same, err := c.Cosign(t.Context(), log.request(t, log.size))
	require.NoError(t, err)
	require.NotEmpty(t, same)
}

func TestLearnsTheSize(t *testing.T) {
	log := newTree(t).grow(5, "entry")
	f, s := newFar(t, 1, log.verifier)
	c := client(t, s.URL, f.cosigner)
	_, err := c.Cosign(t.Context(), log.request(t, 0))
	require.NoError(t, err)
	log.grow(5, "entry")
	_, err = c.Cosign(t.Context(), log.request(t, 0))
	var size interface{ Size() int64 }
	require.True(t, errors.As(err, &size))
	require.EqualValues(t, 5, size.Size())
	require.NotErrorIs(t, err, audit.ErrRollback)
	require.ErrorContains(t, err, "begin there")
	_, err = c.Cosign(t.Context(), log.request(t, size.Size()))
	require.NoError(t, err)
}

// TestForkAndRollback: one witness is enough to notice both.
func TestForkAndRollback(t *testing.T) {
	log := newTree(t).grow(20, "entry")
	f, s := newFar(t, 1, log.verifier)
	c := client(t, s.URL, f.cosigner)
	_, err := c.Cosign(t.Context(), log.request(t, 0))
	require.NoError(t, err)

	fork := newTree(t).grow(15, "entry").grow(10, "other") // the same key
	_, err = c.Cosign(t.Context(), fork.request(t, 20))
	require.ErrorIs(t, err, witness.ErrFork)
	require.ErrorIs(t, err, audit.ErrRollback)
	require.ErrorContains(t, err, "another history")
	same := newTree(t).grow(15, "entry").grow(5, "other")
	_, err = c.Cosign(t.Context(), same.request(t, 20))
	require.ErrorIs(t, err, witness.ErrFork)

	back := newTree(t).grow(10, "entry")
	_, err = c.Cosign(t.Context(), back.request(t, 5))
	require.ErrorIs(t, err, audit.ErrRollback)
	require.NotErrorIs(t, err, witness.ErrFork)
	require.ErrorContains(t, err, "rolled back")

	_, err = c.Cosign(t.Context(), log.grow(1, "entry").request(t, 20))
	require.NoError(t, err, "the true log goes on")
}

func TestStrangers(t *testing.T) {
	log := newTree(t).grow(3, "entry")
	f, s := newFar(t, 1)
	_, err := client(t, s.URL, f.cosigner).Cosign(t.Context(), log.request(t, 0))
	status(t, err, http.StatusNotFound, false)
	require.ErrorContains(t, err, "add the log's public key")

	_, public, err := note.GenerateKey(nil, origin)
	require.NoError(t, err)
	other, err := note.NewVerifier(public)
	require.NoError(t, err)
	f, s = newFar(t, 1, other)
	_, err = client(t, s.URL, f.cosigner).Cosign(t.Context(), log.request(t, 0))
	status(t, err, http.StatusForbidden, false)
	require.ErrorContains(t, err, "by another key")
}

func status(t testing.TB, err error, want int, temporary bool) {
	t.Helper()
	se, ok := errors.AsType[*witness.StatusError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, want, se.Status)
	require.Equal(t, temporary, se.Temporary())
}

// TestHostileAnswers: nothing but a valid cosignature counts, and nothing that the witness wrote gets into the error.
func TestHostileAnswers(t *testing.T) {
	log := newTree(t).grow(9, "entry")
	good, other := newCosigner("witness.test/1", 1), newCosigner("witness.test/1", 2)
	text, _, _ := strings.Cut(string(log.checkpoint(t)), "\n\n")
	text += "\n"
	elsewhere, _, _ := strings.Cut(string(newTree(t).grow(8, "x").checkpoint(t)), "\n\n")
	at := func(d time.Duration) string {
		c := newCosigner("witness.test/1", 1)
		c.now = func() time.Time { return time.Now().Add(d) }
		return c.sign(text)
	}
	zero := newCosigner("witness.test/1", 1)
	zero.now = func() time.Time { return time.Unix(0, 0) }
	size := map[string]string{"Content-Type": "text/x.tlog.size"}
	for name, c := range map[string]struct {
		code   int
		header map[string]string
		body   string
		err    error
		status int
	}{
		"good":              {200, nil, good.sign(text), nil, 0},
		"a little ahead":    {200, nil, at(time.Minute), nil, 0},
		"nothing":           {200, nil, "", witness.ErrCosignature, 0},
		"strangers only":    {200, nil, newCosigner("canary.test", 3).sign(text), witness.ErrCosignature, 0},
		"another key":       {200, nil, other.sign(text), witness.ErrCosignature, 0},
		"another tree":      {200, nil, good.sign(elsewhere + "\n"), witness.ErrCosignature, 0},
		"no time":           {200, nil, zero.sign(text), witness.ErrCosignature, 0},
		"future":            {200, nil, at(time.Hour), witness.ErrCosignature, 0},
		"prose":             {200, nil, "canary\n", witness.ErrCosignature, 0},
		"no newline":        {200, nil, strings.TrimSuffix(good.sign(text), "\n"), witness.ErrCosignature, 0},
		"good and bad":      {200, nil, good.sign(text) + good.sign(elsewhere), witness.ErrCosignature, 0},
		"good and prose":    {200, nil, good.sign(text) + "canary\n", witness.ErrCosignature, 0},
		"too many":          {200, nil, strings.Repeat(good.sign(text), 100), witness.ErrCosignature, 0},
		"endless":           {200, nil, strings.Repeat("canary", 1<<15), errAny, 0},
		"redirect":          {302, map[string]string{"Location": "http://canary.test/"}, "", nil, 302},
		"conflict":          {409, size, "7\n", nil, -1},
		"conflict as page":  {409, nil, "7\n", nil, 409},
		"conflict negative": {409, size, "-7\n", nil, 409},
		"conflict plus":     {409, size, "+7\n", nil, 409},
		"conflict huge":     {409, size, "99999999999999999999\n", nil, 409},
		"conflict unended":  {409, size, "7", nil, 409},
		"conflict prose":    {409, size, "canary\n", nil, 409},
		"conflict in vain":  {409, size, "0\n", nil, 409},
		"overload":          {503, nil, "canary", nil, 503},
		"pushback":          {429, nil, "canary", nil, 429},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range c.header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(c.code)
			_, _ = io.WriteString(w, c.body)
		}))
		lines, err := client(t, s.URL, good).Cosign(t.Context(), log.request(t, 0))
		s.Close()
		switch {
		case c.status == -1:
			conflict, ok := errors.AsType[*witness.ConflictError](err)
			require.True(t, ok, name)
			require.EqualValues(t, 7, conflict.Size())
		case c.status != 0:
			status(t, err, c.status, c.status == 503 || c.status == 429)
		case errors.Is(c.err, errAny):
			require.Error(t, err, name)
		case c.err != nil:
			require.ErrorIs(t, err, c.err, name)
		default:
			require.NoError(t, err, name)
			require.NotEmpty(t, lines)
		}
		if err != nil {
			require.Nil(t, lines, name)
			require.NotContains(t, err.Error(), "canary", name)
		}
	}
}

var errAny = errors.New("any")

func TestBadRequestsAreNotSent(t *testing.T) {
	log := newTree(t).grow(3, "entry")
	f, s := newFar(t, 1, log.verifier)
	c := client(t, s.URL, f.cosigner)
	cp := string(log.checkpoint(t))
	hash := strings.Split(cp, "\n")[2]
	sig := cp[strings.Index(cp, "\n\n"):]
	for name, r := range map[string]audit.WitnessRequest{
		"negative":       {OldSize: -1, Checkpoint: []byte(cp)},
		"larger":         {OldSize: 4, Checkpoint: []byte(cp)},
		"proof of none":  {Proof: make([]tlog.Hash, 1), Checkpoint: []byte(cp)},
		"long proof":     {OldSize: 1, Proof: make([]tlog.Hash, 64), Checkpoint: []byte(cp)},
		"nothing":        {},
		"not signed":     {Checkpoint: []byte(origin + "\n3\n" + hash + "\n")},
		"not text":       {Checkpoint: []byte("\xff" + cp)},
		"leading zero":   {Checkpoint: []byte(origin + "\n03\n" + hash + sig)},
		"short hash":     {Checkpoint: []byte(origin + "\n3\nAAAA" + sig)},
		"no origin":      {Checkpoint: []byte("\n3\n" + hash + sig)},
		"empty line":     {Checkpoint: []byte(origin + "\n3\n" + hash + "\n\nx" + sig)},
		"two lines":      {Checkpoint: []byte(origin + "\n3" + sig)},
		"a long one":     {Checkpoint: []byte(origin + "\n3\n" + hash + "\n" + strings.Repeat("x", 1<<16) + sig)},
		"other alphabet": {Checkpoint: []byte(origin + "\n3\n" + strings.Repeat("-", 43) + "=" + sig)},
	} {
		_, err := c.Cosign(t.Context(), r)
		require.ErrorIs(t, err, witness.ErrRequest, name)
	}
	require.Zero(t, f.told)
}

func TestNetwork(t *testing.T) {
	log := newTree(t).grow(3, "entry")
	s := httptest.NewServer(http.NotFoundHandler())
	c := client(t, s.URL, newCosigner("witness.test", 1))
	s.Close()
	_, err := c.Cosign(t.Context(), log.request(t, 0))
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Cosign(ctx, log.request(t, 0))
	require.ErrorIs(t, err, context.Canceled)
}

func TestNew(t *testing.T) {
	good := newCosigner("witness.test", 1).vkey()
	_, err := witness.New("https://witness.test/prefix", good, nil)
	require.NoError(t, err)
	mldsa := append([]byte{6}, make([]byte, 1312)...)
	logs := append([]byte{1}, make([]byte, 32)...)
	vkey := func(name string, typed []byte) string {
		return fmt.Sprintf("%s+%08x+%s", name, cosign.KeyHash(name, typed), base64.StdEncoding.EncodeToString(typed))
	}
	for name, c := range map[string]struct{ url, key, says string }{
		"http":        {"http://127.0.0.1/", good, "https"},
		"no host":     {"https:///x", good, "names no host"},
		"query":       {"https://witness.test/?a=b", good, "query"},
		"malformed":   {"https://wit ness/", good, "malformed"},
		"no key":      {"https://witness.test/", "", "verifier key"},
		"key of log":  {"https://witness.test/", vkey("w", logs), "verifier key"},
		"post-quant":  {"https://witness.test/", vkey("w", mldsa), "ML-DSA-44"},
		"wrong id":    {"https://witness.test/", strings.Replace(good, "+", "+0", 1), "verifier key"},
		"other id":    {"https://witness.test/", "w" + good, "verifier key"},
		"space":       {"https://witness.test/", vkey("w x", append([]byte{4}, logs[1:]...)), "verifier key"},
		"short":       {"https://witness.test/", vkey("w", []byte{4, 1}), "verifier key"},
		"long":        {"https://witness.test/", vkey("w", make([]byte, 5000)), "verifier key"},
		"empty":       {"https://witness.test/", "w+00000000+", "verifier key"},
		"not base 64": {"https://witness.test/", "w+00000000+-", "verifier key"},
	} {
		w, err := witness.New(c.url, c.key, nil)
		require.Nil(t, w, name)
		require.ErrorContains(t, err, c.says, name)
	}
	_, err = witness.New("https://witness.test/", good, &witness.Options{Timeout: -1, Ahead: -1})
	require.ErrorContains(t, err, "timeout")
	require.ErrorContains(t, err, "Ahead")
	_, err = witness.NewVerifier("x")
	require.Error(t, err)
	v, err := witness.NewVerifier(good)
	require.NoError(t, err)
	require.False(t, v.Verify(nil, make([]byte, 72)))
	require.False(t, v.Verify(nil, nil))
	late := binary.BigEndian.AppendUint64(make([]byte, 4), 1<<63)
	for _, b := range [][]byte{nil, make([]byte, 76), append(late, make([]byte, 64)...)} {
		_, err = witness.Time(note.Signature{Base64: base64.StdEncoding.EncodeToString(b)})
		require.Error(t, err)
	}
}
