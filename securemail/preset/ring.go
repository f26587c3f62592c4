package preset

import (
	"context"
	"database/sql"
	"errors"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// ringNote is the note in the database that says where the key ring stood at its newest act, so that older files put in its
// place are noticed: they would bring back what was destroyed.
const ringNote = "keyring"

// ringOutbox keeps the note beside the events of the ring. An event that was added again after a crash sets it again.
type ringOutbox struct{ q *queue.Queue }

// Add implements keyring.Outbox.
func (o ringOutbox) Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if err := o.q.Add(ctx, tx, es...); err != nil {
		return err
	}
	for _, e := range es {
		if state := e.Detail["state"]; state != "" {
			if err := o.q.SetNote(ctx, ringNote, state); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordRing has the ring's acts recorded. A ring that is older than the note is a *keyring.RollbackError; who declares goes
// on with it, and the note stays until that is done.
func (s *System) recordRing(ctx context.Context, o *Options) error {
	note, err := s.Queue.Note(ctx, ringNote)
	if err != nil {
		return err
	}
	if note != "" {
		want, err := keyring.ParseState(note)
		if err == nil {
			err = s.KeyRing.Check(ctx, want)
		}
		if _, older := errors.AsType[*keyring.RollbackError](err); older && o.declaring {
			s.oldRing = true
			return s.KeyRing.RecordTo(ctx, s.Queue)
		}
		if err != nil {
			return err
		}
	}
	return s.KeyRing.RecordTo(ctx, ringOutbox{s.Queue})
}

// renewRing does again what was destroyed since an older ring was current: by the log, and by the events that it was not
// given yet. It returns how many scopes these were.
func (s *System) renewRing(ctx context.Context) (destroyed int, err error) {
	replay := func(e securemail.Event) error {
		did, err := s.KeyRing.Replay(ctx, e)
		if did {
			destroyed++
		}
		if errors.Is(err, keyring.ErrUnrecorded) {
			err = nil
		}
		return err
	}
	for e, err := range s.Ledger.Search(ctx, audit.Search{Kind: keyring.EventKind}) {
		if err == nil {
			err = replay(securemail.Event{ID: e.Event, Kind: e.Kind, Time: e.Time, Detail: e.Detail})
		}
		if err != nil {
			return destroyed, err
		}
	}
	const reader = "declare"
	for {
		es, err := s.Queue.Next(ctx, reader, 1000)
		if err != nil {
			return destroyed, err
		}
		if len(es) == 0 {
			return destroyed, s.Queue.Forget(ctx, reader)
		}
		for _, e := range es {
			if err := replay(e); err != nil {
				return destroyed, err
			}
		}
		if err := s.Queue.Ack(ctx, reader, es[len(es)-1].ID); err != nil {
			return destroyed, err
		}
	}
}

// noteRing notes where the ring stands, once a declaration is recorded.
func (s *System) noteRing(ctx context.Context) error {
	st, err := s.KeyRing.State(ctx)
	if err != nil {
		return err
	}
	return s.Queue.SetNote(ctx, ringNote, st.String())
}
