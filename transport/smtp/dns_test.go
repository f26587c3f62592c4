package smtp_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/smtp"
)

// client asks a server that has z. change may alter its options.
func client(t *testing.T, z dnspeer.Zone, change func(*smtp.DNSOptions)) (*smtp.DNSClient, *dnspeer.Peer) {
	t.Helper()
	d, err := dnspeer.Start(z)
	require.NoError(t, err)
	t.Cleanup(d.Close)
	o := &smtp.DNSOptions{Timeout: time.Second, Attempts: 3, TrustAD: true}
	if change != nil {
		change(o)
	}
	c, err := smtp.DNS(d.Addr(), o)
	require.NoError(t, err)
	return c, d
}

func absent(err error) bool {
	var de *net.DNSError
	return errors.As(err, &de) && de.IsNotFound
}

const hash = "ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789"

func TestTLSA(t *testing.T) {
	c, d := client(t, dnspeer.Zone{
		"_25._tcp.mx.test":      {"300 TLSA 3 1 1 " + hash, "200 TLSA 2 0 1 " + hash, dnspeer.Secure},
		"_25._tcp.plain.test":   {"TLSA 3 1 1 " + hash},
		"_25._tcp.alias.test":   {"100 CNAME _25._tcp.mx.test.", dnspeer.Secure},
		"_25._tcp.half.test":    {"CNAME _25._tcp.mx.test."},
		"_25._tcp.none.test":    {"A 192.0.2.1", dnspeer.Secure},
		"_25._tcp.nothing.test": {"CNAME _25._tcp.none.test.", dnspeer.Secure},
		"_25._tcp.odd.test":     {"TLSA 255 7 9 00", dnspeer.Secure},
	}, nil)
	want := []dane.Record{must(dane.ParseRecord("3 1 1 " + hash)), must(dane.ParseRecord("2 0 1 " + hash))}
	for _, k := range []struct {
		name string
		want dane.Answer
	}{
		{"mx", dane.Answer{Records: want, Secure: true, TTL: 200 * time.Second}},
		{"plain", dane.Answer{Records: want[:1], TTL: time.Minute}},
		{"alias", dane.Answer{Records: want, Secure: true, TTL: 100 * time.Second}},
		{"half", dane.Answer{Records: want, TTL: time.Minute}},
		{"odd", dane.Answer{Records: []dane.Record{{Usage: 255, Selector: 7, Match: 9, Data: []byte{0}}}, Secure: true, TTL: time.Minute}},
	} {
		a, err := c.TLSA(t.Context(), "_25._tcp."+k.name+".test")
		require.NoError(t, err, k.name)
		require.Equal(t, k.want, a, k.name)
	}
	for _, name := range []string{"_25._tcp.none.test", "_25._tcp.nothing.test", "_25._tcp.gone.test", "_25._tcp." + strings.Repeat("x", 64) + ".test"} {
		_, err := c.TLSA(t.Context(), name)
		require.True(t, absent(err), name)
	}
	require.True(t, d.Queries()[0].EDNS)
	require.True(t, d.Queries()[0].AD)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What is not known is not absent, whichever type was asked for.
func TestDNSFailures(t *testing.T) {
	for _, word := range []string{dnspeer.ServFail, dnspeer.Refused, dnspeer.Timeout, dnspeer.Lame, dnspeer.WrongID, dnspeer.Other} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			c, d := client(t, dnspeer.Zone{"x.test": {word, "TLSA 3 1 1 " + hash, "TXT x", dnspeer.Secure}, "y.test": {"CNAME y.test.", dnspeer.Secure, word}}, func(o *smtp.DNSOptions) {
				o.Timeout, o.Attempts = 100*time.Millisecond, 2
			})
			_, err := c.TLSA(t.Context(), "x.test")
			require.Error(t, err)
			require.False(t, absent(err))
			require.NotContains(t, err.Error(), "x.test")
			require.GreaterOrEqual(t, len(d.Queries()), 2, "asked again")
			_, err = c.LookupTXT(t.Context(), "x.test")
			require.Error(t, err)
			require.False(t, absent(err))
			_, err = c.CNAME(t.Context(), "y.test")
			require.Error(t, err)
			require.False(t, absent(err))
			_, err = c.MX(t.Context(), "x.test")
			require.Error(t, err)
			require.NotErrorIs(t, err, smtp.ErrNotFound)
			_, err = c.Addrs(t.Context(), "x.test")
			require.Error(t, err)
			require.NotErrorIs(t, err, smtp.ErrNotFound)
		})
	}
	nobody := must(net.ListenPacket("udp", "127.0.0.1:0"))
	gone := nobody.LocalAddr().String()
	nobody.Close()
	c := must(smtp.DNS(gone, &smtp.DNSOptions{Timeout: 200 * time.Millisecond, Attempts: 1}))
	_, err := c.TLSA(t.Context(), "x.test")
	require.Error(t, err)
	require.False(t, absent(err))
}

