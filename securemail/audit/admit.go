package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrOldDatabase says that the database has not the events that the log has recorded of it: an older copy was put in its
// place, so it does not know what left since. Nothing was changed.
var ErrOldDatabase = errors.New("audit: the database is older than its log: put the newest one back, or declare the restore, so that what left since is not sent again")

// KindRestored is the Kind of the event that declares a restore: from then on the database counts events anew.
const KindRestored = "restored"

// Admits refuses, with ErrOldDatabase, an Outbox that has not the newest event that the log took from it. holds says of an event
// whether it has that number there; known is false where that can't be told any more. securemail.Mailer asks it before it
// runs. After an entry of [KindRestored] nothing is asked of what was before.
func (l *Log) Admits(ctx context.Context, holds func(ctx context.Context, seq int64, id string) (known, holds bool, err error)) error {
	l.mu.RLock()
	n := l.tailStart + int64(len(l.tail)) - 1
	l.mu.RUnlock()
	for ; n >= 0; n-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := l.entryAt(n)
		if err != nil {
			return err
		}
		e, err := parseEntry(data)
		if err != nil {
			return err
		}
		if e.Kind == KindRestored && e.Seq == 0 {
			return nil
		}
		if e.Seq == 0 || strings.HasPrefix(e.Event, "sha256:") {
			continue // not by way of an Outbox, or its id is too long to stand here
		}
		known, ok, err := holds(ctx, e.Seq, e.Event)
		if err != nil {
			return fmt.Errorf("audit: look for the newest event: %w", err)
		}
		if known && !ok {
			return ErrOldDatabase
		}
		return nil
	}
	return nil
}
