// Package seal is the one way in which the library encrypts what it stores: chunked AES-256-GCM with key commitment, on
// the standard library's primitives alone, so that it works under GODEBUG=fips140=only.
//
// # Format
//
//	magic "psl1" (4) || salt (24) || commitment (32) || chunk 0 || chunk 1 || ... || last chunk
//
// Key derivation, salt, commitment and cutting are those of https://c2sp.org/chunked-encryption:
//
//	chunk key (32) || commitment (32) = HKDF-Expand-SHA256(prk = key, info = label || 0x00 || salt || ad)
//
// It differs where it must: AES-256 in place of AES-128; no base nonce is derived and each chunk carries a random one, since
// Go refuses counter nonces under fips140=only, so that the chunk's number and the last flag, which C2SP puts into the nonce
// and the length, are associated data; chunks of 64 KiB in place of 16; and, as it is another format, another label than
// "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM" and a magic in front.
//
// The plaintext is cut into chunks of 64 KiB; the last one is always shorter and may be empty, so each length has
// exactly one cutting and an empty plaintext is one sealed last chunk. Each chunk is nonce (12) || ciphertext || tag (16)
// from [cipher.NewGCMWithRandomNonce], with its number (8 octets, big-endian) and a last flag (1 octet) as associated data.
//
// # Security properties
//
// A chunk can't be changed, dropped, repeated, moved within a file or between files, and a file can't be cut or extended:
// each is [ErrCorrupt]. The salt is fresh for each file, so one key may seal any number of files (up to 2^80 before two
// salts are likely to meet); NIST's limit of 2^32 random nonces holds per file, which bounds one at 256 TiB. The commitment
// binds key and associated data: one sealed text can't be made to open in two ways.
//
// A reader hands out a chunk once that chunk is proved. That the file was not cut is known at io.EOF, and not before: act
// on the content only when reading ended with it.
//
// # What it does not do
//
// It does not hide the length, and it does not notice that a whole file was replaced by an older one sealed under the same
// key and associated data: bind a name or a number into ad for that.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// KeySize is the length of a key in octets.
const KeySize = 32

// ChunkSize is how many octets of plaintext a chunk holds; the last one holds fewer.
const ChunkSize = 64 << 10

const (
	magic          = "psl1"
	label          = "postseal/seal@v1+AEAD_AES_256_GCM"
	saltSize       = 24
	commitmentSize = 32
	headerSize     = len(magic) + saltSize + commitmentSize
	chunkOverhead  = 12 + 16
	sealedChunk    = ChunkSize + chunkOverhead
	// maxChunks is NIST SP 800-38D section 8.3: at most 2^32 random nonces under one key.
	maxChunks = 1 << 32
)

// ErrCorrupt says that the bytes are not what was sealed, or that key or associated data are not those they were sealed
// with. The two can't be told apart.
var ErrCorrupt = errors.New("seal: corrupt, or sealed under another key")

var (
	errKeySize  = fmt.Errorf("seal: a key must have %d octets", KeySize)
	errTooLarge = errors.New("seal: over 2^32 chunks")
	errClosed   = errors.New("seal: write after close")
)

// NewKey returns a fresh random key.
func NewKey() []byte {
	k := make([]byte, KeySize)
	_, _ = rand.Read(k) // never fails: crypto/rand
	return k
}

// SealedSize is the length in octets of n octets of plaintext once sealed.
func SealedSize(n int64) int64 {
	return int64(headerSize) + n + (n/ChunkSize+1)*chunkOverhead
}

// Seal returns plaintext sealed under key and bound to ad, both of which Open needs again. The only error is a key of the
// wrong length.
func Seal(key, plaintext, ad []byte) ([]byte, error) {
	c, header, err := newSealing(key, ad)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, SealedSize(int64(len(plaintext))))
	out = append(out, header...)
	for n := uint64(0); ; n++ {
		if len(plaintext) < ChunkSize {
			return c.seal(out, plaintext, n, lastChunk), nil
		}
		out = c.seal(out, plaintext[:ChunkSize], n, innerChunk)
		plaintext = plaintext[ChunkSize:]
	}
}

// Open returns the plaintext of what Seal or a Writer made, or ErrCorrupt and nothing.
func Open(key, sealed, ad []byte) ([]byte, error) {
	if len(sealed) < headerSize {
		return nil, corruptOrKey(key)
	}
	c, err := newOpening(key, sealed[:headerSize], ad)
	if err != nil {
		return nil, err
	}
	sealed = sealed[headerSize:]
	out := make([]byte, 0, len(sealed))
	for n := uint64(0); ; n++ {
		if len(sealed) < sealedChunk {
			return c.open(out, sealed, n, lastChunk)
		}
		if out, err = c.open(out, sealed[:sealedChunk], n, innerChunk); err != nil {
			return nil, err
		}
		sealed = sealed[sealedChunk:]
	}
}

func corruptOrKey(key []byte) error {
	if len(key) != KeySize {
		return errKeySize
	}
	return ErrCorrupt
}

type flag byte

const (
	innerChunk flag = 0
	lastChunk  flag = 1
)

// chunks seals and opens the chunks of one file; it is safe for concurrent use.
type chunks struct{ aead cipher.AEAD }

