package smtp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

func addrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Traps 20 and 21, and what DNS can do besides.
func TestRoutes(t *testing.T) {
	// A host "mx1.test" exists at 192.0.2.1 and in 2001:db8::1.
	cases := []struct {
		name string
		zone dnspeer.Zone
		// peer is who got it, "" for nobody.
		peer     string
		fate     securemail.Fate
		code     int
		enhanced string
		rules    string
		dials    int
	}{
		{name: "MX", zone: dnspeer.Zone{"clinic.test": {"MX 10 mx1.test."}}, peer: "mx1.test", dials: 1},
		{name: "null MX", zone: dnspeer.Zone{"clinic.test": {"MX 0 .", "A 192.0.2.1"}},
			fate: securemail.FatePermanent, code: 556, enhanced: "5.1.10"},
		{name: "null MX beside another is void", zone: dnspeer.Zone{"clinic.test": {"MX 0 .", "MX 1 mx1.test."}}, peer: "mx1.test", dials: 1},
		{name: "no domain", zone: dnspeer.Zone{}, fate: securemail.FatePermanent, enhanced: "5.1.2"},
		{name: "no MX, no address", zone: dnspeer.Zone{"clinic.test": {`TXT "x"`}}, fate: securemail.FatePermanent, enhanced: "5.1.2"},
		{name: "A only", zone: dnspeer.Zone{"clinic.test": {"A 192.0.2.1"}}, peer: "clinic.test", dials: 1},
		{name: "AAAA only", zone: dnspeer.Zone{"clinic.test": {"AAAA 2001:db8::1"}}, peer: "clinic.test", dials: 1},
		{name: "domain is CNAME", zone: dnspeer.Zone{"clinic.test": {"CNAME real.test."}, "real.test": {"MX 1 mx1.test."}}, peer: "mx1.test", dials: 1},
		{name: "MX to CNAME", zone: dnspeer.Zone{"clinic.test": {"MX 1 alias.test."}, "alias.test": {"CNAME mx1.test."}}, peer: "alias.test", dials: 1},
		{name: "MX to IP literal", zone: dnspeer.Zone{"clinic.test": {"MX 1 192.0.2.1."}},
			enhanced: "4.4.4", rules: "mx-invalid"},
		{name: "IP literal beside a host", zone: dnspeer.Zone{"clinic.test": {"MX 1 192.0.2.1.", "MX 2 mx1.test."}}, peer: "mx1.test", dials: 1},
		{name: "MX without address", zone: dnspeer.Zone{"clinic.test": {"MX 1 gone.test."}}, enhanced: "4.4.4"},
		{name: "MX without address beside a host", zone: dnspeer.Zone{"clinic.test": {"MX 1 gone.test.", "MX 2 mx1.test."}}, peer: "mx1.test", dials: 1},
		{name: "dead host first", zone: dnspeer.Zone{"clinic.test": {"MX 1 dead.test.", "MX 2 mx1.test."}, "dead.test": {"A 192.0.2.99"}}, peer: "mx1.test", dials: 2},
		{name: "dead address first", zone: dnspeer.Zone{"clinic.test": {"MX 1 both.test."}, "both.test": {"A 192.0.2.99", "AAAA 2001:db8::1"}}, peer: "both.test", dials: 2},
		{name: "SERVFAIL", zone: dnspeer.Zone{"clinic.test": {dnspeer.ServFail}}, enhanced: "4.4.3"},
		{name: "REFUSED", zone: dnspeer.Zone{"clinic.test": {dnspeer.Refused}}, enhanced: "4.4.3"},
		{name: "time-out", zone: dnspeer.Zone{"clinic.test": {dnspeer.Timeout}}, enhanced: "4.4.3"},
		{name: "wrong id", zone: dnspeer.Zone{"clinic.test": {"MX 1 mx1.test.", dnspeer.WrongID}}, enhanced: "4.4.3"},
		{name: "CNAME loop", zone: dnspeer.Zone{"clinic.test": {"CNAME clinic.test."}}, enhanced: "4.4.3"},
		{name: "truncated", zone: dnspeer.Zone{"clinic.test": {"MX 1 mx1.test.", dnspeer.Truncate}}, peer: "mx1.test", dials: 1},
		{name: "SERVFAIL for the host", zone: dnspeer.Zone{"clinic.test": {"MX 1 bad.test."}, "bad.test": {dnspeer.ServFail}}, enhanced: "4.4.4"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.host("mx1.test", smtppeer.Options{})
			l.hosts["2001:db8::1"] = p
			c.zone["mx1.test"] = []string{"A 192.0.2.1"}
			require.NoError(t, l.dns.Set(c.zone))
			dials := 0
			tr := l.transport(func(o *smtp.Options) {
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dials++
					_, port, _ := net.SplitHostPort(addr)
					require.Equal(t, "25", port)
					return l.dial(ctx, network, addr)
				}
			})
			r, err := l.deliver(tr, anyway)
			require.Equal(t, c.dials, dials)
			if c.peer != "" {
				require.NoError(t, err)
				require.Equal(t, c.peer, r.Peer)
				return
			}
			d := wantDelivery(t, err)
			require.Equal(t, c.fate, d.Fate)
			require.Equal(t, c.code, d.Code)
			require.Equal(t, c.enhanced, d.Enhanced)
			require.Equal(t, "resolve", d.Stage)
			require.Equal(t, c.rules, rules(d.Wire.Reasons))
			require.NotContains(t, err.Error(), "clinic")
			if c.code == 556 {
				require.ErrorIs(t, err, smtp.ErrNullMX)
			}
		})
	}
}

