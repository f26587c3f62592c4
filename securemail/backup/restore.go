package backup

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// Target is where a backup is restored to. Everything in it must be empty; the caller makes it a place of its own, which he
// gives its name, or drops, when Restore has answered.
type Target struct {
	// DB gets the tables, in one transaction that is committed last. Required.
	DB *sql.DB
	// Blobs gets the blobs; nil: a backup with blobs is an error.
	Blobs securemail.BlobStore
	// LogDir is the folder that gets the log; empty: the log is proved and left out.
	LogDir string
	// Ring takes the ring's files: keyring.Restore. Required. It reads to the end.
	Ring func(ctx context.Context, r io.Reader) error
	// File takes each of Set.Files; nil: they are left out.
	File func(name string, data []byte) error
	// Adopt, where it is set, is called in the transaction when all rows are there and the backup is of another dialect than
	// DB, each "sqlite" or "postgres": what the one keeps otherwise than the other is put right. See queue.Adopt.
	Adopt func(ctx context.Context, tx *sql.Tx, from, to string) error
	// LogKey is the log's public key in note form; empty: who signed its checkpoint is not proved.
	LogKey string
	// Now nil: time.Now.
	Now func() time.Time
}

// Restore reads a backup to its end, proves it like [Verify], and writes it to t. The tables are made as they were when it
// was taken, in the words of t.DB's dialect; the packages migrate them when they are opened. In the same transaction the
// database is marked: [Pending] tells of it until [Declare]. On an error no row is in DB, and what lies elsewhere in t is for
// the caller to drop. A backup that was made incomplete is restored, and its Report comes with [ErrIncomplete].
func Restore(ctx context.Context, r io.Reader, open Opener, t *Target) (*Report, error) {
	if t == nil || t.DB == nil || t.Ring == nil {
		return nil, errors.New("backup: Target needs DB and Ring")
	}
	d, err := sqldb.Of(ctx, t.DB)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	tx, err := t.DB.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("backup: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit: nothing
	l := &loader{t: t, d: d, tx: tx, ctx: ctx, files: durable.Tree{Root: t.LogDir}}
	l.logKey = t.LogKey
	if t.LogDir != "" {
		l.checker.emit, l.checker.file = l.logTile, l.logFile
	}
	if err := walk(ctx, r, open, l); err != nil {
		return nil, err
	}
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("backup: commit: %w", err)
	}
	if !l.told.Whole() {
		return l.told, fmt.Errorf("%w: %d blobs damaged, %d missing", ErrIncomplete, len(l.told.Damaged), len(l.told.Missing))
	}
	return l.told, nil
}

// loader restores.
type loader struct {
	checker
	t     *Target
	d     *sqldb.DB
	tx    *sql.Tx
	ctx   context.Context // of the one call that this is
	files durable.Tree
	rows  *inserter
	made  []string // tables
}

func (l *loader) manifest(m *manifest) error {
	if err := l.checker.manifest(m); err != nil {
		return err
	}
	if err := l.empty(); err != nil {
		return err
	}
	mine := false
	for i := range m.Packages {
		s := sqldb.Steps(m.Packages[i])
		mine = mine || s.Package == schemaName
		if s.Package == schemaName && len(s.Steps) > len(schema) {
			return ErrNewer
		}
		if err := l.make(&s); err != nil {
			return err
		}
	}
	if mine {
		return nil
	}
	return l.make(&sqldb.Steps{Package: schemaName, Steps: schema})
}

// make makes the tables of a package, without the rows that its steps put there.
func (l *loader) make(s *sqldb.Steps) error {
	if err := l.d.Make(l.ctx, l.tx, s); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	for _, name := range s.Tables() {
		cs, err := columnsOf(l.ctx, l.d, l.tx, name)
		if err != nil {
			return err
		}
		if len(cs) == 0 {
			continue
		}
		l.made = append(l.made, name)
		if _, err := l.tx.ExecContext(l.ctx, "DELETE FROM "+quote(name)); err != nil {
			return fmt.Errorf("backup: table %s: %w", name, err)
		}
	}
	return nil
}

// empty refuses a database with tables of ours.
func (l *loader) empty() error {
	cs, err := columnsOf(l.ctx, l.d, l.tx, "postseal_schema")
	if err != nil || len(cs) == 0 {
		return err
	}
	var n int
	if err := l.tx.QueryRowContext(l.ctx, "SELECT count(*) FROM postseal_schema").Scan(&n); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if n > 0 {
		return ErrNotEmpty
	}
	return nil
}

