package transporttest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Failure is one broken rule.
type Failure struct {
	// Case is "group/name"; Rule is what must hold and where it is written; Detail is what was seen.
	Case, Rule, Detail string
}

// Report is what [Check] found.
type Report struct {
	// Cases is how many were run, without the skipped.
	Cases    int
	Failures []Failure
	// Skipped are the cases that could not be run, as "group/name: why".
	Skipped []string
}

// testcase is one case; run reports to c.
type testcase struct {
	group, name string
	run         func(c *checker)
}

// alone says that tc looks at the whole process and bears no other case beside it.
func (tc testcase) alone() bool { return tc.name == string(HugeReply) }

func (tc testcase) String() string { return tc.group + "/" + tc.name }

// Run runs the kit, each case as a subtest "group/name", and lists what was skipped at the end. Cases run several at once,
// since they wait more than they work; a subtest reports its case.
func Run(t *testing.T, h Harness) {
	t.Helper()
	fallback, restore := watchDefault()
	defer restore()
	r := &runner{h: h, fallback: fallback, cases: allCases(), width: together}
	if picked := flag.Lookup("test.run"); picked != nil && strings.Count(picked.Value.String(), "/") > strings.Count(t.Name(), "/") {
		r.width = 1 // some cases are asked for by name: each runs when its turn comes
	}
	wait := r.start(t.Context())
	defer wait()
	var skipped []string
	for i, tc := range r.cases {
		t.Run(tc.String(), func(t *testing.T) {
			c := r.result(i)
			for _, f := range c.failures {
				t.Errorf("%s\n\trule: %s", f.Detail, f.Rule)
			}
			if c.skip != "" {
				skipped = append(skipped, c.skip)
				t.Skip(c.skip)
			}
		})
	}
	for _, s := range skipped {
		t.Log("skipped: " + s)
	}
}

// watchDefault puts a capture in place of log/slog's default logger.
func watchDefault() (c *capture, restore func()) {
	c, old := newCapture(), slog.Default()
	slog.SetDefault(slog.New(c))
	return c, func() { slog.SetDefault(old) }
}

// Check runs the kit and returns what it found; ctx ends it early. Unlike Run it leaves log/slog's default logger alone.
func Check(ctx context.Context, h Harness) *Report {
	r := &runner{h: h, cases: allCases(), width: together}
	return r.report(ctx, func(Failure) bool { return false })
}

// together is how many cases run at once.
const together = 16

// runner runs cases, width at once.
type runner struct {
	h        Harness
	fallback *capture
	cases    []testcase
	width    int

	results []func() *checker // each runs its case the first time it is asked
	shared  sync.WaitGroup    // the cases that run ahead
}

// start lets cases run ahead of who asks for them; wait waits for these.
func (r *runner) start(ctx context.Context) (wait func()) {
	slots := make(chan struct{}, r.width)
	for _, tc := range r.cases {
		r.results = append(r.results, sync.OnceValue(func() *checker {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return &checker{}
			}
			return runCase(ctx, r.h, tc, r.fallback)
		}))
	}
	for i, tc := range r.cases {
		if r.width > 1 && !tc.alone() {
			r.shared.Go(func() { _ = r.results[i]() })
		}
	}
	return r.shared.Wait
}

func (r *runner) result(i int) *checker {
	if r.cases[i].alone() {
		r.shared.Wait()
	}
	return r.results[i]()
}

// report runs all cases, or up to the first failure that enough is true for.
func (r *runner) report(ctx context.Context, enough func(Failure) bool) *Report {
	rep := &Report{}
	if ctx.Err() != nil {
		return rep
	}
	ctx, cancel := context.WithCancel(ctx)
	wait := r.start(ctx)
	defer wait()
	defer cancel()
	for i := range r.cases {
		c := r.result(i)
		if ctx.Err() != nil {
			return rep
		}
		if c.skip != "" {
			rep.Skipped = append(rep.Skipped, c.skip)
			continue
		}
		rep.Cases++
		rep.Failures = append(rep.Failures, c.failures...)
		if slices.ContainsFunc(c.failures, enough) {
			return rep
		}
	}
	return rep
}

// runCase runs tc in a goroutine of its own, which fatal may end.
func runCase(ctx context.Context, h Harness, tc testcase, fallback *capture) *checker {
	ctx, cancel := context.WithCancel(ctx)
	c := &checker{h: h, name: tc.String(), ctx: ctx, fallback: fallback}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		defer c.cleanup()
		defer func() {
			if p := recover(); p != nil {
				c.failf("a case must not panic", "panic: %s", panicText(p))
			}
		}()
		tc.run(c)
	}()
	<-done
	return c
}

// panicText keeps the type only: a panic's text may hold anything.
func panicText(p any) string {
	if err, ok := errors.AsType[runtime.Error](asError(p)); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", p)
}

func asError(p any) error {
	err, _ := p.(error)
	return err
}

// checker is one run of one case: the small part of testing.TB that the cases need, so that the kit can judge a broken
// transport without failing the test that runs it.
type checker struct {
	h        Harness
	name     string
	ctx      context.Context
	fallback *capture // what went to slog's default logger; nil: not watched
	failures []Failure
	skip     string
	closers  []func()
}

// failf notes a broken rule and goes on.
func (c *checker) failf(rule, format string, args ...any) {
	c.failures = append(c.failures, Failure{c.name, rule, fmt.Sprintf(format, args...)})
}

// skipf ends the case as not run.
func (c *checker) skipf(format string, args ...any) {
	c.skip = c.name + ": " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (c *checker) cleanup() {
	for _, f := range slices.Backward(c.closers) {
		f()
	}
}

// rig asks the harness for a fresh rig; the case ends here if there is none.
func (c *checker) rig(b Behaviour) *bench {
	words := newCanaries()
	logs := newCapture()
	r, err := c.h.New(c.ctx, Setup{Behaviour: b, Echo: words.echo(), Logger: slog.New(logs)})
	switch {
	case errors.Is(err, errors.ErrUnsupported) && !required(b):
		c.skipf("%s", strings.TrimSuffix(err.Error(), ": "+errors.ErrUnsupported.Error()))
	case err != nil:
		c.failf(ruleHarness, "the harness can't build %s: %v", b, err)
		runtime.Goexit()
	case r == nil || r.Transport == nil || r.Far == nil || r.Close == nil:
		c.failf(ruleHarness, "the rig for %s has no Transport, Far or Close", b)
		runtime.Goexit()
	}
	r.Close = sync.OnceFunc(r.Close)
	c.closers = append(c.closers, r.Close)
	return &bench{c: c, Rig: r, behaviour: b, words: words, logs: logs}
}
