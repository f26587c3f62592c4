package mtasts_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/mtasts"
)

func refresh(t *testing.T, c *mtasts.Cache) int {
	t.Helper()
	n, err := c.Refresh(t.Context())
	require.NoError(t, err)
	return n
}

// TestRefreshWhen: between three quarters of and all of min(24 h, max_age/2).
func TestRefreshWhen(t *testing.T) {
	for age, every := range map[string]time.Duration{"604800": 24 * time.Hour, "86400": 12 * time.Hour, "31557600": 24 * time.Hour, "3600": 30 * time.Minute} {
		t.Run(age, func(t *testing.T) {
			w := newWorld().publish("a1", "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: "+age+"\n")
			c := w.start(t)
			first := lookup(t, c).Expires
			w.pass(every*3/4 - time.Second)
			require.Zero(t, refresh(t, c))
			w.pass(every/4 + time.Second)
			require.Equal(t, 1, refresh(t, c))
			s := lookup(t, c)
			require.Equal(t, first.Add(every), s.Expires)
			require.Equal(t, mtasts.SourceLive, s.Source)
			require.Zero(t, refresh(t, c))
		})
	}
}

func TestRefreshSpreads(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	const domains = 400
	for i := range domains {
		_, err := c.Lookup(t.Context(), fmt.Sprintf("d%d.example", i))
		require.NoError(t, err)
	}
	w.pass(18 * time.Hour)
	total := 0
	for range 6 {
		n := refresh(t, c)
		require.Less(t, n, domains/3)
		total += n
		w.pass(time.Hour)
	}
	require.Equal(t, domains, total+refresh(t, c))
}

func TestRefreshTakesWhatIsNew(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	lookup(t, c)
	w.publish("b2", "version: STSv1\nmode: testing\nmx: b.example\nmax_age: 86400\n")
	w.pass(24 * time.Hour)
	fresh := w.start(t) // a process to which nobody has talked yet
	require.Equal(t, 1, refresh(t, fresh))
	e, err := w.store.Load(t.Context(), "example.com")
	require.NoError(t, err)
	require.Equal(t, "b2", e.ID)
	require.Equal(t, mtasts.Testing, e.Mode)
	require.Equal(t, w.clock().Add(-24*time.Hour), e.Used, "a refresh is no use")
}

// What a refresh brings is whole: id, policy and text stay in step, in memory and in the Store (mox refreshes the policy alone).
func TestRefreshKeepsTheTextInStep(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	lookup(t, c)
	const next = "version: STSv1\nmode: enforce\nmx: b.example\nmax_age: 604800\n"
	w.publish("b2", next)
	w.pass(24 * time.Hour)
	require.Equal(t, 1, refresh(t, c))
	w.set(func() { w.txtErr, w.fetchErr = errServFail, errBlocked })
	w.pass(time.Hour)
	for _, cache := range []*mtasts.Cache{c, w.start(t)} {
		s := lookup(t, cache)
		require.Equal(t, "b2", s.ID)
		require.Equal(t, next, string(s.Text))
		require.Equal(t, next, s.Policy.String())
	}
}

func TestRefreshLeavesOut(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(w *world)
		want int
	}{
		{"record gone", func(w *world) { w.txtErr = errNoName }, 0},
		{"SERVFAIL: the policy host is asked all the same", func(w *world) { w.txtErr = errServFail }, 1},
		{"blocked HTTPS", func(w *world) { w.fetchErr = errBlocked }, 0},
		{"nothing in the way", func(*world) {}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			cache := w.start(t)
			lookup(t, cache)
			c.harm(w)
			w.pass(24 * time.Hour)
			require.Equal(t, c.want, refresh(t, cache))
			require.True(t, lookup(t, cache).Enforced())
		})
	}
	t.Run("expired", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.pass(8 * 24 * time.Hour)
		require.Zero(t, refresh(t, c))
	})
	t.Run("unused for 180 days", func(t *testing.T) {
		w := newWorld().publish("a1", "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 31557600\n")
		c := w.start(t)
		lookup(t, c)
		w.pass(180 * 24 * time.Hour)
		require.Equal(t, 1, refresh(t, c))
		w.pass(24 * time.Hour)
		require.Zero(t, refresh(t, c))
		lookup(t, c)
		require.Equal(t, 1, refresh(t, c), "used again")
	})
	t.Run("damaged", func(t *testing.T) {
		w := newWorld()
		e := mtasts.Entry{Domain: "example.com", Text: []byte("garbage"), Expires: w.now.Add(time.Hour), Used: w.now}
		require.NoError(t, w.store.Save(t.Context(), e))
		require.Zero(t, refresh(t, w.start(t)))
	})
}

