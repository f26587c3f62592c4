package smtp

import (
	"bytes"
	"context"
	"errors"
	"strconv"
)

// Chunking says when the message goes by BDAT (RFC 3030), without dot-stuffing, to a peer that offers CHUNKING.
type Chunking uint8

const (
	// ChunkingStreams uses BDAT for streamed messages only, where the peer has proved that it discards a chunk that it
	// refuses. Others go by DATA: a peer that takes a refused chunk for commands can't be led by a message's text then.
	ChunkingStreams Chunking = iota
	// ChunkingOffered uses BDAT wherever CHUNKING is offered.
	ChunkingOffered
	// ChunkingNever uses DATA.
	ChunkingNever
)

// A message that is not whole in memory goes in chunks of chunkSize, of which chunksAhead may be unanswered. What is sent
// last is at most a block, so that the whole rest is there and was taken before the point of no return.
const (
	chunkSize   = 256 << 10
	chunksAhead = 4
)

// chunked says whether the message of an ordinary transaction goes by BDAT.
func (t *Transport) chunked(c *conn) bool { return t.chunking == ChunkingOffered && c.ext.chunking }

// chunks sends the message by BDAT, once the recipient is accepted.
func (t *Transport) chunks(ctx context.Context, j *job, c *conn) (string, *failure) {
	k := &chunker{t: t, ctx: ctx, c: c, head: j.size - min(j.size, blockSize), last: j.first}
	if !j.whole {
		if f := k.run(j); f != nil {
			c.broken = true
			return "", f
		}
	}
	if c.br.Buffered() > 0 {
		c.broken = true
		return "", t.lastWords(ctx, c, nil)
	}
	if err := j.Intend(ctx); err != nil {
		return "", fail(stageData, err)
	}
	if err := c.arm(ctx, t.timeouts.Dot); err != nil {
		return "", fail(stageData, bare(ctx, err))
	}
	// From here on nothing but a clear answer leaves the session usable. A peer that refused the chunk may have taken it for
	// commands.
	c.broken = true
	writeLast(c, k.last)
	id, f := t.answer(ctx, c)
	c.broken = c.broken || f != nil
	return id, f
}

// writeLast buffers BDAT LAST with the rest of the message, whose last line gets an end.
func writeLast(c *conn, last []byte) {
	size, end := len(last), ""
	if !bytes.HasSuffix(last, []byte("\r\n")) {
		size, end = size+2, "\r\n"
	}
	writeChunk(c, int64(size), " LAST\r\n")
	_, _ = c.bw.Write(last)
	_, _ = c.bw.WriteString(end)
}

func writeChunk(c *conn, size int64, end string) {
	_, _ = c.bw.WriteString("BDAT ")
	_, _ = c.bw.Write(strconv.AppendInt(c.bw.AvailableBuffer(), size, 10))
	_, _ = c.bw.WriteString(end)
}

// chunker cuts a message into chunks.
type chunker struct {
	t   *Transport
	ctx context.Context
	c   *conn
	// head are the octets to send before the last chunk, room those of them that the open chunk still takes.
	head, room int64
	// out counts the unanswered chunks.
	out  int
	last []byte
}

// run sends all but the last chunk, and returns when it was taken.
func (k *chunker) run(j *job) *failure {
	k.last = (*j.buf)[:0]
	var refused *failure
	err := j.blocksOf(func(b []byte) error {
		for len(b) > 0 {
			n, err := k.write(b, &refused)
			if err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	})
	for err == nil && k.out > 0 {
		err = k.reply(&refused)
	}
	if q, ok := errors.AsType[*quiet](err); ok {
		return fail(stageData, q)
	}
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return k.t.lastWords(k.ctx, k.c, err)
	}
	return nil
}

// errChunk ends the reading of a message whose chunk was refused.
var errChunk = errors.New("smtp: chunk refused")

// write takes some of b.
func (k *chunker) write(b []byte, refused **failure) (int, error) {
	if k.head == 0 {
		k.last = append(k.last, b...)
		return len(b), nil
	}
	ahead := chunksAhead
	if !k.c.ext.pipelining {
		ahead = 1
	}
	if k.room == 0 {
		if k.out == ahead {
			if err := k.reply(refused); err != nil {
				return 0, err
			}
		}
		k.room = min(k.head, chunkSize)
		writeChunk(k.c, k.room, "\r\n")
	}
	if err := k.c.arm(k.ctx, k.t.timeouts.DataBlock); err != nil {
		return 0, err
	}
	n := int(min(int64(len(b)), k.room))
	if _, err := k.c.bw.Write(b[:n]); err != nil {
		return 0, err
	}
	if k.room -= int64(n); k.room == 0 {
		k.out++
	}
	k.head -= int64(n)
	return n, nil
}

// reply reads the answer to the oldest chunk.
func (k *chunker) reply(refused **failure) error {
	if err := k.c.flush(k.ctx, k.t.timeouts.DataBlock); err != nil {
		return err
	}
	r, err := k.c.read(k.ctx, k.t.timeouts.DataBlock, nil)
	if err != nil {
		return err
	}
	k.out--
	if r.class() == 2 {
		return nil
	}
	f := refusal(stageData, r)
	f.stale = false
	*refused = f
	return errChunk
}
