package smtp_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

func exampleShipment(floor securemail.Channel) *securemail.Shipment {
	to, _ := securemail.ParseAddress("anna@clinic.test")
	m, _ := securemail.NewMessage(securemail.Bytes([]byte("Subject: Appointment\r\n\r\nTuesday at ten.\r\n")))
	return &securemail.Shipment{
		Parcel:  &securemail.Parcel{Slip: securemail.Slip{Recipient: securemail.Contact{Address: to}}, Message: m},
		Channel: floor,
	}
}

// A message for a domain whose mail host proves its name, and then with a stricter demand than unsigned DNS can meet.
func ExampleTransport_Deliver() {
	ca := smtppeer.NewCA()
	host, _ := smtppeer.Start(smtppeer.Options{TLS: ca.Config("mx.clinic.test")})
	defer host.Close()
	names, _ := dnspeer.Start(dnspeer.Zone{"clinic.test": {"MX 10 mx.clinic.test."}, "mx.clinic.test": {"A 127.0.0.1"}})
	defer names.Close()

	resolver, err := smtp.DNS(names.Addr(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	t, err := smtp.New(&smtp.Options{
		HELO: "mail.sender.test", Resolver: resolver, Port: uint16(host.Port()), RootCAs: ca.Pool(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer t.Close()

	r, err := t.Deliver(context.Background(), exampleShipment(securemail.ChannelNamed))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Peer, tls.VersionName(r.TLS.Version), r.Proof)

	_, err = t.Deliver(context.Background(), exampleShipment(securemail.ChannelVerified))
	fmt.Println(errors.Is(err, securemail.ErrChannel), err)
	// Output:
	// mx.clinic.test TLS 1.3 pkix
	// true securemail: channel floor not met: mx-unsigned
}

// A smart host that its operator vouches for.
func ExampleRelay() {
	ca := smtppeer.NewCA()
	host, _ := smtppeer.Start(smtppeer.Options{TLS: ca.Config("127.0.0.1"), Users: map[string]string{"clinic": "secret"}})
	defer host.Close()

	t, err := smtp.New(&smtp.Options{
		RootCAs: ca.Pool(),
		Relay: &smtp.Relay{
			Addr: host.Addr(), User: "clinic", Password: securemail.NewSecret("secret"),
			Operator: &securemail.Operator{Name: "Relay Inc", Agreement: "BAA 2026-7"},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer t.Close()
	r, err := t.Deliver(context.Background(), exampleShipment(securemail.ChannelVerified))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Proof, r.Hop == securemail.HopAsserted, r.Operator.Agreement)
	// Output: configured true BAA 2026-7
}

// Whether a domain offers TLS, without sending mail.
func ExampleTransport_Probe() {
	host, _ := smtppeer.Start(smtppeer.Options{})
	defer host.Close()
	t, err := smtp.New(&smtp.Options{
		Resolver: fixed{},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, host.Addr())
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer t.Close()
	r, err := t.Probe(context.Background(), "", "clinic.test")
	fmt.Println(r.Known, r.TLS != nil, r.Reasons[0].Rule, err)
	// Output: true false starttls-not-offered <nil>
}
