package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
)

func verify(t testing.TB, b []byte, open backup.Opener, logKey string) error {
	t.Helper()
	_, err := backup.Verify(t.Context(), bytes.NewReader(b), open, logKey)
	return err
}

// headEnd is where the sealed part begins.
func headEnd(b []byte) int {
	at := len("postseal backup v1\n")
	return at + 4 + int(binary.BigEndian.Uint32(b[at:]))
}

// TestEveryChangeIsFound flips octets, cuts, appends, repeats and exchanges.
func TestEveryChangeIsFound(t *testing.T) {
	s := filled(t)
	b, _ := s.backup()
	other, _ := s.backup()
	open, key := s.opener(), s.log.PublicKey()
	require.NoError(t, verify(t, b, open, key))
	bad := func(what string, b []byte) {
		t.Helper()
		if err := verify(t, b, open, key); err == nil {
			t.Errorf("%s was not found", what)
		}
	}
	end := headEnd(b)
	for i := 0; i < len(b); i++ {
		if i > end+200 && i%211 != 0 && i < len(b)-200 {
			continue
		}
		c := slices.Clone(b)
		c[i] ^= 1 << (i % 8)
		bad(fmt.Sprintf("a flip at %d of %d", i, len(b)), c)
	}
	for _, n := range []int{0, 5, end - 1, end, end + 10, len(b) / 2, len(b) - 1} {
		bad(fmt.Sprintf("a cut at %d", n), b[:n])
	}
	const chunk = seal.ChunkSize + 28
	first := end + 60
	require.Greater(t, len(b), first+3*chunk)
	for n := len(b); n > first; n -= chunk {
		bad("a cut between chunks", b[:first+(n-first)/chunk*chunk])
	}
	bad("an octet behind its end", append(slices.Clone(b), 0))
	bad("itself behind its end", append(slices.Clone(b), b...))
	swapped := slices.Clone(b)
	copy(swapped[first:], b[first+chunk:first+2*chunk])
	copy(swapped[first+chunk:], b[first:first+chunk])
	bad("two chunks exchanged", swapped)
	bad("another backup's header", append(slices.Clone(other[:headEnd(other)]), b[end:]...))
	mixed := slices.Clone(b)
	copy(mixed[first:first+chunk], other[headEnd(other)+60:])
	bad("another backup's chunk", mixed)
}

func TestWrongKeys(t *testing.T) {
	s, o := filled(t), filled(t)
	b, _ := s.backup()
	require.Error(t, verify(t, b, o.opener(), ""))
	require.ErrorIs(t, verify(t, b, s.opener(), o.log.PublicKey()), backup.ErrCorrupt)
	require.ErrorContains(t, verify(t, b, s.opener(), "no key"), "public key")
	require.NoError(t, verify(t, b, s.opener(), ""), "who signed is not asked")

	// m of n custodians open it, fewer don't.
	shares, err := s.ring.Split(t.Context(), 2, 3)
	require.NoError(t, err)
	root, err := keyring.Join(shares[2], shares[0])
	require.NoError(t, err)
	require.NoError(t, verify(t, b, func(_ context.Context, w []byte) ([]byte, error) { return keyring.OpenBackupKey(root, w) }, ""))
	_, err = keyring.Join(shares[1])
	require.Error(t, err)

	// A key that was rotated away still opens what was made under it, and nothing newer.
	old := s.opener()
	require.NoError(t, s.ring.RotateRoot(t.Context()))
	newer, _ := s.backup()
	require.NoError(t, verify(t, b, old, ""))
	require.Error(t, verify(t, newer, old, ""))
	require.NoError(t, verify(t, newer, s.opener(), ""))
}

