package audit

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// index says where each event id is, by a keyed hash of 64 bits; who finds something compares the ids themselves. It
// takes 12 octets an entry: two sorted columns, and a small map for what came since they were last merged.
type index struct {
	hashes  []uint64
	numbers []uint32
	recent  map[uint64][]uint32
	fresh   int // entries in recent
}

const (
	maxEntries  = 1 << 32
	mergeAfter  = 1 << 16
	saveAfter   = 1 << 13
	indexMagic  = "postseal/audit@v1 index\n"
	indexRow    = 8 + 4
	indexHeader = len(indexMagic) + 8
)

func idHash(key *macs, event string) uint64 {
	return binary.BigEndian.Uint64(key.sum("postseal/audit@v1 event", []byte(event)))
}

func (x *index) add(hash uint64, number int64) {
	if x.recent == nil {
		x.recent = map[uint64][]uint32{}
	}
	x.recent[hash] = append(x.recent[hash], uint32(number))
	if x.fresh++; x.fresh >= max(mergeAfter, len(x.hashes)/8) {
		x.merge()
	}
}

// find returns the numbers of the entries whose event id may have hash.
func (x *index) find(hash uint64) []uint32 {
	out := x.recent[hash]
	at, _ := slices.BinarySearch(x.hashes, hash)
	for ; at < len(x.hashes) && x.hashes[at] == hash; at++ {
		out = append(out[:len(out):len(out)], x.numbers[at])
	}
	return out
}

func (x *index) len() int { return len(x.hashes) + x.fresh }

type indexed struct {
	hash   uint64
	number uint32
}

// merge moves what is recent into the columns.
func (x *index) merge() {
	rows := make([]indexed, 0, x.fresh)
	for h, ns := range x.recent {
		for _, n := range ns {
			rows = append(rows, indexed{h, n})
		}
	}
	slices.SortFunc(rows, func(a, b indexed) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.number, b.number))
	})
	old := len(x.hashes)
	x.hashes = append(x.hashes, make([]uint64, len(rows))...)
	x.numbers = append(x.numbers, make([]uint32, len(rows))...)
	// From the end, so that nothing is overwritten before it was moved.
	for to, i, j := len(x.hashes)-1, old-1, len(rows)-1; j >= 0; to-- {
		if i >= 0 && x.hashes[i] > rows[j].hash {
			x.hashes[to], x.numbers[to] = x.hashes[i], x.numbers[i]
			i--
			continue
		}
		x.hashes[to], x.numbers[to] = rows[j].hash, rows[j].number
		j--
	}
	x.recent, x.fresh = nil, 0
}

// format gives the index as it is stored: the number of entries, the rows, a MAC.
func (x *index) format(key *macs) []byte {
	x.merge()
	b := make([]byte, 0, indexHeader+len(x.hashes)*indexRow+sha256.Size)
	b = append(b, indexMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(x.hashes)))
	for i, h := range x.hashes {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, h), x.numbers[i])
	}
	return append(b, key.sum(indexMagic, b)...)
}

// parseIndex reads what format gave, for at most size entries; nil where it is anything else: the index is made anew then.
func parseIndex(key *macs, b []byte, size int64) *index {
	if len(b) < indexHeader+sha256.Size || !bytes.HasPrefix(b, []byte(indexMagic)) {
		return nil
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	n := binary.BigEndian.Uint64(b[len(indexMagic):])
	if !hmac.Equal(key.sum(indexMagic, body), sum) || n > uint64(size) || uint64(len(body)-indexHeader) != n*indexRow {
		return nil
	}
	x := &index{hashes: make([]uint64, n), numbers: make([]uint32, n)}
	for i, rows := 0, body[indexHeader:]; len(rows) > 0; i, rows = i+1, rows[indexRow:] {
		x.hashes[i], x.numbers[i] = binary.BigEndian.Uint64(rows), binary.BigEndian.Uint32(rows[8:])
	}
	return x
}
