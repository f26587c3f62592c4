package backup

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/postseal/postseal/internal/seal"
)

// A backup is
//
//	this line || length of the header (4) || header, JSON || sealed records
//
// The records are one sealed text of internal/seal, bound to everything before it. A record is kind (1), length (uvarint),
// and payload. They come in this order, and nothing may follow the last:
//
//	M  manifest, JSON
//	T  table, JSON; then R for each row: a value for each column
//	O  object: class (1) and name; then D, any number, its octets; then C with 0, or 1 where it was damaged when it was read
//	G  an object that was gone: class (1) and name
//	E  the Report, JSON
const (
	magic     = "postseal backup v1\n"
	maxHeader = 1 << 17
	maxRecord = 1 << 28
	dataSize  = 64 << 10
)

const (
	recManifest = 'M'
	recTable    = 'T'
	recRow      = 'R'
	recObject   = 'O'
	recData     = 'D'
	recClose    = 'C'
	recGone     = 'G'
	recEnd      = 'E'
)

// Classes of objects.
const (
	classBlob = 'b'
	classLog  = 'l'
	classRing = 'k'
	classFile = 'f'
)

// Header is what stands before a backup in clear; the sealed part is bound to it.
type Header struct {
	// ID is random. Taken is when the snapshot began.
	ID    string    `json:"id"`
	Taken time.Time `json:"taken"`
	// Checkpoint is the audit log's, a signed note; empty where no log is in the backup.
	Checkpoint string `json:"checkpoint,omitempty"`
	// Key is the backup's key, wrapped by the ring.
	Key []byte `json:"key"`
}

// manifest says what made the tables.
type manifest struct {
	Dialect  string     `json:"dialect"`
	Packages []packaged `json:"packages"`
}

type packaged struct {
	Package string   `json:"package"`
	Steps   []string `json:"steps"`
}

// table is what stands before its rows.
type table struct {
	Name    string   `json:"name"`
	Columns []column `json:"columns"`
}

type column struct {
	Name string `json:"name"`
	Kind kind   `json:"kind"`
}

// kind is what a column holds.
type kind string

const (
	kindInt   kind = "int"
	kindText  kind = "text"
	kindBytes kind = "bytes"
	kindFloat kind = "float"
)

func formatHeader(h *Header) ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("backup: header: %w", err)
	}
	if len(b) > maxHeader {
		return nil, errors.New("backup: header too long")
	}
	out := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(b)))
	return append(out, b...), nil
}

// readHeader returns the header and its octets, to which the rest is bound.
func readHeader(r io.Reader) (*Header, []byte, error) {
	head := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, nil, cutShort(err)
	}
	n := binary.BigEndian.Uint32(head[len(magic):])
	if !bytes.HasPrefix(head, []byte(magic)) {
		if bytes.HasPrefix(head, []byte(magic[:len(magic)-2])) {
			return nil, nil, ErrNewer
		}
		return nil, nil, errNoBackup
	}
	if n > maxHeader {
		return nil, nil, errNoBackup
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, nil, cutShort(err)
	}
	var h Header
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, nil, errNoBackup
	}
	return &h, append(head, b...), nil
}

// cutShort makes ErrCorrupt of an end that came too soon, and of what the seal refuses.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, seal.ErrCorrupt) {
		return fmt.Errorf("%w (cut short, changed, or sealed under another key)", ErrCorrupt)
	}
	return fmt.Errorf("backup: read: %w", err)
}

// recorder writes records.
type recorder struct {
	w *bufio.Writer
	n int64
}

func newRecorder(w io.Writer) *recorder { return &recorder{w: bufio.NewWriterSize(w, seal.ChunkSize)} }

func (r *recorder) put(kind byte, payload []byte) error {
	head := binary.AppendUvarint([]byte{kind}, uint64(len(payload)))
	_, err := r.w.Write(head)
	if err == nil {
		_, err = r.w.Write(payload)
	}
	if err != nil {
		return fmt.Errorf("backup: write: %w", err)
	}
	r.n += int64(len(head) + len(payload))
	return nil
}

func (r *recorder) putJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("backup: encode: %w", err)
	}
	return r.put(kind, b)
}

