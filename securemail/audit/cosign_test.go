package audit_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/securemail/audit"
)

// cosigner signs what continues what it signed before.
type cosigner struct {
	signer note.Signer

	mu   sync.Mutex // guards what follows
	tree tlog.Tree
	down bool
	asks int
}

func newCosigner(t *testing.T) *cosigner {
	t.Helper()
	private, _, err := note.GenerateKey(rand.Reader, "witness.example/w1")
	require.NoError(t, err)
	s, err := note.NewSigner(private)
	require.NoError(t, err)
	return &cosigner{signer: s}
}

// behind says what the witness has.
type behind struct{ size int64 }

func (e behind) Error() string { return "witness: another size" }
func (e behind) Size() int64   { return e.size }

func (c *cosigner) Cosign(_ context.Context, r audit.WitnessRequest) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asks++
	text, _, _ := strings.Cut(string(r.Checkpoint), "\n\n")
	lines := strings.Split(text, "\n")
	size, err1 := strconv.ParseInt(lines[1], 10, 64)
	hash, err2 := tlog.ParseHash(lines[2])
	switch {
	case errors.Join(err1, err2) != nil:
		return nil, errors.New("witness: no checkpoint")
	case c.down:
		return nil, errors.New("witness: down")
	case r.OldSize != c.tree.N:
		return nil, behind{c.tree.N}
	case r.OldSize == size && hash != c.tree.Hash,
		r.OldSize > 0 && r.OldSize < size && tlog.CheckTree(r.Proof, size, hash, c.tree.N, c.tree.Hash) != nil:
		return nil, fmt.Errorf("witness: fork: %w", audit.ErrRollback)
	}
	c.tree = tlog.Tree{N: size, Hash: hash}
	signed, err := note.Sign(&note.Note{Text: text + "\n"}, c.signer)
	_, sig, _ := strings.Cut(string(signed), "\n\n")
	return []byte(sig), err
}

// stamper's token is the digest, so that a test can see what it is about.
type stamper struct {
	down bool
	n    int
}

func (s *stamper) Stamp(_ context.Context, digest [32]byte) ([]byte, error) {
	if s.down {
		return nil, errors.New("tsa: down")
	}
	s.n++
	return digest[:], nil
}

func TestWitnesses(t *testing.T) {
	one, two := newCosigner(t), newCosigner(t)
	two.down = true
	dir := logDir(t)
	o := &audit.Options{Witnesses: []audit.Witness{one, two}, Quorum: 1}
	l := open(t, dir, o)
	cp, waits := l.Cosigned()
	require.Nil(t, cp)
	require.NoError(t, waits)
	emitFast(t, l, 0, 300)
	require.NoError(t, l.Upkeep(t.Context()))
	cp, waits = l.Cosigned()
	require.ErrorContains(t, waits, "witness 2: witness: down")
	require.Contains(t, string(cp), "\n300\n")
	require.Contains(t, string(cp), one.signer.Name())
	require.Equal(t, 1, one.asks)
	require.NoError(t, l.Upkeep(t.Context()), "nothing is new")
	require.Equal(t, 1, one.asks)
	require.NotContains(t, string(l.Checkpoint()), one.signer.Name(), "proofs hold the log's own signature alone")

	two.down = false // it comes late, and knows nothing yet
	emitFast(t, l, 300, 700)
	require.NoError(t, l.Upkeep(t.Context()))
	cp, waits = l.Cosigned()
	require.NoError(t, waits)
	require.Equal(t, 3, strings.Count(string(cp), "\n— "), "the log's signature and theirs")
	require.NoError(t, l.Check(t.Context()))
	require.NoError(t, l.Close())

	l = open(t, dir, o)
	again, _ := l.Cosigned()
	require.Equal(t, cp, again, "it is kept")
	emitFast(t, l, 700, 710)
	require.NoError(t, l.Upkeep(t.Context()))
	require.EqualValues(t, 710, one.tree.N)
}

// TestNoQuorum: entries and proofs don't wait for witnesses.
func TestNoQuorum(t *testing.T) {
	w := newCosigner(t)
	w.down = true
	l := open(t, logDir(t), &audit.Options{Witnesses: []audit.Witness{w}})
	emitFast(t, l, 0, 3)
	require.NoError(t, l.Upkeep(t.Context()))
	cp, waits := l.Cosigned()
	require.Nil(t, cp)
	require.Error(t, waits)
	proof, err := l.Prove(t.Context(), "e1")
	require.NoError(t, err)
	_, err = audit.Verify(proof, l.Verifier())
	require.NoError(t, err)
	w.down = false
	require.NoError(t, l.Upkeep(t.Context()))
	cp, waits = l.Cosigned()
	require.NotNil(t, cp)
	require.NoError(t, waits)
}

