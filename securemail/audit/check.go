package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"
)

// Check reads the whole log again and proves it: every entry, every tile at every level and the root by the checkpoint,
// the checkpoint by the key and by what this process signed and what is kept outside of the folder, the journal and the
// index by their MACs. It takes time in proportion to the log (about 1 s for 1,000,000 entries) and little memory; Emit
// goes on meanwhile. Errors: ErrCorrupt, ErrRollback, ErrClosed, ctx's, the file system's.
func (l *Log) Check(ctx context.Context) error {
	cp, err := l.checkHead(ctx)
	if err != nil {
		return err
	}
	c := &checker{dir: l.dir, size: cp.N}
	for n := int64(0); n*tileWidth < cp.N; n++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := c.bundle(n); err != nil {
			return err
		}
	}
	return c.end(cp.Hash)
}

// checkHead proves everything but the tree, and returns the checkpoint for that.
func (l *Log) checkHead(ctx context.Context) (*checkpoint, error) {
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	defer l.release()
	if l.closed {
		return nil, ErrClosed
	}
	b, err := os.ReadFile(filepath.Join(l.dir, checkpointName))
	if err != nil {
		return nil, corrupt("checkpoint", err)
	}
	if !bytes.Equal(b, l.published.note) {
		if _, err := openCheckpoint(b, l.verifier); err == nil {
			return nil, fmt.Errorf("audit: checkpoint: %w", ErrRollback)
		}
		return nil, errCheckpoint
	}
	seen, err := os.ReadFile(l.o.Seen)
	if err != nil {
		return nil, corrupt("checkpoint outside", err)
	}
	if err := l.extends(l.published, seen); err != nil {
		return nil, err
	}
	if err := l.checkJournal(); err != nil {
		return nil, err
	}
	return l.published, l.checkIndex()
}

func (l *Log) checkJournal() error {
	b, err := os.ReadFile(journalPath(l.dir, l.journal.start))
	if err != nil {
		return corrupt("journal", err)
	}
	j := &journal{key: l.journal.key, start: l.journal.start}
	if err := j.replay(b, func(int64, []byte) {}); err != nil {
		return err
	}
	if j.next != l.journal.next || int64(len(b)) != l.journal.size {
		return fmt.Errorf("audit: journal: %w", ErrCorrupt)
	}
	return nil
}

func (l *Log) checkIndex() error {
	if l.indexSaved == 0 {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(l.dir, indexName))
	if err != nil {
		return corrupt("index", err)
	}
	if parseIndex(l.keys.mac, b, l.published.N) == nil {
		return fmt.Errorf("audit: index: %w", ErrCorrupt)
	}
	return nil
}

// checker builds the tree from the entries and compares it with the tiles.
type checker struct {
	dir  string
	size int64
	tree tree
}

func (c *checker) bundle(n int64) error {
	entries, err := readBundle(c.dir, n, c.size)
	if err != nil {
		return err
	}
	var b []byte
	for _, e := range entries {
		b = appendBundled(b, e)
		c.tree.add(tlog.RecordHash(e))
	}
	if err := c.partials(tileID{entriesLevel, n}, b); err != nil {
		return err
	}
	for _, t := range c.tree.full {
		if err := c.tile(t); err != nil {
			return err
		}
	}
	c.tree.full = nil
	return nil
}

// tile compares the stored tile, and narrower ones that still lie about, with the one that was computed.
func (c *checker) tile(t tile) error {
	b, err := readTile(c.dir, t.id, c.size)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, t.data) {
		return fmt.Errorf("audit: tile: %w", ErrCorrupt)
	}
	return c.partials(t.id, t.data)
}

// partials compares narrower versions of a tile or bundle with what must be their continuation. Wider ones are what a
// crash left before their checkpoint was signed.
func (c *checker) partials(id tileID, whole []byte) error {
	dir := filepath.Join(c.dir, filepath.FromSlash(id.path(tileWidth))+".p")
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("audit: tile: %w", err)
	}
	for _, f := range files {
		width, err := strconv.Atoi(f.Name())
		if err != nil || width > id.widthIn(c.size) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("audit: tile: %w", err)
		}
		if !bytes.HasPrefix(whole, b) || !c.widthIs(id, b, width) {
			return fmt.Errorf("audit: partial tile: %w", ErrCorrupt)
		}
	}
	return nil
}

func (c *checker) widthIs(id tileID, b []byte, width int) bool {
	if id.level != entriesLevel {
		return len(b) == width*tlog.HashSize
	}
	entries, err := parseBundle(b)
	return err == nil && len(entries) == width
}

// end compares what is at the right edge, and the root.
func (c *checker) end(root tlog.Hash) error {
	for level, data := range c.tree.edge {
		if len(data) == 0 {
			continue
		}
		id := tileID{level, c.size >> (tileHeight * (level + 1))}
		if err := c.tile(tile{id, slices.Clone(data)}); err != nil {
			return err
		}
	}
	got, err := c.tree.root()
	if err != nil || got != root {
		return fmt.Errorf("audit: root: %w", ErrCorrupt)
	}
	return nil
}
