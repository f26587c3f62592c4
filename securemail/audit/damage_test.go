package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// copyTree copies the folder of a log, and what lies beside it.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(to))
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	for _, s := range []string{".key", ".key.seen"} {
		b, err := os.ReadFile(from + s)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to+s, b, 0o600))
	}
}

func listFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			names = append(names, path)
		}
		return err
	}))
	return names
}

// TestEveryFlipIsFound flips octets of every file of an open log, and Check finds each.
func TestEveryFlipIsFound(t *testing.T) {
	t.Parallel()
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Hour})
	emitFast(t, l, 0, 600)
	require.NoError(t, l.Publish(t.Context()))
	emit(t, l, 600, 601)
	require.NoError(t, l.Publish(t.Context()))
	require.NoError(t, l.Close())
	l = open(t, dir, &audit.Options{Interval: time.Hour})
	emit(t, l, 601, 602) // published by Emit: the first after Open
	emit(t, l, 602, 604) // in the journal
	require.NoError(t, l.Check(t.Context()))
	files := append(listFiles(t, dir), dir+".key.seen")
	require.Greater(t, len(files), 10)
	for _, path := range files {
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		step := max(1, len(good)/25)
		for i := 0; i < len(good); i += step {
			b := bytes.Clone(good)
			b[i] ^= 1 << (i % 8)
			require.NoError(t, os.WriteFile(path, b, 0o600))
			require.ErrorIs(t, l.Check(t.Context()), audit.ErrCorrupt, "%s %d", path, i)
		}
		require.NoError(t, os.WriteFile(path, good[:len(good)-1], 0o600))
		require.ErrorIs(t, l.Check(t.Context()), audit.ErrCorrupt, path)
		require.NoError(t, os.WriteFile(path, append(bytes.Clone(good), 'x'), 0o600))
		require.ErrorIs(t, l.Check(t.Context()), audit.ErrCorrupt, path)
		require.NoError(t, os.WriteFile(path, good, 0o600))
	}
	for _, path := range files {
		if filepath.Base(filepath.Dir(path)) == "000.p" || filepath.Base(path) == "1" {
			continue // a narrower version that may be missing
		}
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		err = l.Check(t.Context())
		require.NoError(t, os.WriteFile(path, good, 0o600))
		if err == nil {
			require.Contains(t, path, ".p", "only old partial tiles may be missing")
			continue
		}
		require.ErrorIs(t, err, audit.ErrCorrupt, path)
	}
	require.NoError(t, l.Check(t.Context()))
}

// TestOpenFindsDamage flips octets of every file that Open depends on.
func TestOpenFindsDamage(t *testing.T) {
	t.Parallel()
	dir, work := logDir(t), logDir(t)
	l := open(t, dir, nil)
	emitFast(t, l, 0, 300)
	require.NoError(t, l.Close())
	for _, path := range listFiles(t, dir) {
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		for i := 0; i < len(good); i += max(1, len(good)/10) {
			copyTree(t, dir, work)
			b := bytes.Clone(good)
			b[i] ^= 0x10
			rel, err := filepath.Rel(dir, path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(work, rel), b, 0o600))
			l, err := audit.Open(t.Context(), work, nil)
			if err == nil {
				err = l.Check(t.Context())
				require.NoError(t, l.Close())
			}
			if rel == "index" {
				require.NoError(t, err, "the index is made anew")
				continue
			}
			require.ErrorIs(t, err, audit.ErrCorrupt, "%s %d", rel, i)
		}
	}
}

func TestRollbackIsFound(t *testing.T) {
	dir, old := logDir(t), logDir(t)
	l := open(t, dir, nil)
	emit(t, l, 0, 10)
	require.NoError(t, l.Close())
	copyTree(t, dir, old)
	l = open(t, dir, nil)
	emit(t, l, 10, 20)
	require.NoError(t, l.Publish(t.Context()))
	cp, err := os.ReadFile(filepath.Join(old, "checkpoint"))
	require.NoError(t, err)
	good, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), cp, 0o600))
	require.ErrorIs(t, l.Check(t.Context()), audit.ErrRollback)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), good, 0o600))
	require.NoError(t, l.Close())

	seen := dir + ".key.seen"
	_, err = audit.Open(t.Context(), old, &audit.Options{Seen: seen})
	require.ErrorIs(t, err, audit.ErrRollback)
	require.NoError(t, os.RemoveAll(dir))
	_, err = audit.Open(t.Context(), dir, nil)
	require.Error(t, err, "a log that is gone is not begun anew")
	require.ErrorIs(t, err, audit.ErrRollback)
	require.NoError(t, os.Remove(seen))
	open(t, dir, nil)
}

