package backup

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/postseal/postseal/internal/sqldb"
)

// dumper writes the tables of one snapshot.
type dumper struct {
	d   *sqldb.DB
	tx  *sql.Tx
	out *recorder
	rep *Report
}

// tables writes the manifest, and every table of ours with its rows.
func (d *dumper) tables(ctx context.Context) error {
	all, err := d.d.StepsOf(ctx, d.tx)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	m := manifest{Dialect: d.d.Dialect.String()}
	for _, s := range all {
		m.Packages = append(m.Packages, packaged(s))
	}
	if err := d.out.putJSON(recManifest, &m); err != nil {
		return err
	}
	for i := range all {
		for _, name := range all[i].Tables() {
			t := table{Name: name}
			if t.Columns, err = columnsOf(ctx, d.d, d.tx, name); err != nil {
				return err
			}
			if len(t.Columns) == 0 {
				continue // dropped or renamed since
			}
			if err := d.table(ctx, &t); err != nil {
				return fmt.Errorf("backup: table %s: %w", name, err)
			}
		}
	}
	return nil
}

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// columnsOf are the columns of a table; none: there is no such table.
func columnsOf(ctx context.Context, d *sqldb.DB, tx querier, name string) ([]column, error) {
	q := "SELECT name, type FROM pragma_table_info(?) ORDER BY cid"
	if d.Dialect == sqldb.Postgres {
		q = `SELECT column_name, data_type FROM information_schema.columns
			WHERE table_schema=current_schema() AND table_name=$1 ORDER BY ordinal_position`
	}
	rs, err := tx.QueryContext(ctx, q, name)
	if err != nil {
		return nil, fmt.Errorf("backup: columns of %s: %w", name, err)
	}
	defer rs.Close()
	var out []column
	for rs.Next() {
		var c column
		var declared string
		if err := rs.Scan(&c.Name, &declared); err != nil {
			return nil, fmt.Errorf("backup: columns of %s: %w", name, err)
		}
		c.Kind = kindOf(declared)
		out = append(out, c)
	}
	if err := rs.Err(); err != nil {
		return nil, fmt.Errorf("backup: columns of %s: %w", name, err)
	}
	return out, nil
}

func kindOf(declared string) kind {
	switch strings.ToLower(declared) {
	case "blob", "bytea":
		return kindBytes
	case "integer", "int", "bigint", "smallint", "boolean":
		return kindInt
	case "real", "double precision":
		return kindFloat
	}
	return kindText
}

// names are the columns, quoted.
func names(cs []column) string {
	quoted := make([]string, len(cs))
	for i, c := range cs {
		quoted[i] = quote(c.Name)
	}
	return strings.Join(quoted, ", ")
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (d *dumper) table(ctx context.Context, t *table) error {
	if err := d.out.putJSON(recTable, t); err != nil {
		return err
	}
	rs, err := d.tx.QueryContext(ctx, "SELECT "+names(t.Columns)+" FROM "+quote(t.Name))
	if err != nil {
		return err
	}
	defer rs.Close()
	values := make([]any, len(t.Columns))
	into := make([]any, len(values))
	for i := range values {
		into[i] = &values[i]
	}
	var b []byte
	for rs.Next() {
		if err := rs.Scan(into...); err != nil {
			return err
		}
		b = b[:0]
		for i, v := range values {
			if b, err = appendValue(b, t.Columns[i].Kind, v); err != nil {
				return err
			}
		}
		if err := d.out.put(recRow, b); err != nil {
			return err
		}
		d.rep.Rows[t.Name]++
	}
	return rs.Err()
}
