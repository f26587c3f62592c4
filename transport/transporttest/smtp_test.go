package transporttest_test

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
	"github.com/postseal/postseal/transport/transporttest"
)

// oneHost is a resolver whose every domain has the same mail host, on loopback.
type oneHost struct {
	host   string
	secure bool
}

func (o oneHost) MX(context.Context, string) (smtp.MXSet, error) {
	return smtp.MXSet{Hosts: []smtp.MX{{Host: o.host}}, Secure: o.secure, TTL: time.Minute}, nil
}

func (o oneHost) Addrs(context.Context, string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Secure: o.secure, TTL: time.Minute}, nil
}

// smtpHarness builds transport/smtp: direct to MX, and through a smart host where the behaviour is a relay's.
func smtpHarness(best securemail.Channel, change ...func(*smtp.Options)) transporttest.Harness {
	const host = "mx.recipient.example"
	build := func(_ context.Context, s transporttest.Setup) (*transporttest.Rig, error) {
		far, pki, err := newSMTPFar(s, host)
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(far.addr)
		n, _ := strconv.ParseUint(port, 10, 16)
		o := &smtp.Options{
			HELO: "client.example", RootCAs: pki.Roots(), Port: uint16(n), Logger: s.Logger,
			Resolver: oneHost{host, best == securemail.ChannelVerified},
		}
		switch s.Behaviour {
		case transporttest.Relay:
			o.Relay = &smtp.Relay{Addr: net.JoinHostPort(host, port)}
		case transporttest.LapsedRelay, transporttest.VouchedRelay:
			until := time.Now().Add(time.Hour)
			if s.Behaviour == transporttest.LapsedRelay {
				until = time.Now().Add(-time.Hour)
			}
			o.Relay = &smtp.Relay{
				Addr:     net.JoinHostPort(host, port),
				Operator: &securemail.Operator{Name: "Relay", Agreement: "BAA-1", Until: until},
			}
		}
		for _, f := range change {
			f(o)
		}
		t, err := smtp.New(o)
		if err != nil {
			far.Close()
			return nil, err
		}
		return &transporttest.Rig{
			Transport: t, Prober: t, Far: far, Recover: far.recover,
			Close: func() { _ = t.Close(); far.Close() },
		}, nil
	}
	return transporttest.Harness{New: build, Best: best}
}

// smtpMutant is transport/smtp seen through a mutant's wraps.
func smtpMutant(m mutant) transporttest.Harness {
	h := smtpHarness(securemail.ChannelVerified)
	build := h.New
	h.Grace = 500 * time.Millisecond
	h.New = func(ctx context.Context, s transporttest.Setup) (*transporttest.Rig, error) {
		r, err := build(ctx, s)
		if err != nil {
			return nil, err
		}
		if m.probe != nil {
			r.Prober = m.probe(r)
		}
		if m.wrap != nil {
			r.Transport = m.wrap(r.Transport)
		}
		return r, nil
	}
	return h
}

func TestSMTPUnsignedMX(t *testing.T) { transporttest.Run(t, smtpHarness(securemail.ChannelNamed)) }

func TestSMTPSignedMX(t *testing.T) { transporttest.Run(t, smtpHarness(securemail.ChannelVerified)) }

func TestSMTPChunks(t *testing.T) {
	transporttest.Run(t, smtpHarness(securemail.ChannelNamed, func(o *smtp.Options) { o.Chunking = smtp.ChunkingOffered }))
}

func TestSMTPStream(t *testing.T) {
	h := smtpHarness(securemail.ChannelNamed, func(o *smtp.Options) { o.Stream = &smtp.Stream{} })
	h.EarlyIntent = true
	transporttest.Run(t, h)
}

func TestSMTPStreamByData(t *testing.T) {
	transporttest.Run(t, smtpHarness(securemail.ChannelNamed, func(o *smtp.Options) {
		o.Stream, o.Chunking = &smtp.Stream{}, smtp.ChunkingNever
	}))
}
