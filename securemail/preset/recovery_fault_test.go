package preset_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/preset"
)

// A store of a later release is not restored by an earlier one.
func TestANewerStoreIsNotRestored(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	_, err := m.DB.Exec("UPDATE postseal_schema SET version=version+1 WHERE pkg='keys'")
	require.NoError(t, err)
	_, err = m.DB.Exec("INSERT INTO postseal_step (pkg, n, step) VALUES ('keys', (SELECT max(n)+1 FROM postseal_step WHERE pkg='keys'), 'CREATE TABLE keys_new (x {int});')")
	require.NoError(t, err)
	b := m.backup()
	path := filepath.Join(t.TempDir(), "back.db")
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b), &preset.RestoreOptions{From: m.from(), Store: quiet(m.so)})
	require.ErrorIs(t, err, backup.ErrNewer)
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Empty(t, left)
	d, err := preset.Drill(t.Context(), m.path, quiet(nil), nil)
	require.NoError(t, err)
	require.Len(t, d.Findings, 1)
}

// What the machine lost is said in one error, and nothing is made in its place.
func TestLostParts(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	require.NoError(t, m.Close())
	_, err := m.Backup(t.Context(), io.Discard)
	require.ErrorIs(t, err, preset.ErrClosed)

	require.NoError(t, os.Rename(m.path+".audit.key", m.path+".moved"))
	d, err := preset.OpenDesk(t.Context(), m.path, quiet(nil))
	require.NoError(t, err)
	var b bytes.Buffer
	rep, err := d.Backup(t.Context(), &b)
	require.NoError(t, err)
	require.EqualValues(t, -1, rep.LogSize, "without a key there is no log")
	require.NoError(t, d.Close())
	path := filepath.Join(t.TempDir(), "back.db")
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b.Bytes()), &preset.RestoreOptions{From: m.from(), LogDir: m.path + ".audit", Store: quiet(m.so)})
	require.ErrorContains(t, err, "no log is in the backup")
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b.Bytes()), &preset.RestoreOptions{From: m.from(), Store: quiet(m.so)})
	require.NoError(t, err)
	_, err = preset.Restore(t.Context(), path+"2", bytes.NewReader(b.Bytes()), &preset.RestoreOptions{})
	require.ErrorContains(t, err, "where is the root key")

	require.NoError(t, os.WriteFile(m.path+".audit.key", []byte("damaged"), 0o600))
	d, err = preset.OpenDesk(t.Context(), m.path, quiet(nil))
	require.NoError(t, err)
	_, err = d.Backup(t.Context(), io.Discard)
	require.ErrorIs(t, err, audit.ErrCorrupt)
	require.NoError(t, d.Close())
	_, err = preset.Drill(t.Context(), m.path, nil, nil)
	require.ErrorIs(t, err, audit.ErrCorrupt)
	require.NoError(t, os.Remove(m.path+".audit.key"))
	require.NoError(t, os.Rename(m.path+".moved", m.path+".audit.key"))

	b.Reset()
	d, err = preset.OpenDesk(t.Context(), m.path, quiet(nil))
	require.NoError(t, err)
	_, err = d.Backup(t.Context(), &b)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	other := filepath.Join(t.TempDir(), "back.db")
	_, err = preset.Restore(t.Context(), other, bytes.NewReader(b.Bytes()), &preset.RestoreOptions{From: m.from(), LogDir: m.path + ".none"})
	require.ErrorContains(t, err, "copy the log")
	_, err = preset.Restore(t.Context(), filepath.Join(m.path, "x"), bytes.NewReader(b.Bytes()), &preset.RestoreOptions{From: m.from()})
	require.Error(t, err, "a file is no folder")

	require.NoError(t, os.Remove(m.path+".key.epoch"))
	_, err = preset.OpenDesk(t.Context(), m.path, nil)
	require.ErrorIs(t, err, keyring.ErrLost)
	require.NoError(t, os.Remove(m.path+".key"))
	_, err = preset.OpenDesk(t.Context(), m.path, nil)
	require.ErrorIs(t, err, preset.ErrNoStore)
	require.NoFileExists(t, m.path+".key")
	_, err = preset.OpenDesk(t.Context(), filepath.Join(m.path, "x"), nil)
	require.Error(t, err)
	_, err = preset.Drill(t.Context(), m.path, nil, nil)
	require.ErrorIs(t, err, preset.ErrNoStore)
}

func TestDeclareRefuses(t *testing.T) {
	m := newMailSystem(t)
	_, err := preset.Declare(t.Context(), m.path, quiet(nil), nil)
	require.ErrorContains(t, err, "for what reason")
	_, err = preset.Declare(t.Context(), m.path, quiet(nil), declaration())
	require.ErrorIs(t, err, audit.ErrLocked, "somebody has it open")
	_, err = preset.Declare(t.Context(), m.path+"x", quiet(nil), declaration())
	require.ErrorIs(t, err, preset.ErrNoStore)
	require.NoFileExists(t, m.path+"x")
	_, err = preset.VerifyBackup(t.Context(), bytes.NewReader(nil), &preset.RootFrom{KeyFile: m.path + ".none"}, "")
	require.Error(t, err)
}

