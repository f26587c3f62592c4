package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/postseal/postseal/securemail"
)

// exchange is one request on one connection.
type exchange struct {
	t    *Transport
	conn *conn
	req  *request
	ship *securemail.Shipment
	wire securemail.Wire
	// intended: Intend was called and said yes. dead: the connection failed before that, and nothing else did.
	intended, dead bool
}

// Limits of what the endpoint may say: maxAnswer octets with headers, of which maxRemote reach an error.
const (
	maxAnswer = 64 << 10
	maxRemote = 1 << 10
)

var (
	errAnswer = errors.New("httpapi: no HTTP answer (RFC 9112 section 4)")
	errCut    = errors.New("httpapi: connection ended without an answer")
	errEarly  = errors.New("httpapi: answer before the whole message was sent")
	errSource = errors.New("httpapi: message can't be read")
)

// run sends the request and reads the answer. The connection is closed or back in the pool afterwards.
func (e *exchange) run(ctx context.Context) (*securemail.Receipt, error) {
	if !e.wire.Meets(e.ship.Channel) {
		e.t.pool.put(e.conn)
		return nil, &securemail.ChannelError{Wire: e.wire}
	}
	// Below TLS: a close_notify would wait for a far end that takes nothing any more.
	stop := context.AfterFunc(ctx, func() { e.conn.raw.Close() })
	keep := false
	defer func() {
		if stop() && keep {
			e.t.pool.put(e.conn)
			return
		}
		e.conn.raw.Close()
	}()
	e.conn.limit.N = maxAnswer
	sendErr := e.send(ctx)
	if sendErr != nil && !e.listens(sendErr) {
		return nil, e.fail(ctx, sendErr)
	}
	a, err := e.answer(sendErr == nil)
	switch {
	case sendErr != nil && err != nil:
		e.dead = !e.intended
		return nil, e.fail(ctx, sendErr)
	case err != nil:
		return nil, e.fail(ctx, err)
	}
	keep = a.complete && sendErr == nil
	return e.judge(a, sendErr)
}

// send writes everything but the last octet, calls Intend, and writes the last one.
func (e *exchange) send(ctx context.Context) error {
	w := &holdback{w: &patient{e.conn, e.t.opts.Timeout}}
	if err := e.req.writeTo(w); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	// A final answer to a message that is not whole is none of acceptance, and an end is no place for an intent.
	for !e.conn.silent() {
		if !e.conn.interim() {
			return errEarly
		}
	}
	if err := e.ship.Intend(ctx); err != nil {
		return &ownError{fmt.Errorf("httpapi: intend: %w", err)}
	}
	if err := ctx.Err(); err != nil {
		return &ownError{fmt.Errorf("httpapi: before the last octet: %w", err)}
	}
	e.intended = true
	return w.finish()
}

// ownError is a reason to stop that is not the connection's.
type ownError struct{ error }

func (e *ownError) Unwrap() error { return e.error }

// sourceError keeps the cause for errors.Is and its text out: a Source's text may name a file or a person.
type sourceError struct{ cause error }

func (e *sourceError) Error() string   { return errSource.Error() }
func (e *sourceError) Unwrap() []error { return []error{errSource, e.cause} }

// listens says whether an answer may be waiting though sending failed: an endpoint that refuses early may close before
// it has read everything.
func (e *exchange) listens(err error) bool {
	_, own := errors.AsType[*ownError](err)
	return !own
}

