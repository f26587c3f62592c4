package preset_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/securemail/queue"
	"github.com/postseal/postseal/transport/smtp"
)

func quiet(so *smtp.Options) *preset.Options {
	return &preset.Options{SMTP: so, Logger: slog.New(slog.DiscardHandler)}
}

// mailSystem is a store that one can send with, and kill.
type mailSystem struct {
	*preset.System
	t    *testing.T
	path string
	peer *smtppeer.Peer
	so   *smtp.Options
}

func newMailSystem(t *testing.T) *mailSystem {
	peer, so := far(t, true)
	m := &mailSystem{t: t, path: filepath.Join(t.TempDir(), "mail.db"), peer: peer, so: so}
	m.open(m.path)
	return m
}

func (m *mailSystem) open(path string) {
	m.t.Helper()
	m.path = path
	var err error
	m.System, err = preset.Open(m.t.Context(), path, quiet(m.so))
	require.NoError(m.t, err)
	s := m.System
	m.t.Cleanup(func() { require.NoError(m.t, s.Close()) })
}

func (m *mailSystem) send(n int) (ids []securemail.ParcelID) {
	m.t.Helper()
	for range n {
		sub, err := m.Send(m.t.Context(), draft())
		require.NoError(m.t, err)
		ids = append(ids, sub.Parcels[0].ID)
	}
	return ids
}

func (m *mailSystem) run() {
	m.t.Helper()
	_, err := m.RunDue(m.t.Context())
	require.NoError(m.t, err)
}

func (m *mailSystem) states() map[securemail.ParcelID]securemail.State {
	m.t.Helper()
	out := map[securemail.ParcelID]securemail.State{}
	for st, err := range m.Find(m.t.Context(), securemail.Query{}) {
		require.NoError(m.t, err)
		out[st.ID] = st.State
	}
	return out
}

func (m *mailSystem) backup() []byte {
	m.t.Helper()
	var b bytes.Buffer
	_, err := m.Backup(m.t.Context(), &b)
	require.NoError(m.t, err)
	require.NotContains(m.t, b.String(), "c4n4ry")
	return b.Bytes()
}

func (m *mailSystem) from() preset.RootFrom { return preset.RootFrom{KeyFile: m.path + ".key"} }

func declaration() *preset.DeclareOptions {
	return &preset.DeclareOptions{By: securemail.Actor{ID: "op", Kind: "operator"}, Reason: "the disk broke"}
}

// TestNothingWithARecordedOutcomeIsSentAgain: the log survived, the database did not.
func TestNothingWithARecordedOutcomeIsSentAgain(t *testing.T) {
	m := newMailSystem(t)
	before := m.send(3)
	b := m.backup()
	after := m.send(2)
	m.run()
	require.Len(t, m.peer.Messages(), 5)
	_, err := m.KeyRing.Destroy(t.Context(), "patient/7")
	require.NoError(t, err)
	m.run() // the log gets the last events
	require.NoError(t, m.Close())
	from, logDir := m.from(), m.path+".audit"

	path := filepath.Join(t.TempDir(), "back.db")
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b), &preset.RestoreOptions{From: from, LogDir: logDir, Store: quiet(m.so)})
	require.NoError(t, err)
	m.open(path)
	_, err = m.RunDue(t.Context())
	require.ErrorIs(t, err, backup.ErrUndeclared)
	require.ErrorIs(t, m.Run(t.Context()), backup.ErrUndeclared)
	m.send(1) // is accepted, and waits
	require.NoError(t, m.Close())

	d, err := preset.Declare(t.Context(), path, quiet(m.so), declaration())
	require.NoError(t, err)
	require.Equal(t, 3, d.Settled[securemail.StateDelivered])
	require.Empty(t, d.Uncertain)
	require.Equal(t, 1, d.Destroyed)
	require.Len(t, d.Unknown, 2)
	require.NotEqual(t, d.Unknown[0].Parcel, d.Unknown[1].Parcel)
	for _, u := range d.Unknown { // in order of their ids: those of one millisecond have none
		require.Contains(t, after, u.Parcel)
		require.Equal(t, securemail.StateDelivered, u.State)
	}
	m.open(path)
	m.run()
	require.Len(t, m.peer.Messages(), 6, "only what was sent since the restore left")
	for _, id := range before {
		require.Equal(t, securemail.StateDelivered, m.states()[id])
	}
	_, err = m.KeyRing.Wrap(t.Context(), []byte("key"), "patient/7")
	require.ErrorIs(t, err, keyring.ErrDestroyed)
	require.NoError(t, m.Ledger.Check(t.Context()))
	require.NoError(t, m.Close())
	_, err = preset.Declare(t.Context(), path, quiet(m.so), declaration())
	require.ErrorIs(t, err, preset.ErrNothingToDeclare)
}

