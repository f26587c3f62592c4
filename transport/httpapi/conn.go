package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// conn is a connection to the endpoint that was proved when it was made.
type conn struct {
	net.Conn
	raw    net.Conn             // below TLS
	tls    *securemail.TLSFacts // nil for loopback HTTP
	limit  *io.LimitedReader    // what the far end may still say in this exchange
	br     *bufio.Reader        // reads limit
	reused bool
	idle   *time.Timer // closes it, while it is in the pool
}

// wire is what c proves now, for mail of that purpose: the agreement may end while a connection is kept.
func (t *Transport) wire(c *conn, purpose securemail.Purpose) securemail.Wire {
	w := securemail.Wire{TLS: c.tls}
	var why *securemail.Reason
	w.Hop, w.Operator, why = t.road(purpose)
	if c.tls != nil {
		w.Proof = securemail.ProofConfigured
		w.Reasons = append(w.Reasons, securemail.Reason{Rule: "httpapi.configured", Text: "the certificate names the configured endpoint"})
	} else {
		w.Reasons = append(w.Reasons, securemail.Reason{Rule: "httpapi.clear", Text: "loopback HTTP without TLS"})
	}
	if why != nil {
		w.Reasons = append(w.Reasons, *why)
	}
	return w
}

// connect takes a live connection from the pool or makes one. The error is a *ChannelError where a handshake showed
// that the endpoint can't be proved, else a *DeliveryError.
func (t *Transport) connect(ctx context.Context) (*conn, error) {
	if c := t.pool.take(); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.opts.Timeout)
	defer cancel()
	nc, err := t.opts.Dial(ctx, "tcp", t.endpoint.Host)
	if err != nil {
		return nil, fault("connect", fmt.Errorf("httpapi: connect: %w", err))
	}
	c := &conn{Conn: nc, raw: nc}
	if ta, ok := nc.RemoteAddr().(*net.TCPAddr); ok && t.endpoint.Scheme == "http" && !ta.IP.IsLoopback() {
		nc.Close() // a name of loopback that leads elsewhere
		return nil, fault("connect", errors.New("httpapi: http endpoint is not on loopback"))
	}
	if t.endpoint.Scheme == "https" {
		tc := tls.Client(nc, &tls.Config{
			ServerName: t.endpoint.Hostname(), RootCAs: t.opts.RootCAs, MinVersion: tls.VersionTLS12,
			NextProtos: []string{"http/1.1"}, Time: t.opts.Now,
		})
		if err := tc.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, t.handshakeError(ctx, err)
		}
		cs := tc.ConnectionState()
		c.Conn, c.tls = tc, securemail.TLSFactsOf(&cs)
	}
	c.limit = &io.LimitedReader{R: c.Conn}
	c.br = bufio.NewReader(c.limit)
	return c, nil
}

// handshakeError tells what the endpoint showed from what the network did: an outage is not "there is no TLS".
func (t *Transport) handshakeError(ctx context.Context, err error) error {
	_, noRoots := errors.AsType[x509.SystemRootsError](err)
	if ctx.Err() != nil || network(err) || noRoots {
		return fault("connect", fmt.Errorf("httpapi: TLS handshake: %w", err))
	}
	w := securemail.Wire{}
	w.Hop, w.Operator, _ = t.road(t.anyUse())
	w.Reasons = []securemail.Reason{handshakeReason(err)}
	return &securemail.ChannelError{Temporary: true, Wire: w}
}

// handshakeReason names the rule in words of ours: the errors themselves quote the far end's certificate.
func handshakeReason(err error) securemail.Reason {
	_, name := errors.AsType[x509.HostnameError](err)
	_, cert := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case name:
		return securemail.Reason{Rule: "httpapi.name", Text: "the certificate does not name the endpoint"}
	case cert:
		return securemail.Reason{Rule: "httpapi.chain", Text: "the certificate's chain is not trusted"}
	case record:
		return securemail.Reason{Rule: "httpapi.notls", Text: "the endpoint does not speak TLS"}
	}
	return securemail.Reason{Rule: "httpapi.handshake", Text: "the endpoint offers no TLS 1.2 or later with an approved suite"}
}

// network says whether err is the network's: a time-out, a closed or reset connection. An alert of the far end comes as
// an OpError too and is none.
func network(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op != "remote error" && op.Op != "local error"
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || os.IsTimeout(err)
}

// maxIdle is how long a connection waits in the pool at most.
const maxIdle = 20 * time.Second

// pool keeps proved connections between deliveries, the youngest on top.
type pool struct {
	max int

	mu     sync.Mutex // guards what follows
	idle   []*conn
	closed bool
}

// take returns a connection that still seems alive, or nil.
func (p *pool) take() *conn {
	for {
		c := p.pop()
		if c == nil {
			return nil
		}
		if c.idle.Stop() && c.alive() {
			c.reused = true
			return c
		}
		c.raw.Close()
	}
}

func (p *pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return c
}

func (p *pool) put(c *conn) {
	if old := p.push(c); old != nil {
		old.Close()
	}
}

// expire closes c if it is still idle.
func (p *pool) expire(c *conn) {
	p.mu.Lock()
	i := slices.Index(p.idle, c)
	if i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		c.Close()
	}
}

// push adds c and returns the connection that has no place any more: the oldest, or c itself.
func (p *pool) push(c *conn) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max <= 0 || p.closed {
		return c
	}
	c.idle = time.AfterFunc(maxIdle, func() { p.expire(c) })
	p.idle = append(p.idle, c)
	if len(p.idle) <= p.max {
		return nil
	}
	old := p.idle[0]
	p.idle = p.idle[1:]
	old.idle.Stop()
	return old
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for c := p.pop(); c != nil; c = p.pop() {
		c.idle.Stop()
		c.Close()
	}
}

// alive looks whether the endpoint closed c, or said something unasked, while it waited. What this can't see in time ends
// as uncertain, or as a fresh connection where Intend is not reached.
func (c *conn) alive() bool {
	c.limit.N = 1
	return c.silent() && c.SetReadDeadline(time.Time{}) == nil
}

// silent reads for a millisecond and must get nothing, neither an octet nor an end. A read that was late for its own
// deadline has not looked, and is repeated.
func (c *conn) silent() bool {
	const look, looks = time.Millisecond, 5
	for range looks {
		begin := time.Now()
		if c.SetReadDeadline(begin.Add(look)) != nil {
			return false
		}
		if _, err := c.br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if time.Since(begin) < 3*look {
			break
		}
	}
	return true
}

// interim takes an interim answer (RFC 9110 section 15.2) that is there whole, and is false if there is none.
func (c *conn) interim() bool {
	head, _ := c.br.Peek(c.br.Buffered())
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 1")) || !bytes.Contains(head, []byte("\r\n\r\n")) {
		return false
	}
	_, err := http.ReadResponse(c.br, nil)
	return err == nil
}
