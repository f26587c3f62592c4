package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
)

const schemaName = "backup"

// schema is the list of migrations; steps are only ever added.
//
//   - backup_restore: one restore of this database. Times are microseconds since 1970, declared is 0 until somebody did.
//     log_size counts the entries of the log in the backup, -1 where there was none.
var schema = []string{`
CREATE TABLE backup_restore (
	id TEXT PRIMARY KEY,
	backup TEXT NOT NULL,
	taken {int} NOT NULL,
	restored {int} NOT NULL,
	declared {int} NOT NULL,
	log_size {int} NOT NULL,
	log_origin TEXT NOT NULL);
`}

// Mark says that a database was restored.
type Mark struct {
	// ID is the restore's, Backup the backup's.
	ID, Backup string
	// Taken is when the backup was, Restored when it was put back.
	Taken, Restored time.Time
	// LogSize and LogOrigin are of the log in the backup; -1: there was none.
	LogSize   int64
	LogOrigin string
}

func (l *loader) mark(told *Report) error {
	now := time.Now
	if l.t.Now != nil {
		now = l.t.Now
	}
	_, err := l.tx.ExecContext(l.ctx, l.d.Rebind(`INSERT INTO backup_restore (id, backup, taken, restored, declared, log_size, log_origin)
		VALUES (?, ?, ?, ?, 0, ?, ?)`), newID(), told.ID, told.Taken.UnixMicro(), now().UnixMicro(), told.LogSize, told.LogOrigin)
	if err != nil {
		return fmt.Errorf("backup: mark: %w", err)
	}
	return nil
}

// Pending gives the mark of a database that was restored and that nobody declared; nil: there is none, and mail may leave.
// It changes nothing.
func Pending(ctx context.Context, db *sql.DB) (*Mark, error) {
	d, err := sqldb.Of(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if cs, err := columnsOf(ctx, d, db, "backup_restore"); err != nil || len(cs) == 0 {
		return nil, err
	}
	m := &Mark{}
	var taken, restored int64
	err = db.QueryRowContext(ctx, `SELECT id, backup, taken, restored, log_size, log_origin FROM backup_restore
		WHERE declared=0 ORDER BY restored DESC, id LIMIT 1`).Scan(&m.ID, &m.Backup, &taken, &restored, &m.LogSize, &m.LogOrigin)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("backup: pending: %w", err)
	}
	m.Taken, m.Restored = time.UnixMicro(taken).UTC(), time.UnixMicro(restored).UTC()
	return m, nil
}

// Declare says that every restore of db up to now is known and dealt with. The caller has settled the parcels and recorded
// that before.
func Declare(ctx context.Context, db *sql.DB, at time.Time) error {
	d, err := sqldb.Of(ctx, db)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := d.Migrate(ctx, schemaName, schema); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	err = d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, d.Rebind("UPDATE backup_restore SET declared=? WHERE declared=0"), max(at.UnixMicro(), 1))
		return err
	})
	if err != nil {
		return fmt.Errorf("backup: declare: %w", err)
	}
	return nil
}
