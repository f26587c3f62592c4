package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/durable"
)

const (
	checkpointName = "checkpoint"
	indexName      = "index"
	lockName       = "lock"
)

// widthIn is how wide a tile is in a tree of size entries.
func (t tileID) widthIn(size int64) int {
	shift := tileHeight * max(t.level, 0)
	return int(min(max(size>>shift-t.n*tileWidth, 0), tileWidth))
}

// readTile reads the file of a tile, or bundle, in a tree of size entries. Where a partial one is gone, the full one has
// taken its place; the caller takes of it what he needs.
func readTile(dir string, id tileID, size int64) ([]byte, error) {
	width := id.widthIn(size)
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(id.path(width))))
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		b, err = os.ReadFile(filepath.Join(dir, filepath.FromSlash(id.path(tileWidth))))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("audit: tile missing: %w", ErrCorrupt)
	case err != nil:
		return nil, fmt.Errorf("audit: tile: %w", err)
	case id.level == entriesLevel:
		return b, nil
	case len(b) != tileBytes && len(b) != width*tlog.HashSize:
		return nil, fmt.Errorf("audit: tile: %w", ErrCorrupt)
	}
	return b[:width*tlog.HashSize], nil
}

// readBundle reads the entries of a bundle in a tree of size entries.
func readBundle(dir string, n, size int64) ([][]byte, error) {
	id := tileID{entriesLevel, n}
	b, err := readTile(dir, id, size)
	if err != nil {
		return nil, err
	}
	width := id.widthIn(size)
	entries, err := parseBundle(b)
	if err != nil || len(entries) != width && len(entries) != tileWidth {
		return nil, fmt.Errorf("audit: bundle: %w", ErrCorrupt)
	}
	return entries[:width], nil
}

// tilesOf reads the hashes of the published tree of size entries, each tile once.
func (l *Log) tilesOf(size int64) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out, read := make([]tlog.Hash, len(indexes)), make(map[tileID]subtree)
		for i, index := range indexes {
			t := tlog.TileForIndex(tileHeight, index)
			id := tileID{t.L, t.N}
			s, ok := read[id]
			if !ok {
				var err error
				if s, err = l.subtreeIn(id, size); err != nil {
					return nil, err
				}
				read[id] = s
			}
			if out[i], ok = s.at(index); !ok {
				return nil, ErrCorrupt
			}
		}
		return out, nil
	})
}

// maxUpper bounds the tiles in memory: 4 MB, enough for all upper levels of a log of 16,000,000 entries.
const maxUpper = 1 << 8

// upperTile is a tile above the lowest level, as wide as it was in some tree.
type upperTile struct {
	tileID
	width int
}

// subtreeIn reads a tile, and keeps those above the lowest level, which every proof goes through.
func (l *Log) subtreeIn(id tileID, size int64) (subtree, error) {
	key := upperTile{id, id.widthIn(size)}
	if id.level > 0 {
		l.upperMu.Lock()
		defer l.upperMu.Unlock()
		if s, ok := l.upper[key]; ok {
			return s, nil
		}
	}
	b, err := readTile(l.dir, id, size)
	if err != nil {
		return subtree{}, err
	}
	s := newSubtree(b)
	if id.level > 0 {
		if l.upper == nil || len(l.upper) >= maxUpper {
			l.upper = make(map[upperTile]subtree)
		}
		l.upper[key] = s
	}
	return s, nil
}

// entryAt returns entry n, which must be in the log.
func (l *Log) entryAt(n int64) ([]byte, error) {
	l.mu.RLock()
	size := l.published.N
	if n >= l.tailStart {
		defer l.mu.RUnlock()
		return l.tail[n-l.tailStart], nil
	}
	l.mu.RUnlock()
	entries, err := readBundle(l.dir, n/tileWidth, size)
	if err != nil {
		return nil, err
	}
	return entries[n%tileWidth], nil
}

// publish signs a checkpoint over all entries. The steps, each durable before the next: tiles and bundles; the
// checkpoint; its copy outside of the folder; a new journal. The caller is the sequencer.
func (l *Log) publish() error {
	if l.waiting() == 0 && l.unpublished == nil {
		return nil
	}
	var err error
	if l.waiting() > 0 {
		err = l.publishTree()
	}
	if err == nil {
		l.lastPublish = l.o.Now()
		err = l.tidy()
	}
	l.unpublished = err
	return err
}

