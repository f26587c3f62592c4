package smtp_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// A far end that takes no more octets holds neither the message nor the farewell.
func TestFarEndThatStopsReading(t *testing.T) {
	for _, cfg := range []*tls.Config{nil, ca.Config("mx1.test")} {
		l := newLab(t)
		l.mx(smtppeer.Options{Discard: true, TLS: cfg, On: on(smtppeer.StageBody, smtppeer.Action{Delay: time.Hour})})
		m, err := securemail.NewMessage(generated{16 + 78*400_000})
		require.NoError(t, err)
		s := shipment(t, anyway, hello)
		s.Message = m
		tr := l.transport(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err = tr.Deliver(ctx, s)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
		require.Less(t, time.Since(begin), 4*time.Second) // the farewell of TLS takes 5
	}
}

// An octet now and then keeps each wait alive; all of them together have an end.
func TestTotalTime(t *testing.T) {
	l := newLab(t)
	l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Action{Delay: 100 * time.Millisecond, Code: 421, Text: "x"})})
	for range 5 {
		l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Stall())})
	}
	tr := l.transport(func(o *smtp.Options) { o.Timeouts.Total = 300 * time.Millisecond })
	_, err := l.deliver(tr, anyway)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
	r, err := tr.Probe(t.Context(), "", "clinic.test")
	require.NoError(t, err)
	require.False(t, r.Known)
}

// Octets behind the 220 are an attack in a later segment too: when they come is the attacker's choice.
func TestInjectionInALaterSegment(t *testing.T) {
	for _, floor := range []securemail.Channel{verified, named, encrypted, anyway} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{TLS: answers("250 ok\r\n250-mx1.test\r\n250 8BITMIME\r\n")})
		second := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
		l.records("clinic.test", dnspeer.Secure)
		_, err := l.deliver(l.transport(nil), floor)
		require.ErrorIs(t, err, smtp.ErrInjected)
		require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
		untouched(t, p)
		require.Zero(t, second.Connections())
	}
}

// madeUp is a resolver of made-up answers.
type madeUp struct {
	mx    smtp.MXSet
	addrs []netip.Addr
}

func (f madeUp) MX(context.Context, string) (smtp.MXSet, error) { return f.mx, nil }

func (f madeUp) Addrs(context.Context, string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: f.addrs}, nil
}

// What stands in an MX record is a stranger's text.
func TestNamesInMXRecords(t *testing.T) {
	l := newLab(t)
	p := l.host("mx1.test", smtppeer.Options{TLS: ca.Config("mx1.test")})
	try := func(names ...string) (*securemail.Receipt, error) {
		var set smtp.MXSet
		for i, n := range names {
			set.Hosts = append(set.Hosts, smtp.MX{Host: n, Preference: uint16(i)})
		}
		return l.deliver(l.transport(func(o *smtp.Options) {
			o.Resolver = madeUp{set, []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
			o.Pins = map[string]smtp.Pin{"clinic.test": {Hosts: []string{"mx1.test"}}}
		}), verified)
	}
	for _, name := range []string{"mx1.test", "MX1.Test.", "mx1.test."} {
		r, err := try(name)
		require.NoError(t, err, name)
		require.Equal(t, "mx1.test", r.Peer)
	}
	taken := len(p.Messages())
	for _, name := range []string{
		"", "127.0.0.1", "[127.0.0.1]", "::1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "mx1.test..", ".mx1.test", "mx1..test", "mx1.test\r\n",
		"mx1.test\x00", "mx1\\.test", "mx 1.test", "mx\xc3\xbc.test", "level=ERROR msg=x.test", strings.Repeat("a.", 130) + "test",
		strings.Repeat("a", 64) + ".test", "*.test",
	} {
		_, err := try(name, ".")
		require.Equal(t, "mx-invalid mx-invalid", rules(wantDelivery(t, err).Wire.Reasons), "%q", name)
	}
	_, err := try(".")
	require.ErrorIs(t, err, smtp.ErrNullMX)
	require.Len(t, p.Messages(), taken)
}

// On a network without IPv4 most mail hosts are behind a NAT64 (RFC 6052), and so could our neighbours be.
func TestTranslatedAddresses(t *testing.T) {
	for s, special := range map[string]bool{
		"64:ff9b::101:101": false, "1.1.1.1": false, "64:ff9b::a00:1": true, "64:ff9b::7f00:1": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b:1::101:101": true,
	} {
		require.Equal(t, special, smtp.Special(netip.MustParseAddr(s)), s)
	}
}

// A stranger's MX record can't make us speak to ourselves or our neighbours.
func TestPrivateAddresses(t *testing.T) {
	l := newLab(t)
	for i, ip := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255",
		"::1", "::", "fe80::1", "fd00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::",
	} {
		name, kind := fmt.Sprintf("mx%d.in.test", i), "A "
		if strings.Contains(ip, ":") {
			kind = "AAAA "
		}
		l.records(name, kind+ip)
		domain := fmt.Sprintf("d%d.test", i)
		l.records(domain, "MX 1 "+name+".")
		r, err := smtp.DNS(l.dns.Addr(), nil)
		require.NoError(t, err)
		tr, err := smtp.New(&smtp.Options{Resolver: r})
		require.NoError(t, err)
		s := shipment(t, anyway, hello)
		s.Recipient.Address = address(t, "anna@"+domain)
		_, err = tr.Deliver(t.Context(), s)
		d := wantDelivery(t, err)
		require.Equal(t, "mx-private", rules(d.Wire.Reasons), ip)
		require.Equal(t, securemail.FateRetry, d.Fate)
		require.Equal(t, "resolve", d.Stage)
		route, err := tr.Probe(t.Context(), "", domain)
		require.NoError(t, err)
		require.False(t, route.Known)
		require.NoError(t, tr.Close())
	}
	// A host program that wants it gets it.
	l.records("near.test", "A 127.0.0.1")
	r, err := smtp.DNS(l.dns.Addr(), nil)
	require.NoError(t, err)
	p, err := smtppeer.Start(smtppeer.Options{})
	require.NoError(t, err)
	defer p.Close()
	tr, err := smtp.New(&smtp.Options{Resolver: r, Port: uint16(p.Port())})
	require.NoError(t, err)
	defer tr.Close()
	s := shipment(t, anyway, hello)
	s.Recipient.Address = address(t, "anna@near.test")
	_, err = tr.Deliver(t.Context(), s)
	require.NoError(t, err)
}

