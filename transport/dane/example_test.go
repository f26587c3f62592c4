package dane_test

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/postseal/postseal/transport/dane"
)

// A session with a mail host: what DNS asks for, and whether the host is the right one. A client of your own takes the
// Resolver from smtp.DNS.
func ExampleLookup() {
	leaf := spec{subject: "leaf", names: []string{"mx.test"}}.make() // what the host shows
	record, err := dane.RecordFor(leaf.Certificate, dane.UsageDANEEE, dane.SelectorSPKI, dane.MatchSHA256)
	if err != nil {
		fmt.Println(err)
		return
	}
	resolver := &zone{tlsa: map[string]any{"_25._tcp.mx.test": dane.Answer{Records: []dane.Record{record}, Secure: true}}}

	p := dane.Lookup(context.Background(), resolver, dane.Host{Name: "mx.test", NextHop: "example.test", Signed: true, Secure: true})
	fmt.Println(p.State, p.Base)
	config := &tls.Config{
		ServerName:         p.Base,
		InsecureSkipVerify: true, // the check is ours:
		VerifyConnection: func(cs tls.ConnectionState) error {
			m, err := p.Verify(cs.PeerCertificates, nil)
			fmt.Println(m.Findings, err)
			return err
		},
	}
	_ = config.VerifyConnection(tls.ConnectionState{PeerCertificates: certs(leaf)})
	// Output:
	// usable mx.test
	// [{dane-ee a DANE-EE(3) record has the host's key}] <nil>
}
