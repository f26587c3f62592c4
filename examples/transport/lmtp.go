// Package lmtp shows how a third party adds a Transport to postseal: it hands mail to the recipient's own mailbox store
// by LMTP (RFC 2033) over TLS, as Dovecot and Cyrus take it.
//
// It is a module of its own that imports two packages of postseal: securemail for the contract, and, in its test,
// transport/transporttest for the kit that checks it. The test is what to copy: it wires the Transport to a far end
// that misbehaves as the kit asks, names what LMTP can't express, and gets two thirds of the kit's ninety cases for it.
//
// What the contract asks of [Transport.Deliver], in the order of the code:
//
//  1. Prove the wire and hold it against the floor before the first octet of the message: [Transport.dial]. The store
//     is a configured host, so its certificate's name is the proof, and it is the recipient's own: HopFinal.
//  2. Offer the recipient; a refusal is a DeliveryError with its fate.
//  3. Call Shipment.Intend, then send the final dot: [session.data].
//  4. Say the truth about a reply that never came: uncertain, not failed.
//  5. Keep addresses, content and the far end's words out of every error.
package lmtp

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
	"net/textproto"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Transport delivers to one mailbox store. It keeps no connection and no state, so it is safe for concurrent use.
type Transport struct {
	// Addr is host:port; the certificate must name the host.
	Addr string
	// RootCAs nil: the system's.
	RootCAs *x509.CertPool
	// Timeout bounds each wait for the store; 0: 2 min.
	Timeout time.Duration
}

var _ securemail.Transport = (*Transport)(nil)

// Deliver hands s to the store.
func (t *Transport) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	x, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer x.conn.Close()
	defer context.AfterFunc(ctx, func() { x.conn.Close() })()
	if !x.wire.Meets(s.Channel) || s.RequireTLS {
		return nil, &securemail.ChannelError{Wire: x.wire}
	}
	if err := x.envelope(s); err != nil {
		return nil, err
	}
	if err := x.data(ctx, s); err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(t.Addr)
	return &securemail.Receipt{Wire: x.wire, Time: time.Now(), Peer: host}, nil
}

// session is one connection.
type session struct {
	conn    net.Conn
	text    *textproto.Reader
	wire    securemail.Wire
	timeout time.Duration
}

// maxSaid bounds what the store may say in one session, in octets.
const maxSaid = 64 << 10

// dial connects and proves the store's name.
func (t *Transport) dial(ctx context.Context) (*session, error) {
	x := &session{timeout: t.Timeout}
	if x.timeout == 0 {
		x.timeout = 2 * time.Minute
	}
	host, _, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return nil, fail("connect", errors.New("lmtp: address of the store is not host:port"))
	}
	ctx, cancel := context.WithTimeout(ctx, x.timeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, fail("connect", fmt.Errorf("lmtp: connect: %w", err))
	}
	tc := tls.Client(raw, &tls.Config{ServerName: host, RootCAs: t.RootCAs, MinVersion: tls.VersionTLS12})
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, handshakeError(ctx, err)
	}
	cs := tc.ConnectionState()
	x.conn = tc
	x.text = textproto.NewReader(bufio.NewReader(io.LimitReader(tc, maxSaid)))
	x.wire = securemail.Wire{TLS: securemail.TLSFactsOf(&cs), Proof: securemail.ProofConfigured, Hop: securemail.HopFinal}
	return x, nil
}

// handshakeError tells "this is not our store, or not with TLS" (ErrChannel: the next Choice is tried) from "not known
// now" (retry). Its words are ours, since the errors quote the far end's certificate.
func handshakeError(ctx context.Context, err error) error {
	op, isOp := errors.AsType[*net.OpError](err)
	outage := isOp && op.Op != "remote error" && op.Op != "local error"
	if ctx.Err() != nil || outage || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fail("connect", fmt.Errorf("lmtp: TLS handshake: %w", err))
	}
	return &securemail.ChannelError{Temporary: true, Wire: securemail.Wire{
		Hop: securemail.HopFinal, Reasons: []securemail.Reason{{Rule: "lmtp.tls", Text: "the store was not proved by TLS"}},
	}}
}