// No answer is never an answer.
func TestAnswersThatSayNothing(t *testing.T) {
	for name, zone := range map[string]dnspeer.Zone{
		"alias loop":         {"clinic.test": {"CNAME b.test."}, "b.test": {"CNAME clinic.test."}},
		"alias of itself":    {"clinic.test": {"CNAME clinic.test."}},
		"lame server":        {"clinic.test": {dnspeer.Lame}},
		"loop below MX":      {"clinic.test": {"MX 1 mx1.test."}, "mx1.test": {"CNAME mx1.test."}},
		"lame below MX":      {"clinic.test": {"MX 1 mx1.test."}, "mx1.test": {dnspeer.Lame}},
		"no server below MX": {"clinic.test": {"MX 1 mx1.test."}, "mx1.test": {dnspeer.Refused}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			require.NoError(t, l.dns.Set(zone))
			_, err := l.deliver(l.transport(nil), anyway)
			d := wantDelivery(t, err)
			require.Equal(t, securemail.FateRetry, d.Fate)
			require.Equal(t, "resolve", d.Stage)
			require.NotErrorIs(t, err, smtp.ErrNotFound)
		})
	}
}

// Each floor over each wire, road and past of the session: what the far end saw, not what we say.
func TestFloorsByWhatTheFarEndSaw(t *testing.T) {
	users := map[string]string{"u": "secret"}
	wires := map[string]struct {
		o      smtppeer.Options
		lowest securemail.Channel // over a final hop
	}{
		"good":        {smtppeer.Options{TLS: ca.Config("mx1.test")}, named},
		"self-signed": {smtppeer.Options{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test"))}, encrypted},
		"wrong name":  {smtppeer.Options{TLS: ca.Config("x.mx1.test")}, encrypted},
		"expired":     {smtppeer.Options{TLS: smtppeer.ServerConfig(ca.Expired("mx1.test"))}, encrypted},
		"clear":       {smtppeer.Options{}, anyway},
		"stripped":    {smtppeer.Options{TLS: ca.Config("mx1.test"), StripTLS: true}, anyway},
		"TLS 1.0":     {smtppeer.Options{TLS: smtppeer.TLS10(ca.Cert("mx1.test"))}, anyway},
		"refused":     {smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageStartTLS, smtppeer.Refuse(454, "x"))}, anyway},
	}
	roads := map[string]*smtp.Relay{
		"mx": nil, "relay": {Operator: operator, User: "u", Password: securemail.NewSecret("secret")},
		"relay of nobody": {User: "u", Password: securemail.NewSecret("secret")},
	}
	pasts := map[string]func(l *lab, tr *smtp.Transport){
		"fresh": func(*lab, *smtp.Transport) {},
		"after clear": func(l *lab, tr *smtp.Transport) {
			_, _ = l.deliver(tr, anyway)
		},
		"after all": func(l *lab, tr *smtp.Transport) {
			for _, ch := range []securemail.Channel{anyway, encrypted, named, verified} {
				_, _ = l.deliver(tr, ch)
			}
		},
		"after a probe": func(_ *lab, tr *smtp.Transport) { _, _ = tr.Probe(context.Background(), "", "clinic.test") },
	}
	cells := 0
	for wn, w := range wires {
		for rn, road := range roads {
			for pn, past := range pasts {
				l := newLab(t)
				o := w.o
				o.Users, o.AuthInClear = users, true
				o.Extensions = []string{"PIPELINING", "8BITMIME"} // no REQUIRETLS
				p := l.mx(o)
				tr := l.transport(func(o *smtp.Options) {
					if road != nil {
						r := *road
						r.Addr = "mx1.test:25"
						o.Relay = &r
					}
				})
				past(l, tr)
				proved := w.lowest == named
				for _, line := range p.Transcript() {
					require.True(t, proved || !strings.HasPrefix(line, "AUTH"), "%s %s %s: %s", wn, rn, pn, line)
				}
				for _, ch := range []securemail.Channel{verified, named, encrypted, anyway} {
					for _, must := range []bool{false, true} {
						cells++
						p.Reset()
						s := shipment(t, ch, hello)
						s.RequireTLS = must
						_, err := l.ship(tr, s)
						where := fmt.Sprint(wn, "/", rn, "/", pn, "/", ch, "/", must)
						lowest := w.lowest
						switch {
						case rn == "relay" && proved:
							lowest = verified
						case rn == "relay of nobody":
							lowest = anyway
						}
						// A relay takes no mail without its credentials, and an unproved one gets none.
						if met := ch >= lowest && !must && (road == nil || proved); met {
							require.NoError(t, err, where)
							require.Len(t, p.Messages(), 1, where)
							continue
						}
						require.Error(t, err, where)
						untouched(t, p)
						for _, line := range p.Transcript() {
							require.True(t, proved && rn == "relay" || !strings.HasPrefix(line, "AUTH"), "%s: %s", where, line)
						}
					}
				}
				p.Close()
			}
		}
	}
	require.Equal(t, len(wires)*len(roads)*len(pasts)*8, cells)
}

