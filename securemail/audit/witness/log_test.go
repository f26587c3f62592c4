package witness_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/witness"
)

// site is an audit log in a folder.
type site struct {
	dir string
	log *audit.Log
}

func openSite(t testing.TB, dir string) *site {
	l, err := audit.Open(t.Context(), filepath.Join(dir, "log"), &audit.Options{Origin: origin})
	require.NoError(t, err)
	return &site{dir, l}
}

// grow records n events and signs a checkpoint.
func (s *site) grow(t testing.TB, n int, word string) {
	for i := range n {
		e := securemail.Event{ID: fmt.Sprint(word, i), Kind: "delivered", Time: time.Unix(1_700_000_000, 0), By: securemail.Actor{Tenant: "t"}}
		require.NoError(t, s.log.Emit(t.Context(), e))
	}
	require.NoError(t, s.log.Publish(t.Context()))
}

// request proves by the log's published tile, as any client of https://c2sp.org/tlog-tiles can, for up to 255 entries.
func (s *site) request(t testing.TB, old int64) audit.WitnessRequest {
	cp := s.log.Checkpoint()
	size, err := strconv.ParseInt(strings.Split(string(cp), "\n")[1], 10, 64)
	require.NoError(t, err)
	leaves, err := os.ReadFile(filepath.Join(s.dir, "log", "tile", "0", "000.p", fmt.Sprint(size)))
	require.NoError(t, err)
	all := &tree{size: size}
	for n := range size {
		hs, err := tlog.StoredHashesForRecordHash(n, tlog.Hash(leaves[n*tlog.HashSize:]), all)
		require.NoError(t, err)
		all.hashes = append(all.hashes, hs...)
	}
	r := audit.WitnessRequest{OldSize: old, Checkpoint: cp}
	if old > 0 && old < size {
		r.Proof, err = tlog.ProveTree(size, old, all)
		require.NoError(t, err)
	}
	return r
}

// copyTo makes a copy of the whole site, keys too: what an attacker has who got hold of a back-up.
func (s *site) copyTo(t testing.TB, dir string) {
	require.NoError(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		rel, err2 := filepath.Rel(s.dir, path)
		if err = errors.Join(err, err2); err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(filepath.Join(dir, rel), 0o700))
		}
		b, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(filepath.Join(dir, rel), b, 0o600))
	}))
}

// TestRealLog: with one witness, a log that is put back to an older copy with its keys, or goes on from one, is found out, though
// the log itself, its folder and the checkpoint beside it are in perfect order.
func TestRealLog(t *testing.T) {
	s := openSite(t, t.TempDir())
	s.grow(t, 20, "a")
	f, server := newFar(t, 1, s.log.Verifier())
	c := client(t, server.URL, f.cosigner)
	lines, err := c.Cosign(t.Context(), s.request(t, 0))
	require.NoError(t, err)
	p, err := witness.ParsePolicy([]byte("log " + s.log.PublicKey() + "\nwitness w " + f.vkey() + "\nquorum w\n"))
	require.NoError(t, err)
	v, err := p.Verify(append(s.log.Checkpoint(), lines...))
	require.NoError(t, err)
	require.EqualValues(t, 20, v.Size)

	require.NoError(t, s.log.Close())
	older := t.TempDir()
	s.copyTo(t, older)
	s = openSite(t, s.dir)
	s.grow(t, 30, "b")
	_, err = c.Cosign(t.Context(), s.request(t, 20))
	require.NoError(t, err)
	require.NoError(t, s.log.Close())

	back := openSite(t, older)
	_, err = c.Cosign(t.Context(), back.request(t, 20))
	require.ErrorIs(t, err, audit.ErrRollback)
	conflict, ok := errors.AsType[*witness.ConflictError](err)
	require.True(t, ok)
	require.EqualValues(t, 50, conflict.Size())

	back.grow(t, 60, "c") // longer than the true one, signed by the true key
	require.NoError(t, back.log.Check(t.Context()))
	_, err = note.Open(back.log.Checkpoint(), note.VerifierList(s.log.Verifier()))
	require.NoError(t, err)
	_, err = c.Cosign(t.Context(), back.request(t, 50))
	require.ErrorIs(t, err, witness.ErrFork)
	_, err = p.Verify(back.log.Checkpoint())
	require.ErrorIs(t, err, witness.ErrPolicy)
	require.NoError(t, back.log.Close())
}
