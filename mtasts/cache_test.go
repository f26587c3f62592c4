package mtasts_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/mtasts"
)

var (
	errServFail = &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	errNoName   = &net.DNSError{Err: "no such host", IsNotFound: true}
	errBlocked  = &mtasts.FetchError{Rule: mtasts.RuleConnect}
	errDisk     = errors.New("disk full")
)

// world is DNS, the policy host, the clock and the Store around a Cache, each of which fails as a test asks.
type world struct {
	mu            sync.Mutex // guards all
	txt           []string
	txtErr        error
	text          string
	fetchErr      error
	load, save    error // what the Store answers, if not nil
	asked, fetchd int
	now           time.Time
	store         *mtasts.Memory
}

func newWorld() *world {
	w := &world{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	w.store = mtasts.NewMemory(&mtasts.MemoryOptions{Now: w.clock})
	return w.publish("a1", good)
}

func (w *world) publish(id, text string) *world {
	w.set(func() { w.txt, w.txtErr, w.text, w.fetchErr = []string{"v=STSv1; id=" + id + ";"}, nil, text, nil })
	return w
}

func (w *world) set(f func()) { w.mu.Lock(); defer w.mu.Unlock(); f() }

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) pass(d time.Duration) { w.set(func() { w.now = w.now.Add(d) }) }

func (w *world) LookupTXT(_ context.Context, name string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.HasPrefix(name, "_mta-sts.") || !strings.HasSuffix(name, ".") {
		return nil, fmt.Errorf("wrong name %s", name)
	}
	w.asked++
	return w.txt, w.txtErr
}

func (w *world) Fetch(context.Context, string) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetchd++
	return []byte(w.text), w.fetchErr
}

func (w *world) Load(ctx context.Context, domain string) (mtasts.Entry, error) {
	w.mu.Lock()
	err := w.load
	w.mu.Unlock()
	if err != nil {
		return mtasts.Entry{}, err
	}
	return w.store.Load(ctx, domain)
}

func (w *world) Save(ctx context.Context, e mtasts.Entry) error {
	w.mu.Lock()
	err := w.save
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return w.store.Save(ctx, e)
}

func (w *world) List(ctx context.Context, after string, n int) ([]mtasts.Entry, error) {
	w.mu.Lock()
	err := w.load
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return w.store.List(ctx, after, n)
}

func (w *world) Sweep(ctx context.Context, before time.Time) (int, error) {
	w.mu.Lock()
	err := w.save
	w.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return w.store.Sweep(ctx, before)
}

// start is a process that begins: a new Cache on the same Store.
func (w *world) start(t require.TestingT) *mtasts.Cache {
	c, err := mtasts.New(w, &mtasts.Options{Resolver: w, Fetcher: w, Now: w.clock, Rand: func() float64 { return 0.5 }})
	require.NoError(t, err)
	return c
}

func (w *world) counts() (asked, fetched int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked, w.fetchd
}

func lookup(t require.TestingT, c *mtasts.Cache) mtasts.State {
	s, err := c.Lookup(context.Background(), "example.com")
	require.NoError(t, err)
	return s
}

func rules(s mtasts.State) (rs []mtasts.Rule) {
	for _, f := range s.Findings {
		rs = append(rs, f.Rule)
	}
	return rs
}

func TestLookup(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	s := lookup(t, c)
	require.True(t, s.Enforced())
	require.Equal(t, "a1", s.ID)
	require.Equal(t, good, string(s.Text))
	require.Equal(t, mtasts.SourceLive, s.Source)
	require.True(t, s.Confirmed)
	require.Equal(t, w.clock().Add(7*24*time.Hour), s.Expires)
	require.Empty(t, s.Findings)

	w.pass(time.Minute)
	s = lookup(t, c)
	require.Equal(t, mtasts.SourceCached, s.Source)
	require.True(t, s.Confirmed)
	asked, fetched := w.counts()
	require.Equal(t, []int{2, 1}, []int{asked, fetched})
}

