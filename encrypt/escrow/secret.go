package escrow

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"
	"sync/atomic"
	"unicode"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/postseal/postseal/securemail"
)

// argon2id as the OWASP Password Storage Cheat Sheet has it: 19 MiB, 2 passes, 1 lane.
const (
	argonTime   = 2
	argonMemory = 19 << 10 // KiB
	argonLanes  = 1
	argonOut    = 32
	saltSize    = 16
	// argonAtOnce bounds memory to 38 MiB and work to two cores; argonWaiting bounds the callers in line.
	argonAtOnce  = 2
	argonWaiting = 64
	// maxSecret bounds what a stranger can make us hash.
	maxSecret = 256
)

// ErrBusy says that too many secrets are being checked at once; nothing was checked. The caller may try again.
var ErrBusy = errors.New("escrow: too many checks at once")

var errHashSize = errors.New("escrow: malformed hash of a secret")

// slowHash bounds how many argon2id computations run at once.
type slowHash struct {
	memory  uint32 // KiB
	slots   chan struct{}
	waiting atomic.Int64
}

func newSlowHash() *slowHash {
	return &slowHash{memory: argonMemory, slots: make(chan struct{}, argonAtOnce)}
}

func (s *slowHash) sum(ctx context.Context, keyed, salt []byte) ([]byte, error) {
	if s.waiting.Add(1) > argonWaiting {
		s.waiting.Add(-1)
		return nil, ErrBusy
	}
	defer s.waiting.Add(-1)
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.slots }()
	return argon2.IDKey(keyed, salt, argonTime, s.memory, argonLanes, argonOut), nil
}

// sum is argon2id over a keyed hash, so that the database alone does not let anybody guess.
func (e *Escrow) sum(ctx context.Context, kind, value string, salt []byte) ([]byte, error) {
	h := hmac.New(sha256.New, e.pepper)
	h.Write([]byte("secret\x00" + kind + "\x00" + value))
	return e.slow.sum(ctx, h.Sum(nil), salt)
}

// Hash gives the argon2id hash of a short secret, with a salt of its own, for [Escrow.Match]. At most 2 run at once and
// 64 wait; more is ErrBusy. Else the only error is ctx's.
func (e *Escrow) Hash(ctx context.Context, s securemail.Secret) ([]byte, error) {
	salt := newSalt()
	out, err := e.sum(ctx, "hash", s.Reveal(), salt)
	if err != nil {
		return nil, err
	}
	return append(salt, out...), nil
}

// Match says whether hash is of s, in constant time. Errors are Hash's, and one for a malformed hash.
func (e *Escrow) Match(ctx context.Context, hash []byte, s securemail.Secret) (bool, error) {
	if len(hash) != saltSize+argonOut {
		return false, errHashSize
	}
	out, err := e.sum(ctx, "hash", s.Reveal(), hash[:saltSize])
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(out, hash[saltSize:]) == 1, nil
}

func newSalt() []byte {
	b := make([]byte, saltSize)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return b
}

// The kinds of factor that this form knows.
const (
	// FactorCode is an access code that the recipient was told.
	FactorCode = "code"
	// FactorQuestion is a question whose answer he knows.
	FactorQuestion = "question"
)

const (
	minCode    = 6 // characters
	maxFactors = 8
	maxHint    = 200
)

var errFactors = errors.New("escrow: too many factors for one recipient")

// factorRecord is a factor at rest; it lies inside the seal.
type factorRecord struct {
	Kind, Hint string
	Hash       []byte
}

// normal is the form in which a secret is compared. An access code: NFKC without spaces, dashes and invisible marks, as
// people type and paste them as they like. An answer: NFKC, case folded, one space between words, plain quotes for the
// curved ones that telephones put in.
func normal(kind, value string) string {
	if len(value) > maxSecret {
		return ""
	}
	value = norm.NFKC.String(value)
	if kind == FactorQuestion {
		// Folding can take apart what NFKC put together.
		value = norm.NFKC.String(cases.Fold().String(strings.Map(plainQuote, value)))
		return strings.Join(strings.Fields(value), " ")
	}
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Pd, unicode.Cf) || unicode.IsSpace(r) {
			return -1
		}
		return r
	}, value)
}

func plainQuote(r rune) rune {
	switch {
	case unicode.Is(unicode.Cf, r):
		return -1
	case r == '\u2018' || r == '\u2019' || r == '\u02bc' || r == '\u00b4' || r == '`':
		return '\''
	case r == '\u201c' || r == '\u201d' || r == '\u201e':
		return '"'
	}
	return r
}

// hashFactors hashes those factors that this form can use; all share one salt, so that one computation checks a guess.
func (e *Escrow) hashFactors(ctx context.Context, fs []securemail.Factor, salt []byte) ([]factorRecord, error) {
	var out []factorRecord
	for _, f := range fs {
		v := normal(f.Kind, f.Value.Reveal())
		if !usable(f.Kind, v) {
			continue
		}
		if len(out) == maxFactors {
			return nil, errFactors
		}
		h, err := e.sum(ctx, f.Kind, v, salt)
		if err != nil {
			return nil, err
		}
		out = append(out, factorRecord{f.Kind, clip(f.Hint, maxHint), h})
	}
	return out, nil
}

func usable(kind, value string) bool {
	switch kind {
	case FactorCode:
		return len([]rune(value)) >= minCode
	case FactorQuestion:
		return value != ""
	}
	return false
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}
