package kms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail/keyring"
)

// maxAnswer bounds an answer, in octets.
const maxAnswer = 64 << 10

// Options are common to all services. The zero value is the strictest.
type Options struct {
	// Client nil: one with the defaults of net/http. Its redirect policy is not used.
	Client *http.Client
	// Endpoint is the base URL, where it is not the one that the service's documentation gives: a private endpoint, a FIPS one.
	Endpoint string
	// InsecureLoopback allows an Endpoint http:// to a loopback address.
	InsecureLoopback bool
	// Tries is how often a request is sent while the service is unavailable; 0: 4.
	Tries int
	// Timeout bounds one try; 0: 5 s. Pause is the wait after the first, doubled after each; 0: 200 ms. All tries lie
	// within the caller's context.
	Timeout, Pause time.Duration
	// Now nil: time.Now.
	Now func() time.Time
}

// Token returns a bearer token: Vault's, or an OAuth 2.0 access token. It is called for each request, from many goroutines,
// and should cache. Its error is final for the call; wrap keyring.ErrUnavailable where a later one may work.
type Token func(ctx context.Context) (string, error)

// Error says what a service answered. Its text names service, operation, HTTP status and the service's code.
type Error struct {
	// Service is "vault", "aws" or "gcp"; Op "encrypt" or "decrypt".
	Service, Op string
	// Status is the HTTP status; 0: no answer. Code is the service's name for the fault.
	Status int
	Code   string

	kind, cause error
}

// Error holds no text of the service.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kms: %s: %s", e.Service, e.Op)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": HTTP %d", e.Status)
	}
	if e.Code != "" {
		b.WriteString(" " + e.Code)
	}
	if err := errors.Join(e.kind, e.cause); err != nil {
		b.WriteString(": " + strings.ReplaceAll(err.Error(), "\n", ": "))
	}
	return b.String()
}

// Unwrap returns which of keyring's errors it is, and the cause where there is one.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.kind, e.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// client sends requests of one service.
type client struct {
	service string
	base    *url.URL
	o       Options
	http    http.Client
	// judge says what an answer that is not 200 means: its code, and which of keyring's errors it is.
	judge func(op string, status int, header http.Header, body []byte) (code string, kind error)
}

func newClient(service, endpoint string, o *Options) (*client, error) {
	c := &client{service: service, o: *o}
	if c.o.Endpoint == "" {
		c.o.Endpoint = endpoint
	}
	if c.o.Tries == 0 {
		c.o.Tries = 4
	}
	if c.o.Timeout == 0 {
		c.o.Timeout = 5 * time.Second
	}
	if c.o.Pause == 0 {
		c.o.Pause = 200 * time.Millisecond
	}
	if c.o.Now == nil {
		c.o.Now = time.Now
	}
	if c.o.Client != nil {
		c.http = *c.o.Client
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	var errs []error
	if c.o.Tries < 0 || c.o.Timeout < 0 || c.o.Pause < 0 {
		errs = append(errs, errors.New("kms: negative Options.Tries, Timeout or Pause"))
	}
	var err error
	if c.base, err = parseEndpoint(c.o.Endpoint, &c.o); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

func parseEndpoint(text string, o *Options) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("kms: Options.Endpoint must be https://HOST, without user, query or fragment")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !o.InsecureLoopback || !loopback(u.Hostname())) {
		return nil, errors.New("kms: Options.Endpoint must be https, or with InsecureLoopback http to a loopback address")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// call is one request, which prepare signs or gives a token, anew for each try.
type call struct {
	op, path string
	body     any
	prepare  func(ctx context.Context, r *http.Request, body []byte) error
	// accept reads an answer 200; an error means that it was damaged on the way.
	accept func(body []byte) error
}

func (c *client) do(ctx context.Context, k call) error {
	body, err := json.Marshal(k.body)
	if err != nil {
		return &Error{Service: c.service, Op: k.op, cause: err}
	}
	defer clear(body)
	pause := c.o.Pause
	for try := 1; ; try++ {
		err := c.once(ctx, k, body)
		if err == nil || !errors.Is(err, keyring.ErrUnavailable) || try >= c.o.Tries {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return &Error{Service: c.service, Op: k.op, kind: keyring.ErrUnavailable, cause: errors.Join(ctx.Err(), err)}
		case <-timer.C:
		}
		pause *= 2
	}
}

func (c *client) once(ctx context.Context, k call, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	fail := func(kind, cause error) error { return &Error{Service: c.service, Op: k.op, kind: kind, cause: cause} }
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.String()+k.path, bytes.NewReader(body))
	if err != nil {
		return fail(nil, errors.New("bad URL"))
	}
	r.Header.Set("Content-Type", "application/json")
	if err := k.prepare(ctx, r, body); err != nil {
		return fail(nil, err)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return fail(keyring.ErrUnavailable, withoutURL(err))
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	defer clear(answer)
	switch {
	case err != nil:
		return fail(keyring.ErrUnavailable, withoutURL(err))
	case len(answer) > maxAnswer:
		return &Error{Service: c.service, Op: k.op, Status: res.StatusCode, kind: keyring.ErrUnavailable, cause: errTooLong}
	case res.StatusCode != http.StatusOK:
		code, kind := c.judge(k.op, res.StatusCode, res.Header, answer)
		return &Error{Service: c.service, Op: k.op, Status: res.StatusCode, Code: plain(code), kind: kind}
	}
	if err := k.accept(answer); err != nil {
		return &Error{Service: c.service, Op: k.op, Status: res.StatusCode, kind: keyring.ErrUnavailable, cause: err}
	}
	return nil
}

var (
	errTooLong = fmt.Errorf("answer over %d octets", maxAnswer)
	errAnswer  = errors.New("answer is not what the service documents")
)

// withoutURL leaves off what a *url.Error says of the request.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errors.Join(errors.New("no answer in time"), context.DeadlineExceeded)
	}
	return err
}

// plain is a code as far as it is one: letters, digits and _.-#: only.
func plain(code string) string {
	if len(code) > 64 || strings.IndexFunc(code, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r))
	}) >= 0 {
		return ""
	}
	return code
}

// byStatus judges where the service gave no code that says more.
func byStatus(status int) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return keyring.ErrDenied
	case status == http.StatusNotFound:
		return keyring.ErrLost
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500 || status < 400:
		return keyring.ErrUnavailable
	}
	return nil
}

// tokenOf asks for a token and checks that it can stand in a header.
func tokenOf(ctx context.Context, token Token) (string, error) {
	t, err := token(ctx)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if t == "" || !visible(t) {
		return "", fmt.Errorf("token is empty or has characters that none has: %w", keyring.ErrDenied)
	}
	return t, nil
}

// visible says whether s can stand in a header and in a signature as it is.
func visible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
