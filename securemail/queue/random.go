package queue

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
	"time"
)

var lower = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// newRandom is 130 random bits as 26 characters of [0-9a-v].
func newRandom() string {
	var b [17]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return lower.EncodeToString(b[:])[:26]
}

// newID is 26 characters of [0-9a-v] that sort by time, as a ParcelID does.
func newID(now time.Time) string {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	_, _ = rand.Read(b[6:])
	return lower.EncodeToString(b[:])
}

// marks is n question marks.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// anys is what a variadic query wants.
func anys[T any](head []any, vs []T) []any {
	for _, v := range vs {
		head = append(head, v)
	}
	return head
}
