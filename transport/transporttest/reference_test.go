package transporttest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// reference is the smallest SMTP client that keeps the contract: one connection a delivery, STARTTLS, no pipelining.
// Its faults field makes it a broken one; see mutants_test.go.
type reference struct {
	addr, host string
	roots      *x509.CertPool
	operator   *securemail.Operator // who runs the relay that addr is
	relay      bool                 // addr is a smart host, not the recipient's own
	log        *slog.Logger
	faults

	mu   sync.Mutex // guards the rest, which only faults use
	last error
	rcpt string
	met  bool
}

// faults are what a mutant does wrong.
type faults struct {
	clearBelowFloor  bool // sends whatever the floor
	trustAnyCert     bool // takes a bad certificate for a good one
	oldTLS           bool // takes TLS 1.0 for good
	clearAfterStrip  bool // no STARTTLS offered: goes on in clear and claims what it knew before
	intendFirst      bool // before RCPT
	intendEarly      bool // before the floor is proved
	intendLate       bool // after the final dot
	intendIgnored    bool // ignores Intend's error
	channelLate      bool // judges the floor after the envelope was sent
	channelForOutage bool // calls an outage ErrChannel
	addressInError   bool // plain errors with the address in them
	replyInError     bool // wraps the far end's text
	replyAsID        bool // records the whole reply as RemoteID
	lostIsSuccess    bool
	lostIsRetry      bool
	tempIsPermanent  bool
	permIsRetry      bool
	ignoresCtx       bool
	noStuffing       bool
	bareLF           bool
	stripsSpace      bool
	addsHeader       bool
	logsSubject      bool
	logsToDefault    bool
	keepsError       bool // a failure poisons the next delivery
	readsAll         bool // keeps a reply of any length
	sharesRcpt       bool // concurrent deliveries mix their recipients
	retriesAlone     bool // repeats after a lost reply
	expiredIsFine    bool // looks at no date
	floorOnce        bool // a floor that was met once, by any wire, is met
	fromIsSender     bool // the author is the envelope's sender
	foldsRcpt        bool // local parts in lower case
	leavesOpen       bool // does not close the message
	cutsLong         bool // sends 64 KiB at most
	needsNoReply     bool // takes the end of its own writing for acceptance
}

// session is one connection.
type session struct {
	*reference
	ctx  context.Context
	conn net.Conn
	text *textproto.Conn
	wire securemail.Wire
	said string // the last reply
}

func (t *reference) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	if t.ignoresCtx {
		ctx = context.WithoutCancel(ctx)
	}
	if t.logsSubject {
		t.log.Debug("deliver", "subject", s.Message.Header("Subject"))
	}
	if t.logsToDefault {
		slog.Info("deliver to " + s.Recipient.Address.Reveal())
	}
	if err := t.remember(s); err != nil {
		return nil, err
	}
	r, err := t.once(ctx, s)
	if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Fate == securemail.FateUncertain && t.retriesAlone {
		r, err = t.once(ctx, s)
	}
	if err != nil && t.addressInError {
		err = fmt.Errorf("to %s: %s", s.Recipient.Address.Reveal(), err.Error())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = err
	return r, err
}

// remember is state that a right transport has not got.
func (t *reference) remember(s *securemail.Shipment) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rcpt = s.Recipient.Address.Reveal()
	if t.keepsError {
		return t.last
	}
	return nil
}

