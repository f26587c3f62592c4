//go:build !interop

package posture_test

// servers are databases that need a server; see postgres_interop_test.go.
func servers() map[string]opener { return nil }
