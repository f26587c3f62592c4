package backup_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const canary = "c4n4ry"

// store is a place with database, blobs, log and keys.
type store struct {
	t     testing.TB
	dir   string
	db    *sql.DB
	ring  *keyring.File
	queue *queue.Queue
	blobs securemail.BlobStore
	log   *audit.Log
	n     int
}

func newStore(t testing.TB, db *sql.DB, dir string) *store {
	s := &store{t: t, dir: dir, db: db}
	var err error
	s.ring, err = keyring.OpenFile(s.path("ring"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.ring.Close()) })
	s.blobs, err = queue.Dir(s.path("blobs"))
	require.NoError(t, err)
	s.openQueue()
	s.log, err = audit.Open(t.Context(), s.path("log"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.log.Close()) })
	return s
}

func (s *store) openQueue() {
	var err error
	s.queue, err = queue.New(s.t.Context(), s.db, s.ring, &queue.Options{Blobs: s.blobs, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(s.t, err)
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

func lite(t testing.TB, path string) *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }

func liteStore(t testing.TB) *store {
	dir := t.TempDir()
	return newStore(t, lite(t, filepath.Join(dir, "mail.db")), dir)
}

// put accepts n parcels of one submission with a body of size, and one event each.
func (s *store) put(n, size int) *securemail.Batch {
	s.t.Helper()
	b, err := s.tryPut(n, size)
	require.NoError(s.t, err)
	return b
}

func (s *store) tryPut(n, size int) (*securemail.Batch, error) {
	s.n++
	return s.putAs(fmt.Sprintf("s%025d", s.n), n, size)
}

func (s *store) putAs(id string, n, size int) (*securemail.Batch, error) {
	body := "Subject: " + canary + " result\r\nMessage-ID: <1@x.example>\r\n\r\n" + strings.Repeat(canary+" text\r\n", size/13+1)
	m, err := securemail.NewMessage(securemail.Bytes([]byte(body)))
	if err != nil {
		return nil, err
	}
	b := &securemail.Batch{Tenant: "clinic", Submission: id, Key: "key " + id}
	for i := range n {
		p := &securemail.Parcel{Message: m}
		p.ID, p.Submission, p.Submitted = securemail.ParcelID(fmt.Sprintf("p%s%04d", id, i)), id, time.Now()
		p.Actor = securemail.Actor{Tenant: "clinic", ID: "tester", Kind: "service"}
		a, err := securemail.ParseAddress(fmt.Sprintf("%s%d@example.org", canary, i))
		if err != nil {
			return nil, err
		}
		p.Recipient = securemail.Contact{Name: canary, Address: a, Ref: canary}
		p.Size = m.Size()
		p.Labels = map[string]string{"case": "7"}
		b.Parcels = append(b.Parcels, p)
		b.Events = append(b.Events, event(&p.Slip, securemail.StateAccepted))
	}
	_, err = s.queue.Put(context.Background(), b)
	return b, err
}

func event(s *securemail.Slip, st securemail.State) securemail.Event {
	return securemail.Event{
		ID: fmt.Sprintf("e%s%s", s.ID, st), Kind: string(st), Time: time.Now(), By: s.Actor, Status: securemail.Status{Slip: *s, State: st},
	}
}

// mark takes what is due and enters state for it.
func (s *store) mark(states ...securemail.State) {
	s.t.Helper()
	ls, err := s.queue.Take(s.t.Context(), time.Now(), 1000, 0)
	require.NoError(s.t, err)
	for _, l := range ls {
		for _, to := range states {
			st := l.Last
			st.State, st.Attempt = to, l.Attempt
			e := event(&l.Parcel.Slip, to)
			require.NoError(s.t, s.queue.Mark(s.t.Context(), securemail.Mark{Lease: l, Status: st, Events: []securemail.Event{e}}))
		}
	}
}

// feed gives the log every event.
func (s *store) feed() {
	s.t.Helper()
	for {
		es, err := s.queue.Next(s.t.Context(), "ledger", 500)
		require.NoError(s.t, err)
		if len(es) == 0 {
			break
		}
		require.NoError(s.t, s.log.EmitAll(s.t.Context(), es...))
		require.NoError(s.t, s.queue.Ack(s.t.Context(), "ledger", es[len(es)-1].ID))
	}
	require.NoError(s.t, s.log.Publish(s.t.Context()))
}

func (s *store) set() *backup.Set {
	keyFile, err := os.ReadFile(s.path("log.key"))
	require.NoError(s.t, err)
	return &backup.Set{
		DB: s.db, Blobs: s.blobs, Named: s.queue, Log: os.DirFS(s.path("log")), LogKey: s.log.PublicKey(), Publish: s.log.Publish,
		Ring: s.ring, Files: map[string][]byte{"log.key": keyFile},
	}
}

func (s *store) backup() ([]byte, *backup.Report) {
	s.t.Helper()
	var b bytes.Buffer
	rep, err := backup.Write(s.t.Context(), &b, s.set())
	require.NoError(s.t, err)
	return b.Bytes(), rep
}

// opener opens backups with the root key of s, as it is now.
func (s *store) opener() backup.Opener {
	root, err := keyring.ReadRootKey(s.path("ring"))
	require.NoError(s.t, err)
	return func(_ context.Context, wrapped []byte) ([]byte, error) { return keyring.OpenBackupKey(root, wrapped) }
}

// restored puts a backup of s into dir and db, and opens it there. The root key is copied apart.
func (s *store) restored(b []byte, db *sql.DB, dir string) (*store, *backup.Report, error) {
	s.t.Helper()
	to := &store{t: s.t, dir: dir, db: db}
	root, err := os.ReadFile(s.path("ring"))
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(to.path("ring"), root, 0o600))
	blobs, err := queue.Dir(to.path("blobs"))
	require.NoError(s.t, err)
	rep, err := backup.Restore(s.t.Context(), bytes.NewReader(b), s.opener(), &backup.Target{
		DB: db, Blobs: blobs, LogDir: to.path("log"), LogKey: s.log.PublicKey(), Adopt: queue.Adopt,
		Ring: func(ctx context.Context, r io.Reader) error { return keyring.Restore(ctx, to.path("ring"), r) },
		File: func(name string, data []byte) error { return os.WriteFile(to.path(name), data, 0o600) },
	})
	if err != nil {
		return nil, rep, err
	}
	require.NoError(s.t, audit.Adopt(to.path("log")))
	out := newStore(s.t, db, dir)
	out.n = s.n
	return out, rep, nil
}

func (s *store) restoredLite(b []byte) *store {
	s.t.Helper()
	dir := s.t.TempDir()
	out, _, err := s.restored(b, lite(s.t, filepath.Join(dir, "mail.db")), dir)
	require.NoError(s.t, err)
	return out
}

func (s *store) statuses() map[securemail.ParcelID]securemail.State {
	s.t.Helper()
	out := map[securemail.ParcelID]securemail.State{}
	for st, err := range s.queue.Find(s.t.Context(), securemail.Query{Tenant: "clinic"}) {
		require.NoError(s.t, err)
		require.Equal(s.t, canary, st.Recipient.Name)
		out[st.ID] = st.State
	}
	return out
}

// bodies reads the messages of what is due, whole.
func (s *store) bodies() int {
	s.t.Helper()
	ls, err := s.queue.Take(s.t.Context(), time.Now(), 1000, 0)
	require.NoError(s.t, err)
	for _, l := range ls {
		r, err := l.Parcel.Message.Open()
		require.NoError(s.t, err)
		n, err := io.Copy(io.Discard, r)
		require.NoError(s.t, err)
		require.Equal(s.t, l.Parcel.Message.Size(), n)
		require.NoError(s.t, r.Close())
	}
	return len(ls)
}

// filled is a store with small and large bodies, in several states.
func filled(t testing.TB) *store {
	s := liteStore(t)
	s.put(3, 100)
	s.put(2, 200<<10)
	s.mark(securemail.StateAttempting, securemail.StateDelivered)
	s.put(3, 100)
	s.put(2, 200<<10)
	s.feed()
	return s
}

func TestBackupAndRestore(t *testing.T) {
	s := filled(t)
	b, rep := s.backup()
	require.EqualValues(t, 10, rep.Rows["queue_parcel"])
	require.EqualValues(t, 1, rep.Blobs)
	require.EqualValues(t, 20, rep.LogSize)
	require.Equal(t, s.log.Verifier().Name(), rep.LogOrigin)
	require.True(t, rep.Whole())
	require.NotContains(t, string(b), canary)

	told, err := backup.Verify(t.Context(), bytes.NewReader(b), s.opener(), s.log.PublicKey())
	require.NoError(t, err)
	require.Equal(t, rep, told)
	head, err := backup.Info(bytes.NewReader(b))
	require.NoError(t, err)
	require.Equal(t, rep.ID, head.ID)
	require.Equal(t, string(s.log.Checkpoint()), head.Checkpoint)

	to := s.restoredLite(b)
	require.Equal(t, s.statuses(), to.statuses())
	require.NoError(t, to.log.Check(t.Context()))
	require.NoError(t, to.log.Extends(t.Context(), s.log.Checkpoint()))
	require.Equal(t, 5, to.bodies())
	m, err := backup.Pending(t.Context(), to.db)
	require.NoError(t, err)
	require.Equal(t, rep.ID, m.Backup)
	require.EqualValues(t, 20, m.LogSize)
	require.NoError(t, backup.Declare(t.Context(), to.db, time.Now()))
	m, err = backup.Pending(t.Context(), to.db)
	require.NoError(t, err)
	require.Nil(t, m)

	// The restored store goes on, and can be backed up and restored again.
	to.put(1, 100)
	to.feed()
	b2, rep2 := to.backup()
	require.EqualValues(t, 1, rep2.Rows["backup_restore"])
	again := to.restoredLite(b2)
	require.Len(t, again.statuses(), 11)
}

func TestRestoreIntoSomethingIsRefused(t *testing.T) {
	s := filled(t)
	b, _ := s.backup()
	dir := t.TempDir()
	db := lite(t, filepath.Join(dir, "mail.db"))
	_, _, err := s.restored(b, db, dir)
	require.NoError(t, err)
	other := t.TempDir()
	_, _, err = s.restored(b, db, other)
	require.ErrorIs(t, err, backup.ErrNotEmpty)
}