func (l *Log) publishTree() error {
	if err := l.writeTree(); err != nil {
		return fmt.Errorf("audit: tiles: %w", err)
	}
	root, err := l.tree.root()
	if err != nil {
		return fmt.Errorf("audit: root: %w", err)
	}
	cp, err := l.keys.sign(tlog.Tree{N: l.tree.size, Hash: root})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(l.dir, checkpointName), cp.note); err != nil {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = cp
	whole := cp.N &^ (tileWidth - 1)
	l.tail = append([][]byte(nil), l.tail[whole-l.tailStart:]...)
	l.tailStart = whole
	return nil
}

// writeTree writes what changed since the last checkpoint.
func (l *Log) writeTree() error {
	size := l.tree.size
	for at := l.tailStart; at < size; at += tileWidth {
		id := tileID{entriesLevel, at / tileWidth}
		var b []byte
		for _, e := range l.tail[at-l.tailStart : min(at+tileWidth, size)-l.tailStart] {
			b = appendBundled(b, e)
		}
		if err := l.files.Write(id.path(id.widthIn(size)), b); err != nil {
			return err
		}
	}
	for _, t := range l.tree.full {
		if err := l.files.Write(t.id.path(tileWidth), t.data); err != nil {
			return err
		}
	}
	for level, data := range l.tree.edge {
		if len(data) == 0 {
			continue
		}
		id := tileID{level, size >> (tileHeight * (level + 1))}
		name := id.path(len(data) / tlog.HashSize)
		if l.partials[level] == name {
			continue
		}
		if err := l.files.Write(name, data); err != nil {
			return err
		}
		l.partials[level] = name
	}
	return l.files.Sync()
}

// tidy does what follows a checkpoint, and what a crash in it leaves to the next.
func (l *Log) tidy() error {
	if err := durable.WriteFile(l.o.Seen, l.published.note); err != nil {
		return fmt.Errorf("audit: checkpoint outside: %w", err)
	}
	if l.journal.start < l.published.N {
		next, err := createJournal(l.dir, l.keys.mac, l.published.N)
		if err != nil {
			return err
		}
		old := l.journal
		l.journal = next
		if err := old.file.Close(); err != nil {
			return fmt.Errorf("audit: journal: %w", err)
		}
	}
	if err := removeJournals(l.dir, l.journal.start); err != nil {
		return fmt.Errorf("audit: journal: %w", err)
	}
	// Partial tiles whose full ones are there now may go (tlog-tiles); a failure leaves them lying, no more.
	for _, t := range l.tree.full {
		_ = os.RemoveAll(filepath.Join(l.dir, filepath.FromSlash(t.id.path(tileWidth))+".p"))
		if t.id.level == 0 {
			bundle := tileID{entriesLevel, t.id.n}
			_ = os.RemoveAll(filepath.Join(l.dir, filepath.FromSlash(bundle.path(tileWidth))+".p"))
		}
	}
	l.tree.full = nil
	return l.saveIndexInTime()
}

// saveIndexInTime stores the index before the entries that it lacks would hold up the next Open: what is not in it has to be
// read again. It costs as much as there are entries, so a large log does it seldom.
func (l *Log) saveIndexInTime() error {
	if l.published.N-l.indexSaved < max(saveAfter, l.indexSaved/16) {
		return nil
	}
	return l.saveIndex()
}

// removeJournals removes the journals before start.
func removeJournals(dir string, start int64) error {
	starts, err := journals(dir)
	if err != nil {
		return err
	}
	for _, s := range starts {
		if s < start {
			if err := os.Remove(journalPath(dir, s)); err != nil {
				return err
			}
		}
	}
	return nil
}

// saveIndex stores the index; all its entries are published.
func (l *Log) saveIndex() error {
	l.mu.Lock()
	b := l.index.format(l.keys.mac)
	n := int64(l.index.len())
	l.mu.Unlock()
	if n == l.indexSaved {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(l.dir, indexName), b); err != nil {
		return fmt.Errorf("audit: index: %w", err)
	}
	l.indexSaved = n
	return nil
}
