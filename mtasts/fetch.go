package mtasts

import (
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
	http         http.Transport
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
		dial: o.Dial, allowPrivate: o.AllowPrivate, port: cmp.Or(o.Port, 443), timeout: cmp.Or(o.Timeout, time.Minute),
	}
	if c.dial == nil {
		c.dial = dialer(o.AllowPrivate)
	}
	// One request a connection, HTTP/1.1, and nothing from the environment: no proxy sees or answers it. The server name
	// for SNI and for the certificate is the host of the URL.
	c.http = http.Transport{
		DialContext:            c.connect,
		TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 32 << 10,
	}
	return c, nil
}

// dialer looks names up from the root: a search list of the machine has no say in where a policy comes from.
func dialer(anywhere bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{}
	if !anywhere {
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

func (c *Client) connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil || c.allowPrivate || publicPeer(conn) {
		return conn, err
	}
	return nil, errors.Join(errAddress, conn.Close())
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
	host := "mta-sts." + name
	if c.port != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(int(c.port)))
	}
	req := &http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "https", Host: host, Path: wellKnown},
		Header: http.Header{"Accept": {"text/plain"}, "User-Agent": {"postseal-mtasts"}},
	}
	// RoundTrip follows no redirect and knows no cookies (RFC 8461 section 3.3 forbids the first).
	resp, err := c.http.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, fetchError(ctx, err)
	}
	defer resp.Body.Close()
	if err := checkHead(resp); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxPolicy+1))
	switch {
	case err != nil:
		return nil, fetchError(ctx, err)
	case len(text) > MaxPolicy:
		return nil, &FetchError{Rule: RuleSize}
	}
	return text, nil
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

const wellKnown = "/.well-known/mta-sts.txt"
