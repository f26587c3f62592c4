//go:build interop

package interop_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// world is what the library can know of the domain named.test.
type world struct {
	name string
	// dns are the records of an honest DNS.
	dns dnspeer.Zone
	// signed: DNSSEC proves them, so that whoever forges one makes the resolver fail.
	signed bool
	// enforced: an MTA-STS policy is in the cache when the attack begins.
	enforced bool
	set      func(o *smtp.Options)
	// floors are those that are met where nobody attacks, and that the attacks are tried on.
	floors []securemail.Channel
}

// attack is what a man in the middle does, to sessions or to DNS.
type attack struct {
	name string
	does tampering
	// forges puts records in place of honest ones.
	forges dnspeer.Zone
	// policy is what the policy host does, and only the world that it is for.
	policy policyDoes
	only   string
	// steals: he gets what a floor that proves no name lets out. renames: he has a certificate, for a name of his own.
	steals, renames bool
}

const (
	middleAddr = "127.0.0.10" // where the man in the middle is
	evilAddr   = "127.0.0.11" // where his own mail host is
	policyAddr = "127.0.0.20" // where the policy host of named.test is
	mxNamed    = "mx.named.test"
	mxEvil     = "mx.evil.test"
)

var allFloors = []securemail.Channel{
	securemail.ChannelVerified, securemail.ChannelNamed, securemail.ChannelEncrypted, securemail.ChannelAny,
}

// sign adds dnspeer's mark for an authentic answer.
func sign(z dnspeer.Zone) dnspeer.Zone {
	out := dnspeer.Zone{}
	for name, lines := range z {
		out[name] = append([]string{dnspeer.Secure}, lines...)
	}
	return out
}

func worlds(t *testing.T) []world {
	t.Helper()
	plain := dnspeer.Zone{named: {"MX 10 mx.named.test."}, mxNamed: {"A " + middleAddr}, mxEvil: {"A " + evilAddr}}
	signed := sign(plain)
	tlsa := maps.Clone(signed)
	tlsa["_25._tcp.mx.named.test"] = []string{dnspeer.Secure, "TLSA 3 1 1 " + peerKey(t)}
	sts := maps.Clone(plain)
	sts[record] = []string{`TXT "v=STSv1; id=1;"`}
	return []world{
		{name: "nothing published", dns: plain, floors: allFloors[1:3]},
		{name: "signed", dns: signed, signed: true, floors: allFloors[:3]},
		{name: "DANE", dns: tlsa, signed: true, floors: allFloors},
		{name: "MTA-STS", dns: sts, enforced: true, floors: allFloors},
		{name: "pinned", dns: plain, floors: allFloors[:3], set: func(o *smtp.Options) {
			o.Pins = map[string]smtp.Pin{named: {Hosts: []string{mxNamed}}}
		}},
	}
}

// peerKey is the SHA-256 of the real host's public key.
func peerKey(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Getenv("POSTSEAL_PEER_CA")), mxNamed+".pem"))
	require.NoError(t, err)
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func attacks(t *testing.T) []attack {
	t.Helper()
	ca, year := theAuthority(t), time.Now().AddDate(1, 0, 0)
	other := tampering{cert: foreign(t).issue(t, year, mxNamed)}
	renewed := dnspeer.Zone{record: {`TXT "v=STSv1; id=2;"`}}
	old := "version: STSv1\nmode: none\nmax_age: 86400\n"
	sts := func(name string, forges dnspeer.Zone, p policyDoes) attack {
		return attack{name: name, does: other, forges: forges, policy: p, only: "MTA-STS", steals: true}
	}
	return []attack{
		sts("new id, blocks HTTPS", renewed, policyDoes{block: true}),
		sts("new id, no policy", renewed, policyDoes{status: 404}),
		sts("new id, sends elsewhere", renewed, policyDoes{status: 301}),
		sts("replays an old policy, own CA", renewed, policyDoes{text: old, cert: foreign(t).issue(t, year, "mta-sts."+named)}),
		sts("replays an old policy, certificate of another name", renewed, policyDoes{text: old, cert: ca.issue(t, year, mxEvil)}),
		sts("replays an old policy, certificate that ended", renewed, policyDoes{
			text: old, cert: ca.issue(t, time.Now().Add(-time.Hour), "mta-sts."+named),
		}),
		sts("removes the record", dnspeer.Zone{record: {`TXT "nothing"`}}, policyDoes{block: true}),
		sts("blocks the record", dnspeer.Zone{record: {dnspeer.ServFail}}, policyDoes{block: true}),
		sts("spoils the record", dnspeer.Zone{record: {`TXT "v=STSv1; id=1;"`, `TXT "v=STSv1; id=2;"`}}, policyDoes{block: true}),
		{name: "strips STARTTLS", does: tampering{strip: true}},
		{name: "refuses STARTTLS", does: tampering{refuse: true}},
		{name: "drops at STARTTLS", does: tampering{drop: true}},
		{name: "injects before TLS", does: tampering{inject: true}},
		{name: "answers garbage", does: tampering{garbage: true}},
		{name: "garbles the host's handshake", does: tampering{server: true}},
		{name: "garbles our handshake", does: tampering{client: true}},
		{name: "own CA", does: tampering{cert: foreign(t).issue(t, year, mxNamed)}, steals: true},
		{name: "certificate of another name", does: tampering{cert: ca.issue(t, year, mxEvil)}, steals: true},
		{name: "certificate that ended", does: tampering{cert: ca.issue(t, time.Now().Add(-time.Hour), mxNamed)}, steals: true},
		{name: "forges MX", forges: dnspeer.Zone{named: {"MX 5 " + mxEvil + "."}}, steals: true, renames: true},
		{name: "forges MX without STARTTLS", does: tampering{strip: true}, forges: dnspeer.Zone{named: {"MX 5 mx.lost.test."}, "mx.lost.test": {"A " + middleAddr}}},
		{name: "blocks TLSA", forges: dnspeer.Zone{"_25._tcp.mx.named.test": {dnspeer.ServFail}}, does: tampering{cert: foreign(t).issue(t, year, mxNamed)}, steals: true},
	}
}

