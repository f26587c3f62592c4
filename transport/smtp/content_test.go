package smtp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

const (
	eightBit = "Subject: x\r\nContent-Transfer-Encoding: 8bit\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n"
	utf8Head = "Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\nx\r\n"
)

func TestParametersOfMAIL(t *testing.T) {
	long := strings.Repeat("0123456789\r\n", 4000)
	all := []string{"8BITMIME", "SMTPUTF8", "SIZE"}
	cases := []struct {
		name, text string
		ext        []string
		params     string // of MAIL, or the enhanced code of the error
	}{
		{"plain", "Subject: x\r\n\r\nx\r\n", all, "SIZE=17"},
		{"nothing offered", "Subject: x\r\n\r\nx\r\n", []string{}, ""},
		{"8-bit", eightBit, all, "SIZE=56 BODY=8BITMIME"},
		{"8-bit refused", eightBit, []string{"SMTPUTF8"}, "5.6.3"},
		{"late 8-bit refused", "Subject: x\r\n\r\n" + long + "\xc3\xbc\r\n", []string{"SMTPUTF8"}, "5.6.3"},
		{"long and ASCII", "Subject: x\r\n\r\n" + long, []string{}, ""},
		{"UTF-8 header", utf8Head, all, "SIZE=23 BODY=8BITMIME SMTPUTF8"},
		{"UTF-8 header refused", utf8Head, []string{"8BITMIME"}, "5.6.7"},
		{"long UTF-8 header", "X: " + strings.Repeat("a b\r\n ", 9000) + "\r\nSubject: \xc3\xbc\r\n\r\nx\r\n", []string{"8BITMIME"}, "5.6.7"},
		{"too big", "Subject: x\r\n\r\n" + long, []string{"SIZE 1000"}, "5.3.4"},
		{"size without number", "Subject: x\r\n\r\nx\r\n", []string{"SIZE x"}, "SIZE=17"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: c.ext})
			s := shipment(t, anyway, c.text)
			_, err := l.ship(l.transport(nil), s)
			if strings.HasPrefix(c.params, "5.") {
				d := wantDelivery(t, err)
				require.Equal(t, c.params, d.Enhanced)
				require.Equal(t, securemail.FatePermanent, d.Fate)
				require.Zero(t, d.Code)
				untouched(t, p)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.params, strings.Join(p.Messages()[0].Params, " "))
			require.Equal(t, c.text, string(p.Messages()[0].Data))
		})
	}
}

func TestInternationalAddresses(t *testing.T) {
	for _, ext := range []string{"SMTPUTF8", "X-NONE"} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: []string{ext}})
		s := shipment(t, anyway, hello)
		s.Recipient.Address = address(t, "jörg@clinic.test")
		s.ReturnPath = securemail.Address{}
		_, err := l.ship(l.transport(nil), s)
		if ext == "X-NONE" {
			require.Equal(t, "5.6.7", wantDelivery(t, err).Enhanced)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, []string{"jörg@clinic.test"}, p.Messages()[0].Rcpts)
		require.Equal(t, []string{"SMTPUTF8"}, p.Messages()[0].Params)
		require.Empty(t, p.Messages()[0].From)
		require.Contains(t, p.Transcript(), "MAIL FROM:<> SMTPUTF8")
	}
}

// RFC 5890: a domain in any letters is asked for, and written, as A-labels, so no host need know SMTPUTF8 for it.
func TestInternationalDomains(t *testing.T) {
	for _, a := range []string{"anna@b\u00fccher.test", "anna@B\u00dcCHER.test", "anna@xn--bcher-kva.test"} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: []string{}})
		l.records("xn--bcher-kva.test", "MX 1 mx1.test.")
		s := shipment(t, anyway, hello)
		s.Recipient.Address = address(t, a)
		_, err := l.ship(l.transport(nil), s)
		require.NoError(t, err)
		require.Equal(t, []string{"anna@xn--bcher-kva.test"}, p.Messages()[0].Rcpts)
		require.Empty(t, p.Messages()[0].Params)
	}
}

