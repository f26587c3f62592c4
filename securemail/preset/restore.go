package preset

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// ErrRestoring says that a restore to this path was cut short. Restore again: it drops what the first one left.
var ErrRestoring = errors.New("preset: a restore to this path was cut short; restore again")

const restoring = ".restoring" // the folder in which a restore works, beside the store

// pieces are the names of a store's files behind its path.
var pieces = []string{".blobs", ".audit", ".audit.key", ".audit.key.seen", ".key", ".key.epoch", ".key.scopes", ".key.lock", ""}

// RestoreOptions say how to restore.
type RestoreOptions struct {
	// From says where the root key is.
	From RootFrom
	// LogDir is the folder of the audit log that survived, where it is newer than the one in the backup: what it tells of the
	// time since is done again when the restore is declared. It is copied. Empty: the log of the backup.
	LogDir string
	// Store are the options that the store is opened with, to see that this program can; nil: the defaults. KeyFile is not
	// used: the key file lies beside the store.
	Store *Options
}

// Restore makes the SQLite store at path of a backup, or nothing: path must be empty, and until all of the backup was read,
// proved and opened nothing lies there under its name. A restore that was killed leaves a folder PATH.restoring, with which
// [Open] answers ErrRestoring; Restore it again. The restored store takes mail and sends none until [Declare]. A backup of PostgreSQL may be
// restored so, too. Errors: backup.ErrCorrupt, ErrNotEmpty, ErrNewer, ErrIncomplete with a Report of what is missing from a
// store that is there, and others.
func Restore(ctx context.Context, path string, r io.Reader, o *RestoreOptions) (*backup.Report, error) {
	key, err := o.From.key()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	work := &restore{path: path, dir: path + restoring, key: key, o: o}
	if err := work.begin(); err != nil {
		return nil, err
	}
	rep, err := work.fill(ctx, r)
	whole := err == nil || errors.Is(err, backup.ErrIncomplete)
	if !whole {
		return nil, errors.Join(err, work.drop())
	}
	if merr := work.move(); merr != nil {
		return nil, merr
	}
	return rep, err
}

// notRestoring is ErrRestoring where a restore to path was cut short.
func notRestoring(path string) error {
	if _, err := os.Stat(path + restoring); err == nil {
		return ErrRestoring
	}
	return nil
}

// restore is one under way. Everything is made in dir, as the store dir/store, and then moved.
type restore struct {
	path, dir string
	key       keyring.RootKey
	o         *RestoreOptions
}

func (w *restore) in(name string) string { return filepath.Join(w.dir, name) }
func (w *restore) store() string         { return w.in("store") }

// movingName lists what is being moved from dir to its place, so that a restore that was killed can be undone.
const movingName = "moving"

// begin drops what an earlier restore left, sees that there is no store, and makes the folder.
func (w *restore) begin() error {
	if notRestoring(w.path) != nil {
		if err := w.drop(); err != nil {
			return err
		}
	}
	for _, p := range append([]string{"-wal", "-shm", "-journal"}, pieces...) {
		if p == ".key" || p == ".key.lock" {
			continue // the operator may have put the key file back already
		}
		if _, err := os.Lstat(w.path + p); err == nil {
			return backup.ErrNotEmpty
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("preset: restore: %w", bare(err))
		}
	}
	if err := durable.MkdirAll(w.dir); err != nil {
		return fmt.Errorf("preset: restore: %w", bare(err))
	}
	return nil
}

// drop undoes a restore: what was moved to its place by this or an earlier one, and the folder.
func (w *restore) drop() error {
	b, err := os.ReadFile(w.in(movingName))
	var moving []string
	if err == nil {
		err = json.Unmarshal(b, &moving)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("preset: restore: %w", bare(err))
	}
	// The database first: without it there is no store.
	for i := len(moving) - 1; i >= 0; i-- {
		if err := os.RemoveAll(w.path + moving[i]); err != nil {
			return fmt.Errorf("preset: restore: %w", bare(err))
		}
	}
	if err := durable.SyncDir(filepath.Dir(w.path)); err != nil {
		return fmt.Errorf("preset: restore: %w", bare(err))
	}
	if err := os.RemoveAll(w.dir); err != nil {
		return fmt.Errorf("preset: restore: %w", bare(err))
	}
	return nil
}

// fill restores into the folder, and opens what it restored.
func (w *restore) fill(ctx context.Context, r io.Reader) (rep *backup.Report, err error) {
	rep, err = w.read(ctx, r)
	if err != nil && !errors.Is(err, backup.ErrIncomplete) {
		return nil, err
	}
	incomplete := err
	if err := w.survivor(ctx, rep); err != nil {
		return nil, err
	}
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	return rep, incomplete
}