// TestRefreshAfterWrongClock: what was fetched by a clock that ran ahead is refreshed neither never nor in each round, and
// what is fetched by the right one counts as newer.
func TestRefreshAfterWrongClock(t *testing.T) {
	w := newWorld()
	w.pass(10 * 365 * 24 * time.Hour)
	lookup(t, w.start(t))
	w.pass(-10 * 365 * 24 * time.Hour)
	c := w.start(t)
	before, err := w.store.Load(t.Context(), "example.com")
	require.NoError(t, err)
	w.publish("b2", "version: STSv1\nmode: enforce\nmx: b.example\nmax_age: 604800\n")
	total := 0
	for range 3 * 24 * 6 {
		total += refresh(t, c)
		w.pass(10 * time.Minute)
	}
	require.GreaterOrEqual(t, total, 3)
	require.LessOrEqual(t, total, 7)
	after, err := w.store.Load(t.Context(), "example.com")
	require.NoError(t, err)
	require.Equal(t, "b2", after.ID)
	require.True(t, after.Fetched.After(before.Fetched))
}

// TestRefreshHoldsWhatIsNotStored: a policy that a refresh fetched and the Store refused stays in memory.
func TestRefreshHoldsWhatIsNotStored(t *testing.T) {
	w := newWorld()
	lookup(t, w.start(t))
	w.publish("b2", "version: STSv1\nmode: enforce\nmx: b.example\nmax_age: 86400\n")
	w.set(func() { w.save = errDisk })
	w.pass(24 * time.Hour)
	c := w.start(t)
	_, err := c.Refresh(t.Context())
	require.ErrorIs(t, err, errDisk)
	w.set(func() { w.txtErr = errServFail })
	w.pass(time.Minute)
	require.Equal(t, "b2", lookup(t, c).ID)
}

func TestRefreshStoreFails(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	lookup(t, c)
	w.set(func() { w.load = errDisk })
	_, err := c.Refresh(t.Context())
	require.ErrorIs(t, err, errDisk)
	w.set(func() { w.load, w.save = nil, errDisk })
	_, err = c.Refresh(t.Context())
	require.ErrorIs(t, err, errDisk, "not swept")
}

// TestUsed: once a day the Store learns that a policy is in use, and what another process stored is not overwritten.
func TestUsed(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	lookup(t, c)
	w.pass(25 * time.Hour)
	lookup(t, c)
	e, err := w.store.Load(t.Context(), "example.com")
	require.NoError(t, err)
	require.Equal(t, w.clock(), e.Used)

	e.Fetched, e.Text = w.clock().Add(time.Hour), []byte("version: STSv1\nmode: enforce\nmx: other.example\nmax_age: 604800\n")
	require.NoError(t, w.store.Save(t.Context(), e))
	w.pass(25 * time.Hour)
	require.True(t, lookup(t, c).Policy.Match("other.example"))
	e, err = w.store.Load(t.Context(), "example.com")
	require.NoError(t, err)
	require.Contains(t, string(e.Text), "other.example")

	w.set(func() { w.load = errDisk })
	w.pass(25 * time.Hour)
	require.True(t, lookup(t, c).Enforced())
}

// TestSweep: what expired more than a year ago goes, but not because of a clock that jumps.
func TestSweep(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	lookup(t, c)
	left := func() int {
		es, err := w.store.List(t.Context(), "", 9)
		require.NoError(t, err)
		return len(es)
	}
	refresh(t, c)
	w.pass(20 * 365 * 24 * time.Hour)
	for range 50 {
		refresh(t, c)
	}
	require.Equal(t, 1, left(), "time has to pass, not only the clock")
	_, err := w.start(t).Lookup(t.Context(), "other.example") // It proves the time.
	require.NoError(t, err)
	refresh(t, w.start(t))
	require.Equal(t, 1, left())
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		c, err := mtasts.New(w, &mtasts.Options{Resolver: w, Fetcher: w})
		require.NoError(t, err)
		_, err = c.Lookup(t.Context(), "example.com")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(24*time.Hour + 20*time.Minute)
		_, fetched := w.counts()
		require.Equal(t, 2, fetched)
		w.set(func() { w.load = errDisk })
		time.Sleep(time.Hour)
		w.set(func() { w.load = nil })
		time.Sleep(10 * 24 * time.Hour)
		_, fetched = w.counts()
		require.InDelta(t, 13, fetched, 2)
		cancel()
		require.NoError(t, <-done)
		require.Zero(t, refreshed(c, ctx))
	})
}

func refreshed(c *mtasts.Cache, ctx context.Context) int {
	n, _ := c.Refresh(ctx)
	return n
}
