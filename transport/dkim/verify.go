package dkim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/emersion/go-msgauth/dkim"
)

// Outcome is how the verification of one signature ended (RFC 8601 section 2.7.1).
type Outcome string

// The outcomes. The zero value is none of them.
const (
	// Pass: the signature verifies.
	Pass Outcome = "pass"
	// Fail: it does not; the message was changed or somebody else signed.
	Fail Outcome = "fail"
	// PermError: it can't be verified, ever: it is broken or expired, or its key is not there or revoked.
	PermError Outcome = "permerror"
	// TempError: its key is not known now.
	TempError Outcome = "temperror"
)

// Verification is what came of one signature. Its text is the far end's.
type Verification struct {
	Outcome Outcome
	// Domain is d=.
	Domain string
	// Headers are the names in h=.
	Headers []string
	// Time is t=, Expires x=; zero where there is none.
	Time, Expires time.Time
}

// maxSignatures bounds what a message can make us do.
const maxSignatures = 10

// Verify checks the first 10 signatures of a message, which it reads to its end; the bounds are those of [Signer.Sign],
// but for From. No signature is no Verification. An error is of ctx, of r or of the header.
func Verify(ctx context.Context, resolver Resolver, r io.Reader) ([]Verification, error) {
	br := bufio.NewReaderSize(r, 32<<10)
	head, err := readHead(br)
	if err != nil {
		return nil, err
	}
	// An error in the middle would leave goroutines behind in go-msgauth, so it is kept back.
	body := &patient{r: &reader{ctx: ctx, r: br}}
	found, err := dkim.VerifyWithOptions(io.MultiReader(bytes.NewReader(head), body), &dkim.VerifyOptions{
		MaxVerifications: maxSignatures,
		LookupTXT: func(name string) ([]string, error) {
			txts, err := resolver.LookupTXT(ctx, name)
			if d, ok := errors.AsType[*net.DNSError](err); err != nil && (!ok || !d.IsNotFound) {
				return nil, unknown{}
			}
			return txts, err
		},
	})
	if err == nil || errors.Is(err, dkim.ErrTooManySignatures) {
		_, err = io.Copy(io.Discard, body)
	}
	if body.err != nil {
		err = body.err
	}
	if err != nil {
		return nil, fmt.Errorf("dkim: verify: %w", err)
	}
	var out []Verification
	for _, v := range found {
		out = append(out, Verification{outcome(v.Err), v.Domain, v.HeaderKeys, v.Time, v.Expiration})
	}
	return out, nil
}

func outcome(err error) Outcome {
	switch {
	case err == nil:
		return Pass
	case dkim.IsTempFail(err):
		return TempError
	case dkim.IsPermFail(err):
		return PermError
	}
	return Fail
}

// patient gives an end instead of an error, and keeps the error.
type patient struct {
	r   io.Reader
	err error
}

func (p *patient) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, io.EOF
	}
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF {
		p.err, err = err, io.EOF
	}
	return n, err
}

// unknown is an error that go-msgauth takes as temporary.
type unknown struct{}

func (unknown) Error() string   { return "not known now" }
func (unknown) Timeout() bool   { return true }
func (unknown) Temporary() bool { return true }
