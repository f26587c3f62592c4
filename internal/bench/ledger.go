package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

const (
	feed     = 256        // events that a feeder gives the log at once, as Mailer.Run does
	feeders  = 8          // how many feed it
	fullLog  = 10_000_000 // entries of the log that proofs are made of, in a run of full length
	fullRun  = 15000      // messages in such a run
	sealSize = 20 << 10
)

// ledger measures how fast entries become durable.
func (d *durability) ledger(ctx context.Context) error {
	figures, err := d.compete(ctx, d.batched, d.single, d.entrySync)
	if err != nil {
		return err
	}
	d.goal("audit append, batches", "entry/s", figures[0], 50000)
	d.row(Result{Name: "audit append, one by one", Unit: "entry/s", Peer: "write+fsync", Floor: 0.9}, figures[1], figures[2])
	return nil
}

func (d *durability) openLog(ctx context.Context) (*audit.Log, func() error, error) {
	dir := filepath.Join(d.dir, rand.Text())
	l, err := audit.Open(ctx, filepath.Join(dir, "log"), nil)
	if err != nil {
		return nil, nil, err
	}
	return l, func() error { return errors.Join(l.Close(), os.RemoveAll(dir)) }, nil
}

// entries are n events of a delivery.
func entries(n int) []securemail.Event {
	now, by := time.Now(), securemail.Actor{ID: "bench", Kind: "service"}
	es := make([]securemail.Event, n)
	for i := range es {
		es[i] = event(by, securemail.Status{
			Slip:  securemail.Slip{ID: securemail.ParcelID(newID(now)), Submission: newID(now), Actor: by, Purpose: securemail.PurposeTreatment},
			State: securemail.StateDelivered, Attempt: 1, Changed: now, Policy: "bench@1",
			Choice: securemail.Choice{Method: securemail.MethodTLS},
		})
	}
	return es
}

func (d *durability) batched(ctx context.Context) (rate float64, err error) {
	l, closer, err := d.openLog(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closer()) }()
	rate, err = produce(feeders, max(feeders, 10*d.messages/feed), func() error { return l.EmitAll(ctx, entries(feed)...) })
	return rate * feed, err
}

func (d *durability) single(ctx context.Context) (rate float64, err error) {
	l, closer, err := d.openLog(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closer()) }()
	return produce(1, d.messages, func() error { return l.Emit(ctx, entries(1)[0]) })
}

// entrySync appends as many octets as an entry has, with an fsync each.
func (d *durability) entrySync(context.Context) (float64, error) {
	f, err := os.CreateTemp(d.dir, "append")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := noise()[:512]
	return produce(1, d.messages, func() error {
		if _, err := f.Write(b); err != nil {
			return err
		}
		return f.Sync()
	})
}

// proofs measures a proof and its verification in a large log.
func (d *durability) proofs(ctx context.Context) (err error) {
	l, closer, err := d.openLog(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()
	total := fullLog
	if d.messages < fullRun {
		total = max(feed, fullLog/fullRun*d.messages)
	}
	known, err := fillLog(ctx, l, total)
	if err == nil {
		err = l.Publish(ctx)
	}
	if err != nil {
		return err
	}
	var took []float64
	for range d.rounds {
		start := time.Now()
		for _, id := range known {
			proof, err := l.Prove(ctx, id)
			if err != nil {
				return err
			}
			if _, err := audit.Verify(proof, l.Verifier()); err != nil {
				return err
			}
		}
		took = append(took, float64(time.Since(start).Microseconds())/float64(len(known)))
	}
	d.goal(fmt.Sprintf("proof and verification, %d entries", total), "us", took, 100)
	return nil
}

// fillLog records n events, two batches at once, and returns the ids of some hundred of them, from all over the log.
func fillLog(ctx context.Context, l *audit.Log, n int) ([]string, error) {
	var mu sync.Mutex
	var known []string
	var wg sync.WaitGroup
	const fillers = 2
	errs := make([]error, fillers)
	step := max(1, n/feed/500)
	for i := range fillers {
		wg.Go(func() {
			for b := i; b < n/feed && errs[i] == nil; b += fillers {
				es := entries(feed)
				errs[i] = l.EmitAll(ctx, es...)
				if b%step == 0 {
					mu.Lock()
					known = append(known, es[b%feed].ID)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return known, errors.Join(errs...)
}

// sealing measures the encryption of a body of 20 KB at rest, on one core.
func (d *durability) sealing(ctx context.Context) error {
	key, body := seal.NewKey(), make([]byte, sealSize)
	figures, err := d.compete(ctx, func(context.Context) (float64, error) {
		n := max(64, d.messages)
		start := time.Now()
		for range n {
			if _, err := seal.Seal(key, body, nil); err != nil {
				return 0, err
			}
		}
		return float64(n) * sealSize / time.Since(start).Seconds() / 1e9, nil
	})
	if err == nil {
		d.goal("seal 20 KB, one core", "GB/s", figures[0], 2)
	}
	return err
}
