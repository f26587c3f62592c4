package queue_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// writeSchema1 makes the tables of the first release's step with mail in all states, as it wrote them.
func writeSchema1(t testing.TB, db *sql.DB) {
	t.Helper()
	ctx := t.Context()
	d, err := sqldb.Of(ctx, db)
	require.NoError(t, err)
	step, err := os.ReadFile("testdata/schema-1.sql")
	require.NoError(t, err)
	require.NoError(t, d.Migrate(ctx, "queue", []string{string(step)}))
	raw, err := os.ReadFile("testdata/schema-1.json")
	require.NoError(t, err)
	var tables map[string][]map[string]any
	require.NoError(t, json.Unmarshal(raw, &tables))
	require.NoError(t, d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM queue_meta"); err != nil {
			return err
		}
		for table, rows := range tables {
			for _, row := range rows {
				var columns, marks []string
				var args []any
				for c, v := range row {
					if b, ok := v.(map[string]any); ok {
						octets, err := base64.StdEncoding.DecodeString(b["bytes"].(string))
						if err != nil {
							return err
						}
						v = octets
					}
					if f, ok := v.(float64); ok {
						v = int64(f)
					}
					columns, marks, args = append(columns, c), append(marks, "?"), append(args, v)
				}
				query := "INSERT INTO " + table + " (" + strings.Join(columns, ",") + ") VALUES (" + strings.Join(marks, ",") + ")"
				if _, err := tx.Exec(d.Rebind(query), args...); err != nil {
					return errors.Join(errors.New(table), err)
				}
			}
		}
		if d.Dialect == sqldb.Postgres { // a number that SQLite does not keep
			_, err := tx.Exec("SELECT setval(pg_get_serial_sequence('queue_event','pos'), (SELECT max(pos) FROM queue_event))")
			return err
		}
		return nil
	}))
}

// requireSchema1 is that all of the sample is there, and leaves when it is due.
func requireSchema1(t *testing.T, r *rig) {
	t.Helper()
	states := map[securemail.State]int{}
	for _, st := range r.find(securemail.Query{}) {
		states[st.State]++
	}
	require.Equal(t, map[securemail.State]int{
		"accepted": 3, "deferred": 1, "held": 1, "delivered": 1, "uncertain": 1, "attempting": 1,
	}, states)
	again := r.batch(1)
	again.Key, again.Digest[0] = "k", 7
	sub, err := r.Put(t.Context(), again)
	require.NoError(t, err)
	require.True(t, sub.Repeated, "idempotency keys are known")
	require.Len(t, r.events("log"), 13)
	r.pass(2 * time.Minute)
	ls := r.take(r.Queue, 10)
	require.Len(t, ls, 6, "three accepted, one deferred, one uncertain, and one whose worker is gone")
	for _, l := range ls {
		require.Contains(t, content(t, l.Parcel.Message), "your result")
		require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)))
	}
	require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel WHERE ended=0"), "the held one")
	require.Equal(t, 1, r.count("SELECT count(*) FROM queue_body"))
}

func TestMigrateFromTheFirstSchema(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			again := open(t)
			writeSchema1(t, again())
			requireSchema1(t, newRigOn(t, func(testing.TB) func() *sql.DB { return again }, fixedRing(), nil))
		})
	}
}

// A migration that stops at any statement leaves what was there, and is made the next time.
func TestMigrationStopsAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		path := filepath.Join(t.TempDir(), "q.db")
		db := sqldbtest.SQLite(t, path, sqldbtest.Safe)
		writeSchema1(t, db)
		var f sqldbtest.Faults
		broken := sqldbtest.Open(db, "file:"+path+sqldbtest.Safe, &f)
		f.At(n, sqldbtest.IOErr)
		_, err := queue.New(t.Context(), broken, fixedRing(), nil)
		seen := f.Clear()
		require.NoError(t, broken.Close())
		if err == nil && seen < n {
			require.Greater(t, n, 12, "the migration's own statements were among them")
			return
		}
		if n%3 != 0 { // the whole check is slow
			require.Equal(t, 8, countIn(t, db, "queue_parcel"))
			continue
		}
		requireSchema1(t, newRigOn(t, func(testing.TB) func() *sql.DB {
			return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
		}, fixedRing(), nil))
	}
}

func countIn(t *testing.T, db *sql.DB, table string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM "+table).Scan(&n))
	return n
}
