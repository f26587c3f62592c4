package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// SQLite's levels of PRAGMA synchronous.
const (
	syncFull  = 2
	syncExtra = 3
)

// CheckDurable reads the database's settings and refuses those under which a commit that was answered can be lost in a
// power cut; errors.Join of all faults found.
//
// SQLite: journal_mode must be WAL, DELETE, TRUNCATE or PERSIST, synchronous FULL or EXTRA, and busy_timeout over 0, on
// each connection (two are looked at where the pool has two to give). In DELETE mode FULL does not sync the folder
// (https://www.sqlite.org/pragma.html#pragma_synchronous), so the connections that [DB.Tx] and [DB.Commit] write
// through are raised to EXTRA there. PostgreSQL: fsync must be on and synchronous_commit not off.
func (d *DB) CheckDurable(ctx context.Context) error {
	if d.Dialect == Postgres {
		return d.checkPostgres(ctx)
	}
	n := 1
	if st := d.db.Stats(); st.MaxOpenConnections == 0 || st.MaxOpenConnections-st.InUse >= 2 {
		n = 2
	}
	for range n {
		conn, err := d.db.Conn(ctx)
		if err != nil {
			return fmt.Errorf("sqldb: connect: %w", err)
		}
		defer conn.Close() // kept until all were looked at, so that each is another one
		if err := d.checkSQLite(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

func (d *DB) checkSQLite(ctx context.Context, conn *sql.Conn) error {
	var journal string
	var synchronous, busy int
	err := errors.Join(
		conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal),
		conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous),
		conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&busy),
	)
	if err != nil {
		return fmt.Errorf("sqldb: read settings: %w", err)
	}
	var faults []error
	switch strings.ToLower(journal) {
	case "wal", "truncate", "persist":
	case "delete":
		if synchronous == syncFull {
			d.setRaise()
		}
	default:
		faults = append(faults, fmt.Errorf("sqldb: SQLite journal_mode %s can lose commits: set WAL", journal))
	}
	if synchronous != syncFull && synchronous != syncExtra {
		faults = append(faults, errors.New("sqldb: SQLite synchronous is below FULL: a power cut can lose commits"))
	}
	if busy <= 0 {
		faults = append(faults, errors.New("sqldb: SQLite busy_timeout is 0 on a connection: set some seconds for all"))
	}
	return errors.Join(faults...)
}

func (d *DB) checkPostgres(ctx context.Context) error {
	var fsync, commit string
	err := errors.Join(
		d.db.QueryRowContext(ctx, "SHOW fsync").Scan(&fsync),
		d.db.QueryRowContext(ctx, "SHOW synchronous_commit").Scan(&commit),
	)
	if err != nil {
		return fmt.Errorf("sqldb: read settings: %w", err)
	}
	var faults []error
	if fsync != "on" {
		faults = append(faults, errors.New("sqldb: PostgreSQL fsync is off: a power cut can lose commits"))
	}
	if commit == "off" {
		faults = append(faults, errors.New("sqldb: PostgreSQL synchronous_commit is off: a crash can lose commits"))
	}
	return errors.Join(faults...)
}

func (d *DB) raise() bool {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.s.extra
}

func (d *DB) setRaise() {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.s.extra = true
}
