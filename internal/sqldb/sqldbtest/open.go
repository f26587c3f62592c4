package sqldbtest

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// Safe are the parameters of a SQLite data source that is as durable as sqldb wants it.
const Safe = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)"

// SQLite opens the file path with the driver "sqlite", which the caller links, until the test ends.
func SQLite(t testing.TB, path, params string) *sql.DB {
	t.Helper()
	return open(t, "sqlite", "file:"+path+params)
}

// DSN names the PostgreSQL of the interop lane, a postgres:// URL with parameters. The test fails where there is none.
func DSN(t testing.TB) string {
	t.Helper()
	dsn := os.Getenv("POSTSEAL_PG_DSN")
	if dsn == "" {
		t.Fatal("the interop lane needs POSTSEAL_PG_DSN, such as postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")
	}
	return dsn
}

// Postgres makes a schema of its own in the database that [DSN] names, and gives handles on it, all until the test ends. The
// schema is also their application_name, so that a test can tell its connections from those of others.
// The driver is "pgx", which the caller links.
func Postgres(t testing.TB) func() *sql.DB {
	t.Helper()
	dsn, schema := DSN(t), fmt.Sprintf("t%d", rand.Uint64())
	admin := open(t, "pgx", dsn)
	if _, err := admin.Exec("CREATE SCHEMA " + schema); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP SCHEMA " + schema + " CASCADE"); err != nil {
			t.Error(err)
		}
	})
	return func() *sql.DB {
		t.Helper()
		return open(t, "pgx", dsn+"&search_path="+schema+"&application_name="+schema)
	}
}

func open(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
