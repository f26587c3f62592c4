package dnspeer_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, p *dnspeer.Peer, network, name string, qtype uint16) (*dns.Msg, error) {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 2 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype).SetEdns0(1232, true), p.Addr())
	return m, err
}

func TestZone(t *testing.T) {
	many := []string{}
	for range 200 {
		many = append(many, "TXT \"0123456789012345678901234567890123456789"+string(rune('a'+len(many)%26))+string(rune('a'+len(many)/26))+"\"")
	}
	p, err := dnspeer.Start(dnspeer.Zone{
		"Example.test":       {"MX 10 mx.example.test.", "MX 20 mx2.example.test.", dnspeer.Secure},
		"mx.example.test":    {"A 127.0.0.1", "AAAA ::1"},
		"alias.test":         {"CNAME example.test.", dnspeer.Secure},
		"half.test":          {"CNAME mx.example.test.", dnspeer.Secure},
		"loop.test":          {"CNAME loop.test."},
		"fail.test":          {dnspeer.ServFail},
		"ref.test":           {dnspeer.Refused},
		"slow.test":          {dnspeer.Timeout},
		"tc.test":            {"A 127.0.0.2", dnspeer.Truncate},
		"id.test":            {"A 127.0.0.2", dnspeer.WrongID},
		"many.test":          many,
		"_25._tcp.mx.a.test": {"TLSA 3 1 1 0000000000000000000000000000000000000000000000000000000000000000"},
	})
	require.NoError(t, err)
	defer p.Close()

	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers int
		ad      bool
	}{
		{"example.test", dns.TypeMX, dns.RcodeSuccess, 2, true},
		{"EXAMPLE.test", dns.TypeA, dns.RcodeSuccess, 0, true},
		{"mx.example.test", dns.TypeAAAA, dns.RcodeSuccess, 1, false},
		{"alias.test", dns.TypeMX, dns.RcodeSuccess, 3, true},
		{"half.test", dns.TypeA, dns.RcodeSuccess, 2, false},
		{"loop.test", dns.TypeA, dns.RcodeSuccess, 10, false},
		{"none.test", dns.TypeA, dns.RcodeNameError, 0, false},
		{"fail.test", dns.TypeA, dns.RcodeServerFailure, 0, false},
		{"ref.test", dns.TypeA, dns.RcodeRefused, 0, false},
		{"_25._tcp.mx.a.test", dns.TypeTLSA, dns.RcodeSuccess, 1, false},
	} {
		m, err := ask(t, p, "udp", c.name, c.qtype)
		require.NoError(t, err, c.name)
		require.Equal(t, c.rcode, m.Rcode, c.name)
		require.Len(t, m.Answer, c.answers, c.name)
		require.Equal(t, c.ad, m.AuthenticatedData, c.name)
	}
	_, err = ask(t, p, "udp", "slow.test", dns.TypeA)
	require.Error(t, err)
	_, err = ask(t, p, "udp", "id.test", dns.TypeA)
	require.Error(t, err)
	for _, name := range []string{"tc.test", "many.test"} {
		m, err := ask(t, p, "udp", name, dns.TypeA)
		if name == "many.test" {
			m, err = ask(t, p, "udp", name, dns.TypeTXT)
		}
		require.NoError(t, err)
		require.True(t, m.Truncated, name)
	}
	m, err := ask(t, p, "tcp", "many.test", dns.TypeTXT)
	require.NoError(t, err)
	require.Len(t, m.Answer, 200)

	qs := p.Queries()
	require.Equal(t, dnspeer.Query{Name: "example.test", Type: "MX", Network: "udp", EDNS: true, DO: true}, qs[0])
	require.Equal(t, "tcp", qs[len(qs)-1].Network)

	require.NoError(t, p.Set(dnspeer.Zone{"new.test": {"A 127.0.0.3"}}))
	c := dns.Client{Timeout: time.Second}
	m, _, err = c.Exchange(new(dns.Msg).SetQuestion("new.test.", dns.TypeA), p.Addr())
	require.NoError(t, err)
	require.Len(t, m.Answer, 1)
	require.Nil(t, m.IsEdns0())
}

func TestBadRecord(t *testing.T) {
	_, err := dnspeer.Start(dnspeer.Zone{"x.test": {"MX nonsense"}})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "%!")
}

func TestWordsOfAType(t *testing.T) {
	p, err := dnspeer.Start(dnspeer.Zone{
		"mx.test":    {"A 127.0.0.1", "300 AAAA ::1", dnspeer.Secure, "TLSA:SERVFAIL", "AAAA:INSECURE"},
		"alias.test": {"CNAME mx.test.", dnspeer.Secure},
		"other.test": {"A 127.0.0.1", dnspeer.Other},
		"noise.test": {"A 127.0.0.1", dnspeer.Noise},
	})
	require.NoError(t, err)
	defer p.Close()
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		ad    bool
	}{
		{"mx.test", dns.TypeA, dns.RcodeSuccess, true},
		{"mx.test", dns.TypeAAAA, dns.RcodeSuccess, false},
		{"mx.test", dns.TypeMX, dns.RcodeSuccess, true},
		{"mx.test", dns.TypeTLSA, dns.RcodeServerFailure, true},
		{"alias.test", dns.TypeCNAME, dns.RcodeSuccess, true},
		{"alias.test", dns.TypeAAAA, dns.RcodeSuccess, false},
		{"alias.test", dns.TypeTLSA, dns.RcodeServerFailure, true},
	} {
		m, err := ask(t, p, "udp", c.name, c.qtype)
		require.NoError(t, err)
		require.Equal(t, c.rcode, m.Rcode, c)
		require.Equal(t, c.ad, m.AuthenticatedData, c)
	}
	m, err := ask(t, p, "tcp", "mx.test", dns.TypeAAAA)
	require.NoError(t, err)
	require.EqualValues(t, 300, m.Answer[0].Header().Ttl)
	m, err = ask(t, p, "udp", "other.test", dns.TypeA)
	require.NoError(t, err)
	require.Equal(t, "other.other.test.", m.Question[0].Name)
	_, err = ask(t, p, "udp", "noise.test", dns.TypeA)
	require.Error(t, err, "the first packet is none")
}

func TestServeTLS(t *testing.T) {
	p, err := dnspeer.Start(dnspeer.Zone{"x.test": {"A 127.0.0.1"}})
	require.NoError(t, err)
	defer p.Close()
	ca := smtppeer.NewCA()
	addr, err := p.ServeTLS(ca.Config("dns.test"), time.Second)
	require.NoError(t, err)
	c := dns.Client{Net: "tcp-tls", TLSConfig: &tls.Config{ServerName: "dns.test", RootCAs: ca.Pool()}, Timeout: 2 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion("x.test.", dns.TypeA), addr)
	require.NoError(t, err)
	require.Len(t, m.Answer, 1)
	require.Equal(t, 1, p.Accepted())
}