func TestLookupNames(t *testing.T) {
	w := newWorld()
	c := w.start(t)
	for _, d := range []string{"bücher.example", "BÜCHER.example.", "xn--bcher-kva.example", "XN--BCHER-KVA.EXAMPLE."} {
		s, err := c.Lookup(t.Context(), d)
		require.NoError(t, err)
		require.True(t, s.Enforced())
	}
	asked, _ := w.counts()
	require.Equal(t, 1, asked, "one domain however it is written")
	for _, d := range []string{"[192.0.2.1]", "192.0.2.1", "[IPv6:2001:db8::1]"} {
		s, err := c.Lookup(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, mtasts.SourceNone, s.Source, d)
		s, err = c.Recheck(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, mtasts.SourceNone, s.Source, d)
	}
	for _, d := range []string{"", "a b.example", "a..b", strings.Repeat("a.", 123) + "a", strings.Repeat("a", 64) + ".example"} {
		_, err := c.Lookup(t.Context(), d)
		require.Error(t, err, d)
		_, err = c.Recheck(t.Context(), d)
		require.Error(t, err, d)
	}
	asked, _ = w.counts()
	require.Equal(t, 1, asked)
}

// TestCachedPolicySurvives is traps 1 to 3: what an attacker, or bad luck, does to DNS, HTTPS, the process and the Store.
func TestCachedPolicySurvives(t *testing.T) {
	for _, c := range []struct {
		name    string
		harm    func(w *world)
		finding []mtasts.Rule
	}{
		{"changed id, blocked HTTPS", func(w *world) { w.publish("evil", ""); w.fetchErr = errBlocked }, []mtasts.Rule{mtasts.RuleConnect}},
		{"changed id, wrong certificate", func(w *world) { w.publish("evil", ""); w.fetchErr = &mtasts.FetchError{Rule: mtasts.RuleCertificate} }, []mtasts.Rule{mtasts.RuleCertificate}},
		{"changed id, no policy but a page", func(w *world) { w.publish("evil", "<html>") }, []mtasts.Rule{mtasts.RuleSyntax}},
		{"record gone", func(w *world) { w.txt, w.txtErr = nil, errNoName }, []mtasts.Rule{mtasts.RuleRecordGone}},
		{"record gone, other records there", func(w *world) { w.txt = []string{"v=spf1 -all"} }, []mtasts.Rule{mtasts.RuleRecordGone}},
		{"two records", func(w *world) { w.txt = append(w.txt, "v=STSv1; id=b;") }, []mtasts.Rule{mtasts.RuleOne}},
		{"broken record", func(w *world) { w.txt = []string{"v=STSv1; id=;"} }, []mtasts.Rule{mtasts.RuleID}},
		{"SERVFAIL", func(w *world) { w.txtErr = errServFail }, []mtasts.Rule{mtasts.RuleDNS}},
		{"not found, but only for now", func(w *world) { w.txtErr = &net.DNSError{IsNotFound: true, IsTemporary: true} }, []mtasts.Rule{mtasts.RuleDNS}},
		{"nothing happens", func(*world) {}, nil},
	} {
		for _, restart := range []string{"same process", "restart"} {
			t.Run(c.name+", "+restart, func(t *testing.T) {
				w := newWorld()
				cache := w.start(t)
				lookup(t, cache)
				c.harm(w)
				w.pass(6 * 24 * time.Hour)
				if restart == "restart" {
					cache = w.start(t)
				}
				for range 3 {
					s := lookup(t, cache)
					require.True(t, s.Enforced())
					require.Equal(t, "a1", s.ID)
					require.Equal(t, good, string(s.Text))
					require.Equal(t, mtasts.SourceCached, s.Source)
					require.Equal(t, c.finding, rules(s))
					require.Equal(t, c.finding == nil, s.Confirmed)
					w.pass(time.Minute)
				}
			})
		}
	}
}

