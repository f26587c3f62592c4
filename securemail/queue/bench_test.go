package queue_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
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
				used := cpu()
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
				b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// BenchmarkPutParcels is durable acceptance of what bodies of 4 KB and one event each take, without what a caller may add.
func BenchmarkPutParcels(b *testing.B) {
	for name, open := range openers() {
		for _, producers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", name, producers), func(b *testing.B) {
				r := newRig(b, open, nil)
				work := make(chan *securemail.Batch, b.N)
				m := message(b, "large", strings.Repeat("all work and no play\r\n", 186))
				for range b.N {
					batch := r.batch(1)
					p := batch.Parcels[0]
					p.Message, p.Size, p.Labels, p.Recipient.Ref = m, m.Size(), nil, ""
					work <- batch
				}
				close(work)
				var wg sync.WaitGroup
				used := cpu()
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
				b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// BenchmarkTakeFromBacklog is a Take of 500 with a small and a large backlog; heap is what it needs beside the parcels.
func BenchmarkTakeFromBacklog(b *testing.B) {
	for _, size := range []int{5_000, 50_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newRig(b, lite, nil)
			for i := range size / 500 {
				r.putFor(fmt.Sprint("tenant", i%7), fmt.Sprintf("d%d.example", i%50), 500, 0)
			}
			before := heap()
			b.ResetTimer()
			for range b.N {
				require.Len(b, r.take(r.Queue, 500), 500)
				b.StopTimer()
				r.pass(queue.DefaultLease) // they come back
				b.StartTimer()
			}
			b.ReportMetric(float64(int64(heap())-int64(before))/(1<<20), "heap-MiB")
		})
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
			used := cpu()
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
			b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkBatches is lease and outcome by batches of 500, by four workers, of parcels with a body of 4 KB a hundred.
func BenchmarkBatches(b *testing.B) {
	for name, open := range openers() {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, open, nil)
			for left := b.N; left > 0; left -= 100 {
				batch := r.batch(min(left, 100))
				m := message(b, "large", strings.Repeat("all work and no play\r\n", 186))
				for _, p := range batch.Parcels {
					p.Message, p.Size, p.Labels, p.Recipient.Ref = m, m.Size(), nil, ""
				}
				_, err := r.Put(b.Context(), batch)
				require.NoError(b, err)
			}
			var wg sync.WaitGroup
			used := cpu()
			b.ResetTimer()
			for range 4 {
				wg.Go(func() {
					for {
						ls, err := r.Take(b.Context(), r.clock(), 500, 0)
						if err != nil {
							b.Error(err)
						}
						if len(ls) == 0 {
							return
						}
						ms := make([]securemail.Mark, len(ls))
						for i, l := range ls {
							ms[i] = r.mark(l, securemail.StateDelivered)
						}
						if err := r.Mark(b.Context(), ms...); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "parcel/s")
			b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkOneDraftToMany is one 1 MB draft to 10,000 recipients: accept, lease and settle all; heap is the most that was in
// use while 500 leases were held, above what was in use before.
func BenchmarkOneDraftToMany(b *testing.B) {
	for range b.N {
		before, peak, n := heap(), uint64(0), 0
		blobs, err := queue.Dir(b.TempDir())
		require.NoError(b, err)
		r := newRig(b, lite, &queue.Options{Blobs: blobs})
		batch := r.batch(10_000)
		m := message(b, "large", strings.Repeat("all work and no play\r\n", 48_000))
		for _, p := range batch.Parcels {
			p.Message, p.Size = m, m.Size()
		}
		_, err = r.Put(b.Context(), batch)
		require.NoError(b, err)
		batch, m = nil, nil
		for {
			ls := r.take(r.Queue, 500)
			if len(ls) == 0 {
				break
			}
			ms := make([]securemail.Mark, len(ls))
			for i, l := range ls {
				ms[i] = r.mark(l, securemail.StateDelivered)
			}
			if n += len(ls); n%2500 == 0 {
				peak = max(peak, heap())
			}
			require.NoError(b, r.Mark(b.Context(), ms...))
		}
		require.Equal(b, 10_000, n)
		b.ReportMetric(float64(int64(peak)-int64(before))/(1<<20), "heap-MiB")
	}
}

// cpu is what this process has used; on a busy machine it says more than the time.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
