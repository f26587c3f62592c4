package encrypttest

import "context"

// CheckCases is Check for the cases whose names want names.
func CheckCases(ctx context.Context, h Harness, want func(name string) bool) *Report {
	var cases []testcase
	for _, tc := range encryptorCases(h) {
		if want(tc.name) {
			cases = append(cases, tc)
		}
	}
	return check(ctx, cases)
}
