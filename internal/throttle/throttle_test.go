package throttle_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/throttle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t testing.TB, th *throttle.Throttle, key string) func(throttle.Verdict) {
	release, err := th.Acquire(context.Background(), key)
	require.NoError(t, err)
	return release
}

func busy(t testing.TB, err error) *throttle.BusyError {
	b, ok := errors.AsType[*throttle.BusyError](err)
	require.True(t, ok, "%v", err)
	require.Positive(t, b.RetryAfter)
	return b
}

func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 2, Wait: time.Second}, nil)
		first, second := get(t, th, "a"), get(t, th, "a")
		get(t, th, "b")(throttle.Neutral) // another key has its own
		start := time.Now()
		_, err := th.Acquire(t.Context(), "a")
		require.False(t, busy(t, err).Paused)
		require.Equal(t, time.Second, time.Since(start))
		require.EqualError(t, err, "throttle: busy")

		first(throttle.Neutral)
		first(throttle.Neutral) // a repeat gives no second place
		third := get(t, th, "a")
		_, err = th.Acquire(t.Context(), "a")
		busy(t, err)
		second(throttle.Neutral)
		third(throttle.Neutral)
		require.Equal(t, throttle.State{Limit: 2}, th.Look("a"))
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1}, nil)
		hold := get(t, th, "a")
		var order []int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				release := get(t, th, "a")
				order = append(order, i) // one at a time
				release(throttle.Neutral)
			})
			synctest.Wait()
		}
		require.Equal(t, 20, th.Look("a").Waiting)
		hold(throttle.Neutral)
		wg.Wait()
		for i, got := range order {
			require.Equal(t, i, got)
		}
		require.Len(t, order, 20)
	})
}

func TestNobodyOvertakesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1, Rate: 1, Burst: 1}, nil)
		get(t, th, "a")(throttle.Neutral)
		var wg sync.WaitGroup
		var first time.Duration
		start := time.Now()
		wg.Go(func() {
			release := get(t, th, "a")
			first = time.Since(start)
			release(throttle.Neutral)
		})
		synctest.Wait()
		release := get(t, th, "a")
		require.InDelta(t, 2, time.Since(start).Seconds(), 0.001)
		release(throttle.Neutral)
		wg.Wait()
		require.InDelta(t, 1, first.Seconds(), 0.001)
	})
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1}, nil)
		hold := get(t, th, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := th.Acquire(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, th.Look("a").Waiting)
		hold(throttle.Neutral)
		_, err = th.Acquire(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		get(t, th, "a")(throttle.Neutral)
	})
}

func TestAQueueGoesOnBehindOneWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1, Rate: 0.1, Burst: 1}, nil)
		get(t, th, "a")(throttle.Neutral)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := th.Acquire(ctx, "a") // it holds the timer of the queue
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		synctest.Wait()
		start := time.Now()
		get(t, th, "a")(throttle.Neutral)
		require.InDelta(t, 10, time.Since(start).Seconds(), 0.001)
		wg.Wait()
	})
}

// all takes every place that key has.
func all(t testing.TB, th *throttle.Throttle, key string) []func(throttle.Verdict) {
	var out []func(throttle.Verdict)
	for range th.Look(key).Limit {
		out = append(out, get(t, th, key))
	}
	return out
}

func TestGoodRaises(t *testing.T) {
	th := throttle.New(throttle.Limits{Connections: 2, Max: 4, Wait: -1}, nil)
	for range 100 { // alone it proves nothing about more
		get(t, th, "a")(throttle.Good)
	}
	require.Equal(t, 2, th.Look("a").Limit)
	limits := []int{}
	for range 12 {
		for _, release := range all(t, th, "a") {
			release(throttle.Good)
		}
		limits = append(limits, th.Look("a").Limit)
	}
	require.IsIncreasing(t, []int{2, limits[1], limits[11]})
	require.Equal(t, 4, limits[11])
	_, err := th.Acquire(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, 2, th.Look("b").Limit)
}

func TestSlowHalvesOncePerRound(t *testing.T) {
	th := throttle.New(throttle.Limits{Connections: 8, Wait: -1}, nil)
	for _, want := range []int{4, 2, 1, 1} {
		for _, release := range all(t, th, "a") {
			release(throttle.Slow)
		}
		require.Equal(t, want, th.Look("a").Limit)
	}
	require.Zero(t, th.Look("a").Paused)
}

func TestStopPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 4, Wait: 5 * time.Second, Pause: 30 * time.Second, MaxPause: 2 * time.Minute}, nil)
		round := all(t, th, "a")
		for _, release := range round { // four refusals at once are one
			release(throttle.Stop)
		}
		for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 2 * time.Minute} {
			require.Equal(t, throttle.State{Limit: 1, Paused: want}, th.Look("a"))
			start := time.Now()
			_, err := th.Acquire(t.Context(), "a") // nobody waits in vain
			require.Equal(t, want, busy(t, err).RetryAfter)
			require.True(t, busy(t, err).Paused)
			require.Contains(t, err.Error(), "closed for")
			require.Zero(t, time.Since(start))
			time.Sleep(want - time.Second)
			release := get(t, th, "a") // a short rest of the pause is waited for
			require.Equal(t, want, time.Since(start))
			release(throttle.Stop)
		}
		time.Sleep(2 * time.Minute)
		get(t, th, "a")(throttle.Good)
		get(t, th, "a")(throttle.Stop)
		require.Equal(t, 30*time.Second, th.Look("a").Paused, "Good ends the doubling")
	})
}

func TestStopCountsBehindSlow(t *testing.T) {
	th := throttle.New(throttle.Limits{Connections: 4}, nil)
	round := all(t, th, "a")
	round[0](throttle.Slow)
	round[1](throttle.Stop)
	require.Positive(t, th.Look("a").Paused)
	round[2](throttle.Good) // it began before
	require.Equal(t, 1, th.Look("a").Limit)
	round[3](throttle.Stop)
	require.LessOrEqual(t, th.Look("a").Paused, 30*time.Second)
}

func TestStopSendsWaitersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1, Wait: 10 * time.Second}, nil)
		hold := get(t, th, "a")
		var wg sync.WaitGroup
		start := time.Now()
		for range 10 {
			wg.Go(func() {
				_, err := th.Acquire(t.Context(), "a")
				require.True(t, busy(t, err).Paused)
				require.Zero(t, time.Since(start))
			})
		}
		synctest.Wait()
		hold(throttle.Stop)
		wg.Wait()
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1000, Rate: 10, Burst: 5, Wait: 2 * time.Second}, nil)
		start := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		served, refused := 0, 0
		for range 100 {
			wg.Go(func() {
				release, err := th.Acquire(t.Context(), "a")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					busy(t, err)
					refused++
					return
				}
				served++
				release(throttle.Neutral)
			})
		}
		synctest.Wait()
		mu.Lock()
		require.Equal(t, 5, served)
		require.Positive(t, refused, "those behind all that can be served need not wait")
		mu.Unlock()
		wg.Wait()
		require.LessOrEqual(t, time.Since(start), 2*time.Second)
		require.InDelta(t, 25, served, 1)
	})
}

func TestAClockSetBackClosesNothingForLong(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := throttle.New(throttle.Limits{Rate: 1, Wait: -1, MaxPause: time.Minute}, func() time.Time { return now })
	get(t, th, "a")(throttle.Stop)
	now = now.Add(-24 * time.Hour)
	_, err := th.Acquire(t.Context(), "a")
	require.LessOrEqual(t, busy(t, err).RetryAfter, time.Minute)
	now = now.Add(time.Minute)
	get(t, th, "a")(throttle.Neutral)
}

func TestIdleKeysAreForgotten(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := throttle.New(throttle.Limits{Connections: 4, Rate: 0.01, Burst: 10, Wait: -1, Forget: time.Minute, Pause: time.Hour, MaxPause: time.Hour},
		func() time.Time { return now })
	busyOne := get(t, th, "busy")
	for i := range 100 {
		get(t, th, strconv.Itoa(i))(throttle.Slow)
	}
	get(t, th, "closed")(throttle.Stop)
	require.Equal(t, 102, th.Len())
	now = now.Add(59 * time.Second)
	get(t, th, "other")(throttle.Neutral)
	require.Equal(t, 103, th.Len())
	now = now.Add(2 * time.Second)
	for range 30 {
		get(t, th, "now")(throttle.Neutral)
		now = now.Add(100 * time.Second)
	}
	require.Equal(t, 3, th.Len()) // busy, closed, now
	require.Equal(t, 4, th.Look("0").Limit)
	require.Equal(t, 1, th.Look("closed").Limit)
	require.Equal(t, 1, th.Look("busy").Active)
	busyOne(throttle.Neutral)
}

