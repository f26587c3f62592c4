package tlsrpt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// HTTPSOptions are how reports are posted. Nil is the zero value.
type HTTPSOptions struct {
	// AllowPrivate lets reports go to private and loopback addresses. The zero value refuses them, since the URI is a
	// stranger's wish and could name a service inside the operator's own network.
	AllowPrivate bool
	// RootCAs nil: the system's. The certificate is always verified, though RFC 8460 section 3 would allow not to.
	RootCAs *x509.CertPool
	// Timeout is of one request from its start to the end of its answer. Zero: 1 minute.
	Timeout time.Duration
}

var (
	errAddress  = errors.New("the host has a private address")
	errRedirect = errors.New("redirected elsewhere")
)

// client is one that goes nowhere but to the host that was asked for.
func (o *HTTPSOptions) client() *http.Client {
	d := &net.Dialer{Timeout: o.Timeout}
	if !o.AllowPrivate {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !public(ap.Addr()) {
				return errAddress
			}
			return nil
		}
	}
	return &http.Client{
		Timeout: o.Timeout,
		Transport: &http.Transport{
			DialContext:            d.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // one report a day and host
			MaxResponseHeaderBytes: 64 << 10,
			// No Proxy: through one, the address would not be checked.
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			first := via[0]
			if len(via) > 3 || r.Method != http.MethodPost || r.URL.Scheme != "https" || r.URL.Host != first.URL.Host {
				return errRedirect
			}
			return nil
		},
	}
}

// special are ranges that netip does not name: shared (RFC 6598), this network, IETF protocols, documentation, benchmarks
// and reserved (RFC 6890), and the IPv6 prefixes that carry IPv4 addresses (RFC 8215, RFC 3056, RFC 4380).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("::/96"),
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// public says whether a is an address of the open Internet. One that a NAT64 translates (RFC 6052) is judged by the IPv4 address
// in it.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// post sends a report (RFC 8460 section 5.4). Any status of 2xx is success.
func post(ctx context.Context, c *http.Client, to Destination, gz []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(to), bytes.NewReader(gz))
	if err != nil {
		return errors.New("tlsrpt: post: no URL")
	}
	req.Header.Set("Content-Type", "application/tlsrpt+gzip")
	req.Header.Set("User-Agent", "postseal-tlsrpt")
	resp, err := c.Do(req)
	if err != nil {
		return why(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the far end sees its answer taken
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("tlsrpt: post: status %d", resp.StatusCode)
	}
	return nil
}

// why names the cause without the URL, which may hold a secret, and without words of the far end.
func why(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return errors.New("tlsrpt: post: certificate not verified")
	}
	for _, known := range []error{errAddress, errRedirect, context.Canceled, syscall.ECONNREFUSED, syscall.ECONNRESET} {
		if errors.Is(err, known) {
			return fmt.Errorf("tlsrpt: post: %w", known)
		}
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("tlsrpt: post: %w", d)
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errors.New("tlsrpt: post: timed out")
	}
	return errors.New("tlsrpt: post: no HTTPS answer that can be read")
}
