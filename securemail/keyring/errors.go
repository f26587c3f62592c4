package keyring

import (
	"errors"
	"fmt"
)

// The errors a caller branches on. None but ErrDestroyed is final: while another lasts, mail waits.
var (
	// ErrDestroyed says that a scope was destroyed, and with it every key wrapped under it. It is final. Packages that don't
	// import this one know it by errors.As to an interface{ Destroyed() bool } that answers true.
	ErrDestroyed = fmt.Errorf("keyring: %w", destroyed{})
	// ErrUnknown says that a scope key is in the ledger neither as a key nor as destroyed: the wrapped key is another
	// ring's, the ledger is older than it, or the scope was destroyed longer ago than Options.Remember.
	ErrUnknown = errors.New("keyring: scope key not in the ledger")
	// ErrCorrupt says that a stored file or a wrapped key is damaged, or not of this ring.
	ErrCorrupt = errors.New("keyring: damaged, or of another ring")
	// ErrLost says that a key file, an epoch file or a ledger is missing, or that the key which a Root stands for is
	// disabled or destroyed, while the rest of the ring is there. The text says what to do. Nothing was changed or made anew.
	ErrLost = errors.New("keyring: a key is missing")
	// ErrUnavailable says that the Root can't be reached now; a later call may succeed. A ring that is open goes on.
	ErrUnavailable = errors.New("keyring: root key can't be reached now")
	// ErrDenied says that the Root refused: the credentials or their rights are wrong.
	ErrDenied = errors.New("keyring: root key refused to us")
	// ErrOtherRoot says that the ring's root is of another kind than the one it was opened with.
	ErrOtherRoot = errors.New("keyring: ring has another root")
	// ErrExposed says that group or others can read the key file.
	ErrExposed = errors.New("keyring: key file can be read by others, its mode must be 0600")
	// ErrClosed says that the ring was closed.
	ErrClosed = errors.New("keyring: closed")
)

type destroyed struct{}

func (destroyed) Error() string   { return "scope was destroyed" }
func (destroyed) Destroyed() bool { return true }

var (
	errNoScope    = errors.New("keyring: a key needs a scope")
	errEmptyScope = errors.New("keyring: empty scope")
	errScopes     = fmt.Errorf("keyring: over %d scopes", MaxScopes)
	errKey        = fmt.Errorf("keyring: a key must have 1 to %d octets", MaxKey)
)

// What is lost, and what to do.
var (
	errNoRoot = fmt.Errorf("keyring: key file missing, but its ledger is there; restore it from its copy, or from the "+
		"custodians' shares with Recover: %w", errors.Join(ErrLost, ErrCorrupt))
	errNoParts = fmt.Errorf("keyring: key file is there, but its epoch file or its ledger is missing; put the newest copies "+
		"of both back, or Restore a backup: %w", errors.Join(ErrLost, ErrCorrupt))
	errHalf = fmt.Errorf("keyring: of epoch file and ledger one is missing; put the newest copies of both back, or "+
		"Restore a backup: %w", errors.Join(ErrLost, ErrCorrupt))
	errNeedsRoot = fmt.Errorf("keyring: the root of this ring is no file; open it with Options.Root: %w", ErrOtherRoot)
	errFileRoot  = fmt.Errorf("keyring: the root of this ring is its key file; open it without Options.Root, and use "+
		"MoveRoot: %w", ErrOtherRoot)
)