func TestForgettingGivesNoTokens(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := throttle.New(throttle.Limits{Rate: 0.001, Wait: -1, Forget: time.Second}, func() time.Time { return now })
	get(t, th, "a")(throttle.Good)
	for range 10 {
		now = now.Add(2 * time.Second)
		get(t, th, fmt.Sprint(now))(throttle.Good)
	}
	_, err := th.Acquire(t.Context(), "a")
	busy(t, err)
}

func TestIdleKeyIsSmall(t *testing.T) {
	const n = 100_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("mail-%d.example.org", i)
	}
	th := throttle.New(throttle.Limits{Rate: 10}, nil)
	before := heap()
	for _, name := range names {
		get(t, th, name)(throttle.Good)
	}
	each := float64(heap()-before) / n
	t.Logf("%.0f octets an idle key", each)
	require.Equal(t, n, th.Len())
	require.Less(t, each, 1000.0)
	runtime.KeepAlive(names)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestLimits(t *testing.T) {
	require.NoError(t, throttle.Limits{}.Check())
	for _, bad := range []throttle.Limits{
		{Connections: -1}, {Max: -1}, {Burst: -1}, {Rate: -1}, {Rate: math.NaN()}, {Rate: math.Inf(1)}, {Pause: -1}, {MaxPause: -1}, {Forget: -1},
	} {
		require.Error(t, bad.Check())
		require.LessOrEqual(t, throttle.New(bad, nil).Look("a").Limit, 5)
	}
	for _, c := range []struct {
		l    throttle.Limits
		want int
	}{{throttle.Limits{}, 5}, {throttle.Limits{Max: 3}, 3}, {throttle.Limits{Connections: 30}, 30}, {throttle.Limits{Connections: 9, Max: 4}, 4}} {
		require.Equal(t, c.want, throttle.New(c.l, nil).Look("a").Limit)
	}
}

func BenchmarkAcquire(b *testing.B) {
	th := throttle.New(throttle.Limits{}, nil)
	b.ReportAllocs()
	for b.Loop() {
		release, _ := th.Acquire(b.Context(), "example.org")
		release(throttle.Good)
	}
}

func TestOneWhoComesDuringAWakeUpWaitsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 1}, nil)
		for range 200 {
			hold := get(t, th, "a")
			var order []string
			var wg sync.WaitGroup
			wg.Go(func() {
				release := get(t, th, "a")
				order = append(order, "waiter")
				release(throttle.Neutral)
			})
			synctest.Wait()
			hold(throttle.Neutral)
			release := get(t, th, "a")
			order = append(order, "newcomer")
			release(throttle.Neutral)
			wg.Wait()
			require.Equal(t, []string{"waiter", "newcomer"}, order)
		}
	})
}

func TestTheQueueMovesWithoutAnyRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := throttle.New(throttle.Limits{Connections: 10, Rate: 1}, nil)
		start := time.Now()
		var wg sync.WaitGroup
		var held [5]func(throttle.Verdict)
		for i := range held {
			wg.Go(func() { held[i] = get(t, th, "a") })
			synctest.Wait()
		}
		wg.Wait()
		require.InDelta(t, 4, time.Since(start).Seconds(), 0.001)
		require.Equal(t, 5, th.Look("a").Active)
		for _, release := range held {
			release(throttle.Neutral)
		}
	})
}

// A clock that is set back to before the Throttle's beginning closes nothing that nobody closed.
func TestClockSetBackBeforeTheBeginning(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	th := throttle.New(throttle.Limits{Wait: -1}, func() time.Time { return now })
	now = now.Add(-365 * 24 * time.Hour)
	release, err := th.Acquire(t.Context(), "a")
	require.NoError(t, err)
	require.Zero(t, th.Look("a").Paused)
	release(throttle.Stop)
	_, err = th.Acquire(t.Context(), "a")
	require.Error(t, err)
	now = now.Add(time.Hour)
	release, err = th.Acquire(t.Context(), "a")
	require.NoError(t, err)
	release(throttle.Good)
}
