package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/internal/sqldb"
)

var (
	// ErrFull says that the database or the blob store has no room left. Nothing was written.
	ErrFull = errors.New("queue: no room left")
	// ErrReadOnly says that the database can't be written. Nothing was written.
	ErrReadOnly = errors.New("queue: database is read-only")
	// ErrDamaged says that the database's own pages are damaged, as a failing disk leaves them. Nothing is deleted. Stop what
	// writes, keep a copy of the files, and restore a backup; [Queue.Check] tells what else can't be read.
	ErrDamaged = errors.New("queue: the database is damaged: keep a copy, check the disk, restore a backup")
	// ErrUnknown says that the database did not answer a commit: look before you write again. A Put with a Key may be
	// repeated safely.
	ErrUnknown = errors.New("queue: the outcome of a commit is not known")
	// ErrTransition says that a Mark asked for a change of state that the table in the package comment does not have.
	ErrTransition = errors.New("queue: no such change of state")
)

// CorruptError says that something stored is damaged, missing, or not readable with the key it names: a fault of the
// disk, of the key ring, or of somebody who wrote to the database. So is a key whose scope was destroyed, as it should be:
// then Err has a method Destroyed() bool that answers true.
type CorruptError struct {
	// Part is what: "slip", "letter", "status", "event", "key", "answer" or "body".
	Part string
	// ID is the parcel's, event's, body's or submission's.
	ID string
	// Err is the cause; it holds no content.
	Err error
}

// Error names part and id.
func (e *CorruptError) Error() string {
	return "queue: stored " + e.Part + " of " + e.ID + " is damaged or missing"
}

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// isDamage says that reading again can't help.
func isDamage(err error) bool {
	_, ok := errors.AsType[*CorruptError](err)
	return ok || errors.Is(err, seal.ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// isDestroyed says that the key ring's error is final: the scope of the key was destroyed.
func isDestroyed(err error) bool {
	var d interface{ Destroyed() bool }
	return errors.As(err, &d) && d.Destroyed()
}

// failed gives err the context what, and the typed error that a caller can branch on.
func failed(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case sqldb.IsFull(err) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("queue: %s: %w: %w", what, ErrFull, err)
	case sqldb.IsReadOnly(err) || errors.Is(err, syscall.EROFS):
		return fmt.Errorf("queue: %s: %w: %w", what, ErrReadOnly, err)
	case sqldb.IsCorrupt(err) && !errors.Is(err, ErrDamaged):
		return fmt.Errorf("queue: %s: %w: %w", what, ErrDamaged, err)
	case errors.Is(err, sqldb.ErrUncertain):
		return fmt.Errorf("queue: %s: %w: %w", what, ErrUnknown, err)
	}
	return fmt.Errorf("queue: %s: %w", what, err)
}
