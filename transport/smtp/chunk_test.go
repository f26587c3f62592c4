package smtp_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

var chunking = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING"}

func chunked(o *smtp.Options) { o.Chunking = smtp.ChunkingOffered }

var long = hello + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 30_000)

func TestBDAT(t *testing.T) {
	full := hello + strings.Repeat("x\r\n", (32<<10-len(hello)-10)/3)
	full += strings.Repeat("y", 32<<10-len(full)-2) + "\r\n" // exactly one block
	for name, text := range map[string]string{
		"small": hello, "dots": hello + ".\r\n..\r\n.x\r\n", "no end": hello + "last line", "a block": full, "a block and one": full + "z",
		"long": long, "long, no end": long + ".",
	} {
		for _, ext := range [][]string{chunking, {"CHUNKING"}} {
			t.Run(name+"/"+ext[0], func(t *testing.T) {
				l := newLab(t)
				p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: ext})
				tr := l.transport(chunked)
				for range 2 {
					_, err := l.ship(tr, shipment(t, named, text))
					require.NoError(t, err)
				}
				want := text
				if !strings.HasSuffix(want, "\r\n") {
					want += "\r\n"
				}
				require.Equal(t, 1, p.Connections())
				require.Len(t, p.Messages(), 2)
				for _, m := range p.Messages() {
					require.Equal(t, want, string(m.Data))
					require.NotEmpty(t, m.Chunks)
				}
				require.NotContains(t, p.Transcript(), "DATA")
			})
		}
	}
}

func TestBDATIsForThoseWhoOfferAndWant(t *testing.T) {
	for _, c := range []struct {
		ext    []string
		option smtp.Chunking
		bdat   bool
	}{
		{chunking, smtp.ChunkingOffered, true}, {chunking, smtp.ChunkingNever, false}, {chunking, smtp.ChunkingStreams, false},
		{[]string{"PIPELINING"}, smtp.ChunkingOffered, false},
	} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: c.ext})
		_, err := l.deliver(l.transport(func(o *smtp.Options) { o.Chunking = c.option }), anyway)
		require.NoError(t, err)
		require.Equal(t, c.bdat, len(p.Messages()[0].Chunks) > 0)
	}
	_, err := smtp.New(&smtp.Options{Chunking: 9})
	require.ErrorContains(t, err, "Chunking")
}

// The last chunk makes the far end accept: not an octet of it, nor its command, goes out before Intend is back.
func TestIntendComesBeforeTheLastChunk(t *testing.T) {
	for _, text := range []string{hello, long} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: chunking})
		s := shipment(t, anyway, text)
		calls := 0
		s.OnIntend = func(context.Context) error {
			calls++
			time.Sleep(20 * time.Millisecond) // whatever is under way arrives
			for _, m := range p.Attempts() {
				require.Less(t, m.Octets, int64(len(text)))
			}
			require.NotContains(t, strings.Join(p.Transcript(), "\n"), "LAST")
			return nil
		}
		_, err := l.ship(l.transport(chunked), s)
		require.NoError(t, err)
		require.Equal(t, 1, calls)
	}
}

// An intent that fails leaves nothing accepted, and the session, which RSET clears, to the next message.
func TestIntendErrorBeforeTheLastChunk(t *testing.T) {
	for _, text := range []string{hello, long} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: chunking})
		tr := l.transport(chunked)
		s := shipment(t, anyway, text)
		s.OnIntend = func(context.Context) error { return securemail.ErrLease }
		_, err := l.ship(tr, s)
		require.ErrorIs(t, err, securemail.ErrLease)
		require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
		require.Empty(t, p.Messages())
		_, err = l.deliver(tr, anyway)
		require.NoError(t, err)
		require.Equal(t, 1, p.Connections())
		require.Equal(t, hello, string(p.Messages()[0].Data))
	}
}

func TestRefusedChunk(t *testing.T) {
	for _, c := range []struct {
		stage smtppeer.Stage
		code  int
		fate  securemail.Fate
		at    string
	}{
		{smtppeer.StageChunk, 552, securemail.FatePermanent, "data"},
		{smtppeer.StageChunk, 451, securemail.FateRetry, "data"},
		{smtppeer.StageChunk, 421, securemail.FateRetry, "data"},
		{smtppeer.StageChunk, 354, securemail.FateRetry, "data"},
		{smtppeer.StageDot, 554, securemail.FatePermanent, "dot"},
		{smtppeer.StageDot, 451, securemail.FateRetry, "dot"},
		{smtppeer.StageDot, 421, securemail.FateRetry, "dot"},
		{smtppeer.StageDot, 354, securemail.FateUncertain, "dot"},
	} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: chunking, On: on(c.stage, smtppeer.Refuse(c.code, "5.7.1 x"))})
		tr := l.transport(chunked)
		_, err := l.ship(tr, shipment(t, anyway, long))
		d := wantDelivery(t, err)
		require.Equal(t, c.fate, d.Fate, c.code)
		require.Equal(t, c.code, d.Code)
		require.Equal(t, c.at, d.Stage)
		require.Zero(t, tr.Idle(), "a peer may have taken the chunk for commands")
		if c.fate != securemail.FateUncertain {
			require.Empty(t, p.Messages())
		}
	}
}

