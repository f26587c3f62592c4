package keyring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
)

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// found says which of a ring's files are there.
type found struct{ root, staged, epoch, ledger bool }

func (f *File) look() (found, error) {
	var s found
	var errs [4]error
	s.root, errs[0] = exists(f.path)
	s.staged, errs[1] = exists(f.path + stagedSuffix)
	s.epoch, errs[2] = exists(f.epochPath())
	s.ledger, errs[3] = exists(f.ledgerPath())
	return s, errors.Join(errs[:]...)
}

// createIfNone makes a ring where there surely is none. The key file gets its name last, and with a Root a mark loses its
// own last: until then the ring counts as never made.
func (f *File) createIfNone(ctx context.Context) error {
	s, err := f.look()
	if err != nil {
		return fmt.Errorf("keyring: open: %w", err)
	}
	if f.root != nil {
		return f.createUnder(ctx, s)
	}
	switch {
	case s.root && s.epoch && s.ledger && s.staged:
		// A ring was put where the making of another was cut short. Were its key file lost later, the staged one would
		// let a new ring overwrite the rest.
		return f.unstage()
	case s.root && s.epoch && s.ledger:
		return nil
	case s.root:
		return errNoParts
	case !s.staged && s.epoch && f.underRoot():
		return errNeedsRoot
	case !s.staged && (s.epoch || s.ledger):
		return errNoRoot
	}
	if err := f.create(); err != nil {
		return fmt.Errorf("keyring: create: %w", err)
	}
	return nil
}

func (f *File) createUnder(ctx context.Context, s found) error {
	switch {
	case s.epoch && s.ledger && s.staged:
		return f.unstage()
	case s.epoch && s.ledger:
		return nil
	case s.epoch || s.ledger:
		if !s.staged {
			return errHalf
		}
	case s.root:
		return errFileRoot
	}
	top, err := newTop(ctx, f.root)
	if err != nil {
		return err
	}
	defer clear(top.key)
	err = durable.WriteFile(f.path+stagedSuffix, []byte("a ring is being made here\n"))
	if err == nil {
		err = f.createParts(top)
	}
	if err != nil {
		return fmt.Errorf("keyring: create: %w", err)
	}
	return f.unstage()
}

func (f *File) unstage() error {
	if err := os.Remove(f.path + stagedSuffix); err != nil {
		return fmt.Errorf("keyring: open: %w", err)
	}
	return durable.SyncDir(dirOf(f.path))
}

// underRoot says whether the epoch file is one under a Root.
func (f *File) underRoot() bool {
	b, err := f.readEpochFile()
	if err != nil {
		return false
	}
	wrapped, _, err := splitEpochFile(b)
	return err == nil && wrapped != nil
}

func (f *File) create() error {
	top := topKey{key: seal.NewKey()}
	defer clear(top.key)
	if err := durable.WriteFile(f.path+stagedSuffix, formatRoot(top.key)); err != nil {
		return err
	}
	if err := f.createParts(top); err != nil {
		return err
	}
	if err := os.Rename(f.path+stagedSuffix, f.path); err != nil {
		return err
	}
	return durable.SyncDir(dirOf(f.path))
}

func (f *File) createParts(top topKey) error {
	epoch := newEpoch()
	if err := f.writeEpochs(top, epoch); err != nil {
		return err
	}
	first := &record{Names: seal.NewKey(), Index: seal.NewKey(), Snapshot: true, Number: 1}
	b, err := formatLedger(epoch, first)
	if err != nil {
		return err
	}
	return durable.WriteFile(f.ledgerPath(), b)
}
