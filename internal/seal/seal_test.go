package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/seal"
)

const (
	header   = 60
	overhead = 28
	sealed   = seal.ChunkSize + overhead
)

var sizes = []int{
	0, 1, 100, seal.ChunkSize - 1, seal.ChunkSize, seal.ChunkSize + 1, 2*seal.ChunkSize - 1, 2 * seal.ChunkSize, 3*seal.ChunkSize + 17,
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func stream(t require.TestingT, key, plain, ad []byte, step int) []byte {
	var buf bytes.Buffer
	w, err := seal.NewWriter(&buf, key, ad)
	require.NoError(t, err)
	for p := plain; len(p) > 0; {
		n := min(step, len(p))
		_, err := w.Write(p[:n])
		require.NoError(t, err)
		p = p[n:]
	}
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func openStream(key, b, ad []byte) ([]byte, error) {
	r, err := seal.NewReader(bytes.NewReader(b), key, ad)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func openAt(key, b, ad []byte) ([]byte, error) {
	r, err := seal.NewReaderAt(bytes.NewReader(b), int64(len(b)), key, ad)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
}

// openers are the three ways to read; every attack is tried on each.
var openers = map[string]func(key, b, ad []byte) ([]byte, error){
	"Open": seal.Open, "Reader": openStream, "ReaderAt": openAt,
}

func TestRoundTrip(t *testing.T) {
	key, ad := seal.NewKey(), []byte("parcel")
	for _, n := range sizes {
		plain := random(n)
		whole, err := seal.Seal(key, plain, ad)
		require.NoError(t, err)
		require.EqualValues(t, seal.SealedSize(int64(n)), len(whole))
		for _, b := range [][]byte{whole, stream(t, key, plain, ad, 1000), stream(t, key, plain, ad, 1<<20)} {
			require.Len(t, b, len(whole))
			for name, open := range openers {
				got, err := open(key, b, ad)
				require.NoError(t, err, name)
				require.True(t, bytes.Equal(plain, got), name)
			}
		}
	}
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "plain"), rapid.IntRange(1, 3000).Draw(t, "times"))
		ad := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "ad")
		key := seal.NewKey()
		b := stream(t, key, plain, ad, rapid.IntRange(1, 100_000).Draw(t, "step"))
		got, err := seal.Open(key, b, ad)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, got))
		r, err := seal.NewReaderAt(bytes.NewReader(b), int64(len(b)), key, ad)
		require.NoError(t, err)
		off := rapid.IntRange(0, len(plain)).Draw(t, "off")
		p := make([]byte, rapid.IntRange(0, len(plain)-off).Draw(t, "len"))
		_, err = r.ReadAt(p, int64(off))
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain[off:off+len(p)], p))
	})
}

func requireCorrupt(t *testing.T, key, b, ad []byte) {
	t.Helper()
	for name, open := range openers {
		_, err := open(key, b, ad)
		require.ErrorIs(t, err, seal.ErrCorrupt, name)
	}
}

func TestEverySingleByteFlipIsFound(t *testing.T) {
	key, ad := seal.NewKey(), []byte("ad")
	for _, n := range []int{0, 1, 300} {
		b, err := seal.Seal(key, random(n), ad)
		require.NoError(t, err)
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				requireCorrupt(t, key, b, ad)
				b[i] ^= 1 << bit
			}
		}
	}
}

