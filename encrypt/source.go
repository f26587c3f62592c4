package encrypt

import (
	"io"

	"github.com/postseal/postseal/securemail"
)

// text makes a Source of s.
func text(s string) securemail.Source { return securemail.Bytes([]byte(s)) }

// join makes one Source of several, one behind the other.
func join(parts ...securemail.Source) securemail.Source { return joined(parts) }

type joined []securemail.Source

func (j joined) Size() int64 {
	var n int64
	for _, s := range j {
		n += s.Size()
	}
	return n
}

func (j joined) Open() (io.ReadCloser, error) { return &joinedReader{rest: j}, nil }

// joinedReader opens one part at a time.
type joinedReader struct {
	rest []securemail.Source
	cur  io.ReadCloser
}

func (r *joinedReader) Read(p []byte) (int, error) {
	for {
		if r.cur == nil {
			if len(r.rest) == 0 {
				return 0, io.EOF
			}
			cur, err := r.rest[0].Open()
			if err != nil {
				return 0, err
			}
			r.cur, r.rest = cur, r.rest[1:]
		}
		n, err := r.cur.Read(p)
		if err != io.EOF {
			return n, err
		}
		err = r.Close()
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (r *joinedReader) Close() error {
	if r.cur == nil {
		return nil
	}
	c := r.cur
	r.cur = nil
	return c.Close()
}
