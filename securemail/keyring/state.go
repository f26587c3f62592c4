package keyring

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"github.com/postseal/postseal/internal/seal"
)

// scopeID is a keyed hash of a scope's name, 128 bits.
type scopeID [16]byte

func (a scopeID) compare(b scopeID) int { return bytes.Compare(a[:], b[:]) }

// ending says when a scope was destroyed and when the epoch key that could still give it is gone, in Unix nanoseconds.
type ending [2]int64

func (e ending) at() time.Time      { return time.Unix(0, e[0]).UTC() }
func (e ending) retires() time.Time { return time.Unix(0, e[1]).UTC() }

// state is the ledger in memory, and where it stands on the disk.
type state struct {
	epoch epochKey
	// top seals the epoch file; kept only under a Root, so that a new epoch needs no answer of it.
	top topKey
	// number counts epochs; chain is the hash over all frames.
	number uint64
	chain  [sha256.Size]byte
	// names and index are the ring's own keys: for scopeIDs, and for hiding them in wrapped keys. They last as long as the
	// ring.
	names, index []byte
	live         map[scopeID]*[seal.KeySize]byte
	gone         map[scopeID]ending
	// pending are the acts whose end was not yet recorded in the Outbox.
	pending map[actID]act
	// due is the earliest promised end of an epoch that can still give a destroyed key, 0: none.
	due int64

	// file is the ledger file, held open so that its identity can't be given to another; info is its identity.
	file *os.File
	info os.FileInfo
	// size and frames count what is applied to this state.
	size   int64
	frames uint64
}

func (s *state) id(scope string) scopeID {
	m := hmac.New(sha256.New, s.names)
	m.Write([]byte(scope))
	var sum [sha256.Size]byte
	m.Sum(sum[:0])
	return scopeID(sum[:16])
}

// drop forgets the key of id.
func (s *state) drop(id scopeID, e ending) {
	if k := s.live[id]; k != nil {
		clear(k[:])
		delete(s.live, id)
	}
	s.gone[id] = e
}

