package keys_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// txQueue lets the memory queue join any transaction.
type txQueue struct{ *securemailtest.Queue }

func (q txQueue) PutTx(ctx context.Context, _ *sql.Tx, b *securemail.Batch) (*securemail.Submission, error) {
	return q.Put(ctx, b)
}

// TestSQLReadsThroughTheHostsTransaction: with one connection, anything else would wait for ever.
func TestSQLReadsThroughTheHostsTransaction(t *testing.T) {
	db := database(t)
	db.SetMaxOpenConns(1)
	s := store(t, db, newRing(), nil)
	require.NoError(t, s.Pin(admin(t, ""), pinned(t, "", "anna@example.org", "aa")))
	var found []securemail.Key
	gate := securemail.GateFunc(func(ctx context.Context, p *securemail.Parcel) (err error) {
		found, err = s.Keys(ctx, securemail.Lookup{Address: p.Recipient.Address, Method: securemail.MethodPGP})
		return err
	})
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Gates = []securemail.Gate{gate}
		q := txQueue{c.Queue.(*securemailtest.Queue)}
		c.Queue, c.Outbox = q, q
	})
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = k.SendTx(t.Context(), tx, &securemail.Draft{
		From: securemail.Mailbox("bob@clinic.example"), To: securemail.To("anna@example.org"),
		Subject: "x", Text: "x", Purpose: securemail.PurposeTreatment,
	})
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	require.Len(t, found, 1)
}
