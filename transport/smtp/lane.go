package smtp

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/postseal/postseal/internal/throttle"
	"github.com/postseal/postseal/securemail"
)

// lane is one connection that carries a stream. There is no goroutine of its own: of those who wait for an answer one
// writes what all have left in out, and one reads the answers of all; who has his own hands the role on.
type lane struct {
	r *road
	// ready is closed when c, way and why are set; c is nil if there is no connection.
	ready chan struct{}
	c     *conn
	way   way
	// why there is no connection: a failure for all, or nil if only the opener's time was over.
	why *failure

	// The rest is guarded by r.mu. users are the Deliver calls inside. load counts them and the unanswered messages of those
	// who left, octets are these messages' sizes, and left is how many more the connection may carry.
	users, load, left int
	octets            int64
	// closing: no more messages. over: the connection is dead, for a cause.
	closing, over bool
	cause         error
	// bye: the far end ended the session with what it said last. hungUp: it closed then.
	bye, hungUp bool

	// release gives the address its place back. took counts what was accepted, and slow says that the host asked for less.
	release func(throttle.Verdict)
	took    int
	slow    bool

	// Of a stream of chunks. out waits to be written, and spare is its other buffer. pushed and written count octets.
	out, spare      []byte
	pushed, written int64
	// sent are the entries without their last answer, in order.
	sent           []*entry
	writer, reader *entry
	// halted: writing failed, and what the far end still says is read.
	halted bool
	// replies is used by the reader alone, with mu held. said is the latest code.
	replies replyReader
	said    int

	// Of a stream by DATA: who has the connection, and who is next.
	holder *entry
	line   []*entry
}

// entry is one message on a lane, guarded by its road's mu.
type entry struct {
	j    *job
	plan *plan
	wire securemail.Wire
	wake chan struct{}
	// waits: its caller is there, and listens to wake. gone: it left without the answer.
	waits, gone bool
	// end is where its last octet is.
	end     int64
	answers int
	// refused is the first refusal of its envelope; mixed says that it was RSET's.
	refused *failure
	mixed   bool
	done    bool
	id      string
	f       *failure
	// ahead: its envelope was sent behind the dot of the one before.
	ahead bool
}

func (l *lane) enter(size int64) {
	l.users, l.load, l.octets, l.left = l.users+1, l.load+1, l.octets+size, l.left-1
}

// room says whether one more may come in.
func (l *lane) room(size int64) bool {
	return !l.closing && !l.over && l.left > 0 && l.load < l.window() && (l.load == 0 || l.octets+size <= maxUnanswered)
}

// window is how many may be inside. What the peer is like is known when the lane is open.
func (l *lane) window() int {
	switch l.way {
	case wayUnknown:
		return min(l.r.s.Window, narrow-narrowKept)
	case wayNarrow:
		return min(l.r.s.Window, narrow-l.c.refusals)
	}
	return l.r.s.Window
}

// unload makes room when a message is answered, or its caller leaves without having sent it.
func (l *lane) unload(size int64) {
	l.load--
	l.octets -= size
	l.r.admitNext()
}

// leave is what each caller does at the end; answered says that his load is off already, or stays until the answer comes.
// The last one keeps or closes the connection.
func (l *lane) leave(j *job, answered bool) {
	l.r.mu.Lock()
	if !answered {
		l.unload(j.size)
	}
	l.users--
	last := l.users == 0
	l.over = l.over || last
	l.r.mu.Unlock()
	if !last {
		return
	}
	// Others find the connection in the pool, and not its lane.
	l.dismiss()
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.r.drop(l)
}

// dismiss keeps or closes the connection that nobody uses any more.
func (l *lane) dismiss() {
	if l.c == nil {
		return
	}
	t := l.r.s.t
	l.c.broken = l.c.broken || len(l.sent) > 0 || l.replies.inside() || l.way == wayNarrow && l.c.refusals > narrowKept
	l.c.strip()
	if l.c.broken || l.c.spent(l.r.s.MaxUses) || !t.pool.put(l.c) {
		l.c.quit()
	}
	l.release(l.verdict())
}

// verdict says what the whole stream showed of the host.
func (l *lane) verdict() throttle.Verdict {
	switch {
	case l.slow && l.said == 421 && l.took == 0:
		return throttle.Stop
	case l.slow:
		return throttle.Slow
	case l.took > 0:
		return throttle.Good
	}
	return throttle.Neutral
}

// count notes one result. The caller holds mu.
func (l *lane) count(f *failure) {
	switch v := verdict(context.Background(), f); {
	case f == nil:
		l.took++
	case v == throttle.Slow || v == throttle.Stop:
		l.slow = true
	}
}

