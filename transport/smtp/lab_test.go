package smtp_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// The canary must show up on the wire to a good peer only.
const canary = "canary4711"

const hello = "From: clinic@sender.test\r\nSubject: " + canary + " result\r\n\r\nDear " + canary + ",\r\n.hidden dot\r\nbye\r\n"

// ca signs for all labs: making keys takes time.
var ca = smtppeer.NewCA()

// lab is a small internet: mail hosts on made-up addresses, and the DNS that names them.
type lab struct {
	*testing.T
	zone  dnspeer.Zone
	dns   *dnspeer.Peer
	hosts map[string]*smtppeer.Peer // by ip
}

func newLab(t *testing.T) *lab {
	t.Helper()
	d, err := dnspeer.Start(nil)
	require.NoError(t, err)
	t.Cleanup(d.Close)
	return &lab{T: t, zone: dnspeer.Zone{}, dns: d, hosts: map[string]*smtppeer.Peer{}}
}

// host starts a mail host under a name with an address of its own.
func (l *lab) host(name string, o smtppeer.Options) *smtppeer.Peer {
	l.Helper()
	o.Hostname = name
	p, err := smtppeer.Start(o)
	require.NoError(l, err)
	l.Cleanup(p.Close)
	ip := fmt.Sprintf("192.0.2.%d", len(l.hosts)+1)
	l.hosts[ip] = p
	l.records(name, "A "+ip)
	return p
}

func (l *lab) records(name string, rrs ...string) {
	l.Helper()
	l.zone[name] = append(l.zone[name], rrs...)
	require.NoError(l, l.dns.Set(l.zone))
}

// mx starts a host and makes it the MX of clinic.test.
func (l *lab) mx(o smtppeer.Options) *smtppeer.Peer {
	l.Helper()
	n := len(l.hosts) + 1
	name := fmt.Sprintf("mx%d.test", n)
	p := l.host(name, o)
	l.records("clinic.test", fmt.Sprintf("MX %d %s.", n, name))
	return p
}

func (l *lab) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ip, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p, ok := l.hosts[ip]
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, network, p.Addr())
}

// transport makes a Transport that lives in the lab. change may alter its options.
func (l *lab) transport(change func(o *smtp.Options)) *smtp.Transport {
	l.Helper()
	r, err := smtp.DNS(l.dns.Addr(), &smtp.DNSOptions{Timeout: 2 * time.Second, Attempts: 2, TrustAD: true})
	require.NoError(l, err)
	o := &smtp.Options{HELO: "client.test", Resolver: r, Dial: l.dial, RootCAs: ca.Pool()}
	if change != nil {
		change(o)
	}
	t, err := smtp.New(o)
	require.NoError(l, err)
	l.Cleanup(func() { require.NoError(l, t.Close()) })
	return t
}

func address(t testing.TB, s string) securemail.Address {
	t.Helper()
	a, err := securemail.ParseAddress(s)
	require.NoError(t, err)
	return a
}

// shipment is text for anna at clinic.test; change may alter it.
func shipment(t testing.TB, floor securemail.Channel, text string) *securemail.Shipment {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes([]byte(text)))
	require.NoError(t, err)
	return &securemail.Shipment{
		Parcel: &securemail.Parcel{
			Slip: securemail.Slip{
				ID: "p1", ReturnPath: address(t, "bounce@sender.test"),
				Recipient: securemail.Contact{Address: address(t, canary+"@clinic.test")},
			},
			Message: m,
		},
		Channel: floor,
	}
}

// deliver sends hello at floor and checks that no error, however it is printed, shows the canary.
func (l *lab) deliver(t *smtp.Transport, floor securemail.Channel) (*securemail.Receipt, error) {
	l.Helper()
	return l.ship(t, shipment(l, floor, hello))
}

func (l *lab) ship(t *smtp.Transport, s *securemail.Shipment) (*securemail.Receipt, error) {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := t.Deliver(ctx, s)
	if err != nil {
		require.Nil(l, r)
		require.NotContains(l, err.Error(), canary)
		_, channel := errorAs[*securemail.ChannelError](err)
		_, delivery := errorAs[*securemail.DeliveryError](err)
		require.True(l, channel != delivery, "untyped error %T", err)
	}
	return r, err
}

func errorAs[E error](err error) (E, bool) {
	var e E
	ok := false
	for err != nil && !ok {
		if e, ok = err.(E); !ok {
			u, can := err.(interface{ Unwrap() error })
			if !can {
				break
			}
			err = u.Unwrap()
		}
	}
	return e, ok
}

func wantDelivery(t testing.TB, err error) *securemail.DeliveryError {
	t.Helper()
	d, ok := errorAs[*securemail.DeliveryError](err)
	require.True(t, ok, "want a DeliveryError, have %v", err)
	return d
}

func wantChannel(t testing.TB, err error) *securemail.ChannelError {
	t.Helper()
	require.ErrorIs(t, err, securemail.ErrChannel)
	c, ok := errorAs[*securemail.ChannelError](err)
	require.True(t, ok)
	return c
}

func rules(rs []securemail.Reason) string {
	var out []string
	for _, r := range rs {
		out = append(out, r.Rule)
	}
	return strings.Join(out, " ")
}

// untouched says that p saw nothing of the mail, not even an address.
func untouched(t testing.TB, p *smtppeer.Peer) {
	t.Helper()
	require.Empty(t, p.Attempts())
	for _, line := range p.Transcript() {
		require.False(t, strings.HasPrefix(line, "MAIL") || strings.HasPrefix(line, "RCPT") || strings.HasPrefix(line, "DATA"), line)
		require.NotContains(t, line, canary)
	}
}