// Trap 13: a TLSA answer that does not fit is asked for over TCP, and the empty one with TC is not believed.
func TestTruncatedTLSA(t *testing.T) {
	var many []string
	for i := range 1200 {
		many = append(many, fmt.Sprintf("TLSA 3 1 1 %04x%s", i, hash[4:]))
	}
	c, d := client(t, dnspeer.Zone{
		"_25._tcp.mx.test":   {"TLSA 3 1 1 " + hash, dnspeer.Secure, dnspeer.Truncate},
		"_25._tcp.many.test": append(many, dnspeer.Secure),
	}, nil)
	a, err := c.TLSA(t.Context(), "_25._tcp.mx.test")
	require.NoError(t, err)
	require.Len(t, a.Records, 1)
	require.True(t, a.Secure)
	require.Equal(t, "tcp", d.Queries()[1].Network)
	a, err = c.TLSA(t.Context(), "_25._tcp.many.test")
	require.NoError(t, err)
	require.Len(t, a.Records, 1200)
	p := dane.Lookup(t.Context(), c, dane.Host{Name: "many.test", Signed: true, Secure: true})
	require.Equal(t, dane.Usable, p.State)
	require.LessOrEqual(t, len(p.Records), 64)
}

func TestCNAME(t *testing.T) {
	c, _ := client(t, dnspeer.Zone{
		"signed.test":   {"CNAME Real.Test.", dnspeer.Secure},
		"unsigned.test": {"CNAME real.test."},
		"real.test":     {"A 192.0.2.1"},
	}, nil)
	a, err := c.CNAME(t.Context(), "signed.test")
	require.NoError(t, err)
	require.Equal(t, dane.Alias{Target: "real.test", Secure: true}, a, "its target's signature does not matter")
	a, err = c.CNAME(t.Context(), "unsigned.test")
	require.NoError(t, err)
	require.Equal(t, dane.Alias{Target: "real.test"}, a)
	for _, name := range []string{"real.test", "none.test"} {
		_, err = c.CNAME(t.Context(), name)
		require.True(t, absent(err), name)
	}
}

// LookupTXT answers as Go's own resolver does.
func TestLookupTXT(t *testing.T) {
	z := dnspeer.Zone{
		"one.test":   {`TXT "v=STSv1; id=1;"`},
		"parts.test": {`TXT "v=STSv1; " "id=1;"`, `TXT second`},
		"odd.test":   {`TXT "a\"b\\c\100\007e\;f" "\255"`, `TXT ""`},
		"alias.test": {"CNAME one.test."},
		"none.test":  {"A 192.0.2.1"},
		"fail.test":  {dnspeer.ServFail},
	}
	c, d := client(t, z, nil)
	theirs := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, d.Addr())
	}}
	system := smtp.System(theirs).(interface {
		LookupTXT(ctx context.Context, name string) ([]string, error)
	})
	for _, name := range []string{"one.test", "parts.test", "odd.test", "alias.test", "none.test", "gone.test", "fail.test"} {
		want, wantErr := theirs.LookupTXT(t.Context(), name+".")
		for _, r := range []interface {
			LookupTXT(ctx context.Context, name string) ([]string, error)
		}{c, system} {
			have, err := r.LookupTXT(t.Context(), name)
			require.Equal(t, want, have, name)
			require.Equal(t, wantErr == nil, err == nil, name)
			require.Equal(t, absent(wantErr), absent(err), name)
		}
	}
}

