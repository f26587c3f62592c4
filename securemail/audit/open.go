package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/durable"
)

// Open opens the log in the folder dir, making folder and keys where there are none, and takes up what a crash left: the
// entries in the journal are in the log, in its order, when Open returns. A nil o is the zero Options. Where the index is
// missing, all entries are read; else a small part. Errors: ErrLocked, ErrCorrupt, ErrRollback, ErrExposed, the file
// system's.
func Open(ctx context.Context, dir string, o *Options) (*Log, error) {
	c, err := o.check(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("audit: open: %w", err)
	}
	lock, err := durable.TryLock(filepath.Join(dir, lockName))
	if errors.Is(err, durable.ErrLocked) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("audit: lock: %w", err)
	}
	l := &Log{
		dir: dir, o: c, lock: lock, sequencer: make(chan struct{}, 1), files: durable.Tree{Root: dir}, partials: map[int]string{},
	}
	if err := l.open(ctx); err != nil {
		if l.journal != nil && l.journal.file != nil {
			err = errors.Join(err, l.journal.file.Close())
		}
		return nil, errors.Join(err, lock.Unlock())
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	cp, err := os.ReadFile(filepath.Join(l.dir, checkpointName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: checkpoint: %w", err)
	}
	isNew := err != nil
	if isNew {
		if err := l.neverWas(); err != nil {
			return err
		}
	}
	if err := l.openKeys(isNew); err != nil {
		return err
	}
	if isNew {
		cp, err = l.create()
		if err != nil {
			return err
		}
	}
	if l.published, err = openCheckpoint(cp, l.verifier); err != nil {
		return err
	}
	if err := l.resume(); err != nil {
		return err
	}
	if err := l.checkSeen(); err != nil {
		return err
	}
	l.loadCosigned()
	if err := l.loadIndex(ctx); err != nil {
		return err
	}
	if err := l.saveIndexInTime(); err != nil {
		return err
	}
	return l.takeUp()
}

func (l *Log) openKeys(mayMake bool) (err error) {
	if l.o.Signer != nil {
		l.keys = &keys{signer: l.o.Signer, public: l.o.VerifierKey}
	} else if l.keys, err = openKeys(l.o.KeyFile, l.o.Origin, mayMake); err != nil {
		return err
	}
	if l.o.PseudonymKey != nil {
		l.keys.pseudonym = l.o.PseudonymKey
	}
	l.keys.mac = newMACs(l.keys.pseudonym)
	if l.verifier, err = note.NewVerifier(l.keys.public); err != nil {
		return fmt.Errorf("audit: Options.VerifierKey: %w", err)
	}
	if l.verifier.Name() != l.keys.signer.Name() || l.verifier.KeyHash() != l.keys.signer.KeyHash() {
		return errors.New("audit: Options.VerifierKey is not the Signer's")
	}
	return nil
}

// neverWas proves that a folder without a checkpoint surely has no log, before a key is made for one.
func (l *Log) neverWas() error {
	starts, err := journals(l.dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(l.dir, "tile")); !errors.Is(err, fs.ErrNotExist) || len(starts) > 0 {
		return errors.Join(fmt.Errorf("audit: checkpoint missing: %w", ErrCorrupt), err)
	}
	if _, err := os.Stat(l.o.Seen); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("audit: the log is gone, but its checkpoint is kept: %w", ErrRollback), err)
	}
	return nil
}

// create signs the empty tree.
func (l *Log) create() ([]byte, error) {
	root, err := tlog.TreeHash(0, &tree{})
	if err != nil {
		return nil, fmt.Errorf("audit: root: %w", err)
	}
	cp, err := l.keys.sign(tlog.Tree{Hash: root})
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(l.dir, checkpointName), cp.note); err != nil {
		return nil, fmt.Errorf("audit: checkpoint: %w", err)
	}
	return cp.note, nil
}

