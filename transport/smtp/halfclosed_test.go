package smtp_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// rawPeer takes mail by BDAT or DATA, and ends each connection in a way of its own after so many messages.
type rawPeer struct {
	ext string
	// after is how many messages a connection takes, and end what becomes of it then; silent: the last one gets no answer.
	after  int
	silent bool
	end    func(c *net.TCPConn)
	// refuses says no to a recipient, and takes the message all the same.
	refuses string
	// nagle holds small replies back until those before are acknowledged.
	nagle bool

	mu    sync.Mutex
	taken map[string]int // by recipient
	wg    sync.WaitGroup
}

func (p *rawPeer) start(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.taken = map[string]int{}
	ctx, cancel := context.WithCancel(context.Background())
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				p.serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		cancel()
		p.wg.Wait()
	})
	return ln.Addr().String()
}

func (p *rawPeer) serve(c *net.TCPConn) {
	_ = c.SetNoDelay(!p.nagle)
	br := bufio.NewReader(c)
	say := func(s string) { _, _ = c.Write([]byte(s + "\r\n")) }
	say("220 mx1.test")
	rcpt, n := "", 0
	took := func() bool {
		p.mu.Lock()
		p.taken[rcpt]++
		p.mu.Unlock()
		if n++; n < p.after {
			say("250 2.0.0 ok")
			return true
		}
		if !p.silent {
			say("250 2.0.0 ok")
		}
		p.end(c)
		return false
	}
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		switch verb, rest, _ := strings.Cut(line, " "); verb {
		case "EHLO":
			say("250-mx1.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 " + p.ext)
		case "RCPT":
			if rcpt = rest; p.refuses != "" && strings.Contains(rest, p.refuses) {
				say("550 5.1.1 nobody")
			} else {
				say("250 2.1.5 ok")
			}
		case "DATA":
			say("354 go")
			for line != "." {
				if line, err = br.ReadString('\n'); err != nil {
					return
				}
				line = strings.TrimRight(line, "\r\n")
			}
			if !took() {
				return
			}
		case "BDAT":
			size, _ := strconv.Atoi(strings.Fields(rest)[0])
			if _, err := br.Discard(size); err != nil {
				return
			}
			if rcpt == "" {
				say("503 5.5.1 no recipient")
			} else if !took() {
				return
			}
		case "RSET", "MAIL":
			rcpt = ""
			say("250 2.0.0 ok")
		default:
			say("221 bye")
			return
		}
	}
}

// A far end may close one half of the connection, both with a reset, or neither and fall silent: what it may have is
// uncertain, what it surely has not is sent once more, and nothing arrives twice or is lost.
func TestHalfClosedAndReset(t *testing.T) {
	ends := map[string]func(c *net.TCPConn){
		"half-closed, reads on": func(c *net.TCPConn) {
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		},
		"half-closed, deaf": func(c *net.TCPConn) {
			_ = c.CloseWrite()
			time.Sleep(20 * time.Millisecond) // what comes meanwhile is never read, so that a reset follows
		},
		"reset":  func(c *net.TCPConn) { _ = c.SetLinger(0) },
		"closed": func(*net.TCPConn) {},
	}
	for name, end := range ends {
		for _, ext := range []string{"CHUNKING", "X-NONE"} {
			for _, silent := range []bool{false, true} {
				for _, stream := range []*smtp.Stream{nil, {}} {
					t.Run(fmt.Sprint(name, "/", ext, "/", silent, "/", stream != nil), func(t *testing.T) {
						l := newLab(t)
						p := &rawPeer{ext: ext, after: 7, silent: silent, end: end}
						addr := p.start(t)
						l.records("mx1.test", "A 192.0.2.1")
						l.records("clinic.test", "MX 1 mx1.test.")
						tr := l.transport(func(o *smtp.Options) {
							o.Stream, o.Chunking = stream, smtp.ChunkingOffered
							o.Timeouts = smtp.Timeouts{EHLO: time.Second, Mail: time.Second, Rcpt: time.Second, DataInit: time.Second, Dot: time.Second}
							o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
								return new(net.Dialer).DialContext(ctx, network, addr)
							}
						})
						errs := deliverAll(t, tr, anyway, 30)
						require.NoError(t, tr.Close())
						p.mu.Lock()
						defer p.mu.Unlock()
						for i, err := range errs {
							n := p.taken[fmt.Sprintf("TO:<r%d@clinic.test>", i)]
							require.LessOrEqual(t, n, 1, "message %d twice", i)
							if err == nil {
								require.Equal(t, 1, n, "message %d is called delivered", i)
							} else if wantDelivery(t, err).Fate != securemail.FateUncertain {
								require.Zero(t, n, "message %d was taken: %v", i, err)
							}
						}
					})
				}
			}
		}
	}
}

// A far end that refuses a recipient and then takes the message has done who knows what with it: that is neither delivered nor
// refused, and the connection is over. The others get theirs.
func TestStreamRefusedAndTaken(t *testing.T) {
	l := newLab(t)
	p := &rawPeer{ext: "CHUNKING", after: 1000, refuses: "r7@", end: func(*net.TCPConn) {}}
	addr := p.start(t)
	l.records("mx1.test", "A 192.0.2.1")
	l.records("clinic.test", "MX 1 mx1.test.")
	tr := l.transport(func(o *smtp.Options) {
		o.Stream = &smtp.Stream{}
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	for i := range 10 {
		_, err := tr.Deliver(t.Context(), numbered(t, anyway, i))
		if i != 7 {
			require.NoError(t, err)
			continue
		}
		d := wantDelivery(t, err)
		require.Equal(t, securemail.FateUncertain, d.Fate)
		require.Zero(t, tr.Idle())
	}
}

// Trap 19: a far end that waits for our acknowledgement between its small replies (Nagle's algorithm) must not cost each
// message the 40 ms that the system would like to wait with it.
func TestNoStallByDelayedAcknowledgements(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no TCP_QUICKACK")
	}
	for name, c := range map[string]struct {
		ext    string
		stream *smtp.Stream
	}{"a stream of chunks": {"CHUNKING", &smtp.Stream{}}, "a stream by DATA": {"X-NONE", &smtp.Stream{}}, "BDAT": {"CHUNKING", nil}, "DATA": {"X-NONE", nil}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := &rawPeer{ext: c.ext, after: 1000, nagle: true, end: func(*net.TCPConn) {}}
			addr := p.start(t)
			l.records("mx1.test", "A 192.0.2.1")
			l.records("clinic.test", "MX 1 mx1.test.")
			tr := l.transport(func(o *smtp.Options) {
				o.Stream, o.Chunking = c.stream, smtp.ChunkingOffered
				o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, addr)
				}
			})
			var took []time.Duration
			for i := range 31 {
				begin := time.Now()
				_, err := tr.Deliver(t.Context(), numbered(t, anyway, i))
				require.NoError(t, err)
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			require.Less(t, took[len(took)/2], 30*time.Millisecond, "%v", took)
		})
	}
}
