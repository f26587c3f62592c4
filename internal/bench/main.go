// Command bench prints what this library does beside what others do at the same work, on the same machine, in turn.
//
// It is a module of its own, so that the others stay out of the library's go.mod. Read the ratios: the absolute figures
// are those of one machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
)

// settings are the flags: how much work, how often.
type settings struct {
	// messages is the work of one round, rounds how often each competitor does it.
	messages, rounds int
	// only are the scenes of the area channel that count; nil: all.
	only *regexp.Regexp
}

// area measures one thing. It calls report for each result as soon as it has it.
type area func(ctx context.Context, s settings, report func(Result)) error

func areas() map[string]area {
	return map[string]area{"channel": channel, "durable": durable}
}

// errNothing says that an area has no measurements.
var errNothing = errors.New("no measurements in this area yet")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, errNothing), errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if is, err := child(ctx, args); is {
		return err
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "one JSON object a line")
	var s settings
	fs.IntVar(&s.messages, "n", 15000, "messages a round")
	fs.IntVar(&s.rounds, "rounds", 5, "rounds, of which the median counts")
	fs.Func("only", "scenes of the area channel whose names match this pattern", func(p string) (err error) {
		s.only, err = regexp.Compile(p)
		return err
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if s.messages < 1 || s.rounds < 1 {
		return errors.New("-n and -rounds must be positive")
	}
	all := areas()
	names := fs.Args()
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(all))
	}
	print := printer(os.Stdout, *asJSON)
	for _, name := range names {
		measure, ok := all[name]
		if !ok {
			return fmt.Errorf("%s: %w; there are: %s", name, errNothing, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
		}
		if err := measure(ctx, s, print); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
