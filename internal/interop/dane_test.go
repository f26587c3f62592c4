//go:build interop

package interop_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/smtp"
)

// What a look at a domain comes to.
const (
	verified = "verified" // DANE proves the host
	unproved = "unproved" // it does not
	deferred = "deferred" // it can't be known now
)

// TestDANE holds our verdict on each domain of a laboratory of signed zones against that of posttls-finger, and the verdict
// of a whole Transport against ours; and then delivers.
func TestDANE(t *testing.T) {
	p := thePeer(t)
	l := newLaboratory(t, p.box)
	b := &book{maker: newMaker(t)}
	for _, fill := range []func(){b.parameters, b.ownAnchors, b.names, b.dates, b.sets, b.paths, b.aliases, b.signatures} {
		fill()
	}
	b.postfix(filepath.Dir(os.Getenv("POSTSEAL_PEER_CA")))
	ends := map[string]*farEnd{}
	for _, s := range b.scenes {
		if s.far.Certificate != nil {
			ends[s.domain] = newFarEnd(t, s.ip, s.far)
		}
		for _, rr := range s.rr {
			l.add(strings.ReplaceAll(rr, "{IP}", s.ip))
		}
	}
	// Postfix's host without TLS, under a record that asks for it.
	for _, rr := range mx(clear, "3 1 1 "+strings.Repeat("00", 32)) {
		l.add(strings.ReplaceAll(rr, "{IP}", "127.0.0.1"))
	}
	l.serve()
	c, err := smtp.DNS("127.0.0.1:53", &smtp.DNSOptions{TrustAD: true})
	require.NoError(t, err)
	// No trust anchor is known: what is proved here, DANE proves.
	tr, err := smtp.New(&smtp.Options{HELO: "client.test", Resolver: c, AllowPrivate: true, RootCAs: x509.NewCertPool()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()) })

	t.Run("domains", func(t *testing.T) { domains(t, l, c, tr, b, ends) })
	t.Run("resolvers", func(t *testing.T) { resolvers(t, b) })
	t.Run("delivery", func(t *testing.T) { delivery(t, p, tr) })
}

// domains compares all.
func domains(t *testing.T, l *laboratory, c *smtp.DNSClient, tr *smtp.Transport, b *book, ends map[string]*farEnd) {
	require.GreaterOrEqual(t, len(b.scenes), 200)
	var mu sync.Mutex // guards count
	count := map[string]int{}
	looks := make(chan scene)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for s := range looks {
				t.Run(s.name, func(t *testing.T) {
					have := compare(t, l, c, tr, s)
					if have == verified && ends[s.domain] != nil {
						// All three have asked for one server name, the TLSA base domain.
						require.Len(t, slices.Compact(slices.Sorted(slices.Values(ends[s.domain].serverNames()))), 1)
					}
					mu.Lock()
					defer mu.Unlock()
					count[have]++
				})
			}
		})
	}
	for _, s := range b.scenes {
		looks <- s
	}
	close(looks)
	wg.Wait()
	t.Logf("%d domains: %v", len(b.scenes), count)
	for _, verdict := range []string{verified, unproved, deferred} {
		require.GreaterOrEqual(t, count[verdict], 30, "the laboratory shows too little of %s", verdict)
	}
}

// compare looks at one domain in three ways.
func compare(t *testing.T, l *laboratory, c *smtp.DNSClient, tr *smtp.Transport, s scene) string {
	ours, why := look(c, s)
	theirs, output := finger(l, s.domain)
	want := ours
	if s.theirs != "" {
		want = s.theirs
		assert.NotEqual(t, ours, theirs, "the reason to differ is gone: %s", s.why)
	}
	assert.Equal(t, want, theirs, "%s: ours is %s, because %s; theirs: %s", s.domain, ours, why, output)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := tr.Probe(ctx, "", s.domain)
	assert.NoError(t, err)
	if strings.HasSuffix(s.domain, zoneDenial) && slices.ContainsFunc(r.Wire.Reasons, func(r securemail.Reason) bool { return r.Rule == "sts-unknown" }) {
		// Here it can't be known that there is no MTA-STS policy either, and the Transport may wait until it is.
		return ours
	}
	assert.Equal(t, ours == verified, r.Wire.Proof == securemail.ProofDANE, "the Transport says %v, because %v", r.Wire.Proof, r.Wire.Reasons)
	return ours
}

