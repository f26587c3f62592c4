package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"
)

// messageSize is the length of the message, in octets.
const messageSize = 4 << 10

const (
	sender    = "clinic@sender.test"
	recipient = "anna@bench.test"
)

// driver is one SMTP client. open makes one for each of n goroutines, connected or about to be.
type driver struct {
	name string
	open func(ctx context.Context, f *far, w wire, n int) ([]client, error)
}

// single makes the open of a client that has one connection.
func single(dial func(ctx context.Context, f *far, w wire) (client, error)) func(context.Context, *far, wire, int) ([]client, error) {
	return func(ctx context.Context, f *far, w wire, n int) ([]client, error) {
		var cs []client
		for range n {
			c, err := dial(ctx, f, w)
			if err != nil {
				return cs, err
			}
			cs = append(cs, c)
		}
		return cs, nil
	}
}

// wire says whether the client must use STARTTLS.
type wire string

const (
	plain    wire = "plain"
	starttls wire = "starttls"
)

// client delivers for one goroutine.
type client interface {
	deliver(ctx context.Context) error
	close() error
}

// drivers are ours, first, and theirs.
func drivers() []driver {
	return []driver{ours(), goMail(), netSMTP(), mox()}
}

// message is what everybody delivers.
func message() []byte {
	var b strings.Builder
	b.WriteString("From: Clinic <" + sender + ">\r\nTo: Anna <" + recipient + ">\r\nSubject: Your appointment\r\n" +
		"Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nMessage-ID: <bench@sender.test>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=us-ascii\r\n\r\n")
	for b.Len() < messageSize {
		b.WriteString("Please come on Tuesday at ten to room four and bring your card.\r\n")
	}
	return []byte(b.String())
}

// channel delivers to one far end with each driver in turn, in clear and under STARTTLS, with one connection and with
// eight, each connection reused. A round is each driver once, so that a slow moment of the machine meets all of them.
func channel(ctx context.Context, s settings, report func(Result)) error {
	f, err := startSink()
	if err != nil {
		return err
	}
	defer f.stop()
	for _, w := range []wire{plain, starttls} {
		for _, c := range []int{1, 8} {
			if err := scene(ctx, f, scenery{w, c, s}, report); err != nil {
				return err
			}
		}
	}
	return nil
}

type scenery struct {
	wire        wire
	connections int
	settings
}

func scene(ctx context.Context, f *far, sc scenery, report func(Result)) error {
	ds := drivers()
	rate, cpu := make([][]float64, len(ds)), make([][]float64, len(ds))
	for range sc.rounds {
		for i, d := range ds {
			r, c, err := round(ctx, f, d, sc)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", d.name, sc.wire, err)
			}
			rate[i], cpu[i] = append(rate[i], r), append(cpu[i], c)
		}
	}
	name := fmt.Sprintf("%s C=%d reuse", sc.wire, sc.connections)
	for i, d := range ds[1:] {
		report(Result{Area: "channel", Name: name, Value: median(rate[0]), Unit: "msg/s", Peer: d.name,
			PeerValue: median(rate[i+1]), Floor: 1}.compare())
	}
	for i, d := range ds[1:] {
		report(Result{Area: "channel", Name: name + " CPU a message", Value: median(cpu[0]), Unit: "us", Peer: d.name,
			PeerValue: median(cpu[i+1]), Floor: 1}.compare())
	}
	return nil
}

// round delivers all messages once with d and returns messages a second and microseconds of CPU a message. Connections
// are set up, and one message sent on each, before the clock starts.
func round(ctx context.Context, f *far, d driver, sc scenery) (rate, cpu float64, err error) {
	clients, err := d.open(ctx, f, sc.wire, sc.connections)
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
	before, err := f.count()
	if err != nil {
		return 0, 0, err
	}
	each := max(1, sc.messages/sc.connections)
	cpu0, start := cpuTime(), time.Now()
	if err := together(clients, func(c client) error { return repeat(ctx, c, each) }); err != nil {
		return 0, 0, err
	}
	took, used, n := time.Since(start), cpuTime()-cpu0, each*len(clients)
	after, err := f.count()
	if err == nil && after-before != n {
		err = fmt.Errorf("the far end counted %d messages of %d", after-before, n)
	}
	return float64(n) / took.Seconds(), float64(used.Microseconds()) / float64(n), err
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