func (t *reference) once(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, retry("connect", 0, err)
	}
	if t.intendEarly {
		if err := s.Intend(ctx); err != nil {
			return nil, err
		}
	}
	if err := t.roadMeets(s); err != nil && !t.channelLate {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.addr)
	if err != nil {
		if t.channelForOutage {
			return nil, &securemail.ChannelError{Temporary: true}
		}
		return nil, retry("connect", 0, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	x := &session{reference: t, ctx: ctx, conn: c, text: textproto.NewConn(limited(c, t.readsAll))}
	if err := x.open(s.Channel); err != nil {
		return nil, err
	}
	return x.send(s)
}

// limited bounds what the far end may say in one session.
func limited(c net.Conn, all bool) io.ReadWriteCloser {
	if all {
		return c
	}
	return struct {
		io.Reader
		io.WriteCloser
	}{io.LimitReader(c, 256<<10), c}
}

func (t *reference) roadMeets(s *securemail.Shipment) error {
	w := securemail.Wire{}
	w.Hop, w.Operator = t.road()
	if s.RequireTLS {
		w.Reasons = []securemail.Reason{{Rule: "ref.requiretls", Text: "REQUIRETLS is not spoken here"}}
		return &securemail.ChannelError{Wire: w}
	}
	if s.Channel != securemail.ChannelAny && w.Hop == securemail.HopRelay && !t.clearBelowFloor {
		w.Reasons = []securemail.Reason{{Rule: "ref.relay", Text: "nobody vouches"}}
		return &securemail.ChannelError{Wire: w}
	}
	return nil
}

func (t *reference) road() (securemail.Hop, *securemail.Operator) {
	switch {
	case !t.relay:
		return securemail.HopFinal, nil
	case t.operator == nil || !time.Now().Before(t.operator.Until):
		return securemail.HopRelay, nil
	}
	return securemail.HopAsserted, t.operator
}

// open greets, and proves the floor.
func (x *session) open(floor securemail.Channel) error {
	x.wire.Hop, x.wire.Operator = x.road()
	if err := x.expect("greeting", 220); err != nil {
		return err
	}
	if err := x.ehlo(); err != nil {
		return err
	}
	if x.floorOnce && x.metBefore() {
		return nil
	}
	if !x.wire.Meets(floor) && !x.clearBelowFloor && !x.channelLate && (!x.clearAfterStrip || x.wire.TLS != nil) {
		x.wire.Reasons = append(x.wire.Reasons, securemail.Reason{Rule: "ref.floor", Text: "the wire is not enough"})
		return &securemail.ChannelError{Temporary: true, Wire: x.wire}
	}
	return nil
}

// ehlo says EHLO, and STARTTLS where it is offered.
func (x *session) ehlo() error {
	if err := x.command("ehlo", 250, "EHLO client.example"); err != nil {
		return err
	}
	if !strings.Contains(x.said, "STARTTLS") {
		return nil
	}
	if err := x.command("starttls", 220, "STARTTLS"); err != nil {
		return err
	}
	cfg := &tls.Config{ServerName: x.host, RootCAs: x.roots, InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}
	tc := tls.Client(x.conn, cfg)
	if err := tc.HandshakeContext(x.ctx); err != nil {
		return retry("starttls", 0, err)
	}
	cs := tc.ConnectionState()
	x.wire.TLS = securemail.TLSFactsOf(&cs)
	if x.verified(cs) {
		x.wire.Proof = securemail.ProofConfigured
	}
	if x.oldTLS {
		x.wire.TLS.Version, x.wire.TLS.Suite = tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256
	}
	x.conn = tc
	x.text = textproto.NewConn(limited(tc, x.readsAll))
	return x.command("ehlo", 250, "EHLO client.example")
}

// metBefore says that some floor was met at some time.
func (x *session) metBefore() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := x.met
	x.met = true
	return was
}

func (x *session) verified(cs tls.ConnectionState) bool {
	if x.trustAnyCert {
		return true
	}
	pool := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		pool.AddCert(c)
	}
	o := x509.VerifyOptions{DNSName: x.host, Roots: x.roots, Intermediates: pool}
	if x.expiredIsFine {
		o.CurrentTime = cs.PeerCertificates[0].NotBefore.Add(time.Second)
	}
	_, err := cs.PeerCertificates[0].Verify(o)
	return err == nil
}

// send is the transaction.
func (x *session) send(s *securemail.Shipment) (*securemail.Receipt, error) {
	sender := s.ReturnPath.Reveal()
	if x.fromIsSender {
		sender = s.From.Address.Reveal()
	}
	if err := x.command("mail", 250, "MAIL FROM:<"+sender+"> BODY=8BITMIME"); err != nil {
		return nil, err
	}
	if x.intendFirst {
		if err := s.Intend(x.ctx); err != nil {
			return nil, err
		}
	}
	if err := x.command("rcpt", 250, "RCPT TO:<"+x.recipient(s)+">"); err != nil {
		return nil, err
	}
	if !x.wire.Meets(s.Channel) && x.channelLate {
		return nil, &securemail.ChannelError{Temporary: true, Wire: x.wire}
	}
	if err := x.command("data", 354, "DATA"); err != nil {
		return nil, err
	}
	if !x.intendLate && !x.intendFirst {
		if err := s.Intend(x.ctx); err != nil && !x.intendIgnored {
			return nil, err
		}
	}
	text, err := x.body(s.Message)
	if err == nil {
		err = x.dot(text)
	}
	if x.intendLate {
		if err := s.Intend(x.ctx); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return x.failed(err)
	}
	return &securemail.Receipt{Wire: x.wire, Time: time.Now(), Peer: x.host, RemoteID: x.id()}, nil
}

