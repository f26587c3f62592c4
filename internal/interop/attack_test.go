//go:build interop

package interop_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
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
	set    func(o *smtp.Options)
	// floors are those that are met where nobody attacks, and that the attacks are tried on.
	floors []securemail.Channel
}

// attack is what a man in the middle does, to sessions or to DNS.
type attack struct {
	name string
	does tampering
	// forges puts records in place of honest ones.
	forges dnspeer.Zone
	// steals: he gets what a floor that proves no name lets out. renames: he has a certificate, for a name of his own.
	steals, renames bool
}

const (
	middleAddr = "127.0.0.10" // where the man in the middle is
	evilAddr   = "127.0.0.11" // where his own mail host is
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
	return []world{
		{name: "nothing published", dns: plain, floors: allFloors[1:3]},
		{name: "signed", dns: signed, signed: true, floors: allFloors[:3]},
		{name: "DANE", dns: tlsa, signed: true, floors: allFloors},
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
	return []attack{
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
	case !a.steals, forged, w.name == "pinned", w.name == "DANE":
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
	clock  atomic.Int64
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dns, err := dnspeer.Start(nil)
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	l := &lab{dns: dns, middle: newMiddle(t, middleAddr+":25", "127.0.0.2:25"), evil: newMiddle(t, evilAddr+":25", "127.0.0.2:25")}
	l.evil.become(tampering{cert: theAuthority(t).issue(t, time.Now().AddDate(1, 0, 0), mxEvil)})
	return l
}

func (l *lab) transport(t *testing.T, w world) *smtp.Transport {
	t.Helper()
	return transportWith(t, func(o *smtp.Options) {
		r, err := smtp.DNS(l.dns.Addr(), &smtp.DNSOptions{TrustAD: true, Timeout: time.Second, Attempts: 1})
		require.NoError(t, err)
		o.Resolver, o.AllowPrivate = r, true
		o.Timeouts = smtp.Timeouts{Hello: 2 * time.Second, Handshake: 5 * time.Second, EHLO: 5 * time.Second, Greeting: 5 * time.Second}
		o.Now = func() time.Time { return time.Now().Add(time.Duration(l.clock.Load())) }
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
	require.NoError(t, l.dns.Set(w.zone(a)))
	l.middle.become(a.does)
	l.evil.become(l.evil.does)
	tr := l.transport(t, w)
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
	l.middle.become(tampering{})
	l.clock.Add(int64(10 * time.Minute))
	behind = newMail("anna@"+named, "after the attack\r\n")
	r, _, err = behind.send(t, tr, floor)
	require.NoError(t, err)
	require.True(t, r.Meets(floor))
	require.Equal(t, mxNamed, r.Peer)
	return kept, behind
}
