package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

const (
	// crowd is how many callers want the same mail host at once, and mostConnections how many connections it may get.
	crowd           = 200
	mostConnections = 20
	// idleMost is how many destinations are left idle, and idleOctets what each may cost.
	idleMost   = 10000
	idleOctets = 1024
)

// destinations reports what ours keeps for destinations that it has delivered to, and for one that it delivers much to.
func destinations(ctx context.Context, f *far, s settings, report func(Result)) error {
	goroutines := runtime.NumGoroutine()
	t, err := newTransport(f.target(f.addrs.Plain, plain), nil)
	if err != nil {
		return err
	}
	defer t.Close()
	row := func(name, unit string, value, goal float64) {
		report(Result{Area: "channel", Name: name, Value: value, Unit: unit, Peer: "goal", PeerValue: goal, Floor: 1}.compare())
	}
	n := min(s.messages, idleMost)
	octets, err := idle(ctx, t, n)
	if err != nil {
		return err
	}
	row(fmt.Sprintf("idle destination, of %d", n), "B", max(1, octets), idleOctets)
	most, err := busy(ctx, f, t)
	if err != nil {
		return err
	}
	row(fmt.Sprintf("connections for %d callers", crowd), "open", float64(most), mostConnections)
	if err := t.Close(); err != nil {
		return err
	}
	row("goroutines after Close", "left", float64(settled(goroutines)), float64(goroutines))
	return nil
}

// idle delivers one message to each of n domains and says what each has left behind on the heap.
func idle(ctx context.Context, t *smtp.Transport, n int) (float64, error) {
	const before = 100 // what is there once, whatever the number of destinations
	if err := visit(ctx, t, 0, before); err != nil {
		return 0, err
	}
	base := heap()
	if err := visit(ctx, t, before, before+n); err != nil {
		return 0, err
	}
	return (heap() - base) / float64(n), nil
}

// visit delivers to the domains from first up to end.
func visit(ctx context.Context, t *smtp.Transport, first, end int) error {
	var next atomic.Int64
	next.Store(int64(first))
	return together(make([]client, 16), func(client) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= end {
				return nil
			}
			s, err := shipment(plain, "anna@clinic-"+strconv.Itoa(i)+".bench.test")
			if err != nil {
				return err
			}
			if _, err := t.Deliver(ctx, s); err != nil {
				return err
			}
		}
	})
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// busy lets a crowd deliver to one domain and says how many connections the far end had at most.
func busy(ctx context.Context, f *far, t *smtp.Transport) (int, error) {
	s, err := shipment(plain, recipient)
	if err != nil {
		return 0, err
	}
	if _, err := f.tally(); err != nil {
		return 0, err
	}
	err = together(make([]client, crowd), func(client) error {
		for range 5 {
			_, err := t.Deliver(ctx, s)
			if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Fate == securemail.FateRetry && de.RetryAfter > 0 {
				continue // turned away
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	seen, err := f.tally()
	return seen.Most, err
}

// settled is how many goroutines there are once those that end have ended.
func settled(want int) int {
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > want && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return runtime.NumGoroutine()
}
