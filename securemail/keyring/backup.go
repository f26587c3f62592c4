package keyring

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

// A backup of a ring is
//
//	this line || length of the epoch file (4) || length of the ledger (8) || epoch file || ledger || SHA-256 of all before
//
// Both files are sealed; the hash is against damage, and the seals against malice.
const (
	backupHeader = "postseal key ring backup v1\n"
	maxLedger    = 2 * durable.MaxFrame
)

// Backup writes one consistent copy of the epoch file and the key ledger to w, tombstones with it: about 48 octets for
// each scope. It opens nothing without the root key, which is not in it: keep that apart, or with custodians ([File.Split]).
//
// Together with the root key a backup brings back what was destroyed after it was made. So Replay the key events since
// after a restore, and destroy all but the newest backup of the ring within the time that certificates of destruction
// promise: a database of any age is read with the newest one.
func (f *File) Backup(ctx context.Context, w io.Writer) error {
	var epoch, ledger []byte
	err := f.exclusive(ctx, func() (err error) {
		if err = f.catchUp(ctx); err != nil {
			return err
		}
		if epoch, err = f.readEpochFile(); err != nil {
			return err
		}
		ledger, err = f.st.frameBytes()
		return err
	})
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32([]byte(backupHeader), uint32(len(epoch)))
	head = binary.BigEndian.AppendUint64(head, uint64(len(ledger)))
	h := sha256.New()
	for _, part := range [][]byte{head, epoch, ledger} {
		h.Write(part)
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("keyring: backup: %w", err)
		}
	}
	if _, err := w.Write(h.Sum(nil)); err != nil {
		return fmt.Errorf("keyring: backup: %w", err)
	}
	return nil
}

var (
	errBackup  = fmt.Errorf("keyring: backup: %w", ErrCorrupt)
	errHasRing = errors.New("keyring: restore: a ring is there already; move its files away first")
)

// Restore puts the ring of a [File.Backup] at path, where none of its files but the key file may be. Nothing is written
// before r was read to its end and found whole. The root key is put back apart: its copy, or [Recover] with the
// custodians' shares, or Options.Root. Then open it with Options.Restored and Replay the key events since.
func Restore(ctx context.Context, path string, r io.Reader) error {
	epoch, ledger, err := readBackup(r)
	if err != nil {
		return err
	}
	f := &File{path: path, writer: make(chan struct{}, 1)}
	return f.exclusive(ctx, func() error {
		s, err := f.look()
		switch {
		case err != nil:
			return fmt.Errorf("keyring: restore: %w", err)
		case s.ledger || s.staged:
			return errHasRing
		case s.epoch:
			// A restore that was cut short left this; anything else is a ring's.
			if old, err := os.ReadFile(f.epochPath()); err != nil || !bytes.Equal(old, epoch) {
				return errors.Join(errHasRing, err)
			}
		}
		if err := durable.WriteFile(f.epochPath(), epoch); err != nil {
			return fmt.Errorf("keyring: restore: %w", err)
		}
		if err := durable.WriteFile(f.ledgerPath(), ledger); err != nil {
			return fmt.Errorf("keyring: restore: %w", err)
		}
		return nil
	})
}

func readBackup(r io.Reader) (epoch, ledger []byte, err error) {
	h := sha256.New()
	tee := io.TeeReader(r, h)
	head := make([]byte, len(backupHeader)+4+8)
	if _, err := io.ReadFull(tee, head); err != nil {
		return nil, nil, cutShort(err)
	}
	sizes, ok := bytes.CutPrefix(head, []byte(backupHeader))
	if !ok {
		return nil, nil, errBackup
	}
	ne, nl := binary.BigEndian.Uint32(sizes), binary.BigEndian.Uint64(sizes[4:])
	if ne > maxEpochFile || nl > maxLedger {
		return nil, nil, errBackup
	}
	if epoch, err = readPart(tee, int64(ne)); err != nil {
		return nil, nil, err
	}
	if ledger, err = readPart(tee, int64(nl)); err != nil {
		return nil, nil, err
	}
	sum := h.Sum(nil)
	rest, err := io.ReadAll(io.LimitReader(r, sha256.Size+1))
	if err != nil {
		return nil, nil, fmt.Errorf("keyring: backup: %w", err)
	}
	if !bytes.Equal(rest, sum) {
		return nil, nil, errBackup
	}
	return epoch, ledger, nil
}

