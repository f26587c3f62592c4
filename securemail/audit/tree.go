package audit

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Tiles are 256 hashes wide: tlog's height 8.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	tileBytes  = tileWidth * tlog.HashSize
)

// tileID names a tile at a level, or a bundle of entries at level entriesLevel.
type tileID struct {
	level int
	n     int64
}

const entriesLevel = -1

// path is the name of the full tile, and with width of a partial one (tlog-tiles: N in groups of three digits, all but
// the last behind an x).
func (t tileID) path(width int) string {
	n := fmt.Sprintf("%03d", t.n%1000)
	for rest := t.n / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	dir := "tile/entries/"
	if t.level != entriesLevel {
		dir = fmt.Sprintf("tile/%d/", t.level)
	}
	if width < tileWidth {
		return fmt.Sprintf("%s%s.p/%d", dir, n, width)
	}
	return dir + n
}

type tile struct {
	id   tileID
	data []byte
}

// tree is a Merkle tree that grows at its right edge. It keeps the tiles that are not full, and hands out the full ones.
type tree struct {
	size int64
	// edge is, by level, the tile that is not full; it may be empty.
	edge [][]byte
	// full are the tiles that became full and were not taken yet.
	full []tile
}

func (t *tree) add(h tlog.Hash) {
	t.push(0, h)
	t.size++
}

func (t *tree) push(level int, h tlog.Hash) {
	for ; ; level++ {
		if level == len(t.edge) {
			t.edge = append(t.edge, nil)
		}
		t.edge[level] = append(t.edge[level], h[:]...)
		if len(t.edge[level]) < tileBytes {
			return
		}
		data := t.edge[level]
		// The entry that is being added fills this tile, so the tile ends with entry t.size.
		t.full = append(t.full, tile{tileID{level, t.size >> (tileHeight * (level + 1))}, data})
		t.edge[level] = nil
		h = tileRoot(data)
	}
}

// tileRoot is the hash of a full tile.
func tileRoot(data []byte) tlog.Hash {
	hashes := make([]tlog.Hash, tileWidth)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	for n := tileWidth / 2; n > 0; n /= 2 {
		for i := range n {
			hashes[i] = tlog.NodeHash(hashes[2*i], hashes[2*i+1])
		}
	}
	return hashes[0]
}

// ReadHashes implements [tlog.HashReader] for the hashes that make the root: they lie in the edge.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	return readHashes(indexes, func(id tileID, width int) ([]byte, error) {
		if id.level >= len(t.edge) || len(t.edge[id.level]) < width*tlog.HashSize {
			return nil, ErrCorrupt
		}
		return t.edge[id.level], nil
	})
}

func (t *tree) root() (tlog.Hash, error) { return tlog.TreeHash(t.size, t) }

// readHashes looks up tlog's stored hashes in tiles of at least the width asked for.
func readHashes(indexes []int64, tileOf func(id tileID, width int) ([]byte, error)) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		t := tlog.TileForIndex(tileHeight, index)
		data, err := tileOf(tileID{t.L, t.N}, t.W)
		if err != nil {
			return nil, err
		}
		if out[i], err = tlog.HashFromTile(t, data[:t.W*tlog.HashSize], index); err != nil {
			return nil, fmt.Errorf("audit: tile: %w", err)
		}
	}
	return out, nil
}

// appendBundled appends entry to a bundle.
func appendBundled(dst, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(entry))), entry...)
}

// parseBundle reads a bundle; its entries share b's memory.
func parseBundle(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 2 || len(out) == tileWidth {
			return nil, ErrCorrupt
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < n {
			return nil, ErrCorrupt
		}
		out = append(out, b[:n:n])
		b = b[n:]
	}
	return out, nil
}

// subtree is a tile with all nodes above its hashes: by height, those that are whole.
type subtree [tileHeight][]tlog.Hash

func newSubtree(tile []byte) subtree {
	var s subtree
	s[0] = make([]tlog.Hash, len(tile)/tlog.HashSize)
	for i := range s[0] {
		s[0][i] = tlog.Hash(tile[i*tlog.HashSize:])
	}
	for h := 1; h < tileHeight; h++ {
		below := s[h-1]
		s[h] = make([]tlog.Hash, len(below)/2)
		for i := range s[h] {
			s[h][i] = tlog.NodeHash(below[2*i], below[2*i+1])
		}
	}
	return s
}

// at is tlog's stored hash of that index, which must lie in this tile.
func (s *subtree) at(index int64) (tlog.Hash, bool) {
	level, n := tlog.SplitStoredHashIndex(index)
	h := s[level%tileHeight]
	n %= tileWidth >> (level % tileHeight)
	if n >= int64(len(h)) {
		return tlog.Hash{}, false
	}
	return h[n], true
}