// RFC 7672 section 2.2.2, and that a family that can't be had takes nothing from the other.
func TestAddrsProof(t *testing.T) {
	sec, ins := dnspeer.Secure, dnspeer.Insecure
	for name, k := range map[string]struct {
		zone      dnspeer.Zone
		canonical string
		secure    bool
		addrs     int
	}{
		"signed":             {dnspeer.Zone{"mx.test": {"A 192.0.2.1", "AAAA 2001:db8::1", sec}}, "", true, 2},
		"not signed":         {dnspeer.Zone{"mx.test": {"A 192.0.2.1"}}, "", false, 1},
		"one family":         {dnspeer.Zone{"mx.test": {"AAAA 2001:db8::1", sec}}, "", true, 1},
		"AAAA fails":         {dnspeer.Zone{"mx.test": {"A 192.0.2.1", sec, "AAAA:SERVFAIL"}}, "", true, 1},
		"A never comes":      {dnspeer.Zone{"mx.test": {"AAAA 2001:db8::1", sec, "A:TIMEOUT"}}, "", true, 1},
		"made-up AAAA":       {dnspeer.Zone{"mx.test": {"A 192.0.2.1", "AAAA 64:ff9b::1", sec, "AAAA:" + ins}}, "", true, 2},
		"empty is unsigned":  {dnspeer.Zone{"mx.test": {"A 192.0.2.1", sec, "AAAA:" + ins}}, "", true, 1},
		"alias":              {dnspeer.Zone{"mx.test": {"CNAME A.Test.", sec}, "a.test": {"CNAME real.test.", sec}, "real.test": {"A 192.0.2.1", sec}}, "real.test", true, 1},
		"alias to unsigned":  {dnspeer.Zone{"mx.test": {"CNAME real.test.", sec}, "real.test": {"A 192.0.2.1"}}, "real.test", false, 1},
		"unsigned to signed": {dnspeer.Zone{"mx.test": {"CNAME real.test."}, "real.test": {"A 192.0.2.1", sec}}, "real.test", false, 1},
		"signed, but empty":  {dnspeer.Zone{"mx.test": {sec, `TXT x`}}, "", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := client(t, k.zone, nil)
			a, err := c.Addrs(t.Context(), "mx.test")
			require.NoError(t, err)
			require.Equal(t, k.canonical, a.Canonical)
			require.Equal(t, k.secure, a.Secure)
			require.Len(t, a.Addrs, k.addrs)
		})
	}
}

func TestMXProof(t *testing.T) {
	c, _ := client(t, dnspeer.Zone{
		"dom.test":    {"MX 5 MX.Test.", dnspeer.Secure},
		"alias.test":  {"CNAME Dom.test.", dnspeer.Secure},
		"half.test":   {"CNAME dom.test."},
		"bare.test":   {"A 192.0.2.1", dnspeer.Secure},
		"unsure.test": {"MX 5 mx.test."},
	}, nil)
	hosts := []smtp.MX{{Host: "mx.test", Preference: 5}}
	for domain, want := range map[string]smtp.MXSet{
		"dom.test":    {Hosts: hosts, Secure: true, TTL: time.Minute},
		"alias.test":  {Hosts: hosts, Canonical: "dom.test", Secure: true, TTL: time.Minute},
		"half.test":   {Hosts: hosts, Canonical: "dom.test", TTL: time.Minute},
		"bare.test":   {Secure: true},
		"unsure.test": {Hosts: hosts, TTL: time.Minute},
	} {
		set, err := c.MX(t.Context(), domain)
		require.NoError(t, err)
		require.Equal(t, want, set, domain)
	}
}

