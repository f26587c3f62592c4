package smtp

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/transport/dane"
)

// DNSOptions are the options of [DNS]; nil and zero fields mean the defaults.
type DNSOptions struct {
	// Timeout bounds one exchange; 0 is 5 s.
	Timeout time.Duration
	// Attempts is how often a question is asked; 0 is 3.
	Attempts int
	// TrustAD makes the AD bit of the server's answers count as proof of DNSSEC (RFC 4035 section 3.2.3). The server must
	// validate itself, and be on loopback or asked over TLS: on any other path the bit can be forged. A forwarder that
	// copies the bit from its upstream, as some containers' stub resolvers do, must not be trusted.
	TrustAD bool
	// InsecureTrustAD is TrustAD on a path that this package can't judge, such as a private wire or a tunnel: whoever can
	// write to it can forge DANE. The operator vouches for it.
	InsecureTrustAD bool
	// ServerName switches to DNS over TLS (RFC 7858), to the usual port 853 if addr has that, and is the name that the
	// server's certificate must have.
	ServerName string
	// TLS is the configuration for it, where the system's trust anchors won't do; with one whose ServerName is set, the
	// field above may be empty. InsecureSkipVerify is an error.
	TLS *tls.Config
}

// maxTTL is the longest time to live that is believed.
const maxTTL = 24 * time.Hour

// DNSClient asks one recursive server. It is a [Resolver], a [dane.Resolver], and has LookupTXT. What the server says of
// DNSSEC counts only where the options say so; otherwise every answer is unsigned. Its methods may be called from many
// goroutines; its errors hold names of domains at most.
type DNSClient struct {
	server   string
	timeout  time.Duration
	attempts int
	trustAD  bool
	tls      *tls.Config // nil: UDP and TCP
	idle     idleConns
}

var _ Resolver = (*DNSClient)(nil)

// DNS makes a client of the recursive server at addr ("ip:port"). It asks over UDP with EDNS, and over TCP where an answer
// was truncated; with a ServerName over TLS only, and then keeps a few connections until Close.
func DNS(addr string, o *DNSOptions) (*DNSClient, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, errors.New("smtp: dns: server must be ip:port")
	}
	if o == nil {
		o = &DNSOptions{}
	}
	c := &DNSClient{server: addr, timeout: orElse(o.Timeout, 5*time.Second), attempts: orElse(o.Attempts, 3)}
	c.trustAD = o.TrustAD || o.InsecureTrustAD
	if o.ServerName != "" || o.TLS != nil {
		c.tls = o.TLS.Clone()
		if c.tls == nil {
			c.tls = &tls.Config{}
		}
		c.tls.ServerName = cmp.Or(o.ServerName, c.tls.ServerName)
		c.tls.MinVersion = max(c.tls.MinVersion, tls.VersionTLS12)
	}
	if err := o.check(ap.Addr(), c.tls); err != nil {
		return nil, err
	}
	return c, nil
}

