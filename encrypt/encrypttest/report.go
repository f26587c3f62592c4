package encrypttest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"testing"
)

// Failure is one broken rule.
type Failure struct {
	// Case is "group/name"; Rule is what must hold and where it is written; Detail is what was seen.
	Case, Rule, Detail string
}

// Report is what [Check] or [CheckKeys] found.
type Report struct {
	// Cases is how many were run, without the skipped.
	Cases    int
	Failures []Failure
	// Skipped are the cases that could not be run, as "group/name: why".
	Skipped []string
}

// testcase is one case; run reports to c.
type testcase struct {
	name string
	run  func(c *checker)
}

// Run runs the kit on an Encryptor, each case as a subtest, and lists what was skipped at the end.
func Run(t *testing.T, h Harness) {
	t.Helper()
	runAll(t, encryptorCases(h))
}

// RunKeys runs the kit on a KeySource.
func RunKeys(t *testing.T, h KeyHarness) {
	t.Helper()
	runAll(t, keyCases(h))
}

// Check runs the kit on an Encryptor and returns what it found; ctx ends it early. Unlike [Run] it leaves log/slog's default
// logger alone.
func Check(ctx context.Context, h Harness) *Report { return check(ctx, encryptorCases(h)) }

// CheckKeys is Check for a KeySource.
func CheckKeys(ctx context.Context, h KeyHarness) *Report { return check(ctx, keyCases(h)) }

func runAll(t *testing.T, cases []testcase) {
	t.Helper()
	fallback, old := newCapture(), slog.Default()
	slog.SetDefault(slog.New(fallback))
	defer slog.SetDefault(old)
	var skipped []string
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := runCase(t.Context(), tc, fallback)
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

func check(ctx context.Context, cases []testcase) *Report {
	r := &Report{}
	for _, tc := range cases {
		if ctx.Err() != nil {
			return r
		}
		c := runCase(ctx, tc, nil)
		if c.skip != "" {
			r.Skipped = append(r.Skipped, c.skip)
			continue
		}
		r.Cases++
		r.Failures = append(r.Failures, c.failures...)
	}
	return r
}

// checker is one run of one case: the small part of testing.TB that the cases need, so that the kit can judge a broken
// implementation without failing the test that runs it.
type checker struct {
	name     string
	ctx      context.Context
	fallback *capture // what went to slog's default logger; nil: not watched
	failures []Failure
	skip     string
	closers  []func()
}

// runCase runs tc in a goroutine of its own, which skipf and stop may end.
func runCase(ctx context.Context, tc testcase, fallback *capture) *checker {
	ctx, cancel := context.WithCancel(ctx)
	c := &checker{name: tc.name, ctx: ctx, fallback: fallback}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		defer c.cleanup()
		defer func() {
			if p := recover(); p != nil {
				c.failf(ruleNoPanic, "panic: %s", panicText(p))
			}
		}()
		tc.run(c)
	}()
	<-done
	return c
}

func (c *checker) cleanup() {
	for _, f := range slices.Backward(c.closers) {
		f()
	}
}

// failf notes a broken rule and goes on.
func (c *checker) failf(rule, format string, args ...any) {
	c.failures = append(c.failures, Failure{c.name, rule, fmt.Sprintf(format, args...)})
}

// stop notes a broken rule and ends the case.
func (c *checker) stop(rule, format string, args ...any) {
	c.failf(rule, format, args...)
	runtime.Goexit()
}

// skipf ends the case as not run.
func (c *checker) skipf(format string, args ...any) {
	c.skip = c.name + ": " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// panicText keeps the type only: a panic's text may hold anything.
func panicText(p any) string {
	if err, ok := p.(error); ok {
		if re, ok := errors.AsType[runtime.Error](err); ok {
			return re.Error()
		}
	}
	return fmt.Sprintf("%T", p)
}