// Trap 13: the AD bit of a server that nobody vouches for is nothing.
func TestUntrustedAD(t *testing.T) {
	z := dnspeer.Zone{"mx.test": {"MX 1 mx.test.", "A 192.0.2.1", "TLSA 3 1 1 " + hash, dnspeer.Secure}, "alias.test": {"CNAME mx.test.", dnspeer.Secure}}
	for name, k := range map[string]struct {
		change func(*smtp.DNSOptions)
		want   bool
	}{
		"by default": {func(o *smtp.DNSOptions) { o.TrustAD = false }, false},
		"trusted":    {nil, true},
		"vouched":    {func(o *smtp.DNSOptions) { o.TrustAD, o.InsecureTrustAD = false, true }, true},
	} {
		c, d := client(t, z, k.change)
		mx, err := c.MX(t.Context(), "mx.test")
		require.NoError(t, err)
		as, err := c.Addrs(t.Context(), "mx.test")
		require.NoError(t, err)
		ts, err := c.TLSA(t.Context(), "mx.test")
		require.NoError(t, err)
		al, err := c.CNAME(t.Context(), "alias.test")
		require.NoError(t, err)
		require.Equal(t, []bool{k.want, k.want, k.want, k.want}, []bool{mx.Secure, as.Secure, ts.Secure, al.Secure}, name)
		require.Equal(t, k.want, d.Queries()[0].AD, name)
	}
}

func TestDNSOptions(t *testing.T) {
	for name, k := range map[string]struct {
		addr string
		o    smtp.DNSOptions
		ok   bool
	}{
		"loopback":             {"127.0.0.1:53", smtp.DNSOptions{TrustAD: true}, true},
		"all of loopback":      {"127.0.0.53:53", smtp.DNSOptions{TrustAD: true}, true},
		"loopback 6":           {"[::1]:53", smtp.DNSOptions{TrustAD: true}, true},
		"mapped":               {"[::ffff:127.0.0.1]:53", smtp.DNSOptions{TrustAD: true}, true},
		"elsewhere":            {"192.0.2.1:53", smtp.DNSOptions{TrustAD: true}, false},
		"elsewhere, untrusted": {"192.0.2.1:53", smtp.DNSOptions{}, true},
		"elsewhere, vouched":   {"192.0.2.1:53", smtp.DNSOptions{InsecureTrustAD: true}, true},
		"over TLS":             {"192.0.2.1:853", smtp.DNSOptions{TrustAD: true, ServerName: "dns.test"}, true},
		"over TLS by config":   {"192.0.2.1:853", smtp.DNSOptions{TrustAD: true, TLS: &tls.Config{ServerName: "dns.test"}}, true},
		"TLS without a name":   {"192.0.2.1:853", smtp.DNSOptions{TrustAD: true, TLS: &tls.Config{}}, false},
		"TLS without a check":  {"192.0.2.1:853", smtp.DNSOptions{TLS: &tls.Config{ServerName: "dns.test", InsecureSkipVerify: true}}, false},
		"a name":               {"localhost:53", smtp.DNSOptions{}, false},
		"no port":              {"127.0.0.1", smtp.DNSOptions{}, false},
		"negative":             {"127.0.0.1:53", smtp.DNSOptions{Attempts: -1}, false},
	} {
		c, err := smtp.DNS(k.addr, &k.o)
		require.Equal(t, k.ok, err == nil, name)
		require.Equal(t, k.ok, c != nil, name)
	}
	config := &tls.Config{}
	must(smtp.DNS("192.0.2.1:853", &smtp.DNSOptions{ServerName: "dns.test", TLS: config}))
	require.Empty(t, config.ServerName, "the caller's configuration stays his")
}

