package keyring

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// State says where a ring stands: enough to tell later that it was not replaced by an older copy of itself. It holds no
// secret. Key events carry it (Detail "state").
type State struct {
	// Epoch counts epoch keys, from 1; Frames counts what was written under this one.
	Epoch, Frames uint64
	// Hash is over all frames of the key ledger, sealed as they are.
	Hash [sha256.Size]byte
}

// String is the form for logs, "EPOCH.FRAMES.HASH"; that of the zero State is "0.0." and zeros in base64.
func (s State) String() string {
	return fmt.Sprintf("%d.%d.%s", s.Epoch, s.Frames, base64.RawURLEncoding.EncodeToString(s.Hash[:]))
}

// ParseState reads what String wrote, and nothing else.
func ParseState(text string) (State, error) {
	parts := strings.Split(text, ".")
	var s State
	if len(parts) == 3 {
		var err1, err2 error
		s.Epoch, err1 = strconv.ParseUint(parts[0], 10, 64)
		s.Frames, err2 = strconv.ParseUint(parts[1], 10, 64)
		hash, err3 := base64.RawURLEncoding.Strict().DecodeString(parts[2])
		if err1 == nil && err2 == nil && err3 == nil && len(hash) == len(s.Hash) {
			s.Hash = [sha256.Size]byte(hash)
			if s.String() == text {
				return s, nil
			}
		}
	}
	return State{}, fmt.Errorf("keyring: state: %w", ErrCorrupt)
}

// RollbackError says that the ring is older than what was recorded of it, or has another past. Nothing was changed.
type RollbackError struct{ Have, Want State }

// Error says what to do.
func (e *RollbackError) Error() string {
	what := "is older than recorded"
	if e.Have.Epoch == e.Want.Epoch && e.Have.Frames >= e.Want.Frames {
		what = "has another past than recorded"
	}
	return fmt.Sprintf("keyring: the key ledger %s (epoch %d, frame %d; recorded: epoch %d, frame %d): put its newest copy "+
		"and that of the epoch file back, or if they are lost declare a restore, open it with Options.Restored and Replay the "+
		"key events since", what, e.Have.Epoch, e.Have.Frames, e.Want.Epoch, e.Want.Frames)
}

func (s *state) at() State { return State{s.number, s.frames, s.chain} }

// covers is nil where s is want, or what became of it.
func (s *state) covers(want State) error {
	have := s.at()
	switch {
	case want == State{} || want == have || have.Epoch > want.Epoch:
		return nil
	case have.Epoch < want.Epoch || have.Frames < want.Frames:
		return &RollbackError{have, want}
	}
	// Some frames were added since: the hash is that of the file up to there, which was proved when it was loaded.
	chain, frames := [sha256.Size]byte{}, uint64(0)
	b, err := s.frameBytes()
	if err != nil {
		return err
	}
	err = eachFrame(b, func(payload []byte) {
		if frames < want.Frames {
			chain = link(chain, payload)
		}
		frames++
	})
	if err != nil {
		return err
	}
	if chain != want.Hash {
		return &RollbackError{have, want}
	}
	return nil
}

// State says where the ring stands now.
func (f *File) State(ctx context.Context) (State, error) {
	if err := f.refresh(ctx); err != nil {
		return State{}, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return State{}, ErrClosed
	}
	return f.st.at(), nil
}

// Check is nil where the ring is at want or has gone on from there, and a *RollbackError where it is older or has another
// past. It is what OpenFile does with Options.Expect, for wirings in which the log is opened after the ring.
func (f *File) Check(ctx context.Context, want State) error {
	if err := f.refresh(ctx); err != nil {
		return err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return ErrClosed
	}
	return f.st.covers(want)
}
