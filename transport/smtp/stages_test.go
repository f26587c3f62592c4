package smtp_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// What each refusal at each stage means for the parcel, and whether the next host was asked.
func TestRefusals(t *testing.T) {
	const (
		retry     = securemail.FateRetry
		permanent = securemail.FatePermanent
	)
	cases := []struct {
		stage    smtppeer.Stage
		code     int
		text     string
		fate     securemail.Fate
		enhanced string
		next     bool
	}{
		{smtppeer.StageGreeting, 421, "4.3.2 later", retry, "4.3.2", true},
		{smtppeer.StageGreeting, 450, "later", retry, "", true},
		{smtppeer.StageGreeting, 554, "5.7.1 not you", retry, "5.7.1", true},
		{smtppeer.StageGreeting, 521, "no mail here", permanent, "", true},
		{smtppeer.StageGreeting, 250, "hello", retry, "", true},
		{smtppeer.StageEHLO, 421, "", retry, "", true},
		{smtppeer.StageEHLO, 550, "5.7.1 bad name", retry, "5.7.1", true},
		{smtppeer.StageMail, 421, "4.3.0 x", retry, "4.3.0", true},
		{smtppeer.StageMail, 451, "4.7.1 greylisted", retry, "4.7.1", true},
		{smtppeer.StageMail, 530, "5.7.0 log in", retry, "5.7.0", false},
		{smtppeer.StageMail, 550, "5.1.8 bad sender", permanent, "5.1.8", false},
		{smtppeer.StageMail, 552, "5.3.4 too big", permanent, "5.3.4", false},
		{smtppeer.StageRcpt, 421, "x", retry, "", true},
		{smtppeer.StageRcpt, 450, "4.2.1 " + canary, retry, "4.2.1", false},
		{smtppeer.StageRcpt, 452, "4.5.3 too many", retry, "4.5.3", false},
		{smtppeer.StageRcpt, 503, "5.5.1 order", retry, "5.5.1", false},
		{smtppeer.StageRcpt, 550, "5.1.1 no such user " + canary, permanent, "5.1.1", false},
		{smtppeer.StageRcpt, 552, "5.2.2 full", retry, "5.2.2", false},
		{smtppeer.StageRcpt, 556, "5.1.10 null", permanent, "5.1.10", false},
		{smtppeer.StageRcpt, 550, "4.1.1 class does not agree", permanent, "", false},
		{smtppeer.StageData, 421, "x", retry, "", true},
		{smtppeer.StageData, 451, "4.3.0 x", retry, "4.3.0", false},
		{smtppeer.StageData, 554, "5.5.1 none", permanent, "5.5.1", false},
		{smtppeer.StageData, 250, "odd", retry, "", false},
		{smtppeer.StageDot, 421, "4.3.0 x", retry, "4.3.0", false},
		{smtppeer.StageDot, 452, "4.3.1 full", retry, "4.3.1", false},
		{smtppeer.StageDot, 552, "5.3.4 big", permanent, "5.3.4", false},
		{smtppeer.StageDot, 554, "5.7.1 " + canary, permanent, "5.7.1", false},
	}
	for _, pipelining := range []string{"PIPELINING", "X-NONE"} {
		for _, c := range cases {
			t.Run(string(c.stage)+"/"+c.text+"/"+pipelining, func(t *testing.T) {
				l := newLab(t)
				p := l.mx(smtppeer.Options{Extensions: []string{pipelining, "8BITMIME"}, On: on(c.stage, smtppeer.Refuse(c.code, c.text))})
				second := l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Refuse(c.code, c.text))})
				_, err := l.deliver(l.transport(nil), anyway)
				d := wantDelivery(t, err)
				require.Equal(t, c.fate, d.Fate)
				require.Equal(t, c.code, d.Code)
				require.Equal(t, c.enhanced, d.Enhanced)
				require.Equal(t, c.next, second.Connections() == 1)
				if !c.next {
					require.Equal(t, string(c.stage), d.Stage)
					require.Equal(t, c.text, d.Remote)
					require.Equal(t, "starttls-not-offered", rules(d.Wire.Reasons))
				}
				require.Empty(t, p.Messages())
			})
		}
	}
}

func TestHELOForFloorsThatNeedNoTLS(t *testing.T) {
	for _, code := range []int{500, 502, 504} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageEHLO, smtppeer.Refuse(code, "what"))})
		tr := l.transport(nil)
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
		require.False(t, p.Messages()[0].ESMTP)
		p.Reset()
		_, err = l.deliver(tr, encrypted)
		require.Equal(t, "ehlo", wantDelivery(t, err).Stage)
		untouched(t, p)
	}
	l := newLab(t)
	l.mx(smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{
		smtppeer.StageEHLO: smtppeer.Refuse(500, "what"), smtppeer.StageHELO: smtppeer.Refuse(550, "no"),
	}})
	_, err := l.deliver(l.transport(nil), anyway)
	require.Equal(t, 550, wantDelivery(t, err).Code)
}

