package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// scenery is one comparison: who delivers to which far end, and what ours should reach.
type scenery struct {
	name string
	to   target
	// entrants are ours, first, and theirs.
	entrants []entrant
	goals    goals
}

// entrant is a client at work.
type entrant struct {
	driver
	// callers deliver at once; messages is how many all of them deliver in a round.
	callers, messages int
	// connections is how many there may be; 0: any number.
	connections int
}

// each lets all drivers do the same work.
func each(ds []driver, callers, messages int) []entrant {
	out := make([]entrant, len(ds))
	for i, d := range ds {
		out[i] = entrant{driver: d, callers: callers, messages: messages}
	}
	return out
}

// goals are floors: how many times better than each peer ours should be, 1 where there is none, and what it should reach
// whatever the others do, 0 for nothing. Negative: no row.
type goals struct {
	rate, cpu  map[string]float64
	least      float64 // messages a second
	most       float64 // microseconds of CPU a message
	withoutCPU bool    // no rows for it
}

func floor(of map[string]float64, peer string) float64 {
	if f, ok := of[peer]; ok {
		return f
	}
	return 1
}

// play runs sc: a round is each entrant once, so that a slow moment of the machine meets all of them.
func play(ctx context.Context, sc scenery, rounds int, report func(Result)) error {
	rate, cpu := make([][]float64, len(sc.entrants)), make([][]float64, len(sc.entrants))
	for range rounds {
		for i, e := range sc.entrants {
			r, c, err := round(ctx, sc.to, e)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", e.name, sc.name, err)
			}
			rate[i], cpu[i] = append(rate[i], r), append(cpu[i], c)
		}
	}
	row := func(name, unit, peer string, figures [2]float64, floor float64) {
		report(Result{Area: "channel", Name: name, Value: figures[0], Unit: unit, Peer: peer, PeerValue: figures[1], Floor: floor}.compare())
	}
	for i, e := range sc.entrants[1:] {
		row(sc.name, "msg/s", e.name, [2]float64{median(rate[0]), median(rate[i+1])}, floor(sc.goals.rate, e.name))
	}
	if sc.goals.least > 0 {
		row(sc.name, "msg/s", "goal", [2]float64{median(rate[0]), sc.goals.least}, 1)
	}
	if sc.goals.withoutCPU {
		return nil
	}
	for i, e := range sc.entrants[1:] {
		row(sc.name+" CPU", "us", e.name, [2]float64{median(cpu[0]), median(cpu[i+1])}, floor(sc.goals.cpu, e.name))
	}
	if sc.goals.most > 0 {
		row(sc.name+" CPU", "us", "goal", [2]float64{median(cpu[0]), sc.goals.most}, 1)
	}
	return nil
}

// round delivers all of e's messages once and returns messages a second and microseconds of CPU a message. Connections
// are set up, and one message sent by each caller, before the clock starts.
func round(ctx context.Context, to target, e entrant) (rate, cpu float64, err error) {
	clients, err := e.open(ctx, to, e.callers)
	defer func() {
		for _, c := range clients {
			err = errors.Join(err, c.close())
		}
	}()
	if err != nil {
		return 0, 0, err
	}
	if err := together(clients, func(c client) error { return c.deliver(ctx) }); err != nil {
		return 0, 0, err
	}
	check, err := watch(to, e)
	if err != nil {
		return 0, 0, err
	}
	each := max(1, e.messages/e.callers)
	cpu0, start := cpuTime(), time.Now()
	if err := together(clients, func(c client) error { return repeat(ctx, c, each) }); err != nil {
		return 0, 0, err
	}
	took, used, n := time.Since(start), cpuTime()-cpu0, each*len(clients)
	return float64(n) / took.Seconds(), float64(used.Microseconds()) / float64(n), check(n)
}

// watch makes the check that n messages have come in since, over no more connections than e may have.
func watch(to target, e entrant) (check func(n int) error, err error) {
	if to.tally == nil {
		return func(int) error { return nil }, nil
	}
	before, err := to.tally()
	return func(n int) error {
		after, err := to.tally()
		// Those of the entrant before may be on their way out yet.
		for end := time.Now().Add(5 * time.Second); err == nil && e.connections > 0 && after.Open > e.connections; {
			if time.Now().After(end) {
				return fmt.Errorf("%d connections, not %d", after.Open, e.connections)
			}
			time.Sleep(time.Millisecond)
			after, err = to.tally()
		}
		if got := after.Messages - before.Messages; err == nil && got != n {
			return fmt.Errorf("the far end counted %d messages of %d", got, n)
		}
		return err
	}, err
}

func repeat(ctx context.Context, c client, n int) error {
	for range n {
		if err := c.deliver(ctx); err != nil {
			return err
		}
	}
	return nil
}

func together(clients []client, do func(client) error) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { errs[i] = do(c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cpuTime is the CPU time of this process so far, user and system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