// A host that can't carry the message leaves it to the next; a host that can, but not now, keeps it alive.
func TestNextHostWhereTheFirstCantCarry(t *testing.T) {
	l := newLab(t)
	l.mx(smtppeer.Options{Extensions: []string{}})
	second := l.mx(smtppeer.Options{})
	_, err := l.ship(l.transport(nil), shipment(t, anyway, eightBit))
	require.NoError(t, err)
	require.Len(t, second.Messages(), 1)

	l = newLab(t)
	l.mx(smtppeer.Options{Extensions: []string{}})
	l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Refuse(421, "later"))})
	_, err = l.ship(l.transport(nil), shipment(t, anyway, eightBit))
	require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
}

// A quoted local part with brackets and spaces is one address on the wire.
func TestQuotedLocalPart(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	s := shipment(t, anyway, hello)
	s.Recipient.Address = address(t, `"a> b"@clinic.test`)
	_, err := l.ship(l.transport(nil), s)
	require.NoError(t, err)
	require.Equal(t, []string{`"a> b"@clinic.test`}, p.Messages()[0].Rcpts)
}

// What arrives is what was sent, for any lines in any blocks.
func TestDotStuffing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.SampledFrom([]string{"", ".", "..", ".a", "a", "a.", "\r", "a\n.\n", "\n", "long line"})).Draw(t, "lines")
		text := strings.Join(lines, "\r\n")
		n := rapid.IntRange(1, 20).Draw(t, "block")
		got := smtp.Stuff([]byte(text), n)
		for _, end := range []string{"\n.\n", "\n.\r\n"} {
			require.NotContains(t, "\n"+string(got)+"\r\n", end)
		}
		plain := strings.ReplaceAll("\n"+string(got), "\n.", "\n")[1:]
		require.Equal(t, text, plain)
	})
}

func TestMessageWithoutFinalLineEnd(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	tr := l.transport(nil)
	for text, want := range map[string]string{
		"Subject: x\r\n\r\nno end": "Subject: x\r\n\r\nno end\r\n",
		"Subject: x\r\n\r\n.":      "Subject: x\r\n\r\n.\r\n",
		"Subject: x\r\n":           "Subject: x\r\n\r\n",
	} {
		p.Reset()
		_, err := l.ship(tr, shipment(t, anyway, text))
		require.NoError(t, err)
		require.Equal(t, want, string(p.Messages()[0].Data))
	}
}

// generated is a big message that is never in memory.
type generated struct{ size int64 }

func (g generated) Size() int64 { return g.size }

func (g generated) Open() (io.ReadCloser, error) {
	head := "Subject: big\r\n\r\n"
	return io.NopCloser(io.LimitReader(io.MultiReader(strings.NewReader(head), &lines{}), g.size)), nil
}

type lines struct{ n int }

const line = ".123456789012345678901234567890123456789012345678901234567890123456789012345\r\n"

var page = strings.Repeat(line, 500)

func (l *lines) Read(p []byte) (int, error) {
	n := copy(p, page[l.n:])
	l.n = (l.n + n) % len(page)
	return n, nil
}

func TestThirtyMegabytes(t *testing.T) {
	for _, o := range []smtppeer.Options{{Discard: true, TLS: ca.Config("mx1.test")}, {Discard: true, Extensions: []string{}}} {
		l := newLab(t)
		p := l.mx(o)
		m, err := securemail.NewMessage(generated{16 + 78*400_000})
		require.NoError(t, err)
		s := shipment(t, anyway, hello)
		s.Message = m
		tr := l.transport(nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = l.ship(tr, s)
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		require.Equal(t, m.Size(), p.Messages()[0].Octets)
		// All that was allocated, collected or not, on both sides.
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))
	}
}

