package keyring

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

// Root is a root key that is no key file: a KMS (package keyring/kms), an HSM, a secret of the environment ([EnvRoot]). It
// seals one key of 32 octets, under which the ring seals its epoch key; neither message keys nor scope keys ever reach it.
//
// The ring asks it when it is opened, by [File.RotateRoot] and [File.MoveRoot], and when another process did one of these;
// never by Wrap, Unwrap or Destroy otherwise. Each call gets a deadline of 10 s. An implementation is safe for concurrent
// use, keeps no argument, and says with ErrUnavailable, ErrDenied, ErrLost or ErrCorrupt (wrapped) what went wrong; its
// other errors count as they are, and never as destroyed.
type Root interface {
	// Wrap seals key, in at most 8,192 octets, under the newest version of the root key.
	Wrap(ctx context.Context, key []byte) ([]byte, error)
	// Unwrap gives back what Wrap sealed, under any version of the root key that is still enabled.
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// rootTimeout bounds one call of a Root, and maxWrapped what it may answer.
const (
	rootTimeout = 10 * time.Second
	maxWrapped  = 8192
)

// topKey is what seals the epoch file: the root key itself where it lies in a file, else a key wrapped by a Root.
type topKey struct {
	key []byte
	// wrapped is what the Root made of key; empty: the root is a file.
	wrapped []byte
}

// newTop makes a key under r.
func newTop(ctx context.Context, r Root) (topKey, error) {
	k := topKey{key: seal.NewKey()}
	ctx, cancel := context.WithTimeout(ctx, rootTimeout)
	defer cancel()
	var err error
	if k.wrapped, err = r.Wrap(ctx, bytes.Clone(k.key)); err != nil {
		return topKey{}, fmt.Errorf("keyring: root: wrap: %w", err)
	}
	if len(k.wrapped) == 0 || len(k.wrapped) > maxWrapped {
		return topKey{}, fmt.Errorf("keyring: root: wrapped key of %d octets: %w", len(k.wrapped), ErrCorrupt)
	}
	return k, nil
}

// openTop asks r for the key that wrapped stands for.
func openTop(ctx context.Context, r Root, wrapped []byte) (topKey, error) {
	ctx, cancel := context.WithTimeout(ctx, rootTimeout)
	defer cancel()
	key, err := r.Unwrap(ctx, wrapped)
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, ErrUnavailable):
		return topKey{}, fmt.Errorf("keyring: root: unwrap: %w", errors.Join(ErrUnavailable, err))
	case err != nil:
		return topKey{}, fmt.Errorf("keyring: root: unwrap: %w", err)
	case len(key) != seal.KeySize:
		return topKey{}, fmt.Errorf("keyring: root: key of %d octets: %w", len(key), ErrCorrupt)
	}
	return topKey{key: key, wrapped: bytes.Clone(wrapped)}, nil
}

const keyRootLabel = "postseal/keyring@v1 root"

// keyRoot is a Root whose key is given by a function at each call.
type keyRoot struct{ key func() ([]byte, error) }

func (r keyRoot) Wrap(_ context.Context, key []byte) ([]byte, error) {
	k, err := r.key()
	if err != nil {
		return nil, err
	}
	defer clear(k)
	return seal.Seal(k, key, []byte(keyRootLabel))
}

func (r keyRoot) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	k, err := r.key()
	if err != nil {
		return nil, err
	}
	defer clear(k)
	key, err := seal.Open(k, wrapped, []byte(keyRootLabel))
	if err != nil {
		return nil, fmt.Errorf("keyring: not wrapped under this root key: %w", ErrCorrupt)
	}
	return key, nil
}