// resume reads the right edge of the published tree, and proves it by the checkpoint.
func (l *Log) resume() error {
	size := l.published.N
	l.tree.size = size
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		id := tileID{level, size >> (tileHeight * (level + 1))}
		width := id.widthIn(size)
		if width == 0 {
			l.tree.edge = append(l.tree.edge, nil)
			continue
		}
		b, err := readTile(l.dir, id, size)
		if err != nil {
			return err
		}
		l.tree.edge = append(l.tree.edge, b)
		l.partials[level] = id.path(width)
	}
	root, err := l.tree.root()
	if err != nil || root != l.published.Hash {
		return fmt.Errorf("audit: tiles: %w", ErrCorrupt)
	}
	l.tailStart = size &^ (tileWidth - 1)
	if l.tailStart == size {
		return nil
	}
	entries, err := readBundle(l.dir, size/tileWidth, size)
	if err != nil {
		return err
	}
	l.tail = entries
	return matchLeaves(entries, l.tree.edge[0])
}

// matchLeaves proves entries by their tile of level 0.
func matchLeaves(entries [][]byte, leaves []byte) error {
	for i, e := range entries {
		if tlog.RecordHash(e) != tlog.Hash(leaves[i*tlog.HashSize:]) {
			return fmt.Errorf("audit: bundle: %w", ErrCorrupt)
		}
	}
	return nil
}

// checkSeen compares the log with the checkpoint that is kept outside of it.
func (l *Log) checkSeen() error {
	b, err := os.ReadFile(l.o.Seen)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: checkpoint outside: %w", err)
	}
	if err == nil {
		if err := l.extends(l.published, b); err != nil || bytes.Equal(b, l.published.note) {
			return err
		}
	}
	if err := durable.WriteFile(l.o.Seen, l.published.note); err != nil {
		return fmt.Errorf("audit: checkpoint outside: %w", err)
	}
	return nil
}

// Extends checks that the log is a continuation of the one that the signed checkpoint old was made of: nothing that
// it covered was changed or taken away. Errors: ErrRollback; ErrCorrupt where old is not this log's.
func (l *Log) Extends(_ context.Context, old []byte) error { return l.extends(l.newest(), old) }

func (l *Log) extends(now *checkpoint, old []byte) error {
	cp, err := openCheckpoint(old, l.verifier)
	if err != nil {
		return err
	}
	switch {
	case cp.N > now.N, cp.N == now.N && cp.Hash != now.Hash:
		return ErrRollback
	case cp.N == now.N || cp.N == 0:
		return nil
	}
	p, err := tlog.ProveTree(now.N, cp.N, l.tilesOf(now.N))
	if err != nil {
		return corrupt("tiles", err)
	}
	if tlog.CheckTree(p, now.N, now.Hash, cp.N, cp.Hash) != nil {
		return ErrRollback
	}
	return nil
}

// loadIndex reads the stored index, and the entries that it does not have.
func (l *Log) loadIndex(ctx context.Context) error {
	b, err := os.ReadFile(filepath.Join(l.dir, indexName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: index: %w", err)
	}
	if x := parseIndex(l.keys.mac, b, l.published.N); x != nil {
		l.index = *x
		l.indexSaved = int64(x.len())
	}
	size := l.published.N
	for n := l.indexSaved; n < size; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		bundle := n / tileWidth
		entries, err := readBundle(l.dir, bundle, size)
		if err != nil {
			return err
		}
		leaves, err := readTile(l.dir, tileID{0, bundle}, size)
		if err != nil {
			return err
		}
		if err := matchLeaves(entries, leaves); err != nil {
			return err
		}
		for _, e := range entries[n%tileWidth:] {
			if err := l.indexEntry(e, n); err != nil {
				return err
			}
			n++
		}
	}
	return nil
}

func (l *Log) indexEntry(data []byte, n int64) error {
	e, err := parseEntry(data)
	if err != nil {
		return err
	}
	l.index.add(idHash(l.keys.mac, e.Event), n)
	return nil
}

// takeUp brings the entries of the journal into the tree.
func (l *Log) takeUp() error {
	entries, j, err := recoverJournals(l.dir, l.keys.mac, l.published.N)
	if j != nil {
		l.journal = j
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := l.indexEntry(e, l.tree.size); err != nil {
			return err
		}
		l.tail = append(l.tail, e)
		l.tree.add(tlog.RecordHash(e))
	}
	return l.publish()
}
