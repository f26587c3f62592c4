package smtp

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/postseal/postseal/securemail"
)

// step is one command of the envelope and the reply that it needs.
type step struct {
	stage string
	wait  time.Duration
	want  int
	write func(c *conn, j *job)
	reset bool
}

// newSteps are RSET, MAIL, RCPT, DATA. RSET clears what a transaction before may have left behind: a server that refused
// one of a pipelined group may keep its sender.
func newSteps(t Timeouts) [4]step {
	return [...]step{
		{stageMail, t.EHLO, 250, writeReset, true},
		{stageMail, t.Mail, 250, writeMail, false},
		{stageRcpt, t.Rcpt, 250, writeRcpt, false},
		{stageData, t.DataInit, 354, writeData, false},
	}
}

// envelope is what of the steps a session needs: RSET where the transaction before was not accepted, DATA without BDAT.
func (t *Transport) envelope(c *conn, chunked bool) []step {
	from, to := 0, len(t.steps)
	if c.uses == 0 || c.clean {
		from++
	}
	if chunked {
		to--
	}
	return t.steps[from:to]
}

func writeReset(c *conn, _ *job) { _, _ = c.bw.WriteString("RSET\r\n") }

// writeMail is MAIL with SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531) and REQUIRETLS (RFC 8689). BODY=8BITMIME is
// also said where the first block of a longer message is ASCII: it permits 8-bit octets and does not promise them.
func writeMail(c *conn, j *job) {
	_, _ = c.bw.WriteString("MAIL FROM:<")
	_, _ = c.bw.WriteString(j.from)
	_ = c.bw.WriteByte('>')
	if c.ext.hasSize {
		_, _ = c.bw.WriteString(" SIZE=")
		_, _ = c.bw.Write(strconv.AppendInt(c.bw.AvailableBuffer(), j.size, 10))
	}
	if c.ext.eightBit && (j.eightBit || !j.whole) {
		_, _ = c.bw.WriteString(" BODY=8BITMIME")
	}
	if j.utf8 {
		_, _ = c.bw.WriteString(" SMTPUTF8")
	}
	if j.RequireTLS && c.tls != nil && c.ext.requireTLS {
		_, _ = c.bw.WriteString(" REQUIRETLS")
	}
	writeMailDSN(c, j)
	_, _ = c.bw.WriteString("\r\n")
}

func writeRcpt(c *conn, j *job) {
	_, _ = c.bw.WriteString("RCPT TO:<")
	_, _ = c.bw.WriteString(j.to)
	_ = c.bw.WriteByte('>')
	writeRcptDSN(c, j)
	_, _ = c.bw.WriteString("\r\n")
}

func writeData(c *conn, _ *job) { _, _ = c.bw.WriteString("DATA\r\n") }

// transact is one mail transaction on an admitted session. It returns the far end's queue id. Where it leaves the
// session unfit for another it sets c.broken.
func (t *Transport) transact(ctx context.Context, j *job, c *conn) (string, *failure) {
	if f := capable(j, c); f != nil {
		return "", f
	}
	chunked := t.chunked(c)
	steps := t.envelope(c, chunked)
	c.count(j)
	if f := t.ready(ctx, j, c, steps); f != nil {
		c.refusals++
		f.sent = true
		return "", f
	}
	if chunked {
		id, f := t.chunks(ctx, j, c)
		if f != nil {
			f.sent = true
		}
		return id, f
	}
	// From here on nothing but a clear answer to the dot leaves the session usable.
	c.broken = true
	if f := t.body(ctx, j, c); f != nil {
		f.sent = true
		return "", f
	}
	if err := j.Intend(ctx); err != nil {
		f := fail(stageData, err)
		return "", f
	}
	return t.dot(ctx, c)
}

// capable says whether the far end can carry the message unchanged; if not, another host may.
func capable(j *job, c *conn) *failure {
	refuse := func(enhanced string, cause error) *failure {
		f := hostFail(stageMail, cause)
		f.Enhanced, f.Fate = enhanced, securemail.FatePermanent
		return f
	}
	if c.ext.size > 0 && j.size > c.ext.size {
		return refuse("5.3.4", errTooBig)
	}
	if j.utf8 && !c.ext.utf8 {
		return refuse("5.6.7", errNoUTF8)
	}
	if c.ext.eightBit {
		return nil
	}
	eight, err := j.has8Bit()
	switch {
	case err != nil:
		return fail(stageMail, err)
	case eight:
		// RFC 6152 section 3 leaves conversion or return; conversion breaks signatures.
		return refuse("5.6.3", errNo8Bit)
	}
	return nil
}

// ready brings the session to 354, or to BDAT: in one flight where PIPELINING is offered (RFC 2920), else step by step.
func (t *Transport) ready(ctx context.Context, j *job, c *conn, steps []step) *failure {
	if c.br.Buffered() > 0 {
		c.broken = true
		f := hostFail(stageMail, &ReplyError{Rule: "unasked"})
		f.stale = true
		return f
	}
	if c.ext.pipelining {
		for _, s := range steps {
			s.write(c, j)
		}
		if err := c.flush(ctx, t.timeouts.Mail); err != nil {
			c.broken = true
			return ioFailure(ctx, steps[0].stage, err)
		}
		return t.replies(ctx, c, steps)
	}
	for _, s := range steps {
		s.write(c, j)
		if err := c.flush(ctx, s.wait); err != nil {
			c.broken = true
			return ioFailure(ctx, s.stage, err)
		}
		if f := c.step(ctx, s, nil); f != nil {
			return f
		}
	}
	return nil
}

