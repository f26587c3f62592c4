//go:build interop

package escrow_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
)

// TestOnPostgres runs the tests that do not look into SQLite's files again, on the server that POSTSEAL_PG_DSN names.
func TestOnPostgres(t *testing.T) {
	was := openDB
	defer func() { openDB = was }()
	openDB = func(t *testing.T, _ string) *sql.DB { return sqldbtest.Postgres(t)() }
	for name, test := range map[string]func(*testing.T){
		"OneDepositPerParcel":                  TestOneDepositPerParcel,
		"OneDepositPerParcelAtOnce":            TestOneDepositPerParcelAtOnce,
		"OpenedTellsOnce":                      TestOpenedTellsOnce,
		"Revoke":                               TestRevoke,
		"Expiry":                               TestExpiry,
		"SweepGoesOnAfterFaults":               TestSweepGoesOnAfterFaults,
		"UndoGoesOnAfterACrash":                TestUndoGoesOnAfterACrash,
		"AnEventThatIsNotTakenUndoesTheChange": TestAnEventThatIsNotTakenUndoesTheChange,
		"CheckFactors":                         TestCheckFactors,
		"OpenIsForTheRecipient":                TestOpenIsForTheRecipient,
	} {
		t.Run(name, test)
	}
}