// Far ends that talk too much, or nonsense: a typed error and little memory.
func TestBadReplies(t *testing.T) {
	noise := make([]byte, 4<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(noise)
	cases := map[string]struct {
		a    smtppeer.Action
		rule string
	}{
		"10,000 lines":     {smtppeer.Action{Code: 220, Text: "line", Lines: 10_000}, "too-many-lines"},
		"5 MB banner":      {smtppeer.Action{Banner: 5 << 20}, "line-too-long"},
		"5 MB code banner": {smtppeer.Action{Raw: "220 ", Banner: 0}, ""},
		"garbage":          {smtppeer.Action{Raw: "hello there " + canary + "\r\n"}, "syntax"},
		"noise":            {smtppeer.Action{Raw: string(noise)}, ""},
		"HTTP":             {smtppeer.Action{Raw: "HTTP/1.1 400 Bad Request\r\n\r\n"}, "syntax"},
		"NULs":             {smtppeer.Action{Raw: strings.Repeat("\x00", 1<<20)}, "line-too-long"},
		"code changes":     {smtppeer.Action{Raw: "220-a\r\n221 b\r\n"}, "code-changed"},
		"code 999":         {smtppeer.Action{Raw: "999 x\r\n"}, "syntax"},
		"long lines":       {smtppeer.Action{Code: 220, Text: strings.Repeat("x", 4000), Lines: 100}, "too-long"},
		"two greetings":    {smtppeer.Action{Raw: "220 a\r\n220 b\r\n"}, "unasked"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, c.a)})
			tr := l.transport(func(o *smtp.Options) { o.Timeouts.Greeting = 2 * time.Second })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := l.deliver(tr, anyway)
			runtime.ReadMemStats(&after)
			d := wantDelivery(t, err)
			require.Equal(t, securemail.FateRetry, d.Fate)
			if c.rule != "" {
				re, ok := errorAs[*smtp.ReplyError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, c.rule, re.Rule)
			}
			untouched(t, p)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(30<<20)) // the far end's own share is the most
		})
	}
}

// The same at every other stage: typed, never delivered twice, never taken for success.
func TestBadRepliesLater(t *testing.T) {
	for _, stage := range []smtppeer.Stage{smtppeer.StageEHLO, smtppeer.StageStartTLS, smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageData} {
		for name, a := range map[string]smtppeer.Action{
			"garbage": {Raw: "hello " + canary + "\r\n"}, "closed": smtppeer.Drop(), "lines": {Code: 250, Text: "x", Lines: 10_000},
			"banner": {Banner: 1 << 20}, "half": {Raw: "25", Close: true}, "334": {Code: 334, Text: "x"},
		} {
			for _, ext := range []string{"PIPELINING", "X-NONE"} {
				t.Run(string(stage)+"/"+name+"/"+ext, func(t *testing.T) {
					l := newLab(t)
					p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: []string{ext}, On: on(stage, a)})
					tr := l.transport(nil)
					_, err := l.deliver(tr, named)
					require.Error(t, err)
					if d, ok := errorAs[*securemail.DeliveryError](err); ok {
						require.Equal(t, securemail.FateRetry, d.Fate)
					}
					require.Empty(t, p.Messages())
					require.Zero(t, tr.Idle())
				})
			}
		}
	}
}

// More answers than questions put the session out of step.
func TestExtraReplies(t *testing.T) {
	for stage, raw := range map[smtppeer.Stage]string{
		smtppeer.StageEHLO: "250-mx\r\n250 PIPELINING\r\n250 extra\r\n", smtppeer.StageMail: "250 a\r\n250 b\r\n",
		smtppeer.StageRcpt: "250 a\r\n250 b\r\n", smtppeer.StageData: "354 a\r\n354 b\r\n",
	} {
		for _, ext := range []string{"PIPELINING", "X-NONE"} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: []string{ext}, On: on(stage, smtppeer.Action{Raw: raw})})
			tr := l.transport(nil)
			_, err := l.deliver(tr, anyway)
			require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate, stage)
			require.Empty(t, p.Messages())
			require.Zero(t, tr.Idle())
		}
	}
	// Behind the last answer: the message is delivered, the connection is not kept.
	l := newLab(t)
	p := l.mx(smtppeer.Options{On: on(smtppeer.StageDot, smtppeer.Action{Raw: "250 a\r\n250 b\r\n"})})
	tr := l.transport(nil)
	for range 2 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Connections())
}