func TestLostInTheMiddleOfChunks(t *testing.T) {
	for stage, fate := range map[smtppeer.Stage]securemail.Fate{
		smtppeer.StageBody: securemail.FateRetry, smtppeer.StageChunk: securemail.FateRetry, smtppeer.StageDot: securemail.FateUncertain,
	} {
		for _, ext := range [][]string{chunking, {"CHUNKING", "8BITMIME"}} {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: ext, On: on(stage, smtppeer.Drop())})
			s := shipment(t, anyway, long)
			intended := false
			s.OnIntend = func(context.Context) error { intended = true; return nil }
			_, err := l.ship(l.transport(chunked), s)
			require.Equal(t, fate, wantDelivery(t, err).Fate, stage)
			require.Equal(t, fate == securemail.FateUncertain, intended)
			require.Equal(t, fate == securemail.FateUncertain, len(p.Messages()) == 1)
		}
	}
}

func TestSourceThatFailsInAChunk(t *testing.T) {
	for _, cut := range []int{50_000, len(long) - 10} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: chunking})
		src := &flaky{text: long, cut: len(long)}
		m, err := securemail.NewMessage(src)
		require.NoError(t, err)
		src.cut = cut
		s := shipment(t, anyway, hello)
		s.Message = m
		s.OnIntend = func(context.Context) error { t.Error("Intend"); return nil }
		_, err = l.ship(l.transport(chunked), s)
		require.ErrorIs(t, err, errFlaky)
		require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
		p.Close()
		require.Empty(t, p.Messages())
	}
}

// Thanks for a chunk that was not sent yet are no receipt.
func TestAnswerBeforeTheLastChunk(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: chunking, On: on(smtppeer.StageRcpt, smtppeer.Action{Raw: "250 go\r\n250 2.0.0 Ok: queued as X\r\n"})})
	s := shipment(t, anyway, hello)
	s.OnIntend = func(context.Context) error { t.Error("Intend"); return nil }
	_, err := l.ship(l.transport(chunked), s)
	require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
	re, ok := errorAs[*smtp.ReplyError](err)
	require.True(t, ok)
	require.Equal(t, "unasked", re.Rule)
	require.Empty(t, p.Messages())
}

func TestChunkTimeouts(t *testing.T) {
	for stage, want := range map[smtppeer.Stage]time.Duration{smtppeer.StageChunk: 3 * time.Minute, smtppeer.StageDot: 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			p := smtppeer.New(smtppeer.Options{Extensions: chunking, On: on(stage, smtppeer.Stall())})
			tr := bubble(t, p, chunked)
			begin := time.Now()
			_, err := tr.Deliver(t.Context(), shipment(t, anyway, long[:100_000])) // a pipe holds no replies of several chunks
			require.Equal(t, stage == smtppeer.StageDot, wantDelivery(t, err).Fate == securemail.FateUncertain)
			require.InDelta(t, want, time.Since(begin), float64(2*time.Second))
			require.NoError(t, tr.Close())
			synctest.Wait()
		})
	}
}

// RFC 9422: the far end's limits on a session are kept.
func TestLimits(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: []string{"PIPELINING", "LIMITS MAILMAX=2"}})
	tr := l.transport(nil)
	for range 5 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 3, p.Connections())

	l = newLab(t)
	p = l.mx(smtppeer.Options{Extensions: []string{"PIPELINING", "LIMITS RCPTDOMAINMAX=2"}})
	for _, d := range []string{"b.test", "c.test"} {
		l.records(d, "MX 1 mx1.test.")
	}
	tr = l.transport(nil)
	for _, d := range []string{"clinic.test", "b.test", "clinic.test", "c.test", "b.test", "c.test"} {
		s := shipment(t, anyway, hello)
		s.Recipient.Address = address(t, "x@"+d)
		_, err := l.ship(tr, s)
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Connections())
	domains := map[int]map[string]bool{}
	for _, m := range p.Messages() {
		if domains[m.Conn] == nil {
			domains[m.Conn] = map[string]bool{}
		}
		domains[m.Conn][m.Rcpts[0]] = true
		require.LessOrEqual(t, len(domains[m.Conn]), 2)
	}
}

