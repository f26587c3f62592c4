package lmtp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/lmtp"

	kit "github.com/postseal/postseal/transport/transporttest"
)

// TestKit is all that a third party's Transport needs.
func TestKit(t *testing.T) { kit.Run(t, kit.Harness{New: newRig}) }

// newRig wires a Transport to a store that behaves as s asks.
func newRig(_ context.Context, s kit.Setup) (*kit.Rig, error) {
	switch s.Behaviour {
	case kit.StripTLS:
		return nil, fmt.Errorf("TLS is implicit, there is no offer to remove: %w", errors.ErrUnsupported)
	case kit.Relay, kit.LapsedRelay, kit.VouchedRelay:
		return nil, fmt.Errorf("LMTP speaks to the mailbox store itself (RFC 2033 section 5): %w", errors.ErrUnsupported)
	}
	f, pki, err := startStore(s)
	if err != nil {
		return nil, err
	}
	return &kit.Rig{
		Transport: &lmtp.Transport{Addr: f.ln.Addr().String(), RootCAs: pki.Roots()},
		Far:       f,
		Recover:   func() { f.now.Store(kit.Accept) },
		Close:     f.close,
	}, nil
}

// store is a mailbox store in process.
type store struct {
	kit.Recorder
	setup kit.Setup
	now   atomic.Value // kit.Behaviour
	ln    net.Listener
	cfg   *tls.Config

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func startStore(s kit.Setup) (*store, *kit.PKI, error) {
	pki, err := kit.NewPKI("127.0.0.1")
	if err != nil {
		return nil, nil, err
	}
	f := &store{setup: s}
	f.now.Store(s.Behaviour)
	if f.cfg, err = pki.Server(s.Behaviour); err != nil {
		return nil, nil, err
	}
	if f.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	if s.Behaviour == kit.Refuse {
		return f, pki, f.ln.Close()
	}
	go f.listen()
	return f, pki, nil
}

func (f *store) listen() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, c)
		f.mu.Unlock()
		go f.serve(c)
	}
}

func (f *store) close() {
	f.ln.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
}

func (f *store) serve(c net.Conn) {
	defer c.Close()
	if f.behaviour() == kit.Stall {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	var state *tls.ConnectionState
	if f.setup.Behaviour != kit.NoTLS {
		tc := tls.Server(c, f.cfg)
		if tc.Handshake() != nil {
			return
		}
		cs := tc.ConnectionState()
		c, state = tc, &cs
	}
	v := &visit{store: f, conn: c, tls: state, in: textproto.NewReader(bufio.NewReader(io.TeeReader(c, f)))}
	switch f.behaviour() {
	case kit.Busy:
		v.say(421, "too busy")
		return
	case kit.Garbage:
		_, _ = io.WriteString(c, "\x00\x01 "+f.setup.Echo+"\r\n")
		return
	}
	v.say(220, "store ready")
	for v.line() {
	}
}

func (f *store) behaviour() kit.Behaviour { return f.now.Load().(kit.Behaviour) }

// visit is one connection to the store.
type visit struct {
	*store
	conn net.Conn
	tls  *tls.ConnectionState
	in   *textproto.Reader
	rcpt []string
}

func (v *visit) say(code int, text string) bool {
	_, err := fmt.Fprintf(v.conn, "%d %s %s\r\n", code, text, v.setup.Echo)
	return err == nil
}

// line answers one command; false ends the visit.
func (v *visit) line() bool {
	line, err := v.in.ReadLine()
	if err != nil {
		return false
	}
	switch verb, _, _ := strings.Cut(line, " "); verb {
	case "LHLO":
		_, err := io.WriteString(v.conn, "250-store\r\n250 8BITMIME\r\n")
		return err == nil
	case "RCPT":
		return v.rcptTo(line)
	case "DATA":
		return v.data()
	case "MAIL":
		return v.say(250, "ok")
	}
	return false
}

func (v *visit) rcptTo(line string) bool {
	switch v.behaviour() {
	case kit.RejectRecipient:
		return v.say(550, "5.1.1 no such mailbox")
	case kit.DeferRecipient:
		return v.say(452, "4.2.2 mailbox full")
	}
	v.rcpt = append(v.rcpt, strings.TrimSuffix(strings.TrimPrefix(line, "RCPT TO:<"), ">"))
	return v.say(250, "ok")
}

func (v *visit) data() bool {
	behave := v.behaviour()
	if behave == kit.DropBeforeBody || !v.say(354, "go on") {
		return false
	}
	msg, err := io.ReadAll(v.in.DotReader())
	if err != nil {
		return false
	}
	d := kit.Delivery{Recipients: v.rcpt, Message: []byte(strings.ReplaceAll(string(msg), "\n", "\r\n"))}
	d.Accepted = behave != kit.TempFail && behave != kit.PermFail
	if v.tls != nil {
		d.TLS = kit.FactsOf(*v.tls, v.cfg.Certificates[0])
	}
	v.Add(d)
	switch behave {
	case kit.TempFail:
		return v.say(451, "4.3.0 try later")
	case kit.PermFail:
		return v.say(554, "5.6.0 refused")
	case kit.DropAfterBody:
		return false
	case kit.SilentAfterBody:
		return true // and no answer
	case kit.GarbageAfterBody:
		_, _ = io.WriteString(v.conn, "\x00\x01 "+v.setup.Echo+"\r\n")
		return false
	case kit.HugeReply:
		line := []byte("250-" + strings.Repeat("x", 1000) + "\r\n")
		for n := 0; n < kit.HugeSize; n += len(line) {
			if _, err := v.conn.Write(line); err != nil {
				return false
			}
		}
		return false
	}
	return v.say(250, "2.0.0 stored")
}
