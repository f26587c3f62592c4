package smtp_test

import (
	"crypto/fips140"
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

func TestObserve(t *testing.T) {
	l := newLab(t)
	h := l.policyHost()
	l.publish(h, "clinic.test", "77", mtasts.Enforce, "mx1.test", "mx2.test", "mx3.test", "mx4.test")
	old := ca.Config("mx1.test")
	old.MinVersion = tls.VersionTLS10
	peers := []*smtppeer.Peer{
		l.mx(smtppeer.Options{TLS: old, Extensions: []string{"PIPELINING", "REQUIRETLS", "X-Odd stuff"}}),
		l.mx(smtppeer.Options{}),
		l.mx(smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx3.test"))}),
		l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Refuse(554, "no"))}),
	}
	l.records("clinic.test", "MX 9 gone.test.")
	l.tlsa("mx1.test", record(t, old.Certificates[0].Leaf, 3, 1, 1))
	tr := l.transport(func(o *smtp.Options) { o.STS = l.cache(h, mtasts.NewMemory(nil), nil) })
	o, err := tr.Observe(t.Context(), "tenant", "Clinic.test.")
	require.NoError(t, err)
	require.True(t, o.Known && o.Signed && !o.NullMX)
	require.Equal(t, "live 77 enforce", o.STS.State+" "+o.STS.ID+" "+o.STS.Mode)
	require.Len(t, o.STS.MX, 4)
	require.Len(t, o.Hosts, 5)

	a := o.Hosts[0]
	require.Equal(t, "mx1.test", a.Name)
	require.EqualValues(t, 1, a.Preference)
	require.Equal(t, "usable", a.DANE)
	require.True(t, a.STARTTLS && a.RequireTLS)
	require.Equal(t, []string{"PIPELINING", "REQUIRETLS", "X-ODD"}, a.Extensions)
	versions := []uint16{tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS11, tls.VersionTLS10}
	if fips140.Enabled() { // neither end speaks the old ones then
		versions = versions[:2]
	}
	require.Equal(t, versions, a.Versions)
	require.Equal(t, securemail.ProofDANE, a.Wire.Proof)
	require.Equal(t, "192.0.2.1", a.Addr.String())
	require.Equal(t, []string{"mx1.test"}, a.Certificates[0].Names)
	require.Equal(t, "ECDSA P-256", a.Certificates[0].Key)
	require.Contains(t, a.Certificates[0].Issuer, "smtppeer")
	require.NotZero(t, a.Certificates[0].SPKI)

	require.False(t, o.Hosts[1].STARTTLS)
	require.Nil(t, o.Hosts[1].Versions)
	require.Equal(t, "starttls-not-offered", o.Hosts[1].Wire.Reasons[len(o.Hosts[1].Wire.Reasons)-1].Rule)
	require.True(t, o.Hosts[2].STARTTLS)
	if !fips140.Enabled() {
		require.Equal(t, []uint16{tls.VersionTLS10}, o.Hosts[2].Versions)
	}
	require.Nil(t, o.Hosts[2].Wire.TLS)
	require.Equal(t, "none", o.Hosts[3].DANE)
	require.Contains(t, rules(o.Hosts[3].Reasons), "unreachable")
	require.Empty(t, o.Hosts[4].Addrs)
	require.True(t, o.Route.Meets(verified))
	for _, p := range peers {
		untouched(t, p)
	}
	n := peers[0].Connections()
	_, err = tr.Probe(t.Context(), "", "clinic.test")
	require.NoError(t, err)
	require.Equal(t, n, peers[0].Connections(), "a look serves Probe too")
}

func TestObserveWhatIsNotThere(t *testing.T) {
	l := newLab(t)
	tr := l.transport(nil)
	l.records("null.test", "MX 0 .")
	o, err := tr.Observe(t.Context(), "", "null.test")
	require.NoError(t, err)
	require.True(t, o.Known && o.NullMX)
	l.records("fail.test", dnspeer.ServFail)
	for _, d := range []string{"fail.test", "none.test"} {
		_, err = tr.Observe(t.Context(), "", d)
		require.Equal(t, "resolve", wantDelivery(t, err).Stage)
	}
	require.NoError(t, tr.Close())
	_, err = tr.Observe(t.Context(), "", "clinic.test")
	require.ErrorIs(t, err, smtp.ErrClosed)
}
