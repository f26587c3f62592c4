//go:build interop

package notice_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

func servers() map[string]func(testing.TB) *sql.DB {
	return map[string]func(testing.TB) *sql.DB{"postgres": func(t testing.TB) *sql.DB { return sqldbtest.Postgres(t)() }}
}
