package smtp

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync"

	"github.com/postseal/postseal/securemail"
)

// blockSize is how much of a message is in memory at once.
const blockSize = 32 << 10

// blocks are buffers of blockSize.
var blocks = sync.Pool{New: func() any { b := make([]byte, blockSize); return &b }}

// job is one shipment and what must be known of it before MAIL.
type job struct {
	*securemail.Shipment
	floor    securemail.Channel
	from, to string
	size     int64
	policies *policies
	me       Identity
	dsn      DSN
	// first are the message's first octets; whole says that there are no more.
	buf   *[]byte
	first []byte
	whole bool
	// utf8: an address or the header holds non-ASCII octets (RFC 6531 section 3.2). eightBit: the first octets do.
	utf8, eightBit bool
	// sent: the message was announced, or begun, on a connection that was lost since.
	sent bool
}

// newJob looks at the shipment. The caller must release the job.
func newJob(s *securemail.Shipment) (*job, *failure) {
	if s == nil || s.Parcel == nil || s.Message == nil || s.Recipient.Address == (securemail.Address{}) {
		f := fail(stageMail, errNoMessage)
		f.Fate = securemail.FatePermanent
		return nil, f
	}
	j := &job{
		Shipment: s, floor: s.Channel, from: s.ReturnPath.Reveal(), to: s.Recipient.Address.Reveal(), size: s.Message.Size(),
	}
	j.buf = blocks.Get().(*[]byte)
	if err := j.peek(); err != nil {
		j.release()
		return nil, fail(stageMail, err)
	}
	return j, nil
}

func (j *job) release() { blocks.Put(j.buf) }

// peek reads the first block. A small message is then never opened again.
func (j *job) peek() error {
	r, err := j.Message.Open()
	if err != nil {
		return sourceError(err)
	}
	defer r.Close()
	n, err := io.ReadFull(r, *j.buf)
	switch err {
	case io.EOF, io.ErrUnexpectedEOF:
		j.whole = true
	case nil:
	default:
		return sourceError(err)
	}
	j.first = (*j.buf)[:n]
	j.eightBit = !ascii(j.first)
	j.utf8 = !ascii([]byte(j.from)) || !ascii([]byte(j.to)) || (j.eightBit || !j.whole) && !ascii(j.head())
	return nil
}

// head is the message's header.
func (j *job) head() []byte {
	if i := bytes.Index(j.first, []byte("\r\n\r\n")); i >= 0 {
		return j.first[:i]
	}
	if j.whole {
		return j.first
	}
	return j.Message.Head()
}

// sourceError keeps the cause for errors.Is and its text out: a source's text may name a file or a person.
func sourceError(err error) error { return &quiet{errSource, err} }

// quiet shows one error's text and unwraps to both.
type quiet struct{ shown, cause error }

func (q *quiet) Error() string   { return q.shown.Error() }
func (q *quiet) Unwrap() []error { return []error{q.shown, q.cause} }

// has8Bit reads the message to the end if the first block does not tell.
func (j *job) has8Bit() (bool, error) {
	if j.eightBit || j.whole {
		return j.eightBit, nil
	}
	r, err := j.Message.Open()
	if err != nil {
		return false, sourceError(err)
	}
	defer r.Close()
	block := blocks.Get().(*[]byte)
	defer blocks.Put(block)
	for {
		n, err := r.Read(*block)
		if !ascii((*block)[:n]) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, sourceError(err)
		}
	}
}

func ascii(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		w := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) | binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if w&high != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// blocksOf calls f with the message's octets, block by block. A Message itself fails where its source gives fewer or more
// octets than it said.
func (j *job) blocksOf(f func([]byte) error) error {
	if j.whole {
		return f(j.first)
	}
	r, err := j.Message.Open()
	if err != nil {
		return sourceError(err)
	}
	defer r.Close()
	block := blocks.Get().(*[]byte)
	defer blocks.Put(block)
	for {
		n, err := r.Read(*block)
		if werr := f((*block)[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return sourceError(err)
		}
	}
}
