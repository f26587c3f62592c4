package shamir_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/shamir"
)

// subsets calls f with each way to take k of shares.
func subsets(shares []shamir.Share, k int, f func([]shamir.Share)) {
	var taken []shamir.Share
	var step func(from int)
	step = func(from int) {
		if len(taken) == k {
			f(taken)
			return
		}
		for i := from; i <= len(shares)-(k-len(taken)); i++ {
			taken = append(taken, shares[i])
			step(i + 1)
			taken = taken[:len(taken)-1]
		}
	}
	step(0)
}

// TestAnyMOfNRestore tries every choice of m or more of n shares for all m and n up to 7.
func TestAnyMOfNRestore(t *testing.T) {
	secret := make([]byte, 5)
	for n := 1; n <= 7; n++ {
		for m := 1; m <= n; m++ {
			_, _ = rand.Read(secret)
			shares, err := shamir.Split(rand.Reader, secret, m, n)
			require.NoError(t, err)
			require.Len(t, shares, n)
			for k := m; k <= n; k++ {
				subsets(shares, k, func(s []shamir.Share) {
					got, err := shamir.At(0, s)
					require.NoError(t, err)
					require.Equal(t, secret, got, "%d of %d", m, n)
				})
			}
		}
	}
}

// TestTooFewTellNothing goes through all 256 coefficients of the line through a secret octet. One share of two, at any
// X, takes each value exactly once, whatever the secret: what its holder sees has the same distribution for all secrets.
func TestTooFewTellNothing(t *testing.T) {
	for _, secret := range []byte{0, 1, 0x80, 0xff} {
		var seen [4][256]int
		for c := range 256 {
			shares, err := shamir.Split(bytes.NewReader([]byte{byte(c)}), []byte{secret}, 2, 4)
			require.NoError(t, err)
			for k, s := range shares {
				seen[k][s.Y[0]]++
			}
		}
		for k := range seen {
			for y, times := range seen[k] {
				require.Equal(t, 1, times, "share %d, value %d", k+1, y)
			}
		}
	}
}

// TestTwoOfThreeTellNothing does the same for each pair of shares of three: all 65,536 pairs of coefficients give each
// pair of values exactly once.
func TestTwoOfThreeTellNothing(t *testing.T) {
	seen := make([][65536]uint8, 3)
	for c := range 65536 {
		shares, err := shamir.Split(bytes.NewReader([]byte{byte(c), byte(c >> 8)}), []byte{0x5a}, 3, 3)
		require.NoError(t, err)
		for pair, ij := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
			seen[pair][int(shares[ij[0]].Y[0])<<8|int(shares[ij[1]].Y[0])]++
		}
	}
	for pair := range seen {
		for _, times := range seen[pair] {
			require.EqualValues(t, 1, times)
		}
	}
}

// TestField proves the arithmetic through what At must give: a line through two points, for all slopes.
func TestField(t *testing.T) {
	for x := 1; x < 256; x++ {
		shares, err := shamir.Split(bytes.NewReader([]byte{1}), []byte{0}, 2, 255)
		require.NoError(t, err)
		require.Equal(t, []byte{byte(x)}, shares[x-1].Y, "y = x")
		got, err := shamir.At(byte(x), []shamir.Share{shares[254], shares[0]})
		require.NoError(t, err)
		if x != 1 && x != 255 {
			require.Equal(t, shares[x-1].Y, got)
		}
	}
}

func TestLargest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "secret")
		n := rapid.IntRange(1, shamir.MaxShares).Draw(t, "n")
		m := rapid.IntRange(1, n).Draw(t, "m")
		shares, err := shamir.Split(rand.Reader, secret, m, n)
		require.NoError(t, err)
		perm := rapid.Permutation(shares).Draw(t, "order")
		got, err := shamir.At(0, perm[:m])
		require.NoError(t, err)
		require.Equal(t, secret, got)
		if m < n {
			other, err := shamir.At(perm[m].X, perm[:m])
			require.NoError(t, err)
			require.Equal(t, perm[m].Y, other, "every further share lies on it")
		}
	})
}

func TestRefusals(t *testing.T) {
	for _, mn := range [][2]int{{0, 1}, {2, 1}, {1, 256}, {-1, 3}} {
		_, err := shamir.Split(rand.Reader, []byte("x"), mn[0], mn[1])
		require.ErrorContains(t, err, "1 <= m <= n")
	}
	broken := errors.New("broken")
	_, err := shamir.Split(iotest.ErrReader(broken), []byte("x"), 2, 2)
	require.ErrorIs(t, err, broken)
	for name, s := range map[string][]shamir.Share{
		"none": nil, "zero": {{0, []byte{1}}}, "twice": {{1, []byte{1}}, {1, []byte{1}}}, "lengths": {{1, []byte{1}}, {2, nil}},
	} {
		_, err := shamir.At(0, s)
		require.Error(t, err, name)
	}
}