// Write makes D records of p, so that an object can be copied into the recorder.
func (r *recorder) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, dataSize)
		if err := r.put(recData, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// object writes a whole object from what copy writes to it.
func (r *recorder) object(class byte, name string, fill func(w io.Writer) (damaged bool, err error)) error {
	if err := r.put(recObject, append([]byte{class}, name...)); err != nil {
		return err
	}
	damaged, err := fill(r)
	if err != nil {
		return err
	}
	end := []byte{0}
	if damaged {
		end[0] = 1
	}
	return r.put(recClose, end)
}

// small writes an object that is in memory.
func (r *recorder) small(class byte, name string, b []byte) error {
	return r.object(class, name, func(w io.Writer) (bool, error) {
		_, err := w.Write(b)
		return false, err
	})
}

// record is one that was read; its payload is good until the next.
type record struct {
	kind    byte
	payload []byte
}

// recordReader reads records.
type recordReader struct {
	r   *bufio.Reader
	buf bytes.Buffer
}

func newRecordReader(r io.Reader) *recordReader {
	return &recordReader{r: bufio.NewReaderSize(r, seal.ChunkSize)}
}

func (r *recordReader) next() (record, error) {
	k, err := r.r.ReadByte()
	if err != nil {
		return record{}, cutShort(err)
	}
	n, err := r.length()
	if err != nil {
		return record{}, err
	}
	// The buffer grows with what is really there.
	r.buf.Reset()
	if _, err := io.CopyN(&r.buf, r.r, int64(n)); err != nil {
		return record{}, cutShort(err)
	}
	return record{k, r.buf.Bytes()}, nil
}

func (r *recordReader) length() (int64, error) {
	var n uint64
	for shift := 0; shift < 35; shift += 7 {
		b, err := r.r.ReadByte()
		if err != nil {
			return 0, cutShort(err)
		}
		if n |= uint64(b&0x7f) << shift; b < 0x80 && n <= maxRecord {
			return int64(n), nil
		}
	}
	return 0, fmt.Errorf("%w: length of a record", ErrCorrupt)
}

// atEnd is nil where nothing follows.
func (r *recordReader) atEnd() error {
	switch _, err := r.r.ReadByte(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return cutShort(err)
	}
	return fmt.Errorf("%w: something follows its end", ErrCorrupt)
}

// Tags of values.
const (
	tagNull  = 'n'
	tagInt   = 'i'
	tagText  = 't'
	tagBytes = 'b'
	tagFloat = 'f'
)

// appendValue adds what a database gave for a column of kind k.
func appendValue(dst []byte, k kind, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, tagNull), nil
	case int64:
		return binary.AppendVarint(append(dst, tagInt), v), nil
	case bool:
		n := int64(0)
		if v {
			n = 1
		}
		return binary.AppendVarint(append(dst, tagInt), n), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(dst, tagFloat), math.Float64bits(v)), nil
	case string:
		return appendOctets(dst, k, v), nil
	case []byte:
		return appendOctets(dst, k, v), nil
	}
	return nil, fmt.Errorf("backup: a column holds %T", v)
}

func appendOctets[T string | []byte](dst []byte, k kind, v T) []byte {
	tag := byte(tagText)
	if k == kindBytes {
		tag = tagBytes
	}
	dst = binary.AppendUvarint(append(dst, tag), uint64(len(v)))
	return append(dst, v...)
}

var errRow = fmt.Errorf("%w: row", ErrCorrupt)

// parseRow reads n values; those that are octets point into b.
func parseRow(b []byte, n int) ([]any, error) {
	out := make([]any, 0, n)
	for range n {
		v, rest, err := parseValue(b)
		if err != nil {
			return nil, err
		}
		out, b = append(out, v), rest
	}
	if len(b) != 0 {
		return nil, errRow
	}
	return out, nil
}

func parseValue(b []byte) (v any, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, errRow
	}
	tag, b := b[0], b[1:]
	switch tag {
	case tagNull:
		return nil, b, nil
	case tagInt:
		v, n := binary.Varint(b)
		if n <= 0 {
			return nil, nil, errRow
		}
		return v, b[n:], nil
	case tagFloat:
		if len(b) < 8 {
			return nil, nil, errRow
		}
		return math.Float64frombits(binary.BigEndian.Uint64(b)), b[8:], nil
	case tagText, tagBytes:
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, nil, errRow
		}
		octets := b[n : n+int(size)]
		if tag == tagText {
			return string(octets), b[n+int(size):], nil
		}
		return octets, b[n+int(size):], nil
	}
	return nil, nil, errRow
}