// answer reads the final answer. After a failed send it waits for a second only.
func (e *exchange) answer(sent bool) (*answer, error) {
	wait := e.t.opts.Timeout
	if !sent {
		wait = min(wait, time.Second)
	}
	if err := e.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, errCut
	}
	for {
		resp, err := http.ReadResponse(e.conn.br, &http.Request{Method: http.MethodPost})
		if err != nil {
			return nil, e.readError(err)
		}
		if resp.StatusCode < 100 || resp.StatusCode > 999 || resp.StatusCode == http.StatusSwitchingProtocols {
			return nil, errAnswer
		}
		if resp.StatusCode < 200 {
			continue // RFC 9110 section 15.2: interim; all of them share the limit
		}
		body, err := io.ReadAll(resp.Body)
		return &answer{
			status: resp.StatusCode, header: resp.Header, body: body,
			complete: err == nil && !resp.Close && e.conn.limit.N > 0 && e.conn.br.Buffered() == 0,
		}, nil
	}
}

// readError keeps the network's errors; those of the parser quote the far end.
func (e *exchange) readError(err error) error {
	switch {
	case e.conn.limit.N <= 0:
		return fmt.Errorf("%w: over %d octets", errAnswer, maxAnswer)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	case network(err):
		return fmt.Errorf("httpapi: wait for the answer: %w", err)
	}
	return errAnswer
}

// fail is an exchange that got no answer: retry before Intend, uncertain after it.
func (e *exchange) fail(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("httpapi: stopped: %w", cause)
	}
	de := &securemail.DeliveryError{Stage: "http", Fate: securemail.FateRetry, Wire: e.wire, Err: err}
	if e.intended {
		de.Fate = securemail.FateUncertain
	}
	return de
}

// judge reads the endpoint's answer; sendErr is not nil where it came before the whole message was sent.
func (e *exchange) judge(a *answer, sendErr error) (*securemail.Receipt, error) {
	now := e.t.opts.Now()
	verdict := e.t.verdict(a.status)
	if verdict == VerdictAccept && sendErr == nil {
		return &securemail.Receipt{
			Wire: e.wire, Time: now, Peer: e.t.endpoint.Hostname(), RemoteID: e.t.mapping.remoteID(a, e.ship),
		}, nil
	}
	de := &securemail.DeliveryError{Stage: "http", Code: a.status, Remote: remote(a.body), Wire: e.wire}
	switch verdict {
	case VerdictAccept:
		de.Err = errEarly
		if e.intended {
			de.Fate = securemail.FateUncertain
		}
	case VerdictPermanent:
		de.Fate = securemail.FatePermanent
	case VerdictUncertain:
		if e.intended {
			de.Fate = securemail.FateUncertain
		}
	case VerdictAuth:
		de.Stage, de.Err = "auth", errors.New("httpapi: endpoint refused the credentials")
	default:
		de.RetryAfter = retryAfter(a.header.Get("Retry-After"), now)
	}
	return nil, de
}

// holdback passes on what it is given but for the last octet.
type holdback struct {
	w   io.Writer
	buf []byte
}

const holdSize = 32 << 10

// Write keeps at least the last octet of all that was written.
func (h *holdback) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if len(h.buf) >= holdSize {
			if err := h.flush(); err != nil {
				return 0, err
			}
		}
		n := min(len(rest), holdSize-len(h.buf))
		h.buf = append(h.buf, rest[:n]...)
		rest = rest[n:]
	}
	return len(p), nil
}

// flush sends all but the last octet.
func (h *holdback) flush() error {
	if len(h.buf) < 2 {
		return nil
	}
	last := h.buf[len(h.buf)-1]
	if _, err := h.w.Write(h.buf[:len(h.buf)-1]); err != nil {
		return fmt.Errorf("httpapi: send: %w", err)
	}
	h.buf = append(h.buf[:0], last)
	return nil
}

// finish sends the last octet.
func (h *holdback) finish() error {
	if _, err := h.w.Write(h.buf); err != nil {
		return fmt.Errorf("httpapi: send the last octet: %w", err)
	}
	return nil
}

// patient gives each write its own deadline.
type patient struct {
	c       *conn
	timeout time.Duration
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.c.SetWriteDeadline(time.Now().Add(p.timeout)); err != nil {
		return 0, err
	}
	return p.c.Write(b)
}
