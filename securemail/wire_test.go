package securemail

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeets(t *testing.T) {
	good := &TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256}
	tls12 := &TLSFacts{Version: tls.VersionTLS12, Suite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	named := &Operator{Name: "relay", Agreement: "BAA-1"}
	for name, c := range map[string]struct {
		wire Wire
		best Channel // the strictest that is met
	}{
		"nothing":             {Wire{}, ChannelAny},
		"dane":                {Wire{TLS: good, Proof: ProofDANE, Hop: HopFinal}, ChannelVerified},
		"sts":                 {Wire{TLS: tls12, Proof: ProofSTS, Hop: HopFinal}, ChannelVerified},
		"dnssec":              {Wire{TLS: good, Proof: ProofDNSSEC, Hop: HopFinal}, ChannelVerified},
		"configured":          {Wire{TLS: good, Proof: ProofConfigured, Hop: HopFinal}, ChannelVerified},
		"pkix":                {Wire{TLS: good, Proof: ProofPKIX, Hop: HopFinal}, ChannelNamed},
		"no proof":            {Wire{TLS: good, Hop: HopFinal}, ChannelEncrypted},
		"strange proof":       {Wire{TLS: good, Proof: "word of honour", Hop: HopFinal}, ChannelEncrypted},
		"no tls":              {Wire{Proof: ProofDANE, Hop: HopFinal}, ChannelAny},
		"tls 1.1":             {Wire{TLS: &TLSFacts{Version: tls.VersionTLS11, Suite: tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}, Proof: ProofDANE, Hop: HopFinal}, ChannelAny},
		"weak suite":          {Wire{TLS: &TLSFacts{Version: tls.VersionTLS12, Suite: tls.TLS_RSA_WITH_RC4_128_SHA}, Proof: ProofDANE, Hop: HopFinal}, ChannelAny},
		"suite of tls 1.3":    {Wire{TLS: &TLSFacts{Version: tls.VersionTLS12, Suite: tls.TLS_AES_128_GCM_SHA256}, Proof: ProofDANE, Hop: HopFinal}, ChannelAny},
		"relay":               {Wire{TLS: good, Proof: ProofDANE}, ChannelAny},
		"vouched relay":       {Wire{TLS: good, Proof: ProofConfigured, Hop: HopAsserted, Operator: named}, ChannelVerified},
		"vouched by nobody":   {Wire{TLS: good, Proof: ProofDANE, Hop: HopAsserted}, ChannelAny},
		"vouched by no name":  {Wire{TLS: good, Proof: ProofDANE, Hop: HopAsserted, Operator: &Operator{Agreement: "BAA-1"}}, ChannelAny},
		"under no agreement":  {Wire{TLS: good, Proof: ProofDANE, Hop: HopAsserted, Operator: &Operator{Name: "P"}}, ChannelAny},
		"operator, but relay": {Wire{TLS: good, Proof: ProofDANE, Hop: HopRelay, Operator: named}, ChannelAny},
		"strange hop":         {Wire{TLS: good, Proof: ProofDANE, Hop: 9, Operator: named}, ChannelAny},
	} {
		for ch := ChannelVerified; ch <= ChannelAny; ch++ {
			require.Equal(t, ch >= c.best, c.wire.Meets(ch), "%s, channel %d", name, ch)
		}
		require.False(t, c.wire.Meets(ChannelAny+1), "%s, unknown channel", name)
	}
}

func TestTLSFactsOf(t *testing.T) {
	require.Nil(t, TLSFactsOf(nil))
	cs := &tls.ConnectionState{
		Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_256_GCM_SHA384, CurveID: tls.X25519MLKEM768,
		PeerCertificates: []*x509.Certificate{{Raw: []byte("leaf")}, {Raw: []byte("root")}},
	}
	f := TLSFactsOf(cs)
	require.Equal(t, cs.Version, f.Version)
	require.Equal(t, cs.CipherSuite, f.Suite)
	require.Equal(t, cs.CurveID, f.Group)
	require.Equal(t, fipsEnabled(), f.FIPS)
	cs.PeerCertificates = cs.PeerCertificates[:1]
	require.NotEqual(t, f.Chain, TLSFactsOf(cs).Chain)
}
