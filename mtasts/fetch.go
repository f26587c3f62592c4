package mtasts

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Fetcher gets the text of a domain's policy from its policy host (RFC 8461 section 3.3). Fetch is called from many
// goroutines, with a domain in the form of [Entry.Domain]; it bounds its own time and the length of the text. Every error
// means that there is no policy to be had now, and a [*FetchError] says why.
type Fetcher interface {
	Fetch(ctx context.Context, domain string) ([]byte, error)
}

// ClientOptions are the options of [NewClient]; nil and zero fields mean the defaults.
type ClientOptions struct {
	// Dial makes the TCP connection to the policy host; nil is a [net.Dialer] that refuses addresses that are not public
	// before it connects. What another Dial returns is refused by its remote address, after connecting.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver looks policy hosts up for the usual Dial; nil is [net.DefaultResolver]. What it answers need not be trusted.
	Resolver *net.Resolver
	// RootCAs are the trust anchors; nil are the system's.
	RootCAs *x509.CertPool
	// AllowPrivate allows every address. Anybody who can name a recipient's domain can then make this host open TLS
	// connections, and send a fixed request, to whatever it can reach.
	AllowPrivate bool
	// Port is the port of policy hosts; 0 is 443, and anything else is for tests.
	Port uint16
	// Timeout bounds a whole fetch; 0 is one minute, as the RFC suggests.
	Timeout time.Duration
}

// Client is the [Fetcher] over HTTPS. It keeps no connections, so there is nothing to close.
type Client struct {
	roots        *x509.CertPool
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
	allowPrivate bool
	port         uint16
	timeout      time.Duration
}

var _ Fetcher = (*Client)(nil)

// NewClient makes a Client.
func NewClient(o *ClientOptions) (*Client, error) {
	if o == nil {
		o = &ClientOptions{}
	}
	if o.Timeout < 0 {
		return nil, errors.New("mtasts: client: the timeout is negative")
	}
	c := &Client{
		roots: o.RootCAs, dial: o.Dial, allowPrivate: o.AllowPrivate, port: cmp.Or(o.Port, 443), timeout: cmp.Or(o.Timeout, time.Minute),
	}
	if c.dial == nil {
		c.dial = dialer(o)
	}
	return c, nil
}

// dialer looks names up from the root: a search list of the machine has no say in where a policy comes from.
func dialer(o *ClientOptions) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Resolver: o.Resolver}
	if !o.AllowPrivate {
		d.Control = onlyPublic
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return d.DialContext(ctx, network, net.JoinHostPort(host+".", port))
	}
}

// Fetch gets https://mta-sts.DOMAIN/.well-known/mta-sts.txt. It accepts status 200, type text/plain, no encoding, and at
// most [MaxPolicy] octets. Errors are [*FetchError].
func (c *Client) Fetch(ctx context.Context, domain string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	name, err := domainName(domain)
	if err != nil {
		return nil, &FetchError{Rule: RuleConnect, Err: err}
	}
	text, err := c.get(ctx, "mta-sts."+name)
	if fe := (*FetchError)(nil); err != nil && !errors.As(err, &fe) {
		err = fetchError(ctx, err)
	}
	return text, err
}

// get speaks HTTP/1.1, one request on one connection. There is no http.Client and no Transport here: they would look at
// the environment for proxies, follow redirects, and go on dialling when nobody waits any more.
func (c *Client) get(ctx context.Context, host string) ([]byte, error) {
	conn, err := c.connect(ctx, host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = conn.Close() // All that was to be read has been.
	}()
	req := &http.Request{
		Method: http.MethodGet, Host: host, URL: &url.URL{Scheme: "https", Host: host, Path: wellKnown}, Close: true,
		Header: http.Header{"Accept": {"text/plain"}, "User-Agent": {"postseal-mtasts"}},
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	resp, err := readHead(bufio.NewReader(io.LimitReader(conn, maxResponse)), req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := checkHead(resp); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxPolicy+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > MaxPolicy:
		return nil, &FetchError{Rule: RuleSize}
	}
	return text, nil
}

// connect makes the TLS session. RFC 8461 section 3.3: the certificate must be valid for the policy host.
func (c *Client) connect(ctx context.Context, host string) (*tls.Conn, error) {
	conn, err := c.dial(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(c.port))))
	if err != nil {
		return nil, err
	}
	if !c.allowPrivate && !publicPeer(conn) {
		return nil, errors.Join(errAddress, conn.Close())
	}
	t := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: c.roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t, nil
}

// readHead passes over interim responses (RFC 9110 section 15.2), of which there may be a few.
func readHead(r *bufio.Reader, req *http.Request) (*http.Response, error) {
	for range 5 {
		resp, err := http.ReadResponse(r, req)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
	return nil, errors.New("mtasts: too many interim responses")
}

func checkHead(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &FetchError{Rule: RuleStatus, Status: resp.StatusCode}
	}
	for _, e := range resp.Header.Values("Content-Encoding") {
		if !strings.EqualFold(strings.TrimSpace(e), "identity") {
			return &FetchError{Rule: RuleEncoding}
		}
	}
	types := resp.Header.Values("Content-Type")
	if len(types) != 1 {
		return &FetchError{Rule: RuleMedia}
	}
	// A bad parameter is no reason to do without the policy: its type is known nevertheless.
	media, _, err := mime.ParseMediaType(types[0])
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || media != "text/plain" {
		return &FetchError{Rule: RuleMedia}
	}
	if resp.ContentLength > MaxPolicy {
		return &FetchError{Rule: RuleSize}
	}
	return nil
}

func fetchError(ctx context.Context, err error) error {
	rule := RuleConnect
	var invalid *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.Is(err, errAddress):
		rule = RuleAddress
	case errors.As(err, &invalid):
		rule = RuleCertificate
	case ctx.Err() != nil, errors.As(err, &timeout) && timeout.Timeout():
		rule = RuleTimeout
	}
	return &FetchError{Rule: rule, Err: err}
}

const (
	wellKnown = "/.well-known/mta-sts.txt"
	// maxResponse bounds all that a policy host may send, with headers and the overhead of chunks.
	maxResponse = 8 * MaxPolicy
)