func TestDNSOverTLS(t *testing.T) {
	z := dnspeer.Zone{"_25._tcp.mx.test": {"TLSA 3 1 1 " + hash, dnspeer.Secure}, "tc.test": {"TLSA 3 1 1 " + hash}}
	d := must(dnspeer.Start(z))
	t.Cleanup(d.Close)
	addr := must(d.ServeTLS(ca.Config("dns.test"), 0))
	ask := func(o smtp.DNSOptions) (*smtp.DNSClient, dane.Answer, error) {
		o.Timeout, o.Attempts, o.TrustAD = 2*time.Second, 1, true
		c := must(smtp.DNS(addr, &o))
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		a, err := c.TLSA(t.Context(), "_25._tcp.mx.test")
		return c, a, err
	}
	good := smtp.DNSOptions{ServerName: "dns.test", TLS: &tls.Config{RootCAs: ca.Pool()}}
	c, a, err := ask(good)
	require.NoError(t, err)
	require.True(t, a.Secure)
	for range 5 {
		_, err = c.TLSA(t.Context(), "_25._tcp.mx.test")
		require.NoError(t, err)
	}
	require.Equal(t, 1, d.Accepted(), "one connection for all")
	require.NoError(t, c.Close())
	_, err = c.TLSA(t.Context(), "_25._tcp.mx.test")
	require.NoError(t, err, "a closed client begins anew")
	for _, q := range d.Queries() {
		require.Equal(t, "tcp", q.Network)
	}

	before := len(d.Queries())
	for name, o := range map[string]smtp.DNSOptions{
		"another name":      {ServerName: "other.test", TLS: &tls.Config{RootCAs: ca.Pool()}},
		"an unknown issuer": {ServerName: "dns.test", TLS: &tls.Config{RootCAs: smtppeer.NewCA().Pool()}},
		"TLS 1.3 only":      {ServerName: "dns.test", TLS: &tls.Config{RootCAs: smtppeer.NewCA().Pool(), MinVersion: tls.VersionTLS13}},
	} {
		_, _, err = ask(o)
		require.Error(t, err, name)
		require.False(t, absent(err), name)
	}
	require.Len(t, d.Queries(), before, "nothing was asked of a stranger")

	// A server without TLS at that port, and one that never says a word.
	silent := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { silent.Close() })
	c = must(smtp.DNS(silent.Addr().String(), &smtp.DNSOptions{ServerName: "dns.test", Timeout: 200 * time.Millisecond, Attempts: 1}))
	_, err = c.TLSA(t.Context(), "_25._tcp.mx.test")
	require.Error(t, err)
	require.False(t, absent(err))
}

