package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/internal/shamir"
)

// Share is one custodian's part of a root key, a line of text to print and lock away:
//
//	postseal share 1 of 3, 2 needed: AEAB-2C4D-...
//
// Any 2 of these 3 give the key back ([Join]); one alone tells nothing about it. Only what stands behind the colon counts;
// blanks, dashes and the case of letters don't. It carries a checksum and the number of its set, so that shares of two
// splittings are not mixed. It is a secret: don't log it.
type Share string

// A share is, in base32 (RFC 4648 section 6) and groups of four,
//
//	version 1 (1) || set (6) || m (1) || n (1) || x (1) || y (36) || checksum (4)
//
// y is the share of the key and, behind it, 4 octets of a hash of the key; the checksum is over all before it.
const (
	shareVersion = 1
	shareSet     = 6
	shareCheck   = 4
	shareY       = seal.KeySize + shareCheck
	shareSize    = 1 + shareSet + 3 + shareY + shareCheck
)

var shareEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// ShareError says what is wrong with one share. Place is its place among the arguments of Join, from 1.
type ShareError struct {
	Place int
	Fault ShareFault
}

// ShareFault is what can be wrong with a share.
type ShareFault string

const (
	ShareCorrupt  ShareFault = "its checksum is wrong: a letter was misread, or is missing"
	ShareForeign  ShareFault = "it is of another set than the first"
	ShareRepeated ShareFault = "it was given already"
	ShareForged   ShareFault = "it doesn't fit the others, though its checksum is right"
)

// Error names the share by its place, and holds none of it.
func (e *ShareError) Error() string { return fmt.Sprintf("keyring: share %d: %s", e.Place, e.Fault) }

// TooFewError says how many shares of one set Join was given, and needs.
type TooFewError struct{ Have, Need int }

// Error gives both numbers.
func (e *TooFewError) Error() string {
	return fmt.Sprintf("keyring: %d shares given, %d needed", e.Have, e.Need)
}

// errForged: with exactly as many shares as are needed nobody can say which of them is wrong.
var errForged = fmt.Errorf("keyring: the shares don't fit together, one was forged; give another in place of each, or one more: %w", ErrCorrupt)

type share struct {
	set     [shareSet]byte
	m, n, x byte
	y       []byte
}

func (s share) String() string {
	b := append([]byte{shareVersion}, s.set[:]...)
	b = append(append(b, s.m, s.n, s.x), s.y...)
	b = append(b, shareSum(b)...)
	text := shareEncoding.EncodeToString(b)
	var groups []string
	for g := range slices.Chunk([]byte(text), 4) {
		groups = append(groups, string(g))
	}
	return fmt.Sprintf("postseal share %d of %d, %d needed: %s", s.x, s.n, s.m, strings.Join(groups, "-"))
}

func shareSum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("postseal share"), b...))
	return sum[:shareCheck]
}

func keySum(key []byte) []byte {
	sum := sha256.Sum256(append([]byte("postseal shared key"), key...))
	return sum[:shareCheck]
}

func parseShare(text string) (share, bool) {
	if _, code, ok := strings.Cut(text, ":"); ok {
		text = code
	}
	text = strings.ToUpper(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("- \t\r\n", r) }), ""))
	b, err := shareEncoding.DecodeString(text)
	if err != nil || len(b) != shareSize || shareEncoding.EncodeToString(b) != text {
		return share{}, false
	}
	body := b[:shareSize-shareCheck]
	s := share{set: [shareSet]byte(b[1:]), m: b[7], n: b[8], x: b[9], y: body[10:]}
	if b[0] != shareVersion || !bytes.Equal(shareSum(body), b[len(body):]) || s.m == 0 || s.m > s.n || s.x == 0 || s.x > s.n {
		return share{}, false
	}
	return s, true
}

// Split makes n shares (at most 255) of a key of 32 octets, any m of which give it back. Each call makes a new set.
func Split(key []byte, m, n int) ([]Share, error) {
	if len(key) != seal.KeySize {
		return nil, fmt.Errorf("keyring: split: a key must have %d octets", seal.KeySize)
	}
	secret := append(bytes.Clone(key), keySum(key)...)
	defer clear(secret)
	points, err := shamir.Split(rand.Reader, secret, m, n)
	if err != nil {
		return nil, fmt.Errorf("keyring: split: %w", err)
	}
	var set [shareSet]byte
	_, _ = rand.Read(set[:]) // never fails: crypto/rand
	shares := make([]Share, n)
	for i, p := range points {
		shares[i] = Share(share{set, byte(m), byte(n), p.X, p.Y}.String())
		clear(p.Y)
	}
	return shares, nil
}

