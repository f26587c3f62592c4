package throttle_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/throttle"
)

// plan is one caller's life.
type plan struct {
	key      string
	at       time.Duration
	work     time.Duration
	patience time.Duration // of its context; 0: none
	verdict  throttle.Verdict
}

func drawPlans(rt *rapid.T) []plan {
	ms := func(name string, most int) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(rt, name)) * time.Millisecond
	}
	out := make([]plan, rapid.IntRange(1, 60).Draw(rt, "callers"))
	for i := range out {
		out[i] = plan{
			key: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key"),
			at:  ms("at", 2000), work: ms("work", 500), patience: ms("patience", 3000),
			verdict: throttle.Verdict(rapid.IntRange(0, 3).Draw(rt, "verdict")),
		}
	}
	return out
}

func drawLimits(rt *rapid.T) throttle.Limits {
	l := throttle.Limits{
		Connections: rapid.IntRange(1, 4).Draw(rt, "connections"),
		Max:         rapid.IntRange(1, 6).Draw(rt, "max"),
		Wait:        time.Duration(rapid.IntRange(-1, 3000).Draw(rt, "wait")) * time.Millisecond,
		Pause:       time.Duration(rapid.IntRange(1, 2000).Draw(rt, "pause")) * time.Millisecond,
		MaxPause:    5 * time.Second,
		Forget:      time.Duration(rapid.IntRange(1, 1000).Draw(rt, "forget")) * time.Millisecond,
	}
	if rapid.Bool().Draw(rt, "rated") {
		l.Rate = float64(rapid.IntRange(1, 50).Draw(rt, "rate"))
		l.Burst = rapid.IntRange(1, 5).Draw(rt, "burst")
	}
	return l
}

// crowd runs plans against one Throttle and counts.
type crowd struct {
	th     *throttle.Throttle
	limits throttle.Limits

	mu     sync.Mutex
	inside map[string]int
	passed map[string][]time.Duration
	faults []string
}

func (c *crowd) fault(s string) { c.faults = append(c.faults, s) }

func (c *crowd) live(p plan) {
	start := time.Now()
	time.Sleep(p.at)
	ctx := context.Background()
	if p.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.patience)
		defer cancel()
	}
	asked := time.Now()
	release, err := c.th.Acquire(ctx, p.key)
	waited := time.Since(asked)
	c.mu.Lock()
	if wait := c.limits.Wait; wait != 0 && waited > max(0, wait) {
		c.fault("waited too long")
	}
	if err != nil {
		c.mu.Unlock()
		return
	}
	c.inside[p.key]++
	c.passed[p.key] = append(c.passed[p.key], time.Since(start))
	if c.inside[p.key] > max(c.limits.Max, 1) {
		c.fault("more than Max at once")
	}
	c.mu.Unlock()
	time.Sleep(p.work)
	c.mu.Lock()
	c.inside[p.key]--
	c.mu.Unlock()
	release(p.verdict)
}

// rated checks that no span of time has let through more than the burst and the rate allow.
func (c *crowd) rated() {
	if c.limits.Rate == 0 {
		return
	}
	for _, at := range c.passed {
		for i := range at {
			for j := i; j < len(at); j++ {
				if allowed := float64(c.limits.Burst) + c.limits.Rate*(at[j]-at[i]).Seconds(); float64(j-i+1) > allowed+1e-3 {
					c.fault("faster than the rate")
					return
				}
			}
		}
	}
}

// TestCrowd: never more than the limit at once, never faster than the rate, nobody waits longer than allowed, and everybody
// comes to an end with nothing left behind. A lost wake-up shows in TestEverybodyIsServed.
func TestCrowd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &crowd{limits: drawLimits(rt), inside: map[string]int{}, passed: map[string][]time.Duration{}}
		plans := drawPlans(rt)
		synctest.Test(t, func(t *testing.T) {
			c.th = throttle.New(c.limits, nil)
			var wg sync.WaitGroup
			for _, p := range plans {
				wg.Go(func() { c.live(p) })
			}
			wg.Wait() // a caller without an end would be a deadlock of the bubble
			for _, key := range []string{"a", "b"} {
				if s := c.th.Look(key); s.Active != 0 || s.Waiting != 0 {
					c.fault("something is left")
				}
			}
		})
		c.rated()
		if len(c.faults) > 0 {
			rt.Fatal(c.faults)
		}
	})
}

// TestEverybodyIsServed: where the time to wait is enough for all, none is turned away, however many give up meanwhile.
func TestEverybodyIsServed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limits := drawLimits(rt)
		limits.Wait = time.Hour
		plans := drawPlans(rt)
		var mu sync.Mutex
		refused := 0
		synctest.Test(t, func(*testing.T) {
			th := throttle.New(limits, nil)
			var wg sync.WaitGroup
			for _, p := range plans {
				wg.Go(func() {
					time.Sleep(p.at)
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					if p.patience%(2*time.Millisecond) != 0 {
						time.AfterFunc(p.patience, cancel)
					}
					release, err := th.Acquire(ctx, p.key)
					if err != nil {
						mu.Lock()
						if ctx.Err() == nil {
							refused++
						}
						mu.Unlock()
						return
					}
					time.Sleep(p.work)
					release(p.verdict)
				})
			}
			wg.Wait()
		})
		if refused > 0 {
			rt.Fatalf("%d of %d were turned away", refused, len(plans))
		}
	})
}