// A server that closes what is idle costs a new connection and no answer; and so do many questions at once.
func TestDNSOverTLSConnections(t *testing.T) {
	d := must(dnspeer.Start(dnspeer.Zone{"_25._tcp.mx.test": {"TLSA 3 1 1 " + hash, dnspeer.Secure}}))
	t.Cleanup(d.Close)
	addr := must(d.ServeTLS(ca.Config("dns.test"), time.Millisecond))
	c := must(smtp.DNS(addr, &smtp.DNSOptions{ServerName: "dns.test", TLS: &tls.Config{RootCAs: ca.Pool()}, Attempts: 1}))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	deadline := time.Now().Add(10 * time.Second)
	for d.Accepted() < 3 && time.Now().Before(deadline) {
		_, err := c.TLSA(t.Context(), "_25._tcp.mx.test")
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, d.Accepted(), 3, "the server closed some")

	errs := make(chan error, 40)
	for range cap(errs) {
		go func() {
			_, err := c.TLSA(context.Background(), "_25._tcp.mx.test")
			errs <- err
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.LessOrEqual(t, c.IdleConns(), 4)
}

// Whatever else comes in over UDP is passed over.
func TestDNSNoise(t *testing.T) {
	c, d := client(t, dnspeer.Zone{"_25._tcp.mx.test": {"TLSA 3 1 1 " + hash, dnspeer.Noise, dnspeer.Secure}}, func(o *smtp.DNSOptions) {
		o.Timeout, o.Attempts = 5*time.Second, 1
	})
	a, err := c.TLSA(t.Context(), "_25._tcp.mx.test")
	require.NoError(t, err)
	require.True(t, a.Secure)
	require.Len(t, a.Records, 1)
	require.Len(t, d.Queries(), 1)
}

// A flood of noise ends.
func TestDNSFlood(t *testing.T) {
	pc := must(net.ListenPacket("udp", "127.0.0.1:0"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 512)
		_, from, err := pc.ReadFrom(b)
		for err == nil {
			_, err = pc.WriteTo([]byte("noise noise noise noise"), from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	c := must(smtp.DNS(pc.LocalAddr().String(), &smtp.DNSOptions{Timeout: 20 * time.Second, Attempts: 1}))
	begin := time.Now()
	_, err := c.TLSA(t.Context(), "x.test")
	require.Error(t, err)
	require.False(t, absent(err))
	require.Less(t, time.Since(begin), 15*time.Second)
}

func TestHostileAnswers(t *testing.T) {
	z := dnspeer.Zone{
		"loop.test":     {"CNAME loop.test.", dnspeer.Secure},
		"ping.test":     {"CNAME pong.test."},
		"pong.test":     {"CNAME ping.test."},
		"end.test":      {"A 192.0.2.1", "TLSA 3 1 1 " + hash, dnspeer.Secure},
		"ttl.test":      {"2147483647 TLSA 3 1 1 " + hash},
		"nottl.test":    {"4294967295 TLSA 3 1 1 " + hash},
		"zero.test":     {"0 TLSA 3 1 1 " + hash, "300 TLSA 3 1 2 " + hash + hash},
		"stranger.test": {"A 192.0.2.1"},
	}
	for i := range 12 {
		next := fmt.Sprintf("h%d.test", i+1)
		if i == 11 {
			next = "end.test"
		}
		z[fmt.Sprintf("h%d.test", i)] = []string{"CNAME " + next + ".", dnspeer.Secure}
	}
	var many []string
	for i := range 2500 {
		many = append(many, fmt.Sprintf("A 10.0.%d.%d", i/256, i%256))
	}
	z["many.test"] = many
	c, _ := client(t, z, nil)
	for _, name := range []string{"loop.test", "ping.test", "h0.test"} {
		_, err := c.TLSA(t.Context(), name)
		require.Error(t, err, name)
		require.False(t, absent(err), name)
		_, err = c.Addrs(t.Context(), name)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, smtp.ErrNotFound, name)
	}
	a, err := c.TLSA(t.Context(), "h5.test")
	require.NoError(t, err)
	require.True(t, a.Secure)
	for name, want := range map[string]time.Duration{"ttl.test": 24 * time.Hour, "nottl.test": 0, "zero.test": 0} {
		a, err := c.TLSA(t.Context(), name)
		require.NoError(t, err, name)
		require.Equal(t, want, a.TTL, name)
	}
	as, err := c.Addrs(t.Context(), "many.test")
	require.NoError(t, err)
	require.NotEmpty(t, as.Addrs)
}

// The whole way: DNS answers in, DANE's decision out.
func TestDANEOverDNS(t *testing.T) {
	sec := dnspeer.Secure
	tlsa := "TLSA 3 1 1 " + hash
	for name, k := range map[string]struct {
		zone  dnspeer.Zone
		state dane.State
		base  string
		names string
	}{
		"signed": {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {tlsa, sec}},
			dane.Usable, "mx.test", "mx.test dom.test"},
		"implicit": {dnspeer.Zone{"dom.test": {"A 192.0.2.1", sec}, "_25._tcp.dom.test": {tlsa, sec}}, dane.Usable, "dom.test", "dom.test"},
		"aliased domain": {dnspeer.Zone{"dom.test": {"CNAME main.test.", sec}, "main.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {tlsa, sec}},
			dane.Usable, "mx.test", "mx.test dom.test main.test"},
		"aliased host": {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"CNAME real.test.", sec}, "real.test": {"A 192.0.2.1", sec}, "_25._tcp.real.test": {tlsa, sec}},
			dane.Usable, "real.test", "real.test mx.test dom.test"},
		"records at the alias": {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"CNAME real.test.", sec}, "real.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {tlsa, sec}},
			dane.Usable, "mx.test", "mx.test real.test dom.test"},
		"alias out of DNSSEC": {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"CNAME real.test.", sec}, "real.test": {"A 192.0.2.1"}, "_25._tcp.mx.test": {tlsa, sec}},
			dane.Usable, "mx.test", "mx.test dom.test"},
		"unsigned MX":      {dnspeer.Zone{"dom.test": {"MX 1 mx.test."}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {tlsa, sec}}, dane.None, "", ""},
		"unsigned address": {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1"}, "_25._tcp.mx.test": {tlsa, sec}}, dane.None, "", ""},
		"unsigned TLSA":    {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {tlsa}}, dane.None, "", ""},
		"no TLSA":          {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}}, dane.None, "", ""},
		"bogus TLSA":       {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {tlsa, sec, "TLSA:SERVFAIL"}}, dane.Unknown, "", ""},
		"TLSA never comes": {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {dnspeer.Timeout}}, dane.Unknown, "", ""},
		"unusable":         {dnspeer.Zone{"dom.test": {"MX 1 mx.test.", sec}, "mx.test": {"A 192.0.2.1", sec}, "_25._tcp.mx.test": {"TLSA 0 0 1 " + hash, sec}}, dane.Unusable, "mx.test", "mx.test dom.test"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := client(t, k.zone, nil)
			mx, err := c.MX(t.Context(), "dom.test")
			require.NoError(t, err)
			h := dane.Host{Name: "dom.test", NextHop: "dom.test", NextHopCanonical: mx.Canonical, Signed: mx.Secure}
			if len(mx.Hosts) > 0 {
				h.Name = mx.Hosts[0].Host
			}
			as, err := c.Addrs(t.Context(), h.Name)
			require.NoError(t, err)
			h.Canonical, h.Secure = as.Canonical, as.Secure
			p := dane.Lookup(t.Context(), c, h)
			require.Equal(t, k.state, p.State)
			require.Equal(t, k.base, p.Base)
			require.Equal(t, k.names, strings.Join(p.Names, " "))
			require.False(t, slices.Contains(p.Names, ""))
		})
	}
}

// FuzzAnswer reads any message as an answer: the client must not panic, believe no AD without trust, and take no record of
// another name than the chain of aliases leads to.
func FuzzAnswer(f *testing.F) {
	for _, rrs := range [][]string{
		{"a.test. 60 IN TXT \"x\\\"y\\200\" \"z\""}, {"a.test. 0 IN CNAME b.test.", "b.test. 4294967295 IN TXT b"},
		{"a.test. 1 IN CNAME a.test."}, {"b.test. 1 IN TXT forged"}, {"a.test. 1 CH TXT chaos"},
	} {
		m := new(dns.Msg).SetQuestion("a.test.", dns.TypeTXT)
		m.Response, m.AuthenticatedData = true, true
		for _, rr := range rrs {
			m.Answer = append(m.Answer, must(dns.NewRR(rr)))
		}
		f.Add(must(m.Pack()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		txts, names, secure, err := smtp.ReadAnswer(b, "a.test", dns.TypeTXT)
		require.False(t, secure)
		if err != nil {
			return
		}
		require.Len(t, txts, len(names))
		for _, n := range names {
			require.True(t, strings.EqualFold(n, names[0]))
		}
	})
}
