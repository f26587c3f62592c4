package keyring

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/postseal/postseal/internal/canon"
	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

const ledgerLabel = "postseal/keyring@v1 scopes"

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
		s.chain = link(s.chain, payload)
		return nil
	})
}

// link goes on with the hash over all frames of a ledger, which State shows.
func link(chain [sha256.Size]byte, payload []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(chain[:])
	h.Write(payload)
	return [sha256.Size]byte(h.Sum(nil))
}

// linkAll goes on with the frames in b.
func linkAll(chain [sha256.Size]byte, b []byte) ([sha256.Size]byte, error) {
	err := eachFrame(b, func(payload []byte) { chain = link(chain, payload) })
	return chain, err
}

func eachFrame(b []byte, f func(payload []byte)) error {
	_, err := durable.Scan(b, func(payload []byte) error {
		f(payload)
		return nil
	})
	return err
}

// frameBytes reads the part of the ledger file that s stands for.
func (s *state) frameBytes() ([]byte, error) {
	b := make([]byte, s.size)
	if _, err := io.ReadFull(io.NewSectionReader(s.file, 0, s.size), b); err != nil {
		return nil, fmt.Errorf("keyring: ledger: %w", err)
	}
	return b, nil
}

// start reads the header. An epoch that the epoch file doesn't have is that of an older ledger, or damage.
func (s *state) start(payload []byte, epochs []epochKey) error {
	for _, e := range epochs {
		if bytes.Equal(payload, ledgerHeader(e)) {
			s.epoch = epochKey{e.ID, bytes.Clone(e.Key)}
			s.frames = 1
			s.chain = link([sha256.Size]byte{}, payload)
			return nil
		}
	}
	return ErrCorrupt
}

// load reads everything anew, and finishes what a crash interrupted. The caller has the lock between processes.
func (f *File) load(ctx context.Context) (*state, error) {
	b, err := f.readEpochFile()
	if err != nil {
		return nil, err
	}
	tops, err := f.tops(ctx, b)
	if err != nil {
		return nil, err
	}
	defer forgetTops(tops)
	epochs, top, err := openEpochs(b, tops)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, e := range epochs {
			clear(e.Key)
		}
	}()
	s, err := f.loadLedger(epochs)
	if err != nil {
		return nil, err
	}
	if f.root != nil {
		s.top = tops[0].clone()
	}
	if err := f.finish(s.epoch, tops, len(epochs) > 1 || top > 0); err != nil {
		return nil, errors.Join(fmt.Errorf("keyring: finish an interrupted change: %w", err), s.forget())
	}
	return s, nil
}

// finish leaves the current keys alone in the key file and, where epochs says so, in the epoch file.
func (f *File) finish(epoch epochKey, tops []topKey, epochs bool) error {
	if epochs || len(tops) > 1 {
		if err := f.writeEpochs(tops[0], epoch); err != nil {
			return err
		}
	}
	if len(tops) > 1 {
		if err := durable.WriteFile(f.path, formatRoot(tops[0].key)); err != nil {
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
