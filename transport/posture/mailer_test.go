package posture_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
	"github.com/postseal/postseal/transport/posture"
)

// txQueue lets the memory queue join any transaction.
type txQueue struct{ *securemailtest.Queue }

func (q txQueue) PutTx(ctx context.Context, _ *sql.Tx, b *securemail.Batch) (*securemail.Submission, error) {
	return q.Put(ctx, b)
}

func draft() *securemail.Draft {
	return &securemail.Draft{
		From: securemail.Mailbox("bob@clinic.example"), To: securemail.To("anna@a.example"),
		Subject: "x", Text: "x", Purpose: securemail.PurposeTreatment,
	}
}

// What a Mailer tells its Sinks is what the ratchet learns from.
func TestSinkOfAMailer(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Sinks = map[string]securemail.Sink{"posture": r.Monitor}
		c.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			if err := s.Intend(ctx); err != nil {
				return nil, err
			}
			return &securemail.Receipt{Wire: wire(securemail.ProofSTS), Time: r.clock(), Peer: "mx.a.example"}, nil
		})
	})
	_, err := k.Send(t.Context(), draft())
	require.NoError(t, err)
	require.Equal(t, 1, k.Pass(t))
	require.Equal(t, securemail.ChannelVerified, r.least("", "a.example"))
	es := r.out.drain()
	require.Len(t, es, 1)
	require.Equal(t, map[string]string{"domain": "a.example", "level": "verified", "until": "2026-06-03T12:00:00Z"}, es[0].Detail)
}

// With one connection, anything but the host's transaction would wait for ever.
func TestLeastReadsThroughTheHostsTransaction(t *testing.T) {
	r := newRig(t, single, posture.Options{})
	r.deliver("", "a.example", wire(securemail.ProofDANE))
	var least securemail.Channel
	gate := securemail.GateFunc(func(ctx context.Context, p *securemail.Parcel) (err error) {
		least, err = r.Least(ctx, "", p.Recipient.Address.Domain())
		return err
	})
	least = securemail.ChannelAny
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Gates = []securemail.Gate{gate}
		q := txQueue{c.Queue.(*securemailtest.Queue)}
		c.Queue, c.Outbox = q, q
	})
	tx, err := r.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = k.SendTx(t.Context(), tx, draft())
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	require.Equal(t, securemail.ChannelVerified, least)
}
