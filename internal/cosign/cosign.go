// Package cosign verifies cosignatures of transparency logs: https://c2sp.org/tlog-cosignature, the Ed25519 form with a
// time stamp (type 0x04), as a note.Verifier of golang.org/x/mod/sumdb/note.
//
// The ML-DSA-44 form (type 0x06) is refused by name: the standard library of Go 1.26 has no ML-DSA.
package cosign

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

const (
	typeEd25519 = 0x04
	typeMLDSA44 = 0x06
	// SigSize is the length of a signature in octets: 64 bits of time, and an Ed25519 signature.
	SigSize = 8 + ed25519.SignatureSize
	// maxKey bounds a key in text.
	maxKey = 4096
)

// ErrMLDSA says that a key is of the ML-DSA-44 form.
var ErrMLDSA = errors.New("cosign: ML-DSA-44 cosignatures can't be verified by this program: use the cosigner's Ed25519 key")

var errKey = errors.New("cosign: malformed verifier key, or not one of a cosigner (type 4)")

// Verifier verifies the cosignatures of one cosigner. It implements note.Verifier.
type Verifier struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

var _ note.Verifier = (*Verifier)(nil)

// NewVerifier reads a key in the form "name+hash+base64" (https://c2sp.org/signed-note#verifier-keys).
func NewVerifier(vkey string) (*Verifier, error) {
	if len(vkey) > maxKey {
		return nil, errKey
	}
	name, rest, _ := strings.Cut(vkey, "+")
	hash, key64, ok := strings.Cut(rest, "+")
	id, err := strconv.ParseUint(hash, 16, 32)
	if !ok || err != nil || len(hash) != 8 || !ValidName(name) {
		return nil, errKey
	}
	key, err := base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(key) == 0 || base64.StdEncoding.EncodeToString(key) != key64 {
		return nil, errKey
	}
	if KeyHash(name, key) != uint32(id) {
		return nil, errKey
	}
	switch {
	case key[0] == typeMLDSA44:
		return nil, ErrMLDSA
	case key[0] != typeEd25519 || len(key) != 1+ed25519.PublicKeySize:
		return nil, errKey
	}
	return &Verifier{name, uint32(id), key[1:]}, nil
}

// ValidName says whether a key may have the name: no space and no plus.
func ValidName(name string) bool {
	return name != "" && utf8.ValidString(name) && strings.IndexFunc(name, unicode.IsSpace) < 0 && !strings.Contains(name, "+")
}

// KeyHash is the id of a key; typed is the type's octet and the key.
func KeyHash(name string, typed []byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), typed...))
	return binary.BigEndian.Uint32(sum[:])
}

// Name is the cosigner's name.
func (v *Verifier) Name() string { return v.name }

// KeyHash is the key's id.
func (v *Verifier) KeyHash() uint32 { return v.hash }

// Key is the public key.
func (v *Verifier) Key() ed25519.PublicKey { return v.key }

// Verify says whether sig is a cosignature of the note text msg. One without a time is none: a witness must state it.
func (v *Verifier) Verify(msg, sig []byte) bool {
	at, ok := timeOf(sig)
	return ok && ed25519.Verify(v.key, Message(at, msg), sig[8:])
}

// Message is what is signed: a line that says what it is, the time, and the text of the checkpoint.
func Message(at time.Time, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at.Unix()), text...)
}

func timeOf(sig []byte) (time.Time, bool) {
	if len(sig) != SigSize {
		return time.Time{}, false
	}
	n := binary.BigEndian.Uint64(sig)
	if n == 0 || n > math.MaxInt64 {
		return time.Time{}, false
	}
	return time.Unix(int64(n), 0).UTC(), true
}

// Time is when the cosignature s was made, as its cosigner says. Whether it is valid is for note.Open to tell.
func Time(s note.Signature) (time.Time, error) {
	raw, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(raw) != 4+SigSize {
		return time.Time{}, errors.New("cosign: not a cosignature")
	}
	at, ok := timeOf(raw[4:])
	if !ok {
		return time.Time{}, errors.New("cosign: cosignature without a time")
	}
	return at, nil
}
