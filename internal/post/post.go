// Package post asks one configured HTTPS service by POST, such as a witness or a time stamp authority, and trusts it with
// nothing: answers are bounded in size and time, redirects are not followed, and nothing of an answer gets into an error.
//
// The URL is the operator's, never a far end's; it must be https, or http to a loopback address where that is allowed.
package post

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultTimeout bounds a call where [Options].Timeout is 0.
const DefaultTimeout = 10 * time.Second

// Options are the options of [New].
type Options struct {
	// Transport carries the requests; nil is one of our own: TLS 1.2 or later, the system's roots, no proxy.
	Transport http.RoundTripper
	// Timeout bounds a call from its begin to the last octet of its answer; 0 is DefaultTimeout.
	Timeout time.Duration
	// InsecureLoopbackHTTP allows http to a loopback address that is written as one, such as 127.0.0.1.
	InsecureLoopbackHTTP bool
}

// Endpoint is what [New] makes. It is safe for concurrent use.
type Endpoint struct {
	url    string
	client *http.Client
}

// ErrTooLong says that an answer was longer than the caller takes.
var ErrTooLong = errors.New("post: answer too long")

// New checks the URL. It may hold a user and password for basic authentication.
func New(rawURL string, o Options) (*Endpoint, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("post: malformed URL") // the cause would quote it
	}
	switch ip := net.ParseIP(u.Hostname()); {
	case u.Hostname() == "" || u.Fragment != "":
		return nil, errors.New("post: the URL names no host, or a fragment")
	case u.Scheme == "https":
	case u.Scheme == "http" && o.InsecureLoopbackHTTP && ip != nil && ip.IsLoopback():
	default:
		return nil, errors.New("post: the URL must be https")
	}
	if o.Timeout < 0 {
		return nil, errors.New("post: negative timeout")
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Transport == nil {
		o.Transport = transport()
	}
	return &Endpoint{u.String(), &http.Client{
		Transport: o.Transport, Timeout: o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func transport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    DefaultTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
	}
}

// Answer is what came back.
type Answer struct {
	Status int
	// Type is the media type, in lower case and without parameters.
	Type string
	Body []byte
}

// Post sends body and reads an answer of at most limit octets.
func (e *Endpoint) Post(ctx context.Context, mediaType string, body []byte, limit int) (*Answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("post: malformed request")
	}
	r.Header.Set("Content-Type", mediaType)
	resp, err := e.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("post: %w", bare(err))
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("post: read answer: %w", bare(err))
	}
	if len(got) > limit {
		return nil, ErrTooLong
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return &Answer{resp.StatusCode, strings.ToLower(strings.TrimSpace(kind)), got}, nil
}

// Close closes connections that are idle.
func (e *Endpoint) Close() { e.client.CloseIdleConnections() }

// bare is the cause without the URL, which may hold a password, and without what the far end wrote: net/http quotes
// malformed answers.
func bare(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if ue.Timeout() {
			return context.DeadlineExceeded
		}
		err = ue.Err
	}
	if ne, ok := errors.AsType[*net.OpError](err); ok {
		return ne
	}
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	if ce, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("certificate of the service does not verify (%T)", ce.Err)
	}
	return fmt.Errorf("call failed (%T)", err)
}
