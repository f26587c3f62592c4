package witness

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/postseal/postseal/securemail/audit"
)

// Errors of [Client.Cosign], beside [*ConflictError], [*StatusError] and those of the network.
var (
	// ErrFork says that the witness holds another history: the proof that the new checkpoint continues what it signed does not
	// hold for it. It Is audit.ErrRollback.
	ErrFork = fmt.Errorf("witness: it has signed another history of this log; compare its checkpoint with the log's: %w", audit.ErrRollback)
	// ErrCosignature says that the witness's answer holds no valid cosignature by its key of what was sent.
	ErrCosignature = errors.New("witness: answer without a valid cosignature")
	// ErrRequest says that the request is none that a witness could answer; it was not sent.
	ErrRequest = errors.New("witness: malformed request")
	// ErrPolicy says that a policy file can't be read, or that a checkpoint does not satisfy one.
	ErrPolicy = errors.New("witness: policy")
)

// ConflictError says that the newest checkpoint that the witness has signed is not of the size that the proof begins at
// (409). Where it is not larger than the checkpoint that was sent, ask again with a proof from Size; where it is, the
// log was rolled back or goes on elsewhere, and the error Is audit.ErrRollback.
type ConflictError struct {
	has, offered int64
}

// Size is how many entries the witness has signed for.
func (e *ConflictError) Size() int64 { return e.has }

// Error says what to do.
func (e *ConflictError) Error() string {
	if e.has > e.offered {
		return fmt.Sprintf("witness: it has signed for %d entries, and the log has %d: the log was rolled back, or goes on elsewhere", e.has, e.offered)
	}
	return fmt.Sprintf("witness: it has signed for %d entries: the proof must begin there", e.has)
}

// Is says that a witness that knows more than the log has is audit.ErrRollback.
func (e *ConflictError) Is(target error) bool {
	return target == audit.ErrRollback && e.has > e.offered
}

// StatusError is any other answer than 200, 409 and 422.
type StatusError struct {
	// Status is that of HTTP.
	Status int
}

// Error says what the status means in this protocol.
func (e *StatusError) Error() string {
	switch e.Status {
	case http.StatusNotFound:
		return "witness: it does not know this log (404): its operator must add the log's public key"
	case http.StatusForbidden:
		return "witness: it knows this log by another key (403)"
	}
	return fmt.Sprintf("witness: answer %d", e.Status)
}

// Temporary says whether the same request may succeed later without anybody's doing.
func (e *StatusError) Temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}
