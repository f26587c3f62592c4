package main

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// benchDNS sends all mail to the sink.
type benchDNS struct{ addr netip.Addr }

// MX implements smtp.Resolver.
func (benchDNS) MX(context.Context, string) (smtp.MXSet, error) {
	return smtp.MXSet{Hosts: []smtp.MX{{Host: sinkName, Preference: 10}}}, nil
}

// Addrs implements smtp.Resolver.
func (d benchDNS) Addrs(context.Context, string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: []netip.Addr{d.addr}}, nil
}

// ours is transport/smtp, direct to the sink as the domain's mail host: MX look-up, floor and evidence included. All
// goroutines share one Transport, as in a Mailer.
func ours() driver {
	return driver{"postseal", func(_ context.Context, f *far, w wire, n int) ([]client, error) {
		host, port, _ := strings.Cut(f.at(w), ":")
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return nil, err
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, err
		}
		t, err := smtp.New(&smtp.Options{
			HELO: "client.test", Resolver: benchDNS{addr}, Port: uint16(number), RootCAs: f.roots, MaxUses: 1 << 30,
		})
		if err != nil {
			return nil, err
		}
		s, err := shipment(w)
		if err != nil {
			return nil, err
		}
		return slices.Repeat([]client{&ourClient{t, s}}, n), nil
	}}
}

func shipment(w wire) (*securemail.Shipment, error) {
	m, err := securemail.NewMessage(securemail.Bytes(message()))
	if err != nil {
		return nil, err
	}
	from, err := securemail.ParseAddress(sender)
	if err != nil {
		return nil, err
	}
	to, err := securemail.ParseAddress(recipient)
	if err != nil {
		return nil, err
	}
	floor := securemail.ChannelAny
	if w == starttls {
		floor = securemail.ChannelNamed
	}
	return &securemail.Shipment{
		Parcel: &securemail.Parcel{
			Slip:    securemail.Slip{ID: "bench", Recipient: securemail.Contact{Address: to}, ReturnPath: from},
			Message: m,
		},
		Channel: floor, Attempt: 1, Key: "bench",
	}, nil
}

type ourClient struct {
	t *smtp.Transport
	s *securemail.Shipment
}

func (c *ourClient) deliver(ctx context.Context) error {
	_, err := c.t.Deliver(ctx, c.s)
	return err
}

func (c *ourClient) close() error { return c.t.Close() }