// RFC 5321 section 5.1: by preference, and at random among equals.
func TestOrderOfHosts(t *testing.T) {
	firsts := map[string]int{}
	for range 40 {
		var seen []string
		tr, err := smtp.New(&smtp.Options{HELO: "c.test", Resolver: order{}, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			seen = append(seen, addr)
			return nil, errors.New("no")
		}})
		require.NoError(t, err)
		_, err = tr.Deliver(t.Context(), shipment(t, anyway, hello))
		require.Error(t, err)
		require.Len(t, seen, 3)
		require.Equal(t, "192.0.2.9:25", seen[2])
		firsts[seen[0]]++
		require.NoError(t, tr.Close())
	}
	require.Len(t, firsts, 2)
}

type order struct{}

func (order) MX(context.Context, string) (smtp.MXSet, error) {
	return smtp.MXSet{Hosts: []smtp.MX{{"c", 9}, {"a", 5}, {"b", 5}}}, nil
}

func (order) Addrs(_ context.Context, host string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: addrs(map[string]string{"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.9"}[host])}, nil
}

// A domain with endless hosts costs a bounded number of connections.
func TestManyHosts(t *testing.T) {
	l := newLab(t)
	for i := range 300 {
		l.zone["clinic.test"] = append(l.zone["clinic.test"], fmt.Sprintf("MX %d h%d.test.", i, i))
		l.zone[fmt.Sprintf("h%d.test", i)] = []string{"A 192.0.2.100", "A 192.0.2.101", "A 192.0.2.102", "A 192.0.2.103", "A 192.0.2.104", "A 192.0.2.105"}
	}
	l.records("x.test", "A 192.0.2.1")
	dials := 0
	tr := l.transport(func(o *smtp.Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			dials++
			return nil, errors.New("no route to " + canary)
		}
	})
	_, err := l.deliver(tr, anyway)
	require.Equal(t, "connect", wantDelivery(t, err).Stage)
	require.Equal(t, "4.4.1", wantDelivery(t, err).Enhanced)
	require.Equal(t, 8, dials)
}

func TestDNSQuestions(t *testing.T) {
	l := newLab(t)
	l.mx(smtppeer.Options{})
	tr := l.transport(nil)
	for range 2 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	qs := l.dns.Queries()
	require.Len(t, qs, 4, "MX, TXT for MTA-STS, A and AAAA once: the answers are kept for their time to live")
	require.Equal(t, dnspeer.Query{Name: "clinic.test", Type: "MX", Network: "udp", EDNS: true, AD: true}, qs[0])

	_, err := smtp.DNS("localhost:53", nil)
	require.Error(t, err)
	_, err = smtp.DNS("192.0.2.1:53", &smtp.DNSOptions{TrustAD: true})
	require.ErrorContains(t, err, "loopback")
	_, err = smtp.DNS("192.0.2.1:53", &smtp.DNSOptions{Timeout: -1})
	require.Error(t, err)
}

func TestResolverEndsWithItsContext(t *testing.T) {
	l := newLab(t)
	l.records("clinic.test", dnspeer.Timeout)
	r, err := smtp.DNS(l.dns.Addr(), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err = r.MX(ctx, "clinic.test")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), 4*time.Second) // one exchange alone takes 5
}

func TestSystemResolver(t *testing.T) {
	d, err := dnspeer.Start(dnspeer.Zone{
		"clinic.test": {"MX 10 mx1.test.", "MX 20 192.0.2.1."}, "mx1.test": {"A 192.0.2.1", "AAAA 2001:db8::1"},
		"null.test": {"MX 0 ."}, "bare.test": {"A 192.0.2.2"}, "fail.test": {dnspeer.ServFail},
	})
	require.NoError(t, err)
	defer d.Close()
	r := smtp.System(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, d.Addr())
	}})
	ctx := t.Context()
	mx, err := r.MX(ctx, "clinic.test")
	require.NoError(t, err)
	require.Contains(t, mx.Hosts, smtp.MX{Host: "mx1.test", Preference: 10})
	mx, err = r.MX(ctx, "null.test")
	require.NoError(t, err)
	require.Equal(t, []smtp.MX{{}}, mx.Hosts)
	mx, err = r.MX(ctx, "bare.test")
	require.NoError(t, err)
	require.Empty(t, mx.Hosts)
	_, err = r.MX(ctx, "fail.test")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "fail.test")
	as, err := r.Addrs(ctx, "mx1.test")
	require.NoError(t, err)
	require.ElementsMatch(t, addrs("192.0.2.1", "2001:db8::1"), as.Addrs)
	_, err = r.Addrs(ctx, "none.test")
	require.ErrorIs(t, err, smtp.ErrNotFound)
	_, err = r.Addrs(ctx, "fail.test")
	require.Error(t, err)
	require.NotErrorIs(t, err, smtp.ErrNotFound)
}