// TestNoLogSurvived: what was open may have left.
func TestNoLogSurvived(t *testing.T) {
	m := newMailSystem(t)
	ids := m.send(2)
	b := m.backup()
	m.run()
	require.NoError(t, m.Close())
	from := m.from()
	for _, nothingLeft := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "back.db")
		_, err := preset.Restore(t.Context(), path, bytes.NewReader(b), &preset.RestoreOptions{From: from})
		require.NoError(t, err)
		o := declaration()
		o.NothingLeft = nothingLeft
		d, err := preset.Declare(t.Context(), path, quiet(m.so), o)
		require.NoError(t, err)
		had := len(m.peer.Messages())
		m.open(path)
		m.run()
		if nothingLeft {
			require.Empty(t, d.Uncertain)
			require.Len(t, m.peer.Messages(), had+2)
		} else {
			require.Equal(t, ids, d.Uncertain)
			require.Len(t, m.peer.Messages(), had)
			require.Equal(t, securemail.StateUncertain, m.states()[ids[0]])
		}
		require.NoError(t, m.Close())
	}
}

// TestWhatLeftWhileTheBackupWasMadeIsNotSentAgain: the rows are of an earlier moment than the log beside them.
func TestWhatLeftWhileTheBackupWasMadeIsNotSentAgain(t *testing.T) {
	for _, c := range []struct{ survived, nothingLeft bool }{{survived: true}, {nothingLeft: true}, {}} {
		m := newMailSystem(t)
		during := m.send(1)[0]
		later := m.send(1)[0]
		require.NoError(t, m.Mailer.Order(t.Context(), securemail.Hold, later))
		keyFile, err := os.ReadFile(m.path + ".audit.key")
		require.NoError(t, err)
		key, err := audit.ReadPublicKey(m.path + ".audit.key")
		require.NoError(t, err)
		blobs, err := queue.Dir(m.path + ".blobs")
		require.NoError(t, err)
		var b bytes.Buffer
		_, err = backup.Write(t.Context(), &b, &backup.Set{
			DB: m.DB, Blobs: blobs, Named: m.Queue, Ring: m.KeyRing, Log: os.DirFS(m.path + ".audit"), LogKey: key,
			Files: map[string][]byte{"audit.key": keyFile},
			Publish: func(ctx context.Context) error {
				if _, err := m.RunDue(ctx); err != nil {
					return err
				}
				return m.Ledger.Publish(ctx)
			},
		})
		require.NoError(t, err)
		require.Len(t, m.peer.Messages(), 1)
		require.NoError(t, m.Mailer.Order(t.Context(), securemail.Release, later))
		m.run()
		require.NoError(t, m.Close())
		require.Len(t, m.peer.Messages(), 2)
		ro := &preset.RestoreOptions{From: m.from(), Store: quiet(m.so)}
		if c.survived {
			ro.LogDir = m.path + ".audit"
		}
		path := filepath.Join(t.TempDir(), "back.db")
		_, err = preset.Restore(t.Context(), path, &b, ro)
		require.NoError(t, err)
		o := declaration()
		o.NothingLeft = c.nothingLeft
		d, err := preset.Declare(t.Context(), path, quiet(m.so), o)
		require.NoError(t, err)
		require.Equal(t, c.survived || c.nothingLeft, len(d.Uncertain) == 0)
		m.open(path)
		m.run()
		require.Len(t, m.peer.Messages(), 2, "nothing left twice")
		require.Equal(t, securemail.StateDelivered, m.states()[during])
	}
}

