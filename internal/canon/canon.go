// Package canon is the one canonical encoding of everything the library stores: deterministic CBOR (RFC 8949
// section 4.2), so that equal values give equal bytes and a stored decision can be hashed and replayed.
//
// Times are kept to the nanosecond in UTC; the zero time stays the zero time. Types that guard personal data reveal
// it here through encoding.BinaryMarshaler, so the bytes must be sealed before they reach a disk.
package canon

import (
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Bounds for decoding; stored records are ours, but a damaged file is foreign bytes.
const (
	maxElements = 1 << 20
	maxNesting  = 32
)

var modes = sync.OnceValue(func() modePair {
	opts := cbor.CoreDetEncOptions()
	opts.Time = cbor.TimeRFC3339NanoUTC
	enc := must(opts.EncMode())
	dec := must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		UTF8:             cbor.UTF8DecodeInvalid, // what was stored must come back, whatever a far end said
		TimeTag:          cbor.DecTagIgnored,
		MaxNestedLevels:  maxNesting,
		MaxArrayElements: maxElements,
		MaxMapPairs:      maxElements,
	}.DecMode())
	return modePair{enc, dec}
})

type modePair struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// must panics where the options above contradict each other.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Marshal returns the canonical bytes of v. Unexported fields and fields tagged `cbor:"-"` are left out.
func Marshal(v any) ([]byte, error) { return modes().enc.Marshal(v) }

// Unmarshal reads what Marshal wrote into v, a pointer. Trailing bytes, duplicate keys, indefinite lengths and deep
// nesting are errors.
func Unmarshal(b []byte, v any) error { return modes().dec.Unmarshal(b, v) }
