package smtp

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// classicalKept is how long a host that did not answer a large ClientHello gets a small one, and maxClassical how many such
// hosts are remembered.
const (
	classicalKept = 24 * time.Hour
	maxClassical  = 1024
)

// ear is a connection that knows whether the far end has answered the ClientHello. Before that a short deadline holds,
// since some networks drop a hello that does not fit one segment.
type ear struct {
	net.Conn
	heard  bool
	ctx    context.Context //nolint:containedctx // lives for one handshake
	extend time.Time
}

// Read implements net.Conn.
func (e *ear) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if n > 0 && !e.heard {
		e.heard = true
		if !e.extend.IsZero() {
			_ = e.Conn.SetDeadline(e.extend)
			// A context that ended meanwhile had set the deadline to the past.
			if cerr := e.ctx.Err(); cerr != nil {
				return n, cerr
			}
		}
		e.ctx = nil
	}
	return n, err
}

// deaf says that a handshake ended as if the hello had never arrived. An alert or garbage is an answer.
func (e *ear) deaf(err error) bool {
	if e.heard {
		return false
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
