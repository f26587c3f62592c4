//go:build interop

package transport_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

// servers are the databases that need a server: the PostgreSQL that POSTSEAL_PG_DSN names.
func servers() map[string]func(testing.TB) func() *sql.DB {
	return map[string]func(testing.TB) func() *sql.DB{"postgres": sqldbtest.Postgres}
}
