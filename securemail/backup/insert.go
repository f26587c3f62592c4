package backup

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/postseal/postseal/internal/sqldb"
)

// Bounds of one INSERT.
const (
	insertRows   = 64
	insertOctets = 1 << 20
)

// inserter writes rows of one table, many at a time.
type inserter struct {
	d     *sqldb.DB
	tx    *sql.Tx
	name  string
	into  []column // of the target, in order of use
	from  []int    // which value of a row each takes
	full  *sql.Stmt
	args  []any
	rows  int
	bytes int
}

// newInserter matches the columns of the dump with those that are there; what the target does not have is left out.
func newInserter(d *sqldb.DB, tx *sql.Tx, t *table, have []column) *inserter {
	in := &inserter{d: d, tx: tx, name: t.Name}
	for i, c := range t.Columns {
		if at := slices.IndexFunc(have, func(h column) bool { return h.Name == c.Name }); at >= 0 {
			in.into, in.from = append(in.into, have[at]), append(in.from, i)
		}
	}
	return in
}

func (in *inserter) add(ctx context.Context, values []any) error {
	for i, at := range in.from {
		v := asKind(in.into[i].Kind, values[at])
		if b, ok := v.([]byte); ok {
			in.bytes += len(b)
		}
		in.args = append(in.args, v)
	}
	if in.rows++; in.rows < insertRows && in.bytes < insertOctets {
		return nil
	}
	return in.flush(ctx)
}

// asKind is v as the target's column wants it. Octets are copied.
func asKind(k kind, v any) any {
	switch v := v.(type) {
	case []byte:
		if k == kindText {
			return string(v)
		}
		return bytes.Clone(v)
	case string:
		if k == kindBytes {
			return []byte(v)
		}
	}
	return v
}

func (in *inserter) flush(ctx context.Context) (err error) {
	if in.rows == 0 {
		return nil
	}
	if in.rows == insertRows {
		if in.full == nil {
			if in.full, err = in.tx.PrepareContext(ctx, in.query(insertRows)); err != nil {
				return in.failed(err)
			}
		}
		_, err = in.full.ExecContext(ctx, in.args...)
	} else {
		_, err = in.tx.ExecContext(ctx, in.query(in.rows), in.args...)
	}
	clear(in.args)
	in.args, in.rows, in.bytes = in.args[:0], 0, 0
	return in.failed(err)
}

func (in *inserter) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("backup: restore table %s: %w", in.name, err)
}

func (in *inserter) query(rows int) string {
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", len(in.into)), ",") + ")"
	return in.d.Rebind("INSERT INTO " + quote(in.name) + " (" + names(in.into) + ") VALUES " +
		strings.TrimSuffix(strings.Repeat(one+",", rows), ","))
}

// close writes what is left.
func (in *inserter) close(ctx context.Context) error {
	err := in.flush(ctx)
	if in.full != nil {
		_ = in.full.Close() // ends with the transaction anyway
	}
	return err
}