// TestFailedRestoreLeavesNoRow: what is found at the very end must not leave what came before it.
func TestFailedRestoreLeavesNoRow(t *testing.T) {
	s := filled(t)
	b, _ := s.backup()
	b[len(b)-1] ^= 1
	dir := t.TempDir()
	db := lite(t, filepath.Join(dir, "mail.db"))
	_, _, err := s.restored(b, db, dir)
	require.ErrorIs(t, err, backup.ErrCorrupt)
	var n int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM sqlite_master").Scan(&n))
	require.Zero(t, n)
	m, err := backup.Pending(t.Context(), db)
	require.NoError(t, err)
	require.Nil(t, m)
}

func blobFiles(t *testing.T, s *store) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(s.path("blobs"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p)
		}
		return err
	}))
	return out
}

func TestDamagedAndMissingBlobs(t *testing.T) {
	s := filled(t)
	s.put(1, 100<<10)
	files := blobFiles(t, s)
	require.Len(t, files, 2)
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	raw[len(raw)/2] ^= 1
	require.NoError(t, os.WriteFile(files[0], raw, 0o600))
	require.NoError(t, os.Remove(files[1]))

	var b bytes.Buffer
	rep, err := backup.Write(t.Context(), &b, s.set())
	require.ErrorIs(t, err, backup.ErrIncomplete)
	require.Len(t, rep.Damaged, 1)
	require.Len(t, rep.Missing, 1)
	require.False(t, rep.Whole())
	told, err := backup.Verify(t.Context(), bytes.NewReader(b.Bytes()), s.opener(), "")
	require.ErrorIs(t, err, backup.ErrIncomplete)
	require.Equal(t, rep.Missing, told.Missing)
	dir := t.TempDir()
	_, rep, err = s.restored(b.Bytes(), lite(t, filepath.Join(dir, "mail.db")), dir)
	require.ErrorIs(t, err, backup.ErrIncomplete)
	require.Len(t, rep.Damaged, 1)
}

// vanishing loses a blob, and its row, as the end of a parcel does.
type vanishing struct {
	securemail.BlobStore
	end func(key string)
}

func (v *vanishing) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	v.end(key)
	return v.BlobStore.Open(ctx, key)
}

func TestABlobOfAParcelThatEndedMeanwhileIsNotMissed(t *testing.T) {
	s := liteStore(t)
	s.put(1, 100<<10)
	set := s.set()
	set.Blobs = &vanishing{s.blobs, func(string) {
		s.mark(securemail.StateAttempting, securemail.StateDelivered)
	}}
	var b bytes.Buffer
	rep, err := backup.Write(t.Context(), &b, set)
	require.NoError(t, err)
	require.EqualValues(t, 1, rep.Gone)
	require.Zero(t, rep.Blobs)
	require.NoError(t, verify(t, b.Bytes(), s.opener(), ""))
}

func TestADestroyedScopeStopsNoBackup(t *testing.T) {
	s := liteStore(t)
	s.put(1, 100<<10)
	s.openQueue() // forgets the key
	_, err := s.ring.Destroy(t.Context(), "tenant/clinic")
	require.NoError(t, err)
	b, rep := s.backup()
	require.True(t, rep.Whole())
	require.EqualValues(t, 1, rep.Blobs)
	require.NoError(t, verify(t, b, s.opener(), ""))
}