// let says why the floor lets the attacker of this world have the message, "" if it must not: what a floor does not ask
// for it can't give.
func (w world) let(a attack, floor securemail.Channel) string {
	forged := w.signed && len(a.forges) > 0
	switch {
	case !a.steals, forged, w.enforced, w.name == "pinned", w.name == "DANE":
		return ""
	case floor == securemail.ChannelEncrypted:
		return "no name is proved"
	case floor == securemail.ChannelNamed && a.renames:
		return "unsigned DNS names the host"
	}
	return ""
}

// zone is what DNS says under attack.
func (w world) zone(a attack) dnspeer.Zone {
	z := maps.Clone(w.dns)
	for name, lines := range a.forges {
		if _, there := w.dns[name]; w.signed && there {
			lines = []string{dnspeer.ServFail} // the resolver validates
		}
		z[name] = lines
	}
	return z
}

// lab is a DNS and a man in the middle in front of the peer, and a mail host of his.
type lab struct {
	dns    *dnspeer.Peer
	middle *middle
	evil   *middle
	policy *policyHost
	clock  atomic.Int64
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dns, err := dnspeer.Start(nil)
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	l := &lab{dns: dns, middle: newMiddle(t, middleAddr+":25", "127.0.0.2:25"), evil: newMiddle(t, evilAddr+":25", "127.0.0.2:25"), policy: newPolicyHost(t)}
	l.evil.become(tampering{cert: theAuthority(t).issue(t, time.Now().AddDate(1, 0, 0), mxEvil)})
	return l
}

func (l *lab) now() time.Time { return time.Now().Add(time.Duration(l.clock.Load())) }

// record is where the domain's STS record is, and enforced its policy.
const (
	record   = "_mta-sts." + named
	enforced = "version: STSv1\nmode: enforce\nmx: " + mxNamed + "\nmax_age: 604800\n"
)

// sts is a cache that finds the policy host where the lab has it.
func (l *lab) sts(t *testing.T, r mtasts.Resolver, roots *x509.CertPool) *mtasts.Cache {
	t.Helper()
	client, err := mtasts.NewClient(&mtasts.ClientOptions{
		RootCAs: roots, AllowPrivate: true, Timeout: 5 * time.Second,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, policyAddr+":443")
		},
	})
	require.NoError(t, err)
	c, err := mtasts.New(mtasts.NewMemory(nil), &mtasts.Options{Resolver: r, Fetcher: client, Now: l.now})
	require.NoError(t, err)
	return c
}

// policyDoes is how the policy host answers. The zero value has a certificate, and no text.
type policyDoes struct {
	text   string
	status int
	// block breaks off before TLS is done; cert is another certificate than the host's own.
	block bool
	cert  *tls.Certificate
}

// policyHost serves one domain's policy.
type policyHost struct {
	own *tls.Certificate

	mu   sync.Mutex // guards does
	does policyDoes
}

func newPolicyHost(t *testing.T) *policyHost {
	t.Helper()
	h := &policyHost{own: theAuthority(t).issue(t, time.Now().AddDate(1, 0, 0), "mta-sts."+named)}
	ln, err := net.Listen("tcp", policyAddr+":443")
	require.NoError(t, err)
	srv := &http.Server{
		Handler: h, TLSConfig: &tls.Config{GetCertificate: h.certificate}, ErrorLog: log.New(io.Discard, "", 0),
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(ln, "", "") })
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		wg.Wait()
	})
	return h
}