// resolvers asks unbound in other ways: over TLS the verdicts are the same, and without trust nothing is proved.
func resolvers(t *testing.T, b *book) {
	pem, err := os.ReadFile(os.Getenv("POSTSEAL_PEER_CA"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	trusted, err := smtp.DNS("127.0.0.1:53", &smtp.DNSOptions{TrustAD: true})
	require.NoError(t, err)
	doubted, err := smtp.DNS("127.0.0.1:53", nil)
	require.NoError(t, err)
	over, err := smtp.DNS("127.0.0.1:853", &smtp.DNSOptions{TrustAD: true, ServerName: "mx.named.test", TLS: &tls.Config{RootCAs: roots}})
	require.NoError(t, err)
	defer over.Close()
	stranger, err := smtp.DNS("127.0.0.1:853", &smtp.DNSOptions{TrustAD: true, ServerName: "other.test", TLS: &tls.Config{RootCAs: roots}})
	require.NoError(t, err)
	count := map[string]int{}
	for i := 0; i < len(b.scenes); i += 5 {
		s := b.scenes[i]
		want, _ := look(trusted, s)
		have, why := look(over, s)
		require.Equal(t, want, have, "%s: %s", s.name, why)
		have, why = look(doubted, s)
		require.NotEqual(t, verified, have, "%s: %s", s.name, why)
		have, why = look(stranger, s)
		require.Equal(t, deferred, have, "%s: %s", s.name, why)
		count[want]++
	}
	require.Len(t, count, 3)
}

// delivery sends mail to Postfix: DANE alone is proof enough for the highest floor, and binds the lowest.
func delivery(t *testing.T, p peer, tr *smtp.Transport) {
	for _, floor := range []securemail.Channel{securemail.ChannelVerified, securemail.ChannelAny} {
		m := newMail("anna@"+named, "Please come on Tuesday.\r\n")
		r, _, err := m.send(t, tr, floor)
		require.NoError(t, err)
		require.Equal(t, securemail.ProofDANE, r.Proof)
		p.sawTLS(t, p.stored(t, m), r)
		for _, domain := range []string{wrong, clear} {
			m := newMail("anna@"+domain, "Please come on Tuesday.\r\n")
			_, intents, err := m.send(t, tr, floor)
			require.Error(t, err, domain)
			require.Zero(t, intents, domain)
			p.missing(t, tr, m)
		}
	}
}

// look is our verdict.
func look(c *smtp.DNSClient, s scene) (verdict, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	set, err := c.MX(ctx, s.domain)
	if err != nil {
		return deferred, err.Error()
	}
	h := dane.Host{Name: s.domain, NextHop: s.domain, NextHopCanonical: set.Canonical, Signed: set.Secure}
	if len(set.Hosts) > 0 {
		h.Name = set.Hosts[0].Host
	}
	addrs, err := c.Addrs(ctx, h.Name)
	if err != nil {
		return deferred, err.Error()
	}
	h.Canonical, h.Secure = addrs.Canonical, addrs.Secure
	p := dane.Lookup(ctx, c, h)
	why = fmt.Sprint(p.Findings)
	switch p.State {
	case dane.Unknown:
		return deferred, why
	case dane.Usable:
	default:
		return unproved, why
	}
	m, err := handshake(addrs.Addrs[0].String(), p)
	if err != nil {
		return unproved, why + " " + err.Error()
	}
	return verified, why + fmt.Sprint(m.Findings)
}

// handshake verifies the host at ip.
func handshake(ip string, p dane.Policy) (m dane.Match, err error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "25"), 10*time.Second)
	if err != nil {
		return m, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return m, err
	}
	text := textproto.NewConn(conn)
	for _, step := range []struct {
		say  string
		code int
	}{{"", 220}, {"EHLO client.test", 250}, {"STARTTLS", 220}} {
		if step.say != "" {
			if err := text.PrintfLine("%s", step.say); err != nil {
				return m, err
			}
		}
		if _, _, err := text.ReadResponse(step.code); err != nil {
			return m, err
		}
	}
	err = tls.Client(conn, &tls.Config{ServerName: p.Base, InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		m, err = p.Verify(cs.PeerCertificates, nil)
		return err
	}}).Handshake()
	return m, err
}

var (
	established = regexp.MustCompile(`(Verified|Trusted|Untrusted|Anonymous) TLS connection established`)
	unknown     = regexp.MustCompile(`TLSA lookup error|[Ll]ookup failed|Host not found, try again|Name service error`)
)

// finger is posttls-finger's verdict.
func finger(l *laboratory, domain string) (verdict, output string) {
	out, err := l.command("timeout", "30", "posttls-finger", "-c", "-l", "dane", "-t", "10", "-T", "10", domain).CombinedOutput()
	output = string(out)
	if m := established.FindStringSubmatch(output); m != nil {
		if m[1] == "Verified" {
			return verified, output
		}
		return unproved, output
	}
	if unknown.MatchString(output) {
		return deferred, output
	}
	return fmt.Sprint("no verdict: ", err), output
}