// TestNothingCached is trap 2 and RFC 8461 section 3.3: doubt is an error, and only what is sure is none.
func TestNothingCached(t *testing.T) {
	for _, c := range []struct {
		name      string
		harm      func(w *world)
		unknown   bool
		confirmed bool
		finding   []mtasts.Finding
	}{
		{"no such name", func(w *world) { w.txtErr = errNoName }, false, true, nil},
		{"no STS record", func(w *world) { w.txt = []string{"v=spf1 -all"} }, false, true, nil},
		{"two records", func(w *world) { w.txt = append(w.txt, w.txt...) }, false, true, []mtasts.Finding{{Rule: mtasts.RuleOne, Text: "the STS record is not usable"}}},
		{"SERVFAIL", func(w *world) { w.txtErr = errServFail }, true, false, nil},
		{"time-out", func(w *world) { w.txtErr = context.DeadlineExceeded }, true, false, nil},
		{"blocked HTTPS", func(w *world) { w.fetchErr = errBlocked }, false, false, []mtasts.Finding{{Rule: mtasts.RuleConnect, Result: "sts-policy-fetch-error", Text: "the policy could not be fetched"}}},
		{"another Fetcher's error", func(w *world) { w.fetchErr = errDisk }, false, false, []mtasts.Finding{{Rule: mtasts.RuleConnect, Result: "sts-policy-fetch-error", Text: "the policy could not be fetched"}}},
		{"wrong certificate", func(w *world) { w.fetchErr = &mtasts.FetchError{Rule: mtasts.RuleCertificate} }, false, false, []mtasts.Finding{{Rule: mtasts.RuleCertificate, Result: "sts-webpki-invalid", Text: "the policy could not be fetched"}}},
		{"broken policy", func(w *world) { w.text = "mode: enforce" }, false, false, []mtasts.Finding{{Rule: mtasts.RuleVersion, Result: "sts-policy-invalid", Text: "the policy could not be fetched"}}},
		{"Store not readable, no record", func(w *world) { w.load, w.txtErr = errDisk, errNoName }, true, false, nil},
		{"Store not readable, no policy", func(w *world) { w.load, w.fetchErr = errDisk, errBlocked }, true, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			c.harm(w)
			s, err := w.start(t).Lookup(t.Context(), "example.com")
			if c.unknown {
				require.ErrorIs(t, err, mtasts.ErrUnknown)
				require.Zero(t, s)
				return
			}
			require.NoError(t, err)
			require.Equal(t, mtasts.State{Source: mtasts.SourceNone, Confirmed: c.confirmed, Findings: c.finding}, s)
		})
	}
}