func newSealing(key, ad []byte) (*chunks, []byte, error) {
	header := make([]byte, headerSize)
	salt := header[copy(header, magic):][:saltSize]
	_, _ = rand.Read(salt) // never fails: crypto/rand
	c, commitment, err := derive(key, salt, ad)
	if err != nil {
		return nil, nil, err
	}
	copy(header[len(magic)+saltSize:], commitment)
	return c, header, nil
}

func newOpening(key, header, ad []byte) (*chunks, error) {
	c, commitment, err := derive(key, header[len(magic):][:saltSize], ad)
	if err != nil {
		return nil, err
	}
	same := subtle.ConstantTimeCompare(commitment, header[len(magic)+saltSize:])
	if same != 1 || !bytes.HasPrefix(header, []byte(magic)) {
		return nil, ErrCorrupt
	}
	return c, nil
}

func derive(key, salt, ad []byte) (*chunks, []byte, error) {
	if len(key) != KeySize {
		return nil, nil, errKeySize
	}
	info := make([]byte, 0, len(label)+1+len(salt)+len(ad))
	info = append(append(append(append(info, label...), 0), salt...), ad...)
	out, err := hkdf.Expand(sha256.New, key, string(info), KeySize+commitmentSize)
	if err != nil {
		return nil, nil, fmt.Errorf("seal: derive: %w", err)
	}
	block, err := aes.NewCipher(out[:KeySize])
	if err != nil {
		return nil, nil, fmt.Errorf("seal: cipher: %w", err)
	}
	clear(out[:KeySize])
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, nil, fmt.Errorf("seal: cipher: %w", err)
	}
	return &chunks{aead}, out[KeySize:], nil
}

func chunkAD(n uint64, f flag) []byte {
	var ad [9]byte
	binary.BigEndian.PutUint64(ad[:8], n)
	ad[8] = byte(f)
	return ad[:]
}

func (c *chunks) seal(dst, plaintext []byte, n uint64, f flag) []byte {
	return c.aead.Seal(dst, nil, plaintext, chunkAD(n, f))
}

func (c *chunks) open(dst, sealed []byte, n uint64, f flag) ([]byte, error) {
	out, err := c.aead.Open(dst, nil, sealed, chunkAD(n, f))
	if err != nil {
		return nil, ErrCorrupt
	}
	return out, nil
}

type writer struct {
	w      io.Writer
	c      *chunks
	n      uint64
	buf    []byte // plaintext not yet sealed; less than a chunk between calls
	out    []byte
	err    error
	closed bool
}

// NewWriter seals to w what is written to it. Close seals the last chunk; without it the file counts as cut. It does not
// close w. A failed write fails all that follow. Not for concurrent use. An error here is a bad key or w's own.
func NewWriter(w io.Writer, key, ad []byte) (io.WriteCloser, error) {
	c, header, err := newSealing(key, ad)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(header); err != nil {
		return nil, fmt.Errorf("seal: write: %w", err)
	}
	return &writer{w: w, c: c, buf: make([]byte, 0, ChunkSize), out: make([]byte, 0, sealedChunk)}, nil
}

func (w *writer) Write(p []byte) (int, error) {
	if w.closed {
		return 0, errClosed
	}
	done := 0
	for w.err == nil && done < len(p) {
		n := copy(w.buf[len(w.buf):ChunkSize], p[done:])
		w.buf = w.buf[:len(w.buf)+n]
		done += n
		if len(w.buf) == ChunkSize {
			w.flush(innerChunk)
		}
	}
	return done, w.err
}

// Close seals the last chunk. A repeat gives the first answer.
func (w *writer) Close() error {
	if !w.closed && w.err == nil {
		w.flush(lastChunk)
	}
	w.closed = true
	return w.err
}

func (w *writer) flush(f flag) {
	if w.n >= maxChunks {
		w.err = errTooLarge
		return
	}
	w.out = w.c.seal(w.out[:0], w.buf, w.n, f)
	w.n++
	w.buf = w.buf[:0]
	if _, err := w.w.Write(w.out); err != nil {
		w.err = fmt.Errorf("seal: write: %w", err)
	}
}

type reader struct {
	r   io.Reader
	c   *chunks
	n   uint64
	buf []byte
	// plain is the last chunk proved, left what of it was not yet handed out.
	plain, left []byte
	err         error
}

// NewReader opens what Seal or a Writer made. It reads the header at once, and each chunk whole before it hands out any of
// it. Errors are ErrCorrupt, a bad key, or r's own, wrapped. Not for concurrent use.
func NewReader(r io.Reader, key, ad []byte) (io.Reader, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, corruptOrKey(key)
		}
		return nil, fmt.Errorf("seal: read: %w", err)
	}
	c, err := newOpening(key, header, ad)
	if err != nil {
		return nil, err
	}
	return &reader{r: r, c: c, buf: make([]byte, sealedChunk)}, nil
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.left) == 0 && r.err == nil {
		r.left, r.err = r.next()
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// next returns one chunk; with the last one io.EOF.
func (r *reader) next() ([]byte, error) {
	n, err := io.ReadFull(r.r, r.buf)
	f, end := innerChunk, error(nil)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		f, end = lastChunk, io.EOF
	case err != nil:
		return nil, fmt.Errorf("seal: read: %w", err)
	}
	out, err := r.c.open(r.plain[:0], r.buf[:n], r.n, f)
	if err != nil {
		return nil, err
	}
	r.n++
	r.plain = out
	return out, end
}