// TestBackupUnderLoad: 64 producers and a worker go on while backups are made; each restores to a whole store.
func TestBackupUnderLoad(t *testing.T) {
	s := liteStore(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for p := range 64 {
		wg.Go(func() {
			for i := 0; i < 60 && ctx.Err() == nil; i++ {
				size := 100
				if i%4 == 3 {
					size = 80 << 10
				}
				if _, err := s.putAs(fmt.Sprintf("s%02d%023d", p, i), 1, size); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() { s.work(ctx) })
	for range 3 {
		accepted := len(s.statuses())
		var b bytes.Buffer
		rep, err := backup.Write(t.Context(), &b, s.set())
		require.NoError(t, err)
		require.GreaterOrEqual(t, rep.Rows["queue_parcel"], int64(accepted))
		to := s.restoredLite(b.Bytes())
		in, err := to.queue.Inspect(t.Context(), 0)
		require.NoError(t, err)
		require.LessOrEqual(t, len(in.Damaged), int(rep.Gone))
		live := s.statuses()
		for _, id := range in.Damaged {
			require.True(t, live[id].Final(), "only what ended while the backup was made has no body in it")
		}
		require.EqualValues(t, rep.Rows["queue_parcel"], in.Parcels)
		to.feed() // what the log did not have yet
		for id := range to.statuses() {
			_, err := to.log.Prove(t.Context(), fmt.Sprintf("e%saccepted", id))
			require.NoError(t, err, "each accepted parcel is in the log")
		}
		require.NoError(t, to.log.Check(t.Context()))
	}
}

// work delivers what is due, and feeds the log.
func (s *store) work(ctx context.Context) {
	for ctx.Err() == nil {
		ls, err := s.queue.Take(context.Background(), time.Now(), 100, 10*time.Millisecond)
		if err != nil {
			s.t.Error(err)
			return
		}
		var ms []securemail.Mark
		for _, l := range ls {
			st := l.Last
			st.State, st.Attempt = securemail.StateDelivered, l.Attempt
			ms = append(ms, securemail.Mark{Lease: l, Status: st, Events: []securemail.Event{event(&l.Parcel.Slip, st.State)}})
		}
		es, err := s.queue.Next(context.Background(), "ledger", 500)
		if err == nil && len(es) > 0 {
			err = errors.Join(s.log.EmitAll(context.Background(), es...), s.queue.Ack(context.Background(), "ledger", es[len(es)-1].ID))
		}
		if err == nil && len(ms) > 0 {
			err = s.queue.Mark(context.Background(), ms...)
		}
		if err != nil {
			s.t.Error(err)
			return
		}
	}
}

func TestErrorsAndReportsNameNobody(t *testing.T) {
	s := filled(t)
	b, rep := s.backup()
	all, err := json.Marshal(rep)
	require.NoError(t, err)
	texts := []string{string(all)}
	for _, c := range [][]byte{b[:len(b)/2], b[:3], append(slices.Clone(b), 1)} {
		texts = append(texts, verify(t, c, s.opener(), "").Error())
	}
	set := s.set()
	set.Log = os.DirFS(filepath.Join(s.dir, canary))
	_, err = backup.Write(t.Context(), io.Discard, set)
	require.ErrorIs(t, err, fs.ErrNotExist)
	texts = append(texts, err.Error())
	for _, text := range texts {
		require.NotContains(t, text, canary)
		require.NotContains(t, text, "example.org")
	}
}

func TestBadSets(t *testing.T) {
	s := filled(t)
	for name, change := range map[string]func(*backup.Set){
		"no database": func(s *backup.Set) { s.DB = nil },
		"no ring":     func(s *backup.Set) { s.Ring = nil },
		"no names":    func(s *backup.Set) { s.Named = nil },
		"no log key":  func(s *backup.Set) { s.LogKey = "" },
		"other key":   func(c *backup.Set) { c.LogKey = filled(t).log.PublicKey() },
		"publish":     func(s *backup.Set) { s.Publish = func(context.Context) error { return errors.New("no") } },
		"key fails":   func(s *backup.Set) { s.Ring = keys{s.Ring, nil, nil, errors.New("no")} },
		"long key":    func(s *backup.Set) { s.Ring = keys{s.Ring, fixedKey, make([]byte, 1<<20), nil} },
		"short key":   func(s *backup.Set) { s.Ring = keys{s.Ring, []byte{1}, []byte{1}, nil} },
		"closed": func(s *backup.Set) {
			s.DB = lite(t, filepath.Join(t.TempDir(), "x.db"))
			require.NoError(t, s.DB.Close())
		},
		"empty":      func(s *backup.Set) { s.DB = lite(t, filepath.Join(t.TempDir(), "x.db")) },
		"ring fails": func(s *backup.Set) { s.Ring = badRing{s.Ring} },
		"log cut": func(c *backup.Set) {
			c.Log = fstest.MapFS{"checkpoint": &fstest.MapFile{Data: s.log.Checkpoint()}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := s.set()
			change(set)
			rep, err := backup.Write(t.Context(), io.Discard, set)
			require.Error(t, err)
			require.Nil(t, rep)
		})
	}
	_, err := backup.Write(t.Context(), io.Discard, nil)
	require.Error(t, err)
	_, err = backup.Restore(t.Context(), strings.NewReader(""), s.opener(), nil)
	require.Error(t, err)
	for n := range 4 {
		_, err := backup.Write(t.Context(), &full{room: 100 << n * 5}, s.set())
		require.ErrorIs(t, err, errFull)
	}
}

type badRing struct{ backup.Ring }

func (badRing) Backup(context.Context, io.Writer) error { return errors.New("no") }

// keys gives a key of its own.
type keys struct {
	backup.Ring
	key, wrapped []byte
	err          error
}

func (k keys) BackupKey(context.Context) (key, wrapped []byte, err error) {
	return slices.Clone(k.key), k.wrapped, k.err
}

var errFull = errors.New("no room")

// full takes a few octets.
type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestRecordsOutOfOrder seals what no backup holds.
func TestRecordsOutOfOrder(t *testing.T) {
	m := rec('M', `{"dialect":"sqlite","packages":[]}`)
	table := rec('T', `{"name":"a","columns":[{"name":"x","kind":"int"}]}`)
	end := rec('E', `{"id":"1","taken":"2026-01-02T00:00:00Z","dialect":"sqlite","rows":{},"blobs":0,"gone":0,"log_size":-1,"octets":0}`)
	ring := rec('O', "kring") + rec('D', "x") + rec('C', "\x00")
	log := rec('O', "lcheckpoint") + rec('D', "o\n1\nAAAA\n") + rec('C', "\x00")
	for name, text := range map[string]string{
		"nothing":           "",
		"no manifest":       end,
		"two manifests":     m + m + end,
		"no end":            m,
		"no ring":           m + end,
		"two rings":         m + ring + ring + end,
		"after its end":     m + ring + end + m,
		"a row, no table":   m + rec('R', "n"),
		"a long row":        m + table + rec('R', "nn") + ring + end,
		"a short row":       m + table + rec('R', "") + ring + end,
		"a bad value":       m + table + rec('R', "x") + ring + end,
		"a cut int":         m + table + rec('R', "i") + ring + end,
		"a cut text":        m + table + rec('R', "t\x05a") + ring + end,
		"a cut float":       m + table + rec('R', "fabc") + ring + end,
		"uncounted row":     m + table + rec('R', "n") + ring + end,
		"a table too late":  m + ring + table + end,
		"a row too late":    m + table + ring + rec('R', "n") + end,
		"data alone":        m + rec('D', "x"),
		"no name":           m + rec('O', "b"),
		"unknown class":     m + rec('O', "xy") + rec('C', "\x00") + ring + end,
		"object in object":  m + rec('O', "ba") + rec('O', "bb"),
		"object not closed": m + rec('O', "ba"),
		"odd close":         m + rec('O', "ba") + rec('C', "") + ring + end,
		"uncounted blob":    m + rec('O', "ba") + rec('C', "\x00") + ring + end,
		"bad manifest":      m[:3] + "x",
		"unknown dialect":   rec('M', `{"dialect":"x","packages":[]}`) + ring + end,
		"unknown field":     rec('M', `{"x":1}`),
		"checkpoint":        m + log + ring + end,
		"tile, no log":      m + rec('O', "ltile/0/000") + rec('C', "\x00") + ring + end,
		"a huge record":     "M\xff\xff\xff\xff\x7f",
		"a bad length":      "M\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, verify(t, sealed(t, text), fixed, ""), backup.ErrCorrupt)
		})
	}
	require.NoError(t, verify(t, sealed(t, m+ring+end), fixed, ""))
	require.ErrorIs(t, verify(t, []byte("postseal backup v9\n\x00\x00\x00\x00"), fixed, ""), backup.ErrNewer)
	_, err := backup.Verify(t.Context(), strings.NewReader(string(sealed(t, m))), func(context.Context, []byte) ([]byte, error) {
		return nil, keyring.ErrUnavailable
	}, "")
	require.ErrorIs(t, err, keyring.ErrUnavailable)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = backup.Verify(ctx, bytes.NewReader(sealed(t, m+ring+end)), fixed, "")
	require.ErrorIs(t, err, context.Canceled)
}

func rec(kind byte, payload string) string {
	return string(binary.AppendUvarint([]byte{kind}, uint64(len(payload)))) + payload
}

var fixedKey = bytes.Repeat([]byte{7}, seal.KeySize)

func fixed(context.Context, []byte) ([]byte, error) { return slices.Clone(fixedKey), nil }

// sealed is a backup of the records in text.
func sealed(t testing.TB, text string) []byte {
	return sealedUnder(t, `{"id":"1","taken":"2026-01-02T00:00:00Z","key":"AA=="}`, text)
}

func sealedUnder(t testing.TB, h, text string) []byte {
	head := binary.BigEndian.AppendUint32([]byte("postseal backup v1\n"), uint32(len(h)))
	head = append(head, h...)
	b, err := seal.Seal(fixedKey, []byte(text), head)
	require.NoError(t, err)
	return append(head, b...)
}

// TestLogsOutOfOrder seals logs that no backup holds.
func TestLogsOutOfOrder(t *testing.T) {
	entry := `{"event":"e"}`
	bundle := "\x00\x0d" + entry
	hash := tlog.RecordHash([]byte(entry))
	cp := "o\n1\n" + hash.String() + "\n\n"
	head := func(cp string) string {
		b, err := json.Marshal(map[string]any{"id": "1", "taken": "2026-01-02T00:00:00Z", "key": []byte{0}, "checkpoint": cp})
		require.NoError(t, err)
		return string(b)
	}
	object := func(name, data string) string { return rec('O', "l"+name) + rec('D', data) + rec('C', "\x00") }
	m, first := rec('M', `{"dialect":"sqlite","packages":[]}`), object("checkpoint", cp)
	tile, entries := object("tile/0/000.p/1", string(hash[:])), object("tile/entries/000.p/1", bundle)
	end := rec('O', "kring") + rec('C', "\x00") +
		rec('E', `{"id":"1","taken":"2026-01-02T00:00:00Z","dialect":"sqlite","rows":{},"blobs":0,"gone":0,"log_size":1,"log_origin":"o","octets":0}`)
	check := func(cp, text string) error { return verify(t, sealedUnder(t, head(cp), text), fixed, "") }
	require.NoError(t, check(cp, m+first+tile+entries+object("catalog/x", "y")+end))
	require.NoError(t, check(cp, m+first+tile+object("catalog/x", "y")+end), "pruned")
	for name, text := range map[string]string{
		"no tile":          m + first + end,
		"entries alone":    m + first + entries + end,
		"two tiles":        m + first + tile + entries + tile + end,
		"wrong entries":    m + first + tile + object("tile/entries/000.p/1", "\x00\x0dx"+entry[1:]) + end,
		"cut entries":      m + first + tile + object("tile/entries/000.p/1", "\x00\x0e"+entry) + end,
		"no entries":       m + first + tile + object("tile/entries/000.p/1", "") + end,
		"a short tile":     m + first + object("tile/0/000.p/1", "x") + end,
		"another hash":     m + first + object("tile/0/000.p/1", strings.Repeat("x", 32)) + end,
		"another level":    m + first + object("tile/1/000.p/1", string(hash[:])) + end,
		"two checkpoints":  m + first + first + tile + end,
		"other checkpoint": m + object("checkpoint", "o\n2\n"+hash.String()+"\n\n") + tile + end,
		"a huge file":      m + first + rec('O', "lx") + strings.Repeat(rec('D', strings.Repeat("x", 1<<20)), 33) + rec('C', "\x00") + end,
	} {
		require.ErrorIs(t, check(cp, text), backup.ErrCorrupt, name)
	}
	for _, cp := range []string{"x", "o\n-1\nAAAA\n", "o\n1\n!\n", "o\nx\n\n"} {
		require.ErrorIs(t, check(cp, m+object("checkpoint", cp)+tile+end), backup.ErrCorrupt)
	}
	for _, name := range []string{"../x", "/x", "a//b", `a\b`} {
		dir := t.TempDir()
		_, err := backup.Restore(t.Context(), bytes.NewReader(sealedUnder(t, head(cp), m+first+tile+entries+object(name, "x")+end)), fixed,
			&backup.Target{DB: lite(t, filepath.Join(dir, "x.db")), LogDir: filepath.Join(dir, "log"), Ring: discard})
		require.ErrorIs(t, err, backup.ErrCorrupt, name)
	}
}

// FuzzVerify gives the reader records that somebody with the key made up.
func FuzzVerify(f *testing.F) {
	f.Add(rec('M', `{"dialect":"sqlite","packages":[{"package":"a","steps":["CREATE TABLE a_b (x {int});"]}]}`) +
		rec('T', `{"name":"a_b","columns":[{"name":"x","kind":"int"}]}`) + rec('R', "i\x02") + rec('O', "kring") + rec('C', "\x00"))
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := backup.Verify(t.Context(), bytes.NewReader(sealed(t, text)), fixed, ""); err != nil {
			require.ErrorIs(t, err, backup.ErrCorrupt)
		}
	})
}