// open gives the lane its connection: an idle one, or a fresh one.
func (l *lane) open(ctx context.Context, j *job, g target, fresh bool) {
	c, w, f := l.find(ctx, j, g, fresh)
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	defer close(l.ready)
	if f != nil {
		l.closing, l.over = true, true
		if ctx.Err() == nil {
			l.why = f
		}
		return
	}
	l.left -= c.uses
	if n := c.ext.mailMax; n > 0 {
		l.left = min(l.left, n-c.uses-l.load)
	}
	l.c, l.way, l.r.way = c, w, w
	l.closing = w == waySerial
	c.equip()
	l.replies.text = c.text
	if w >= wayChunks {
		c.bw.Reset((*laneOut)(l))
	}
	for range l.r.s.Window {
		l.r.admitNext()
	}
}

// find gets a place at the address and a connection, and the way that messages go on it.
func (l *lane) find(ctx context.Context, j *job, g target, fresh bool) (c *conn, w way, f *failure) {
	t := l.r.s.t
	if l.release, f = t.space(ctx, g.addr); f != nil {
		return nil, waySerial, f
	}
	defer func() {
		if f != nil {
			l.release(verdict(ctx, f))
		}
	}()
	if !fresh {
		c = t.pool.take(l.r.key, j.Recipient.Address.Domain())
	}
	if c != nil && !t.lives(ctx, c) {
		c.broken = true
		c.quit()
		c = nil
	}
	pooled := c != nil
	if c == nil {
		if c, f = t.open(ctx, j, g, l.r.key.me); f != nil {
			f.stale = false
			return nil, waySerial, f
		}
		c.key = l.r.key
	}
	if w, f = t.streams.find(ctx, c); f != nil {
		f.stale = f.stale && pooled
		return nil, waySerial, f
	}
	return c, w, nil
}

// lives asks on a connection that was idle before a stream goes out on it: what is written to a far end that closed
// meanwhile would be uncertain. The RSET counts like one behind a refusal, see narrow.
func (t *Transport) lives(ctx context.Context, c *conn) bool {
	stop := c.attend(ctx)
	r, err := c.ask(ctx, t.timeouts.EHLO, "RSET", nil)
	c.refusals++
	return stop() && err == nil && r.class() == 2 && !c.broken
}

// sorry is the failure of those who find no connection.
func (l *lane) sorry() *failure {
	if l.why == nil {
		// The opener's time was over: the others begin anew.
		f := hostFail(stageConnect, context.Canceled)
		f.stale = true
		return f
	}
	f := *l.why
	return &f
}

// stale is for a message of which nothing that counts went out.
func stale(cause error) *failure {
	f := hostFail(stageMail, cause)
	f.stale = true
	return f
}

// admit holds the connection against the floor of a message; the caller holds mu.
func (l *lane) admit(j *job, p *plan) (securemail.Wire, *failure) {
	if l.over || l.closing {
		return securemail.Wire{}, stale(errGone)
	}
	t := l.r.s.t
	if l.c.spent(l.r.s.MaxUses) {
		l.closing = true
		return securemail.Wire{}, stale(errGone)
	}
	w, f := t.admit(j, l.c, p)
	if f != nil {
		l.closing, f.stale = true, l.c.uses > 0
		return f.Wire, f // with the reason
	}
	return w, capable(j, l.c)
}

// ship sends j by BDAT behind the messages before it, and waits for its answer.
func (l *lane) ship(ctx context.Context, j *job, p *plan) (*securemail.Receipt, *failure) {
	l.r.mu.Lock()
	w, f := l.admit(j, p)
	l.r.mu.Unlock()
	if f == nil {
		if err := j.Intend(ctx); err != nil {
			f = fail(stageData, err)
		} else if err := ctx.Err(); err != nil {
			f = fail(stageData, err)
		}
	}
	if f != nil {
		f.Wire = w
		l.leave(j, false)
		return nil, f
	}
	e := &entry{j: j, wire: w, wake: make(chan struct{}, 1)}
	l.r.mu.Lock()
	if l.over || l.halted || l.closing || l.c.spent(l.r.s.MaxUses) {
		l.closing = true
		l.r.mu.Unlock()
		l.leave(j, false)
		f := stale(errGone)
		f.Wire, f.sent = w, true
		return nil, f
	}
	l.push(e)
	l.r.mu.Unlock()
	id, f := l.await(ctx, e)
	l.leave(j, true)
	if f != nil {
		f.Wire, f.sent = w, true
		return nil, f
	}
	return l.r.s.t.receipt(j, l.c, w, id), nil
}

