package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A proof is https://c2sp.org/tlog-proof@v1, with the entry as its extra data.
const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	// maxProof bounds a proof, in octets: an entry in base64, 63 hashes, a checkpoint.
	maxProof  = 4*(MaxEntry+2)/3 + 63*64 + maxCheckpoint
	maxHashes = 63
)

// ErrProof says that a proof does not prove its entry.
var ErrProof = errors.New("audit: proof does not hold")

// proof is a proof taken apart.
type proof struct {
	entry      []byte
	index      int64
	hashes     tlog.RecordProof
	checkpoint []byte
}

func (p *proof) format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(p.entry), p.index)
	for _, h := range p.hashes {
		fmt.Fprintln(&b, h)
	}
	b.WriteByte('\n')
	b.Write(p.checkpoint)
	return b.Bytes()
}

func parseProof(b []byte) (*proof, error) {
	if len(b) > maxProof {
		return nil, ErrProof
	}
	head, checkpoint, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return nil, ErrProof
	}
	lines := strings.Split(head, "\n")
	if len(lines) < 3 || len(lines) > 3+maxHashes || lines[0] != proofHeader {
		return nil, ErrProof
	}
	p := &proof{checkpoint: []byte(checkpoint)}
	extra, ok1 := strings.CutPrefix(lines[1], "extra ")
	index, ok2 := strings.CutPrefix(lines[2], "index ")
	if !ok1 || !ok2 {
		return nil, ErrProof
	}
	var err1, err2 error
	p.entry, err1 = base64.StdEncoding.Strict().DecodeString(extra)
	p.index, err2 = strconv.ParseInt(index, 10, 64)
	if err1 != nil || err2 != nil || p.index < 0 {
		return nil, ErrProof
	}
	for _, line := range lines[3:] {
		h, err := parseHash(line)
		if err != nil {
			return nil, ErrProof
		}
		p.hashes = append(p.hashes, h)
	}
	if !bytes.Equal(p.format(), b) {
		return nil, ErrProof // signs, leading zeros, line ends inside base64: there is one form only
	}
	return p, nil
}

// Verify checks offline what [Log.Prove] gave: that the entry is in the tree that the checkpoint in the proof names, and
// that verifier's key signed the checkpoint. Make verifier of the log's public key ([Log.PublicKey]) with note.NewVerifier.
// Any changed octet is ErrProof. It does not tell whether the log showed others another history: compare checkpoints.
func Verify(proof []byte, verifier note.Verifier) (Entry, error) {
	p, err := parseProof(proof)
	if err != nil {
		return Entry{}, err
	}
	cp, err := openCheckpoint(p.checkpoint, verifier)
	if err != nil || bytes.Count(cp.note, []byte("\n— ")) != 1 { // others' signatures could be added unseen
		return Entry{}, ErrProof
	}
	if p.index >= cp.N || tlog.CheckRecord(p.hashes, cp.N, cp.Hash, p.index, tlog.RecordHash(p.entry)) != nil {
		return Entry{}, ErrProof
	}
	return parseEntry(p.entry)
}

func parseEntry(b []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil || e.V != entryVersion {
		return Entry{}, fmt.Errorf("audit: entry of an unknown form: %w", ErrCorrupt)
	}
	return e, nil
}