// An id goes into records: one that quotes the recipient is none.
func TestIDThatQuotesTheRecipient(t *testing.T) {
	for text, want := range map[string]string{
		"2.0.0 queued as 4QabcX": "4QabcX", "2.0.0 queued as " + canary: "", "OK id=x-" + strings.ToUpper(canary) + "-1": "",
	} {
		l := newLab(t)
		l.mx(smtppeer.Options{On: on(smtppeer.StageDot, smtppeer.Action{Code: 250, Text: text})})
		r, err := l.deliver(l.transport(nil), anyway)
		require.NoError(t, err)
		require.Equal(t, want, r.RemoteID)
	}
}

// Sessions of different demands share no tickets: each handshake is whole.
func TestNoSessionTickets(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	tr := l.transport(func(o *smtp.Options) { o.MaxIdle = -1 })
	for range 3 {
		_, err := l.deliver(tr, named)
		require.NoError(t, err)
	}
	require.Equal(t, 3, p.Connections())
	for _, m := range p.Messages() {
		require.False(t, m.TLS.DidResume)
		require.Equal(t, "mx1.test", m.TLS.ServerName)
	}
}

// A host that met the floor and failed later is a reason to come again: ErrChannel would say that nothing left.
func TestMissBesideAHostThatMetTheFloor(t *testing.T) {
	for stage, a := range map[smtppeer.Stage]smtppeer.Action{
		smtppeer.StageMail: smtppeer.Refuse(451, "later"), smtppeer.StageRcpt: smtppeer.Drop(), smtppeer.StageBody: smtppeer.Drop(),
	} {
		l := newLab(t)
		first := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(stage, a)})
		second := l.mx(smtppeer.Options{})
		s := shipment(t, named, hello)
		m, err := securemail.NewMessage(generated{16 + 78*400_000})
		require.NoError(t, err)
		s.Message = m
		_, err = l.ship(l.transport(nil), s)
		require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate, stage)
		require.Contains(t, strings.Join(first.Transcript(), "\n"), "MAIL")
		untouched(t, second)
		require.Equal(t, 1, second.Connections())
	}
}