// recipient is the shipment's, or whoever was last put into the shared field.
func (x *session) recipient(s *securemail.Shipment) string {
	if x.foldsRcpt {
		return strings.ToLower(s.Recipient.Address.Reveal())
	}
	if !x.sharesRcpt {
		return s.Recipient.Address.Reveal()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rcpt
}

// body is the message with dots stuffed (RFC 5321 section 4.5.2).
func (x *session) body(m *securemail.Message) ([]byte, error) {
	r, err := m.Open()
	if err != nil {
		return nil, err
	}
	if !x.leavesOpen {
		defer r.Close()
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if x.cutsLong {
		raw = raw[:min(len(raw), 64<<10)]
	}
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		raw = append(raw, "\r\n"...)
	}
	if x.stripsSpace {
		raw = bytes.ReplaceAll(raw, []byte(" \r\n"), []byte("\r\n"))
	}
	if x.addsHeader {
		raw = append([]byte("X-Sent-By: reference\r\n"), raw...)
	}
	if !x.noStuffing {
		raw = bytes.ReplaceAll(append([]byte("\r\n"), raw...), []byte("\r\n."), []byte("\r\n.."))[2:]
	}
	if x.bareLF {
		raw = bytes.ReplaceAll(raw, []byte(" \t \r\n"), []byte(" \t \n"))
	}
	return raw, nil
}

// dot sends the message and its end, and reads the answer.
func (x *session) dot(text []byte) error {
	if _, err := x.conn.Write(append(text, ".\r\n"...)); err != nil {
		return uncertain(err)
	}
	if x.needsNoReply {
		return nil
	}
	if err := x.expect("dot", 250); err != nil {
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code == 0 {
			return uncertain(de.Err)
		}
		return err
	}
	return nil
}

// failed is the place where mutants call a failed dot something else.
func (x *session) failed(err error) (*securemail.Receipt, error) {
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	switch {
	case ok && de.Code == 0 && x.lostIsSuccess:
		return &securemail.Receipt{Wire: x.wire, Time: time.Now(), Peer: x.host}, nil
	case ok && de.Code == 0 && x.lostIsRetry:
		de.Fate = securemail.FateRetry
	}
	return nil, err
}

func (x *session) id() string {
	if x.replyAsID {
		return x.said
	}
	return ""
}

func (x *session) command(stage string, want int, line string) error {
	if err := x.text.PrintfLine("%s", line); err != nil {
		return retry(stage, 0, err)
	}
	return x.expect(stage, want)
}

var errReply = errors.New("ref: no SMTP reply")

// expect reads one reply. Only the network's errors are kept: textproto's quote the far end.
func (x *session) expect(stage string, want int) error {
	code, said, err := x.text.ReadResponse(want)
	x.said = said
	_, proto := errors.AsType[*textproto.Error](err)
	_, network := errors.AsType[net.Error](err)
	switch {
	case err == nil:
		return nil
	case x.replyInError:
		return fmt.Errorf("ref: %s: %w", stage, err)
	case proto && code >= 400 && code < 600:
		de := &securemail.DeliveryError{Stage: stage, Code: code, Remote: said[:min(len(said), 512)], Wire: x.wire}
		if code >= 500 && !x.permIsRetry || code < 500 && x.tempIsPermanent {
			de.Fate = securemail.FatePermanent
		}
		return de
	case network || errors.Is(err, io.EOF):
		return retry(stage, 0, err)
	}
	return retry(stage, 0, errReply)
}

func retry(stage string, code int, err error) error {
	return &securemail.DeliveryError{Stage: stage, Code: code, Err: err}
}

func uncertain(err error) error {
	return &securemail.DeliveryError{Stage: "dot", Fate: securemail.FateUncertain, Err: err}
}