func (w *restore) read(ctx context.Context, r io.Reader) (*backup.Report, error) {
	db, err := sql.Open("sqlite", sqliteDSN(w.store()))
	if err != nil {
		return nil, fmt.Errorf("preset: database: %w", err)
	}
	defer db.Close()
	if err := durable.WriteFile(w.store(), nil); err != nil { // for its owner only
		return nil, fmt.Errorf("preset: database file: %w", bare(err))
	}
	blobs, err := queue.Dir(w.store() + ".blobs")
	if err != nil {
		return nil, err
	}
	return backup.Restore(ctx, r, w.o.From.opener(w.key), &backup.Target{
		DB: db, Blobs: blobs, LogDir: w.store() + ".audit", Adopt: queue.Adopt, Now: w.options().Now,
		Ring: w.ring,
		File: func(name string, data []byte) error {
			if name != auditKeyName {
				return nil
			}
			return durable.WriteFile(w.store()+".audit.key", data)
		},
	})
}

// ring puts the key ring and its root key into the folder.
func (w *restore) ring(ctx context.Context, r io.Reader) error {
	if err := keyring.Restore(ctx, w.store()+".key", r); err != nil || w.key == nil {
		return err
	}
	return keyring.Recover(ctx, w.store()+".key", w.key)
}

// survivor puts the log that survived in the place of the backup's, whose continuation it must be.
func (w *restore) survivor(ctx context.Context, rep *backup.Report) error {
	dir := w.store() + ".audit"
	if w.o.LogDir != "" {
		if rep.Checkpoint == "" {
			return errors.New("preset: restore: no log is in the backup, so another can't be its continuation")
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("preset: restore log: %w", bare(err))
		}
		if err := copyDir(ctx, w.o.LogDir, dir); err != nil {
			return err
		}
	}
	if rep.Checkpoint == "" {
		return nil
	}
	if err := audit.Adopt(dir); err != nil {
		return err
	}
	l, err := audit.Open(ctx, dir, &audit.Options{Now: w.options().Now})
	if err != nil {
		return fmt.Errorf("preset: restore: the log that survived: %w", err)
	}
	return errors.Join(l.Extends(ctx, []byte(rep.Checkpoint)), l.Close())
}

// copyDir copies the regular files of a log's folder, but for its lock.
func copyDir(ctx context.Context, from, to string) error {
	t := durable.Tree{Root: to}
	err := fs.WalkDir(os.DirFS(from), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() || name == "lock" || strings.HasSuffix(name, ".tmp") {
			return err
		}
		b, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		return t.Write(name, b)
	})
	if err == nil {
		err = t.Sync()
	}
	if err != nil {
		return fmt.Errorf("preset: restore: copy the log that survived: %w", bare(err))
	}
	return nil
}

func (w *restore) options() *Options {
	o := Options{}
	if w.o.Store != nil {
		o = *w.o.Store
	}
	o.KeyFile = ""
	o.Root = cmp.Or(o.Root, w.o.From.Root)
	if w.key != nil {
		o.Root = nil // keyring.Recover put it into the key file
	}
	return &o
}

// open sees that this program can open the store, and so migrates it.
func (w *restore) open(ctx context.Context) error {
	s, err := Open(ctx, w.store(), w.options())
	if errors.Is(err, sqldb.ErrNewer) {
		return fmt.Errorf("%w: %w", backup.ErrNewer, err)
	}
	if err != nil {
		return fmt.Errorf("preset: the restored store does not open: %w", err)
	}
	return s.Close()
}

// move gives every piece its name, the database last.
func (w *restore) move() error {
	moving, err := w.moving()
	if err != nil {
		return errors.Join(err, w.drop())
	}
	b, err := json.Marshal(moving)
	if err == nil {
		err = durable.WriteFile(w.in(movingName), b)
	}
	for _, p := range moving {
		if err == nil {
			err = os.Rename(w.store()+p, w.path+p)
		}
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(w.path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("preset: restore: %w", bare(err)), w.drop())
	}
	// From here on it is a store: the folder goes without the list first, so that nobody takes the pieces back.
	if err := os.Remove(w.in(movingName)); err != nil {
		return fmt.Errorf("preset: restore: %w", bare(err))
	}
	if err := os.RemoveAll(w.dir); err != nil {
		return fmt.Errorf("preset: restore: %w", bare(err))
	}
	return nil
}

// moving lists the pieces that were made, the database last.
func (w *restore) moving() ([]string, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, fmt.Errorf("preset: restore: %w", bare(err))
	}
	var out []string
	for _, e := range entries {
		p, ok := strings.CutPrefix(e.Name(), "store")
		if !ok || p == "" {
			continue
		}
		if e.Type().IsRegular() {
			same, err := sameFile(w.store()+p, w.path+p)
			if err != nil {
				return nil, err
			}
			if same {
				continue // the key file was there
			}
		}
		out = append(out, p)
	}
	return append(out, ""), nil
}

// sameFile says that there is a file at b, and that it holds what a does. One that holds something else is in the way.
func sameFile(a, b string) (bool, error) {
	there, err := os.ReadFile(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("preset: restore: %w", bare(err))
	}
	mine, err := os.ReadFile(a)
	if err != nil {
		return false, fmt.Errorf("preset: restore: %w", bare(err))
	}
	if !bytes.Equal(mine, there) {
		return false, backup.ErrNotEmpty
	}
	return true, nil
}
