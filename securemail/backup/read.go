package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/seal"
)

// Opener gives back the key that the ring wrapped: keyring.OpenBackupKey with the root key, or OpenBackupKeyUnder with the
// KMS.
type Opener func(ctx context.Context, wrapped []byte) (key []byte, err error)

// Verify reads a backup to its end and proves it: every octet by its seal, every row's form, the log by its checkpoint, and
// the counts by the Report, which it returns. With logKey, the log's public key in note form, it proves who signed the
// checkpoint; without, only that it is the one that was backed up. Errors: [ErrCorrupt], [ErrNewer], [ErrIncomplete] with
// the Report of a backup that was made incomplete, those of open and of r.
func Verify(ctx context.Context, r io.Reader, open Opener, logKey string) (*Report, error) {
	c := &checker{logKey: logKey}
	if err := walk(ctx, r, open, c); err != nil {
		return nil, err
	}
	if !c.told.Whole() {
		return c.told, fmt.Errorf("%w: %d blobs damaged, %d missing", ErrIncomplete, len(c.told.Damaged), len(c.told.Missing))
	}
	return c.told, nil
}

// handler takes what is in a backup, in order. What it is given is good until it returns.
type handler interface {
	header(h *Header) error
	manifest(m *manifest) error
	table(t *table) error
	row(values []any) error
	// object reads r to its end.
	object(class byte, name string, r io.Reader) error
	end(told *Report) error
}

// walk reads a backup to its end. Each octet that it gives out was proved; that nothing is missing behind it is proved when
// it returns nil.
func walk(ctx context.Context, r io.Reader, open Opener, h handler) error {
	head, octets, err := readHeader(r)
	if err != nil {
		return err
	}
	key, err := open(ctx, head.Key)
	if err != nil {
		return fmt.Errorf("backup: key: %w", err)
	}
	defer clear(key)
	plain, err := seal.NewReader(r, key, octets)
	if err != nil {
		return cutShort(err)
	}
	if err := h.header(head); err != nil {
		return err
	}
	return walkRecords(ctx, plain, h)
}

func walkRecords(ctx context.Context, plain io.Reader, h handler) error {
	w := &walker{r: newRecordReader(plain), h: h}
	for !w.ended {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, err := w.r.next()
		if err != nil {
			return err
		}
		if err := w.take(rec); err != nil {
			return err
		}
	}
	return w.r.atEnd()
}

// walker holds records to their order.
type walker struct {
	r       *recordReader
	h       handler
	begun   bool // the manifest was read
	columns int  // of the table whose rows come now; -1: no table
	objects bool // no more tables
	ended   bool
}

func (w *walker) take(rec record) error {
	if !w.begun && rec.kind != recManifest {
		return fmt.Errorf("%w: order of records", ErrCorrupt)
	}
	switch rec.kind {
	case recManifest:
		if w.begun {
			break
		}
		w.begun = true
		return decode(rec.payload, w.h.manifest)
	case recTable:
		if w.objects {
			break
		}
		return decode(rec.payload, func(t *table) error {
			w.columns = len(t.Columns)
			return w.h.table(t)
		})
	case recRow:
		if w.objects || w.columns == 0 {
			break
		}
		values, err := parseRow(rec.payload, w.columns)
		if err != nil {
			return err
		}
		return w.h.row(values)
	case recObject, recGone:
		w.objects = true
		return w.object(rec)
	case recEnd:
		w.ended = true
		return decode(rec.payload, w.h.end)
	}
	return fmt.Errorf("%w: order of records", ErrCorrupt)
}

func (w *walker) object(rec record) error {
	if len(rec.payload) < 2 {
		return fmt.Errorf("%w: object without a name", ErrCorrupt)
	}
	class, name := rec.payload[0], string(rec.payload[1:])
	if rec.kind == recGone {
		return nil
	}
	o := &objectReader{r: w.r}
	if err := w.h.object(class, name, o); err != nil {
		return err
	}
	// What the handler did not want is read all the same.
	_, err := io.Copy(io.Discard, o)
	return err
}

// decode reads JSON of ours.
func decode[T any](b []byte, f func(*T) error) error {
	v := new(T)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: a record's form", ErrCorrupt)
	}
	return f(v)
}

// objectReader gives the octets of one object.
type objectReader struct {
	r    *recordReader
	left []byte
	err  error
}

func (o *objectReader) Read(p []byte) (int, error) {
	for len(o.left) == 0 && o.err == nil {
		rec, err := o.r.next()
		switch {
		case err != nil:
			o.err = err
		case rec.kind == recData:
			o.left = rec.payload
		case rec.kind == recClose && len(rec.payload) == 1:
			o.err = io.EOF
		default:
			o.err = fmt.Errorf("%w: order of records", ErrCorrupt)
		}
	}
	n := copy(p, o.left)
	o.left = o.left[n:]
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, o.err
}