// replies reads the answers to a flight of steps, and returns its first failure.
func (t *Transport) replies(ctx context.Context, c *conn, steps []step) *failure {
	var first *failure
	for i, s := range steps {
		if i > 0 && c.br.Buffered() == 0 {
			quickAck(c.raw) // it may wait for that with the next answer
		}
		if f := c.step(ctx, s, first); f != nil && first == nil {
			first = f
		}
		if c.broken {
			break
		}
	}
	return first
}

// step reads one reply of the envelope. first is the group's failure so far.
func (c *conn) step(ctx context.Context, s step, first *failure) *failure {
	r, err := c.read(ctx, s.wait, nil)
	if err != nil {
		c.broken = true
		return ioFailure(ctx, s.stage, err)
	}
	// RFC 5321 section 3.3: 251 and 252 accept a recipient too.
	if r.code == s.want || s.want == 250 && r.class() == 2 {
		// RFC 2920 section 3.1: DATA may be accepted though its recipient was refused. Dropping the connection is the one
		// way to end it that can't be taken for a message.
		c.broken = c.broken || first != nil && s.stage == stageData
		return nil
	}
	c.broken = r.code == 421 || r.class() < 4
	if s.reset && r.class() >= 4 {
		c.broken = true
		return resetRefused(r)
	}
	return refusal(s.stage, r)
}

// resetRefused is the end of a session, and nothing said of the mail: RSET can't be refused (RFC 5321 section 4.1.1.5).
// Exim does so behind ten refused recipients, and hangs up (smtp_accept_max_nonmail).
func resetRefused(r reply) *failure {
	f := refusal(stageMail, r)
	f.Fate, f.stale, f.next = securemail.FateRetry, true, true
	return f
}

// body streams the message, dot-stuffed, up to but without the final dot.
func (t *Transport) body(ctx context.Context, j *job, c *conn) *failure {
	w := stuffer{lineStart: true}
	err := j.blocksOf(func(b []byte) error {
		if !j.whole { // one that is stays in the buffer
			if err := c.arm(ctx, t.timeouts.DataBlock); err != nil {
				return err
			}
		}
		return w.write(c, b)
	})
	if err == nil && !w.lineStart {
		_, err = c.bw.WriteString("\r\n")
	}
	if q, ok := errors.AsType[*quiet](err); ok {
		return fail(stageData, q)
	}
	if err == nil && c.br.Buffered() == 0 {
		return nil
	}
	return t.lastWords(ctx, c, err)
}

// lastWordsWait is how long a far end that broke off mid-message may take to say why.
const lastWordsWait = time.Second

// lastWords reads what a far end said before the message was over. It can be nothing good: 2yz would accept what it
// does not have.
func (t *Transport) lastWords(ctx context.Context, c *conn, cause error) *failure {
	r, err := c.read(ctx, lastWordsWait, nil)
	switch {
	case err == nil && r.class() >= 4:
		f := refusal(stageData, r)
		f.stale = false
		return f
	case err == nil:
		cause = &ReplyError{Rule: "unasked"}
	case cause == nil:
		cause = err
	}
	f := ioFailure(ctx, stageData, cause)
	f.stale = false
	return f
}

// dot sends the final dot and reads the answer. The first thing it does is the last that can fail harmlessly.
func (t *Transport) dot(ctx context.Context, c *conn) (string, *failure) {
	if err := c.arm(ctx, t.timeouts.Dot); err != nil {
		return "", fail(stageData, bare(ctx, err))
	}
	_, _ = c.bw.WriteString(".\r\n")
	return t.answer(ctx, c)
}

// answer sends what makes the far end accept, and reads what it says to that.
func (t *Transport) answer(ctx context.Context, c *conn) (string, *failure) {
	err := c.bw.Flush()
	var r reply
	if err == nil {
		r, err = c.read(ctx, t.timeouts.Dot, nil)
	}
	if err != nil {
		return "", uncertain(bare(ctx, err))
	}
	switch r.class() {
	case 2:
		c.broken, c.clean = false, true
		return r.queueID(), nil
	case 4, 5:
		c.broken = r.code == 421
		f := refusal(stageDot, r)
		f.next, f.stale = false, false
		return "", f
	}
	f := uncertain(&ReplyError{Rule: "unexpected"})
	f.Code, f.Remote = r.code, r.remote()
	return "", f
}

func uncertain(cause error) *failure {
	f := fail(stageDot, errors.Join(errNoAnswer, cause))
	f.Fate = securemail.FateUncertain
	return f
}

// stuffer doubles each dot that starts a line (RFC 5321 section 4.5.2). Any LF ends a line for it, so that a bare one
// can't make a final dot.
type stuffer struct{ lineStart bool }

func (w *stuffer) write(c *conn, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if w.lineStart && b[0] == '.' {
		_ = c.bw.WriteByte('.')
	}
	w.lineStart = b[len(b)-1] == '\n'
	for {
		i := bytes.Index(b, []byte("\n."))
		if i < 0 {
			_, err := c.bw.Write(b)
			return err
		}
		_, _ = c.bw.Write(b[:i+1])
		_ = c.bw.WriteByte('.')
		b = b[i+1:]
	}
}