func TestMissingParts(t *testing.T) {
	dir, work := logDir(t), logDir(t)
	l := open(t, dir, nil)
	emitFast(t, l, 0, 300)
	require.NoError(t, l.Close())
	for _, path := range listFiles(t, dir) {
		rel, err := filepath.Rel(dir, path)
		require.NoError(t, err)
		copyTree(t, dir, work)
		require.NoError(t, os.Remove(filepath.Join(work, rel)))
		l, err := audit.Open(t.Context(), work, nil)
		if err == nil {
			err = l.Check(t.Context())
			require.NoError(t, l.Close())
		}
		switch {
		case rel == "index" || filepath.Ext(filepath.Dir(rel)) == ".p" && err == nil:
		default:
			require.ErrorIs(t, err, audit.ErrCorrupt, rel)
		}
	}
	copyTree(t, dir, work)
	require.NoError(t, os.Rename(filepath.Join(work, "journal-300"), filepath.Join(work, "journal-400")))
	_, err := audit.Open(t.Context(), work, nil)
	require.ErrorIs(t, err, audit.ErrCorrupt, "a gap")
	require.NoError(t, os.Rename(filepath.Join(work, "journal-400"), filepath.Join(work, "journal-x")))
	_, err = audit.Open(t.Context(), work, nil)
	require.ErrorIs(t, err, audit.ErrCorrupt)
}

// TestTornJournal cuts the journal at many octets; what is whole is in the log, the rest never was.
func TestTornJournal(t *testing.T) {
	t.Parallel()
	dir, work := logDir(t), logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Hour})
	emit(t, l, 0, 1) // published
	emit(t, l, 1, 4)
	copyTree(t, dir, work)
	whole, err := os.ReadFile(filepath.Join(dir, "journal-1"))
	require.NoError(t, err)
	last := 0
	for n := 0; n <= len(whole); n += 29 {
		copyTree(t, dir, work)
		require.NoError(t, os.WriteFile(filepath.Join(work, "journal-1"), whole[:n], 0o600))
		w, err := audit.Open(t.Context(), work, nil)
		require.NoError(t, err)
		var size, emitted int
		for i := 1; i < 4; i++ {
			if _, err := w.Prove(t.Context(), fmt.Sprint("e", i)); err == nil {
				size++
			} else {
				require.ErrorIs(t, err, audit.ErrUnknown)
				require.NoError(t, w.Emit(t.Context(), event(fmt.Sprint("e", i))))
				emitted++
			}
		}
		require.GreaterOrEqual(t, size, last)
		last = size
		require.NoError(t, w.Check(t.Context()))
		require.NoError(t, w.Close())
	}
	copyTree(t, dir, work)
	b := bytes.Clone(whole)
	b[len(b)-1] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(work, "journal-1"), b, 0o600))
	_, err = audit.Open(t.Context(), work, nil)
	require.ErrorIs(t, err, audit.ErrCorrupt)
	require.NoError(t, os.WriteFile(filepath.Join(work, "journal-1"), append(whole, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9), 0o600))
	_, err = audit.Open(t.Context(), work, nil)
	require.ErrorIs(t, err, audit.ErrCorrupt)
}

// TestOldJournalIsSkipped: a crash between checkpoint and new journal leaves entries in both.
func TestOldJournalIsSkipped(t *testing.T) {
	dir, work := logDir(t), logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Hour})
	emit(t, l, 0, 1)
	emit(t, l, 1, 4)
	old, err := os.ReadFile(filepath.Join(dir, "journal-1"))
	require.NoError(t, err)
	require.NoError(t, l.Publish(t.Context()))
	for name, keepNew := range map[string]bool{"not removed": true, "no new one": false} {
		copyTree(t, dir, work)
		require.NoError(t, os.WriteFile(filepath.Join(work, "journal-1"), old, 0o600))
		if !keepNew {
			require.NoError(t, os.Remove(filepath.Join(work, "journal-4")))
		}
		for from := 4; from < 10; from += 2 {
			w, err := audit.Open(t.Context(), work, &audit.Options{Interval: time.Hour})
			require.NoError(t, err, name)
			require.Contains(t, string(w.Checkpoint()), fmt.Sprintf("\n%d\n", from))
			emit(t, w, from, from+2)
			require.NoError(t, w.Check(t.Context()))
			require.NoError(t, w.Close())
		}
	}
}

