package transporttest

import (
	"context"
	"errors"
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

func (tc testcase) String() string { return tc.group + "/" + tc.name }

// Run runs the kit, each case as a subtest "group/name", and lists what was skipped at the end.
func Run(t *testing.T, h Harness) {
	t.Helper()
	fallback, restore := watchDefault()
	defer restore()
	var skipped []string
	for _, tc := range allCases() {
		t.Run(tc.String(), func(t *testing.T) {
			c := runCase(t.Context(), h, tc, fallback)
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
	return check(ctx, h, nil, func(testcase) bool { return true })
}

func check(ctx context.Context, h Harness, fallback *capture, want func(testcase) bool) *Report {
	r := &Report{}
	for _, tc := range allCases() {
		if ctx.Err() != nil {
			return r
		}
		if !want(tc) {
			continue
		}
		c := runCase(ctx, h, tc, fallback)
		if c.skip != "" {
			r.Skipped = append(r.Skipped, c.skip)
			continue
		}
		r.Cases++
		r.Failures = append(r.Failures, c.failures...)
	}
	return r
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
