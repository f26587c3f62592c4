package smtp

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// udpSize is the EDNS buffer size that passes without fragments (RFC 6891; DNS flag day 2020), and readSize what is read,
// for servers that take it lightly.
const (
	udpSize  = 1232
	readSize = 4096
)

// maxAliases bounds the CNAMEs followed, and maxPackets the datagrams read for one question. What is kept of an answer is
// bounded by its size, 64 KiB.
const (
	maxAliases = 8
	maxPackets = 64
)

// answer is the records of the type asked for, at the end of the CNAME chain.
type answer struct {
	rrs []dns.RR
	// canonical is the end of the chain, "" if there is none.
	canonical string
	secure    bool
	ttl       time.Duration
}

func (a answer) addrs() []netip.Addr {
	var out []netip.Addr
	for _, rr := range a.rrs {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// ask puts one question, again after a time-out or a server failure. A server failure is also what a validating server
// says of an answer that DNSSEC finds bogus: it must stay an error.
func (c *DNSClient) ask(ctx context.Context, name string, qtype uint16) (answer, error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return answer{}, ErrNotFound
	}
	err := errLookup
	for range c.attempts {
		var m *dns.Msg
		if m, err = c.exchange(ctx, name, qtype); err != nil {
			if err := ended(ctx); err != nil {
				return answer{}, err
			}
			continue
		}
		switch m.Rcode {
		case dns.RcodeSuccess:
			return c.read(m, name, qtype)
		case dns.RcodeNameError:
			return answer{}, ErrNotFound
		}
		err = fmt.Errorf("%w (%s)", errLookup, rcodeName(m.Rcode))
	}
	return answer{}, err
}

// ended is ctx.Err, a moment early where I/O with ctx's own deadline may have seen the end first.
func ended(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

func rcodeName(code int) string {
	if s, ok := dns.RcodeToString[code]; ok {
		return s
	}
	return "rcode unknown"
}

// exchange asks once. Its errors hold no name.
func (c *DNSClient) exchange(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(udpSize, false)
	// RFC 6840 section 5.7: AD in a question asks for AD in the answer.
	q.AuthenticatedData = c.trustAD
	networks := []string{"udp", "tcp"}
	if c.tls != nil {
		networks = []string{"tls"}
	}
	for _, network := range networks {
		m, err := c.over(ctx, network, q)
		if err != nil {
			return nil, err
		}
		// A server that neither recursed nor has authority says nothing by saying nothing.
		if lame := !m.RecursionAvailable && !m.Authoritative; lame && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 {
			return nil, errLookup
		}
		if !m.Truncated {
			return m, nil
		}
	}
	return nil, errLookup
}

// over asks over one network. A kept connection that the server has closed meanwhile costs nothing but a new one.
func (c *DNSClient) over(ctx context.Context, network string, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if network == "tls" {
		if conn := c.idle.take(); conn != nil {
			if m, err := c.talk(ctx, conn, q); err == nil {
				return m, nil
			}
			c.idle.drop() // the others are no better
		}
	}
	var conn net.Conn
	var err error
	if network == "tls" {
		conn, err = (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", c.server)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, network, c.server)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLookup, bare(ctx, err))
	}
	return c.talk(ctx, conn, q)
}

// talk sends q and waits for its answer. conn is closed, or kept where it is worth it.
func (c *DNSClient) talk(ctx context.Context, conn net.Conn, q *dns.Msg) (*dns.Msg, error) {
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	m, err := roundTrip(&dns.Conn{Conn: conn, UDPSize: readSize}, q)
	if !stop() || err != nil || c.tls == nil {
		conn.Close()
	} else {
		c.idle.put(conn)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLookup, bare(ctx, err))
	}
	return m, nil
}

// roundTrip reads until something answers q. Over UDP anybody can send: what is no answer to q is passed over.
func roundTrip(conn *dns.Conn, q *dns.Msg) (*dns.Msg, error) {
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	for range maxPackets {
		m, err := conn.ReadMsg()
		if err == nil && answers(m, q) {
			return m, nil
		}
		if _, udp := conn.Conn.(net.PacketConn); !udp {
			return nil, errors.Join(err, errLookup)
		}
		if ne, ok := errors.AsType[net.Error](err); ok {
			return nil, ne
		}
	}
	return nil, errLookup
}

// answers says that m is the answer to q (RFC 5452 section 9.1; names are the same in any case).
func answers(m, q *dns.Msg) bool {
	return m.Response && m.Id == q.Id && m.Opcode == dns.OpcodeQuery && len(m.Question) == 1 &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass &&
		strings.EqualFold(m.Question[0].Name, q.Question[0].Name)
}

// read follows the CNAMEs in m and collects the records at their end. A chain without an end is no answer.
func (c *DNSClient) read(m *dns.Msg, name string, qtype uint16) (answer, error) {
	a := answer{secure: c.trustAD && m.AuthenticatedData}
	ttl := int64(-1)
	owner := dns.Fqdn(name)
	for range maxAliases {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, owner) {
				continue
			}
			if h.Rrtype == qtype {
				a.rrs = append(a.rrs, rr)
			} else if cn, ok := rr.(*dns.CNAME); ok {
				next = cn.Target
			} else {
				continue
			}
			if t := int64(h.Ttl); ttl < 0 || t < ttl {
				ttl = t
			}
		}
		if next == "" || len(a.rrs) > 0 {
			a.ttl = lifetime(ttl)
			// One that does not recurse may stop at an alias to a zone that it lacks.
			if len(a.rrs) == 0 && a.canonical != "" && !m.RecursionAvailable {
				return answer{}, errLookup
			}
			return a, nil
		}
		owner, a.canonical = next, plain(next)
	}
	return answer{}, fmt.Errorf("%w (aliases without end)", errLookup)
}

// lifetime is a TTL in seconds; one that can't be (RFC 2181 section 8), like none, is 0.
func lifetime(ttl int64) time.Duration {
	if ttl < 0 || ttl > 1<<31-1 {
		return 0
	}
	return min(time.Duration(ttl)*time.Second, maxTTL)
}

// text joins the strings of a TXT record, which the dns package keeps in the form of master files (RFC 1035 section 5.1).
func text(parts []string) string {
	s := strings.Join(parts, "")
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\' || i+1 == len(s):
			b.WriteByte(s[i])
		case i+3 < len(s) && digits(s[i+1:i+4]):
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
		default:
			i++
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, errLookup
	}
	return b, nil
}

// maxIdleConns and maxIdleConn bound the connections to a server that are kept, and for how long (RFC 7858 section 3.4).
const (
	maxIdleConns = 4
	maxIdleConn  = 10 * time.Second
)

// idleConns are connections between questions. There is no goroutine that watches them: one that is too old, or that the
// server has closed, is found when it is taken.
type idleConns struct {
	mu    sync.Mutex // guards conns
	conns []idleConn
}

type idleConn struct {
	net.Conn
	since time.Time
}

// take returns the one used last, or nil.
func (p *idleConns) take() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := len(p.conns); n > 0; n = len(p.conns) {
		c := p.conns[n-1]
		p.conns = p.conns[:n-1]
		if time.Since(c.since) < maxIdleConn {
			return c.Conn
		}
		c.Close()
	}
	return nil
}

func (p *idleConns) put(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) >= maxIdleConns {
		c.Close()
		return
	}
	p.conns = append(p.conns, idleConn{c, time.Now()})
}

func (p *idleConns) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}
