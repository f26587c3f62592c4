package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/cosign"
	"github.com/postseal/postseal/internal/post"
	"github.com/postseal/postseal/securemail/audit"
)

const (
	maxProof      = 63      // lines of a consistency proof
	maxCheckpoint = 1 << 16 // octets of a checkpoint with its signatures
	maxAnswer     = 1 << 16 // octets
	maxLines      = 64      // signatures that are looked at in one answer
	sizeType      = "text/x.tlog.size"
)

// Options are the options of [New]; nil and zero fields mean the defaults.
type Options struct {
	// Timeout bounds one call; 0 is 10 s.
	Timeout time.Duration
	// Transport carries the requests; nil is one of our own: TLS 1.2 or later, the system's roots, no proxy.
	Transport http.RoundTripper
	// InsecureLoopbackHTTP allows an http URL to a loopback address that is written as one, for tests and local relays.
	InsecureLoopbackHTTP bool
	// Ahead is how far in the future the time of a cosignature may lie; 0 is 5 min.
	Ahead time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Client asks one witness. It is safe for concurrent use.
type Client struct {
	endpoint *post.Endpoint
	verifier *cosign.Verifier
	ahead    time.Duration
	now      func() time.Time
}

var _ audit.Witness = (*Client)(nil)

// New makes the client of the witness at prefix, its submission prefix, such as https://witness.example.org/w1, whose
// Ed25519 cosigner key is key, in the form "name+hash+base64".
func New(prefix, key string, o *Options) (*Client, error) {
	if o == nil {
		o = &Options{}
	}
	var errs []error
	v, err := cosign.NewVerifier(key)
	if err != nil {
		errs = append(errs, fmt.Errorf("witness: key: %w", err))
	}
	if u, err := url.Parse(prefix); err == nil && (u.RawQuery != "" || u.ForceQuery) {
		errs = append(errs, errors.New("witness: prefix: has a query"))
	}
	e, err := post.New(strings.TrimRight(prefix, "/")+"/add-checkpoint", post.Options{
		Transport: o.Transport, Timeout: o.Timeout, InsecureLoopbackHTTP: o.InsecureLoopbackHTTP,
	})
	if err != nil {
		errs = append(errs, fmt.Errorf("witness: prefix: %w", err))
	}
	if o.Ahead < 0 {
		errs = append(errs, errors.New("witness: negative Ahead"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c := &Client{e, v, o.Ahead, o.Now}
	if c.ahead == 0 {
		c.ahead = 5 * time.Minute
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c, nil
}

// NewVerifier makes a verifier of a witness's Ed25519 key, in the form "name+hash+base64", for note.Open. It holds a
// signature without a time for none. A key of the ML-DSA-44 form is an error that says so.
func NewVerifier(key string) (note.Verifier, error) {
	v, err := cosign.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("witness: key: %w", err)
	}
	return v, nil
}

// Time is when a cosignature was made, as its witness says; take s from the Sigs of a note that note.Open has verified.
func Time(s note.Signature) (time.Time, error) {
	t, err := cosign.Time(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("witness: %w", err)
	}
	return t, nil
}

// Verifier is the witness's key, for note.Open.
func (c *Client) Verifier() note.Verifier { return c.verifier }

// Name is the witness's name, as its key has it.
func (c *Client) Name() string { return c.verifier.Name() }

// Close closes idle connections.
func (c *Client) Close() error { c.endpoint.Close(); return nil }

// Cosign implements audit.Witness: it sends the checkpoint with the proof that it continues the one of r.OldSize, and
// returns the lines of the witness's cosignature, to be appended to the checkpoint as they are. They are verified. Where
// the size that the witness has is not known, OldSize is 0, and the [*ConflictError] tells it. Errors: *ConflictError,
// [ErrFork], [*StatusError], [ErrCosignature], [ErrRequest], the network's.
func (c *Client) Cosign(ctx context.Context, r audit.WitnessRequest) ([]byte, error) {
	cp, err := parseCheckpoint(r.Checkpoint)
	if err != nil {
		return nil, err
	}
	if r.OldSize < 0 || r.OldSize > cp.size || len(r.Proof) > maxProof || r.OldSize == 0 && len(r.Proof) > 0 {
		return nil, ErrRequest
	}
	a, err := c.endpoint.Post(ctx, "text/plain", request(&r), maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	switch a.Status {
	case http.StatusOK:
		return c.cosignature(cp, a.Body)
	case http.StatusConflict:
		return nil, conflict(a, r.OldSize, cp.size)
	case http.StatusUnprocessableEntity:
		return nil, ErrFork
	}
	return nil, &StatusError{a.Status}
}

// request is the body of add-checkpoint.
func request(r *audit.WitnessRequest) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", r.OldSize)
	for _, h := range r.Proof {
		fmt.Fprintln(&b, h)
	}
	b.WriteByte('\n')
	b.Write(r.Checkpoint)
	return b.Bytes()
}

// conflict reads the answer 409: a size in decimal and a newline. One that says that the witness has what we said it has is
// an answer of something else than a witness.
func conflict(a *post.Answer, old, offered int64) error {
	line, ok := strings.CutSuffix(string(a.Body), "\n")
	n, err := strconv.ParseInt(line, 10, 64)
	if a.Type != sizeType || !ok || err != nil || n < 0 || strconv.FormatInt(n, 10) != line || n == old {
		return &StatusError{a.Status}
	}
	return &ConflictError{has: n, offered: offered}
}

// cosignature takes the lines of the witness's key out of its answer.
func (c *Client) cosignature(cp *checkpoint, answer []byte) ([]byte, error) {
	var out []byte
	lines := strings.SplitAfterN(string(answer), "\n", maxLines+1)
	if len(lines) > maxLines {
		return nil, ErrCosignature
	}
	for _, line := range lines {
		if line == "" {
			continue
		}
		s, ok := parseSignature(line)
		if !ok {
			return nil, ErrCosignature
		}
		if s.Name != c.verifier.Name() || s.Hash != c.verifier.KeyHash() {
			continue // of a key that is not known: to be ignored
		}
		if !c.valid(cp, s) {
			return nil, ErrCosignature
		}
		out = append(out, line...)
	}
	if out == nil {
		return nil, ErrCosignature
	}
	return out, nil
}

func (c *Client) valid(cp *checkpoint, s note.Signature) bool {
	at, err := cosign.Time(s)
	if err != nil || at.After(c.now().Add(c.ahead)) {
		return false
	}
	_, err = note.Open([]byte(cp.text+"\n"+sigLine(s)), note.VerifierList(c.verifier))
	return err == nil
}

// checkpoint is a signed tree head taken apart; its signatures are not verified.
type checkpoint struct {
	text   string
	origin string
	size   int64
	hash   tlog.Hash
}
