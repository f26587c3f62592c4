package encrypttest

import (
	"context"
	"testing"

	"github.com/postseal/postseal/internal/kit"
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
	fallback, restore := kit.WatchDefault()
	defer restore()
	var names []string
	for _, tc := range cases {
		names = append(names, tc.name)
	}
	kit.Subtests(t, names, func(ctx context.Context, i int) *kit.Case { return runCase(ctx, cases[i], fallback) })
}

func check(ctx context.Context, cases []testcase) *Report {
	r := &Report{}
	for _, tc := range cases {
		if ctx.Err() != nil {
			return r
		}
		c := runCase(ctx, tc, nil)
		if c.Skip != "" {
			r.Skipped = append(r.Skipped, c.Skip)
			continue
		}
		r.Cases++
		for _, f := range c.Failures {
			r.Failures = append(r.Failures, Failure(f))
		}
	}
	return r
}

// checker is what a case reports to.
type checker struct{ kit.Case }

func runCase(ctx context.Context, tc testcase, fallback *kit.Capture) *kit.Case {
	c := &checker{kit.Case{Name: tc.name, Fallback: fallback}}
	c.Run(ctx, ruleNoPanic, func() { tc.run(c) })
	return &c.Case
}
