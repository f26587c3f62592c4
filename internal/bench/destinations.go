package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

const (
	// crowd is how many callers want the same mail host at once, and mostConnections how many connections it may get: the
	// default of smtp.Limits.
	crowd           = 200
	mostConnections = 20
	// idleMost is how many destinations are left idle, and idleOctets what each may cost.
	idleMost   = 10000
	idleOctets = 1024
)

// hostEach gives each domain a mail host of its own, at an address told by the number in the name.
type hostEach struct{}

// MX implements smtp.Resolver.
func (hostEach) MX(_ context.Context, domain string) (smtp.MXSet, error) {
	return smtp.MXSet{Hosts: []smtp.MX{{Host: "mx." + domain, Preference: 10}}, TTL: time.Hour}, nil
}

// Addrs implements smtp.Resolver.
func (hostEach) Addrs(_ context.Context, host string) (smtp.AddrSet, error) {
	_, number, _ := strings.Cut(host, "-")
	number, _, _ = strings.Cut(number, ".")
	n, _ := strconv.Atoi(number)
	b := binary.BigEndian.AppendUint32(nil, 10<<24+uint32(n))
	return smtp.AddrSet{Addrs: []netip.Addr{netip.AddrFrom4([4]byte(b))}, TTL: time.Hour}, nil
}

// destinations reports what ours keeps for destinations that it has delivered to, and for one that it delivers much to.
func destinations(ctx context.Context, f *far, s settings, report func(Result)) error {
	row := func(name, unit string, value, goal float64) {
		report(Result{Area: "channel", Name: name, Value: value, Unit: unit, Peer: "goal", PeerValue: goal, Floor: 1}.compare())
	}
	goroutines := runtime.NumGoroutine()
	n := min(s.messages, idleMost)
	octets, err := idle(ctx, f, n)
	if err != nil {
		return err
	}
	row(fmt.Sprintf("idle destination, of %d", n), "B", max(1, octets), idleOctets)
	most, err := busy(ctx, f)
	if err != nil {
		return err
	}
	row(fmt.Sprintf("connections for %d callers", crowd), "open", float64(most), mostConnections)
	row("goroutines after Close", "left", float64(settled(goroutines)), float64(goroutines))
	return nil
}

// idle delivers one message to each of n domains, with a mail host each, and says what each has left behind on the heap.
func idle(ctx context.Context, f *far, n int) (octets float64, err error) {
	t, err := newTransport(f.target(f.addrs.Plain, plain), func(o *smtp.Options) {
		o.Resolver = hostEach{}
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, f.addrs.Plain)
		}
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
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
func busy(ctx context.Context, f *far) (most int, err error) {
	t, err := newTransport(f.target(f.addrs.Plain, plain), func(o *smtp.Options) {
		o.MaxIdlePerHost = mostConnections // kept, so that none is on its way out while another is counted
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	s, err := shipment(plain, recipient)
	if err != nil {
		return 0, err
	}
	if err := f.quiet(); err != nil {
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

// quiet waits until the far end has no connection, so that its count of the most begins anew.
func (f *far) quiet() error {
	for end := time.Now().Add(5 * time.Second); ; {
		seen, err := f.tally()
		switch {
		case err != nil || seen.Open == 0:
			return err
		case time.Now().After(end):
			return fmt.Errorf("%d connections are still open", seen.Open)
		}
		time.Sleep(time.Millisecond)
	}
}

// settled is how many goroutines there are once those that end have ended.
func settled(want int) int {
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > want && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return runtime.NumGoroutine()
}