// readPart grows with what is really there: a length is foreign until the hash is proved.
func readPart(r io.Reader, n int64) ([]byte, error) {
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, n); err != nil {
		return nil, cutShort(err)
	}
	return b.Bytes(), nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errBackup
	}
	return fmt.Errorf("keyring: backup: %w", err)
}

const backupLabel = "postseal/keyring@v1 backup"

// BackupKey returns a fresh key to seal a backup of everything else under, and how it is stored in clear before that
// backup: wrapped under the root key, so that whoever has the root key, the Root or enough shares opens it, and nobody
// else ([OpenBackupKey]). The key is 32 octets, wrapped under 9,000.
func (f *File) BackupKey(ctx context.Context) (key, wrapped []byte, err error) {
	top, err := f.currentTop(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer clear(top.key)
	kek, err := backupKEK(top.key)
	if err != nil {
		return nil, nil, err
	}
	defer clear(kek)
	key = seal.NewKey()
	sealed, err := seal.Seal(kek, key, append([]byte(backupLabel), top.wrapped...))
	if err != nil {
		return nil, nil, fmt.Errorf("keyring: backup: %w", err)
	}
	wrapped = binary.BigEndian.AppendUint16(nil, uint16(len(top.wrapped)))
	return key, append(append(wrapped, top.wrapped...), sealed...), nil
}

func backupKEK(root []byte) ([]byte, error) {
	k, err := hkdf.Expand(sha256.New, root, backupLabel, seal.KeySize)
	if err != nil {
		return nil, fmt.Errorf("keyring: backup: %w", err)
	}
	return k, nil
}

// RootKey is a root key at hand, as Options.Root is one elsewhere: that of [Join], or of a key file.
type RootKey []byte

// ReadRootKey reads the current root key of the key file path. Errors: ErrExposed, ErrCorrupt, the file system's.
func ReadRootKey(path string) (RootKey, error) {
	tops, err := (&File{path: path}).readRoots()
	if err != nil {
		return nil, err
	}
	for _, old := range tops[1:] {
		clear(old.key)
	}
	return tops[0].key, nil
}

// OpenBackupKey returns the key that [File.BackupKey] wrapped, with the root key as it was then. ErrCorrupt: not this key,
// or wrapped was damaged.
func OpenBackupKey(root RootKey, wrapped []byte) ([]byte, error) {
	top, sealed, err := splitBackupKey(wrapped)
	if err != nil {
		return nil, err
	}
	if len(root) != seal.KeySize {
		return nil, fmt.Errorf("keyring: backup: a root key must have %d octets", seal.KeySize)
	}
	return openBackupKey(root, top, sealed)
}

// OpenBackupKeyUnder is OpenBackupKey for a ring that was under r. Its errors are those of r, too.
func OpenBackupKeyUnder(ctx context.Context, r Root, wrapped []byte) ([]byte, error) {
	top, sealed, err := splitBackupKey(wrapped)
	if err != nil {
		return nil, err
	}
	if len(top) == 0 {
		return nil, fmt.Errorf("keyring: backup: made under a key file, not under a Root: %w", ErrOtherRoot)
	}
	k, err := openTop(ctx, r, top)
	if err != nil {
		return nil, err
	}
	defer clear(k.key)
	return openBackupKey(k.key, top, sealed)
}

func splitBackupKey(b []byte) (top, sealed []byte, err error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, errBackup
	}
	n := int(binary.BigEndian.Uint16(b))
	return b[2 : 2+n], b[2+n:], nil
}

func openBackupKey(root, top, sealed []byte) ([]byte, error) {
	kek, err := backupKEK(root)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	key, err := seal.Open(kek, sealed, append([]byte(backupLabel), top...))
	if err != nil {
		return nil, errBackup
	}
	return key, nil
}
