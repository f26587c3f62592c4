package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/durable"
)

// The catalogue spares a search the bundles that can't hold what it looks for. For each page, 256 bundles that are full, the
// file catalog/PAGE has a Bloom filter a bundle over the fields that a search may ask for, and a MAC over them, over the page's
// number and over the hash of its subtree, so that it is of these entries and no others. It is made by the first search that
// wants it, and made anew where it is missing or damaged; it is never a truth of its own.
const (
	catalogDir   = "catalog"
	catalogMagic = "postseal/audit@v1 catalog\n"
	pageBundles  = 256
	pageLevel    = 2 * tileHeight // of the page's subtree
	filterBytes  = 1 << 11        // about 16 bits for each of 1,050 values: 1 bundle in 500 is read for nothing
	filterProbes = 5
)

// catalogue are the filters of one page; nil has everything.
type catalogue []byte

// mayHold says whether bundle i of the page may hold all needles.
func (c catalogue) mayHold(i int64, needles [][]byte) bool {
	if c == nil {
		return true
	}
	filter := c[i*filterBytes:][:filterBytes]
	for _, n := range needles {
		for bit := range probes(n) {
			if filter[bit/8]&(1<<(bit%8)) == 0 {
				return false
			}
		}
	}
	return true
}

// probes yields the bits of a value.
func probes(value []byte) func(yield func(uint64) bool) {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range value {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h ^= h >> 29
	step := (h>>32)*2 + 1
	return func(yield func(uint64) bool) {
		for i := range uint64(filterProbes) {
			if !yield((h + i*step) % (8 * filterBytes)) {
				return
			}
		}
	}
}

// pageOf returns the catalogue of a page that is wholly published in a tree of size entries.
func (l *Log) pageOf(page, size int64) (catalogue, error) {
	root, err := l.tilesOf(size).ReadHashes([]int64{tlog.StoredHashIndex(pageLevel, page)})
	if err != nil {
		return nil, corrupt("catalogue", err)
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(page))
	mac := func(c catalogue) []byte { return l.keys.mac.sum(catalogMagic, n[:], root[0][:], c) }
	path := filepath.Join(l.dir, catalogDir, fmt.Sprintf("%06d", page))
	l.catalogMu.Lock()
	defer l.catalogMu.Unlock()
	b, err := os.ReadFile(path)
	if body, sum, ok := splitCatalogue(b); err == nil && ok && hmac.Equal(sum, mac(body)) {
		return body, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("audit: catalogue: %w", err)
	}
	c, err := l.makePage(page, size)
	if err != nil {
		return nil, err
	}
	// Where it can't be kept, the next search makes it again.
	if durable.MkdirAll(filepath.Dir(path)) == nil {
		_ = durable.WriteFile(path, slices.Concat([]byte(catalogMagic), c, mac(c)))
	}
	return c, nil
}

func splitCatalogue(b []byte) (c catalogue, sum []byte, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(catalogMagic))
	if !ok || len(b) != pageBundles*filterBytes+sha256.Size {
		return nil, nil, false
	}
	return b[:pageBundles*filterBytes], b[pageBundles*filterBytes:], true
}

func (l *Log) makePage(page, size int64) (catalogue, error) {
	c := make(catalogue, pageBundles*filterBytes)
	for i := range int64(pageBundles) {
		entries, err := readBundle(l.dir, page*pageBundles+i, size)
		if err != nil {
			return nil, err
		}
		filter := c[i*filterBytes:][:filterBytes]
		for _, data := range entries {
			for value := range searchable(data) {
				for bit := range probes(value) {
					filter[bit/8] |= 1 << (bit % 8)
				}
			}
		}
	}
	return c, nil
}

// searchable yields the octets of an entry that needles can be: each "name":"value" at any depth, and each string in a list. It
// rests on the form that marshalEntry gives: no blanks, and a quote inside a string is escaped.
func searchable(data []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for at, name := 0, -1; ; {
			open := bytes.IndexByte(data[at:], '"')
			if open < 0 {
				return
			}
			open += at
			end := stringEnd(data, open)
			if end == len(data) {
				return
			}
			at = end
			switch {
			case data[end] == ':':
				name = open
				if end+1 == len(data) || data[end+1] != '"' {
					name = -1
				}
			case name >= 0:
				if !yield(data[name:end]) {
					return
				}
				name = -1
			default:
				if !yield(data[open:end]) {
					return
				}
			}
		}
	}
}

// stringEnd is behind the quote that ends the string which begins at open; len(data) where none does.
func stringEnd(data []byte, open int) int {
	for i := open + 1; i < len(data)-1; i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}
