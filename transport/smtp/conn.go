package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// conn is one session with a far end. It belongs to one goroutine at a time.
type conn struct {
	net net.Conn
	raw net.Conn // below TLS
	// gear is lent for work and nil while idle, so that an idle connection costs little.
	*gear

	target
	purpose securemail.Purpose
	key     key
	ext     extensions
	tls     *tls.ConnectionState

	// notes are the reasons from before the judgement; unsure says that STARTTLS was refused for now.
	notes  []securemail.Reason
	unsure bool
	// wire is the evidence and shown what it is worth, since judged; pkix and tlsaRule name what was broken.
	wire           securemail.Wire
	shown          shown
	pkix, tlsaRule string
	judged         time.Time
	// admitted is what the judgement was enough for.
	admitted admission

	// uses counts the messages, and refusals those of them whose envelope was refused.
	uses, refusals int
	// clean: the far end took the latest message, which ended its transaction (RFC 5321 section 4.1.1.4).
	clean bool
	// domains are those of the recipients so far, where their number is limited (RFC 9422).
	domains []string
	// armed is what the deadline was set to since the latest wait for a reply.
	armed time.Duration
	// broken: the session is out of step or over, and must not be used again.
	broken bool
	idle   time.Time
}

// gear is what a connection needs to work.
type gear struct {
	br   *bufio.Reader
	bw   *bufio.Writer
	text []byte // the latest reply's
}

var gears = sync.Pool{New: func() any {
	return &gear{
		br: bufio.NewReaderSize(nil, maxReplyLine), bw: bufio.NewWriterSize(nil, blockSize+1024), text: make([]byte, 0, maxRemote),
	}
}}

// use starts over on nc: what was buffered from the old connection is gone.
func (c *conn) use(nc net.Conn) {
	c.net = nc
	c.br.Reset(nc)
	c.bw.Reset(nc)
}

// attend lends c its gear and breaks its I/O when ctx ends. The caller must call stop; it is false if ctx ended before.
func (c *conn) attend(ctx context.Context) (stop func() bool) {
	c.equip()
	detach := c.watch(ctx)
	return func() bool {
		c.strip()
		return detach()
	}
}

func (c *conn) equip() {
	c.gear = gears.Get().(*gear)
	c.use(c.net)
}

// strip takes the gear back. Octets that nobody asked for are lost with the reader, and the session is out of step.
func (c *conn) strip() {
	c.broken = c.broken || c.br.Buffered() > 0
	c.br.Reset(nil)
	c.bw.Reset(nil)
	gears.Put(c.gear)
	c.gear = nil
}

// watch breaks c's I/O when ctx ends. The caller must call stop; it is false if ctx ended before.
func (c *conn) watch(ctx context.Context) (stop func() bool) {
	nc := c.net
	return onEnd(ctx, func() { _ = nc.SetDeadline(past) })
}

// past is a deadline that ends I/O at once.
var past = time.Unix(1, 0)

// arm gives the next I/O d to end. Its check of ctx comes after the deadline is set, so that attend's is never overwritten
// unseen.
func (c *conn) arm(ctx context.Context, d time.Duration) error {
	if err := c.net.SetDeadline(deadline(ctx, d)); err != nil {
		return err
	}
	c.armed = d
	return ctx.Err()
}

// count notes a message that c is about to carry.
func (c *conn) count(j *job) {
	c.uses++
	c.clean = false
	if domain := j.Recipient.Address.Domain(); c.ext.domainMax > 0 && !slices.Contains(c.domains, domain) {
		c.domains = append(c.domains, domain)
	}
}

// spent says that c may carry no more at all, by our limit or the far end's (RFC 9422 section 4.1: MAIL counts, refused or
// not).
func (c *conn) spent(maxUses int) bool {
	return c.uses >= maxUses || c.ext.mailMax > 0 && c.uses >= c.ext.mailMax
}

// takes says whether c may carry mail for the domain (RFC 9422 section 4.3).
func (c *conn) takes(domain string) bool {
	return c.ext.domainMax == 0 || len(c.domains) < c.ext.domainMax || slices.Contains(c.domains, domain)
}

func (c *conn) flush(ctx context.Context, d time.Duration) error {
	if err := c.arm(ctx, d); err != nil {
		return err
	}
	return c.bw.Flush()
}

// read reads one reply; its text is valid until the next.
func (c *conn) read(ctx context.Context, d time.Duration, each func(n int, text []byte)) (reply, error) {
	p := replyReader{text: c.text}
	for {
		r, ok, err := p.next(c.br, each)
		if ok || err != nil {
			return r, err
		}
		// What was sent just now has set the same deadline.
		if c.armed != d || p.inside() {
			if err := c.arm(ctx, d); err != nil {
				return reply{}, err
			}
		}
		c.armed = 0
		if err := more(c.br); err != nil {
			return reply{}, err
		}
	}
}

// ask sends one command and reads its reply.
func (c *conn) ask(ctx context.Context, d time.Duration, command string, each func(n int, text []byte)) (reply, error) {
	// Octets that were here before we asked answer nothing.
	if c.br.Buffered() > 0 {
		return reply{}, &ReplyError{Rule: "unasked"}
	}
	_, _ = c.bw.WriteString(command)
	_, _ = c.bw.WriteString("\r\n")
	if err := c.flush(ctx, d); err != nil {
		return reply{}, err
	}
	return c.read(ctx, d, each)
}

// quitWait bounds the farewell.
const quitWait = time.Second

// quit says QUIT where the session is sound and closes. It does not wait for the answer (RFC 5321 section 4.1.1.10 would
// like that): all is settled by then. Otherwise it closes below TLS, whose own farewell would wait for seconds for a far
// end that takes nothing any more.
func (c *conn) quit() {
	if !c.broken && c.net.SetDeadline(time.Now().Add(quitWait)) == nil {
		if _, err := c.net.Write([]byte("QUIT\r\n")); err == nil {
			_ = c.net.Close()
		}
	}
	_ = c.raw.Close()
}
