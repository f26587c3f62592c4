//go:build !interop

package sqldb_test

func servers() map[string]opener { return nil }