// TestStoreFails is trap 3, the second half.
func TestStoreFails(t *testing.T) {
	t.Run("not written: memory has it, and writes it later", func(t *testing.T) {
		w := newWorld()
		w.save = errDisk
		c := w.start(t)
		require.Equal(t, []mtasts.Rule{mtasts.RuleStore}, rules(lookup(t, c)))
		w.set(func() { w.txtErr = errServFail })
		w.pass(time.Hour)
		require.True(t, lookup(t, c).Enforced())
		w.set(func() { w.txtErr, w.save = nil, nil })
		w.pass(time.Minute)
		require.Empty(t, lookup(t, c).Findings)
		w.set(func() { w.txtErr = errServFail })
		require.True(t, lookup(t, w.start(t)).Enforced(), "after a restart")
	})
	t.Run("not written: a refresh writes it", func(t *testing.T) {
		w := newWorld()
		w.save = errDisk
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.save, w.txtErr = nil, errServFail })
		n, err := c.Refresh(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
		require.True(t, lookup(t, w.start(t)).Enforced())
	})
	t.Run("not readable: memory has it", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.load = errDisk })
		w.pass(time.Hour)
		require.True(t, lookup(t, c).Enforced())
	})
	t.Run("not readable: a live policy counts", func(t *testing.T) {
		w := newWorld()
		w.load = errDisk
		require.True(t, lookup(t, w.start(t)).Enforced())
	})
	t.Run("a damaged entry is not none until it expires", func(t *testing.T) {
		w := newWorld()
		e := mtasts.Entry{Domain: "example.com", ID: "a1", Text: []byte("garbage"), Fetched: w.now, Expires: w.now.Add(time.Hour)}
		require.NoError(t, w.store.Save(t.Context(), e))
		w.set(func() { w.txtErr = errNoName })
		c := w.start(t)
		_, err := c.Lookup(t.Context(), "example.com")
		require.ErrorIs(t, err, mtasts.ErrUnknown)
		w.pass(time.Hour)
		require.Equal(t, mtasts.SourceNone, lookup(t, c).Source)
	})
	t.Run("what expired in memory does not bring back what it replaced", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.publish("b2", "version: STSv1\nmode: none\nmax_age: 3600\n").set(func() { w.save = errDisk })
		w.pass(time.Minute)
		require.False(t, lookup(t, c).Enforced())
		w.set(func() { w.txtErr = errNoName })
		w.pass(2 * time.Hour)
		require.Equal(t, mtasts.SourceNone, lookup(t, c).Source)
	})
}

func TestModesAndExpiry(t *testing.T) {
	t.Run("a new id brings the new policy", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.publish("b2", strings.Replace(good, "enforce", "testing", 1))
		require.True(t, lookup(t, c).Enforced(), "within the minute")
		w.pass(time.Minute)
		s := lookup(t, c)
		require.Equal(t, mtasts.Testing, s.Policy.Mode)
		require.Equal(t, "b2", s.ID)
		require.Contains(t, string(s.Text), "testing", "the text is in step")
	})
	t.Run("the same id is not fetched", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.publish("a1", "garbage")
		w.pass(time.Hour)
		require.True(t, lookup(t, c).Confirmed)
	})
	t.Run("mode none takes a policy back", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.publish("b2", "version: STSv1\nmode: none\nmax_age: 86400\n")
		w.pass(time.Minute)
		s := lookup(t, c)
		require.Equal(t, mtasts.None, s.Policy.Mode)
		require.False(t, s.Enforced())
		w.set(func() { w.txtErr = errServFail })
		require.Equal(t, mtasts.None, lookup(t, w.start(t)).Policy.Mode, "after a restart")
	})
	t.Run("expired and blocked is none", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.fetchErr = errBlocked })
		w.pass(7*24*time.Hour - time.Second)
		require.True(t, lookup(t, c).Enforced())
		w.pass(time.Second)
		require.Equal(t, mtasts.SourceNone, lookup(t, c).Source)
	})
	t.Run("expired and SERVFAIL is not known", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.txtErr = errServFail })
		w.pass(7 * 24 * time.Hour)
		_, err := c.Lookup(t.Context(), "example.com")
		require.ErrorIs(t, err, mtasts.ErrUnknown)
	})
	t.Run("max_age 0 binds, and is fetched with each question (trap 6)", func(t *testing.T) {
		w := newWorld().publish("a1", strings.Replace(good, "604800", "0", 1))
		c := w.start(t)
		for range 3 {
			s := lookup(t, c)
			require.True(t, s.Enforced())
			require.Equal(t, mtasts.SourceLive, s.Source)
			lookup(t, c)
			w.pass(time.Minute)
		}
		asked, fetched := w.counts()
		require.Equal(t, []int{3, 3}, []int{asked, fetched})
	})
	t.Run("ten digits bind for a year (trap 6)", func(t *testing.T) {
		w := newWorld().publish("a1", strings.Replace(good, "604800", "9999999999", 1))
		require.Equal(t, w.clock().Add(mtasts.MaxAge), lookup(t, w.start(t)).Expires)
	})
}

