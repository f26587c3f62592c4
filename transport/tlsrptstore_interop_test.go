//go:build interop

package transport_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

// tlsrptServers are the databases that need a server: the one that POSTSEAL_PG_DSN names.
func tlsrptServers() map[string]func(testing.TB) func() *sql.DB {
	return map[string]func(testing.TB) func() *sql.DB{"postgres": sqldbtest.Postgres}
}
