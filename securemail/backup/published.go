package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// maxLogObject bounds one file of a log: a bundle is at most 16 MiB.
const maxLogObject = 1 << 25

// published reads a log in its published form.
type published struct {
	files fs.FS
	cp    []byte
	head  *head
}

func openPublished(files fs.FS, key string) (*published, error) {
	cp, err := fs.ReadFile(files, "checkpoint")
	if err != nil {
		return nil, fmt.Errorf("backup: the log's checkpoint can't be read: %w", bare(err))
	}
	h, err := openHead(cp, key)
	if err != nil {
		return nil, err
	}
	return &published{files, cp, h}, nil
}

// tile reads tile n of level 0, or the bundle of its entries with level -1, as wide as the tree of size needs it. Where a
// partial one is gone, a full one has taken its place.
func (p *published) tile(level int, n int64) ([]byte, error) {
	width := widthOf(n, p.head.size)
	b, err := fs.ReadFile(p.files, tilePath(level, n, width))
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		b, err = fs.ReadFile(p.files, tilePath(level, n, tileWidth))
	}
	if err != nil {
		return nil, fmt.Errorf("backup: a tile of the log can't be read: %w", bare(err))
	}
	if level == 0 {
		if len(b) < width*tlog.HashSize {
			return nil, fmt.Errorf("%w: a tile of the log is too short", ErrCorrupt)
		}
		b = b[:width*tlog.HashSize]
	}
	return b, nil
}

// logHandler takes a tile of level 0 and its entries; bundle is nil where they were pruned.
type logHandler func(n int64, leaves, bundle []byte) error

// each proves the log against its checkpoint while it gives out tile by tile.
func (p *published) each(ctx context.Context, f logHandler) error {
	w := &logWalk{head: p.head}
	for n := int64(0); n*tileWidth < p.head.size; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		leaves, err := p.tile(0, n)
		if err != nil {
			return err
		}
		bundle, err := p.tile(-1, n)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && !w.entries) {
			return err
		}
		if bundle, err = w.add(leaves, bundle); err != nil {
			return err
		}
		if err := f(n, leaves, bundle); err != nil {
			return err
		}
	}
	return w.end()
}

// logWalk proves tiles and bundles in order.
type logWalk struct {
	head    *head
	tree    tree
	entries bool // a bundle was there: from here on none may be missing
}

// add proves one tile and its bundle, which it returns cut to the entries that count.
func (w *logWalk) add(leaves, bundle []byte) ([]byte, error) {
	width := widthOf(w.tree.size/tileWidth, w.head.size)
	if width <= 0 {
		return nil, fmt.Errorf("%w: the log has more tiles than its checkpoint", ErrCorrupt)
	}
	if bundle == nil && w.entries {
		return nil, fmt.Errorf("%w: entries of the log are missing", ErrCorrupt)
	}
	if bundle != nil {
		w.entries = true
		entries, err := matchBundle(bundle, leaves, width)
		if err != nil {
			return nil, err
		}
		n := 0
		for _, e := range entries {
			n += 2 + len(e)
		}
		bundle = bundle[:n]
	}
	return bundle, w.tree.leaves(leaves, width)
}

func (w *logWalk) end() error {
	root, err := w.tree.end()
	if err != nil {
		return fmt.Errorf("backup: log: %w", err)
	}
	if w.tree.size != w.head.size || root != w.head.root {
		return fmt.Errorf("%w: the log does not fit its checkpoint", ErrCorrupt)
	}
	return nil
}

// others yields the names of what else belongs to a log: catalogue, time stamps, cosigned checkpoint. Not what is made anew or
// holds for one process only.
func (p *published) others(yield func(name string, err error) bool) {
	err := fs.WalkDir(p.files, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			if name == "tile" {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || name == "checkpoint" || name == "index" || strings.HasPrefix(name, "journal") ||
			strings.HasPrefix(name, "lock") || strings.HasSuffix(name, ".tmp"):
			return nil
		}
		if !yield(name, nil) {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		yield("", fmt.Errorf("backup: log: %w", bare(err)))
	}
}

// Entry is what recovery needs to know of an entry of the audit log.
type Entry struct {
	// Number is the entry's place in the log, from 0.
	Number     int64             `json:"-"`
	Event      string            `json:"event"`
	Kind       string            `json:"kind"`
	Parcel     string            `json:"parcel"`
	Submission string            `json:"submission"`
	State      string            `json:"state"`
	Seq        int64             `json:"seq"`
	Time       time.Time         `json:"time"`
	Next       time.Time         `json:"next"`
	Detail     map[string]string `json:"detail"`
	By         struct {
		Tenant string `json:"tenant"`
	} `json:"by"`
}

// Entries yields the entries of the published log in files from number from on, in order, each proved by the checkpoint
// that key signed. An error ends it; what was yielded before an error of the root was not proved, so act only when it ended
// without one. Entries that were pruned are left out.
func Entries(ctx context.Context, files fs.FS, key string, from int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		p, err := openPublished(files, key)
		if err == nil {
			err = p.each(ctx, func(n int64, _, bundle []byte) error { return entriesOf(n, bundle, from, yield) })
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Entry{}, err)
		}
	}
}

// errEnough says that the caller wants no more.
var errEnough = errors.New("backup: enough")

func entriesOf(n int64, bundle []byte, from int64, yield func(Entry, error) bool) error {
	entries, err := parseBundle(bundle)
	if err != nil {
		return err
	}
	for i, b := range entries {
		e := Entry{Number: n*tileWidth + int64(i)}
		if e.Number < from {
			continue
		}
		if err := json.Unmarshal(b, &e); err != nil {
			return fmt.Errorf("%w: entry of the log", ErrCorrupt)
		}
		if !yield(e, nil) {
			return errEnough
		}
	}
	return nil
}

// bare is the cause without the path, which may name a person.
func bare(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
