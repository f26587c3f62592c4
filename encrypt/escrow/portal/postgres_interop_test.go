//go:build interop

package portal_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

// TestOnPostgres runs the tests that do not look into SQLite's files again, on the server that POSTSEAL_PG_DSN names.
func TestOnPostgres(t *testing.T) {
	dsn := os.Getenv("POSTSEAL_PG_DSN")
	require.NotEmpty(t, dsn, "the interop lane needs POSTSEAL_PG_DSN, such as postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable")
	was := openDB
	defer func() { openDB = was }()
	openDB = func(t *testing.T, _ string) *sql.DB {
		admin, err := sql.Open("pgx", dsn)
		require.NoError(t, err)
		schema := fmt.Sprintf("t%d", rand.Uint64())
		_, err = admin.ExecContext(t.Context(), "CREATE SCHEMA "+schema)
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
	for name, test := range map[string]func(*testing.T){
		"ReadWithMailedCode":      TestReadWithMailedCode,
		"WrongCodes":              TestWrongCodes,
		"CodeWorksOnceAtOnce":     TestCodeWorksOnceAtOnce,
		"MailLimits":              TestMailLimits,
		"ThrottlePerSession":      TestThrottlePerSession,
		"ParallelGuessesCountToo": TestParallelGuessesCountToo,
		"SessionLimits":           TestSessionLimits,
		"SessionCookie":           TestSessionCookie,
		"LinksCannotBeToldApart":  TestLinksCannotBeToldApart,
		"ScannersConsumeNothing":  TestScannersConsumeNothing,
		"DatabaseAway":            TestDatabaseAway,
	} {
		t.Run(name, test)
	}
}
