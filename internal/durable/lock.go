package durable

import (
	"context"
	"errors"
	"os"
	"time"
)

// ErrLocked says that another holder, in this process or another, has the lock.
var ErrLocked = errors.New("durable: locked by another process")

// Lock is an exclusive advisory lock between processes. The system frees it when the process dies.
type Lock struct{ f *os.File }

// TryLock takes the lock that the file path stands for, making the file where it is missing, or answers ErrLocked.
func TryLock(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f}, nil
}

// WaitLock is TryLock that waits, polling with a back-off of up to 5 ms, until it has the lock or ctx ends.
func WaitLock(ctx context.Context, path string) (*Lock, error) {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		l, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Unlock gives the lock back. The file stays: removing it would let two holders lock two files of one name.
func (l *Lock) Unlock() error { return errors.Join(unlockFile(l.f), l.f.Close()) }
