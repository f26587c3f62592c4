package kit

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
)

// Capture is a slog.Handler that keeps every line of every level as JSON.
type Capture struct {
	slog.Handler
	buf *lockedBuffer
}

// NewCapture gives an empty one.
func NewCapture() *Capture {
	buf := &lockedBuffer{}
	return &Capture{slog.NewJSONHandler(buf, &slog.HandlerOptions{Level: slog.Level(-1000)}), buf}
}

// WatchDefault puts a Capture in place of log/slog's default logger, until restore is called.
func WatchDefault() (c *Capture, restore func()) {
	c, old := NewCapture(), slog.Default()
	slog.SetDefault(slog.New(c))
	return c, func() { slog.SetDefault(old) }
}

// Enabled is true: what a production level would hide is looked at too.
func (c *Capture) Enabled(context.Context, slog.Level) bool { return true }

// Text is all that was logged so far.
func (c *Capture) Text() string { return c.buf.String() }

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