// checker counts and proves.
type checker struct {
	logKey string
	// emit, where it is set, takes each tile of the log, and file each other object of it.
	emit func(level int, n int64, width int, data []byte) error
	file func(name string, data []byte) error

	head   *Header
	name   string // of the table whose rows come now
	counts Report
	told   *Report
	log    *logWalk
	leaves []byte // a tile whose bundle may follow
	rings  int
}

func (c *checker) header(h *Header) error {
	c.head = h
	c.counts = Report{Rows: map[string]int64{}, LogSize: -1}
	return nil
}

func (c *checker) manifest(m *manifest) error {
	if c.counts.Dialect = m.Dialect; m.Dialect != "sqlite" && m.Dialect != "postgres" {
		return fmt.Errorf("%w: dialect", ErrCorrupt)
	}
	return nil
}

func (c *checker) table(t *table) error {
	c.name = t.Name
	return nil
}

func (c *checker) row([]any) error {
	c.counts.Rows[c.name]++
	return nil
}

func (c *checker) object(class byte, name string, r io.Reader) error {
	switch class {
	case classBlob:
		c.counts.Blobs++
		return nil
	case classRing:
		c.rings++
		return nil
	case classLog:
		b, err := io.ReadAll(io.LimitReader(r, maxLogObject+1))
		if err != nil {
			return err
		}
		if len(b) > maxLogObject {
			return fmt.Errorf("%w: a file of the log is too long", ErrCorrupt)
		}
		return c.logObject(name, b)
	case classFile:
		return nil
	}
	return fmt.Errorf("%w: class of an object", ErrCorrupt)
}

func (c *checker) logObject(name string, b []byte) error {
	if name == "checkpoint" {
		return c.openLog(b)
	}
	if c.log == nil {
		return fmt.Errorf("%w: a log without a checkpoint", ErrCorrupt)
	}
	switch n := c.log.tree.size / tileWidth; {
	case c.leaves != nil && name == tilePath(-1, n, c.width(n)):
		return c.tile(b)
	case strings.HasPrefix(name, "tile/"):
		if err := c.tile(nil); err != nil {
			return err
		}
		n = c.log.tree.size / tileWidth
		if name != tilePath(0, n, c.width(n)) {
			return fmt.Errorf("%w: order of the log's tiles", ErrCorrupt)
		}
		c.leaves = b
		return nil
	}
	if err := c.tile(nil); err != nil {
		return err
	}
	return c.put(name, b)
}

func (c *checker) width(n int64) int { return max(widthOf(n, c.log.head.size), 0) }

func (c *checker) put(name string, b []byte) error {
	if c.file == nil {
		return nil
	}
	return c.file(name, b)
}

func (c *checker) openLog(cp []byte) (err error) {
	if c.log != nil || string(cp) != c.head.Checkpoint {
		return fmt.Errorf("%w: checkpoint", ErrCorrupt)
	}
	var h *head
	if c.logKey != "" {
		h, err = openHead(cp, c.logKey)
	} else {
		h, err = parseHead(string(cp))
	}
	if err != nil {
		return err
	}
	c.log = &logWalk{head: h, tree: tree{emit: c.emit}}
	c.counts.LogSize, c.counts.LogOrigin = h.size, h.origin
	return nil
}

// tile adds the tile that waits, with its bundle where it has one.
func (c *checker) tile(bundle []byte) error {
	if c.leaves == nil {
		return nil
	}
	n := c.log.tree.size / tileWidth
	leaves := c.leaves
	c.leaves = nil
	if len(leaves) != c.width(n)*tlog.HashSize {
		return fmt.Errorf("%w: a tile of the log", ErrCorrupt)
	}
	bundle, err := c.log.add(leaves, bundle)
	if err != nil || bundle == nil {
		return err
	}
	return c.put(tilePath(-1, n, c.width(n)), bundle)
}

// errCounts says that the parts were not what the Report counted.
var errCounts = fmt.Errorf("%w: it does not hold what it says", ErrCorrupt)

func (c *checker) end(told *Report) error {
	c.told = told
	if c.log != nil {
		if err := errors.Join(c.tile(nil), c.log.end()); err != nil {
			return err
		}
		told.Checkpoint = c.head.Checkpoint
	}
	if told.ID != c.head.ID || !told.Taken.Equal(c.head.Taken) || told.Dialect != c.counts.Dialect || told.Blobs != c.counts.Blobs ||
		told.LogSize != c.counts.LogSize || told.LogOrigin != c.counts.LogOrigin || c.rings != 1 {
		return errCounts
	}
	for name, n := range told.Rows {
		if c.counts.Rows[name] != n {
			return errCounts
		}
	}
	if len(c.counts.Rows) > len(told.Rows) {
		return errCounts
	}
	return nil
}