// TestADatabaseCopiedBackByHand is declared the same way.
func TestADatabaseCopiedBackByHand(t *testing.T) {
	m := newMailSystem(t)
	ids := m.send(2)
	require.NoError(t, m.Close())
	old, err := os.ReadFile(m.path)
	require.NoError(t, err)
	m.open(m.path)
	m.run()
	require.NoError(t, m.Close())
	require.Len(t, m.peer.Messages(), 2)
	require.NoError(t, os.WriteFile(m.path, old, 0o600))
	m.open(m.path)
	_, err = m.RunDue(t.Context())
	require.ErrorIs(t, err, audit.ErrOldDatabase)
	m.send(1) // is accepted, and waits
	require.NoError(t, m.Close())

	d, err := preset.Declare(t.Context(), m.path, quiet(m.so), declaration())
	require.NoError(t, err)
	require.Equal(t, 2, d.Settled[securemail.StateDelivered])
	m.open(m.path)
	m.run()
	require.Len(t, m.peer.Messages(), 3, "what was sent since")
	for _, id := range ids {
		require.Equal(t, securemail.StateDelivered, m.states()[id])
	}
}

func TestRestoreIsAllOrNothing(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	b := m.backup()
	require.NoError(t, m.Close())
	from := m.from()
	o := &preset.RestoreOptions{From: from, Store: quiet(m.so)}
	dir := t.TempDir()
	path := filepath.Join(dir, "back.db")
	names := func() (out []string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	for name, bad := range map[string][]byte{"cut": b[:len(b)-1], "flipped": append(b[:len(b)-1:len(b)-1], b[len(b)-1]^1), "empty": nil} {
		_, err := preset.Restore(t.Context(), path, bytes.NewReader(bad), o)
		require.ErrorIs(t, err, backup.ErrCorrupt, name)
		require.Empty(t, names(), name)
	}
	// As a kill leaves it, at each moment.
	require.NoError(t, os.Mkdir(path+".restoring", 0o700))
	require.NoError(t, os.WriteFile(path+".restoring/store", []byte("half"), 0o600))
	_, err := preset.Open(t.Context(), path, quiet(m.so))
	require.ErrorIs(t, err, preset.ErrRestoring)
	require.NoFileExists(t, path)
	require.NoError(t, os.WriteFile(path+".restoring/moving", []byte(`[".blobs",".key.epoch",""]`), 0o600))
	require.NoError(t, os.WriteFile(path+".key.epoch", []byte("half"), 0o600))
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b), o)
	require.NoError(t, err)
	m.open(path)
	require.Len(t, m.states(), 1)
	require.NoError(t, m.Close())
	had := names()
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b), o)
	require.ErrorIs(t, err, backup.ErrNotEmpty)
	require.Equal(t, had, names())

	// Another ring's key file in the way is not touched.
	other := filepath.Join(t.TempDir(), "back.db")
	require.NoError(t, os.WriteFile(other+".key", []byte("other"), 0o600))
	_, err = preset.Restore(t.Context(), other, bytes.NewReader(b), o)
	require.ErrorIs(t, err, backup.ErrNotEmpty)
	left, err := os.ReadDir(filepath.Dir(other))
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestWrongShares(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	b := m.backup()
	desk, err := preset.OpenDesk(t.Context(), m.path, quiet(nil))
	require.NoError(t, err)
	defer func() { require.NoError(t, desk.Close()) }()
	shares, err := desk.Split(t.Context(), 2, 3)
	require.NoError(t, err)
	others, err := desk.Split(t.Context(), 2, 3)
	require.NoError(t, err)
	for name, given := range map[string][]keyring.Share{
		"too few": shares[:1], "mixed": {shares[0], others[1]}, "twice": {shares[0], shares[0]}, "none": nil,
	} {
		_, err := preset.VerifyBackup(t.Context(), bytes.NewReader(b), &preset.RootFrom{Shares: given}, "")
		require.Error(t, err, name)
	}
	_, err = preset.VerifyBackup(t.Context(), bytes.NewReader(b), &preset.RootFrom{Shares: shares[1:]}, m.Ledger.PublicKey())
	require.NoError(t, err)
}

