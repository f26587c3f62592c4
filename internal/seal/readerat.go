package seal

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// ReaderAt gives random access to the plaintext of one sealed file. It is safe for concurrent use.
type ReaderAt struct {
	r      io.ReaderAt
	c      *chunks
	size   int64 // of the plaintext
	sealed int64 // of the file, without its header

	mu    sync.Mutex // guards the fields below
	held  int64      // number of the chunk in plain; -1: none
	plain []byte
}

var errNegative = errors.New("seal: negative offset")

// NewReaderAt opens what Seal or a Writer made, size octets long. It proves the header and the last chunk, and with them
// the length; each other chunk is proved when it is read. Errors are ErrCorrupt, a bad key, or r's own, wrapped.
func NewReaderAt(r io.ReaderAt, size int64, key, ad []byte) (*ReaderAt, error) {
	if size < int64(headerSize+chunkOverhead) {
		return nil, corruptOrKey(key)
	}
	header := make([]byte, headerSize)
	if err := readFullAt(r, header, 0); err != nil {
		return nil, err
	}
	c, err := newOpening(key, header, ad)
	if err != nil {
		return nil, err
	}
	sealed := size - int64(headerSize)
	whole, rest := sealed/int64(sealedChunk), sealed%int64(sealedChunk)
	if rest < chunkOverhead {
		return nil, ErrCorrupt
	}
	ra := &ReaderAt{r: r, c: c, size: whole*ChunkSize + rest - chunkOverhead, sealed: sealed, held: -1}
	if err := ra.load(whole); err != nil {
		return nil, err
	}
	return ra, nil
}

// Size is the length of the plaintext in octets.
func (r *ReaderAt) Size() int64 { return r.size }

// ReadAt implements [io.ReaderAt]. Octets are only ever handed out once their chunk is proved.
func (r *ReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	done := 0
	for done < len(p) {
		if off >= r.size {
			return done, io.EOF
		}
		if n := off / ChunkSize; n != r.held {
			if err := r.load(n); err != nil {
				return done, err
			}
		}
		n := copy(p[done:], r.plain[off%ChunkSize:])
		done += n
		off += int64(n)
	}
	return done, nil
}

// load proves chunk n and keeps it. Callers hold r.mu, but for NewReaderAt.
func (r *ReaderAt) load(n int64) error {
	r.held = -1
	start := n * int64(sealedChunk)
	buf := make([]byte, min(int64(sealedChunk), r.sealed-start))
	if err := readFullAt(r.r, buf, int64(headerSize)+start); err != nil {
		return err
	}
	f := innerChunk
	if len(buf) < sealedChunk {
		f = lastChunk
	}
	plain, err := r.c.open(r.plain[:0], buf, uint64(n), f)
	if err != nil {
		return err
	}
	r.plain, r.held = plain, n
	return nil
}

func readFullAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return ErrCorrupt
	}
	return fmt.Errorf("seal: read: %w", err)
}
