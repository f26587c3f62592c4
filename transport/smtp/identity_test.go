package smtp_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// Each tenant has its own name, addresses and connections.
func TestIdentity(t *testing.T) {
	var mu sync.Mutex
	var sources []string
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	tr := l.transport(func(o *smtp.Options) {
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			a, _ := smtp.Source(ctx)
			mu.Lock()
			defer mu.Unlock()
			sources = append(sources, a.String())
			return l.dial(ctx, network, addr)
		}
		o.Identity = func(s *securemail.Slip) smtp.Identity {
			switch s.Actor.Tenant {
			case "a":
				return smtp.Identity{HELO: "a.test", Sources: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("198.51.100.1")}}
			case "b":
				return smtp.Identity{HELO: "b.test", Sources: []netip.Addr{netip.MustParseAddr("198.51.100.2")}}
			case "six":
				return smtp.Identity{Sources: []netip.Addr{netip.MustParseAddr("2001:db8::2")}}
			case "bad":
				return smtp.Identity{HELO: "a.test\r\nMAIL"}
			}
			return smtp.Identity{}
		}
	})
	send := func(tenant string) error {
		s := shipment(t, anyway, hello)
		s.Actor.Tenant = tenant
		_, err := l.ship(tr, s)
		return err
	}
	for _, tenant := range []string{"a", "b", "", "a", "b", ""} {
		require.NoError(t, send(tenant))
	}
	require.Equal(t, 3, p.Connections())
	var names []string
	for _, m := range p.Messages() {
		names = append(names, m.HELO)
	}
	require.Equal(t, []string{"a.test", "b.test", "client.test", "a.test", "b.test", "client.test"}, names)
	require.Equal(t, []string{"198.51.100.1", "198.51.100.2", "invalid IP"}, sources)

	d := wantDelivery(t, send("six"))
	require.Equal(t, securemail.FateRetry, d.Fate)
	require.Equal(t, "source-family", rules(d.Wire.Reasons))
	require.Equal(t, securemail.FateRetry, wantDelivery(t, send("bad")).Fate)
	require.Equal(t, 3, p.Connections())
}

// With several sources a domain keeps its own, and all are used.
func TestSourcesBySpread(t *testing.T) {
	var last netip.Addr
	l := newLab(t)
	l.mx(smtppeer.Options{})
	tr := l.transport(func(o *smtp.Options) {
		o.MaxIdle = -1
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			last, _ = smtp.Source(ctx)
			return l.dial(ctx, network, addr)
		}
		o.Identity = func(*securemail.Slip) smtp.Identity {
			return smtp.Identity{Sources: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}}
		}
	})
	seen := map[netip.Addr]bool{}
	for _, d := range []string{"a.test", "b.test", "c.test", "d.test", "e.test", "f.test", "g.test"} {
		l.records(d, "MX 1 mx1.test.")
		first := netip.Addr{}
		for range 2 {
			s := shipment(t, anyway, hello)
			s.Recipient.Address = address(t, "x@"+d)
			_, err := l.ship(tr, s)
			require.NoError(t, err)
			require.True(t, !first.IsValid() || first == last)
			first = last
		}
		seen[last] = true
	}
	require.Len(t, seen, 2)
}

// The built-in dialler binds to the source.
func TestSourceIsBound(t *testing.T) {
	p, err := smtppeer.Start(smtppeer.Options{})
	require.NoError(t, err)
	defer p.Close()
	for source, fine := range map[string]bool{"127.0.0.1": true, "198.51.100.77": false} {
		tr, err := smtp.New(&smtp.Options{
			Relay: &smtp.Relay{Addr: p.Addr()},
			Identity: func(*securemail.Slip) smtp.Identity {
				return smtp.Identity{Sources: []netip.Addr{netip.MustParseAddr(source)}}
			},
		})
		require.NoError(t, err)
		_, err = tr.Deliver(t.Context(), shipment(t, anyway, hello))
		require.Equal(t, fine, err == nil, source)
		require.NoError(t, tr.Close())
	}
}
