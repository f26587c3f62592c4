package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// roundTime ends a round that the messages have not ended yet.
const roundTime = 3 * time.Second

// durable measures what makes mail durable and provable: acceptance, leases, the whole way to a far end, the log, sealing,
// and memory with a full queue.
func durable(ctx context.Context, s settings, report func(Result)) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stores := []store{sqliteStore(dir)}
	if dsn := os.Getenv("POSTSEAL_PG_DSN"); dsn != "" {
		stores = append(stores, postgresStore(dir, dsn))
	}
	d := &durability{settings: s, dir: dir, report: report}
	var measures []func(context.Context) error
	for _, st := range stores {
		measures = append(measures,
			func(ctx context.Context) error { return d.accept(ctx, st) },
			func(ctx context.Context) error { return d.lease(ctx, st) })
	}
	measures = append(measures, d.endToEnd, d.ledger, d.proofs, d.sealing, func(ctx context.Context) error { return fullQueue(ctx, s, report) })
	for _, measure := range measures {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// durability is one run of the area.
type durability struct {
	settings
	dir    string
	report func(Result)
}

// row reports the medians of ours and theirs.
func (d *durability) row(r Result, ours, theirs []float64) {
	r.Area, r.Value, r.PeerValue = "durable", median(ours), median(theirs)
	d.report(r.compare())
}

// goal reports the median of ours beside what it should reach.
func (d *durability) goal(name, unit string, ours []float64, goal float64) {
	d.row(Result{Name: name, Unit: unit, Peer: "goal", Floor: 1}, ours, []float64{goal})
}

// contender is one way to do the work of a row; what it returns is the figure.
type contender func(context.Context) (float64, error)

// compete lets each do its round in turn, so that a slow moment of the machine meets all of them.
func (d *durability) compete(ctx context.Context, cs ...contender) ([][]float64, error) {
	out := make([][]float64, len(cs))
	for range d.rounds {
		for i, c := range cs {
			v, err := c(ctx)
			if err != nil {
				return nil, err
			}
			out[i] = append(out[i], v)
		}
	}
	return out, nil
}

// at makes a contender of what works on a database of its own.
func at(st store, do func(context.Context, *place) (float64, error)) contender {
	return func(ctx context.Context) (float64, error) {
		v, err := withPlace(ctx, st, func(p *place) (float64, error) { return do(ctx, p) })
		if err != nil {
			return 0, fmt.Errorf("%s: %w", st.name, err)
		}
		return v, nil
	}
}

// produce calls do from so many goroutines until it was called max times or the round is over, and returns calls a second.
func produce(producers, most int, do func() error) (float64, error) {
	if err := do(); err != nil { // the first call opens and prepares
		return 0, err
	}
	var wg sync.WaitGroup
	var claimed, done atomic.Int64
	errs := make([]error, producers)
	start := time.Now()
	for i := range producers {
		wg.Go(func() {
			for time.Since(start) < roundTime && claimed.Add(1) <= int64(most) {
				if errs[i] = do(); errs[i] != nil {
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
}
