// Package shamir splits a secret so that any m of n shares give it back and any m-1 tell nothing about it: Shamir's
// scheme (How to share a secret, CACM 22(11), 1979) over GF(2^8) with the polynomial of AES, octet by octet.
//
// The arithmetic has no table and no branch on a secret, so that its time and its memory accesses say nothing.
//
// # What it does not do
//
// A share proves nothing: one that was changed gives another secret. The caller adds a checksum.
package shamir

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxShares is how many shares a secret can have: each has an x of its own in 1 to 255.
const MaxShares = 255

// Share is a point of each octet's polynomial: Y[i] is that of octet i at X, which is not 0.
type Share struct {
	X byte
	Y []byte
}

var (
	errCounts = fmt.Errorf("shamir: need 1 <= m <= n <= %d", MaxShares)
	errShares = errors.New("shamir: shares must have different X, not 0, and equal lengths")
)

// Split returns n shares of secret, with X from 1 to n, any m of which give it back. Its coefficients are read from
// random, which must be a CSPRNG. The errors are bad counts and those of random.
func Split(random io.Reader, secret []byte, m, n int) ([]Share, error) {
	if m < 1 || m > n || n > MaxShares {
		return nil, errCounts
	}
	// coefficients[d-1][i] is that of x^d for octet i; the one of x^0 is the secret. Each may be 0: were the highest kept
	// from it, m-1 shares would exclude one secret.
	coefficients := make([][]byte, m-1)
	for d := range coefficients {
		coefficients[d] = make([]byte, len(secret))
		if _, err := io.ReadFull(random, coefficients[d]); err != nil {
			return nil, fmt.Errorf("shamir: random: %w", err)
		}
		defer clear(coefficients[d])
	}
	shares := make([]Share, n)
	for k := range shares {
		x := byte(k + 1)
		y := make([]byte, len(secret))
		for _, c := range slices.Backward(coefficients) {
			for i := range y {
				y[i] = mul(y[i], x) ^ mul(c[i], x)
			}
		}
		for i := range y {
			y[i] ^= secret[i]
		}
		shares[k] = Share{x, y}
	}
	return shares, nil
}

// At returns the value at x of the polynomials of the lowest degree through shares; at 0 it is the secret, where they are
// m of one Split.
func At(x byte, shares []Share) ([]byte, error) {
	if !usable(shares) {
		return nil, errShares
	}
	out := make([]byte, len(shares[0].Y))
	for i, s := range shares {
		// Lagrange: the product over the others of (x - xj) / (xi - xj); minus is xor.
		num, den := byte(1), byte(1)
		for j, o := range shares {
			if j != i {
				num, den = mul(num, x^o.X), mul(den, s.X^o.X)
			}
		}
		weight := mul(num, inverse(den))
		for k, y := range s.Y {
			out[k] ^= mul(weight, y)
		}
	}
	return out, nil
}

func usable(shares []Share) bool {
	var seen [256]bool
	for _, s := range shares {
		if s.X == 0 || seen[s.X] || len(s.Y) != len(shares[0].Y) {
			return false
		}
		seen[s.X] = true
	}
	return len(shares) > 0
}

// mul multiplies in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197 section 4.2).
func mul(a, b byte) byte {
	var product byte
	for range 8 {
		product ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return product
}

// inverse is a^254, which is 1/a: the multiplicative group has 255 elements. That of 0 is 0.
func inverse(a byte) byte {
	out := byte(1)
	for range 7 {
		a = mul(a, a)
		out = mul(out, a)
	}
	return out
}
