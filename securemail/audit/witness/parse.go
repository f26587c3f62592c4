package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/cosign"
)

const (
	sigPrefix = "— "
	minSig    = 5 // octets: the id of the key, and something
)

// parseSignature reads one line of a signature in the only form that it can have, with its newline.
func parseSignature(line string) (note.Signature, bool) {
	rest, ok1 := strings.CutPrefix(line, sigPrefix)
	rest, ok2 := strings.CutSuffix(rest, "\n")
	name, b64, ok3 := strings.Cut(rest, " ")
	raw, err := base64.StdEncoding.Strict().DecodeString(b64)
	if !ok1 || !ok2 || !ok3 || err != nil || len(raw) < minSig || !cosign.ValidName(name) || base64.StdEncoding.EncodeToString(raw) != b64 {
		return note.Signature{}, false
	}
	return note.Signature{Name: name, Hash: binary.BigEndian.Uint32(raw), Base64: b64}, true
}

func sigLine(s note.Signature) string { return sigPrefix + s.Name + " " + s.Base64 + "\n" }

// parseCheckpoint reads https://c2sp.org/tlog-checkpoint; who signed it is not looked at.
func parseCheckpoint(b []byte) (*checkpoint, error) {
	if len(b) > maxCheckpoint || !utf8.Valid(b) {
		return nil, ErrRequest
	}
	end := bytes.LastIndex(b, []byte("\n\n"))
	if end < 0 {
		return nil, ErrRequest
	}
	cp := &checkpoint{text: string(b[:end+1])}
	lines := strings.Split(cp.text, "\n") // the last one is empty
	if len(lines) < 4 || lines[0] == "" {
		return nil, ErrRequest
	}
	for _, line := range lines[3 : len(lines)-1] {
		if line == "" {
			return nil, ErrRequest
		}
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	hash, ok := parseHash(lines[2])
	if err != nil || !ok || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return nil, ErrRequest
	}
	cp.origin, cp.size, cp.hash = lines[0], size, hash
	return cp, nil
}

func parseHash(s string) (tlog.Hash, bool) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || base64.StdEncoding.EncodeToString(b) != s {
		return tlog.Hash{}, false
	}
	return tlog.Hash(b), true
}
