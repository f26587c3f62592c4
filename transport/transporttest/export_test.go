package transporttest

import "context"

// CheckCases is Check for the cases whose "group/name" want names. With watch it also looks at log/slog's default
// logger, as Run does.
func CheckCases(ctx context.Context, h Harness, watch bool, want func(name string) bool) *Report {
	var fallback *capture
	if watch {
		c, restore := watchDefault()
		defer restore()
		fallback = c
	}
	return check(ctx, h, fallback, func(tc testcase) bool { return want(tc.String()) })
}