// TestAWitnessSeesARollback: an older copy of the whole log, its kept checkpoint included, passes for current without one.
func TestAWitnessSeesARollback(t *testing.T) {
	w := newCosigner(t)
	base := t.TempDir()
	dir := filepath.Join(base, "now", "log")
	require.NoError(t, os.Mkdir(filepath.Dir(dir), 0o700))
	told := make(chan error, 100)
	o := &audit.Options{Witnesses: []audit.Witness{w}, Interval: time.Millisecond, Trouble: func(err error) { told <- err }}
	l := open(t, dir, o)
	emitFast(t, l, 0, 10)
	require.NoError(t, l.Upkeep(t.Context()))
	require.NoError(t, l.Close())
	require.NoError(t, os.CopyFS(filepath.Join(base, "old"), os.DirFS(filepath.Dir(dir))))
	require.NoError(t, os.Chmod(filepath.Join(base, "old", "log.key"), 0o600)) // CopyFS lets others read
	l = open(t, dir, o)
	emitFast(t, l, 10, 20)
	require.NoError(t, l.Upkeep(t.Context()))
	require.NoError(t, l.Close())

	old := open(t, filepath.Join(base, "old", "log"), o)
	emitFast(t, old, 30, 31)
	require.ErrorIs(t, old.Upkeep(t.Context()), audit.ErrRollback, "the witness has signed more")
	emitFast(t, old, 31, 60)
	require.ErrorIs(t, old.Upkeep(t.Context()), audit.ErrRollback, "and another history")
	require.ErrorIs(t, <-told, audit.ErrRollback)

	// Run tells, and goes on: one witness alone stops no mail.
	w.down = true
	_ = old.Upkeep(t.Context())
	for len(told) > 0 {
		<-told
	}
	w.down = false
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- old.Run(ctx) }()
	require.ErrorIs(t, <-told, audit.ErrRollback)
	cancel()
	require.NoError(t, <-ended)
}

// TestAWitnessThatAnswersNonsense does not keep the others' signatures from counting.
func TestAWitnessThatAnswersNonsense(t *testing.T) {
	w := newCosigner(t)
	l := open(t, logDir(t), &audit.Options{Witnesses: []audit.Witness{nonsense{}, w}, Quorum: 1})
	emitFast(t, l, 0, 3)
	require.NoError(t, l.Upkeep(t.Context()))
	cp, waits := l.Cosigned()
	require.Contains(t, string(cp), w.signer.Name())
	require.ErrorContains(t, waits, "witness 1")
}

type nonsense struct{}

func (nonsense) Cosign(context.Context, audit.WitnessRequest) ([]byte, error) {
	return []byte("— w !!!\nmore\n"), nil
}

// TestAProofHoldsOneSignature: a line behind it that nobody asked for would be an octet that nobody checks.
func TestAProofHoldsOneSignature(t *testing.T) {
	w := newCosigner(t)
	l := open(t, logDir(t), &audit.Options{Witnesses: []audit.Witness{w}})
	emitFast(t, l, 0, 3)
	require.NoError(t, l.Upkeep(t.Context()))
	proof, err := l.Prove(t.Context(), "e1")
	require.NoError(t, err)
	cp, _ := l.Cosigned()
	_, lines, _ := strings.Cut(string(cp), l.Verifier().Name()+" ")
	_, cosignature, _ := strings.Cut(lines, "\n")
	_, err = audit.Verify(append(proof, cosignature...), l.Verifier())
	require.ErrorIs(t, err, audit.ErrProof)
}

func TestStampOfTheDay(t *testing.T) {
	now := time.Date(2026, 11, 25, 23, 0, 0, 0, time.UTC)
	s, w := &stamper{down: true}, newCosigner(t)
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Stamper: s, Witnesses: []audit.Witness{w}, Now: func() time.Time { return now }})
	require.NoError(t, l.Emit(t.Context(), full(t)))
	require.NoError(t, l.Upkeep(t.Context()))
	_, waits := l.Cosigned()
	require.ErrorContains(t, waits, "tsa: down")
	emitFast(t, l, 0, 5)
	s.down = false
	for range 3 {
		require.NoError(t, l.Upkeep(t.Context()))
	}
	require.Equal(t, 1, s.n, "once a day")
	token, err := os.ReadFile(filepath.Join(dir, "stamp", "2026-11-25"))
	require.NoError(t, err)
	stamped, err := os.ReadFile(filepath.Join(dir, "stamp", "2026-11-25.checkpoint"))
	require.NoError(t, err)
	require.Contains(t, string(stamped), "\n1\n", "the first checkpoint of the day, though the stamper was down then")
	sum := sha256.Sum256(stamped)
	require.Equal(t, sum[:], token)

	b, err := l.Evidence(t.Context(), "parcel1")
	require.NoError(t, err)
	e, err := audit.VerifyEvidence(b, l.Verifier())
	require.NoError(t, err)
	require.EqualValues(t, 6, e.Size)
	require.Contains(t, string(e.Checkpoint), w.signer.Name())
	require.Equal(t, stamped, e.Stamp.Checkpoint)
	require.Equal(t, token, e.Stamp.Token)
	for i := range b { // stamp and cosignatures too
		c := bytes.Clone(b)
		c[i] ^= 1
		_, err := audit.VerifyEvidence(c, l.Verifier())
		require.Error(t, err)
	}

	late := full(t)
	late.ID = "late"
	require.NoError(t, l.Emit(t.Context(), late))
	b, err = l.Evidence(t.Context(), "parcel1")
	require.NoError(t, err)
	e, err = audit.VerifyEvidence(b, l.Verifier())
	require.NoError(t, err)
	require.Nil(t, e.Stamp, "today's is older than the entry")
	require.NotContains(t, string(e.Checkpoint), w.signer.Name(), "no witness has signed for it yet")
	now = now.Add(2 * time.Hour)
	require.NoError(t, l.Upkeep(t.Context()))
	b, err = l.Evidence(t.Context(), "parcel1")
	require.NoError(t, err)
	e, err = audit.VerifyEvidence(b, l.Verifier())
	require.NoError(t, err)
	require.NotNil(t, e.Stamp)
	require.Equal(t, 2, s.n)
}

func TestQuorumIsChecked(t *testing.T) {
	_, err := audit.Open(t.Context(), logDir(t), &audit.Options{Quorum: 1})
	require.ErrorContains(t, err, "Quorum")
}
