//go:build !interop

package keys_test

import (
	"database/sql"
	"testing"
)

// servers are databases that need a server; see postgres_interop_test.go.
func servers() map[string]func(testing.TB) *sql.DB { return nil }
