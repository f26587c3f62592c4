// Package smtppeer is a scriptable SMTP far end for tests and examples: it listens on loopback in the test's own
// process, takes mail, and misbehaves exactly as asked at any stage of the session.
//
//	ca := smtppeer.NewCA()
//	p, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.test", TLS: ca.Config("mx.test")})
//	defer p.Close()
//	... deliver to p.Addr() ...
//	p.Messages() // what it took
//
// Misbehaviour is an [Action] at a [Stage]: a refusal, a stall, a dropped connection, raw bytes, a reply of any number
// of lines. It speaks RFC 5321 with PIPELINING, CHUNKING, SIZE, 8BITMIME, SMTPUTF8, DSN, REQUIRETLS, STARTTLS and AUTH
// PLAIN and LOGIN.
// It is no mail server: it believes what it is told and keeps all in memory.
package smtppeer

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
)

// Options says how a Peer behaves. The zero value accepts everything in the clear.
type Options struct {
	// Listen is the address to listen on; "" is 127.0.0.1 with a port that the kernel picks.
	Listen string
	// Hostname is the name in the greeting and the EHLO reply; "" is mx.test.
	Hostname string
	// TLS switches on STARTTLS; nil: the extension is neither offered nor served.
	TLS *tls.Config
	// Implicit starts TLS before the greeting (RFC 8314 section 3.3); it needs TLS.
	Implicit bool
	// StripTLS leaves STARTTLS out of the EHLO reply though TLS is set, as an attacker on the wire does.
	StripTLS bool
	// InjectAfterStartTLS is sent in the clear in one segment with the 220 of STARTTLS.
	InjectAfterStartTLS string

	// Extensions are the EHLO lines besides STARTTLS, SIZE and AUTH; nil is PIPELINING, 8BITMIME, SMTPUTF8 and
	// ENHANCEDSTATUSCODES; an empty slice is none. BDAT is served, and parameters are recorded, whether offered or not.
	Extensions []string
	// ExtensionsTLS, where not nil, takes the place of Extensions once TLS is on.
	ExtensionsTLS []string
	// LowerCase sends the EHLO keywords in lower case (RFC 5321 section 2.4: they compare without case).
	LowerCase bool
	// Size is the limit in octets offered by SIZE and enforced; 0: SIZE is not offered.
	Size int64
	// Users maps user names to passwords and switches on AUTH PLAIN and LOGIN, under TLS only.
	Users map[string]string
	// AuthInClear offers AUTH without TLS too.
	AuthInClear bool
	// NeedAuth refuses MAIL with 530 until a user is authenticated.
	NeedAuth bool
	// LaxData accepts DATA though every recipient was refused, as RFC 2920 section 3.1 allows.
	LaxData bool
	// Chunk is what becomes of a chunk that is refused.
	Chunk Chunk
	// KeepSender, as in Exim, leaves a transaction open though BDAT was refused: the next MAIL gets 503 unless RSET comes
	// before it.
	KeepSender bool
	// Discard counts message octets without keeping them: Message.Data stays nil, and Commands ends at 1,000 lines.
	Discard bool

	// On holds what to do at a stage in place of the usual reply.
	On map[Stage]Action
	// Rcpt, where not nil, is asked for each recipient; nil means accept.
	Rcpt func(addr string) *Action
	// Hook, where not nil, is asked at each stage before Rcpt and On; nil means go on. It is called from the
	// connections' goroutines.
	Hook func(e Event) *Action
}

// Chunk is how a Peer treats the octets of a chunk that it refuses.
type Chunk uint8

const (
	// ChunkDiscard reads and forgets them (RFC 3030 section 2), as Postfix and Exim do.
	ChunkDiscard Chunk = iota
	// ChunkParse takes them for commands.
	ChunkParse
	// ChunkClose drops the connection.
	ChunkClose
	// ChunkAccept never refuses a chunk, with recipients or without.
	ChunkAccept
)

