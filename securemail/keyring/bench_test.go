package keyring_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail/keyring"
)

func BenchmarkWrapHot(b *testing.B) {
	f, key := open(b, ringPath(b), nil), seal.NewKey()
	_, _ = f.Wrap(b.Context(), key, "tenant", "subject")
	for b.Loop() {
		_, _ = f.Wrap(b.Context(), key, "tenant", "subject")
	}
}

func BenchmarkUnwrapHot(b *testing.B) {
	f := open(b, ringPath(b), nil)
	w, _ := f.Wrap(b.Context(), seal.NewKey(), "tenant", "subject")
	for b.Loop() {
		_, _ = f.Unwrap(b.Context(), w)
	}
}

func BenchmarkWrapNewScope(b *testing.B) {
	for _, producers := range []int{1, 64} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			f, key := open(b, ringPath(b), nil), seal.NewKey()
			var n atomic.Int64
			b.SetParallelism(max(1, producers/2))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := f.Wrap(b.Context(), key, fmt.Sprint("s", n.Add(1))); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkDestroy(b *testing.B) {
	for name, o := range map[string]*keyring.Options{"at once": nil, "window": {Window: 1 << 50}} {
		b.Run(name, func(b *testing.B) {
			f, n := open(b, ringPath(b), o), 0
			for b.Loop() {
				n++
				if _, err := f.Destroy(b.Context(), fmt.Sprint("s", n)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