func TestClockJumps(t *testing.T) {
	t.Run("back: the policy binds, and DNS is still asked", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.pass(-10 * 365 * 24 * time.Hour)
		w.set(func() { w.fetchErr = errBlocked })
		require.True(t, lookup(t, c).Enforced())
		asked, _ := w.counts()
		require.Equal(t, 2, asked)
		require.True(t, lookup(t, w.start(t)).Enforced(), "after a restart")
	})
	t.Run("forth and back: what looked expired binds again", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.fetchErr = errBlocked })
		w.pass(5 * 365 * 24 * time.Hour)
		require.Equal(t, mtasts.SourceNone, lookup(t, c).Source)
		for range 10 {
			_, err := c.Refresh(t.Context())
			require.NoError(t, err)
		}
		w.pass(-5 * 365 * 24 * time.Hour)
		require.True(t, lookup(t, c).Enforced())
		require.True(t, lookup(t, w.start(t)).Enforced(), "after a restart")
	})
	t.Run("forth and a little back: that there is none is not believed for the rest of the minute", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.fetchErr = errBlocked })
		w.pass(7 * 24 * time.Hour)
		require.Equal(t, mtasts.SourceNone, lookup(t, c).Source)
		w.pass(-time.Second)
		require.True(t, lookup(t, c).Enforced())
	})
	t.Run("back and forth: a policy fetched meanwhile does not end early", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.publish("b2", good)
		w.pass(-365 * 24 * time.Hour)
		require.Equal(t, "b2", lookup(t, c).ID)
		w.set(func() { w.fetchErr = errBlocked })
		w.pass(366 * 24 * time.Hour)
		require.Equal(t, "b2", lookup(t, c).ID)
		require.True(t, lookup(t, w.start(t)).Enforced(), "after a restart")
	})
	t.Run("a policy from the future lasts for its max_age", func(t *testing.T) {
		w := newWorld()
		w.pass(10 * 365 * 24 * time.Hour)
		lookup(t, w.start(t))
		w.pass(-10 * 365 * 24 * time.Hour)
		require.Equal(t, w.clock().Add(7*24*time.Hour), lookup(t, w.start(t)).Expires)
	})
}

func TestRates(t *testing.T) {
	t.Run("DNS once a minute, whatever it answers", func(t *testing.T) {
		for _, err := range []error{nil, errNoName, errServFail} {
			w := newWorld()
			w.txtErr = err
			c := w.start(t)
			for range 119 {
				_, got := c.Lookup(t.Context(), "example.com")
				require.Equal(t, err == errServFail, got != nil)
				w.pass(time.Second)
			}
			asked, _ := w.counts()
			require.Equal(t, 2, asked)
		}
	})
	t.Run("a failed fetch is left alone for 5 minutes", func(t *testing.T) {
		w := newWorld()
		w.fetchErr = errBlocked
		c := w.start(t)
		for range 5 {
			s := lookup(t, c)
			require.Equal(t, []mtasts.Rule{mtasts.RuleConnect}, rules(s), "the reason is told each time")
			w.pass(time.Minute)
		}
		_, fetched := w.counts()
		require.Equal(t, 1, fetched)
		w.set(func() { w.fetchErr = nil })
		require.True(t, lookup(t, c).Enforced())
	})
	t.Run("another id may be fetched earlier", func(t *testing.T) {
		w := newWorld()
		w.fetchErr = errBlocked
		c := w.start(t)
		lookup(t, c)
		w.publish("b2", good)
		w.pass(time.Minute)
		require.True(t, lookup(t, c).Enforced())
	})
	t.Run("recheck asks at once, but not twice in 10 seconds (trap 15)", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.publish("b2", strings.Replace(good, "mail.", "mx.", 1))
		w.pass(10 * time.Second)
		for range 5 {
			s, err := c.Recheck(t.Context(), "example.com")
			require.NoError(t, err)
			require.Equal(t, "b2", s.ID)
			require.True(t, s.Policy.Match("mx.example.com"))
		}
		asked, fetched := w.counts()
		require.Equal(t, []int{2, 2}, []int{asked, fetched})
		require.Equal(t, "b2", lookup(t, c).ID, "everybody sees it")
	})
	t.Run("recheck without an answer is not confirmed (trap 15)", func(t *testing.T) {
		w := newWorld()
		c := w.start(t)
		lookup(t, c)
		w.set(func() { w.txtErr = errServFail })
		w.pass(10 * time.Second)
		s, err := c.Recheck(t.Context(), "example.com")
		require.NoError(t, err)
		require.True(t, s.Enforced())
		require.False(t, s.Confirmed)
	})
}

