package smtp

import "context"

// find says which way messages can follow each other on c, from memory or by asking.
func (s *streams) find(ctx context.Context, c *conn) (way, *failure) {
	p := place{c.key.addr, c.host.name, c.tls != nil}
	switch {
	// Which domains a connection may carry yet is known only to one that is used by one message at a time.
	case !c.ext.pipelining, c.ext.domainMax > 0:
		return waySerial, nil
	case !c.ext.chunking || s.t.chunking == ChunkingNever:
		return wayData, nil
	}
	if w := s.way(p); w != wayUnknown {
		return w, nil
	}
	stop := c.attend(ctx)
	w, err := s.t.discards(ctx, c)
	alive := stop()
	if err != nil || c.broken || !alive {
		// A peer that does not survive the question gets no second one for a day.
		if alive && ctx.Err() == nil {
			s.remember(p, wayData)
		}
		c.broken = true
		c.quit()
		f := ioFailure(ctx, stageEHLO, err)
		if err == nil {
			f = hostFail(stageEHLO, &ReplyError{Rule: "unasked"})
			f.stale = true
		}
		return waySerial, f
	}
	s.remember(p, w)
	return w, nil
}

// probeChunk is a chunk that does no harm where it is taken for a command.
const probeChunk = "NOOP\r\n"

// discards asks whether the peer discards a chunk that it refuses: a chunk without a recipient, MAIL again, then EHLO. One that
// takes the chunk for a command gives one answer more, and EHLO's, the only one of several lines, comes late. One that refuses
// the second MAIL keeps the transaction, as Exim does. EHLO also ends the transaction (RFC 5321 section 4.1.4).
func (t *Transport) discards(ctx context.Context, c *conn) (way, error) {
	_, _ = c.bw.WriteString("RSET\r\nMAIL FROM:<>\r\n")
	writeLast(c, []byte(probeChunk))
	name := c.key.me.helo
	if name == "" {
		name = literal(c.net.LocalAddr())
	}
	c.uses += 2 // RFC 9422 section 4.1: each MAIL counts
	_, _ = c.bw.WriteString("MAIL FROM:<>\r\nEHLO " + name + "\r\n")
	if err := c.flush(ctx, t.timeouts.EHLO); err != nil {
		return waySerial, err
	}
	var codes [5]int
	lines := 0
	for i := range codes {
		lines = 0
		r, err := c.read(ctx, t.timeouts.EHLO, func(n int, _ []byte) { lines = n + 1 })
		if err != nil {
			return waySerial, err
		}
		codes[i] = r.code
	}
	if lines > 1 && codes[0]/100 == 2 && codes[2]/100 >= 4 && codes[4] == 250 {
		if codes[3]/100 != 2 {
			return wayNarrow, nil
		}
		return wayChunks, nil
	}
	if lines == 1 {
		// The chunk's own answer; EHLO's is to come.
		if _, err := c.read(ctx, t.timeouts.EHLO, nil); err != nil {
			return waySerial, err
		}
	}
	return wayData, nil
}
