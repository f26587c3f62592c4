// Command channel tells two days of an operator who delivers the mail of two clinics to other people's mail hosts: what
// each host proved before the mail went there, what became of an attack, and who was told of it.
//
// It needs no set-up and no network beyond loopback: five mail hosts, their DNS, a policy server and the attacker run in
// this process, and the clock is moved by hand. operator.go is what a host program copies, world.go is everybody else.
//
//	go run ./examples/channel
//
// It prints what happened, and exits 1 if anything is not as it should be.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "channel:", err)
		os.Exit(1)
	}
}

// story is what the chapters share.
type story struct {
	*operator
	world *world
	clock *clock
	out   io.Writer
}

func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "postseal-channel-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	clock := &clock{now: time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)}
	world, err := newWorld()
	if err != nil {
		return err
	}
	defer world.close()
	op, err := newOperator(ctx, filepath.Join(dir, "mail.db"), world, clock)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, op.Close()) }()

	s := &story{operator: op, world: world, clock: clock, out: out}
	for _, chapter := range []struct {
		after time.Duration
		title string
		tell  func(context.Context) error
	}{
		{0, "Five domains, and what each proves", s.deliver},
		{time.Hour, "Somebody on the wire", s.attack},
		{4 * time.Hour, "The wire is mended", s.repair},
		{15 * time.Hour, "The next day: two clinics, two names, a new key", s.tenants},
		{0, "The report on yesterday", s.report},
	} {
		clock.pass(chapter.after)
		fmt.Fprintf(out, "\n%s - %s\n\n", clock.Now().Format("Mon 15:04"), chapter.title)
		if err := chapter.tell(ctx); err != nil {
			return fmt.Errorf("%s: %w", chapter.title, err)
		}
	}
	return nil
}

// clock is the time of the story.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is what every part takes for the time.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