// Message is one transaction as the Peer saw it, from DATA or the first BDAT on.
type Message struct {
	// Conn numbers the connection, from 1.
	Conn int
	// HELO is the client's name; ESMTP is false if he said HELO.
	HELO  string
	ESMTP bool
	// From and Rcpts are the envelope without angle brackets; Params are the parameters of MAIL as sent.
	From   string
	Params []string
	Rcpts  []string
	// RcptParams are the parameters of each RCPT as sent.
	RcptParams []string
	// Chunks are the sizes of the chunks; none for DATA.
	Chunks []int64
	// Data are the octets with dot-stuffing undone, as far as they came; Octets is their number.
	Data   []byte
	Octets int64
	// TLS is nil in the clear.
	TLS *tls.ConnectionState
	// User is who authenticated, "" for nobody.
	User string
	// Complete: the final dot or the whole last chunk arrived. Taken: the peer did not refuse it then. Replied: it also said so.
	Complete, Taken, Replied bool
}

// Command is one line that a client sent; the data behind DATA is one line "<data>".
type Command struct {
	Conn int
	TLS  bool
	Line string
}

// Peer is a running far end. Its methods may be called from many goroutines.
type Peer struct {
	o  Options
	ln net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	done     chan struct{}
	conns    map[net.Conn]struct{}
	total    int
	counts   map[Stage]int
	messages []*Message
	commands []Command
}

// New makes a Peer that does not listen: connections are handed to [Peer.Serve], which suits net.Pipe inside a
// testing/synctest bubble.
func New(o Options) *Peer {
	if o.Hostname == "" {
		o.Hostname = "mx.test"
	}
	if o.Extensions == nil {
		o.Extensions = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"}
	}
	return &Peer{o: o, done: make(chan struct{}), conns: map[net.Conn]struct{}{}, counts: map[Stage]int{}}
}

// Start makes a Peer and listens. The caller must Close it.
func Start(o Options) (*Peer, error) {
	p := New(o)
	addr := o.Listen
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("smtppeer: listen: %w", err)
	}
	p.ln = ln
	p.wg.Go(p.accept)
	return p, nil
}

func (p *Peer) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.Serve(c) })
	}
}

// Serve runs one session on c and closes it.
func (p *Peer) Serve(c net.Conn) {
	defer c.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.total++
	id := p.total
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	newSession(p, c, id).run()
}

// Addr is where the Peer listens, as ip:port; "" if it does not.
func (p *Peer) Addr() string {
	if p.ln == nil {
		return ""
	}
	return p.ln.Addr().String()
}

// Port is the port of Addr; 0 if the Peer does not listen.
func (p *Peer) Port() int {
	if p.ln == nil {
		return 0
	}
	return p.ln.Addr().(*net.TCPAddr).Port
}

// Hostname is the name the Peer goes by.
func (p *Peer) Hostname() string { return p.o.Hostname }

// Close ends all sessions, stops listening, and waits until every goroutine of Start is gone. A repeat does nothing.
func (p *Peer) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.done)
	}
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	if p.ln != nil {
		p.ln.Close()
	}
	p.wg.Wait()
}

// Drop closes the connections that are open now, as a restart of the server does.
func (p *Peer) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// Messages are those that the Peer took: their final dot arrived and was not refused, whether or not the client was
// told so.
func (p *Peer) Messages() []Message {
	return slices.DeleteFunc(p.Attempts(), func(m Message) bool { return !m.Taken })
}

// Attempts are all transactions that reached DATA, the partial and the refused ones too.
func (p *Peer) Attempts() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Message, len(p.messages))
	for i, m := range p.messages {
		out[i] = *m
		out[i].Data = slices.Clone(m.Data)
	}
	return out
}

// Commands are the lines that clients sent, in order of arrival.
func (p *Peer) Commands() []Command {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.commands)
}

// Transcript is the Commands' text alone.
func (p *Peer) Transcript() []string {
	cs := p.Commands()
	out := make([]string, len(cs))
	for i, c := range cs {
		out[i] = c.Line
	}
	return out
}

// Connections is how many were accepted so far.
func (p *Peer) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// Open is how many sessions are running.
func (p *Peer) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Reset forgets messages and commands.
func (p *Peer) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.messages, p.commands = nil, nil
}

func (p *Peer) log(c Command) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.o.Discard && len(p.commands) >= 1000 {
		return
	}
	p.commands = append(p.commands, c)
}

// change runs f on a Message under the lock that its readers take.
func (p *Peer) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}