func TestPublishFails(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Nanosecond})
	emit(t, l, 0, 1)
	for _, blocked := range []string{filepath.Join(dir, "checkpoint.tmp"), dir + ".key.seen.tmp", filepath.Join(dir, "tile", "entries", "000.p", "4.tmp")} {
		require.NoError(t, os.Mkdir(blocked, 0o700))
		size := len(l.Checkpoint())
		emit(t, l, 1, 4)
		require.NotZero(t, size)
		_ = l.Publish(t.Context())
		require.NoError(t, os.Remove(blocked))
		emit(t, l, 4, 6)
		require.NoError(t, l.Publish(t.Context()))
		_, err := l.Prove(t.Context(), "e5")
		require.NoError(t, err)
	}
	emit(t, l, 6, 7)
	require.NoError(t, l.Check(t.Context()))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "checkpoint.tmp"), 0o700))
	emit(t, l, 7, 8)
	_, err := l.Prove(t.Context(), "e7")
	require.Error(t, err)
	require.ErrorContains(t, l.Run(t.Context()), "audit: checkpoint")
	require.Error(t, l.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "checkpoint.tmp")))
	l = open(t, dir, nil)
	_, err = l.Prove(t.Context(), "e7")
	require.NoError(t, err)
}

// What follows a checkpoint and failed is made up for, also where no entry comes any more: else an older folder would
// pass for the newest.
func TestWhatFollowsACheckpointIsMadeUpFor(t *testing.T) {
	dir := logDir(t)
	seen := filepath.Join(t.TempDir(), "far", "seen")
	require.NoError(t, os.MkdirAll(filepath.Dir(seen), 0o700))
	l := open(t, dir, &audit.Options{Interval: time.Hour, Seen: seen})
	require.NoError(t, os.RemoveAll(filepath.Dir(seen)))
	require.NoError(t, l.Emit(t.Context(), event("a")))
	require.Error(t, l.Publish(t.Context()))
	require.Error(t, l.Publish(t.Context()))
	require.NoError(t, os.MkdirAll(filepath.Dir(seen), 0o700))
	require.NoError(t, l.Publish(t.Context()))
	b, err := os.ReadFile(seen)
	require.NoError(t, err)
	require.Equal(t, string(l.Checkpoint()), string(b))
	require.NoError(t, l.Emit(t.Context(), event("b")))
	require.NoError(t, l.Check(t.Context()))
}

func TestProofMutations(t *testing.T) {
	l := open(t, logDir(t), nil)
	emitFast(t, l, 0, 300)
	p, err := l.Prove(t.Context(), "e77")
	require.NoError(t, err)
	t.Logf("proof of %d octets", len(p))
	for i := range p {
		for bit := range 8 {
			b := bytes.Clone(p)
			b[i] ^= 1 << bit
			_, err := audit.Verify(b, l.Verifier())
			require.ErrorIs(t, err, audit.ErrProof, "%d %d", i, bit)
		}
		_, err := audit.Verify(p[:i], l.Verifier())
		require.ErrorIs(t, err, audit.ErrProof)
		_, err = audit.Verify(slices.Concat(p[:i], []byte("\r"), p[i:]), l.Verifier())
		require.ErrorIs(t, err, audit.ErrProof)
		_, err = audit.Verify(slices.Concat(p[:i], []byte("\n"), p[i:]), l.Verifier())
		require.ErrorIs(t, err, audit.ErrProof)
	}
	_, err = audit.Verify(make([]byte, 1<<20), l.Verifier())
	require.ErrorIs(t, err, audit.ErrProof)
	stranger := open(t, logDir(t), nil)
	_, err = audit.Verify(p, stranger.Verifier())
	require.ErrorIs(t, err, audit.ErrProof)
}

func TestProveFindsDamage(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	emitFast(t, l, 0, 600)
	require.NoError(t, l.Publish(t.Context()))
	path := filepath.Join(dir, "tile", "0", "001")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	bad := bytes.Clone(good)
	bad[0] ^= 1
	require.NoError(t, os.WriteFile(path, bad, 0o600))
	failed := 0
	for i := 0; i < 600; i += 11 {
		if _, err := l.Prove(t.Context(), fmt.Sprint("e", i)); err != nil {
			require.ErrorIs(t, err, audit.ErrCorrupt)
			failed++
		}
	}
	require.Positive(t, failed, "a wrong proof is never given out")
	require.NoError(t, os.Remove(path))
	failed = 0
	for i := 0; i < 600; i += 11 {
		if _, err := l.Prove(t.Context(), fmt.Sprint("e", i)); err != nil {
			require.ErrorIs(t, err, audit.ErrCorrupt)
			failed++
		}
	}
	require.Positive(t, failed)
}