func TestFlipInEachChunkIsFound(t *testing.T) {
	key := seal.NewKey()
	b, err := seal.Seal(key, random(2*seal.ChunkSize+5), nil)
	require.NoError(t, err)
	for i := header; i < len(b); i += 4093 {
		b[i] ^= 0x80
		_, err := seal.Open(key, b, nil)
		require.ErrorIs(t, err, seal.ErrCorrupt)
		_, err = openAt(key, b, nil)
		require.ErrorIs(t, err, seal.ErrCorrupt)
		b[i] ^= 0x80
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	key := seal.NewKey()
	b, err := seal.Seal(key, random(50), nil)
	require.NoError(t, err)
	for n := range b {
		requireCorrupt(t, key, b[:n], nil)
	}
	b, err = seal.Seal(key, random(2*seal.ChunkSize), nil)
	require.NoError(t, err)
	for _, n := range []int{header, header + sealed, header + 2*sealed, header + 2*sealed + 1, len(b) - 1, header + sealed - 1} {
		requireCorrupt(t, key, b[:n], nil)
	}
}

func TestRearrangedChunksAreFound(t *testing.T) {
	key := seal.NewKey()
	plain := random(3*seal.ChunkSize + 9)
	b, err := seal.Seal(key, plain, nil)
	require.NoError(t, err)
	other, err := seal.Seal(key, plain, nil)
	require.NoError(t, err)
	h, c := b[:header], func(b []byte, n int) []byte { return b[header+n*sealed : min(len(b), header+(n+1)*sealed)] }
	for name, parts := range map[string][][]byte{
		"reordered":           {h, c(b, 1), c(b, 0), c(b, 2), c(b, 3)},
		"repeated":            {h, c(b, 0), c(b, 0), c(b, 1), c(b, 2), c(b, 3)},
		"dropped":             {h, c(b, 0), c(b, 2), c(b, 3)},
		"only the last":       {h, c(b, 3)},
		"last twice":          {h, c(b, 0), c(b, 1), c(b, 2), c(b, 3), c(b, 3)},
		"from another file":   {h, c(b, 0), c(other, 1), c(b, 2), c(b, 3)},
		"another file's head": {other[:header], c(b, 0), c(b, 1), c(b, 2), c(b, 3)},
		"extended by a byte":  {b, {0}},
		"extended by a file":  {b, other},
	} {
		t.Run(name, func(t *testing.T) { requireCorrupt(t, key, bytes.Join(parts, nil), nil) })
	}
}

func TestOtherKeyOrDataIsRefused(t *testing.T) {
	key := seal.NewKey()
	b, err := seal.Seal(key, []byte("x"), []byte("ad"))
	require.NoError(t, err)
	requireCorrupt(t, seal.NewKey(), b, []byte("ad"))
	requireCorrupt(t, key, b, []byte("other"))
	requireCorrupt(t, key, b, nil)
	requireCorrupt(t, key, nil, nil)
}

func TestKeySize(t *testing.T) {
	for _, k := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
		_, err := seal.Seal(k, nil, nil)
		require.ErrorContains(t, err, "32 octets")
		_, err = seal.NewWriter(io.Discard, k, nil)
		require.ErrorContains(t, err, "32 octets")
		for _, b := range [][]byte{nil, make([]byte, 200)} {
			for name, open := range openers {
				_, err = open(k, b, nil)
				require.ErrorContains(t, err, "32 octets", name)
			}
		}
	}
}

// TestFormat opens a file by the package comment alone: HKDF-Expand as RFC 5869 section 2.3 writes it, info as
// c2sp.org/chunked-encryption orders it, and AES-GCM with the nonce that stands in front of each chunk.
func TestFormat(t *testing.T) {
	if os.Getenv("GODEBUG") == "fips140=only" {
		t.Skip("GCM with a given nonce is refused there")
	}
	key, ad, plain := seal.NewKey(), []byte("context"), random(seal.ChunkSize+100)
	b, err := seal.Seal(key, plain, ad)
	require.NoError(t, err)
	require.Equal(t, "psl1", string(b[:4]))
	salt, commitment, chunks := b[4:28], b[28:60], b[60:]
	info := slices.Concat([]byte("postseal/seal@v1+AEAD_AES_256_GCM\x00"), salt, ad)
	prf := func(parts ...[]byte) []byte {
		m := hmac.New(sha256.New, key)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	chunkKey := prf(info, []byte{1})
	require.Equal(t, prf(chunkKey, info, []byte{2}), commitment)
	block, err := aes.NewCipher(chunkKey)
	require.NoError(t, err)
	gcm, err := cipher.NewGCM(block)
	require.NoError(t, err)
	first, err := gcm.Open(nil, chunks[:12], chunks[12:sealed], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0})
	require.NoError(t, err)
	last, err := gcm.Open(nil, chunks[sealed:sealed+12], chunks[sealed+12:], []byte{0, 0, 0, 0, 0, 0, 0, 1, 1})
	require.NoError(t, err)
	require.True(t, bytes.Equal(plain, append(first, last...)))
}

func TestSameTextSealsDifferently(t *testing.T) {
	key := seal.NewKey()
	a, err := seal.Seal(key, []byte("x"), nil)
	require.NoError(t, err)
	b, err := seal.Seal(key, []byte("x"), nil)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
}

func TestReaderHandsOutOnlyProvedOctets(t *testing.T) {
	key := seal.NewKey()
	plain := random(2*seal.ChunkSize + 10)
	b, err := seal.Seal(key, plain, nil)
	require.NoError(t, err)
	b[header+sealed+20] ^= 1 // in chunk 1
	got, err := openStream(key, b, nil)
	require.ErrorIs(t, err, seal.ErrCorrupt)
	require.True(t, bytes.Equal(plain[:seal.ChunkSize], got))
	r, err := seal.NewReaderAt(bytes.NewReader(b), int64(len(b)), key, nil)
	require.NoError(t, err)
	p := make([]byte, len(plain))
	n, err := r.ReadAt(p, 0)
	require.ErrorIs(t, err, seal.ErrCorrupt)
	require.Equal(t, seal.ChunkSize, n)
	n, err = r.ReadAt(p[:10], 2*seal.ChunkSize)
	require.NoError(t, err, "a good chunk stays readable behind a bad one")
	require.Equal(t, plain[2*seal.ChunkSize:], p[:n])
}