// Join gives back the key that Split split. Errors: *ShareError names the first share that is damaged, repeated, of another
// set or, where there are more than needed, forged; *TooFewError; ErrCorrupt where one of exactly as many as are needed
// was forged.
func Join(shares ...Share) ([]byte, error) {
	var all []share
	seen := map[byte]bool{}
	for i, text := range shares {
		s, ok := parseShare(string(text))
		switch {
		case !ok:
			return nil, &ShareError{i + 1, ShareCorrupt}
		case len(all) > 0 && (s.set != all[0].set || s.m != all[0].m || s.n != all[0].n):
			return nil, &ShareError{i + 1, ShareForeign}
		case seen[s.x]:
			return nil, &ShareError{i + 1, ShareRepeated}
		}
		seen[s.x] = true
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, &TooFewError{0, 1}
	}
	if m := int(all[0].m); len(all) < m {
		return nil, &TooFewError{len(all), m}
	}
	return joinAll(all)
}

func joinAll(all []share) ([]byte, error) {
	points := make([]shamir.Share, len(all))
	for i, s := range all {
		points[i] = shamir.Share{X: s.x, Y: s.y}
	}
	m := int(all[0].m)
	if m == len(all) {
		if key, ok := joinPoints(points); ok {
			return key, nil
		}
		return nil, errForged
	}
	// More than are needed: each must lie on the curve through the others.
	if key, ok := joinPoints(points[:m]); ok {
		for i := m; i < len(points); i++ {
			if y, err := shamir.At(points[i].X, points[:m]); err != nil || !bytes.Equal(y, points[i].Y) {
				return nil, &ShareError{i + 1, ShareForged}
			}
		}
		return key, nil
	}
	for i := range m {
		others := slices.Delete(slices.Clone(points[:m+1]), i, i+1)
		if _, ok := joinPoints(others); ok {
			return nil, &ShareError{i + 1, ShareForged}
		}
	}
	return nil, errForged
}

func joinPoints(points []shamir.Share) ([]byte, bool) {
	secret, err := shamir.At(0, points)
	if err != nil || !bytes.Equal(secret[seal.KeySize:], keySum(secret[:seal.KeySize])) {
		return nil, false
	}
	return secret[:seal.KeySize:seal.KeySize], true
}

// Split makes shares of the root key for n custodians, any m of whom can have the ring back with [Recover] when the key
// file, the environment's secret or the KMS is lost. It is of the root as it is now: make new shares after RotateRoot and
// MoveRoot. Under a Root it is the key that the Root wrapped, so that the KMS is not needed to recover.
func (f *File) Split(ctx context.Context, m, n int) ([]Share, error) {
	top, err := f.currentTop(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(top.key)
	return Split(top.key, m, n)
}

// currentTop returns what the epoch file is sealed under now.
func (f *File) currentTop(ctx context.Context) (top topKey, err error) {
	err = f.exclusive(ctx, func() error {
		if err := f.catchUp(ctx); err != nil {
			return err
		}
		b, err := f.readEpochFile()
		if err != nil {
			return err
		}
		tops, err := f.tops(ctx, b)
		if err != nil {
			return err
		}
		_, i, err := openEpochs(b, tops)
		if err == nil {
			top = tops[i].clone()
		}
		forgetTops(tops)
		return err
	})
	return top, err
}

var errHasRoot = errors.New("keyring: recover: a key file is there already; move it away if it is not this ring's")

// Recover gives the ring at path, whose epoch file and ledger must be there, its root key back: with the key of [Join] it
// writes the key file. Where the ring was under a Root it is under the key file from then on; [File.MoveRoot] puts it
// under another. A key that opens nothing here is ErrCorrupt: the shares are of another ring, or older than the last
// RotateRoot. A key file that is there is
// never overwritten; a Recover that was cut short can be repeated.
func Recover(ctx context.Context, path string, key []byte) error {
	if len(key) != seal.KeySize {
		return fmt.Errorf("keyring: recover: a key must have %d octets", seal.KeySize)
	}
	f := &File{path: path, writer: make(chan struct{}, 1)}
	return f.exclusive(ctx, func() error {
		switch s, err := f.look(); {
		case err != nil:
			return fmt.Errorf("keyring: recover: %w", err)
		case !s.epoch || !s.ledger:
			return errHalf
		case s.root:
			// A Recover that was cut short left this key there; anything else is not to be overwritten.
			there, err := f.readRoots()
			defer forgetTops(there)
			if err != nil || len(there) != 1 || !bytes.Equal(there[0].key, key) {
				return errors.Join(errHasRoot, err)
			}
		}
		return f.recover(key)
	})
}

func (f *File) recover(key []byte) error {
	b, err := f.readEpochFile()
	if err != nil {
		return err
	}
	wrapped, _, err := splitEpochFile(b)
	if err != nil {
		return err
	}
	epochs, _, err := openEpochs(b, []topKey{{key: key}})
	if err != nil {
		return fmt.Errorf("keyring: recover: this key opens nothing here; it is of another ring, or older than the last RotateRoot: %w", ErrCorrupt)
	}
	defer func() {
		for _, e := range epochs {
			clear(e.Key)
		}
	}()
	if err := durable.WriteFile(f.path, formatRoot(key)); err != nil {
		return fmt.Errorf("keyring: recover: %w", err)
	}
	if wrapped == nil {
		return nil
	}
	if err := f.writeEpochs(topKey{key: key}, epochs...); err != nil {
		return fmt.Errorf("keyring: recover: %w", err)
	}
	return nil
}
