package encrypt

import (
	"context"

	"github.com/postseal/postseal/securemail"
)

// AlgorithmNone is [TLSOnly]'s Protection.Algorithm: the message itself is not encrypted. What the wire gave is in the
// Receipt, which is the evidence for this method.
const AlgorithmNone = "none"

// TLSOnly is the Encryptor of [securemail.MethodTLS]: the message leaves unchanged, and the floor of the Choice's
// Channel is its only protection. The zero value is ready; it is safe for concurrent use.
type TLSOnly struct{}

var _ securemail.Encryptor = TLSOnly{}

// Method is [securemail.MethodTLS].
func (TLSOnly) Method() securemail.Method { return securemail.MethodTLS }

// Encrypt gives the Job's own message and [AlgorithmNone]. Its only error is that of ctx.
func (TLSOnly) Encrypt(ctx context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &securemail.Sealed{
		Message:    j.Message,
		Protection: securemail.Protection{Algorithm: AlgorithmNone},
	}, nil
}

// Undo is nil: nothing is left behind.
func (TLSOnly) Undo(context.Context, securemail.ParcelID) error { return nil }