func TestReaderSmallReads(t *testing.T) {
	key := seal.NewKey()
	plain := random(seal.ChunkSize + 3)
	b, err := seal.Seal(key, plain, nil)
	require.NoError(t, err)
	r, err := seal.NewReader(iotest.HalfReader(bytes.NewReader(b)), key, nil)
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(r, plain))
}

func TestReaderAtEdges(t *testing.T) {
	key := seal.NewKey()
	b, err := seal.Seal(key, []byte("hello"), nil)
	require.NoError(t, err)
	r, err := seal.NewReaderAt(bytes.NewReader(b), int64(len(b)), key, nil)
	require.NoError(t, err)
	require.EqualValues(t, 5, r.Size())
	_, err = r.ReadAt(make([]byte, 1), -1)
	require.Error(t, err)
	n, err := r.ReadAt(make([]byte, 9), 3)
	require.Equal(t, 2, n)
	require.Equal(t, io.EOF, err)
	_, err = seal.NewReaderAt(bytes.NewReader(b), int64(len(b)+40), key, nil)
	require.ErrorIs(t, err, seal.ErrCorrupt, "shorter than was said")
}

var errDisk = errors.New("disk")

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func (f *failing) ReadAt(p []byte, _ int64) (int, error) { return f.Write(p) }

func TestErrorsOfTheDiskPassThrough(t *testing.T) {
	key := seal.NewKey()
	_, err := seal.NewWriter(&failing{}, key, nil)
	require.ErrorIs(t, err, errDisk)
	w, err := seal.NewWriter(&failing{after: header + 10}, key, nil)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 2*seal.ChunkSize))
	require.ErrorIs(t, err, errDisk)
	_, err = w.Write([]byte("x"))
	require.ErrorIs(t, err, errDisk, "a failed write fails all that follow")
	require.ErrorIs(t, w.Close(), errDisk)
	_, err = w.Write([]byte("x"))
	require.ErrorContains(t, err, "after close")

	_, err = seal.NewReader(iotest.ErrReader(errDisk), key, nil)
	require.ErrorIs(t, err, errDisk)
	_, err = seal.NewReaderAt(&failing{}, 1000, key, nil)
	require.ErrorIs(t, err, errDisk)
	b, err := seal.Seal(key, random(10), nil)
	require.NoError(t, err)
	r, err := seal.NewReader(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(errDisk)), key, nil)
	require.NoError(t, err)
	n, err := r.Read(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, errDisk)
}

// TestFIPSOnly runs the rest of this file in a process that refuses every algorithm outside FIPS 140-3.
func TestFIPSOnly(t *testing.T) {
	if os.Getenv("GODEBUG") == "fips140=only" {
		t.Skip("is the child")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^(TestRoundTrip|TestEveryTruncationIsFound|TestRearrangedChunksAreFound|TestOtherKeyOrDataIsRefused|TestReaderAtEdges)$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: TestRoundTrip ")
}

func FuzzOpen(f *testing.F) {
	key := bytes.Repeat([]byte{7}, seal.KeySize)
	for _, n := range []int{0, 5, seal.ChunkSize, seal.ChunkSize + 1} {
		b, err := seal.Seal(key, make([]byte, n), nil)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, errOpen := seal.Open(key, b, nil)
		got, errStream := openStream(key, b, nil)
		at, errAt := openAt(key, b, nil)
		require.Equal(t, errOpen == nil, errStream == nil)
		require.Equal(t, errOpen == nil, errAt == nil)
		if errOpen == nil {
			require.True(t, bytes.Equal(want, got) && bytes.Equal(want, at))
			require.EqualValues(t, seal.SealedSize(int64(len(want))), len(b))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for name, n := range map[string]int{"64B": 64, "4KiB": 4 << 10, "20KB": 20_000, "1MiB": 1 << 20} {
		key, plain := seal.NewKey(), make([]byte, n)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				_, _ = seal.Seal(key, plain, nil)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for name, n := range map[string]int{"64B": 64, "4KiB": 4 << 10, "20KB": 20_000, "1MiB": 1 << 20} {
		key := seal.NewKey()
		s, _ := seal.Seal(key, make([]byte, n), nil)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				_, _ = seal.Open(key, s, nil)
			}
		})
	}
}

func BenchmarkWriter(b *testing.B) {
	key, plain := seal.NewKey(), make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		w, _ := seal.NewWriter(io.Discard, key, nil)
		_, _ = w.Write(plain)
		_ = w.Close()
	}
}