// TestTreeIsThatOfRFC6962 compares root and tiles with golang.org/x/mod's own.
func TestTreeIsThatOfRFC6962(t *testing.T) {
	var records [][]byte
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(ix []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(ix))
		for i, at := range ix {
			out[i] = stored[at]
		}
		return out, nil
	})
	const largest = 1<<16 + 300
	for i := range largest {
		records = append(records, fmt.Append(nil, i))
		hs, err := tlog.StoredHashes(int64(i), records[i], reader)
		require.NoError(t, err)
		stored = append(stored, hs...)
	}
	check := func(t require.TestingT, n int) {
		root, full, err := audit.Root(records[:n])
		require.NoError(t, err)
		want, err := tlog.TreeHash(int64(n), reader)
		require.NoError(t, err)
		require.Equal(t, want, root)
		count := 0
		for _, tile := range tlog.NewTiles(8, 0, int64(n)) {
			if tile.W == 256 {
				data, err := tlog.ReadTileData(tile, reader)
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, full[audit.TilePath(tile.L, tile.N, 256)]))
				count++
			}
		}
		require.Len(t, full, count)
	}
	check(t, largest)
	check(t, 1<<16)
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.IntRange(0, 1000).Draw(t, "n")) })
}

func TestTilePath(t *testing.T) {
	require.Equal(t, "tile/0/x001/x234/067", audit.TilePath(0, 1234067, 256))
	require.Equal(t, "tile/3/000.p/5", audit.TilePath(3, 0, 5))
	require.Equal(t, "tile/entries/x001/000.p/255", audit.TilePath(-1, 1000, 255))
}

func TestIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hashes := rapid.SliceOfN(rapid.Uint64Range(0, 50), 0, 300).Draw(t, "hashes")
		found, reread := audit.Index(hashes, seal.NewKey())
		want := map[uint64][]uint32{}
		for i, h := range hashes {
			want[h] = append(want[h], uint32(i))
		}
		for h := range uint64(52) {
			require.ElementsMatch(t, want[h], found(h))
			require.ElementsMatch(t, want[h], reread(h))
		}
	})
}

func TestFIPSOnly(t *testing.T) {
	if os.Getenv("GODEBUG") == "fips140=only" {
		t.Skip("is the child")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^(TestProveAndVerify|TestEmitIsIdempotent|TestEntryHoldsTheEvidence)$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: TestProveAndVerify")
}

func FuzzParseBundle(f *testing.F) {
	f.Add(audit.Bundle([][]byte{[]byte("a"), nil, make([]byte, audit.MaxEntry)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if entries, err := audit.ParseBundle(b); err == nil {
			require.True(t, bytes.Equal(b, audit.Bundle(entries)))
		}
	})
}

func FuzzVerify(f *testing.F) {
	l := open(f, logDir(f), nil)
	emit(f, l, 0, 3)
	p, err := l.Prove(f.Context(), "e1")
	require.NoError(f, err)
	f.Add(p)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = audit.ParseProof(b)
		if _, err := audit.Verify(b, l.Verifier()); err == nil {
			require.Equal(t, p, b)
		}
	})
}

func FuzzKeyFileAndIndex(f *testing.F) {
	f.Add([]byte("postseal audit key v1: keep secret, keep a copy apart from the log\na\nb\nc\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		require.Error(t, audit.ParseKeys(b))
		require.False(t, audit.ParseIndex(make([]byte, 32), b, 1<<30))
	})
}

func FuzzJournal(f *testing.F) {
	dir, work := logDir(f), logDir(f)
	l := open(f, dir, &audit.Options{Interval: time.Hour})
	emit(f, l, 0, 3)
	require.NoError(f, f.Context().Err())
	copyTree(f, dir, work)
	b, err := os.ReadFile(filepath.Join(dir, "journal-1"))
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		copyTree(t, dir, work)
		require.NoError(t, os.WriteFile(filepath.Join(work, "journal-1"), b, 0o600))
		w, err := audit.Open(t.Context(), work, nil)
		if err != nil {
			require.True(t, errors.Is(err, audit.ErrCorrupt))
			return
		}
		require.NoError(t, w.Close())
	})
}

var _ securemail.Ledger = (*audit.Log)(nil)