// laneOut is where a lane's buffered writer writes to.
type laneOut lane

// Write implements io.Writer.
func (o *laneOut) Write(b []byte) (int, error) {
	o.out = append(o.out, b...)
	return len(b), nil
}

// push encodes a whole transaction. The caller holds mu. RSET comes first: a peer may keep the sender of a transaction
// whose recipient it refused.
func (l *lane) push(e *entry) {
	c, before := l.c, len(l.out)
	c.count(e.j)
	writeReset(c, e.j)
	writeMail(c, e.j)
	writeRcpt(c, e.j)
	writeLast(c, e.j.first)
	_ = c.bw.Flush()
	l.pushed += int64(len(l.out) - before)
	e.end = l.pushed
	l.sent = append(l.sent, e)
}

// await plays the roles that are free until e's answer is there or ctx ends.
func (l *lane) await(ctx context.Context, e *entry) (string, *failure) {
	for {
		l.r.mu.Lock()
		e.waits = false
		switch {
		case e.done:
			l.nudge()
			l.r.mu.Unlock()
			return e.id, e.f
		case ctx.Err() != nil:
			f := l.abandon(e, ctx.Err())
			l.r.mu.Unlock()
			return "", f
		case l.writer == nil && len(l.out) > 0 && !l.halted:
			l.writer = e
			l.r.mu.Unlock()
			l.write(ctx, e)
			continue
		case l.reader == nil:
			l.reader = e
			l.r.mu.Unlock()
			l.read(ctx, e)
			continue
		}
		e.waits = true
		l.r.mu.Unlock()
		select {
		case <-e.wake:
		case <-ctx.Done():
		}
	}
}

// abandon leaves e's answer to nobody. Its octets are out, or will be.
func (l *lane) abandon(e *entry, cause error) *failure {
	e.gone = true
	l.nudge()
	if e.refused != nil && !e.mixed {
		return e.refused
	}
	return uncertain(cause)
}

// nudge wakes somebody if a role is free. The caller holds mu.
func (l *lane) nudge() {
	need := 0
	if l.reader == nil {
		need++
	}
	if l.writer == nil && len(l.out) > 0 && !l.halted {
		need++
	}
	for _, e := range l.sent {
		if need == 0 || l.over {
			return
		}
		if e.waits {
			e.waits = false
			e.wake <- struct{}{}
			need--
		}
	}
}

// write sends what waits, its own and others'. Where ctx ends while the far end takes nothing the connection is half-way
// through a message, and lost; otherwise somebody else goes on.
func (l *lane) write(ctx context.Context, e *entry) {
	stop := onEnd(ctx, func() {
		l.r.mu.Lock()
		defer l.r.mu.Unlock()
		if l.writer == e {
			_ = l.c.net.SetWriteDeadline(past)
		}
	})
	defer stop()
	l.r.mu.Lock()
	for len(l.out) > 0 && !l.over && ctx.Err() == nil {
		out := l.out
		l.out, l.spare = l.spare[:0], nil
		l.r.mu.Unlock()
		err := l.c.net.SetWriteDeadline(deadline(ctx, l.r.s.t.timeouts.DataBlock))
		if err == nil && ctx.Err() != nil {
			_ = l.c.net.SetWriteDeadline(past)
		}
		n := 0
		if err == nil {
			n, err = l.c.net.Write(out)
		}
		l.r.mu.Lock()
		l.written += int64(n)
		l.spare = out
		if err != nil {
			l.halt(err)
			break
		}
	}
	l.writer = nil
	if l.over {
		l.settle()
	}
	l.nudge()
	l.r.mu.Unlock()
}

// halt is the end of writing. A far end that closed may have said why before: what it said is read yet. The caller holds mu.
func (l *lane) halt(err error) {
	l.halted, l.closing, l.c.broken = true, true, true
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrClosedPipe) {
		l.end(err)
		return
	}
	_ = l.c.net.SetReadDeadline(time.Now().Add(lastWordsWait))
}

