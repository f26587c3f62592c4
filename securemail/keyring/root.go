package keyring

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

// The key file is text: this line, then the root key in base64 with a checksum. While a rotation is under way it holds
// two keys, the new one first.
const (
	rootHeader   = "postseal root key v1: keep secret, keep two copies apart from the mail\n"
	rootCheck    = 4 // octets of SHA-256 behind the key
	maxRootFile  = 4096
	maxEpochFile = 4096
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

func parseRoot(b []byte) ([][]byte, error) {
	text, ok := strings.CutPrefix(string(b), rootHeader)
	if !ok || !strings.HasSuffix(text, "\n") {
		return nil, errRoot
	}
	var keys [][]byte
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		k, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(k) != seal.KeySize+rootCheck || string(rootSum(k[:seal.KeySize])) != string(k[seal.KeySize:]) {
			return nil, errRoot
		}
		keys = append(keys, k[:seal.KeySize])
	}
	if len(keys) > 2 {
		return nil, errRoot
	}
	return keys, nil
}

var (
	errRoot    = fmt.Errorf("keyring: key file: %w", ErrCorrupt)
	errNoRoot  = fmt.Errorf("keyring: key file missing, but its ledger is there; restore it from its copy: %w", ErrCorrupt)
	errNoParts = fmt.Errorf("keyring: key file is there, but its epoch file or its ledger is missing: %w", ErrCorrupt)
)

// readRoots reads the key file, the current key first.
func (f *File) readRoots() ([][]byte, error) {
	b, err := durable.ReadPrivate(f.path, maxRootFile)
	switch {
	case errors.Is(err, durable.ErrExposed):
		return nil, ErrExposed
	case err != nil:
		return nil, fmt.Errorf("keyring: key file: %w", err)
	}
	defer clear(b)
	return parseRoot(b)
}

func (f *File) epochPath() string  { return f.path + ".epoch" }
func (f *File) ledgerPath() string { return f.path + ".scopes" }
func (f *File) lockPath() string   { return f.path + ".lock" }

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// createIfNone makes a ring where there surely is none. The key file gets its name last: until then the ring counts as
// never made.
func (f *File) createIfNone() error {
	root, err1 := exists(f.path)
	staged, err2 := exists(f.path + stagedSuffix)
	epoch, err3 := exists(f.epochPath())
	ledger, err4 := exists(f.ledgerPath())
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("keyring: open: %w", err)
	}
	switch {
	case root && epoch && ledger && staged:
		// A ring was put where the making of another was cut short. Were its key file lost later, the staged one would
		// let a new ring overwrite the rest.
		if err := os.Remove(f.path + stagedSuffix); err != nil {
			return fmt.Errorf("keyring: open: %w", err)
		}
		return durable.SyncDir(dirOf(f.path))
	case root && epoch && ledger:
		return nil
	case root:
		return errNoParts
	case !staged && (epoch || ledger):
		return errNoRoot
	}
	if err := f.create(); err != nil {
		return fmt.Errorf("keyring: create: %w", err)
	}
	return nil
}

func (f *File) create() error {
	root := seal.NewKey()
	if err := durable.WriteFile(f.path+stagedSuffix, formatRoot(root)); err != nil {
		return err
	}
	epoch := newEpoch()
	if err := f.writeEpochs(root, epoch); err != nil {
		return err
	}
	first := &record{Names: seal.NewKey(), Index: seal.NewKey(), Snapshot: true}
	b, err := formatLedger(epoch, first)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(f.ledgerPath(), b); err != nil {
		return err
	}
	if err := os.Rename(f.path+stagedSuffix, f.path); err != nil {
		return err
	}
	return durable.SyncDir(dirOf(f.path))
}
