package posture_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/posture"
	"github.com/postseal/postseal/transport/smtp"
)

// The whole road: a delivery whose name DANE proved raises the ratchet; then somebody forges DNS. Mail with a floor goes
// nowhere, after a restart too; sealed mail still goes; the next look tells; an override ends it.
func TestForgedDNSMeetsTheRatchet(t *testing.T) {
	ca := smtppeer.NewCA()
	cert := ca.Cert("mx.a.example")
	host, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.a.example", TLS: smtppeer.ServerConfig(cert)})
	require.NoError(t, err)
	defer host.Close()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	require.NoError(t, err)
	rec, err := dane.RecordFor(leaf, 3, 1, 1)
	require.NoError(t, err)
	dns, err := dnspeer.Start(dnspeer.Zone{
		"a.example":    {dnspeer.Secure, "MX 10 mx.a.example."},
		"mx.a.example": {dnspeer.Secure, "A 127.0.0.1"},
		dane.Name("mx.a.example", uint16(host.Port())): {dnspeer.Secure, "TLSA " + rec.String()},
	})
	require.NoError(t, err)
	defer dns.Close()

	r := newRig(t, lite, posture.Options{})
	r.now.Store(time.Now().UnixMicro())
	transportOf := func() *smtp.Transport {
		client, err := smtp.DNS(dns.Addr(), &smtp.DNSOptions{TrustAD: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		tr, err := smtp.New(&smtp.Options{Resolver: client, RootCAs: ca.Pool(), AllowPrivate: true, Port: uint16(host.Port()), Ratchet: r.Monitor, HELO: "us.example"})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, tr.Close()) })
		r.Use(tr)
		return tr
	}
	deliver := func(tr *smtp.Transport, c securemail.Channel) error {
		t.Helper()
		m, err := securemail.NewMessage(securemail.Bytes([]byte("Subject: x\r\nMessage-ID: <1@us.example>\r\n\r\nx\r\n")))
		require.NoError(t, err)
		p := &securemail.Parcel{Message: m}
		p.Actor.Tenant, p.ReturnPath, p.Recipient.Address = "clinic", address(t, "us@us.example"), address(t, "anna@a.example")
		receipt, err := tr.Deliver(t.Context(), &securemail.Shipment{Parcel: p, Channel: c})
		if err != nil {
			return err
		}
		e := delivered(t, "p", "clinic", "anna@a.example", receipt.Time, receipt.Wire)
		return r.Emit(t.Context(), e)
	}
	tr := transportOf()
	require.NoError(t, deliver(tr, securemail.ChannelNamed))
	require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
	require.Equal(t, posture.LevelVerified, r.check("a.example").Found.Level)
	r.out.drain()

	require.NoError(t, dns.Set(dnspeer.Zone{"a.example": {"MX 10 mx.a.example."}, "mx.a.example": {"A 127.0.0.1"}})) // no signature any more
	tr = transportOf()                                                                                               // a restart: nothing is left in memory
	err = deliver(tr, securemail.ChannelNamed)
	require.ErrorIs(t, err, securemail.ErrChannel, "PKIX would do for the floor, and not for the ratchet")
	require.Len(t, host.Messages(), 1)
	require.False(t, r.CanForward(t.Context(), "clinic", address(t, "anna@a.example"), securemail.ChannelNamed).OK)
	require.NoError(t, deliver(tr, securemail.ChannelAny), "poisoning costs a portal visit and not the mail")
	require.Equal(t, posture.LevelNamed, r.check("a.example").Found.Level)
	require.Equal(t, "downgrade", r.out.kinds())

	require.NoError(t, r.SetOverride(r.admin("clinic"), posture.Override{Tenant: "clinic", Domain: "a.example", Channel: securemail.ChannelNamed, Reason: "they gave DNSSEC up"}))
	require.NoError(t, deliver(tr, securemail.ChannelNamed))
}
