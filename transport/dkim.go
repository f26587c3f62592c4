package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dkim"
)

// DKIMOptions are the options of [DKIM]; nil is the zero value.
type DKIMOptions struct {
	// Choose says whose keys sign a parcel: those of its tenant or stream (a label, the purpose), and for which domain. A
	// nil Signer is the one that DKIM was given, "" the domain of the author. An error stops the attempt, which is made
	// again. Nil: always these two.
	Choose func(ctx context.Context, s *securemail.Slip) (*dkim.Signer, string, error)
	// Unsigned lets mail leave without a signature where there is no key for the domain, and is told of each: why is
	// [dkim.ErrNoKey].
	//
	// Nil: Sign fails instead, the attempt is made again, and the mail waits for the key. That is the safer default: many
	// receivers refuse mail that is not signed for good, and a refusal comes back too late for who forgot a key. It is no
	// question of confidentiality, so a host that would rather deliver may.
	Unsigned func(ctx context.Context, s *securemail.Slip, why error)
}

// DKIMSigner is what [DKIM] makes. It is safe for concurrent use.
type DKIMSigner struct {
	signer *dkim.Signer
	o      DKIMOptions
}

var _ securemail.Signer = (*DKIMSigner)(nil)

// DKIM makes the securemail.Signer that signs with DKIM (RFC 6376): every valid key of the author's domain signs. Signer
// may be nil where Choose always gives one.
func DKIM(signer *dkim.Signer, o *DKIMOptions) (*DKIMSigner, error) {
	d := &DKIMSigner{signer: signer}
	if o != nil {
		d.o = *o
	}
	if signer == nil && d.o.Choose == nil {
		return nil, errors.New("transport: dkim: a signer is required")
	}
	return d, nil
}

// Sign implements [securemail.Signer]. The body is read once and not copied.
func (d *DKIMSigner) Sign(ctx context.Context, p *securemail.Parcel) (*securemail.Message, error) {
	signer, domain := d.signer, ""
	if d.o.Choose != nil {
		s, name, err := d.o.Choose(ctx, &p.Slip)
		if err != nil {
			return nil, fmt.Errorf("transport: dkim: choose: %w", err)
		}
		if domain = name; s != nil {
			signer = s
		}
	}
	if domain == "" {
		domain = p.From.Address.Domain()
	}
	head, err := sign(ctx, signer, domain, p.Message)
	if errors.Is(err, dkim.ErrNoKey) && d.o.Unsigned != nil {
		d.o.Unsigned(ctx, &p.Slip, err)
		return p.Message, nil
	}
	if err != nil {
		return nil, fmt.Errorf("transport: dkim: %w", err)
	}
	return p.Message.WithHead(append(head, p.Message.Head()...))
}

// sign gives the fields to put before m.
func sign(ctx context.Context, signer *dkim.Signer, domain string, m *securemail.Message) ([]byte, error) {
	if signer == nil {
		return nil, dkim.ErrNoKey
	}
	r, err := m.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return signer.Sign(ctx, domain, r)
}

// DKIMReports gives the function that signs reports of transport/tlsrpt for domain.
func DKIMReports(signer *dkim.Signer, domain string) func(ctx context.Context, message []byte) ([]byte, error) {
	return func(ctx context.Context, message []byte) ([]byte, error) {
		return signer.Sign(ctx, domain, bytes.NewReader(message))
	}
}