// The order of RFC 5321 and of the contract, as the far end sees it: no dot before Intend is back, Intend once DATA is
// accepted.
func TestIntendComesBeforeTheDot(t *testing.T) {
	big := hello + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 3000)
	for _, text := range []string{hello, big} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
		calls := 0
		s := shipment(t, named, text)
		s.OnIntend = func(context.Context) error {
			calls++
			tr := p.Transcript()
			require.Equal(t, "<data>", tr[len(tr)-1], "DATA was accepted")
			time.Sleep(20 * time.Millisecond) // whatever is under way arrives
			require.Len(t, p.Attempts(), 1)
			require.False(t, p.Attempts()[0].Complete)
			return nil
		}
		_, err := l.ship(l.transport(nil), s)
		require.NoError(t, err)
		require.Equal(t, 1, calls)
		require.Equal(t, text, string(p.Messages()[0].Data))
	}
}

func TestIntendErrorLeavesNothingAccepted(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	second := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
	s := shipment(t, named, hello)
	s.OnIntend = func(context.Context) error { return securemail.ErrLease }
	tr := l.transport(nil)
	_, err := l.ship(tr, s)
	require.ErrorIs(t, err, securemail.ErrLease)
	require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
	require.Zero(t, tr.Idle())
	require.Zero(t, second.Connections())
	p.Close()
	require.Empty(t, p.Messages())
	require.NotContains(t, p.Transcript(), "QUIT")
}

func TestIntendIsNotCalledWhereNothingCanBeAccepted(t *testing.T) {
	for _, stage := range []smtppeer.Stage{
		smtppeer.StageGreeting, smtppeer.StageEHLO, smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageData,
	} {
		for _, pipelining := range []string{"PIPELINING", "X-NONE"} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: []string{pipelining}, On: on(stage, smtppeer.Refuse(550, "5.0.0 no"))})
			s := shipment(t, anyway, hello)
			s.OnIntend = func(context.Context) error { t.Error("Intend at " + string(stage)); return nil }
			_, err := l.ship(l.transport(nil), s)
			require.Error(t, err)
			require.Empty(t, p.Attempts())
		}
	}
}

// RFC 2920 section 3.1: a server may accept DATA though it refused the recipient. It must not get a message then.
func TestDATAAcceptedWithoutARecipient(t *testing.T) {
	for _, stage := range []smtppeer.Stage{smtppeer.StageMail, smtppeer.StageRcpt} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{LaxData: true, On: on(stage, smtppeer.Refuse(550, "5.1.1 no"))})
		tr := l.transport(nil)
		_, err := l.deliver(tr, anyway)
		require.Equal(t, securemail.FatePermanent, wantDelivery(t, err).Fate)
		require.Zero(t, tr.Idle())
		require.Eventually(t, func() bool { return p.Open() == 0 }, 10*time.Second, time.Millisecond)
		require.Empty(t, p.Messages())
		for _, m := range p.Attempts() {
			require.Zero(t, m.Octets)
		}
	}
}

// After the dot, whatever is no answer is uncertain, and no other host is tried.
func TestUncertain(t *testing.T) {
	cases := map[string]smtppeer.Action{
		"dropped":    smtppeer.Drop(),
		"stalled":    smtppeer.Stall(),
		"garbage":    {Raw: "?????\r\n"},
		"half":       {Raw: "250 o", Close: true},
		"354":        {Code: 354, Text: "more"},
		"many lines": {Code: 250, Text: "ok", Lines: 10000},
		"banner":     {Banner: 1 << 20},
	}
	for name, a := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(smtppeer.StageDot, a)})
			second := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
			intended := false
			s := shipment(t, named, hello)
			s.OnIntend = func(context.Context) error { intended = true; return nil }
			tr := l.transport(func(o *smtp.Options) { o.Timeouts.Dot = 200 * time.Millisecond })
			_, err := l.ship(tr, s)
			d := wantDelivery(t, err)
			require.Equal(t, securemail.FateUncertain, d.Fate)
			require.Equal(t, "dot", d.Stage)
			require.True(t, intended)
			require.Equal(t, securemail.ProofPKIX, d.Wire.Proof)
			require.Len(t, p.Messages(), 1)
			require.Zero(t, second.Connections())
			require.Zero(t, tr.Idle())
		})
	}
}

