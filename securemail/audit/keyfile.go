package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

// The key file is text, four lines: this one, the signing key in note form, the pseudonym key in base64, and in hex the
// SHA-256 of the three lines before.
const (
	keyHeader  = "postseal audit key v1: keep secret, keep a copy apart from the log"
	keyLines   = 4
	maxKeyFile = 4096
)

// ErrExposed says that group or others can read the key file.
var ErrExposed = errors.New("audit: key file can be read by others, its mode must be 0600")

var errKeyFile = fmt.Errorf("audit: key file: %w", ErrCorrupt)

// keys are the log's own.
type keys struct {
	signer note.Signer
	// public is the verifier's key in note form.
	public    string
	pseudonym []byte
	mac       *macs // under the pseudonym key
}

// openKeys reads the key file, or makes it where it is missing and mayMake says that no log depends on one.
func openKeys(path, origin string, mayMake bool) (*keys, error) {
	k, err := readKeys(path)
	switch {
	case err == nil && origin != "" && k.signer.Name() != origin:
		return nil, errors.New("audit: key file is of another origin")
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return k, err
	case !mayMake:
		return nil, fmt.Errorf("audit: the log is there, but its key file is missing; restore it from its copy: %w", err)
	}
	if origin == "" {
		origin = "postseal.invalid/audit/" + hex.EncodeToString(seal.NewKey()[:8])
	}
	private, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, fmt.Errorf("audit: key file: %w", err)
	}
	b := keyHeader + "\n" + private + "\n" + base64.StdEncoding.EncodeToString(seal.NewKey()) + "\n"
	text := fmt.Appendf(nil, "%s%x\n", b, sha256.Sum256([]byte(b)))
	k, err = parseKeys(text)
	if err != nil {
		return nil, errors.New("audit: Options.Origin can't name a key: a space or a plus in it, or not UTF-8")
	}
	if err := durable.WriteFile(path, text); err != nil {
		return nil, fmt.Errorf("audit: key file: %w", err)
	}
	return k, nil
}

func readKeys(path string) (*keys, error) {
	b, err := durable.ReadPrivate(path, maxKeyFile)
	switch {
	case errors.Is(err, durable.ErrExposed):
		return nil, ErrExposed
	case err != nil:
		return nil, fmt.Errorf("audit: key file: %w", err)
	}
	return parseKeys(b)
}

func parseKeys(b []byte) (*keys, error) {
	lines := strings.SplitAfter(string(b), "\n")
	if len(lines) != keyLines+1 || lines[keyLines] != "" || lines[0] != keyHeader+"\n" {
		return nil, errKeyFile
	}
	body := strings.Join(lines[:keyLines-1], "")
	if lines[keyLines-1] != fmt.Sprintf("%x\n", sha256.Sum256([]byte(body))) {
		return nil, errKeyFile
	}
	private := strings.TrimSuffix(lines[1], "\n")
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, errKeyFile
	}
	public, err := publicOf(signer.Name(), private)
	if err != nil {
		return nil, err
	}
	p, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(lines[2], "\n"))
	if err != nil || len(p) != seal.KeySize {
		return nil, errKeyFile
	}
	return &keys{signer: signer, public: public, pseudonym: p}, nil
}

// publicOf gives the verifier's key of a signing key "PRIVATE+KEY+name+hash+base64(1 || seed)".
func publicOf(name, private string) (string, error) {
	// base64 may hold a plus, a name none.
	parts := strings.SplitN(private, "+", 5)
	raw, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", errKeyFile
	}
	pub, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errKeyFile
	}
	return note.NewEd25519VerifierKey(name, pub)
}
