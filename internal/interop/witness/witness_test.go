package witness_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/witness/persistence/inmemory"
	peer "github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/witness"
)

const origin = "log.test/1"

// tree is a log in memory.
type tree struct {
	signer note.Signer
	hashes []tlog.Hash
	size   int64
}

func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, t.hashes[i])
	}
	return out, nil
}

func (t *tree) grow(tb testing.TB, n int, word string) *tree {
	for range n {
		hs, err := tlog.StoredHashes(t.size, fmt.Appendf(nil, "%s %d", word, t.size), t)
		require.NoError(tb, err)
		t.hashes = append(t.hashes, hs...)
		t.size++
	}
	return t
}

func (t *tree) request(tb testing.TB, old int64) audit.WitnessRequest {
	h, err := tlog.TreeHash(t.size, t)
	require.NoError(tb, err)
	cp, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, t.size, h)}, t.signer)
	require.NoError(tb, err)
	r := audit.WitnessRequest{OldSize: old, Checkpoint: cp}
	if old > 0 && old < t.size {
		r.Proof, err = tlog.ProveTree(t.size, old, t)
		require.NoError(tb, err)
	}
	return r
}

// newTree makes an empty log with a key of its own.
func newTree(tb testing.TB) (*tree, note.Verifier) {
	private, public, err := note.GenerateKey(nil, origin)
	require.NoError(tb, err)
	signer, err := note.NewSigner(private)
	require.NoError(tb, err)
	verifier, err := note.NewVerifier(public)
	require.NoError(tb, err)
	return &tree{signer: signer}, verifier
}

// far starts the peer, which knows one log and signs by an Ed25519 and an ML-DSA-44 key, and gives our client of it and the peer's
// own verifier.
func far(t testing.TB, log note.Verifier) (*witness.Client, note.Verifier) {
	private, public, err := note.GenerateKey(nil, "witness.test")
	require.NoError(t, err)
	signer, err := fnote.NewSignerForCosignatureV1(private)
	require.NoError(t, err)
	vkey, err := fnote.VKeyToCosignatureV1(public)
	require.NoError(t, err)
	theirs, err := fnote.NewVerifierForCosignatureV1(vkey)
	require.NoError(t, err)
	private, public, err = fnote.GenerateMLDSAKey("witness.test")
	require.NoError(t, err)
	postQuantum, err := fnote.NewMLDSASigner(private)
	require.NoError(t, err)
	_, err = witness.NewVerifier(public)
	require.ErrorContains(t, err, "ML-DSA-44")

	w, err := peer.New(t.Context(), peer.Opts{
		Persistence: inmemory.New(), Signers: []note.Signer{postQuantum, signer},
		VerifierForLog: func(_ context.Context, name string) (note.Verifier, bool, error) { return log, name == log.Name(), nil },
	})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /w/add-checkpoint", peer.NewHTTPHandler(w).AddCheckpoint)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c, err := witness.New(s.URL+"/w", vkey, &witness.Options{InsecureLoopbackHTTP: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, theirs
}

func TestCosigns(t *testing.T) {
	log, verifier := newTree(t)
	c, theirs := far(t, verifier)
	for _, step := range []int{1, 0, 6, 250, 1000} {
		old := log.size
		r := log.grow(t, step, "entry").request(t, old)
		lines, err := c.Cosign(t.Context(), r)
		require.NoError(t, err)
		n, err := note.Open(append(r.Checkpoint, lines...), note.VerifierList(verifier, theirs))
		require.NoError(t, err)
		require.Len(t, n.Sigs, 2)
		at, err := witness.Time(n.Sigs[1])
		require.NoError(t, err)
		want, err := fnote.CoSigV1Timestamp(n.Sigs[1])
		require.NoError(t, err)
		require.True(t, want.Equal(at))
	}
}

func TestRefuses(t *testing.T) {
	log, verifier := newTree(t)
	c, _ := far(t, verifier)
	_, err := c.Cosign(t.Context(), log.grow(t, 20, "entry").request(t, 0))
	require.NoError(t, err)

	_, err = c.Cosign(t.Context(), log.grow(t, 5, "entry").request(t, 10))
	conflict, ok := errors.AsType[*witness.ConflictError](err)
	require.True(t, ok, "%v", err)
	require.EqualValues(t, 20, conflict.Size())
	require.NotErrorIs(t, err, audit.ErrRollback)

	back := &tree{signer: log.signer}
	_, err = c.Cosign(t.Context(), back.grow(t, 10, "entry").request(t, 5))
	require.ErrorIs(t, err, audit.ErrRollback)
	_, err = c.Cosign(t.Context(), back.grow(t, 20, "other").request(t, 20))
	require.ErrorIs(t, err, witness.ErrFork)

	other, _ := newTree(t) // the same name, another key
	_, err = c.Cosign(t.Context(), other.grow(t, 3, "entry").request(t, 0))
	status, ok := errors.AsType[*witness.StatusError](err)
	require.True(t, ok, "%v", err)
	// The specification wants 403; this peer answers 500 where it knows none of the keys.
	require.Contains(t, []int{http.StatusForbidden, http.StatusInternalServerError}, status.Status)

	_, err = c.Cosign(t.Context(), log.request(t, 20))
	require.NoError(t, err, "the true log goes on")
}
