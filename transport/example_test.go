package transport_test

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/postseal/postseal/mtasts"
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

func ExampleLimit() {
	deferring := named("", &securemail.DeliveryError{Stage: "mail", Code: 421})
	t, err := transport.Limit(deferring, &transport.LimitOptions{Connections: 4, Rate: 20, Wait: time.Second, Pause: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 { // the second does not reach the mail host
		_, err = t.Deliver(context.Background(), exampleShipment("a@clinic.test"))
		fmt.Println(err)
	}
	// Output:
	// securemail: delivery: mail 421
	// securemail: delivery: connect 4.4.5: throttle: closed for 1m0s
}

func ExampleRecord() {
	counts := map[transport.Result]int{} // a host program would guard it
	t, err := transport.Record(named("mx.clinic.test", nil), transport.RecorderFunc(func(_ context.Context, o transport.Outcome) {
		counts[o.Result]++
		fmt.Println(o.Domain, o.Result, "by", o.Peer)
	}), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = t.Deliver(context.Background(), exampleShipment("a@clinic.test"))
	fmt.Println(counts)
	// Output:
	// clinic.test delivered by mx.clinic.test
	// map[delivered:1]
}

func ExampleSTSStore() {
	db, err := sql.Open("sqlite", ":memory:") // a host program uses its own database
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx := context.Background()
	s, err := transport.STSStore(ctx, db, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fetched := time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC)
	_ = s.Save(ctx, mtasts.Entry{Domain: "clinic.test", ID: "2", Mode: mtasts.Enforce, Fetched: fetched})
	_ = s.Save(ctx, mtasts.Entry{Domain: "clinic.test", ID: "1", Mode: mtasts.None, Fetched: fetched.Add(-time.Hour)})
	e, err := s.Load(ctx, "clinic.test") // what was fetched last stays
	fmt.Println(e.ID, e.Mode, err)
	// Output: 2 enforce <nil>
}
