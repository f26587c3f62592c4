package keyring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

const (
	epochLabel  = "postseal/keyring@v1 epoch"
	epochIDSize = 16
)

// An epoch file is the epoch keys sealed under the root key of a key file or, under a Root,
//
//	this line || length of wrapped (2, big-endian) || wrapped || the epoch keys sealed under the key in wrapped
const epochHeader = "postseal epoch key under a root v1\n"

func dirOf(path string) string { return filepath.Dir(path) }

// epochKey is the key that the ledger is sealed under, and its random name.
type epochKey struct {
	ID  [epochIDSize]byte
	Key []byte
}

func newEpoch() epochKey {
	return epochKey{ID: [epochIDSize]byte(seal.NewKey()), Key: seal.NewKey()}
}

// epochAD binds the epoch keys to what they are wrapped with.
func epochAD(wrapped []byte) []byte { return append([]byte(epochLabel), wrapped...) }

func formatEpochs(top topKey, epochs ...epochKey) ([]byte, error) {
	flat := make([]byte, 0, len(epochs)*(epochIDSize+seal.KeySize))
	for _, e := range epochs {
		flat = append(append(flat, e.ID[:]...), e.Key...)
	}
	defer clear(flat)
	b, err := seal.Seal(top.key, flat, epochAD(top.wrapped))
	if err != nil || len(top.wrapped) == 0 {
		return b, err
	}
	head := binary.BigEndian.AppendUint16([]byte(epochHeader), uint16(len(top.wrapped)))
	return append(append(head, top.wrapped...), b...), nil
}

// splitEpochFile returns what a Root wrapped, nil where there is none, and the sealed epoch keys.
func splitEpochFile(b []byte) (wrapped, sealed []byte, err error) {
	rest, ok := bytes.CutPrefix(b, []byte(epochHeader))
	if !ok {
		return nil, b, nil
	}
	if len(rest) < 2 {
		return nil, nil, errEpoch
	}
	n := int(binary.BigEndian.Uint16(rest))
	if rest = rest[2:]; n == 0 || n > len(rest) {
		return nil, nil, errEpoch
	}
	return rest[:n:n], rest[n:], nil
}

var errEpoch = fmt.Errorf("keyring: epoch file: %w", ErrCorrupt)

// writeEpochs replaces the epoch file, then overwrites the octets of the old one.
func (f *File) writeEpochs(top topKey, epochs ...epochKey) error {
	b, err := formatEpochs(top, epochs...)
	if err != nil {
		return err
	}
	return replaceSecret(f.epochPath(), b)
}

// replaceSecret replaces path by b and overwrites the octets of what was there.
func replaceSecret(path string, b []byte) error {
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = durable.WriteFile(path, b)
	if old != nil {
		if err == nil {
			err = shred(old)
		}
		err = errors.Join(err, old.Close())
	}
	return err
}

// shred overwrites a file that has no name any more.
func shred(file *os.File) error {
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	_, err = file.WriteAt(make([]byte, fi.Size()), 0)
	return errors.Join(err, file.Sync())
}

func (f *File) readEpochFile() ([]byte, error) {
	file, err := os.Open(f.epochPath())
	if err != nil {
		return nil, fmt.Errorf("keyring: epoch file: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxEpochFile))
	if err != nil {
		return nil, fmt.Errorf("keyring: epoch file: %w", err)
	}
	return b, nil
}

// openEpochs opens the epoch file b with one of tops, and says which.
func openEpochs(b []byte, tops []topKey) (epochs []epochKey, top int, err error) {
	wrapped, sealed, err := splitEpochFile(b)
	if err != nil {
		return nil, 0, err
	}
	for i, t := range tops {
		if flat, err := seal.Open(t.key, sealed, epochAD(wrapped)); err == nil {
			epochs, err := parseEpochs(flat)
			return epochs, i, err
		}
	}
	return nil, 0, errEpoch
}

func parseEpochs(flat []byte) ([]epochKey, error) {
	const size = epochIDSize + seal.KeySize
	if len(flat) == 0 || len(flat)%size != 0 {
		return nil, errEpoch
	}
	var epochs []epochKey
	for ; len(flat) > 0; flat = flat[size:] {
		epochs = append(epochs, epochKey{[epochIDSize]byte(flat), flat[epochIDSize:size:size]})
	}
	return epochs, nil
}
