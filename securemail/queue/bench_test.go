package queue_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
)

// BenchmarkPut is durable acceptance: one recipient a batch, one event, idempotency key and label.
func BenchmarkPut(b *testing.B) {
	for name, open := range openers() {
		for _, producers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", name, producers), func(b *testing.B) {
				r := newRig(b, open, nil)
				work := make(chan *securemail.Batch, b.N)
				for i := range b.N {
					batch := r.batch(1)
					batch.Key = fmt.Sprint(i)
					work <- batch
				}
				close(work)
				var wg sync.WaitGroup
				b.ResetTimer()
				for range producers {
					wg.Go(func() {
						for batch := range work {
							if _, err := r.Put(b.Context(), batch); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "put/s")
			})
		}
	}
}

// BenchmarkTakeMark is lease, intent and outcome, by 32 workers as Mailer.Run has them.
func BenchmarkTakeMark(b *testing.B) {
	for name, open := range openers() {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, open, nil)
			for left := b.N; left > 0; left -= 100 {
				_, err := r.Put(b.Context(), r.batch(min(left, 100)))
				require.NoError(b, err)
			}
			leases := make(chan *securemail.Lease, 32)
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 32 {
				wg.Go(func() {
					for l := range leases {
						for _, st := range []securemail.State{securemail.StateAttempting, securemail.StateDelivered} {
							if err := r.Mark(b.Context(), r.mark(l, st)); err != nil {
								b.Error(err)
							}
						}
					}
				})
			}
			for {
				ls, err := r.Take(b.Context(), r.clock(), 32, 0)
				require.NoError(b, err)
				if len(ls) == 0 {
					break
				}
				for _, l := range ls {
					leases <- l
				}
			}
			close(leases)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "parcel/s")
		})
	}
}