// TestTheKeyFileMayBeThereAlready: the operator put its copy back first.
func TestTheKeyFileMayBeThereAlready(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	b := m.backup()
	key, err := os.ReadFile(m.path + ".key")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "back.db")
	require.NoError(t, os.WriteFile(path+".key", key, 0o600))
	o := &preset.RestoreOptions{From: preset.RootFrom{KeyFile: path + ".key"}, Store: quiet(m.so)}
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b[:len(b)-1]), o)
	require.ErrorIs(t, err, backup.ErrCorrupt)
	require.FileExists(t, path+".key", "what was there before stays")
	_, err = preset.Restore(t.Context(), path, bytes.NewReader(b), o)
	require.NoError(t, err)
	require.NoError(t, m.Close())
	m.open(path)
	require.Len(t, m.states(), 1)
}

// TestAnUnreadableListIsNoGuess: where it can't be known what an earlier restore moved, nothing is removed.
func TestAnUnreadableListIsNoGuess(t *testing.T) {
	m := newMailSystem(t)
	b := m.backup()
	path := filepath.Join(t.TempDir(), "back.db")
	require.NoError(t, os.Mkdir(path+".restoring", 0o700))
	require.NoError(t, os.WriteFile(path+".restoring/moving", []byte("{"), 0o600))
	require.NoError(t, os.WriteFile(path+".key.scopes", []byte("x"), 0o600))
	_, err := preset.Restore(t.Context(), path, bytes.NewReader(b), &preset.RestoreOptions{From: m.from()})
	require.Error(t, err)
	require.FileExists(t, path+".key.scopes")
	require.DirExists(t, path+".restoring")
}

// TestAnIncompleteBackupIsRestoredAndSaysSo: what is whole in it comes back.
func TestAnIncompleteBackupIsRestoredAndSaysSo(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	big := draft()
	big.Text = string(bytes.Repeat([]byte("c4n4ry text\n"), 10<<10))
	_, err := m.Send(t.Context(), big)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(m.path+".blobs"))
	require.NoError(t, os.Mkdir(m.path+".blobs", 0o700))
	var b bytes.Buffer
	rep, err := m.Backup(t.Context(), &b)
	require.ErrorIs(t, err, backup.ErrIncomplete)
	require.Len(t, rep.Missing, 1)
	path := filepath.Join(t.TempDir(), "back.db")
	rep, err = preset.Restore(t.Context(), path, bytes.NewReader(b.Bytes()), &preset.RestoreOptions{From: m.from(), Store: quiet(m.so)})
	require.ErrorIs(t, err, backup.ErrIncomplete)
	require.Len(t, rep.Missing, 1)
	d, err := preset.Drill(t.Context(), m.path, quiet(nil), nil)
	require.NoError(t, err)
	require.NotEmpty(t, d.Findings)
	require.NoError(t, m.Close())
	m.open(path)
	require.Len(t, m.states(), 2)
}

func TestRecoveryWhereItCantBe(t *testing.T) {
	m := newMailSystem(t)
	m.send(1)
	b := m.backup()
	_, err := preset.Drill(t.Context(), m.path, quiet(nil), &preset.DrillOptions{Dir: filepath.Join(m.path, "none")})
	require.Error(t, err)
	require.NotContains(t, err.Error(), m.path)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	path := filepath.Join(t.TempDir(), "back.db")
	_, err = preset.Restore(ctx, path, bytes.NewReader(b), &preset.RestoreOptions{From: m.from()})
	require.ErrorIs(t, err, context.Canceled)
	_, err = preset.Restore(ctx, path, bytes.NewReader(b), &preset.RestoreOptions{From: m.from(), LogDir: m.path + ".audit"})
	require.ErrorIs(t, err, context.Canceled)
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, m.Close())
	require.NoError(t, os.Remove(m.path+".audit.key"))
	require.NoError(t, os.Mkdir(m.path+".audit.key", 0o700))
	desk, err := preset.OpenDesk(t.Context(), m.path, quiet(nil))
	require.NoError(t, err)
	_, err = desk.Backup(t.Context(), io.Discard)
	require.ErrorContains(t, err, "key file of the log")
	require.NoError(t, desk.Close())
	require.NoError(t, os.RemoveAll(m.path+".blobs"))
	require.NoError(t, os.WriteFile(m.path+".blobs", nil, 0o600))
	_, err = preset.OpenDesk(t.Context(), m.path, quiet(nil))
	require.ErrorContains(t, err, "not a folder")
}