func (h *policyHost) become(does policyDoes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.does = does
}

func (h *policyHost) now() policyDoes {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.does
}

func (h *policyHost) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	d := h.now()
	if d.block {
		return nil, errors.New("blocked")
	}
	return cmp.Or(d.cert, h.own), nil
}

// ServeHTTP implements http.Handler.
func (h *policyHost) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	d := h.now()
	w.Header().Set("Content-Type", "text/plain")
	if d.status != 0 {
		w.Header().Set("Location", "https://"+mxEvil+"/.well-known/mta-sts.txt")
		w.WriteHeader(d.status)
	}
	_, _ = io.WriteString(w, d.text)
}

func (l *lab) transport(t *testing.T, w world) *smtp.Transport {
	t.Helper()
	return transportWith(t, func(o *smtp.Options) {
		r, err := smtp.DNS(l.dns.Addr(), &smtp.DNSOptions{TrustAD: true, Timeout: time.Second, Attempts: 1})
		require.NoError(t, err)
		o.Resolver, o.AllowPrivate = r, true
		o.STS = l.sts(t, r, o.RootCAs)
		o.Timeouts = smtp.Timeouts{Hello: 2 * time.Second, Handshake: 5 * time.Second, EHLO: 5 * time.Second, Greeting: 5 * time.Second}
		o.Now = l.now
		if w.set != nil {
			w.set(o)
		}
	})
}

// TestPostfixAttacked has a man in the middle try each attack on each floor in each world: nothing of the message leaves,
// envelope included, as he heard it and as the real host stored it. When he is gone the same transport delivers.
func TestPostfixAttacked(t *testing.T) {
	p, l := thePeer(t), newLab(t)
	var never, later []mail
	for _, w := range worlds(t) {
		for _, floor := range w.floors {
			for _, a := range attacks(t) {
				if a.only != "" && a.only != w.name {
					continue
				}
				t.Run(fmt.Sprintf("%s/floor %d/%s", w.name, floor, a.name), func(t *testing.T) {
					m, after := l.attacked(t, w, floor, a)
					if m != nil {
						never = append(never, *m)
					}
					later = append(later, after)
				})
			}
		}
	}
	b := p.settled(t, later...)
	for _, m := range later {
		b.fields(t, m)
	}
	for _, m := range never {
		require.Empty(t, b[m.token], "a mail got through an attack")
	}
}

// attacked returns the mail that must not have left, if one must not, and one that was delivered behind it.
func (l *lab) attacked(t *testing.T, w world, floor securemail.Channel, a attack) (kept *mail, behind mail) {
	l.clock.Store(0)
	require.NoError(t, l.dns.Set(w.dns))
	l.policy.become(policyDoes{text: enforced})
	tr := l.transport(t, w)
	if w.enforced {
		o, err := tr.Observe(t.Context(), "", named)
		require.NoError(t, err)
		require.Equal(t, "enforce", o.STS.Mode)
		l.clock.Add(int64(10 * time.Minute))
	}
	require.NoError(t, l.dns.Set(w.zone(a)))
	l.policy.become(a.policy)
	l.middle.become(a.does)
	l.evil.become(l.evil.does)
	m := newMail("anna@"+named, "nobody else may read this\r\n")
	r, intents, err := m.send(t, tr, floor)
	heard := l.middle.transcript() + l.evil.transcript()
	if why := w.let(a, floor); why != "" {
		require.NoError(t, err)
		require.Contains(t, heard, m.token, why)
		require.False(t, r.Meets(securemail.ChannelVerified))
		if r.Proof != "" {
			require.Equal(t, mxEvil, r.Peer, "the receipt says whom the name was proved of")
		}
	} else {
		require.Error(t, err)
		require.Zero(t, intents)
		for _, secret := range []string{"MAIL", "RCPT", "clinic@sender.test", "anna@", m.token, "nobody else"} {
			require.NotContains(t, heard, secret)
		}
		kept = &m
	}
	// The attack ends, and so does what was believed of DNS.
	require.NoError(t, l.dns.Set(w.dns))
	l.policy.become(policyDoes{text: enforced})
	l.middle.become(tampering{})
	l.clock.Add(int64(10 * time.Minute))
	behind = newMail("anna@"+named, "after the attack\r\n")
	r, _, err = behind.send(t, tr, floor)
	require.NoError(t, err)
	require.True(t, r.Meets(floor))
	require.Equal(t, mxNamed, r.Peer)
	return kept, behind
}