// envelope greets and offers sender and recipient (RFC 2033 section 4.1).
func (x *session) envelope(s *securemail.Shipment) error {
	if _, err := x.reply("greeting", 220); err != nil {
		return err
	}
	said, err := x.command("ehlo", 250, "LHLO localhost")
	if err != nil {
		return err
	}
	mail := "MAIL FROM:<" + s.ReturnPath.Reveal() + ">"
	if strings.Contains(said, "8BITMIME") {
		mail += " BODY=8BITMIME"
	}
	if _, err := x.command("mail", 250, mail); err != nil {
		return err
	}
	_, err = x.command("rcpt", 250, "RCPT TO:<"+s.Recipient.Address.Reveal()+">")
	return err
}

// data sends the message, calls Intend, and ends it. The store can't accept before the dot (RFC 5321 section 4.1.1.4).
func (x *session) data(ctx context.Context, s *securemail.Shipment) error {
	if _, err := x.command("data", 354, "DATA"); err != nil {
		return err
	}
	if err := x.body(s.Message); err != nil {
		return fail("data", err)
	}
	if err := s.Intend(ctx); err != nil {
		return fail("data", fmt.Errorf("lmtp: intend: %w", err))
	}
	_, err := x.command("dot", 250, ".")
	if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code == 0 {
		de.Fate = securemail.FateUncertain
	}
	return err
}

// body writes m with its dots stuffed (RFC 5321 section 4.5.2). Its lines end with CRLF already.
func (x *session) body(m *securemail.Message) error {
	src, err := m.Open()
	if err != nil {
		return fmt.Errorf("lmtp: open message: %w", err)
	}
	defer src.Close()
	in, out := bufio.NewReader(src), bufio.NewWriter(&patient{x.conn, x.timeout})
	start := true
	for {
		part, err := in.ReadSlice('\n')
		if start && bytes.HasPrefix(part, []byte(".")) {
			_ = out.WriteByte('.') // a write error stays and comes with Flush
		}
		_, _ = out.Write(part)
		start = len(part) == 0 && start || bytes.HasSuffix(part, []byte("\n"))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF:
			if !start {
				_, _ = out.WriteString("\r\n")
			}
			return out.Flush()
		case err != nil:
			return fmt.Errorf("lmtp: read message: %w", err)
		}
	}
}

// command writes one line and reads its reply.
func (x *session) command(stage string, want int, line string) (string, error) {
	if _, err := io.WriteString(&patient{x.conn, x.timeout}, line+"\r\n"); err != nil {
		return "", fail(stage, fmt.Errorf("lmtp: send: %w", err))
	}
	return x.reply(stage, want)
}

var errReply = errors.New("lmtp: no reply (RFC 5321 section 4.2)")

// reply reads one reply. The store's own words go to Remote only: textproto's errors quote them.
func (x *session) reply(stage string, want int) (string, error) {
	if err := x.conn.SetReadDeadline(time.Now().Add(x.timeout)); err != nil {
		return "", fail(stage, errReply)
	}
	code, said, err := x.text.ReadResponse(want)
	if err == nil {
		return said, nil
	}
	if _, refused := errors.AsType[*textproto.Error](err); !refused || code < 400 || code > 599 {
		return "", fail(stage, errReply)
	}
	de := &securemail.DeliveryError{Stage: stage, Code: code, Remote: said[:min(len(said), 512)], Wire: x.wire}
	if code >= 500 && stage != "greeting" && stage != "ehlo" {
		de.Fate = securemail.FatePermanent
	}
	return "", de
}

func fail(stage string, err error) error {
	return &securemail.DeliveryError{Stage: stage, Fate: securemail.FateRetry, Err: err}
}

// patient gives each write a deadline of its own.
type patient struct {
	net.Conn
	timeout time.Duration
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.timeout)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
