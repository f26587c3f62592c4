// Package httpapi delivers mail by posting it, whole and as it is, to a provider's HTTPS endpoint.
//
// [Transport] is generic: a [Mapping] says how the endpoint wants the message (raw message/rfc822, a multipart form, or
// JSON with base64), where the envelope goes, what its status codes mean, and where the remote id is in its answer.
//
// What it promises:
//
//   - Each message travels on a connection that this package opened, verified and judged itself: TLS 1.2 or later, the
//     certificate names the endpoint's host and its chain ends at RootCAs (PKIX, RFC 5280; [securemail.ProofConfigured]).
//     The facts in the Receipt are those of that connection. No octet of request or message leaves before.
//   - A provider is a relay: the wire proves the hop to it. Only an [securemail.Operator] whose agreement is in force
//     makes it HopAsserted; without one, only ChannelAny can be met, and higher floors are refused before connecting.
//   - A request is made of Content-Length octets (RFC 9112 section 6.2), and one that is cut short is incomplete
//     (section 8). So Intend is called with all octets but the last one sent: what fails before is retried, what fails
//     after without an answer is uncertain.
//   - An answer that comes before the last octet is none of acceptance: Intend is not called, and a success is retried.
//   - There is no automatic repeat after Intend, no redirect is followed, no proxy is taken from the environment, no
//     HTTP/2 (whose clients repeat requests on their own), and of an answer at most 64 KiB are read.
//   - Errors hold no address, no URL query, no header and no text from the far end; the package logs nothing.
//
// What it does not do: there is no guard against server-side request forgery, since the endpoint comes from the host's
// configuration and never from mail. Whoever lets tenants choose endpoints must guard it through [Options.Dial].
package httpapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Options are what has a default. The zero value is safe.
type Options struct {
	Credentials Credentials
	// Codes says what a status code means, before [DefaultVerdict].
	Codes map[int]Verdict
	// Operator is who runs the endpoint and vouches for the road beyond, by its Name and under its Agreement, while that lasts (a
	// zero Until does not end) and for mail whose Purpose is among its Uses, all where there are none. Otherwise, and where it is
	// nil, nobody vouches (HopRelay), and no floor above ChannelAny is met.
	Operator *securemail.Operator
	// RootCAs nil: the system's.
	RootCAs *x509.CertPool
	// Timeout bounds connecting, and then each wait for the endpoint to take octets or to answer; 0: 60 s.
	Timeout time.Duration
	// Total bounds one Deliver or Probe; 0: 15 min. An endpoint that takes an octet now and then would hold a delivery for
	// days otherwise.
	Total time.Duration
	// Idle is how many connections are kept open between deliveries, at most 20 s each; 0: 4, below 0: none.
	Idle int
	// Dial nil: a net.Dialer. TLS is put on top of what it returns.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now nil: time.Now.
	Now func() time.Time
	// InsecureLoopbackHTTP allows an http endpoint on a loopback address, for tests. It meets ChannelAny only.
	InsecureLoopbackHTTP bool
}

// Credentials are what the endpoint knows the host by. At most one of the three is set.
type Credentials struct {
	// Bearer is sent as RFC 6750 section 2.1 says.
	Bearer securemail.Secret
	// User and Password are sent as RFC 7617 says.
	User     string
	Password securemail.Secret
	// Header names a header of the provider's own that holds Value.
	Header string
	Value  securemail.Secret
}

// Transport posts messages. It is safe for concurrent use.
type Transport struct {
	endpoint *url.URL
	mapping  *compiled
	opts     Options
	auth     [2]string // header field and value; "" without credentials
	pool     pool
}

var (
	_ securemail.Transport = (*Transport)(nil)
	_ securemail.Prober    = (*Transport)(nil)
)

// New makes a Transport that posts to endpoint, an https URL without user or fragment. It reports every fault of its
// arguments at once.
func New(endpoint string, m Mapping, o *Options) (*Transport, error) {
	t := &Transport{}
	if o != nil {
		t.opts = *o
		t.opts.Codes = maps.Clone(o.Codes)
	}
	if t.opts.Operator != nil {
		op := *t.opts.Operator
		op.Uses, op.Regions = slices.Clone(op.Uses), slices.Clone(op.Regions)
		t.opts.Operator = &op
	}
	t.defaults()
	var faults [4]error
	t.endpoint, faults[0] = t.parseEndpoint(endpoint)
	t.mapping, faults[1] = m.compile()
	t.auth, faults[2] = t.opts.Credentials.field()
	if op := t.opts.Operator; op != nil && (op.Name == "" || op.Agreement == "") {
		faults[3] = errors.New("httpapi: operator without a name or an agreement")
	}
	if err := errors.Join(faults[:]...); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Transport) defaults() {
	if t.opts.Timeout <= 0 {
		t.opts.Timeout = time.Minute
	}
	if t.opts.Total <= 0 {
		t.opts.Total = 15 * time.Minute
	}
	if t.opts.Dial == nil {
		t.opts.Dial = (&net.Dialer{}).DialContext
	}
	if t.opts.Now == nil {
		t.opts.Now = time.Now
	}
	if t.opts.Idle == 0 {
		t.opts.Idle = 4
	}
	t.pool.max = t.opts.Idle
}

// parseEndpoint never shows its input, whose query may hold a key.
func (t *Transport) parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("httpapi: endpoint is no https URL with a host and without user or fragment")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && t.opts.InsecureLoopbackHTTP && loopback(u.Hostname()):
	default:
		return nil, errors.New("httpapi: endpoint is not https")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// field is the header that carries the credentials.
