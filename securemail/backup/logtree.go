package backup

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The published form of a log is that of https://c2sp.org/tlog-tiles.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	tileLevels = 8 // 2^64 entries
)

// tilePath is the name of tile n at level, "" for its bundle of entries where level is -1.
func tilePath(level int, n int64, width int) string {
	p := tlog.Tile{H: tileHeight, L: level, N: n, W: width}.Path()
	p = strings.TrimPrefix(p, "tile/"+strconv.Itoa(tileHeight)+"/")
	if rest, ok := strings.CutPrefix(p, "data/"); ok {
		p = "entries/" + rest
	}
	return "tile/" + p
}

// widthOf is how wide tile n of level 0 is in a tree of size.
func widthOf(n, size int64) int { return int(min(size-n*tileWidth, tileWidth)) }

// head is a checkpoint that was proved.
type head struct {
	origin string
	size   int64
	root   tlog.Hash
}

// openHead proves that key signed the checkpoint cp.
func openHead(cp []byte, key string) (*head, error) {
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("backup: the log's public key: %w", err)
	}
	n, err := note.Open(cp, note.VerifierList(v))
	if err != nil {
		return nil, fmt.Errorf("%w: the log's checkpoint is not signed by this key", ErrCorrupt)
	}
	return parseHead(n.Text)
}

func parseHead(text string) (*head, error) {
	bad := fmt.Errorf("%w: checkpoint", ErrCorrupt)
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 {
		return nil, bad
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return nil, bad
	}
	h, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(h) != tlog.HashSize {
		return nil, bad
	}
	return &head{lines[0], size, tlog.Hash(h)}, nil
}

// tree builds the tiles and the root of a log from the hashes of its entries.
type tree struct {
	size  int64
	stack []peak
	edge  [tileLevels][]byte // the tile at the right end of each level
	// emit takes each tile once it is full, and at end what is not; nil: nobody wants them.
	emit func(level int, n int64, width int, data []byte) error
}

// peak is a perfect subtree.
type peak struct {
	height int
	hash   tlog.Hash
}

// add adds the hash of one entry.
func (t *tree) add(h tlog.Hash) error {
	t.size++
	p := peak{0, h}
	for {
		if p.height%tileHeight == 0 {
			if err := t.place(p); err != nil {
				return err
			}
		}
		last := len(t.stack) - 1
		if last < 0 || t.stack[last].height != p.height {
			break
		}
		p = peak{p.height + 1, tlog.NodeHash(t.stack[last].hash, p.hash)}
		t.stack = t.stack[:last]
	}
	t.stack = append(t.stack, p)
	return nil
}

// place puts the root of a perfect subtree into its tile.
func (t *tree) place(p peak) error {
	level := p.height / tileHeight
	t.edge[level] = append(t.edge[level], p.hash[:]...)
	if len(t.edge[level]) < tileWidth*tlog.HashSize {
		return nil
	}
	data := t.edge[level]
	t.edge[level] = nil
	return t.out(level, (t.size>>(tileHeight*(level+1)))-1, tileWidth, data)
}

func (t *tree) out(level int, n int64, width int, data []byte) error {
	if t.emit == nil {
		return nil
	}
	return t.emit(level, n, width, data)
}

// end gives out the tiles that are not full, and returns the root.
func (t *tree) end() (tlog.Hash, error) {
	for level, data := range t.edge {
		if len(data) > 0 {
			if err := t.out(level, t.size>>(tileHeight*(level+1)), len(data)/tlog.HashSize, data); err != nil {
				return tlog.Hash{}, err
			}
		}
	}
	if len(t.stack) == 0 {
		return tlog.TreeHash(0, tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) { return nil, nil }))
	}
	root := t.stack[len(t.stack)-1].hash
	for i := len(t.stack) - 2; i >= 0; i-- {
		root = tlog.NodeHash(t.stack[i].hash, root)
	}
	return root, nil
}

// leaves adds the first width hashes of a tile of level 0.
func (t *tree) leaves(data []byte, width int) error {
	if len(data) < width*tlog.HashSize {
		return fmt.Errorf("%w: a tile of the log is too short", ErrCorrupt)
	}
	for i := range width {
		if err := t.add(tlog.Hash(data[i*tlog.HashSize:])); err != nil {
			return err
		}
	}
	return nil
}

// parseBundle splits a bundle of entries, each behind its length in 2 octets.
func parseBundle(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, fmt.Errorf("%w: entries of the log", ErrCorrupt)
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		out, b = append(out, b[2:n]), b[n:]
	}
	return out, nil
}

// matchBundle proves the first width entries of a bundle by their tile of level 0, and returns their octets.
func matchBundle(bundle, leaves []byte, width int) ([][]byte, error) {
	entries, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	if len(entries) < width || len(leaves) < width*tlog.HashSize {
		return nil, fmt.Errorf("%w: entries of the log", ErrCorrupt)
	}
	for i, e := range entries[:width] {
		if tlog.RecordHash(e) != tlog.Hash(leaves[i*tlog.HashSize:]) {
			return nil, fmt.Errorf("%w: entries of the log", ErrCorrupt)
		}
	}
	return entries[:width], nil
}
