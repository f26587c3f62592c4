package notice_test

import (
	"database/sql"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// TestEveryDatabase walks through each statement: a bounce that only the office can be told of, mail that is late and
// arrives, what was told long ago, and a stop in between.
func TestEveryDatabase(t *testing.T) {
	dbs := map[string]func(testing.TB) *sql.DB{"sqlite": openDB, "sqlite one connection": func(t testing.TB) *sql.DB {
		db := openDB(t)
		db.SetMaxOpenConns(1)
		return db
	}}
	maps.Copy(dbs, servers())
	for name, open := range dbs {
		t.Run(name, func(t *testing.T) {
			r := newRigOn(t, open(t), notice.Options{Tenants: office, Keep: 24 * time.Hour})
			r.Transport.Script("bad.example", fails(securemail.FatePermanent))
			r.Transport.Script("clinic.example", fails(securemail.FatePermanent), securemailtest.Answer{})
			r.Transport.Script("slow.example", fails(securemail.FateRetry))
			r.mustSend(draft(securemail.PurposeTreatment, "bad.example", "slow.example"))
			for range 10 {
				r.round()
				r.restart()
				r.Clock.Advance(31 * time.Minute)
			}
			r.Transport.Script("slow.example", securemailtest.Answer{})
			for range 3 {
				r.Clock.Advance(26 * time.Hour)
				r.round()
			}
			_, entries := r.reports()
			require.Len(t, entries, 2)
			require.Equal(t, []string{"privacy@office.example", "bounced"}, []string{entries[0].to, entries[0].state})
			require.Equal(t, []string{"doctor@clinic.example", "delayed"}, []string{entries[1].to, entries[1].state})
			for table, want := range map[string]int{"notice_item": 0, "notice_watch": 0, "notice_lease": 1} {
				var n int
				require.NoError(t, r.db.QueryRow("SELECT count(*) FROM "+table).Scan(&n))
				require.Equal(t, want, n, table)
			}
		})
	}
}
