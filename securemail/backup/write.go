package backup

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/securemail"
)

// Set is what belongs together: a database, and what lies outside of it. The parts are met by small interfaces.
type Set struct {
	// DB is the database with our tables. Its rows are read in one transaction that stops no writer. Required.
	DB *sql.DB
	// Blobs is the blob store, and Named the part that says which blobs its rows name: *queue.Queue. Both or neither.
	Blobs securemail.BlobStore
	Named Named
	// Log is the audit log in its published form, such as os.DirFS of its folder, and LogKey its public key in note form.
	// Nil: the log lies in DB, or there is none.
	Log    fs.FS
	LogKey string
	// Publish, where it is set, is called when the snapshot has begun, so that the log covers it: (*audit.Log).Publish.
	Publish func(ctx context.Context) error
	// Ring wraps the backup's key and gives a copy of its own files: *keyring.File. Required.
	Ring Ring
	// Files are small secrets that the set can't do without, such as the key file of the audit log, by a name of the
	// caller's. They stand in the backup sealed like the rest.
	Files map[string][]byte
	// Now nil: time.Now.
	Now func() time.Time
}

// Named is who knows the blobs: *queue.Queue.
type Named interface {
	// EachBlob calls do for each blob that the rows in tx name. check reads the sealed blob to its end and proves it; an
	// error with a method Destroyed() bool that answers true says that its key was destroyed.
	EachBlob(ctx context.Context, tx *sql.Tx, do func(key string, check func(sealed io.Reader) error) error) error
}

// Ring is the key ring: *keyring.File.
type Ring interface {
	// BackupKey makes a key and wraps it under the root key.
	BackupKey(ctx context.Context) (key, wrapped []byte, err error)
	// Backup writes the ring's own files, sealed under the root key.
	Backup(ctx context.Context, w io.Writer) error
}

// Report says what is in a backup. It names nobody.
type Report struct {
	ID    string    `json:"id"`
	Taken time.Time `json:"taken"`
	// Dialect is the database's: "sqlite" or "postgres".
	Dialect string `json:"dialect"`
	// Rows counts by table.
	Rows map[string]int64 `json:"rows"`
	// Blobs counts those that are in the backup, Gone those whose parcel ended while it was made.
	Blobs int64 `json:"blobs"`
	Gone  int64 `json:"gone"`
	// Damaged and Missing are the keys of blobs that are not what was stored, or not there, though a row needs them.
	Damaged []string `json:"damaged,omitempty"`
	Missing []string `json:"missing,omitempty"`
	// LogSize counts the entries of the log, LogOrigin names it; LogSize -1: no log is in the backup.
	LogSize   int64  `json:"log_size"`
	LogOrigin string `json:"log_origin,omitempty"`
	// Octets counts what was sealed.
	Octets int64 `json:"octets"`
	// Checkpoint is the log's, a signed note.
	Checkpoint string `json:"-"`
}

// Total is the number of rows.
func (r *Report) Total() (n int64) {
	for _, v := range r.Rows {
		n += v
	}
	return n
}

// Whole says that nothing was missing or damaged.
func (r *Report) Whole() bool { return len(r.Damaged)+len(r.Missing) == 0 }

// missingShown bounds the lists of a Report.
const missingShown = 1000

// Write writes a backup of s to w. The order makes it consistent: the rows are of one moment; blobs, log and key ring are
// read after it, so that they hold whatever a row needs. Memory is flat. An error that Is [ErrIncomplete] comes with a
// backup that is whole but for what its Report names; after any other error what was written is no backup.
func Write(ctx context.Context, w io.Writer, s *Set) (*Report, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	d, err := sqldb.Of(ctx, s.DB)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	now := s.Now
	if now == nil {
		now = time.Now
	}
	b := &writing{s: s, d: d, rep: &Report{
		ID: newID(), Dialect: d.Dialect.String(), Rows: map[string]int64{}, LogSize: -1,
	}}
	err = d.Snapshot(ctx, func(ctx context.Context, tx *sql.Tx) error {
		b.rep.Taken = now().UTC()
		return b.write(ctx, w, tx)
	})
	if err != nil {
		return nil, err
	}
	if !b.rep.Whole() {
		return b.rep, fmt.Errorf("%w: %d blobs damaged, %d missing", ErrIncomplete, len(b.rep.Damaged), len(b.rep.Missing))
	}
	return b.rep, nil
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

func (s *Set) check() error {
	var errs []error
	if s == nil || s.DB == nil || s.Ring == nil {
		return errors.New("backup: Set needs DB and Ring")
	}
	if (s.Blobs == nil) != (s.Named == nil) {
		errs = append(errs, errors.New("backup: Set.Blobs and Named go together"))
	}
	if (s.Log == nil) != (s.LogKey == "") {
		errs = append(errs, errors.New("backup: Set.Log and LogKey go together"))
	}
	return errors.Join(errs...)
}

// writing is one backup being made.
type writing struct {
	s   *Set
	d   *sqldb.DB
	rep *Report
	log *published
	out *recorder
}

func (b *writing) write(ctx context.Context, w io.Writer, tx *sql.Tx) (err error) {
	if err := b.openLog(ctx); err != nil {
		return err
	}
	key, wrapped, err := b.s.Ring.BackupKey(ctx)
	if err != nil {
		return fmt.Errorf("backup: key: %w", err)
	}
	defer clear(key)
	header, err := formatHeader(&Header{ID: b.rep.ID, Taken: b.rep.Taken, Checkpoint: b.rep.Checkpoint, Key: wrapped})
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("backup: write: %w", err)
	}
	sealing, err := seal.NewWriter(w, key, header)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	b.out = newRecorder(sealing)
	if err := b.records(ctx, tx); err != nil {
		return err
	}
	if err := b.out.w.Flush(); err != nil {
		return fmt.Errorf("backup: write: %w", err)
	}
	return sealing.Close()
}