// forget overwrites every key and closes the ledger.
func (s *state) forget() error {
	for _, k := range s.live {
		clear(k[:])
	}
	clear(s.epoch.Key)
	clear(s.top.key)
	clear(s.names)
	clear(s.index)
	s.live, s.gone = nil, nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// A wrapped key is
//
//	version 1 (1) || n (1) || sealed index of n scopeIDs, ascending || sealed data key
//
// The index is sealed under the ring's index key, so that wrapped keys can't be linked by scope. The data key is sealed
// under HKDF-SHA256 over all n scope keys, bound to the sealed index.
const (
	wrapVersion = 1
	wrapLabel   = "postseal/keyring@v1 wrap"
	indexLabel  = "postseal/keyring@v1 index"
)

func (s *state) wrap(key []byte, ids []scopeID) ([]byte, error) {
	flat := make([]byte, 0, len(ids)*len(scopeID{}))
	for _, id := range ids {
		flat = append(flat, id[:]...)
	}
	index, err := seal.Seal(s.index, flat, []byte(indexLabel))
	if err != nil {
		return nil, fmt.Errorf("keyring: wrap: %w", err)
	}
	kek, err := s.kek(ids)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	body, err := seal.Seal(kek, key, index)
	if err != nil {
		return nil, fmt.Errorf("keyring: wrap: %w", err)
	}
	out := make([]byte, 0, 2+len(index)+len(body))
	return append(append(append(out, wrapVersion, byte(len(ids))), index...), body...), nil
}

func (s *state) unwrap(wrapped []byte) ([]byte, error) {
	if len(wrapped) < 2 || wrapped[0] != wrapVersion || wrapped[1] == 0 {
		return nil, ErrCorrupt
	}
	n := int(seal.SealedSize(int64(wrapped[1]) * int64(len(scopeID{}))))
	if len(wrapped) < 2+n {
		return nil, ErrCorrupt
	}
	index, body := wrapped[2:2+n], wrapped[2+n:]
	flat, err := seal.Open(s.index, index, []byte(indexLabel))
	if err != nil {
		return nil, ErrCorrupt
	}
	ids := make([]scopeID, wrapped[1])
	for i := range ids {
		ids[i] = scopeID(flat[i*len(scopeID{}):])
	}
	if err := s.present(ids); err != nil {
		return nil, err
	}
	kek, err := s.kek(ids)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	key, err := seal.Open(kek, body, index)
	if err != nil {
		return nil, ErrCorrupt
	}
	return key, nil
}

// present is nil where every scope has its key. A destroyed one outweighs an unknown one.
func (s *state) present(ids []scopeID) error {
	var err error
	for _, id := range ids {
		if _, gone := s.gone[id]; gone {
			return ErrDestroyed
		}
		if s.live[id] == nil {
			err = ErrUnknown
		}
	}
	return err
}

func (s *state) kek(ids []scopeID) ([]byte, error) {
	secret := make([]byte, 0, len(ids)*seal.KeySize)
	for _, id := range ids {
		secret = append(secret, s.live[id][:]...)
	}
	defer clear(secret)
	k, err := hkdf.Key(sha256.New, secret, nil, wrapLabel, seal.KeySize)
	if err != nil {
		return nil, fmt.Errorf("keyring: derive: %w", err)
	}
	return k, nil
}

// A record is one sealed frame of the ledger. Lists are flat octets, so that a million scopes decode at once.
type record struct {
	// Names and Index are set in the first record only.
	Names, Index []byte
	// Live is scopeID || key, repeated; Gone is scopeID || at (8) || retires (8), repeated; Pending is acts, Settled the
	// actIDs of those that are pending no longer.
	Live, Gone, Pending, Settled []byte
	// Snapshot marks the first record: what is gone in it is out of reach of the epoch key. Number counts snapshots.
	Snapshot bool
	Number   uint64
}

const (
	liveSize = 16 + seal.KeySize
	goneSize = 16 + 8 + 8
)

func (r *record) addLive(id scopeID, key []byte) { r.Live = append(append(r.Live, id[:]...), key...) }

func (r *record) addGone(id scopeID, e ending) {
	r.Gone = append(r.Gone, id[:]...)
	r.Gone = binary.BigEndian.AppendUint64(r.Gone, uint64(e[0]))
	r.Gone = binary.BigEndian.AppendUint64(r.Gone, uint64(e[1]))
}

func (r *record) empty() bool { return len(r.Live)+len(r.Gone)+len(r.Pending)+len(r.Settled) == 0 }

func (r *record) clear() {
	clear(r.Names)
	clear(r.Index)
	clear(r.Live)
}

// apply brings s up to r. r's octets are not kept.
func (s *state) apply(r *record) error {
	if len(r.Live)%liveSize != 0 || len(r.Gone)%goneSize != 0 || r.Snapshot != (s.names == nil) {
		return ErrCorrupt
	}
	if len(r.Pending)%actSize != 0 || len(r.Settled)%len(actID{}) != 0 {
		return ErrCorrupt
	}
	if r.Snapshot {
		if len(r.Names) != seal.KeySize || len(r.Index) != seal.KeySize {
			return ErrCorrupt
		}
		s.names, s.index, s.number = bytes.Clone(r.Names), bytes.Clone(r.Index), r.Number
		s.live = make(map[scopeID]*[seal.KeySize]byte, len(r.Live)/liveSize)
		s.gone = make(map[scopeID]ending, len(r.Gone)/goneSize)
		s.pending = map[actID]act{}
	}
	for b := r.Live; len(b) > 0; b = b[liveSize:] {
		k := [seal.KeySize]byte(b[16:liveSize])
		s.live[scopeID(b)] = &k
	}
	for b := r.Gone; len(b) > 0; b = b[goneSize:] {
		e := ending{int64(binary.BigEndian.Uint64(b[16:])), int64(binary.BigEndian.Uint64(b[24:]))}
		s.drop(scopeID(b), e)
		if !r.Snapshot && (s.due == 0 || e[1] < s.due) {
			s.due = e[1]
		}
	}
	for b := r.Pending; len(b) > 0; b = b[actSize:] {
		a := parseAct(b)
		s.pending[a.id] = a
	}
	for b := r.Settled; len(b) > 0; b = b[len(actID{}):] {
		delete(s.pending, actID(b))
	}
	return nil
}

// snapshot is the record that makes s anew with change applied, without what was destroyed before forgetBefore. No key
// that is gone in change is in it.
func (s *state) snapshot(change *record, forgetBefore int64) *record {
	ending := map[scopeID]bool{}
	for b := change.Gone; len(b) > 0; b = b[goneSize:] {
		ending[scopeID(b)] = true
	}
	r := &record{Names: bytes.Clone(s.names), Index: bytes.Clone(s.index), Snapshot: true, Number: change.Number}
	r.Live = make([]byte, 0, len(s.live)*liveSize+len(change.Live))
	for id, k := range s.live {
		if !ending[id] {
			r.addLive(id, k[:])
		}
	}
	r.Live = append(r.Live, change.Live...)
	r.Gone = append(r.Gone, change.Gone...)
	for id, e := range s.gone {
		if e[0] >= forgetBefore {
			r.addGone(id, e)
		}
	}
	for _, a := range s.pending {
		r.Pending = a.append(r.Pending)
	}
	r.Pending = append(r.Pending, change.Pending...)
	r.Settled = change.Settled
	return r
}

// continues says whether s knows all scopes that old knew, and has brought none back.
func (s *state) continues(old *state) bool {
	for id := range old.gone {
		if _, ok := s.gone[id]; !ok {
			return false
		}
	}
	for id := range old.live {
		if _, gone := s.gone[id]; !gone && s.live[id] == nil {
			return false
		}
	}
	return bytes.Equal(s.names, old.names)
}

// moveTo brings s up to change and to the new ledger that next stands for.
func (s *state) moveTo(next *state, change *record, forgetBefore int64) error {
	if err := s.apply(change); err != nil {
		return err
	}
	for id, e := range s.gone {
		if e[0] < forgetBefore {
			delete(s.gone, id)
		}
	}
	clear(s.epoch.Key)
	old := s.file
	s.epoch, s.file, s.info, s.size, s.due = next.epoch, next.file, next.info, next.size, 0
	s.frames, s.chain, s.number = next.frames, next.chain, change.Number
	return old.Close()
}
