package keyring_test

import (
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

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
	for name, o := range map[string]*keyring.Options{
		"at once": nil, "window": {Window: 1 << 50}, "window, recorded": {Window: 1 << 50, Outbox: &events{}},
	} {
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

// million makes a ring of 1,000,000 scopes.
func million(b *testing.B) string {
	path := ringPath(b)
	f := open(b, path, nil)
	scopes := make([]string, 250)
	for n := 0; n < 1_000_000; n += len(scopes) {
		for i := range scopes {
			scopes[i] = fmt.Sprint("subject/", n+i)
		}
		if _, err := f.Wrap(b.Context(), []byte("k"), scopes...); err != nil {
			b.Fatal(err)
		}
	}
	return path
}

// BenchmarkMillion is what acts cost on a ring of 1,000,000 scopes.
func BenchmarkMillion(b *testing.B) {
	path := million(b)
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			f, err := keyring.OpenFile(path, nil)
			if err != nil {
				b.Fatal(err)
			}
			_ = f.Close()
		}
	})
	n := 0
	for name, o := range map[string]*keyring.Options{"destroy at once": nil, "destroy in a window": {Window: 24 * time.Hour}} {
		b.Run(name, func(b *testing.B) {
			f := open(b, path, o)
			for b.Loop() {
				n++
				if _, err := f.Destroy(b.Context(), fmt.Sprint("subject/", n)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	f := open(b, path, nil)
	b.Run("rotate", func(b *testing.B) {
		for b.Loop() {
			if err := f.RotateEpoch(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("backup", func(b *testing.B) {
		for b.Loop() {
			if err := f.Backup(b.Context(), io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	w, err := f.Wrap(b.Context(), []byte("k"), "subject/999999", "subject/999998")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("unwrap", func(b *testing.B) {
		for b.Loop() {
			_, _ = f.Unwrap(b.Context(), w)
		}
	})
}