// A log that is no continuation of the backup's is refused, and nothing is left.
func TestAForeignLogIsRefused(t *testing.T) {
	m, other := newMailSystem(t), newMailSystem(t)
	m.send(1)
	m.run()
	other.send(1)
	other.run()
	b := m.backup()
	require.NoError(t, other.Close())
	path := filepath.Join(t.TempDir(), "back.db")
	_, err := preset.Restore(t.Context(), path, bytes.NewReader(b), &preset.RestoreOptions{From: m.from(), LogDir: other.path + ".audit"})
	require.Error(t, err)
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestDrillFindsWhatIsWrong(t *testing.T) {
	m := newMailSystem(t)
	m.send(3)
	m.run()
	ids := m.send(2)
	big := draft()
	big.Text = strings.Repeat("c4n4ry text\n", 10<<10)
	_, err := m.Send(t.Context(), big)
	require.NoError(t, err)
	drill := func() *preset.Drilled {
		d, err := preset.Drill(t.Context(), m.path, quiet(nil), &preset.DrillOptions{Dir: t.TempDir()})
		require.NoError(t, err)
		return d
	}
	d := drill() // while the store is open
	require.Empty(t, d.Findings)
	require.Equal(t, []int{6, 3, 3}, []int{d.Parcels, d.Open, d.Bodies})
	require.Positive(t, d.RestoreTime)
	require.Positive(t, d.Entries)

	_, err = m.DB.Exec("UPDATE queue_parcel SET letter=x'00' WHERE id=?", string(ids[0]))
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(m.path+".blobs", func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Truncate(p, 1000)
	}))
	d = drill()
	require.GreaterOrEqual(t, len(d.Findings), 3, d.Findings)
	require.NotContains(t, fmt.Sprint(d.Findings), "c4n4ry")
	var kinds []string
	es, err := m.Queue.Next(t.Context(), "test", 1000)
	require.NoError(t, err)
	for _, e := range es {
		kinds = append(kinds, e.Kind)
	}
	require.Contains(t, kinds, "drill")
}

// TestKilledRestore kills a restore at random moments: there is a whole store afterwards, or none.
func TestKilledRestore(t *testing.T) {
	if path := os.Getenv("POSTSEAL_RESTORE_TO"); path != "" {
		in, err := os.Open(os.Getenv("POSTSEAL_RESTORE_FROM"))
		require.NoError(t, err)
		_, err = preset.Restore(t.Context(), path, in, &preset.RestoreOptions{From: preset.RootFrom{KeyFile: os.Getenv("POSTSEAL_RESTORE_KEY")}})
		require.NoError(t, err)
		return
	}
	m := newMailSystem(t)
	m.send(5)
	b := m.backup()
	require.NoError(t, m.Close())
	file := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	path := filepath.Join(t.TempDir(), "back.db")
	for i := range 24 {
		ctx, stop := context.WithTimeout(t.Context(), time.Duration(i*i)*2*time.Millisecond)
		c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilledRestore$")
		c.Env = append(os.Environ(), "POSTSEAL_RESTORE_TO="+path, "POSTSEAL_RESTORE_FROM="+file, "POSTSEAL_RESTORE_KEY="+m.path+".key")
		c.Stdout, c.Stderr = io.Discard, io.Discard
		_ = c.Run() // killed, or not
		stop()
		s, err := preset.Open(t.Context(), path, quiet(m.so))
		if err == nil {
			n := 0
			for _, err := range s.Find(t.Context(), securemail.Query{}) {
				require.NoError(t, err)
				n++
			}
			_, runErr := s.RunDue(t.Context())
			require.NoError(t, s.Close())
			if n == 0 { // killed before it began: this is a new store
				require.NoError(t, removeAll(path))
				continue
			}
			require.Equal(t, 5, n)
			require.ErrorIs(t, runErr, backup.ErrUndeclared)
			break
		}
		require.ErrorIs(t, err, preset.ErrRestoring)
	}
}

// removeAll removes a store.
func removeAll(path string) error {
	all, err := filepath.Glob(path + "*")
	for _, p := range all {
		err = errors.Join(err, os.RemoveAll(p))
	}
	return err
}
