package transport_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

// observer is a Transport that can tell about domains.
type observer struct{ prober }

func (*observer) Observe(_ context.Context, _, domain string) (*transport.Observation, error) {
	return &transport.Observation{Domain: domain}, nil
}

func limit(t testing.TB, inner securemail.Transport, o *transport.LimitOptions) *transport.Limiter {
	l, err := transport.Limit(inner, o)
	require.NoError(t, err)
	return l
}

// retry requires that err keeps the parcel, was not the far end's, and says when to come again.
func retry(t *testing.T, err error) *securemail.DeliveryError {
	t.Helper()
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, securemail.FateRetry, de.Fate)
	require.Zero(t, de.Code)
	require.NotErrorIs(t, err, securemail.ErrChannel)
	return de
}

// slow is a Transport that takes its time, and counts how many deliveries it has at once.
type slow struct {
	takes     time.Duration
	now, most atomic.Int64
}

func (s *slow) Deliver(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for {
		most := s.most.Load()
		if n <= most || s.most.CompareAndSwap(most, n) {
			break
		}
	}
	time.Sleep(s.takes)
	return &securemail.Receipt{Peer: "ok"}, nil
}

func TestLimitConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slow{takes: time.Second}
		l := limit(t, inner, &transport.LimitOptions{Connections: 2, Max: 2, Total: 3})
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 12 {
			wg.Go(func() {
				_, err := l.Deliver(t.Context(), to(t, fmt.Sprintf("a@%d.test", i%2)))
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.EqualValues(t, 3, inner.most.Load(), "the total")
		took := time.Since(start) // 5 s where one domain is served first, and the other's last go two at a time
		require.True(t, took == 4*time.Second || took == 5*time.Second, took)

		inner.most.Store(0)
		for range 6 {
			wg.Go(func() { _, _ = l.Deliver(t.Context(), to(t, "a@0.test")) })
		}
		wg.Wait()
		require.EqualValues(t, 2, inner.most.Load(), "the domain")
	})
}

func TestLimitTurnsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slow{takes: time.Minute}
		for name, o := range map[string]transport.LimitOptions{
			"domain":      {Connections: 1, Max: 1, Wait: 10 * time.Second},
			"total":       {Total: 1, Wait: 10 * time.Second},
			"domain rate": {Rate: 0.01, Wait: 10 * time.Second},
			"total rate":  {TotalRate: 0.01, Wait: 10 * time.Second},
			"not at all":  {Connections: 1, Max: 1, Wait: -1},
		} {
			l := limit(t, inner, &o)
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = l.Deliver(t.Context(), to(t, "canary@a.test")) })
			synctest.Wait()
			start := time.Now()
			s := to(t, "canary@a.test")
			s.OnIntend = func(context.Context) error { t.Error("intended"); return nil }
			_, err := l.Deliver(t.Context(), s)
			de := retry(t, err)
			require.Positive(t, de.RetryAfter, name)
			require.Equal(t, "4.4.5", de.Enhanced)
			require.NotContains(t, err.Error(), "canary")
			require.LessOrEqual(t, time.Since(start), 10*time.Second)
			wg.Wait()
		}
	})
}

func TestLimitContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit(t, &slow{takes: time.Minute}, &transport.LimitOptions{Connections: 1, Max: 1})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = l.Deliver(t.Context(), to(t, "a@a.test")) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.Deliver(ctx, to(t, "a@a.test"))
		retry(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		wg.Wait()
	})
}