func orElse[T time.Duration | int](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func (o *DNSOptions) check(server netip.Addr, config *tls.Config) error {
	var errs []error
	if config != nil && config.ServerName == "" {
		errs = append(errs, errors.New("smtp: dns: TLS needs the server's name"))
	}
	if config != nil && config.InsecureSkipVerify {
		errs = append(errs, errors.New("smtp: dns: TLS without a check of the server's name proves nothing"))
	}
	if o.TrustAD && config == nil && !server.Unmap().IsLoopback() {
		errs = append(errs, errors.New("smtp: dns: AD can be trusted from loopback or over TLS only"))
	}
	if o.Timeout < 0 || o.Attempts < 0 {
		errs = append(errs, errors.New("smtp: dns: timeout and attempts can't be negative"))
	}
	return errors.Join(errs...)
}

// Close drops the idle connections. The client may be used on.
func (c *DNSClient) Close() error {
	c.idle.drop()
	return nil
}

// MX implements [Resolver].
func (c *DNSClient) MX(ctx context.Context, domain string) (MXSet, error) {
	a, err := c.ask(ctx, domain, dns.TypeMX)
	if err != nil {
		return MXSet{}, err
	}
	set := MXSet{Canonical: a.canonical, Secure: a.secure, TTL: a.ttl}
	for _, rr := range a.rrs {
		if mx, ok := rr.(*dns.MX); ok {
			set.Hosts = append(set.Hosts, MX{Host: plain(mx.Mx), Preference: mx.Preference})
		}
	}
	return set, nil
}

// plain is a name in lower case without the final dot.
func plain(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Addrs implements [Resolver]. One family is enough; if that one has none and the other is not known, neither is the
// answer.
func (c *DNSClient) Addrs(ctx context.Context, host string) (AddrSet, error) {
	a4, err4 := c.ask(ctx, host, dns.TypeA)
	if errors.Is(err4, ErrNotFound) {
		return AddrSet{}, err4
	}
	a6, err6 := c.ask(ctx, host, dns.TypeAAAA)
	if errors.Is(err6, ErrNotFound) && err4 == nil {
		err6 = nil
	}
	set := AddrSet{TTL: min(a4.ttl, a6.ttl)}
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
		set.Canonical, set.Secure = a4.canonical, a4.secure && a6.secure
		return set, errors.Join(err4, err6)
	}
	set.Canonical, set.Secure = proof(a4, a6)
	return set, nil
}

// proof is what the answers for addresses say of the way to them. Only those with addresses count: a family that has none,
// or can't be asked, must not take the proof from the other, or a suppressed answer would end the protection. Nor must
// addresses that something between made up (DNS64): DANE does not rest on addresses.
func proof(a4, a6 answer) (canonical string, secure bool) {
	canonical, first := "", true
	for _, a := range []answer{a4, a6} {
		if len(a.rrs) > 0 && (first || a.secure && !secure) {
			canonical, secure, first = a.canonical, a.secure, false
		}
	}
	return canonical, secure
}

// LookupTXT has the shape and meaning of [net.Resolver.LookupTXT]: the strings of a record are joined, and a
// [*net.DNSError] with IsNotFound says that there surely is no such record.
func (c *DNSClient) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a, err := c.find(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range a.rrs {
		if txt, ok := rr.(*dns.TXT); ok {
			out = append(out, text(txt.Txt))
		}
	}
	return out, nil
}

// TLSA implements [dane.Resolver].
func (c *DNSClient) TLSA(ctx context.Context, name string) (dane.Answer, error) {
	a, err := c.find(ctx, name, dns.TypeTLSA)
	if err != nil {
		return dane.Answer{}, err
	}
	out := dane.Answer{Secure: a.secure, TTL: a.ttl}
	for _, rr := range a.rrs {
		if r, ok := rr.(*dns.TLSA); ok {
			data, err := unhex(r.Certificate)
			if err != nil {
				return dane.Answer{}, err
			}
			out.Records = append(out.Records, dane.Record{Usage: r.Usage, Selector: r.Selector, Match: r.MatchingType, Data: data})
		}
	}
	return out, nil
}

// CNAME implements [dane.Resolver].
func (c *DNSClient) CNAME(ctx context.Context, name string) (dane.Alias, error) {
	a, err := c.find(ctx, name, dns.TypeCNAME)
	if err != nil {
		return dane.Alias{}, err
	}
	if cn, ok := a.rrs[0].(*dns.CNAME); ok {
		return dane.Alias{Target: plain(cn.Target), Secure: a.secure}, nil
	}
	return dane.Alias{}, errLookup
}

// find asks for records, and says as the net package does that there are none.
func (c *DNSClient) find(ctx context.Context, name string, qtype uint16) (answer, error) {
	a, err := c.ask(ctx, strings.TrimSuffix(name, "."), qtype)
	if errors.Is(err, ErrNotFound) || err == nil && len(a.rrs) == 0 {
		return answer{}, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	}
	return a, err
}
