//go:build interop

package posture_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

// servers are the databases that need a server: the PostgreSQL that POSTSEAL_PG_DSN names.
func servers() map[string]opener {
	return map[string]opener{
		"postgres": sqldbtest.Postgres,
		"postgres one connection": func(t testing.TB) func() *sql.DB {
			again := sqldbtest.Postgres(t)
			return func() *sql.DB {
				db := again()
				db.SetMaxOpenConns(1)
				return db
			}
		},
	}
}
