package canon_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/canon"
)

type record struct {
	Name   string
	N      int64
	Labels map[string]string
	Parts  [][]byte
	At     time.Time
	Inner  *record
	Secret string `cbor:"-"`
}

func TestRoundTripAndCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := record{
			Name: rapid.String().Draw(t, "name"), N: rapid.Int64().Draw(t, "n"),
			Labels: rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "labels"),
			Parts:  rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "parts"),
			At:     time.Unix(rapid.Int64Range(-1e9, 1e10).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).In(time.FixedZone("x", 3600)),
			Inner:  &record{Name: "inner"}, Secret: "never",
		}
		a, err := canon.Marshal(r)
		require.NoError(t, err)
		require.NotContains(t, string(a), "never")
		var back record
		require.NoError(t, canon.Unmarshal(a, &back))
		require.True(t, r.At.Equal(back.At))
		require.Equal(t, r.Name, back.Name)
		b, err := canon.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, a, b, "equal values give equal bytes, whatever the order of maps and the zone of times")
	})
}

func TestOctetsThatAreNoTextComeBack(t *testing.T) {
	b, err := canon.Marshal(record{Name: "\xff\xfe"})
	require.NoError(t, err)
	var r record
	require.NoError(t, canon.Unmarshal(b, &r))
	require.Equal(t, "\xff\xfe", r.Name)
}

func TestZeroTimeStaysZero(t *testing.T) {
	b, err := canon.Marshal(record{})
	require.NoError(t, err)
	var r record
	require.NoError(t, canon.Unmarshal(b, &r))
	require.True(t, r.At.IsZero())
}

func TestWrongOptionsDoNotPass(t *testing.T) {
	require.Panics(t, func() { canon.Must(0, errors.New("wrong")) })
}

func TestUnmarshalRefuses(t *testing.T) {
	good, err := canon.Marshal(map[string]int{"a": 1})
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"trailing":          append(bytes.Clone(good), 0),
		"duplicate key":     {0xa2, 0x61, 'a', 1, 0x61, 'a', 2},
		"indefinite length": {0xbf, 0x61, 'a', 1, 0xff},
		"deep nesting":      []byte(strings.Repeat("\x81", 100) + "\x00"),
		"huge claim":        {0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff},
		"truncated":         good[:len(good)-1],
		"empty":             nil,
	} {
		t.Run(name, func(t *testing.T) {
			var v any
			require.Error(t, canon.Unmarshal(b, &v))
		})
	}
}

func FuzzUnmarshal(f *testing.F) {
	good, err := canon.Marshal(record{Name: "x", Labels: map[string]string{"a": "b"}, Inner: &record{}})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte{0xbf, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if canon.Unmarshal(b, &r) != nil {
			return
		}
		once, err := canon.Marshal(r)
		if err != nil {
			return // a year that RFC 3339 can't write
		}
		var again record
		require.NoError(t, canon.Unmarshal(once, &again))
	})
}
