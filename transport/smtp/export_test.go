package smtp

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/securemail"
)

// Special runs the judgement of addresses that DNS names.
func Special(a netip.Addr) bool { return special(a) }

// Reply is what ReadReply read.
type Reply struct {
	Code           int
	Text, Enhanced string
	ID             string
	Lines          int
}

// ReadReply runs the reply parser.
func ReadReply(r io.Reader) (Reply, error) {
	lines := 0
	rep, err := readReply(r, func(int, []byte) { lines++ })
	return Reply{rep.code, string(rep.text), rep.enhanced(), rep.queueID(), lines}, err
}

// Extensions is what ParseEHLO found.
type Extensions struct {
	StartTLS, Pipelining, EightBit, UTF8, RequireTLS, HasSize, Chunking, DSN bool
	Size                                                                     int64
	MailMax, DomainMax                                                       int
	Auth                                                                     []string
}

// ParseEHLO runs the EHLO parser.
func ParseEHLO(text string) (Extensions, error) {
	var x extensions
	_, err := readReply(strings.NewReader(text), x.line)
	return Extensions{
		x.startTLS, x.pipelining, x.eightBit, x.utf8, x.requireTLS, x.hasSize, x.chunking, x.dsn, x.size, x.mailMax, x.domainMax, x.auth,
	}, err
}

// Stuff runs the dot-stuffer over blocks of n octets.
func Stuff(text []byte, n int) []byte {
	var out bytes.Buffer
	c := &conn{gear: &gear{bw: bufio.NewWriter(&out)}}
	w := stuffer{lineStart: true}
	for len(text) > 0 {
		k := min(n, len(text))
		_ = w.write(c, text[:k])
		text = text[k:]
	}
	_ = c.bw.Flush()
	return out.Bytes()
}

// Idle is how many connections the pool keeps.
func (t *Transport) Idle() int {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	return t.pool.count
}

// System makes the resolver that New takes where none is given.
func System(r *net.Resolver) Resolver { return system{r: r} }

// Shelf is the small cache, of strings.
type Shelf = shelf[string]

// NewShelf makes one.
func NewShelf(limit int, now func() time.Time) *Shelf { return newShelf[string](limit, now) }

// Put, Get and Len are the cache's.
func (s *shelf[V]) Put(key string, v V, keep time.Duration) { s.put(key, v, keep) }

// Get is the cache's.
func (s *shelf[V]) Get(key string) (V, bool) { return s.get(key) }

// Len is how many entries there are.
func (s *shelf[V]) Len() int { return len(s.m) }

// HandshakeRule names a handshake's failure.
func HandshakeRule(err error) (string, bool) { return handshakeRule(err) }

// PKIXRule names a verification's failure.
func PKIXRule(err error) string { return pkixRule(err) }

// Literal is what EHLO says where there is no name.
func Literal(a net.Addr) string { return literal(a) }

// Shown is what one session showed.
type Shown struct{ DANE, PKIX, Pin, RequireTLS bool }

// Missed holds a session against terms.
func Missed(t Terms, w securemail.Wire, s Shown) string {
	return t.missed(&w, shown{dane: s.DANE, pkix: s.PKIX, pin: s.Pin, requireTLS: s.RequireTLS})
}

// OriginalRecipient is the value of ORCPT.
func OriginalRecipient(addr string) string { return originalRecipient(addr) }

// IdleConns is how many connections the client keeps.
func (c *DNSClient) IdleConns() int {
	c.idle.mu.Lock()
	defer c.idle.mu.Unlock()
	return len(c.idle.conns)
}

// ReadAnswer reads a DNS message as the answer to a question, and returns what Resolvers make of its records.
func ReadAnswer(b []byte, name string, qtype uint16) (txts, names []string, secure bool, err error) {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, nil, false, err
	}
	a, err := new(DNSClient).read(m, name, qtype)
	for _, rr := range a.rrs {
		names = append(names, rr.Header().Name)
		if txt, ok := rr.(*dns.TXT); ok {
			txts = append(txts, text(txt.Txt))
		}
	}
	return txts, names, a.secure, err
}

func readReply(r io.Reader, each func(int, []byte)) (reply, error) {
	br := bufio.NewReaderSize(r, maxReplyLine)
	p := replyReader{}
	for {
		rep, ok, err := p.next(br, each)
		if ok || err != nil {
			return rep, err
		}
		if err := more(br); err != nil {
			return reply{}, err
		}
	}
}
