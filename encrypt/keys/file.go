package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

// IndexName is the index in a folder of keys.
const IndexName = "keys.json"

// Limits of a folder of keys, in octets.
const (
	maxIndex   = 16 << 20
	maxKeyFile = 1 << 20
)

// AnyTenant in an index entry means each tenant.
const AnyTenant = "*"

// Parser reads one key, such as pgp.ParseKey. It must not keep b, must bound its work, and must not name content in its error.
type Parser func(b []byte) (securemail.Key, error)

// FileSource is a folder of keys. It reads the index and the key at each look-up, so that a change counts at once; who
// changes them should write a new file and rename it, since a half-written one is "not known". It is safe for concurrent use.
type FileSource struct {
	dir, index string
	parsers    map[securemail.Method]Parser
}

var _ securemail.KeySource = (*FileSource)(nil)

// entry binds one address to one key file.
type entry struct {
	Tenant      string            `json:"tenant"`
	Address     string            `json:"address"`
	Method      securemail.Method `json:"method"`
	File        string            `json:"file"`
	Fingerprint string            `json:"fingerprint"`

	address securemail.Address
}

// File opens a folder of keys with its index keys.json, or the index at path with its folder. The index is a list:
//
//	[{"address": "anna@example.org", "method": "pgp", "file": "7f3a.asc",
//	  "tenant": "clinic", "fingerprint": "0123..."}]
//
// "file" lies in the folder or below and should tell nothing about the person; the index is the one place that knows, and
// should have mode 0600. "tenant" is who may use the key: absent, the single tenant ""; "*", everybody. "fingerprint" may be
// absent; where it is there, another key in the file is a fault. One address may have several keys. Limits: 16 MiB of index,
// 1 MiB a key.
//
// Parsers, one a method, say which methods the source has. File reads everything once and names every fault, by the number
// of its entry: a fault that comes later makes the look-ups of that address "not known".
func File(path string, parsers map[securemail.Method]Parser) (*FileSource, error) {
	s := &FileSource{dir: path, index: IndexName, parsers: map[securemail.Method]Parser{}}
	for m, p := range parsers {
		if p == nil {
			return nil, errors.New("keys: file: nil parser")
		}
		s.parsers[m] = p
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("keys: file: %w", bare(err))
	}
	if !fi.IsDir() {
		s.dir, s.index = filepath.Dir(path), filepath.Base(path)
	}
	root, entries, err := s.load()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var faults []error
	for i, e := range entries {
		if s.parsers[e.Method] == nil {
			continue
		}
		if _, err := s.read(root, e); err != nil && !errors.Is(err, encrypt.ErrUnavailable) {
			faults = append(faults, fmt.Errorf("keys: index entry %d: %w", i+1, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return s, nil
}

// Keys implements [securemail.KeySource]. Keys have the Origin "file".
func (s *FileSource) Keys(ctx context.Context, l securemail.Lookup) ([]securemail.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.parsers[l.Method] == nil {
		return nil, fmt.Errorf("keys: file: not a method of this source: %w", securemail.ErrNoKey)
	}
	root, entries, err := s.load()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var found []securemail.Key
	for i, e := range entries {
		if e.Method != l.Method || !same(e.address, l.Address) || e.Tenant != l.Tenant && e.Tenant != AnyTenant {
			continue
		}
		k, err := s.read(root, e)
		if err != nil {
			return nil, fmt.Errorf("keys: index entry %d: %w", i+1, err)
		}
		found = append(found, k)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("keys: file: %w", securemail.ErrNoKey)
	}
	return found, nil
}

// load reads the index, inside a root that no entry can leave.
func (s *FileSource) load() (*os.Root, []entry, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("keys: folder: %w", bare(err))
	}
	b, err := readFile(root, s.index, maxIndex)
	if err != nil {
		root.Close()
		return nil, nil, fmt.Errorf("keys: index: %w", err)
	}
	entries, err := parseIndex(b)
	if err != nil {
		root.Close()
		return nil, nil, err
	}
	return root, entries, nil
}

// parseIndex reads the index strictly: an unknown word in it is most likely a wrong one.
func parseIndex(b []byte) ([]entry, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var entries []entry
	if err := d.Decode(&entries); err != nil {
		return nil, errors.New("keys: index: not a JSON list of entries") // the decoder's text may quote an address
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("keys: index: more than one JSON value")
	}
	var faults []error
	for i := range entries {
		e := &entries[i]
		a, err := securemail.ParseAddress(e.Address)
		if err != nil || e.Method == "" || e.File == "" || !filepath.IsLocal(e.File) {
			faults = append(faults, fmt.Errorf("keys: index entry %d: address, method or file missing or malformed", i+1))
			continue
		}
		e.address = a
	}
	return entries, errors.Join(faults...)
}

// read reads one key. Its error is never ErrNoKey, but for encrypt.ErrUnavailable: a pinned key that can't be read is there.
func (s *FileSource) read(root *os.Root, e entry) (securemail.Key, error) {
	b, err := readFile(root, e.File, maxKeyFile)
	if err != nil {
		return securemail.Key{}, err
	}
	k, err := s.parsers[e.Method](b)
	if errors.Is(err, encrypt.ErrUnavailable) {
		return securemail.Key{}, err
	}
	if err != nil {
		return securemail.Key{}, unknown{err}
	}
	if k.Method != e.Method || e.Fingerprint != "" && !strings.EqualFold(e.Fingerprint, k.Fingerprint) {
		return securemail.Key{}, errors.New("another key than the index says")
	}
	k.Origin, k.Trust = "file", securemail.TrustPinned
	return k, nil
}

func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(b)) > limit {
		return nil, errors.New("file too large")
	}
	return b, nil
}

// unknown keeps the text of a cause and hides that it is ErrNoKey: that a pinned key is broken does not mean that there is
// none.
type unknown struct{ cause error }

func (u unknown) Error() string { return u.cause.Error() }

// bare leaves out the path, which may name a person.
func bare(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// same compares addresses without regard to case.
func same(a, b securemail.Address) bool { return strings.EqualFold(a.Reveal(), b.Reveal()) }
