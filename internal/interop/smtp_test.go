//go:build interop

package interop_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// The peer has three mail hosts; ./peers says how they are set up.
const (
	clear = "clear.test" // no TLS
	named = "named.test" // a certificate for its name
	wrong = "wrong.test" // a certificate for another name

	broken = "broken.test" // STARTTLS that never works; only OpenSMTPD has such a host
)

// peerDNS knows where they are.
type peerDNS struct{}

func (peerDNS) MX(_ context.Context, domain string) (smtp.MXSet, error) {
	switch domain {
	case clear, named, wrong, broken:
		return smtp.MXSet{Hosts: []smtp.MX{{Host: "mx." + domain, Preference: 10}}}, nil
	}
	return smtp.MXSet{}, smtp.ErrNotFound
}

func (peerDNS) Addrs(_ context.Context, host string) (smtp.AddrSet, error) {
	at := map[string]string{
		"mx." + clear: "127.0.0.1", "mx." + named: "127.0.0.2", "mx." + wrong: "127.0.0.3", "mx." + broken: "127.0.0.4",
	}[host]
	if at == "" {
		return smtp.AddrSet{}, smtp.ErrNotFound
	}
	return smtp.AddrSet{Addrs: []netip.Addr{netip.MustParseAddr(at)}}, nil
}

// peer is the mail host under test.
type peer struct{ name, box string }

func thePeer(t *testing.T) peer {
	t.Helper()
	p := peer{os.Getenv("POSTSEAL_PEER"), os.Getenv("POSTSEAL_PEER_BOX")}
	require.NotEmpty(t, p.name, "internal/interop/run starts a peer and sets POSTSEAL_PEER...")
	return p
}

func newTransport(t *testing.T) *smtp.Transport { return transportWith(t, nil) }

