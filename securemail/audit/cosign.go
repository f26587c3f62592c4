package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/durable"
)

const (
	cosignedName = "cosigned"
	stampFolder  = "stamp"
	stampedEnd   = ".checkpoint"
	// askFor bounds one call of a Witness or of the Stamper.
	askFor = 30 * time.Second
)

// outside is what others say of the log. It is changed by who holds asking, cosigned and unheard under Log.mu too.
type outside struct {
	asking sync.Mutex
	// cosigned is the newest checkpoint that a quorum has cosigned; nil: none yet.
	cosigned *checkpoint
	// sizes are, by Witness, the newest that it is known to have signed.
	sizes []int64
	// unheard is why the newest checkpoint has no quorum yet, or the day no stamp.
	unheard error
}

// Cosigned returns the newest checkpoint that a quorum of Options.Witnesses has cosigned, nil where there is none yet, and why
// newer ones, or today's stamp, wait.
func (l *Log) Cosigned() (checkpoint []byte, waits error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.outside.cosigned != nil {
		checkpoint = bytes.Clone(l.outside.cosigned.note)
	}
	return checkpoint, l.outside.unheard
}

// loadCosigned reads the newest cosigned checkpoint; a damaged one is asked for again.
func (l *Log) loadCosigned() {
	l.outside.sizes = make([]int64, len(l.o.Witnesses))
	b, err := os.ReadFile(filepath.Join(l.dir, cosignedName))
	if err != nil {
		return
	}
	cp, err := openCheckpoint(b, l.verifier)
	if err != nil || cp.N > l.published.N {
		return
	}
	l.outside.cosigned = cp
	for i := range l.outside.sizes {
		l.outside.sizes[i] = cp.N
	}
}

// askOthers has the newest checkpoint cosigned and, once a day, stamped. What can't be had now is asked for again by the next
// call; only what a witness says of a rollback is an error.
func (l *Log) askOthers(ctx context.Context) error {
	if !l.outside.asking.TryLock() {
		return nil // somebody does so
	}
	defer l.outside.asking.Unlock()
	cp := l.newest()
	err := errors.Join(l.askWitnesses(ctx, cp), l.askStamper(ctx, cp))
	l.mu.Lock()
	changed := fmt.Sprint(err) != fmt.Sprint(l.outside.unheard)
	l.outside.unheard = err
	l.mu.Unlock()
	if changed && ctx.Err() == nil && l.o.Trouble != nil {
		l.o.Trouble(err)
	}
	if errors.Is(err, ErrRollback) {
		return err
	}
	return nil
}

// ask is askOthers each Options.Interval, until ctx ends. What a witness says alone, without a signature, stops nothing:
// Options.Trouble is told.
func (l *Log) ask(ctx context.Context) {
	tick := time.NewTicker(l.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = l.askOthers(ctx)
		}
	}
}

func (l *Log) askWitnesses(ctx context.Context, cp *checkpoint) error {
	if last := l.outside.cosigned; len(l.o.Witnesses) == 0 || cp.N == 0 || last != nil && last.N == cp.N {
		return nil
	}
	signed := bytes.Clone(cp.note)
	var errs []error
	n := 0
	for i, w := range l.o.Witnesses {
		lines, err := l.askWitness(ctx, w, i, cp)
		if err == nil {
			_, err = openCheckpoint(append(bytes.Clone(signed), lines...), l.verifier)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("audit: witness %d: %w", i+1, err))
			continue
		}
		signed = append(signed, lines...)
		n++
	}
	if n < l.o.Quorum {
		return errors.Join(errs...)
	}
	c, err := openCheckpoint(signed, l.verifier)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(l.dir, cosignedName), signed); err != nil {
		return fmt.Errorf("audit: cosigned checkpoint: %w", err)
	}
	l.mu.Lock()
	l.outside.cosigned = c
	l.mu.Unlock()
	return errors.Join(errs...)
}

// askWitness asks once, and once more where the witness knows another size than was thought.
func (l *Log) askWitness(ctx context.Context, w Witness, i int, cp *checkpoint) ([]byte, error) {
	for again := false; ; again = true {
		r := WitnessRequest{OldSize: l.outside.sizes[i], Checkpoint: cp.note}
		if r.OldSize > 0 && r.OldSize < cp.N {
			proof, err := tlog.ProveTree(cp.N, r.OldSize, l.tilesOf(cp.N))
			if err != nil {
				return nil, corrupt("prove", err)
			}
			r.Proof = proof
		}
		lines, err := cosignOnce(ctx, w, r)
		var conflict interface{ Size() int64 }
		switch {
		case err == nil:
			l.outside.sizes[i] = cp.N
			return lines, nil
		case again || !errors.As(err, &conflict):
			return nil, err
		case conflict.Size() > cp.N:
			return nil, fmt.Errorf("%w: a witness has signed %d entries, and there are %d", ErrRollback, conflict.Size(), cp.N)
		}
		l.outside.sizes[i] = conflict.Size()
	}
}

func cosignOnce(ctx context.Context, w Witness, r WitnessRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	return w.Cosign(ctx, r)
}

// askStamper has the first checkpoint of the day stamped: the checkpoint is kept first, so that a token is always about one
// that is there.
func (l *Log) askStamper(ctx context.Context, cp *checkpoint) error {
	if l.o.Stamper == nil || cp.N == 0 {
		return nil
	}
	day := filepath.Join(l.dir, stampFolder, l.o.Now().UTC().Format(time.DateOnly))
	switch _, err := os.Stat(day); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("audit: stamp: %w", err)
	}
	if err := durable.MkdirAll(filepath.Dir(day)); err != nil {
		return fmt.Errorf("audit: stamp: %w", err)
	}
	stamped, err := os.ReadFile(day + stampedEnd)
	if errors.Is(err, fs.ErrNotExist) {
		stamped, err = cp.note, durable.WriteFile(day+stampedEnd, cp.note)
	}
	if err != nil {
		return fmt.Errorf("audit: stamp: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	token, err := l.o.Stamper.Stamp(ctx, sha256.Sum256(stamped))
	if err == nil {
		err = durable.WriteFile(day, token)
	}
	if err != nil {
		return fmt.Errorf("audit: stamp: %w", err)
	}
	return nil
}

// stampFor is the first stamp on a checkpoint that covers entry last and is part of cp's tree; nil: there is none yet.
func (l *Log) stampFor(cp *checkpoint, last int64) (*stamped, error) {
	dir := filepath.Join(l.dir, stampFolder)
	days, err := os.ReadDir(dir) // in order of their names
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: stamps: %w", err)
	}
	for _, d := range days {
		if _, err := time.Parse(time.DateOnly, d.Name()); err != nil {
			continue
		}
		note, err := os.ReadFile(filepath.Join(dir, d.Name()+stampedEnd))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a token about nothing that is there: another day's will do
		}
		if err != nil {
			return nil, corrupt("stamp", err)
		}
		old, err := openCheckpoint(note, l.verifier)
		if err != nil {
			return nil, err
		}
		if old.N <= last || old.N > cp.N {
			continue
		}
		token, err := os.ReadFile(filepath.Join(dir, d.Name()))
		if err != nil {
			return nil, fmt.Errorf("audit: stamp: %w", err)
		}
		s := &stamped{Checkpoint: string(note), Consistency: []string{}, Token: token}
		if old.N < cp.N {
			proof, err := tlog.ProveTree(cp.N, old.N, l.tilesOf(cp.N))
			if err != nil {
				return nil, corrupt("prove", err)
			}
			s.Consistency = formatHashes(proof)
		}
		return s, nil
	}
	return nil, nil
}
