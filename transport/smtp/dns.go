package smtp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// DNSOptions are the options of [DNS]; nil and zero fields mean the defaults.
type DNSOptions struct {
	// Timeout bounds one exchange; 0 is 5 s.
	Timeout time.Duration
	// Attempts is how often a question is asked; 0 is 3.
	Attempts int
	// TrustAD makes the AD bit of the server's answers count as proof of DNSSEC (RFC 4035 section 3.2.3). The server must
	// validate itself and be on loopback: on any other path the bit can be forged. A forwarder that copies the bit from its
	// upstream, as some containers' stub resolvers do, must not be trusted.
	TrustAD bool
}

// udpSize is the EDNS buffer size that passes without fragments (RFC 6891; DNS flag day 2020).
const udpSize = 1232

// maxRecords bounds what is kept of one answer, and maxAliases the CNAMEs followed.
const (
	maxRecords = 64
	maxAliases = 8
)

// DNS makes a [Resolver] that asks the recursive server at addr ("ip:port"), over UDP with EDNS, and over TCP where an
// answer was truncated.
func DNS(addr string, o *DNSOptions) (Resolver, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, errors.New("smtp: dns: server must be ip:port")
	}
	c := &dnsClient{server: addr, timeout: 5 * time.Second, attempts: 3}
	if o != nil {
		if o.TrustAD && !ap.Addr().Unmap().IsLoopback() {
			return nil, errors.New("smtp: dns: AD can be trusted from loopback only")
		}
		if o.Timeout < 0 || o.Attempts < 0 {
			return nil, errors.New("smtp: dns: timeout and attempts can't be negative")
		}
		c.trustAD = o.TrustAD
		c.timeout = orElse(o.Timeout, c.timeout)
		c.attempts = orElse(o.Attempts, c.attempts)
	}
	return c, nil
}

func orElse[T time.Duration | int](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

type dnsClient struct {
	server   string
	timeout  time.Duration
	attempts int
	trustAD  bool
}

// MX implements [Resolver].
func (c *dnsClient) MX(ctx context.Context, domain string) (MXSet, error) {
	a, err := c.ask(ctx, domain, dns.TypeMX)
	if err != nil {
		return MXSet{}, err
	}
	set := MXSet{Secure: a.secure, TTL: a.ttl}
	for _, rr := range a.rrs {
		if mx, ok := rr.(*dns.MX); ok {
			set.Hosts = append(set.Hosts, MX{Host: strings.ToLower(strings.TrimSuffix(mx.Mx, ".")), Preference: mx.Preference})
		}
	}
	return set, nil
}

// Addrs implements [Resolver]. One family is enough; if that one has none and the other is not known, neither is the
// answer.
func (c *dnsClient) Addrs(ctx context.Context, host string) (AddrSet, error) {
	a4, err4 := c.ask(ctx, host, dns.TypeA)
	if errors.Is(err4, ErrNotFound) {
		return AddrSet{}, err4
	}
	a6, err6 := c.ask(ctx, host, dns.TypeAAAA)
	if errors.Is(err6, ErrNotFound) && err4 == nil {
		err6 = nil
	}
	set := AddrSet{Secure: a4.secure && a6.secure, TTL: min(a4.ttl, a6.ttl)}
	v4, v6 := a4.addrs(), a6.addrs()
	// An empty answer says nothing of time here; the family that has addresses does.
	if err4 == nil && err6 == nil && (len(v4) == 0) != (len(v6) == 0) {
		set.TTL = max(a4.ttl, a6.ttl)
	}
	for i := range max(len(v4), len(v6)) {
		if i < len(v4) {
			set.Addrs = append(set.Addrs, v4[i])
		}
		if i < len(v6) {
			set.Addrs = append(set.Addrs, v6[i])
		}
	}
	if len(set.Addrs) == 0 {
		return set, errors.Join(err4, err6)
	}
	return set, nil
}

// answer is the records of the type asked for, at the end of the CNAME chain.
type answer struct {
	rrs    []dns.RR
	secure bool
	ttl    time.Duration
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

// ask puts one question, again after a time-out or a server failure.
func (c *dnsClient) ask(ctx context.Context, name string, qtype uint16) (answer, error) {
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
func (c *dnsClient) exchange(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(udpSize, false)
	// RFC 6840 section 5.7: AD in a question asks for AD in the answer.
	q.AuthenticatedData = c.trustAD
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: c.timeout, UDPSize: udpSize}
		m, _, err := client.ExchangeContext(ctx, q, c.server)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errLookup, bare(ctx, err))
		}
		if !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != qtype || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
			return nil, errLookup
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

// read follows the CNAMEs in m and collects the records at their end. A chain without an end is no answer.
func (c *dnsClient) read(m *dns.Msg, name string, qtype uint16) (answer, error) {
	a := answer{secure: c.trustAD && m.AuthenticatedData}
	ttl := uint32(0)
	owner := dns.Fqdn(name)
	for range maxAliases {
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, owner) {
				continue
			}
			if cn, ok := rr.(*dns.CNAME); ok {
				next = cn.Target
			} else if h.Rrtype != qtype || len(a.rrs) == maxRecords {
				continue
			} else {
				a.rrs = append(a.rrs, rr)
			}
			if ttl == 0 || h.Ttl < ttl {
				ttl = h.Ttl
			}
		}
		if next == "" || len(a.rrs) > 0 {
			a.ttl = time.Duration(ttl) * time.Second
			return a, nil
		}
		owner = next
	}
	return answer{}, fmt.Errorf("%w (aliases without end)", errLookup)
}
