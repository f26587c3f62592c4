package backup

import (
	"errors"
	"fmt"
)

// The errors a caller branches on.
var (
	// ErrCorrupt says that the file is no backup, was changed or cut, or is sealed under another key.
	ErrCorrupt = errors.New("backup: damaged, or no backup")
	// ErrIncomplete says that something which should be in a backup could not be read when it was made: Report.Damaged and
	// Missing name it. The rest is whole.
	ErrIncomplete = errors.New("backup: incomplete: stored data is damaged or missing")
	// ErrNewer says that the backup was made by a later release than this program. Nothing was changed.
	ErrNewer = errors.New("backup: made by a newer release than this program")
	// ErrNotEmpty says that there is something where the backup was to be restored. Nothing was changed.
	ErrNotEmpty = errors.New("backup: restore: there is something already; restore into an empty place")
	// ErrUndeclared says that the database was restored and that nobody has declared it yet.
	ErrUndeclared = errors.New("backup: restored and not declared; declare the restore (postseal restore -declare) before mail leaves")
)

var errNoBackup = fmt.Errorf("%w: not in the form of one", ErrCorrupt)
