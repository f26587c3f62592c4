package audit_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

func BenchmarkEmit(b *testing.B) {
	for _, producers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			l := open(b, logDir(b), nil)
			e := full(b)
			var n atomic.Int64
			b.SetParallelism(max(1, producers/2))
			if producers == 1 {
				for b.Loop() {
					e.ID = fmt.Sprint(n.Add(1))
					if err := l.Emit(b.Context(), e); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					e := e
					for pb.Next() {
						e.ID = fmt.Sprint(n.Add(1))
						if err := l.Emit(b.Context(), e); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkEmitAll is one producer, 64 events to a call.
func BenchmarkEmitAll(b *testing.B) {
	l := open(b, logDir(b), nil)
	es := make([]securemail.Event, 64)
	n := 0
	for b.Loop() {
		for i := range es {
			es[i] = full(b)
			es[i].ID = fmt.Sprint(n)
			n++
		}
		if err := l.EmitAll(b.Context(), es...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkProve(b *testing.B) {
	l := open(b, logDir(b), nil)
	emitFast(b, l, 0, 10_000)
	i := 0
	for b.Loop() {
		if _, err := l.Prove(b.Context(), fmt.Sprint("e", i%10_000)); err != nil {
			b.Fatal(err)
		}
		i += 37
	}
}

func BenchmarkCheck(b *testing.B) {
	l := open(b, logDir(b), nil)
	const n = 20_000
	emitFast(b, l, 0, n)
	for b.Loop() {
		if err := l.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkProveAndVerify is a proof of any entry of a large log, made and checked by who has the public key alone.
func BenchmarkProveAndVerify(b *testing.B) {
	l := open(b, logDir(b), nil)
	const n = 200_000
	emitFast(b, l, 0, n)
	i := 0
	for b.Loop() {
		p, err := l.Prove(b.Context(), fmt.Sprint("e", i%n))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := audit.Verify(p, l.Verifier()); err != nil {
			b.Fatal(err)
		}
		i += 7919
	}
}
