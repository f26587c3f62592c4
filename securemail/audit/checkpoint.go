package audit

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxCheckpoint bounds a checkpoint, in octets; cosignatures included.
const maxCheckpoint = 1 << 16

// checkpoint is a signed tree head, and its octets.
type checkpoint struct {
	tlog.Tree
	note []byte
}

// sign makes the checkpoint of https://c2sp.org/tlog-checkpoint: origin, size, root hash in base64.
func (k *keys) sign(t tlog.Tree) (*checkpoint, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", k.signer.Name(), t.N, t.Hash)
	b, err := note.Sign(&note.Note{Text: text}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("audit: sign checkpoint: %w", err)
	}
	return &checkpoint{t, b}, nil
}

// openCheckpoint proves that v's key signed b, and that b has the one form that sign gives it: no octet is malleable.
func openCheckpoint(b []byte, v note.Verifier) (*checkpoint, error) {
	if len(b) > maxCheckpoint {
		return nil, errCheckpoint
	}
	n, err := note.Open(b, note.VerifierList(v))
	if err != nil {
		return nil, errCheckpoint
	}
	for _, s := range append(n.Sigs, n.UnverifiedSigs...) {
		if raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil || base64.StdEncoding.EncodeToString(raw) != s.Base64 {
			return nil, errCheckpoint
		}
	}
	// Extension lines may follow.
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 || lines[0] != v.Name() {
		return nil, errCheckpoint
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return nil, errCheckpoint
	}
	h, err := parseHash(lines[2])
	if err != nil {
		return nil, errCheckpoint
	}
	return &checkpoint{tlog.Tree{N: size, Hash: h}, b}, nil
}

func parseHash(s string) (tlog.Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || base64.StdEncoding.EncodeToString(b) != s {
		return tlog.Hash{}, ErrCorrupt
	}
	return tlog.Hash(b), nil
}

var errCheckpoint = fmt.Errorf("audit: checkpoint: %w", ErrCorrupt)