// transportWith makes one with options that set may change.
func transportWith(t *testing.T, set func(o *smtp.Options)) *smtp.Transport {
	t.Helper()
	pem, err := os.ReadFile(os.Getenv("POSTSEAL_PEER_CA"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	o := &smtp.Options{HELO: "client.test", Resolver: peerDNS{}, RootCAs: roots}
	if set != nil {
		set(o)
	}
	tr, err := smtp.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	return tr
}

// mail is a message with a token by which it is found again.
type mail struct {
	token    string
	bytes    []byte
	from, to string
}

func newMail(to, body string) mail {
	m := mail{token: rand.Text(), from: "clinic@sender.test", to: to}
	m.bytes = []byte("From: Clinic <clinic@sender.test>\r\nTo: <" + to + ">\r\nSubject: Your appointment\r\n" +
		"Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nMessage-ID: <" + m.token + "@sender.test>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + body)
	return m
}

// parcel is the id of m's parcel.
func (m mail) parcel() securemail.ParcelID { return securemail.ParcelID(strings.ToLower(m.token)) }

// send delivers m. It may be called from many goroutines.
func (m mail) send(t *testing.T, tr *smtp.Transport, floor securemail.Channel) (*securemail.Receipt, int, error) {
	t.Helper()
	msg, err := securemail.NewMessage(securemail.Bytes(m.bytes))
	assert.NoError(t, err)
	to, err := securemail.ParseAddress(m.to)
	assert.NoError(t, err)
	from, err := securemail.ParseAddress(m.from)
	assert.NoError(t, err)
	intents := 0
	s := &securemail.Shipment{
		Parcel: &securemail.Parcel{
			Slip:    securemail.Slip{ID: m.parcel(), Recipient: securemail.Contact{Address: to}, ReturnPath: from},
			Message: msg,
		},
		Channel: floor, Attempt: 1, Key: m.token,
		OnIntend: func(context.Context) error { intents++; return nil },
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := tr.Deliver(ctx, s)
	return r, intents, err
}

// find returns what the peer stored of m, "" if nothing.
func (p peer) find(t *testing.T, m mail) string { return p.search(t, m.token) }

// search returns a stored mail that holds all the texts, "" if there is none.
func (p peer) search(t *testing.T, texts ...string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(p.box, "all", "new", "*"))
	require.NoError(t, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		if !slices.ContainsFunc(texts, func(text string) bool { return !bytes.Contains(b, []byte(text)) }) {
			return string(b)
		}
	}
	return ""
}

// How long a peer may take to store what it accepted, and how often one looks.
const (
	waitStored = 30 * time.Second
	pollStored = 50 * time.Millisecond
)

// stored waits until the peer stored m and checks that its bytes are what was sent: the peer adds fields in front and
// stores LF for CRLF.
func (p peer) stored(t *testing.T, m mail) string {
	t.Helper()
	require.Eventually(t, func() bool { return p.find(t, m) != "" }, waitStored, pollStored, "the mail did not arrive")
	got := p.find(t, m)
	want := strings.ReplaceAll(string(m.bytes), "\r\n", "\n")
	require.True(t, strings.HasSuffix(got, want), "other bytes arrived:\n%.2000s", got)
	return strings.TrimSuffix(got, want)
}

// missing proves that the peer never stored m: a mail sent behind it is there, and m is not.
func (p peer) missing(t *testing.T, tr *smtp.Transport, m mail) {
	t.Helper()
	behind := newMail("anna@"+named, "behind\r\n")
	_, _, err := behind.send(t, tr, securemail.ChannelNamed)
	require.NoError(t, err)
	p.stored(t, behind)
	require.Empty(t, p.find(t, m))
}

// TestFloors delivers to each host with each floor: what the wire gives decides, and the peer's own record of TLS agrees
// with the receipt.
func TestFloors(t *testing.T) {
	p, tr := thePeer(t), newTransport(t)
	cases := []struct {
		domain string
		floor  securemail.Channel
		ok     bool
		proof  securemail.Proof
	}{
		{clear, securemail.ChannelAny, true, ""},
		{clear, securemail.ChannelEncrypted, false, ""},
		{clear, securemail.ChannelNamed, false, ""},
		{clear, securemail.ChannelVerified, false, ""},
		{named, securemail.ChannelAny, true, securemail.ProofPKIX},
		{named, securemail.ChannelEncrypted, true, securemail.ProofPKIX},
		{named, securemail.ChannelNamed, true, securemail.ProofPKIX},
		{named, securemail.ChannelVerified, false, ""}, // DNS is not signed
		{wrong, securemail.ChannelAny, true, ""},
		{wrong, securemail.ChannelEncrypted, true, ""},
		{wrong, securemail.ChannelNamed, false, ""},
		{wrong, securemail.ChannelVerified, false, ""},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s floor %d", c.domain, c.floor), func(t *testing.T) {
			m := newMail("anna@"+c.domain, "Please come on Tuesday.\r\n")
			r, intents, err := m.send(t, tr, c.floor)
			if !c.ok {
				require.ErrorIs(t, err, securemail.ErrChannel)
				require.Zero(t, intents)
				p.missing(t, tr, m)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 1, intents)
			require.True(t, r.Meets(c.floor))
			require.Equal(t, c.proof, r.Proof)
			require.Equal(t, securemail.HopFinal, r.Hop)
			require.NotEmpty(t, r.RemoteID, "the peer says a queue id")
			p.sawTLS(t, p.stored(t, m), r)
		})
	}
}

// sawTLS compares the Received field that the peer wrote with the receipt.
func (p peer) sawTLS(t *testing.T, fields string, r *securemail.Receipt) {
	t.Helper()
	if r.TLS == nil || p.name == "opensmtpd" { // it speaks in the clear, behind stunnel
		require.NotContains(t, fields, "TLS")
		return
	}
	version := strings.ReplaceAll(tls.VersionName(r.TLS.Version), " ", "") // TLS1.3; Postfix writes TLSv1.3
	require.Contains(t, strings.ReplaceAll(fields, "TLSv", "TLS"), version)
	suite := tls.CipherSuiteName(r.TLS.Suite)
	if p.name == "exim" { // GnuTLS names: TLS1.3 ECDHE_SECP256R1__ECDSA_...__AES_128_GCM
		suite = strings.TrimSuffix(strings.TrimPrefix(suite, "TLS_"), "_SHA256")
	}
	require.Contains(t, strings.ReplaceAll(fields, "-", "_"), suite)
}

// TestBytes delivers what SMTP could change and checks that nothing is.
func TestBytes(t *testing.T) {
	p, tr := thePeer(t), newTransport(t)
	line := strings.Repeat("x", 900) + "\r\n"
	for name, body := range map[string]string{
		"dots":      ".\r\n..\r\n.x\r\nx.\r\n\r\n.\r\n",
		"eight bit": "Grüße aus Köln, 東京, москва\r\n",
		"empty":     "",
		"long":      strings.Repeat(line, 6000), // 5.4 MB
		"no end":    "last line\r\n.",
	} {
		t.Run(name, func(t *testing.T) {
			m := newMail("anna@"+named, body)
			_, _, err := m.send(t, tr, securemail.ChannelNamed)
			require.NoError(t, err)
			if !bytes.HasSuffix(m.bytes, []byte("\r\n")) { // the end of data needs a line end (RFC 5321 section 4.1.1.4)
				m.bytes = append(m.bytes, "\r\n"...)
			}
			p.stored(t, m)
		})
	}
}

// TestInternational delivers to a local part that needs SMTPUTF8 (RFC 6531), with such a header. A host that does not know
// it gets nothing.
func TestInternational(t *testing.T) {
	p, tr := thePeer(t), newTransport(t)
	m := newMail("анна@"+named, "Grüße\r\n")
	_, intents, err := m.send(t, tr, securemail.ChannelNamed)
	if p.name == "opensmtpd" {
		de, ok := errors.AsType[*securemail.DeliveryError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, securemail.FatePermanent, de.Fate)
		require.Equal(t, "5.6.7", de.Enhanced)
		require.Zero(t, intents)
		p.missing(t, tr, m)
		return
	}
	require.NoError(t, err)
	p.stored(t, m)
}

// TestRefused has the peer refuse a recipient: for good, and the next mail on the same connection is not harmed.
func TestRefused(t *testing.T) {
	p, tr := thePeer(t), newTransport(t)
	for range 3 {
		m := newMail("refused@"+named, "not for you\r\n")
		_, intents, err := m.send(t, tr, securemail.ChannelNamed)
		de, ok := errors.AsType[*securemail.DeliveryError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, securemail.FatePermanent, de.Fate)
		require.Equal(t, "rcpt", de.Stage)
		require.GreaterOrEqual(t, de.Code, 550)
		require.Zero(t, intents)
		p.missing(t, tr, m)
	}
}

// TestRelay takes the peer for a smart host: its name is configured, so proved, but it is the road beyond that counts.
func TestRelay(t *testing.T) {
	p := thePeer(t)
	operator := &securemail.Operator{Name: "Relay Ltd", Agreement: "BAA-1"}
	for _, c := range []struct {
		host     string
		operator *securemail.Operator
		floor    securemail.Channel
		ok       bool
	}{
		{named, operator, securemail.ChannelVerified, true},
		{named, nil, securemail.ChannelAny, true},
		{named, nil, securemail.ChannelEncrypted, false}, // nobody vouches
		{wrong, operator, securemail.ChannelNamed, false},
		{clear, operator, securemail.ChannelEncrypted, false},
	} {
		t.Run(fmt.Sprintf("%s %t floor %d", c.host, c.operator != nil, c.floor), func(t *testing.T) {
			relay := &smtp.Relay{Addr: "mx." + c.host + ":25", Operator: c.operator}
			tr := transportWith(t, func(o *smtp.Options) { o.Relay = relay })
			m := newMail("anna@"+named, "by way of a relay\r\n")
			r, _, err := m.send(t, tr, c.floor)
			if !c.ok {
				require.ErrorIs(t, err, securemail.ErrChannel)
				p.missing(t, newTransport(t), m)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.operator != nil, r.Hop == securemail.HopAsserted)
			p.sawTLS(t, p.stored(t, m), r)
		})
	}
}

// TestProbe asks for each route without sending mail.
func TestProbe(t *testing.T) {
	thePeer(t)
	tr := newTransport(t)
	for domain, best := range map[string]securemail.Channel{
		clear: securemail.ChannelAny, named: securemail.ChannelNamed, wrong: securemail.ChannelEncrypted,
	} {
		r, err := tr.Probe(t.Context(), "", domain)
		require.NoError(t, err)
		require.True(t, r.Known, domain)
		require.True(t, r.Meets(best), domain)
		require.False(t, r.Meets(best-1), "%s: stricter than it is", domain)
	}
}

// TestOpenSMTPDBrokenTLS meets a host that offers STARTTLS and never gets through a handshake. A floor is not met there, and what
// needs none arrives in the clear.
func TestOpenSMTPDBrokenTLS(t *testing.T) {
	p, tr := thePeer(t), newTransport(t)
	for _, floor := range []securemail.Channel{securemail.ChannelVerified, securemail.ChannelNamed, securemail.ChannelEncrypted} {
		m := newMail("anna@"+broken, "not in the clear\r\n")
		_, intents, err := m.send(t, tr, floor)
		require.ErrorIs(t, err, securemail.ErrChannel)
		require.Zero(t, intents)
		p.missing(t, tr, m)
	}
	m := newMail("anna@"+broken, "sealed\r\n")
	r, _, err := m.send(t, tr, securemail.ChannelAny)
	require.NoError(t, err)
	require.Nil(t, r.TLS)
	p.stored(t, m)
}