func (l *loader) table(t *table) error {
	if err := errors.Join(l.checker.table(t), l.flush()); err != nil {
		return err
	}
	have, err := columnsOf(l.ctx, l.d, l.tx, t.Name)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return fmt.Errorf("%w: table %s was made by no step", ErrCorrupt, t.Name)
	}
	l.rows = newInserter(l.d, l.tx, t, have)
	return nil
}

func (l *loader) row(values []any) error {
	if l.rows == nil {
		return fmt.Errorf("%w: order of records", ErrCorrupt)
	}
	if err := l.rows.add(l.ctx, values); err != nil {
		return err
	}
	return l.checker.row(values)
}

func (l *loader) flush() error {
	if l.rows == nil {
		return nil
	}
	err := l.rows.close(l.ctx)
	l.rows = nil
	return err
}

func (l *loader) object(class byte, name string, r io.Reader) error {
	if err := l.flush(); err != nil {
		return err
	}
	switch class {
	case classBlob:
		if l.t.Blobs == nil {
			return errors.New("backup: restore: there are blobs in it, and no blob store to put them")
		}
		if err := l.t.Blobs.Put(l.ctx, name, r); err != nil {
			return fmt.Errorf("backup: restore blob: %w", err)
		}
	case classRing:
		if err := l.t.Ring(l.ctx, r); err != nil {
			return fmt.Errorf("backup: restore key ring: %w", err)
		}
	case classFile:
		if l.t.File == nil {
			return nil
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, r); err != nil {
			return err
		}
		return l.t.File(name, b.Bytes())
	}
	return l.checker.object(class, name, r)
}

func (l *loader) logTile(level int, n int64, width int, data []byte) error {
	return l.logFile(tilePath(level, n, width), data)
}

func (l *loader) logFile(name string, data []byte) error {
	if !fs.ValidPath(name) || strings.Contains(name, `\`) || path.Clean(name) != name {
		return fmt.Errorf("%w: name of a file", ErrCorrupt)
	}
	if err := l.files.Write(name, data); err != nil {
		return fmt.Errorf("backup: restore log: %w", bare(err))
	}
	return nil
}

// end commits to nothing before all of it was read and counted.
func (l *loader) end(told *Report) error {
	if err := errors.Join(l.flush(), l.checker.end(told)); err != nil {
		return err
	}
	if l.log != nil && l.t.LogDir != "" {
		if err := l.logFile("checkpoint", []byte(l.head.Checkpoint)); err != nil {
			return err
		}
		if err := l.files.Sync(); err != nil {
			return fmt.Errorf("backup: restore log: %w", bare(err))
		}
	}
	for _, name := range l.made {
		if err := l.serials(name); err != nil {
			return err
		}
	}
	to := l.d.Dialect.String()
	if l.t.Adopt != nil && told.Dialect != to {
		if err := l.t.Adopt(l.ctx, l.tx, told.Dialect, to); err != nil {
			return fmt.Errorf("backup: adopt: %w", err)
		}
	}
	return l.mark(told)
}

// serials lets the counters of a table go on behind the rows that are there. SQLite does that by itself.
func (l *loader) serials(name string) error {
	if l.d.Dialect != sqldb.Postgres {
		return nil
	}
	rs, err := l.tx.QueryContext(l.ctx, `SELECT column_name FROM information_schema.columns
		WHERE table_schema=current_schema() AND table_name=$1 AND column_default LIKE 'nextval(%'`, name)
	if err != nil {
		return fmt.Errorf("backup: counters of %s: %w", name, err)
	}
	var columns []string
	for rs.Next() {
		var c string
		if err = rs.Scan(&c); err != nil {
			break
		}
		columns = append(columns, c)
	}
	if err = errors.Join(err, rs.Err(), rs.Close()); err != nil {
		return fmt.Errorf("backup: counters of %s: %w", name, err)
	}
	for _, c := range columns {
		_, err := l.tx.ExecContext(l.ctx, "SELECT setval(pg_get_serial_sequence($1, $2), coalesce(max("+quote(c)+"), 0)+1, false) FROM "+quote(name), name, c)
		if err != nil {
			return fmt.Errorf("backup: counters of %s: %w", name, err)
		}
	}
	return nil
}