// FuzzHeader gives the reader files of strangers.
func FuzzHeader(f *testing.F) {
	f.Add([]byte("postseal backup v1\n\x00\x00\x00\x02{}rest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := backup.Info(bytes.NewReader(b))
		_, verr := backup.Verify(t.Context(), bytes.NewReader(b), fixed, "")
		require.Error(t, verr, "nobody else has the key")
		if err != nil {
			require.True(t, errors.Is(err, backup.ErrCorrupt) || errors.Is(err, backup.ErrNewer))
		}
	})
}

func TestEntries(t *testing.T) {
	s := filled(t)
	for range 40 {
		s.put(10, 10)
	}
	s.feed()
	files, key := os.DirFS(s.path("log")), s.log.PublicKey()
	var n int64
	for e, err := range backup.Entries(t.Context(), files, key, 15) {
		require.NoError(t, err)
		require.Equal(t, 15+n, e.Number)
		require.NotEmpty(t, e.Event)
		require.Equal(t, e.Number+1, e.Seq)
		n++
	}
	require.EqualValues(t, 405, n)
	for range backup.Entries(t.Context(), files, key, 0) {
		break
	}
	last := func(files fs.FS, key string) (err error) {
		for _, err = range backup.Entries(t.Context(), files, key, 0) {
		}
		return err
	}
	require.Error(t, last(files, "x"))
	tile := s.path("log/tile/entries/000")
	raw, err := os.ReadFile(tile)
	require.NoError(t, err)
	raw[100] ^= 1
	require.NoError(t, os.WriteFile(tile, raw, 0o600))
	require.ErrorIs(t, last(files, key), backup.ErrCorrupt)
	require.NoError(t, os.Remove(tile))
	require.NoError(t, last(files, key), "pruned from the front")
	require.NoError(t, os.Rename(s.path("log/tile/0/000"), s.path("log/tile/0/x")))
	require.Error(t, last(files, key))
}
