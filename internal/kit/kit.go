// Package kit is what the conformance kits share: a case that ends early without failing the test that runs it, a handler
// that keeps what is logged, and the search for planted words. What the cases check is each kit's own.
package kit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
)

// Failure is one broken rule.
type Failure struct {
	// Case is the case's name; Rule is what must hold and where it is written; Detail is what was seen.
	Case, Rule, Detail string
}

// Case is one run of one case: the small part of testing.TB that the cases need, so that a kit can judge a broken
// implementation without failing the test that runs it. It is for one goroutine, but for Ctx and Fallback.
type Case struct {
	Name string
	// Fallback is what went to slog's default logger; nil: not watched.
	Fallback *Capture

	// Ctx is that of the run, and ends with it.
	Ctx      context.Context
	Failures []Failure
	// Skip is "name: why"; empty if the case was run.
	Skip    string
	closers []func()
}

// Run runs f in a goroutine of its own, which Stopf and Skipf may end, and then what Closes was given, the last first. A
// panic breaks the rule noPanic.
func (c *Case) Run(ctx context.Context, noPanic string, f func()) {
	ctx, cancel := context.WithCancel(ctx)
	c.Ctx = ctx
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		defer c.close()
		defer func() {
			if p := recover(); p != nil {
				c.Failf(noPanic, "panic: %s", PanicText(p))
			}
		}()
		f()
	}()
	<-done
}

func (c *Case) close() {
	for _, f := range slices.Backward(c.closers) {
		f()
	}
}

// Closes lets f run at the end.
func (c *Case) Closes(f func()) { c.closers = append(c.closers, f) }

// Failf notes a broken rule and goes on.
func (c *Case) Failf(rule, format string, args ...any) {
	c.Failures = append(c.Failures, Failure{c.Name, rule, fmt.Sprintf(format, args...)})
}

// Stopf notes a broken rule and ends the case.
func (c *Case) Stopf(rule, format string, args ...any) {
	c.Failf(rule, format, args...)
	runtime.Goexit()
}

// Skipf ends the case as not run.
func (c *Case) Skipf(format string, args ...any) {
	c.Skip = c.Name + ": " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// Subtests runs a subtest for each of names, which fails or is skipped as its case was, and lists what was skipped at the
// end. The case of names[i] is result(ctx, i).
func Subtests(t *testing.T, names []string, result func(ctx context.Context, i int) *Case) {
	t.Helper()
	var skipped []string
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			c := result(t.Context(), i)
			for _, f := range c.Failures {
				t.Errorf("%s\n\trule: %s", f.Detail, f.Rule)
			}
			if c.Skip != "" {
				skipped = append(skipped, c.Skip)
				t.Skip(c.Skip)
			}
		})
	}
	for _, s := range skipped {
		t.Log("skipped: " + s)
	}
}

// PanicText keeps the type only, unless the runtime panicked: a panic's text may hold anything.
func PanicText(p any) string {
	if err, ok := p.(error); ok {
		if re, ok := errors.AsType[runtime.Error](err); ok {
			return re.Error()
		}
	}
	return fmt.Sprintf("%T", p)
}