// TestLimitLearns: after one answer, how many more begin at once, and is the domain closed?
func TestLimitLearns(t *testing.T) {
	failed := func(stage string, code int, enhanced string) error {
		return &securemail.DeliveryError{Stage: stage, Code: code, Enhanced: enhanced}
	}
	const start = 8
	for name, c := range map[string]struct {
		err    error
		limit  int64
		closed bool
	}{
		"success":         {nil, start, false},
		"4xx":             {failed("mail", 451, "4.3.2"), start / 2, false},
		"4xx without":     {failed("dot", 450, ""), start / 2, false},
		"uncertain":       {&securemail.DeliveryError{Stage: "dot", Fate: securemail.FateUncertain}, start / 2, false},
		"mailbox full":    {failed("rcpt", 452, "4.2.2"), start, false},
		"greylisted":      {failed("rcpt", 450, "4.1.8"), start, false},
		"resolve":         {failed("resolve", 0, "4.4.3"), start, false},
		"permanent":       {&securemail.DeliveryError{Stage: "rcpt", Code: 550, Fate: securemail.FatePermanent}, start, false},
		"permanent door":  {&securemail.DeliveryError{Stage: "greeting", Code: 554, Fate: securemail.FatePermanent}, start, false},
		"floor":           {&securemail.ChannelError{Temporary: true}, start, false},
		"plain":           {errors.New("plain"), start, false},
		"lost":            {failed("mail", 0, ""), start, false},
		"421":             {failed("mail", 421, ""), 1, true},
		"refused":         {failed("connect", 0, ""), 1, true},
		"door":            {failed("greeting", 450, ""), 1, true},
		"too many":        {failed("http", 429, ""), 1, true},
		"no service":      {failed("http", 503, ""), 1, true},
		"provider's own":  {failed("http", 500, ""), start, false},
		"wrapped deliver": {fmt.Errorf("wrapped: %w", failed("mail", 421, "")), 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := &slow{takes: time.Second}
				first := true
				inner := securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
					if first {
						first = false
						return nil, c.err
					}
					return next.Deliver(ctx, s)
				})
				l := limit(t, inner, &transport.LimitOptions{Connections: start, Max: start, Pause: time.Minute, Wait: 10 * time.Second})
				_, err := l.Deliver(t.Context(), to(t, "a@a.test"))
				require.Equal(t, c.err, err)
				if c.closed {
					_, err = l.Deliver(t.Context(), to(t, "a@a.test"))
					require.Equal(t, time.Minute, retry(t, err).RetryAfter)
					_, err = l.Deliver(t.Context(), to(t, "a@other.test"))
					require.NoError(t, err)
					next.most.Store(0)
					time.Sleep(time.Minute)
				}
				var wg sync.WaitGroup
				for range start + 2 {
					wg.Go(func() { _, _ = l.Deliver(t.Context(), to(t, "a@a.test")) })
				}
				synctest.Wait()
				require.Equal(t, c.limit, next.most.Load())
				wg.Wait()
			})
		})
	}
}

func TestLimitInsideLimit(t *testing.T) {
	inner := limit(t, &way{}, &transport.LimitOptions{Rate: 0.001, Wait: -1})
	l := limit(t, inner, &transport.LimitOptions{Wait: -1})
	_, err := l.Deliver(t.Context(), to(t, "a@a.test"))
	require.NoError(t, err)
	for range 2 { // our own answer does not close the domain
		_, err = l.Deliver(t.Context(), to(t, "a@a.test"))
		require.Greater(t, retry(t, err).RetryAfter, 15*time.Minute)
	}
}

func TestLimitOutlivesPanics(t *testing.T) {
	inner := securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) { panic("x") })
	l := limit(t, inner, &transport.LimitOptions{Connections: 1, Max: 1, Total: 1, Wait: -1})
	for range 3 {
		require.PanicsWithValue(t, "x", func() { _, _ = l.Deliver(t.Context(), to(t, "a@a.test")) })
	}
}

func TestLimitOptions(t *testing.T) {
	_, err := transport.Limit(nil, &transport.LimitOptions{Max: -1, TotalRate: -1})
	require.ErrorContains(t, err, "no transport")
	require.ErrorContains(t, err, "negative")
	for _, bad := range []transport.LimitOptions{{Connections: -1}, {Rate: -1}, {Burst: -1}, {Pause: -1}, {MaxPause: -1}, {Forget: -1}, {Total: -1}, {TotalBurst: -1}} {
		_, err = transport.Limit(&way{}, &bad)
		require.Error(t, err)
	}
	l := limit(t, &way{}, nil)
	_, err = l.Deliver(t.Context(), to(t, "a@a.test"))
	require.NoError(t, err)
}

// TestCombinatorsTell: what the wrapped Transport knows of domains is asked for, where it knows.
func TestCombinatorsTell(t *testing.T) {
	wrap := map[string]func(securemail.Transport) securemail.Transport{
		"limit":  func(w securemail.Transport) securemail.Transport { return limit(t, w, nil) },
		"record": func(w securemail.Transport) securemail.Transport { return record(t, w, nothing) },
		"domain": func(w securemail.Transport) securemail.Transport {
			r, err := transport.ByDomain(map[string]securemail.Transport{"a.test": w}, nil)
			require.NoError(t, err)
			return r
		},
	}
	for name, w := range wrap {
		able, unable := w(&observer{}), w(&way{})
		route, err := able.(securemail.Prober).Probe(t.Context(), "", "a.test")
		require.NoError(t, err, name)
		require.True(t, route.Known)
		seen, err := able.(transport.Observer).Observe(t.Context(), "", "a.test")
		require.NoError(t, err)
		require.Equal(t, "a.test", seen.Domain)

		route, err = unable.(securemail.Prober).Probe(t.Context(), "", "a.test")
		require.NoError(t, err)
		require.False(t, route.Known)
		_, err = unable.(transport.Observer).Observe(t.Context(), "", "a.test")
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
}