// EnvRoot is the root key in the environment variable name, read at each call: 32 random octets in base64 (as of
// `openssl rand -base64 32`), or a line of a key file, which carries a checksum too. Unset or empty is ErrLost, another
// text ErrCorrupt; no error holds any of it.
func EnvRoot(name string) Root {
	return keyRoot{func() ([]byte, error) {
		text := strings.TrimSpace(os.Getenv(name))
		if text == "" {
			return nil, fmt.Errorf("keyring: environment variable %s is not set; give it the root key that the ring was made with: %w", name, ErrLost)
		}
		k, err := base64.StdEncoding.Strict().DecodeString(text)
		if err == nil && len(k) == seal.KeySize {
			return k, nil
		}
		if k, err = parseKey(text); err != nil {
			return nil, fmt.Errorf("keyring: environment variable %s is not 32 octets in base64: %w", name, ErrCorrupt)
		}
		return k, nil
	}}
}

// The key file is text: this line, then the root key in base64 with a checksum. While a rotation is under way it holds
// two keys, the new one first.
const (
	rootHeader   = "postseal root key v1: keep secret, keep two copies apart from the mail\n"
	rootCheck    = 4 // octets of SHA-256 behind the key
	maxRootFile  = 4096
	maxEpochFile = 16 << 10
)

// stagedSuffix marks the key file of a ring whose making was cut short. Nothing was ever wrapped under it.
const stagedSuffix = ".new"

func formatRoot(keys ...[]byte) []byte {
	var b strings.Builder
	b.WriteString(rootHeader)
	for _, k := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(append(k[:len(k):len(k)], rootSum(k)...)))
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

func rootSum(k []byte) []byte {
	sum := sha256.Sum256(append([]byte("postseal root key"), k...))
	return sum[:rootCheck]
}

// parseKey reads one line of a key file.
func parseKey(line string) ([]byte, error) {
	k, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil || len(k) != seal.KeySize+rootCheck || string(rootSum(k[:seal.KeySize])) != string(k[seal.KeySize:]) {
		return nil, errRoot
	}
	return k[:seal.KeySize:seal.KeySize], nil
}

func parseRoot(b []byte) ([][]byte, error) {
	text, ok := strings.CutPrefix(string(b), rootHeader)
	if !ok || !strings.HasSuffix(text, "\n") {
		return nil, errRoot
	}
	var keys [][]byte
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		k, err := parseKey(line)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) > 2 {
		return nil, errRoot
	}
	return keys, nil
}

var errRoot = fmt.Errorf("keyring: key file: %w", ErrCorrupt)

// readRoots reads the key file, the current key first.
func (f *File) readRoots() ([]topKey, error) {
	b, err := durable.ReadPrivate(f.path, maxRootFile)
	switch {
	case errors.Is(err, durable.ErrExposed):
		return nil, ErrExposed
	case err != nil:
		return nil, fmt.Errorf("keyring: key file: %w", err)
	}
	defer clear(b)
	keys, err := parseRoot(b)
	if err != nil {
		return nil, err
	}
	tops := make([]topKey, len(keys))
	for i, k := range keys {
		tops[i].key = k
	}
	return tops, nil
}

// tops returns the keys that may open the epoch file b, the one to seal under first. A Root is asked only where this
// process has not yet had the key of its answer.
func (f *File) tops(ctx context.Context, b []byte) ([]topKey, error) {
	wrapped, _, err := splitEpochFile(b)
	if err != nil {
		return nil, err
	}
	switch {
	case f.root == nil && wrapped != nil:
		return nil, errNeedsRoot
	case f.root == nil:
		return f.readRoots()
	case wrapped == nil:
		return nil, errFileRoot
	case f.st != nil && bytes.Equal(f.st.top.wrapped, wrapped):
		return []topKey{f.st.top.clone()}, nil
	}
	top, err := openTop(ctx, f.root, wrapped)
	return []topKey{top}, err
}

func (k topKey) clone() topKey { return topKey{bytes.Clone(k.key), bytes.Clone(k.wrapped)} }

func forgetTops(ks []topKey) {
	for _, k := range ks {
		clear(k.key)
	}
}

func (f *File) epochPath() string  { return f.path + ".epoch" }
func (f *File) ledgerPath() string { return f.path + ".scopes" }
func (f *File) lockPath() string   { return f.path + ".lock" }