// TestSingleFlight: many deliveries, one question; and while one asks for a cached policy the others go on.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		slow := &slowDNS{w: w, d: 10 * time.Second}
		c, err := mtasts.New(w, &mtasts.Options{Resolver: slow, Fetcher: w})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				s, err := c.Lookup(t.Context(), "example.com")
				require.NoError(t, err)
				require.True(t, s.Enforced())
			})
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.Sleep(time.Millisecond)
		_, err = c.Lookup(short, "example.com")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = c.Recheck(short, "example.com")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		wg.Wait()
		asked, fetched := w.counts()
		require.Equal(t, []int{1, 1}, []int{asked, fetched})

		time.Sleep(time.Minute)
		wg.Go(func() { _, _ = c.Lookup(t.Context(), "example.com") })
		synctest.Wait()
		began := time.Now()
		s, err := c.Lookup(t.Context(), "example.com")
		require.NoError(t, err)
		require.True(t, s.Enforced())
		require.Zero(t, time.Since(began))
		wg.Wait()
	})
}

type slowDNS struct {
	w *world
	d time.Duration
}

func (r *slowDNS) LookupTXT(ctx context.Context, name string) ([]string, error) {
	select {
	case <-time.After(r.d):
		return r.w.LookupTXT(ctx, name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestImpatience: a caller who can't wait learns nothing that others would be told.
func TestImpatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		slow := &slowDNS{w: w, d: 10 * time.Second}
		c, err := mtasts.New(w, &mtasts.Options{Resolver: slow, Fetcher: w})
		require.NoError(t, err)
		short := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			t.Cleanup(cancel)
			return ctx
		}
		_, err = c.Lookup(short(), "example.com")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		s, err := c.Lookup(t.Context(), "example.com")
		require.NoError(t, err, "not the other's error")
		require.True(t, s.Confirmed)

		time.Sleep(time.Minute)
		s, err = c.Lookup(short(), "example.com")
		require.NoError(t, err)
		require.True(t, s.Enforced())
		s, err = c.Lookup(t.Context(), "example.com")
		require.NoError(t, err)
		require.True(t, s.Confirmed, "DNS was asked, not the other's doubt kept")

		slow.d = time.Hour // longer than one question may take
		_, err = c.Lookup(t.Context(), "example.org")
		require.ErrorIs(t, err, mtasts.ErrUnknown)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	w := newWorld()
	w.store = mtasts.NewMemory(&mtasts.MemoryOptions{Max: 1 << 20, Now: w.clock})
	c, err := mtasts.New(w, &mtasts.Options{Resolver: w, Fetcher: w, Now: w.clock, MaxDomains: 50})
	require.NoError(t, err)
	require.True(t, lookup(t, c).Enforced())
	for i := range 2000 {
		_, err := c.Lookup(t.Context(), fmt.Sprintf("d%d.attacker.example", i))
		require.NoError(t, err)
	}
	w.set(func() { w.txtErr = errServFail })
	require.True(t, lookup(t, c).Enforced(), "dropped from memory or not, the Store has it")

	// With a Store that takes nothing, the enforced policies that are there stay, and the others are still served.
	w = newWorld()
	w.save = errDisk
	c, err = mtasts.New(w, &mtasts.Options{Resolver: w, Fetcher: w, Now: w.clock, MaxDomains: 50})
	require.NoError(t, err)
	require.True(t, lookup(t, c).Enforced())
	w.publish("a1", good+strings.Repeat("x: y\n", 10000))
	for i := range 200 {
		s, err := c.Lookup(t.Context(), fmt.Sprintf("d%d.attacker.example", i))
		require.NoError(t, err)
		require.True(t, s.Enforced())
	}
	w.set(func() { w.txtErr, w.load = errServFail, errDisk })
	w.pass(time.Minute)
	require.True(t, lookup(t, c).Enforced())
}

// TestManyAtOnce is for the race detector: deliveries, refreshes, evictions and a Store that fails, all at once.
func TestManyAtOnce(t *testing.T) {
	w := newWorld()
	c, err := mtasts.New(w, &mtasts.Options{Resolver: w, Fetcher: w, Now: w.clock, MaxDomains: 20})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 300 {
				s, err := c.Lookup(t.Context(), fmt.Sprintf("d%d.example", (g*7+i)%40))
				require.NoError(t, err)
				require.True(t, s.Enforced())
				w.pass(time.Second)
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			w.set(func() { w.save = []error{nil, errDisk}[i%2] })
			_, _ = c.Refresh(t.Context())
			_, _ = c.Recheck(t.Context(), fmt.Sprintf("d%d.example", i))
			w.pass(time.Hour)
		}
	})
	wg.Wait()
}

