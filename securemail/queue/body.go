package queue

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
)

// body is one that the parcels of a submission share.
type body struct {
	id     string
	size   int64
	sealed []byte // nil: in the blob store
}

// blobKey spreads blobs over folders.
func blobKey(id string) string { return id[:2] + "/" + id[2:] }

// storeBody seals src, into memory where it is small or no blob store is there, and else into the blob store, durably.
func (q *Queue) storeBody(ctx context.Context, k *dataKey, src securemail.Source) (*body, error) {
	b := &body{id: newID(q.o.Now()), size: src.Size()} // rows in order of time lie side by side
	r, err := src.Open()
	if err != nil {
		return nil, failed("read body", err)
	}
	defer r.Close()
	if b.size > inlineMax && q.o.Blobs != nil {
		b.id = newRandom() // spreads over the folders
		return b, q.storeBlob(ctx, k, b, r)
	}
	plain, err := io.ReadAll(io.LimitReader(r, b.size+1))
	if err == nil && int64(len(plain)) != b.size {
		err = errSize
	}
	if err != nil {
		return nil, failed("read body", err)
	}
	b.sealed, err = seal.Seal(k.key, plain, bind("body", b.id))
	return b, err
}

func (q *Queue) storeBlob(ctx context.Context, k *dataKey, b *body, r io.Reader) error {
	p := &sealing{src: r, left: b.size}
	var err error
	if p.w, err = seal.NewWriter(&p.buf, k.key, bind("body", b.id)); err != nil {
		return err
	}
	return failed("store body", q.o.Blobs.Put(ctx, blobKey(b.id), p))
}

// sealing gives the sealed form of src as it is read.
type sealing struct {
	src  io.Reader
	w    io.WriteCloser // seals into buf
	buf  bytes.Buffer
	left int64
	done bool
}

var errSize = errors.New("queue: body changed its size")

func (s *sealing) Read(p []byte) (int, error) {
	for s.buf.Len() == 0 && !s.done {
		n, err := io.CopyN(s.w, s.src, seal.ChunkSize)
		s.left -= n
		switch {
		case err == io.EOF && s.left == 0:
			s.done, err = true, s.w.Close()
		case err == io.EOF || s.left < 0:
			err = errSize
		}
		if err != nil {
			return 0, err
		}
	}
	return s.buf.Read(p)
}

// deleteBlob removes the blob of a body that no row names any more. A failure leaves it to the sweep.
func (q *Queue) deleteBlob(ctx context.Context, id string) {
	q.bodies.drop(id)
	if q.o.Blobs == nil {
		return
	}
	if err := q.o.Blobs.Delete(context.WithoutCancel(ctx), blobKey(id)); err != nil {
		q.log.WarnContext(ctx, "queue: a sealed body that nobody needs could not be deleted yet", "body", id)
	}
}

// stored is a body at rest as a Source: each Open decrypts anew.
type stored struct {
	body
	key   []byte
	blobs securemail.BlobStore
	// base is a checked message with this body, where one is in memory; else found says that there is a row.
	base  *securemail.Message
	found bool
	err   error // why its row can't be read
}

func (s *stored) Size() int64 { return s.size }

func (s *stored) Open() (io.ReadCloser, error) {
	raw := io.NopCloser(bytes.NewReader(s.sealed))
	if s.sealed == nil {
		if s.blobs == nil {
			return nil, fmt.Errorf("queue: body %s lies in a blob store and none is given", s.id)
		}
		var err error
		if raw, err = s.blobs.Open(context.Background(), blobKey(s.id)); err != nil {
			return nil, s.fault(err)
		}
	}
	r, err := seal.NewReader(raw, s.key, bind("body", s.id))
	if err != nil {
		_ = raw.Close()
		return nil, s.fault(err)
	}
	return &opened{r, raw, s}, nil
}

func (s *stored) fault(err error) error {
	if isDamage(err) {
		return &CorruptError{Part: "body", ID: s.id, Err: err}
	}
	return failed("read body", err)
}

type opened struct {
	io.Reader
	io.Closer
	s *stored
}

func (o *opened) Read(p []byte) (int, error) {
	n, err := o.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = o.s.fault(err)
	}
	return n, err
}

// headed is a whole message of a header in memory and a body at rest.
type headed struct {
	head []byte
	*stored
}

func (h *headed) Size() int64 { return int64(len(h.head)) + h.size }

func (h *headed) Open() (io.ReadCloser, error) {
	b, err := h.stored.Open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(h.head), b), b}, nil
}

// message puts a header before a stored body. The body is read and checked once, by the first parcel that needs it.
func (q *Queue) message(s *stored, head []byte) (*securemail.Message, error) {
	if s.base != nil {
		return s.base.WithHead(head)
	}
	if s.err != nil {
		return nil, &CorruptError{Part: "body", ID: s.id, Err: s.err}
	}
	if !s.found {
		return nil, &CorruptError{Part: "body", ID: s.id, Err: sql.ErrNoRows}
	}
	m, err := securemail.NewMessage(&headed{head, s})
	if err != nil {
		return nil, err
	}
	s.base = m
	q.bodies.put(s.id, m)
	return m, nil
}