func TestDSN(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{Extensions: []string{"DSN", "SMTPUTF8", "8BITMIME", "CHUNKING"}})
	tr := l.transport(func(o *smtp.Options) {
		o.DSN = func(s *securemail.Slip) smtp.DSN {
			if s.ID == "plain" {
				return smtp.DSN{}
			}
			return smtp.DSN{Notify: smtp.NotifyFailure | smtp.NotifyDelay, OriginalRecipient: true}
		}
	})
	s := shipment(t, anyway, hello)
	s.Recipient.Address = address(t, "anna+x@clinic.test")
	for range 2 {
		_, err := l.ship(tr, s)
		require.NoError(t, err)
	}
	s = shipment(t, anyway, hello)
	s.ID = "plain"
	_, err := l.ship(tr, s)
	require.NoError(t, err)
	ms := p.Messages()
	require.Equal(t, []string{"RET=HDRS", "ENVID=" + smtp.EnvelopeID("p1")}, ms[0].Params)
	require.Equal(t, ms[0].Params, ms[1].Params, "each attempt has the same id")
	require.Equal(t, []string{"NOTIFY=FAILURE,DELAY ORCPT=rfc822;anna+2Bx@clinic.test"}, ms[0].RcptParams)
	require.Equal(t, []string{"RET=HDRS", "ENVID=" + smtp.EnvelopeID("plain")}, ms[2].Params)
	require.Equal(t, []string{""}, ms[2].RcptParams)
	require.NotContains(t, smtp.EnvelopeID("plain"), "plain")

	l = newLab(t)
	p = l.mx(smtppeer.Options{})
	tr = l.transport(func(o *smtp.Options) {
		o.DSN = func(s *securemail.Slip) smtp.DSN { return smtp.DSN{Notify: smtp.NotifyNever, OriginalRecipient: true} }
	})
	_, err = l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Empty(t, strings.Join(p.Messages()[0].Params, ""), "not offered")
	require.Equal(t, []string{""}, p.Messages()[0].RcptParams)

	tr = l.transport(func(o *smtp.Options) {
		o.DSN = func(s *securemail.Slip) smtp.DSN { return smtp.DSN{Notify: smtp.NotifyNever | smtp.NotifyDelay} }
	})
	_, err = l.deliver(tr, anyway)
	require.Equal(t, "mail", wantDelivery(t, err).Stage)
	require.Len(t, p.Messages(), 1)
}

func TestOriginalRecipient(t *testing.T) {
	for in, want := range map[string]string{
		"a@b.test": "rfc822;a@b.test", "a=b+c@d.test": "rfc822;a+3Db+2Bc@d.test", `"a b"@c.test`: `rfc822;"a+20b"@c.test`,
		"\u00fc+x@b.test": `utf-8;\x{FC}\x{2B}x@b.test`, "\U0001f600\\ @b.test": `utf-8;\x{1F600}\x{5C}\x{20}@b.test`,
	} {
		require.Equal(t, want, smtp.OriginalRecipient(in))
	}
}

// Whatever an address holds, its ORCPT is one word of printable ASCII that reads back as the address.
func FuzzOriginalRecipient(f *testing.F) {
	for _, s := range []string{"a@b", "a+=b@c", "\u00fc@x", "\r\n ", "+2B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		got := smtp.OriginalRecipient(addr)
		if strings.ContainsFunc(got, func(r rune) bool { return r < '!' || r > '~' || r == '=' }) {
			t.Fatalf("%q", got)
		}
		kind, text, _ := strings.Cut(got, ";")
		back, err := decodeXtext(kind, text)
		if err != nil || back != strings.ToValidUTF8(addr, "\ufffd") && kind == "utf-8" && !strings.Contains(back, "\ufffd") || kind == "rfc822" && back != addr {
			t.Fatalf("%q gives %q gives %q", addr, got, back)
		}
	})
}

// decodeXtext reads xtext (RFC 3461 section 4) and utf-8-addr-xtext (RFC 6533 section 3).
func decodeXtext(kind, text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		digits, end := "", i
		switch {
		case kind == "rfc822" && text[i] == '+' && i+2 < len(text):
			digits, end = text[i+1:i+3], i+2
		case kind == "utf-8" && strings.HasPrefix(text[i:], `\x{`):
			n := strings.IndexByte(text[i:], '}')
			if n < 0 {
				return "", errors.New("no end")
			}
			digits, end = text[i+3:i+n], i+n
		}
		if digits == "" {
			b.WriteByte(text[i])
			continue
		}
		r := rune(0)
		for _, c := range digits {
			v := strings.IndexRune("0123456789ABCDEF", c)
			if v < 0 {
				return "", errors.New("no digit")
			}
			r = r<<4 | rune(v)
		}
		if kind == "rfc822" {
			b.WriteByte(byte(r))
		} else {
			b.WriteRune(r)
		}
		i = end
	}
	return b.String(), nil
}
