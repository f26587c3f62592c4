package audit

import (
	"golang.org/x/mod/sumdb/tlog"
)

// For the tests of parsers and of the tree.
var (
	ParseBundle = parseBundle
	ParseProof  = func(b []byte) error { _, err := parseProof(b); return err }
	ParseKeys   = func(b []byte) error { _, err := parseKeys(b); return err }
	ParseIndex  = func(key, b []byte, size int64) bool { return parseIndex(newMACs(key), b, size) != nil }
	TilePath    = func(level int, n int64, width int) string { return tileID{level, n}.path(width) }
)

// Bundle is parseBundle's inverse.
func Bundle(entries [][]byte) (b []byte) {
	for _, e := range entries {
		b = appendBundled(b, e)
	}
	return b
}

// Root adds n records to a tree and returns its root, and the tiles that became full.
func Root(records [][]byte) (root tlog.Hash, full map[string][]byte, err error) {
	t, full := &tree{}, map[string][]byte{}
	for _, r := range records {
		t.add(tlog.RecordHash(r))
	}
	for _, f := range t.full {
		full[f.id.path(tileWidth)] = f.data
	}
	root, err = t.root()
	return root, full, err
}

// Index adds hashes to an index, merging now and then, and returns its find, and that of one that was stored and read.
func Index(hashes []uint64, key []byte) (found, reread func(hash uint64) []uint32) {
	x, y := &index{}, &index{}
	for i, h := range hashes {
		x.add(h, int64(i))
		y.add(h, int64(i))
		if i%97 == 96 {
			x.merge()
		}
	}
	return x.find, parseIndex(newMACs(key), y.format(newMACs(key)), int64(len(hashes))).find
}

// Searchable says whether the catalogue of a bundle that holds e lets s in.
func Searchable(e *Entry, s Search) bool {
	data, err := marshalEntry(e)
	if err != nil {
		panic(err)
	}
	c := make(catalogue, filterBytes)
	for value := range searchable(data) {
		for bit := range probes(value) {
			c[bit/8] |= 1 << (bit % 8)
		}
	}
	return c.mayHold(0, s.needles()) && containsAll(data, s.needles())
}

// SearchableOctets goes through b.
func SearchableOctets(b []byte) {
	for range searchable(b) {
	}
}
