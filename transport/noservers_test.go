//go:build !interop

package transport_test

import (
	"database/sql"
	"testing"
)

// servers are databases that need a server, as handles on one each; see postgres_interop_test.go.
func servers() map[string]func(testing.TB) func() *sql.DB { return nil }