func TestNew(t *testing.T) {
	c, err := mtasts.New(nil, &mtasts.Options{MaxDomains: -1})
	require.Nil(t, c)
	require.ErrorContains(t, err, "store")
	require.ErrorContains(t, err, "MaxDomains")
	c, err = mtasts.New(mtasts.NewMemory(nil), nil)
	require.NoError(t, err)
	require.NotNil(t, c)
}

func TestMemoryStore(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := mtasts.NewMemory(&mtasts.MemoryOptions{Max: 3, Now: func() time.Time { return now }})
	save := func(d string, mode mtasts.Mode, expires, used time.Duration) {
		e := mtasts.Entry{Domain: d, Mode: mode, Text: []byte("x"), Expires: now.Add(expires), Used: now.Add(used)}
		require.NoError(t, m.Save(t.Context(), e))
	}
	names := func() (ds []string) {
		es, err := m.List(t.Context(), "", 9)
		require.NoError(t, err)
		for _, e := range es {
			ds = append(ds, e.Domain)
		}
		return ds
	}
	save("d", mtasts.Enforce, time.Hour, -3)
	save("b", mtasts.Enforce, -time.Hour, 0)
	save("c", mtasts.Testing, time.Hour, 0)
	save("a", mtasts.Enforce, time.Hour, -2)
	require.Equal(t, []string{"a", "c", "d"}, names(), "the expired one first")
	save("e", mtasts.None, 2*time.Hour, 1)
	require.Equal(t, []string{"a", "d", "e"}, names(), "then what does not enforce, the longest unused")
	save("f", mtasts.Enforce, time.Hour, -1)
	require.Equal(t, []string{"a", "d", "f"}, names())
	save("g", mtasts.Enforce, time.Hour, -1)
	require.Equal(t, []string{"a", "f", "g"}, names(), "then the longest unused")
	es, err := m.List(t.Context(), "a", 1)
	require.NoError(t, err)
	require.Equal(t, "f", es[0].Domain)
	es[0].Text[0] = 'y'
	e, err := m.Load(t.Context(), "f")
	require.NoError(t, err)
	require.Equal(t, "x", string(e.Text), "what was given out is a copy")
	_, err = m.Load(t.Context(), "z")
	require.ErrorIs(t, err, mtasts.ErrNoEntry)
	n, err := m.Sweep(t.Context(), now.Add(2*time.Hour))
	require.NoError(t, err)
	require.Equal(t, 3, n)
}
