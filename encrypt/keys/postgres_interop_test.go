//go:build interop

package keys_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

// servers are the databases that need a server.
func servers() map[string]func(testing.TB) *sql.DB {
	return map[string]func(testing.TB) *sql.DB{"postgres": func(t testing.TB) *sql.DB { return sqldbtest.Postgres(t)() }}
}
