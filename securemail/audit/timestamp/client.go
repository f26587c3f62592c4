package timestamp

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/postseal/postseal/internal/post"
	"github.com/postseal/postseal/securemail/audit"
)

const (
	queryType = "application/timestamp-query"
	replyType = "application/timestamp-reply"
	maxReply  = MaxToken + 4096 // octets
	nonceLen  = 16              // octets
)

// Options are the options of [New]; nil and zero fields mean the defaults.
type Options struct {
	// Policy is the TSA policy that is asked for, and that the stamp must have; nil is whatever the TSA has.
	Policy asn1.ObjectIdentifier
	// Timeout bounds one call; 0 is 10 s.
	Timeout time.Duration
	// Transport carries the requests; nil is one of our own: TLS 1.2 or later, the system's roots, no proxy.
	Transport http.RoundTripper
	// InsecureLoopbackHTTP allows an http URL to a loopback address that is written as one, for tests and local relays.
	InsecureLoopbackHTTP bool
}

// Client asks one TSA. It is safe for concurrent use.
type Client struct {
	endpoint *post.Endpoint
	roots    *x509.CertPool
	policy   asn1.ObjectIdentifier
}

var _ audit.Stamper = (*Client)(nil)

// New makes the client of the TSA at url, whose certificate must lead to one of roots: no stamp is returned that [Verify] would
// refuse. Only this URL is ever asked; it must be https and may hold a user and password.
func New(url string, roots *x509.CertPool, o *Options) (*Client, error) {
	if o == nil {
		o = &Options{}
	}
	var errs []error
	e, err := post.New(url, post.Options{Transport: o.Transport, Timeout: o.Timeout, InsecureLoopbackHTTP: o.InsecureLoopbackHTTP})
	if err != nil {
		errs = append(errs, fmt.Errorf("timestamp: %w", err))
	}
	if roots == nil {
		errs = append(errs, errors.New("timestamp: no roots"))
	}
	if len(o.Policy) > 0 {
		if _, err := asn1.Marshal(o.Policy); err != nil {
			errs = append(errs, errors.New("timestamp: malformed Policy"))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Client{e, roots, o.Policy}, nil
}

// Close closes idle connections.
func (c *Client) Close() error { c.endpoint.Close(); return nil }

// RejectedError says that the TSA gave no stamp.
type RejectedError struct {
	// Status is PKIStatus (RFC 3161 section 2.4.2), and Failure the first bit of PKIFailureInfo, -1 for none. HTTP is the
	// status of an answer that was no time stamp reply; then Status is -1.
	Status, Failure, HTTP int
}

// Error says why, in the RFC's words.
func (e *RejectedError) Error() string {
	if e.Status < 0 {
		return fmt.Sprintf("timestamp: the TSA answered HTTP status %d, or no time stamp reply", e.HTTP)
	}
	why, ok := map[int]string{
		0: "algorithm not recognised", 2: "request not permitted", 5: "malformed request", 14: "its time source is not available",
		15: "policy not supported", 16: "extension not supported", 17: "additional information not available", 25: "system failure",
	}[e.Failure]
	if !ok {
		why = "no reason that is known"
	}
	return fmt.Sprintf("timestamp: the TSA refused with status %d: %s", e.Status, why)
}

// Temporary says whether the same request may succeed later without anybody's doing.
func (e *RejectedError) Temporary() bool {
	if e.Status < 0 {
		return e.HTTP >= 500 || e.HTTP == http.StatusTooManyRequests || e.HTTP == http.StatusRequestTimeout
	}
	return e.Failure == 14 || e.Failure == 25
}

// Stamp implements audit.Stamper: it has the SHA-256 digest stamped and returns the token, in DER, once it is verified. What the
// TSA learns is the digest. Errors: [*RejectedError], [ErrToken], the network's.
func (c *Client) Stamp(ctx context.Context, digest [32]byte) (token []byte, err error) {
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce) // never fails: crypto/rand
	n := new(big.Int).SetBytes(nonce)
	a, err := c.endpoint.Post(ctx, queryType, request(digest, c.policy, n), maxReply)
	if err != nil {
		return nil, fmt.Errorf("timestamp: %w", err)
	}
	if a.Status != http.StatusOK || a.Type != replyType {
		return nil, &RejectedError{Status: -1, Failure: -1, HTTP: a.Status}
	}
	if token, err = readReply(a.Body); err != nil {
		return nil, err
	}
	t, err := Verify(token, digest, c.roots)
	switch {
	case err != nil:
		return nil, err
	case t.nonce == nil || t.nonce.Cmp(n) != 0:
		return nil, fmt.Errorf("%w: of another request", ErrToken)
	case len(c.policy) > 0 && !t.Policy.Equal(c.policy):
		return nil, fmt.Errorf("%w: under another policy", ErrToken)
	}
	return token, nil
}

// request is a TimeStampReq: RFC 3161 section 2.4.1. It asks for the certificates, so that the token is verified by itself.
func request(digest [32]byte, policy asn1.ObjectIdentifier, nonce *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tags.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(tags.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tags.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidSHA256)
				b.AddASN1NULL()
			})
			b.AddASN1OctetString(digest[:])
		})
		if len(policy) > 0 {
			b.AddASN1ObjectIdentifier(policy)
		}
		b.AddASN1BigInt(nonce)
		b.AddASN1Boolean(true)
	})
	return b.BytesOrPanic() // what could be malformed was checked by New
}

// readReply takes the token out of a TimeStampResp: RFC 3161 section 2.4.2.
func readReply(b []byte) ([]byte, error) {
	s := cryptobyte.String(b)
	var resp, info, text, bits, token cryptobyte.String
	var hasText, hasBits bool
	status := 0
	if !s.ReadASN1(&resp, tags.SEQUENCE) || !s.Empty() || !resp.ReadASN1(&info, tags.SEQUENCE) || !info.ReadASN1Integer(&status) ||
		status < 0 || status > 5 || !info.ReadOptionalASN1(&text, &hasText, tags.SEQUENCE) ||
		!info.ReadOptionalASN1(&bits, &hasBits, tags.BIT_STRING) || !info.Empty() {
		return nil, fmt.Errorf("%w: malformed answer", ErrToken)
	}
	if status > 1 { // neither granted nor granted with modifications
		return nil, &RejectedError{Status: status, Failure: firstBit(bits)}
	}
	if !resp.ReadASN1Element(&token, tags.SEQUENCE) || !resp.Empty() {
		return nil, fmt.Errorf("%w: malformed answer", ErrToken)
	}
	return token, nil
}

// firstBit is the number of the first bit that is set in the value of a BIT STRING; -1: none.
func firstBit(s cryptobyte.String) int {
	for i := range len(s) * 8 {
		if i >= 8 && s[i/8]&(0x80>>(i%8)) != 0 {
			return i - 8 // the first octet counts unused bits
		}
	}
	return -1
}
