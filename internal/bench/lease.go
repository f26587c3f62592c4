package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

const (
	leaseBatch = 500
	claimers   = 4
)

// lease measures how many parcels of 4 KB a second are leased and settled, each with its event: by batches of 500.
func (d *durability) lease(ctx context.Context, st store) error {
	ours := at(st, d.leaseRate)
	least := 50000.0
	cs := []contender{ours}
	if st.name == "postgres" {
		least = 40000
		cs = append(cs, at(st, d.riverWork))
	}
	figures, err := d.compete(ctx, cs...)
	if err != nil {
		return err
	}
	name := st.name + " claim+complete"
	d.goal(name, "msg/s", figures[0], least)
	if len(figures) > 1 {
		d.row(Result{Name: name, Unit: "msg/s", Peer: "river work", Floor: 1}, figures[0], figures[1])
	}
	return nil
}

// backlog is how many parcels wait when a round of leases begins.
func (d *durability) backlog() int { return max(4*leaseBatch, 2*d.messages) }

func (d *durability) leaseRate(ctx context.Context, p *place) (float64, error) {
	q, closer, err := openQueue(ctx, p)
	if err != nil {
		return 0, err
	}
	defer closer()
	m, err := securemail.NewMessage(securemail.Bytes(message()))
	if err != nil {
		return 0, err
	}
	n := d.backlog()
	for range n / 100 {
		b, err := batchOf(m, 100)
		if err == nil {
			_, err = q.Put(ctx, b)
		}
		if err != nil {
			return 0, err
		}
	}
	var wg sync.WaitGroup
	var settled atomic.Int64
	errs := make([]error, claimers)
	start := time.Now()
	for i := range claimers {
		wg.Go(func() { errs[i] = settleAll(ctx, q, &settled) })
	}
	wg.Wait()
	took := time.Since(start)
	if got := int(settled.Load()); got != n/100*100 {
		errs = append(errs, fmt.Errorf("%d parcels settled of %d", got, n))
	}
	return float64(settled.Load()) / took.Seconds(), errors.Join(errs...)
}

// settleAll leases and delivers by batches until nothing is due.
func settleAll(ctx context.Context, q *queue.Queue, settled *atomic.Int64) error {
	for {
		ls, err := q.Take(ctx, time.Now(), leaseBatch, 0)
		if err != nil || len(ls) == 0 {
			return err
		}
		now := time.Now()
		marks := make([]securemail.Mark, len(ls))
		for i, l := range ls {
			st := securemail.Status{Slip: l.Parcel.Slip, State: securemail.StateDelivered, Attempt: l.Attempt, Changed: now}
			marks[i] = securemail.Mark{Lease: l, Status: st, Events: []securemail.Event{event(l.Parcel.Actor, st)}}
		}
		if err := q.Mark(ctx, marks...); err != nil {
			return err
		}
		settled.Add(int64(len(ls)))
	}
}
