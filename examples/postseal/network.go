package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/smtp"
)

// netFlags say how DNS, mail hosts and policies are reached.
type netFlags struct {
	resolver, dot, ca string
	trustAD, json     bool
	port, stsPort     uint
	timeout           time.Duration
}

// register adds them to fs; what is a thing that gets one JSON object and its share of -timeout.
func (f *netFlags) register(fs *flag.FlagSet, what string, timeout time.Duration) {
	fs.StringVar(&f.resolver, "resolver", "", "DNS server, ip or ip:port")
	fs.BoolVar(&f.trustAD, "trust-ad", false, "the resolver validates DNSSEC, and the path to it is safe")
	fs.StringVar(&f.dot, "dot", "", "ask the resolver over TLS; the name in its certificate")
	fs.StringVar(&f.ca, "ca", "", "PEM file of authorities to trust")
	fs.UintVar(&f.port, "port", 25, "where mail hosts listen")
	fs.UintVar(&f.stsPort, "https-port", 443, "where MTA-STS policies are served")
	fs.DurationVar(&f.timeout, "timeout", timeout, "for each "+what)
	fs.BoolVar(&f.json, "json", false, "one JSON object a "+what)
}

// wrong says what of the flags can't be, "" for nothing.
func (f *netFlags) wrong() string {
	switch {
	case f.port == 0 || f.port > 65535 || f.stsPort == 0 || f.stsPort > 65535:
		return "-port and -https-port are 1 to 65535"
	case f.timeout <= 0:
		return "-timeout must be over 0"
	case (f.trustAD || f.dot != "") && f.resolver == "":
		return "-trust-ad and -dot need a -resolver"
	}
	return ""
}

// parseMixed parses flags that may stand before, between and behind the arguments, which it gives.
func parseMixed(fs *flag.FlagSet, args []string, out io.Writer) (rest []string, err error) {
	fs.SetOutput(io.Discard) // standard output is for results
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				fs.SetOutput(out)
				fs.Usage()
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", err, errUsage)
		}
		if fs.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, fs.Arg(0)), fs.Args()[1:]
	}
}

// network is how DNS is asked.
type network struct {
	f     *netFlags
	roots *x509.CertPool
	dns   *smtp.DNSClient // nil: the system's resolver
	// policies fetches those of MTA-STS.
	policies mtasts.Fetcher
}

func (f *netFlags) open() (*network, error) {
	n := &network{f: f}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		n.roots = x509.NewCertPool()
		if err != nil || !n.roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("-ca: no certificate could be read")
		}
	}
	if f.resolver != "" {
		if err := n.ask(); err != nil {
			return nil, err
		}
	}
	c, err := mtasts.NewClient(n.fetching())
	if err != nil {
		return nil, err
	}
	n.policies = c
	return n, nil
}

// ask makes the client of -resolver.
func (n *network) ask() (err error) {
	f := n.f
	o, port := &smtp.DNSOptions{TrustAD: f.trustAD}, "53"
	if f.dot != "" {
		o.ServerName, port = f.dot, "853"
		if n.roots != nil {
			o.TLS = &tls.Config{RootCAs: n.roots, ServerName: f.dot, MinVersion: tls.VersionTLS12}
		}
	}
	addr := withPort(f.resolver, port)
	if ap, err := netip.ParseAddrPort(addr); err == nil && f.trustAD && f.dot == "" && !ap.Addr().Unmap().IsLoopback() {
		o.TrustAD, o.InsecureTrustAD = false, true // who says -trust-ad vouches for the path
	}
	n.dns, err = smtp.DNS(addr, o)
	return err
}

func (n *network) close() error {
	if n.dns == nil {
		return nil
	}
	return n.dns.Close()
}

// LookupTXT makes it a resolver of mtasts, posture and tlsrpt.
func (n *network) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if n.dns != nil {
		return n.dns.LookupTXT(ctx, name)
	}
	return net.DefaultResolver.LookupTXT(ctx, name+".")
}

// options are those of a Transport that asks the same DNS. Who names the DNS server says himself where hosts are.
func (n *network) options() *smtp.Options {
	o := &smtp.Options{Port: uint16(n.f.port), RootCAs: n.roots}
	if n.dns != nil {
		o.Resolver, o.AllowPrivate = n.dns, true
	}
	return o
}

// tlsa gives a host's records; secure says that DNSSEC proved them.
func (n *network) tlsa(ctx context.Context, host string) (dane.Answer, error) {
	if n.dns == nil {
		return dane.Answer{}, errors.New("the system's resolver knows no TLSA records; use -resolver")
	}
	return n.dns.TLSA(ctx, dane.Name(host, uint16(n.f.port)))
}

// addrs are those of a host.
func (n *network) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if n.dns == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	set, err := n.dns.Addrs(ctx, host)
	return set.Addrs, err
}

// mx are the names of a domain's mail hosts, the first choice first; the domain itself where it has no MX record.
func (n *network) mx(ctx context.Context, domain string) ([]string, error) {
	var out []string
	if n.dns == nil {
		mxs, err := net.DefaultResolver.LookupMX(ctx, domain+".")
		for _, mx := range mxs {
			out = append(out, strings.ToLower(strings.TrimSuffix(mx.Host, ".")))
		}
		if notFound(err) {
			return []string{domain}, nil
		}
		return out, err
	}
	set, err := n.dns.MX(ctx, domain)
	slices.SortStableFunc(set.Hosts, func(a, b smtp.MX) int { return int(a.Preference) - int(b.Preference) })
	for _, mx := range set.Hosts {
		out = append(out, mx.Host)
	}
	if err == nil && len(out) == 0 {
		return []string{domain}, nil
	}
	return out, err
}

// dial connects to a host by the same DNS.
func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	as, err := n.addrs(ctx, host)
	if err != nil || len(as) == 0 {
		return nil, errors.New("no address of it is known")
	}
	var errs []error
	for _, a := range as[:min(len(as), 4)] {
		c, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(a.Unmap().String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// fetching says how policies are fetched.
func (n *network) fetching() *mtasts.ClientOptions {
	return &mtasts.ClientOptions{
		Dial: n.dial, RootCAs: n.roots, AllowPrivate: n.dns != nil, Port: uint16(n.f.stsPort), Timeout: min(n.f.timeout, time.Minute),
	}
}

// leaf is the certificate that host shows on the port of policies, whether it holds or not.
func (n *network) leaf(ctx context.Context, host string) (*x509.Certificate, error) {
	c, err := n.dial(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(n.f.stsPort))))
	if err != nil {
		return nil, errors.New("it can't be reached")
	}
	defer c.Close()
	// It is read, not believed: who asks wants to know when it ends, also where it has ended.
	t := tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.New("no TLS session came about")
	}
	return t.ConnectionState().PeerCertificates[0], nil
}

// notFound says that a name or record surely is not there.
func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// domainNames folds what the caller wrote; what is none is an error of use.
func domainNames(args []string) ([]string, error) {
	var out []string
	for _, d := range args {
		name, err := foldDomain(d)
		if err != nil {
			return nil, fmt.Errorf("%.80q is no domain: %w", d, errUsage)
		}
		out = append(out, name)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("which domain? %w", errUsage)
	}
	return out, nil
}

// csv splits a list, without blanks and empty parts.
func csv(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
