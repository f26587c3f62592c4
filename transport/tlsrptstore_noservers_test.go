//go:build !interop

package transport_test

import (
	"database/sql"
	"testing"
)

// tlsrptServers are databases that need a server; see tlsrptstore_interop_test.go.
func tlsrptServers() map[string]func(testing.TB) func() *sql.DB {
	return map[string]func(testing.TB) func() *sql.DB{}
}
