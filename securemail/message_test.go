package securemail

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestNewMessage(t *testing.T) {
	const head, body = "A: 1\r\nb :2\r\n\tmore\r\nA:  3 \r\n\r\n", "line\r\n\r\nend"
	m, err := NewMessage(Bytes([]byte(head + body)))
	require.NoError(t, err)
	require.Equal(t, head, string(m.Head()))
	require.Equal(t, body, string(wholeOf(t, m.Body())))
	require.Equal(t, head+body, string(wholeOf(t, m)))
	require.Equal(t, []string{"1", "3"}, m.Header("a"))
	require.Equal(t, []string{"2\tmore"}, m.Header("B"))
	require.Empty(t, m.Header("C"))
	require.Equal(t, "message(40 octets)", fmt.Sprint(m))
	require.Equal(t, "message(nil)", fmt.Sprint((*Message)(nil)))

	h := m.Head()
	h[0] = 'X'
	require.Equal(t, head, string(m.Head()), "Head is a copy")
}

func TestNewMessageWithoutBody(t *testing.T) {
	for in, want := range map[string]string{"A: 1": "A: 1\r\n\r\n", "A: 1\r\n": "A: 1\r\n\r\n", "A: 1\r\n\r\n": "A: 1\r\n\r\n",
		"A: 1\r\nB:": "A: 1\r\nB:\r\n\r\n", "A: 1\r\n ": "A: 1\r\n \r\n\r\n"} {
		m, err := NewMessage(Bytes([]byte(in)))
		require.NoError(t, err)
		require.Equal(t, want, string(wholeOf(t, m)))
		require.Zero(t, m.Body().Size())
	}
}

func TestNewMessageRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"":                                 errHeader,
		"\r\n":                             errHeader,
		" A: 1\r\n\r\n":                    errHeader,
		"no colon\r\n\r\n":                 errHeader,
		": no name\r\n\r\n":                errHeader,
		"a b: 1\r\n\r\n":                   errHeader,
		"ü: 1\r\n\r\n":                     errHeader,
		"A: 1\n\r\n":                       errBareLF,
		"A: 1\r\n\r\na\nb":                 errBareLF,
		"A: 1\r\n\r\na\rb":                 errBareCR,
		"A: 1\r\n\r\na\r":                  errBareCR,
		"A: 1\r\n\r\na\r\r\n":              errBareCR,
		"A: 1\r\n\r\n\x00":                 errNUL,
		"A: \x00\r\n\r\n":                  errNUL,
		"A: " + strings.Repeat("x", 996):   errLine,
		"A: 1\r\n\r\n" + manyOctets(999):   errLine,
		"A: 1\r\n\r\n" + manyOctets(1<<17): errLine,
		strings.Repeat("A: 1\r\n", 1001):   errHeadSize,
		strings.Repeat("A: "+manyOctets(900)+"\r\n", 300): errHeadSize,
	} {
		_, err := NewMessage(Bytes([]byte(in)))
		require.ErrorIs(t, err, want, "%.20q", in)
	}
	m, err := NewMessage(Bytes([]byte("A: 1\r\n\r\n" + manyOctets(998) + "\r\n" + manyOctets(998))))
	require.NoError(t, err)
	require.Equal(t, int64(8+998+2+998), m.Size())
}

func manyOctets(n int) string { return strings.Repeat("x", n) }

func TestWithHead(t *testing.T) {
	m, err := NewMessage(Bytes([]byte("A: 1\r\n\r\nbody\r\n")))
	require.NoError(t, err)
	head := []byte("B: 2\r\n\r\n")
	n, err := m.WithHead(head)
	require.NoError(t, err)
	head[0] = 'X'
	require.Equal(t, "B: 2\r\n\r\nbody\r\n", string(wholeOf(t, n)))
	require.Same(t, m.Body(), n.Body())
	for in, want := range map[string]error{
		"": errHeader, "B: 2\r\n": errHeader, "B: 2": errHeader, "B: 2\r\n\r\nbody": errHeader, "B\r\n\r\n": errHeader,
		"\r\n": errHeader, "B: 2\n\n": errBareLF, "B: 2\r\n\r\nC: 3\r\n\r\n": errHeader,
	} {
		_, err := m.WithHead([]byte(in))
		require.ErrorIs(t, err, want, "%q", in)
	}
}

func TestFileSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "canary.eml")
	require.NoError(t, os.WriteFile(path, []byte("A: 1\r\n\r\nbody\r\n"), 0o600))
	s := File(path)
	m, err := NewMessage(s)
	require.NoError(t, err)
	require.Equal(t, "A: 1\r\n\r\nbody\r\n", string(wholeOf(t, m)))

	require.NoError(t, os.WriteFile(path, []byte("A: 1\r\n\r\nlonger body\r\n"), 0o600))
	r, err := m.Open()
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, errChanged, "a file that grew is not the message that was checked")
	require.NoError(t, os.Truncate(path, 9))
	r, err = m.Open()
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, errChanged)

	require.NoError(t, os.Remove(path))
	_, err = m.Open()
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotContains(t, err.Error(), "canary")
	require.Zero(t, s.Size())
}

// streamSource can't seek and may fail while it is read.
type streamSource struct {
	text string
	err  error
}

func (s streamSource) Size() int64 { return int64(len(s.text)) }
func (s streamSource) Open() (io.ReadCloser, error) {
	r := io.Reader(strings.NewReader(s.text))
	if s.err != nil {
		r = io.MultiReader(r, iotest.ErrReader(s.err))
	}
	return io.NopCloser(iotest.HalfReader(r)), nil
}

func TestStreamSource(t *testing.T) {
	src := &streamSource{text: "A: 1\r\n\r\nbody\r\n"}
	m, err := NewMessage(src)
	require.NoError(t, err)
	require.Equal(t, src.text, string(wholeOf(t, m)))
	src.err = io.ErrClosedPipe
	_, err = NewMessage(src)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	r, err := m.Body().Open()
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	src.text = "A: 1"
	_, err = m.Body().Open()
	require.Error(t, err)
}

func TestMessageConcurrentReaders(t *testing.T) {
	m, err := NewMessage(Bytes([]byte("A: 1\r\n\r\n" + strings.Repeat("line\r\n", 10000))))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r, err := m.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if n, err := io.Copy(io.Discard, r); err != nil || n != m.Size() {
				t.Error(n, err)
			}
		})
	}
	wg.Wait()
}