func (b *writing) records(ctx context.Context, tx *sql.Tx) error {
	d := &dumper{b.d, tx, b.out, b.rep}
	if err := d.tables(ctx); err != nil {
		return err
	}
	if err := b.blobs(ctx, tx); err != nil {
		return err
	}
	if err := b.logObjects(ctx); err != nil {
		return err
	}
	err := b.out.object(classRing, "ring", func(w io.Writer) (bool, error) { return false, b.s.Ring.Backup(ctx, w) })
	if err != nil {
		return fmt.Errorf("backup: key ring: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(b.s.Files)) {
		if err := b.out.small(classFile, name, b.s.Files[name]); err != nil {
			return err
		}
	}
	b.rep.Octets = b.out.n
	return b.out.putJSON(recEnd, b.rep)
}

// openLog takes the checkpoint, after the snapshot has begun.
func (b *writing) openLog(ctx context.Context) (err error) {
	if b.s.Publish != nil {
		if err := b.s.Publish(ctx); err != nil {
			return fmt.Errorf("backup: publish the log: %w", err)
		}
	}
	if b.s.Log == nil {
		return nil
	}
	if b.log, err = openPublished(b.s.Log, b.s.LogKey); err != nil {
		return err
	}
	b.rep.Checkpoint, b.rep.LogSize, b.rep.LogOrigin = string(b.log.cp), b.log.head.size, b.log.head.origin
	return nil
}

func (b *writing) logObjects(ctx context.Context) error {
	if b.log == nil {
		return nil
	}
	if err := b.out.small(classLog, "checkpoint", b.log.cp); err != nil {
		return err
	}
	err := b.log.each(ctx, func(n int64, leaves, bundle []byte) error {
		width := widthOf(n, b.log.head.size)
		if err := b.out.small(classLog, tilePath(0, n, width), leaves); err != nil || bundle == nil {
			return err
		}
		return b.out.small(classLog, tilePath(-1, n, width), bundle)
	})
	if err != nil {
		return err
	}
	for name, err := range b.log.others {
		if err != nil {
			return err
		}
		data, err := fs.ReadFile(b.s.Log, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("backup: log: %w", bare(err))
		}
		if err := b.out.small(classLog, name, data); err != nil {
			return err
		}
	}
	return nil
}

// blobs copies every blob that the snapshot names.
func (b *writing) blobs(ctx context.Context, tx *sql.Tx) error {
	if b.s.Named == nil {
		return nil
	}
	var missing []string
	err := b.s.Named.EachBlob(ctx, tx, func(key string, check func(io.Reader) error) error {
		r, err := b.s.Blobs.Open(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, key)
			return b.out.put(recGone, append([]byte{classBlob}, key...))
		}
		if err != nil {
			return fmt.Errorf("backup: blob: %w", err)
		}
		defer r.Close()
		return b.blob(key, r, check)
	})
	if err != nil || len(missing) == 0 {
		return err
	}
	return b.missing(ctx, missing)
}

func (b *writing) blob(key string, r io.Reader, check func(io.Reader) error) error {
	return b.out.object(classBlob, key, func(w io.Writer) (bool, error) {
		sealed := &tee{r: r, w: w}
		err := check(sealed)
		if err == nil || sealed.err == nil {
			// What the check did not read is copied all the same.
			_, copyErr := io.Copy(io.Discard, sealed)
			sealed.err = errors.Join(sealed.err, copyErr)
		}
		if sealed.err != nil {
			return false, fmt.Errorf("backup: blob: %w", sealed.err)
		}
		b.rep.Blobs++
		if err == nil || wasDestroyed(err) {
			return false, nil
		}
		if !isDamage(err) {
			return false, fmt.Errorf("backup: blob: %w", err)
		}
		b.rep.Damaged = bounded(b.rep.Damaged, key)
		return true, nil
	})
}

func bounded(list []string, s string) []string {
	if len(list) < missingShown {
		list = append(list, s)
	}
	return list
}

// isDamage says that err is about the sealed octets, not about reading them.
func isDamage(err error) bool { return errors.Is(err, seal.ErrCorrupt) }

func wasDestroyed(err error) bool {
	var d interface{ Destroyed() bool }
	return errors.As(err, &d) && d.Destroyed()
}

// missing tells blobs whose rows are gone by now, from those that are lost.
func (b *writing) missing(ctx context.Context, keys []string) error {
	lost := make(map[string]bool, len(keys))
	for _, key := range keys {
		lost[key] = false
	}
	err := b.d.Snapshot(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return b.s.Named.EachBlob(ctx, tx, func(key string, _ func(io.Reader) error) error {
			if _, ok := lost[key]; ok {
				lost[key] = true
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, key := range keys {
		if lost[key] {
			b.rep.Missing = bounded(b.rep.Missing, key)
		} else {
			b.rep.Gone++
		}
	}
	return nil
}

// tee copies what is read, and keeps the first error that is not the end.
type tee struct {
	r   io.Reader
	w   io.Writer
	err error
}

func (t *tee) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	if n > 0 {
		if _, werr := t.w.Write(p[:n]); werr != nil {
			t.err = werr
			return 0, werr
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}

// Info reads what stands in clear before a backup. It proves nothing: [Verify] does.
func Info(r io.Reader) (*Header, error) {
	h, _, err := readHeader(r)
	return h, err
}
