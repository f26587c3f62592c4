package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// benchDNS sends all mail to the sink.
type benchDNS struct{ addr netip.Addr }

// MX implements smtp.Resolver.
func (benchDNS) MX(context.Context, string) (smtp.MXSet, error) {
	return smtp.MXSet{Hosts: []smtp.MX{{Host: sinkName, Preference: 10}}, TTL: time.Hour}, nil
}

// Addrs implements smtp.Resolver.
func (d benchDNS) Addrs(context.Context, string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: []netip.Addr{d.addr}, TTL: time.Hour}, nil
}

// ours is transport/smtp, direct to the far end as the domain's mail host: MX look-up, floor and evidence included. All
// callers share one Transport, as in a Mailer.
func ours(change func(*smtp.Options)) driver {
	return driver{"postseal", func(_ context.Context, to target, n int) ([]client, error) {
		t, err := newTransport(to, func(o *smtp.Options) {
			o.Limits = smtp.Limits{Connections: n, Max: n}
			o.MaxIdlePerHost = n
			if change != nil {
				change(o)
			}
		})
		if err != nil {
			return nil, err
		}
		s, err := shipment(to.wire, recipient)
		if err != nil {
			return nil, err
		}
		return slices.Repeat([]client{&ourClient{t, s}}, n), nil
	}}
}

func newTransport(to target, change func(*smtp.Options)) (*smtp.Transport, error) {
	at, err := netip.ParseAddrPort(to.addr)
	if err != nil {
		return nil, err
	}
	o := &smtp.Options{HELO: "client.test", Resolver: benchDNS{at.Addr()}, Port: at.Port(), RootCAs: to.roots, MaxUses: 1 << 30}
	if change != nil {
		change(o)
	}
	return smtp.New(o)
}

// streamed sends messages behind each other, without waiting for answers, on at most so many connections.
func streamed(connections int) func(*smtp.Options) {
	return func(o *smtp.Options) {
		o.Limits = smtp.Limits{Connections: connections, Max: connections}
		o.Stream = &smtp.Stream{Window: window, Connections: connections, MaxUses: 1 << 30}
	}
}

func shipment(w wire, recipient string) (*securemail.Shipment, error) {
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