// read hands out answers until e has its own.
func (l *lane) read(ctx context.Context, e *entry) {
	stop := onEnd(ctx, func() {
		l.r.mu.Lock()
		defer l.r.mu.Unlock()
		if l.reader == e {
			_ = l.c.net.SetReadDeadline(past)
		}
	})
	defer stop()
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	for {
		l.digest()
		if e.done || l.over || ctx.Err() != nil {
			break
		}
		wait := l.patience()
		l.r.mu.Unlock()
		err := l.c.net.SetReadDeadline(deadline(ctx, wait))
		if err == nil {
			err = ctx.Err() // after the deadline, so that it is never overwritten unseen
		}
		if err == nil {
			quickAck(l.c.raw)
			err = more(l.c.br)
		}
		l.r.mu.Lock()
		if err != nil && ctx.Err() == nil {
			l.hungUp = l.bye && !l.replies.inside() && l.c.br.Buffered() == 0 && hungUp(err)
			l.end(err)
		}
	}
	l.reader = nil
	l.nudge()
}

// patience is how long the next answer may take. The caller holds mu.
func (l *lane) patience() time.Duration {
	if l.halted || l.bye {
		return lastWordsWait
	}
	t := l.r.s.t.timeouts
	if len(l.sent) == 0 {
		return t.EHLO
	}
	return [...]time.Duration{t.EHLO, t.Mail, t.Rcpt, t.Dot}[l.sent[0].answers]
}

// digest takes the answers that have come. The caller holds mu.
func (l *lane) digest() {
	for !l.over {
		r, ok, err := l.replies.next(l.c.br, nil)
		switch {
		case err != nil:
			l.end(err)
		case !ok:
			return
		case len(l.sent) == 0:
			l.end(&ReplyError{Rule: "unasked"})
		default:
			l.take(r)
		}
	}
}

// take gives one reply to the oldest entry.
func (l *lane) take(r reply) {
	e := l.sent[0]
	stage := [...]string{stageMail, stageMail, stageRcpt, stageDot}[e.answers]
	e.answers++
	l.said = r.code
	l.bye = r.code == 421 || e.answers == 1 && r.class() >= 4
	l.closing = l.closing || l.bye
	if e.answers < 4 {
		switch {
		case r.class() == 2 || e.refused != nil && r.class() >= 4:
		case r.class() >= 4 && e.answers == 1:
			e.refused, e.mixed = resetRefused(r), true
		case r.class() >= 4:
			e.refused = refusal(stage, r)
		default:
			l.end(&ReplyError{Rule: "unexpected"})
		}
		return
	}
	l.sent = l.sent[1:]
	switch {
	case r.class() == 2 && e.refused == nil:
		l.finish(e, r.queueID(), nil)
	case r.class() == 2:
		// It took a message whose envelope it refused: who is to get it, and from whom, is anybody's guess.
		l.finish(e, "", unclear(r))
		l.end(&ReplyError{Rule: "unexpected"})
	case r.class() >= 4 && e.refused != nil:
		l.c.refusals++
		l.closing = l.closing || l.window() <= 0
		l.finish(e, "", e.refused)
	case r.class() >= 4:
		f := refusal(stageDot, r)
		f.next, f.stale = false, false
		l.finish(e, "", f)
	default:
		l.finish(e, "", unclear(r))
		l.end(&ReplyError{Rule: "unexpected"})
	}
}

// unclear is a reply that is no answer to a whole message.
func unclear(r reply) *failure {
	f := uncertain(&ReplyError{Rule: "unexpected"})
	f.Code, f.Remote = r.code, r.remote()
	return f
}

// finish gives e its result. The caller holds mu.
func (l *lane) finish(e *entry, id string, f *failure) {
	e.id, e.f, e.done = id, f, true
	l.count(f)
	l.unload(e.j.size)
	if e.waits {
		e.waits = false
		e.wake <- struct{}{}
	}
}

// end is the end of the connection. The caller holds mu.
func (l *lane) end(cause error) {
	if l.over {
		return
	}
	l.over, l.closing, l.c.broken, l.cause = true, true, true, cause
	_ = l.c.raw.Close()
	if l.writer == nil {
		l.settle()
	}
}

// settle gives the entries of a dead connection their results, once it is known what was written. The caller holds mu.
//
// A far end that said 421 last (RFC 5321 section 3.8), or refused RSET, closed in place of going on: what came behind was not
// looked at.
func (l *lane) settle() {
	cause := bare(context.Background(), l.cause)
	rest := l.sent
	l.sent = nil
	for _, e := range rest {
		unseen := l.hungUp || e.end > l.written
		switch {
		case e.refused != nil && (unseen || !e.mixed):
			l.finish(e, "", e.refused)
		case unseen:
			l.finish(e, "", stale(cause))
		default:
			l.finish(e, "", uncertain(cause))
		}
	}
}

// hungUp says that the far end closed the connection.
func hungUp(err error) bool {
	return err == io.EOF || errors.Is(err, syscall.ECONNRESET)
}
