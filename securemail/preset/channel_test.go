package preset_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

// What a delivery proved binds the next process: a domain whose host was pinned can't fall back to a name from unsigned DNS.
func TestTheRatchetSurvivesARestart(t *testing.T) {
	peer, so := far(t, true)
	path := filepath.Join(t.TempDir(), "mail.db")
	so.Pins = map[string]smtp.Pin{"x.test": {Hosts: []string{"mx.test"}}}
	s, err := preset.Open(t.Context(), path, &preset.Options{SMTP: so})
	require.NoError(t, err)
	require.NotNil(t, s.STS)
	send(t, s)
	require.Equal(t, securemail.ProofConfigured, state(t, s).Receipt.Proof)
	require.NoError(t, s.Close())

	so.Pins = nil
	s = open(t, path, &preset.Options{SMTP: so})
	least, err := s.Monitor.Least(t.Context(), "", "x.test")
	require.NoError(t, err)
	require.Equal(t, securemail.ChannelVerified, least)
	send(t, s)
	require.Len(t, peer.Messages(), 1, "the second mail stays")
	es, err := s.Explain(t.Context(), draft())
	require.NoError(t, err)
	require.Nil(t, es[0].Use)
}

func send(t *testing.T, s *preset.System) {
	t.Helper()
	_, err := s.Send(t.Context(), draft())
	require.NoError(t, err)
	_, err = s.RunDue(t.Context())
	require.NoError(t, err)
}

// A relay speaks for every domain, so there is nothing to remember of them.
func TestARelayNeedsNoMemoryOfDomains(t *testing.T) {
	ca := smtppeer.NewCA()
	p, err := smtppeer.Start(smtppeer.Options{Hostname: "relay.test", TLS: ca.Config("relay.test")})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{
		Relay: &smtp.Relay{Addr: p.Addr()}, SMTP: &smtp.Options{RootCAs: ca.Pool()},
	})
	require.Nil(t, s.STS)
	require.Nil(t, s.Monitor)
}