func TestContextEndsAWaitForTheDotAsUncertain(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{On: on(smtppeer.StageDot, smtppeer.Stall())})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := shipment(t, anyway, hello)
	s.OnIntend = func(context.Context) error { time.AfterFunc(time.Second, cancel); return nil }
	_, err := l.transport(nil).Deliver(ctx, s)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, securemail.FateUncertain, wantDelivery(t, err).Fate)
	require.Len(t, p.Messages(), 1)
}

func TestContextEndsEachWait(t *testing.T) {
	for _, stage := range []smtppeer.Stage{
		smtppeer.StageGreeting, smtppeer.StageEHLO, smtppeer.StageStartTLS, smtppeer.StageHandshake, smtppeer.StageMail,
		smtppeer.StageRcpt, smtppeer.StageData,
	} {
		for _, floor := range []securemail.Channel{named, anyway} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), On: on(stage, smtppeer.Stall())})
			second := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test")})
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			_, err := l.transport(nil).Deliver(ctx, shipment(t, floor, hello))
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded, stage)
			require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
			require.Empty(t, p.Messages())
			require.Zero(t, second.Connections())
		}
	}
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.transport(nil).Deliver(ctx, shipment(t, anyway, hello))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, p.Connections())
}

// A context that ends while Intend runs must not let the dot out.
func TestContextEndsDuringIntend(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	s := shipment(t, anyway, hello)
	s.OnIntend = func(context.Context) error { cancel(); return nil }
	_, err := l.transport(nil).Deliver(ctx, s)
	require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
	p.Close()
	require.Empty(t, p.Messages())
}

func TestDropMidDATA(t *testing.T) {
	text := hello + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 100_000)
	for name, a := range map[string]smtppeer.Action{
		"closed": smtppeer.Drop(), "421": {Code: 421, Text: "4.3.0 " + canary, Close: true},
		"552": {Code: 552, Text: "5.3.4 big", Close: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{On: on(smtppeer.StageBody, a)})
			_, err := l.ship(l.transport(nil), shipment(t, anyway, text))
			d := wantDelivery(t, err)
			require.NotEqual(t, securemail.FateUncertain, d.Fate)
			if d.Fate == securemail.FatePermanent {
				require.Equal(t, 552, d.Code)
			}
			require.Empty(t, p.Messages())
		})
	}
}

// Thanks for a message that was not sent yet are no receipt.
func TestAnswerBeforeTheDot(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{On: on(smtppeer.StageData, smtppeer.Action{Raw: "354 go\r\n250 2.0.0 Ok: queued as X\r\n"})})
	s := shipment(t, anyway, hello)
	s.OnIntend = func(context.Context) error { t.Error("Intend"); return nil }
	_, err := l.ship(l.transport(nil), s)
	d := wantDelivery(t, err)
	require.Equal(t, securemail.FateRetry, d.Fate)
	re, ok := errorAs[*smtp.ReplyError](err)
	require.True(t, ok)
	require.Equal(t, "unasked", re.Rule)
	require.Empty(t, p.Messages())
}

// A body reader that fails must never end as a shorter message.
func TestSourceThatFails(t *testing.T) {
	text := hello + strings.Repeat("0123456789\r\n", 10_000)
	for name, cut := range map[string]int{"at once": 0, "first block": 1000, "later": 50_000} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{})
			src := &flaky{text: text, cut: len(text)}
			m, err := securemail.NewMessage(src)
			require.NoError(t, err)
			src.cut = cut
			s := shipment(t, anyway, hello)
			s.Message = m
			_, err = l.ship(l.transport(nil), s)
			require.ErrorIs(t, err, errFlaky)
			require.NotContains(t, err.Error(), "flaky")
			require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
			p.Close()
			require.Empty(t, p.Messages())
		})
	}
}

var errFlaky = errors.New("flaky " + canary)

// flaky gives cut octets and then an error, unless that is all.
type flaky struct {
	text string
	cut  int
}

func (f *flaky) Size() int64 { return int64(len(f.text)) }

func (f *flaky) Open() (io.ReadCloser, error) {
	if f.cut == 0 {
		return nil, errFlaky
	}
	r := io.Reader(strings.NewReader(f.text[:f.cut]))
	if f.cut < len(f.text) {
		r = io.MultiReader(r, failing{})
	}
	return io.NopCloser(r), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFlaky }

func TestShipmentWithoutMessage(t *testing.T) {
	l := newLab(t)
	tr := l.transport(nil)
	for _, s := range []*securemail.Shipment{nil, {}, {Parcel: &securemail.Parcel{}}} {
		_, err := l.ship(tr, s)
		require.Equal(t, securemail.FatePermanent, wantDelivery(t, err).Fate)
	}
}
