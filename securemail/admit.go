package securemail

import (
	"context"
	"fmt"
)

// admitter is what a Ledger may have besides: it refuses an Outbox that is older than itself.
type admitter interface {
	Admits(ctx context.Context, holds func(ctx context.Context, seq int64, id string) (known, holds bool, err error)) error
}

// holder is what an Outbox may have besides: it says whether it gave number seq to the event id.
type holder interface {
	Holds(ctx context.Context, seq int64, id string) (known, holds bool, err error)
}

// admit asks the Ledger once whether the Outbox is as new as it knows it to be. A database that was copied back has forgotten
// what left since, and would send it again.
func (m *Mailer) admit(ctx context.Context) error {
	l, ok1 := m.c.Ledger.(admitter)
	o, ok2 := m.c.Outbox.(holder)
	if !ok1 || !ok2 {
		return nil
	}
	m.mu.Lock()
	admitted := m.admitted
	m.mu.Unlock()
	if admitted {
		return nil
	}
	ctx, _ = m.part(ctx, "")
	if err := l.Admits(ctx, o.Holds); err != nil {
		return fmt.Errorf("securemail: run: %w", err)
	}
	m.mu.Lock()
	m.admitted = true
	m.mu.Unlock()
	return nil
}
