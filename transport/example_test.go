package transport_test

import (
	"context"
	"fmt"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

func named(name string, err error) securemail.Transport {
	return securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
		if err != nil {
			return nil, err
		}
		return &securemail.Receipt{Peer: name}, nil
	})
}

func exampleShipment(address string) *securemail.Shipment {
	to, _ := securemail.ParseAddress(address)
	return &securemail.Shipment{Parcel: &securemail.Parcel{Slip: securemail.Slip{Recipient: securemail.Contact{Address: to}}}}
}

func ExampleByDomain() {
	t, err := transport.ByDomain(map[string]securemail.Transport{
		"clinic.test": named("the clinic's own host", nil),
	}, named("the smart host", nil))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, address := range []string{"a@clinic.test", "b@elsewhere.test"} {
		r, _ := t.Deliver(context.Background(), exampleShipment(address))
		fmt.Println(r.Peer)
	}
	// Output:
	// the clinic's own host
	// the smart host
}

func ExampleFailover() {
	down := named("", &securemail.DeliveryError{Stage: "connect"})
	t := transport.Failover(down, named("the second", nil))
	r, _ := t.Deliver(context.Background(), exampleShipment("a@clinic.test"))
	fmt.Println(r.Peer)
	// Output: the second
}