// Whatever far ends do and when: a delivery puts one message into one mailbox, or none, or says that it does not know.
func TestNeverTwice(t *testing.T) {
	stages := []smtppeer.Stage{
		smtppeer.StageGreeting, smtppeer.StageEHLO, smtppeer.StageStartTLS, smtppeer.StageHandshake, smtppeer.StageReset, smtppeer.StageMail,
		smtppeer.StageRcpt, smtppeer.StageData, smtppeer.StageBody, smtppeer.StageDot,
	}
	const short = 30 * time.Millisecond
	actions := []*smtppeer.Action{
		nil, nil, {Delay: 5 * time.Millisecond}, {Delay: 2 * short}, {Stall: true}, {Close: true}, {Code: 421, Text: "x", Close: true}, {Code: 421, Text: "x"},
		{Code: 451, Text: "x"}, {Code: 554, Text: "x"}, {Code: 554, Text: "x", Close: true}, {Code: 503, Text: "x"}, {Code: 220, Text: "x"},
		{Raw: "nonsense\r\n"}, {Raw: "250-x\r\n"}, {Raw: "\x00\r\r\n"}, {Code: 199, Text: "x"},
	}
	const silent = 6 // of the actions
	last := []*smtppeer.Action{
		{Close: true, Taken: true}, {Stall: true, Taken: true}, {Raw: "25", Close: true, Taken: true}, {Raw: "nonsense\r\n", Taken: true},
		{Code: 250, Text: "x", Close: true}, {Raw: "250 x\r\n250 y\r\n", Taken: true}, {Code: 354, Text: "x", Taken: true},
	}
	good := ca.Config("mx1.test")
	rapid.Check(t, func(rt *rapid.T) {
		l := newLab(t)
		defer func() {
			for _, p := range l.hosts {
				p.Close()
			}
			l.dns.Close()
		}()
		for range 2 {
			script := map[smtppeer.Stage][]*smtppeer.Action{}
			for range rapid.IntRange(0, 3).Draw(rt, "faults") {
				stage := rapid.SampledFrom(stages).Draw(rt, "stage")
				of := actions
				switch stage {
				case smtppeer.StageDot:
					of = append(last, actions...)
				case smtppeer.StageBody: // the Peer says nothing there
					of = actions[:silent]
				}
				script[stage] = rapid.SliceOfN(rapid.SampledFrom(of), 1, 4).Draw(rt, string(stage))
			}
			l.mx(smtppeer.Options{
				TLS:        map[bool]*tls.Config{true: good}[rapid.Bool().Draw(rt, "tls")],
				Extensions: rapid.SampledFrom([][]string{nil, {}, chunking, {"CHUNKING"}}).Draw(rt, "ext"), LaxData: rapid.Bool().Draw(rt, "lax"),
				Chunk: rapid.SampledFrom([]smtppeer.Chunk{smtppeer.ChunkDiscard, smtppeer.ChunkParse, smtppeer.ChunkClose}).Draw(rt, "chunk"),
				Hook: func(e smtppeer.Event) *smtppeer.Action {
					if as := script[e.Stage]; e.N <= len(as) {
						return as[e.N-1]
					}
					return nil
				},
			})
		}
		chunks := rapid.SampledFrom([]smtp.Chunking{smtp.ChunkingStreams, smtp.ChunkingOffered}).Draw(rt, "chunking")
		tr := l.transport(func(o *smtp.Options) {
			o.Chunking = chunks
			o.Timeouts = smtp.Timeouts{Greeting: short, EHLO: short, Handshake: short, Mail: short, Rcpt: short, DataInit: short, Dot: short}
		})
		defer tr.Close()
		type outcome struct {
			to      string
			err     error
			intends int
		}
		var all []*outcome
		for i := range 4 {
			o := &outcome{to: fmt.Sprintf("%s%d@clinic.test", canary, i)}
			s := shipment(t, rapid.SampledFrom([]securemail.Channel{named, encrypted, anyway}).Draw(rt, "floor"), hello)
			s.Recipient.Address = address(t, o.to)
			wait := time.Duration(rapid.SampledFrom([]int{0, 1, 5, 20, 2000, 2000, 2000}).Draw(rt, "ctx")) * time.Millisecond
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			s.OnIntend = func(context.Context) error { o.intends++; return nil }
			_, o.err = tr.Deliver(ctx, s)
			cancel()
			all = append(all, o)
		}
		_ = tr.Close()
		for _, p := range l.hosts {
			p.Close()
		}
		for _, o := range all {
			taken, seen := 0, 0
			for _, p := range l.hosts {
				for _, m := range p.Messages() {
					if m.Rcpts[0] == o.to {
						taken++
					}
				}
				for _, line := range p.Transcript() {
					seen += strings.Count(line, o.to)
				}
			}
			require.LessOrEqual(rt, taken, 1)
			require.LessOrEqual(rt, o.intends, 1)
			de, _ := errorAs[*securemail.DeliveryError](o.err)
			_, missed := errorAs[*securemail.ChannelError](o.err)
			switch {
			case o.err == nil:
				require.Equal(rt, 1, taken)
				require.Equal(rt, 1, o.intends)
			case missed:
				require.Zero(rt, seen)
				require.Zero(rt, o.intends)
			case de.Fate == securemail.FateUncertain:
				require.Equal(rt, 1, o.intends)
			default:
				require.Zero(rt, taken, "%v", o.err)
			}
		}
	})
}