// Nothing leaves below the floor, whatever the far end is and does.
func TestNothingLeavesBelowTheFloor(t *testing.T) {
	good, other, old := ca.Config("mx1.test"), ca.Config("other.test"), smtppeer.TLS10(ca.Cert("mx1.test"))
	self, expired := smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test")), smtppeer.ServerConfig(ca.Expired("mx1.test"))
	truth := map[*tls.Config]securemail.Channel{good: named, other: encrypted, self: encrypted, expired: encrypted, old: anyway, nil: anyway}
	stages := []smtppeer.Stage{
		smtppeer.StageGreeting, smtppeer.StageEHLO, smtppeer.StageStartTLS, smtppeer.StageHandshake, smtppeer.StageMail, smtppeer.StageRcpt,
		smtppeer.StageData, smtppeer.StageBody, smtppeer.StageDot,
	}
	actions := []smtppeer.Action{
		{}, {Code: 421, Text: "x", Close: true}, {Code: 454, Text: "x"}, {Code: 500, Text: "x"}, {Code: 550, Text: "x"}, {Code: 250, Text: "x"},
		{Code: 220, Text: "x"}, {Raw: "250-x\r\n250 x\r\n"}, {Raw: "nonsense\r\n"}, {Close: true},
	}
	rapid.Check(t, func(rt *rapid.T) {
		l := newLab(t)
		defer func() {
			for _, p := range l.hosts {
				p.Close()
			}
			l.dns.Close()
		}()
		cfg := rapid.SampledFrom([]*tls.Config{good, other, self, expired, old, nil}).Draw(rt, "tls")
		o := smtppeer.Options{
			TLS: cfg, StripTLS: rapid.Bool().Draw(rt, "strip"), LowerCase: rapid.Bool().Draw(rt, "lower"),
			Extensions: rapid.SampledFrom([][]string{nil, {}, {"REQUIRETLS"}, {"STARTTLS"}}).Draw(rt, "ext"),
			On:         on(rapid.SampledFrom(stages).Draw(rt, "stage"), rapid.SampledFrom(actions).Draw(rt, "action")),
		}
		if rapid.IntRange(0, 9).Draw(rt, "inject") == 0 {
			o.InjectAfterStartTLS = "250 x\r\n"
		}
		p := l.mx(o)
		tr := l.transport(func(o *smtp.Options) {
			o.Timeouts = smtp.Timeouts{
				Greeting: time.Second, EHLO: time.Second, Handshake: time.Second, Mail: time.Second, Rcpt: time.Second, DataInit: time.Second, Dot: time.Second,
			}
		})
		defer tr.Close()
		for range 2 {
			floor := rapid.SampledFrom([]securemail.Channel{verified, named, encrypted, anyway}).Draw(rt, "floor")
			p.Reset()
			r, err := l.deliver(tr, floor)
			if err == nil {
				require.True(rt, r.Meets(floor))
				require.Len(rt, p.Messages(), 1)
				require.True(rt, floor >= truth[cfg] || floor == anyway)
				require.Equal(rt, p.Messages()[0].TLS != nil, r.TLS != nil)
			}
			for _, m := range p.Attempts() {
				require.True(rt, floor == anyway || m.TLS != nil && floor >= truth[cfg])
			}
			for _, c := range p.Commands() {
				if strings.Contains(c.Line, canary) {
					require.True(rt, floor == anyway || c.TLS && floor >= truth[cfg], c.Line)
				}
			}
		}
	})
}

// One stored message, many deliveries at once, each whole.
func TestSharedMessage(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	tr := l.transport(nil)
	s := shipment(t, anyway, hello+strings.Repeat("body line\r\n", 10_000))
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := tr.Deliver(context.Background(), s)
			errs <- err
		}()
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
	r, err := s.Message.Open()
	require.NoError(t, err)
	want, err := io.ReadAll(r)
	require.NoError(t, err)
	for _, m := range p.Messages() {
		require.True(t, bytes.Equal(want, m.Data))
	}
}
