package dkim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"
)

// ErrNoKey says that no key signs for a domain at this time.
var ErrNoKey = errors.New("dkim: no key for the domain at this time")

// Options are what a [Signer] can be told. Nil is the zero value.
type Options struct {
	// Expiry is how long a signature holds (the tag x=), at least a day, so that mail that waits in a queue outlives it.
	// Zero: for ever.
	Expiry time.Duration
	// Now says which keys are valid; nil: time.Now. The time in a signature (t=) is the system's.
	Now func() time.Time
}

// Signer signs for all domains that it has keys for. It is safe for concurrent use and never changes: a program that gets
// new keys makes a new one.
type Signer struct {
	o    Options
	keys map[string][]Key // by domain in lower case
}

// New makes a Signer. It refuses a key that can't be used, and two with one domain and selector.
func New(keys []Key, o *Options) (*Signer, error) {
	s := &Signer{keys: map[string][]Key{}}
	if o != nil {
		s.o = *o
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	var errs []error
	if len(keys) == 0 {
		errs = append(errs, errors.New("dkim: no keys"))
	}
	if s.o.Expiry != 0 && s.o.Expiry < 24*time.Hour {
		errs = append(errs, errors.New("dkim: Expiry under a day"))
	}
	seen := map[string]bool{}
	for _, k := range keys {
		errs = append(errs, k.check())
		k.Domain, k.Selector = strings.ToLower(k.Domain), strings.ToLower(k.Selector)
		if seen[k.RecordName()] {
			errs = append(errs, fmt.Errorf("dkim: two keys at %s", k.RecordName()))
		}
		seen[k.RecordName()] = true
		s.keys[k.Domain] = append(s.keys[k.Domain], k)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// Keys are those that sign for an author in domain at time t: the domain's own, else those of the nearest domain above
// that sign for subdomains.
func (s *Signer) Keys(domain string, t time.Time) []Key {
	d := strings.ToLower(strings.TrimSuffix(domain, "."))
	for at, own := d, true; at != ""; own = false {
		var valid []Key
		for _, k := range s.keys[at] {
			if k.Valid(t) && (own || k.Subdomains) {
				valid = append(valid, k)
			}
		}
		if len(valid) > 0 {
			return valid
		}
		_, at, _ = strings.Cut(at, ".")
	}
	return nil
}

// Sign reads the message from r to its end and gives the DKIM-Signature fields to put before it, each with CRLF at its
// end. The message has a header of at most 256 KiB with exactly one From field, an empty line, and CRLF line ends. Only
// the header is held in memory.
//
// Domain is the author's, in A-labels. [ErrNoKey]: no key signs for it now. Another error is of ctx, of r, of a private
// key, or says what is wrong with the header.
func (s *Signer) Sign(ctx context.Context, domain string, r io.Reader) ([]byte, error) {
	now := s.o.Now()
	keys := s.Keys(domain, now)
	if len(keys) == 0 {
		return nil, ErrNoKey
	}
	br := bufio.NewReaderSize(&reader{ctx: ctx, r: r}, 32<<10)
	head, err := readHead(br)
	if err != nil {
		return nil, err
	}
	names, err := signed(head)
	if err != nil {
		return nil, err
	}
	work := make([]*dkim.Signer, 0, len(keys))
	defer func() {
		for _, w := range work {
			_ = w.Close() // ends its goroutine; a repeat does nothing
		}
	}()
	writers := make([]io.Writer, 0, len(keys))
	for _, k := range keys {
		w, err := dkim.NewSigner(s.options(k, names, now))
		if err != nil {
			return nil, fmt.Errorf("dkim: sign with %s: %w", k.RecordName(), err)
		}
		work, writers = append(work, w), append(writers, w)
	}
	if _, err := io.Copy(io.MultiWriter(writers...), io.MultiReader(bytes.NewReader(head), br)); err != nil {
		return nil, fmt.Errorf("dkim: read message: %w", err)
	}
	var out bytes.Buffer
	for i, w := range work {
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("dkim: sign with %s: %w", keys[i].RecordName(), err)
		}
		out.WriteString(w.Signature())
	}
	return out.Bytes(), nil
}

func (s *Signer) options(k Key, names []string, now time.Time) *dkim.SignOptions {
	o := &dkim.SignOptions{
		Domain: k.Domain, Selector: k.Selector, Signer: k.Private, HeaderKeys: names,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
	}
	if s.o.Expiry > 0 {
		// RFC 6376 section 3.5: x= is after t=, which is the system's clock.
		if system := time.Now(); system.After(now) {
			now = system
		}
		o.Expiration = now.Add(s.o.Expiry)
	}
	return o
}

// reader stops where ctx does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
