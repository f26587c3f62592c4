package encrypttest

import (
	"io"
	"strings"
	"sync"
	"time"
)

// gatePatience is how long a gate waits for an Encryptor that does one message after the other.
const gatePatience = 300 * time.Millisecond

// gate lets nobody through before n are there, once it is armed.
type gate struct {
	mu    sync.Mutex // guards armed and left
	armed bool
	left  int
	open  chan struct{} // closed when all may pass
	once  sync.Once
}

func newGate(n int) *gate { return &gate{left: n, open: make(chan struct{})} }

func (g *gate) arm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = true
}

// arrive says whether to wait.
func (g *gate) arrive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.armed {
		return false
	}
	if g.left--; g.left == 0 {
		g.once.Do(func() { close(g.open) })
	}
	return true
}

func (g *gate) pass() {
	if !g.arrive() {
		return
	}
	t := time.NewTimer(gatePatience)
	defer t.Stop()
	select {
	case <-g.open:
	case <-t.C:
		g.once.Do(func() { close(g.open) })
	}
}

// gated is a Source whose readers pass the gate at their end.
type gated struct {
	gate *gate
	text string
}

func (s *gated) Size() int64 { return int64(len(s.text)) }

func (s *gated) Open() (io.ReadCloser, error) {
	return io.NopCloser(&gatedReader{strings.NewReader(s.text), s.gate}), nil
}

type gatedReader struct {
	io.Reader
	gate *gate
}

func (r *gatedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.gate.pass()
	}
	return n, err
}
