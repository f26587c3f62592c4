package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
)

// ErrUncertain says that the database did not answer a COMMIT: the transaction may or may not hold. What was written
// must be looked up, by an id of the caller's, before it is written again.
var ErrUncertain = errors.New("sqldb: the outcome of a commit is not known")

// SQLite's primary result codes: https://www.sqlite.org/rescode.html
const (
	sqliteError      = 1
	sqliteBusy       = 5
	sqliteLocked     = 6
	sqliteReadOnly   = 8
	sqliteCorrupt    = 11
	sqliteFull       = 13
	sqliteConstraint = 19 // of a deferred foreign key
	sqliteNotADB     = 26
)

// sqliteCode is the primary result code in err, 0 without one.
func sqliteCode(err error) int {
	var c interface{ Code() int }
	if errors.As(err, &c) {
		return c.Code() & 0xff
	}
	return 0
}

// sqlState is PostgreSQL's error code in err, "" without one.
func sqlState(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

// IsBusy says that err is the database's "try again": a lock that another holds (SQLite BUSY, LOCKED; PostgreSQL 55P03),
// a serialization failure (40001) or a deadlock (40P01). The transaction was rolled back.
func IsBusy(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01", "55P03":
		return true
	}
	c := sqliteCode(err)
	return c == sqliteBusy || c == sqliteLocked
}

// IsFull says that the database has no room left: SQLite FULL, PostgreSQL 53100.
func IsFull(err error) bool {
	return sqlState(err) == "53100" || sqliteCode(err) == sqliteFull
}

// IsReadOnly says that the database may not be written: SQLite READONLY, PostgreSQL 25006.
func IsReadOnly(err error) bool {
	return sqlState(err) == "25006" || sqliteCode(err) == sqliteReadOnly
}

// IsCorrupt says that the database found its own pages damaged: SQLite CORRUPT and NOTADB, PostgreSQL XX001 and XX002.
func IsCorrupt(err error) bool {
	s, c := sqlState(err), sqliteCode(err)
	return s == "XX001" || s == "XX002" || c == sqliteCorrupt || c == sqliteNotADB
}

// definite says that the database itself refused a commit, so that nothing of the transaction holds. A lost connection, a
// time-out, a server that is shut down and any SQLite error but those that leave the transaction open leave that open.
func definite(err error) bool {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if s := sqlState(err); s != "" {
		// Connection, operator's intervention, system, internal: the server may have ended after the commit was made.
		return !slices.Contains([]string{"08", "57", "58", "XX"}, s[:min(2, len(s))])
	}
	return slices.Contains([]int{sqliteError, sqliteBusy, sqliteLocked, sqliteReadOnly, sqliteFull, sqliteConstraint}, sqliteCode(err))
}
