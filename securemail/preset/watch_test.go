package preset_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/alert"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport"
)

// TestTheSenderIsTold: the sender of mail that does not arrive gets a report, which names nobody.
func TestTheSenderIsTold(t *testing.T) {
	peer, so := far(t, true)
	o := &preset.Options{
		SMTP: so, Limits: &transport.LimitOptions{Connections: 1, Max: 1},
		Notices: &notice.Options{Tenants: map[string]notice.Tenant{"": {Name: "Clinic", From: securemail.Mailbox("reports@x.test")}}},
		Alerts:  &alert.Options{Rules: []alert.Rule{{ID: "bounced", Kinds: []string{"bounced"}}}},
	}
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), o)
	d := draft()
	d.From, d.To = securemail.Mailbox("nurse@x.test"), securemail.To("anna@nowhere.test")
	sub, err := s.Send(t.Context(), d)
	require.NoError(t, err)
	_, err = s.RunDue(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Upkeep(t.Context()))
	_, err = s.RunDue(t.Context())
	require.NoError(t, err)

	ms := peer.Messages()
	require.Len(t, ms, 1)
	require.Equal(t, []string{"nurse@x.test"}, ms[0].Rcpts)
	require.NotNil(t, ms[0].TLS)
	report := string(ms[0].Data)
	require.Contains(t, report, "message/delivery-status")
	require.Contains(t, report, string(sub.Parcels[0].ID))
	for _, secret := range []string{"anna", "nowhere.test", "c4n4ry"} {
		require.NotContains(t, report, secret)
	}
	kinds := make(map[string]int)
	for e, err := range s.Ledger.Search(t.Context(), audit.Search{}) {
		require.NoError(t, err)
		kinds[e.Kind]++
	}
	require.Positive(t, kinds["notice"], kinds)
	require.Positive(t, kinds["bounced"], kinds)
	require.Equal(t, kinds["bounced"], kinds["alert"])
}