func (c Credentials) field() ([2]string, error) {
	var fields [][2]string
	if c.Bearer.Reveal() != "" {
		fields = append(fields, [2]string{"Authorization", "Bearer " + c.Bearer.Reveal()})
	}
	if c.User != "" {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(c.User, c.Password.Reveal())
		fields = append(fields, [2]string{"Authorization", r.Header.Get("Authorization")})
	}
	if c.Header != "" {
		fields = append(fields, [2]string{c.Header, c.Value.Reveal()})
	}
	switch {
	case len(fields) == 0:
		return [2]string{}, nil
	case len(fields) > 1:
		return [2]string{}, errors.New("httpapi: more than one kind of credentials")
	case !validName(fields[0][0]) || ours(fields[0][0]) || !validValue(fields[0][1]):
		return [2]string{}, errors.New("httpapi: credentials can't be written as a header")
	}
	return fields[0], nil
}

// Close drops the connections that are kept open, and keeps none from now on. Deliveries may go on.
func (t *Transport) Close() error {
	t.pool.close()
	return nil
}

// Deliver posts s to the endpoint; see the package comment for what its errors mean. A Shipment with RequireTLS is
// refused with ErrChannel: HTTP can't pass RFC 8689 on.
func (t *Transport) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault("connect", fmt.Errorf("httpapi: not started: %w", err))
	}
	if err := t.roadMeets(s); err != nil {
		return nil, err
	}
	req, err := t.request(s)
	if err != nil {
		return nil, fault("http", err)
	}
	ctx, cancel := context.WithTimeout(ctx, t.opts.Total)
	defer cancel()
	for {
		c, err := t.connect(ctx)
		if err != nil {
			return nil, err
		}
		e := &exchange{t: t, conn: c, req: req, ship: s, wire: t.wire(c, s.Purpose)}
		receipt, err := e.run(ctx)
		// A connection from the pool may have died there. Nothing can have been accepted before Intend, so another one
		// is tried; the pool gets smaller each time, and a fresh connection ends the loop.
		if err != nil && c.reused && e.dead && ctx.Err() == nil {
			continue
		}
		return receipt, err
	}
}

// roadMeets refuses, before a connection is made, what no handshake can mend.
func (t *Transport) roadMeets(s *securemail.Shipment) error {
	w := securemail.Wire{Proof: securemail.ProofConfigured}
	var rule *securemail.Reason
	w.Hop, w.Operator, rule = t.road(s.Purpose)
	if s.RequireTLS {
		w.Reasons = append(w.Reasons, securemail.Reason{Rule: "httpapi.requiretls", Text: "HTTP can't pass REQUIRETLS on (RFC 8689)"})
		return &securemail.ChannelError{Wire: w}
	}
	if s.Channel != securemail.ChannelAny && rule != nil {
		w.Reasons = append(w.Reasons, *rule)
		return &securemail.ChannelError{Wire: w}
	}
	return nil
}

// road says whom the endpoint is for mail of that purpose, and why nobody vouches for it, nil where somebody does.
func (t *Transport) road(purpose securemail.Purpose) (securemail.Hop, *securemail.Operator, *securemail.Reason) {
	why := &securemail.Reason{Rule: "httpapi.relay", Text: "nobody vouches for the road behind the endpoint"}
	switch op := t.opts.Operator; {
	case op == nil:
	case !op.Until.IsZero() && !t.opts.Now().Before(op.Until):
		why = &securemail.Reason{Rule: "httpapi.agreement", Text: "the operator's agreement has ended"}
	case len(op.Uses) > 0 && !slices.Contains(op.Uses, string(purpose)):
		why = &securemail.Reason{Rule: "httpapi.use", Text: "the operator's agreement does not cover mail of this purpose"}
	default:
		c := *op
		return securemail.HopAsserted, &c, nil
	}
	return securemail.HopRelay, nil, why
}

// anyUse is a purpose that the operator vouches for: what mail it will be is not known before there is some. Deliver knows.
func (t *Transport) anyUse() securemail.Purpose {
	if op := t.opts.Operator; op != nil && len(op.Uses) > 0 {
		return securemail.Purpose(op.Uses[0])
	}
	return ""
}

// Probe connects to the endpoint, which is the same for every domain, and says what wire it gives.
func (t *Transport) Probe(ctx context.Context, _, _ string) (securemail.Route, error) {
	ctx, cancel := context.WithTimeout(ctx, t.opts.Total)
	defer cancel()
	c, err := t.connect(ctx)
	if ce, ok := errors.AsType[*securemail.ChannelError](err); ok {
		return securemail.Route{Wire: ce.Wire, Known: true, Until: t.opts.Now().Add(probeHolds)}, nil
	}
	if err != nil {
		return securemail.Route{}, err
	}
	w := t.wire(c, t.anyUse())
	t.pool.put(c)
	return securemail.Route{Wire: w, Known: true, Until: t.opts.Now().Add(probeHolds)}, nil
}

// probeHolds is how long a Route holds.
const probeHolds = 5 * time.Minute

// fault is an error from before the point of no return.
func fault(stage string, err error) error {
	return &securemail.DeliveryError{Stage: stage, Fate: securemail.FateRetry, Err: err}
}

// validName is a token of RFC 9110 section 5.6.2.
func validName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

// validValue is RFC 9110 section 5.5 without controls.
func validValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
