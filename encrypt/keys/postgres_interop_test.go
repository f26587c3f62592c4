//go:build interop

package keys_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

// servers are the databases that need a server.
func servers() map[string]func(testing.TB) *sql.DB {
	return map[string]func(testing.TB) *sql.DB{"postgres": openPostgres}
}

// openPostgres gives a schema of its own in the database that POSTSEAL_PG_DSN names, a postgres:// URL.
func openPostgres(t testing.TB) *sql.DB {
	t.Helper()
	dsn := os.Getenv("POSTSEAL_PG_DSN")
	require.NotEmpty(t, dsn, "the interop lane needs POSTSEAL_PG_DSN, such as postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")
	admin, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	schema := fmt.Sprintf("t%d", rand.Uint64())
	_, err = admin.Exec("CREATE SCHEMA " + schema)
	require.NoError(t, err)
	db, err := sql.Open("pgx", dsn+"&search_path="+schema)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, db.Close())
		_, err := admin.Exec("DROP SCHEMA " + schema + " CASCADE")
		require.NoError(t, err)
		require.NoError(t, admin.Close())
	})
	return db
}
