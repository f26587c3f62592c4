package smtp

import (
	"context"
	"time"

	"github.com/postseal/postseal/securemail"
)

// follow carries j by DATA: alone on the connection, but for the envelope of the one behind, which goes out with the final
// dot.
func (l *lane) follow(ctx context.Context, j *job, p *plan) (*securemail.Receipt, *failure) {
	e := &entry{j: j, plan: p, wake: make(chan struct{}, 1)}
	if f := l.turn(ctx, e); f != nil {
		f.Wire, f.sent = e.wire, e.ahead
		l.leave(j, false)
		return nil, f
	}
	stop := l.c.watch(ctx)
	id, f := l.converse(ctx, e)
	alive := stop()
	l.r.mu.Lock()
	if l.count(f); f != nil {
		l.said = f.Code
	}
	if !alive || l.c.broken {
		l.over, l.c.broken = true, true
	}
	l.pass()
	l.r.mu.Unlock()
	l.leave(j, false)
	if f != nil {
		f.Wire = e.wire
		return nil, f
	}
	return l.r.s.t.receipt(j, l.c, e.wire, id), nil
}

// turn waits until the connection is e's.
func (l *lane) turn(ctx context.Context, e *entry) *failure {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.holder == nil && !l.over {
		l.holder = e
		return nil
	}
	l.line = append(l.line, e)
	late := time.After(queued)
	for l.holder != e {
		switch {
		case l.over:
			return stale(errGone)
		case ctx.Err() != nil:
			return l.withdraw(e, ctx.Err())
		}
		l.r.mu.Unlock()
		over := false
		select {
		case <-e.wake:
		case <-late:
			over = true
		case <-ctx.Done():
		}
		l.r.mu.Lock()
		if over && l.holder != e && !l.over && !e.ahead {
			return l.withdraw(e, errBusy)
		}
	}
	return nil
}

// withdraw takes e out of the line. Where its envelope is out the connection ends with the message before it, since DATA
// can't be taken back. The caller holds mu.
func (l *lane) withdraw(e *entry, cause error) *failure {
	e.gone = true
	for i, w := range l.line {
		if w == e && !e.ahead {
			l.line = append(l.line[:i], l.line[i+1:]...)
			break
		}
	}
	return fail(stageMail, cause)
}

// pass gives the connection to the next in line, or sends all away if it is lost. The caller holds mu.
func (l *lane) pass() {
	l.holder = nil
	if len(l.line) > 0 && l.line[0].gone {
		l.over, l.c.broken = true, true // its envelope is out
	}
	if l.over {
		for _, e := range l.line {
			e.signal()
		}
		l.line = nil
		return
	}
	if len(l.line) > 0 {
		l.holder, l.line = l.line[0], l.line[1:]
		l.holder.signal()
	}
}

func (e *entry) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// converse is one transaction.
func (l *lane) converse(ctx context.Context, e *entry) (string, *failure) {
	t, c := l.r.s.t, l.c
	f := l.envelope(ctx, e)
	if f != nil {
		return "", f
	}
	c.broken = true
	if f := t.body(ctx, e.j, c); f != nil {
		f.sent = true
		return "", f
	}
	if err := e.j.Intend(ctx); err != nil {
		return "", fail(stageData, err)
	}
	if err := c.arm(ctx, t.timeouts.Dot); err != nil {
		return "", fail(stageData, bare(ctx, err))
	}
	_, _ = c.bw.WriteString(".\r\n")
	l.invite()
	id, f := t.answer(ctx, c)
	if f != nil {
		f.sent = true
	}
	return id, f
}

// envelope brings e to 354.
func (l *lane) envelope(ctx context.Context, e *entry) *failure {
	t, c := l.r.s.t, l.c
	if e.ahead {
		c.clean = false // it was set by the answer to the message before
		f := t.replies(ctx, c, t.steps[:])
		if f != nil {
			f.sent = true
		}
		return f
	}
	l.r.mu.Lock()
	w, f := l.admit(e.j, e.plan)
	l.r.mu.Unlock()
	if e.wire = w; f != nil {
		c.broken = c.broken || f.stale
		return f
	}
	steps := t.envelope(c, false)
	c.count(e.j)
	if f = t.ready(ctx, e.j, c, steps); f != nil {
		f.sent = true
	}
	return f
}

// invite puts the envelope of the next in line behind the final dot.
func (l *lane) invite() {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if len(l.line) == 0 {
		return
	}
	e := l.line[0]
	w, f := l.admit(e.j, e.plan)
	if f != nil {
		return // it will hear so when it is its turn
	}
	e.wire, e.ahead = w, true
	l.c.count(e.j)
	for _, s := range l.r.s.t.steps {
		s.write(l.c, e.j)
	}
}
