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
	"runtime"
	"strings"
	"unicode/utf8"

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

// anyTenant in an index entry means each tenant.
const anyTenant = "*"

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
	Tenant, Address, File, Fingerprint string
	Method                             securemail.Method

	address securemail.Address
}

// File opens a folder of keys with its index keys.json, or the index at path with its folder. The index is a list:
//
//	[{"address": "anna@example.org", "method": "pgp", "file": "7f3a.asc",
//	  "tenant": "clinic", "fingerprint": "0123..."}]
//
// "file" lies in the folder or below and should tell nothing about the person; the index is the one place that knows, and
// should have mode 0600; a folder, index or key that everybody may write is a fault, outside Windows. "tenant" is who may use the key: absent, the single tenant ""; "*", everybody. "fingerprint" may be
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
		if e.Method != l.Method || !same(e.address, l.Address) || e.Tenant != l.Tenant && e.Tenant != anyTenant {
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
	b, err := readIndex(root, s.index)
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

func readIndex(root *os.Root, name string) ([]byte, error) {
	folder, err := root.Stat(".")
	if err != nil {
		return nil, bare(err)
	}
	if open(folder) && folder.Mode()&os.ModeSticky == 0 {
		return nil, errOpen
	}
	return readFile(root, name, maxIndex)
}

// parseIndex reads the index strictly: an unknown word in it is most likely a wrong one, and of two values for one word
// nobody can say which was meant. encoding/json would take the last, and any case.
func parseIndex(b []byte) ([]entry, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("keys: index: not UTF-8") // the decoder would put U+FFFD in its place
	}
	// the decoder's own texts are not passed on, since they may quote an address
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.New("keys: index: not a JSON list of entries")
	}
	var entries []entry
	var faults []error
	for d.More() {
		e, err := parseEntry(d)
		if err != nil {
			return nil, fmt.Errorf("keys: index entry %d: %w", len(entries)+1, err)
		}
		if err := e.check(); err != nil {
			faults = append(faults, fmt.Errorf("keys: index entry %d: %w", len(entries)+1, err))
		}
		entries = append(entries, e)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("keys: index: not a JSON list of entries")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("keys: index: more than one JSON value")
	}
	return entries, errors.Join(faults...)
}

// parseEntry reads one flat object of texts.
func parseEntry(d *json.Decoder) (entry, error) {
	var e entry
	places := map[string]*string{
		"tenant": &e.Tenant, "address": &e.Address, "method": (*string)(&e.Method), "file": &e.File, "fingerprint": &e.Fingerprint,
	}
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return entry{}, errors.New("not a JSON object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return entry{}, errors.New("malformed JSON")
		}
		word, _ := t.(string) // in an object always
		place := places[word]
		if place == nil {
			return entry{}, errors.New("an unknown word, or one twice")
		}
		delete(places, word)
		v, err := d.Token()
		text, ok := v.(string)
		if err != nil || !ok {
			return entry{}, errors.New("a value that is no text")
		}
		*place = text
	}
	if _, err := d.Token(); err != nil {
		return entry{}, errors.New("malformed JSON")
	}
	return e, nil
}

// check fills in the address.
func (e *entry) check() error {
	a, err := securemail.ParseAddress(e.Address)
	if err != nil || e.Method == "" || e.File == "" || !filepath.IsLocal(e.File) {
		return errors.New("address, method or file missing or malformed")
	}
	e.address = a
	return nil
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
	fi, err := root.Stat(name)
	if err != nil {
		return nil, bare(err)
	}
	switch {
	case !fi.Mode().IsRegular():
		return nil, errors.New("not a regular file") // a pipe would never end
	case open(fi):
		return nil, errOpen
	}
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

// errOpen: who can change the index or a key reads the mail.
var errOpen = errors.New("can be written by everybody (mode o+w)")

// open says that everybody may write. Windows has no such bits.
func open(fi os.FileInfo) bool { return runtime.GOOS != "windows" && fi.Mode().Perm()&0o002 != 0 }

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
func same(a, b securemail.Address) bool { return encrypt.Fold(a) == encrypt.Fold(b) }
