package audit

import (
	"context"

	"golang.org/x/mod/sumdb/tlog"
)

// Witness cosigns checkpoints: somebody else's machine that signs only what continues what it signed before
// (https://c2sp.org/tlog-witness); audit/witness has a client of one. Cosign returns signature lines for the checkpoint's
// end. An error that has Size() int64 says that the witness's newest checkpoint is of that size: where that is not more
// than the log has, it is asked again with a proof from there.
type Witness interface {
	Cosign(ctx context.Context, r WitnessRequest) ([]byte, error)
}

// WitnessRequest asks for a cosignature of Checkpoint, a signed note. Proof shows that its tree continues the one of
// OldSize entries, the newest that the witness has signed; it is empty where OldSize is 0.
type WitnessRequest struct {
	OldSize    int64
	Proof      []tlog.Hash
	Checkpoint []byte
}

// Stamper has a SHA-256 digest stamped by a time stamp authority; audit/timestamp has a client of RFC 3161. It returns a
// token that is verified already.
type Stamper interface {
	Stamp(ctx context.Context, digest [32]byte) (token []byte, err error)
}
