package transporttest

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postseal/postseal/internal/kit"
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
	fallback, restore := kit.WatchDefault()
	defer restore()
	r := &runner{h: h, fallback: fallback, cases: allCases(), width: together}
	if picked := flag.Lookup("test.run"); picked != nil && strings.Count(picked.Value.String(), "/") > strings.Count(t.Name(), "/") {
		r.width = 1 // some cases are asked for by name: each runs when its turn comes
	}
	wait := r.start(t.Context())
	defer wait()
	var names []string
	for _, tc := range r.cases {
		names = append(names, tc.String())
	}
	kit.Subtests(t, names, func(_ context.Context, i int) *kit.Case { return r.result(i) })
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
	fallback *kit.Capture
	cases    []testcase
	width    int

	results []func() *kit.Case // each runs its case the first time it is asked
	shared  sync.WaitGroup     // the cases that run ahead
}

// start lets cases run ahead of who asks for them; wait waits for these.
func (r *runner) start(ctx context.Context) (wait func()) {
	slots := make(chan struct{}, r.width)
	for _, tc := range r.cases {
		r.results = append(r.results, sync.OnceValue(func() *kit.Case {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return &kit.Case{}
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

func (r *runner) result(i int) *kit.Case {
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
		if c.Skip != "" {
			rep.Skipped = append(rep.Skipped, c.Skip)
			continue
		}
		rep.Cases++
		first := len(rep.Failures)
		for _, f := range c.Failures {
			rep.Failures = append(rep.Failures, Failure(f))
		}
		if slices.ContainsFunc(rep.Failures[first:], enough) {
			return rep
		}
	}
	return rep
}

// checker is what a case reports to.
type checker struct {
	kit.Case
	h Harness
}

func runCase(ctx context.Context, h Harness, tc testcase, fallback *kit.Capture) *kit.Case {
	c := &checker{kit.Case{Name: tc.String(), Fallback: fallback}, h}
	c.Run(ctx, "a case must not panic", func() { tc.run(c) })
	return &c.Case
}

// rig asks the harness for a fresh rig; the case ends here if there is none.
func (c *checker) rig(b Behaviour) *bench {
	words := newCanaries()
	logs := kit.NewCapture()
	r, err := c.h.New(c.Ctx, Setup{Behaviour: b, Echo: words.echo(), Logger: slog.New(logs)})
	switch {
	case errors.Is(err, errors.ErrUnsupported) && !required(b):
		c.Skipf("%s", strings.TrimSuffix(err.Error(), ": "+errors.ErrUnsupported.Error()))
	case err != nil:
		c.Stopf(ruleHarness, "the harness can't build %s: %v", b, err)
	case r == nil || r.Transport == nil || r.Far == nil || r.Close == nil:
		c.Stopf(ruleHarness, "the rig for %s has no Transport, Far or Close", b)
	}
	r.Close = sync.OnceFunc(r.Close)
	c.Closes(r.Close)
	return &bench{c: c, Rig: r, behaviour: b, words: words, logs: logs}
}
