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

	"github.com/postseal/postseal/internal/canon"
	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

const (
	epochLabel  = "postseal/keyring@v1 epoch"
	ledgerLabel = "postseal/keyring@v1 scopes"
	epochIDSize = 16
)

func dirOf(path string) string { return filepath.Dir(path) }

// epochKey is the key that the ledger is sealed under, and its random name.
type epochKey struct {
	ID  [epochIDSize]byte
	Key []byte
}

func newEpoch() epochKey {
	return epochKey{ID: [epochIDSize]byte(seal.NewKey()), Key: seal.NewKey()}
}

// writeEpochs replaces the epoch file, then overwrites the octets of the old one.
func (f *File) writeEpochs(root []byte, epochs ...epochKey) error {
	flat := make([]byte, 0, len(epochs)*(epochIDSize+seal.KeySize))
	for _, e := range epochs {
		flat = append(append(flat, e.ID[:]...), e.Key...)
	}
	defer clear(flat)
	b, err := seal.Seal(root, flat, []byte(epochLabel))
	if err != nil {
		return err
	}
	old, err := os.OpenFile(f.epochPath(), os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = durable.WriteFile(f.epochPath(), b)
	if old != nil {
		err = errors.Join(err, shred(old, err == nil), old.Close())
	}
	return err
}

// shred overwrites a file that has no name any more.
func shred(file *os.File, replaced bool) error {
	if !replaced {
		return nil
	}
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	_, err = file.WriteAt(make([]byte, fi.Size()), 0)
	return errors.Join(err, file.Sync())
}

// readEpochs opens the epoch file with one of roots, and says which.
func (f *File) readEpochs(roots [][]byte) (epochs []epochKey, root int, err error) {
	file, err := os.Open(f.epochPath())
	if err != nil {
		return nil, 0, fmt.Errorf("keyring: epoch file: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxEpochFile))
	if err != nil {
		return nil, 0, fmt.Errorf("keyring: epoch file: %w", err)
	}
	for i, r := range roots {
		if flat, err := seal.Open(r, b, []byte(epochLabel)); err == nil {
			epochs, err := parseEpochs(flat)
			return epochs, i, err
		}
	}
	return nil, 0, fmt.Errorf("keyring: epoch file: %w", ErrCorrupt)
}

func parseEpochs(flat []byte) ([]epochKey, error) {
	const size = epochIDSize + seal.KeySize
	if len(flat) == 0 || len(flat)%size != 0 {
		return nil, fmt.Errorf("keyring: epoch file: %w", ErrCorrupt)
	}
	var epochs []epochKey
	for ; len(flat) > 0; flat = flat[size:] {
		epochs = append(epochs, epochKey{[epochIDSize]byte(flat), flat[epochIDSize:size:size]})
	}
	return epochs, nil
}

// The ledger is a file of frames (internal/durable): a header that names the epoch, then records, each sealed under the
// epoch key and bound to the header and to its place.
func ledgerHeader(e epochKey) []byte { return append([]byte(ledgerLabel), e.ID[:]...) }

func recordAD(e epochKey, frame uint64) []byte {
	return binary.BigEndian.AppendUint64(ledgerHeader(e), frame)
}

func formatRecord(dst []byte, e epochKey, frame uint64, r *record) ([]byte, error) {
	plain, err := canon.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("keyring: ledger: %w", err)
	}
	defer clear(plain)
	b, err := seal.Seal(e.Key, plain, recordAD(e, frame))
	if err != nil {
		return nil, fmt.Errorf("keyring: ledger: %w", err)
	}
	if len(b) > durable.MaxFrame {
		return nil, errors.New("keyring: ledger: too many scopes")
	}
	return durable.AppendFrame(dst, b), nil
}

// snapshotFrames is how many frames a new ledger has: the header and one record.
const snapshotFrames = 2

func formatLedger(e epochKey, r *record) ([]byte, error) {
	return formatRecord(durable.AppendFrame(nil, ledgerHeader(e)), e, 1, r)
}

// replay brings s up to the frames in b, and returns how many octets of b it took; the rest was torn by a crash.
func (s *state) replay(b []byte, epochs []epochKey) (int, error) {
	return durable.Scan(b, func(payload []byte) error {
		if s.frames == 0 {
			return s.start(payload, epochs)
		}
		plain, err := seal.Open(s.epoch.Key, payload, recordAD(s.epoch, s.frames))
		if err != nil {
			return ErrCorrupt
		}
		defer clear(plain)
		var r record
		if err := canon.Unmarshal(plain, &r); err != nil {
			return ErrCorrupt
		}
		defer r.clear()
		if err := s.apply(&r); err != nil {
			return err
		}
		s.frames++
		return nil
	})
}

// start reads the header. An epoch that the epoch file doesn't have is that of an older ledger, or damage.
func (s *state) start(payload []byte, epochs []epochKey) error {
	for _, e := range epochs {
		if bytes.Equal(payload, ledgerHeader(e)) {
			s.epoch = epochKey{e.ID, bytes.Clone(e.Key)}
			s.frames = 1
			return nil
		}
	}
	return ErrCorrupt
}

// load reads everything anew, and finishes what a crash interrupted. The caller has the lock between processes.
func (f *File) load() (*state, error) {
	roots, err := f.readRoots()
	if err != nil {
		return nil, err
	}
	epochs, root, err := f.readEpochs(roots)
	if err != nil {
		return nil, err
	}
	s, err := f.loadLedger(epochs)
	if err != nil {
		return nil, err
	}
	if err := f.finish(s.epoch, roots, len(epochs) > 1 || root > 0); err != nil {
		return nil, errors.Join(fmt.Errorf("keyring: finish an interrupted change: %w", err), s.forget())
	}
	for _, k := range roots {
		clear(k)
	}
	for _, e := range epochs {
		clear(e.Key)
	}
	return s, nil
}

// finish leaves the current keys alone in the key file and, where epochs says so, in the epoch file.
func (f *File) finish(epoch epochKey, roots [][]byte, epochs bool) error {
	if epochs || len(roots) > 1 {
		if err := f.writeEpochs(roots[0], epoch); err != nil {
			return err
		}
	}
	if len(roots) > 1 {
		if err := durable.WriteFile(f.path, formatRoot(roots[0])); err != nil {
			return err
		}
	}
	return errors.Join(durable.RemoveTemp(f.path), durable.RemoveTemp(f.epochPath()), durable.RemoveTemp(f.ledgerPath()))
}

func (f *File) loadLedger(epochs []epochKey) (*state, error) {
	file, err := os.OpenFile(f.ledgerPath(), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("keyring: ledger: %w", err)
	}
	s := &state{file: file}
	if s.info, err = file.Stat(); err == nil {
		err = s.catchUp(s.info.Size(), epochs)
	}
	if err == nil && s.names == nil {
		err = ErrCorrupt // a ledger is made with its first record, so this was cut
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keyring: ledger: %w", err), s.forget())
	}
	return s, nil
}

// catchUp applies what lies between s.size and size, and cuts off a torn tail.
func (s *state) catchUp(size int64, epochs []epochKey) error {
	b := make([]byte, size-s.size)
	if _, err := io.ReadFull(io.NewSectionReader(s.file, s.size, size-s.size), b); err != nil {
		return err
	}
	whole, err := s.replay(b, epochs)
	s.size += int64(whole)
	if err != nil || s.size == size || s.names == nil {
		if errors.Is(err, durable.ErrCorrupt) {
			err = ErrCorrupt
		}
		return err
	}
	if err := s.file.Truncate(s.size); err != nil {
		return err
	}
	return s.file.Sync()
}
