package transporttest

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
)

// capture is a slog.Handler that keeps every line of every level as JSON.
type capture struct {
	slog.Handler
	buf *lockedBuffer
}

func newCapture() *capture {
	buf := &lockedBuffer{}
	return &capture{slog.NewJSONHandler(buf, &slog.HandlerOptions{AddSource: false, Level: slog.Level(-1000)}), buf}
}

// Enabled is true: what a production level would hide is looked at too.
func (c *capture) Enabled(context.Context, slog.Level) bool { return true }

func (c *capture) text() string { return c.buf.String() }

type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
