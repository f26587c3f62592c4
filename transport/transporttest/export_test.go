package transporttest

import (
	"context"
	"slices"

	"github.com/postseal/postseal/internal/kit"
)

// CheckCases is Check for the cases whose "group/name" want names, a few at once, up to the first failure that
// enough is true for. With watch it also looks at log/slog's default logger, as Run does.
func CheckCases(ctx context.Context, h Harness, watch bool, want func(name string) bool, enough func(Failure) bool) *Report {
	r := &runner{h: h, width: 4}
	if watch {
		c, restore := kit.WatchDefault()
		defer restore()
		r.fallback = c
	}
	r.cases = slices.DeleteFunc(allCases(), func(tc testcase) bool { return !want(tc.String()) })
	return r.report(ctx, enough)
}
