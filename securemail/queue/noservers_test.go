//go:build !interop

package queue_test

func servers() map[string]opener { return nil }
