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

// RotateEpoch seals all scope keys under a new epoch key and destroys the old one, so that older copies of the ledger
// open nothing. Wrapped keys stay as they are.
func (f *File) RotateEpoch(ctx context.Context) error {
	return f.recorded(ctx, &act{kind: actEpoch}, func(ctx context.Context) error {
		_, err := f.commit(ctx, order{rotate: true})
		return err
	})
}

// RotateRoot renews what seals the epoch key; wrapped keys and bodies stay as they are. Where the root is a key file it
// makes a new root key and a new epoch key: copies of the old key file open nothing that is in the files now. Under a Root
// it has the Root seal a new key over the epoch key, so that a key version of the KMS that was rotated out is needed no
// longer; RotateEpoch renews the epoch key. Afterwards renew the back-up copies and the custodians' shares.
func (f *File) RotateRoot(ctx context.Context) error {
	r, err := f.currentRoot()
	if err != nil {
		return err
	}
	return f.putUnder(ctx, r, actRoot)
}

// MoveRoot puts the ring under another root: a Root, or with nil the key file at the ring's path, where it makes a new root
// key. Open the ring with that root from then on; a process that has it open under the old one must open it anew, and until
// then gets errors, never ErrDestroyed. A key file that is not needed any more is overwritten and removed, as the last
// step: where that was cut short, or failed, repeat MoveRoot.
func (f *File) MoveRoot(ctx context.Context, to Root) error {
	if _, err := f.currentRoot(); err != nil {
		return err
	}
	return f.putUnder(ctx, to, actMove)
}

func (f *File) currentRoot() (Root, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return nil, ErrClosed
	}
	return f.root, nil
}

func (f *File) putUnder(ctx context.Context, r Root, kind actKind) error {
	c, rotate := &rootChange{root: r}, false
	if r == nil {
		c.top, rotate = topKey{key: seal.NewKey()}, true
	} else {
		// Asked before the lock is taken, so that nobody waits for a slow KMS.
		top, err := newTop(ctx, r)
		if err != nil {
			return err
		}
		c.top = top
	}
	defer clear(c.top.key)
	return f.recorded(ctx, &act{kind: kind}, func(ctx context.Context) error {
		_, err := f.commit(ctx, order{rotate: rotate, root: c})
		return err
	})
}

// changeRoot makes c.top what seals the epoch key. The caller is exclusive.
func (f *File) changeRoot(c *rootChange) error {
	var err error
	switch {
	case c.root != nil:
		err = f.moveUnder(c.top)
	case f.root != nil:
		err = f.moveToFile(c.top)
	default:
		err = f.renewFile(c.top)
	}
	if err != nil {
		return fmt.Errorf("keyring: change root: %w", err)
	}
	f.mu.Lock()
	f.root = c.root
	clear(f.st.top.key)
	f.st.top = topKey{}
	if c.root != nil {
		f.st.top = c.top.clone()
	}
	f.mu.Unlock()
	if c.root == nil {
		return nil
	}
	if err := removeSecret(f.path); err != nil {
		return fmt.Errorf("keyring: the root was moved, but the old key file is still there: %w", err)
	}
	return nil
}

// moveUnder seals the epoch key under what a Root wrapped.
func (f *File) moveUnder(top topKey) error { return f.writeEpochs(top, f.st.epoch) }

// moveToFile makes the key file first: while the epoch file is still the one under the Root, the key file counts for nothing.
func (f *File) moveToFile(top topKey) error {
	if err := replaceSecret(f.path, formatRoot(top.key)); err != nil {
		return err
	}
	return f.writeEpochs(top, f.st.epoch)
}

// renewFile leaves both root keys in the key file until the epoch file is under the new one.
func (f *File) renewFile(top topKey) error {
	old, err := f.readRoots()
	if err != nil {
		return err
	}
	defer forgetTops(old)
	if len(old) > 1 {
		// An earlier change failed half way, and the epoch file may still be under the older key.
		if err := f.writeEpochs(old[0], f.st.epoch); err != nil {
			return err
		}
	}
	return durable.WriteFile(f.path, formatRoot(top.key, old[0].key))
}

// removeSecret overwrites and removes path; where it is not there it is nil.
func removeSecret(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = shred(file)
	if err == nil {
		err = os.Remove(path)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return durable.SyncDir(dirOf(path))
}
