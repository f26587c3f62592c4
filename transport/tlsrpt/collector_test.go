package tlsrpt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/transport/tlsrpt"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// none is a Jitter without any.
func none(time.Duration) time.Duration { return 0 }

func collector(t testing.TB, s tlsrpt.Store, o tlsrpt.CollectorOptions) *tlsrpt.Collector {
	if o.Now == nil {
		o.Now = func() time.Time { return noon }
	}
	if o.Jitter == nil {
		o.Jitter = none
	}
	c, err := tlsrpt.NewCollector(s, &o)
	require.NoError(t, err)
	return c
}

// stored is what s has for a domain on the day of noon.
func stored(t testing.TB, s tlsrpt.Store, domain string) (out tlsrpt.Account) {
	k := tlsrpt.Key{Day: "2026-11-25", Domain: domain}
	stop := errors.New("stop")
	err := s.Update(context.Background(), []tlsrpt.Key{k}, func(a *tlsrpt.Account) error { out = *a; return stop })
	require.ErrorIs(t, err, stop)
	return out
}

func TestCollectorCounts(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{})
	sts := tlsrpt.Result{Domain: "Example.com.", Type: tlsrpt.STS, PolicyStrings: []string{"version: STSv1", "mode: enforce"}, MXHosts: []string{"*.example.com"}}
	failed := sts
	failed.Failure, failed.ReceivingMX = tlsrpt.CertificateExpired, "MX.example.com."
	failed.SendingIP, failed.ReceivingIP = netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("fe80::1%eth0")
	other := failed
	other.Failure = "strange"
	c.Add(t.Context(), sts)
	c.Add(t.Context(), sts)
	c.Add(t.Context(), failed)
	require.NoError(t, c.Flush(t.Context()))
	c.Add(t.Context(), failed)
	c.Add(t.Context(), other)
	require.NoError(t, c.Flush(t.Context()))
	require.NoError(t, c.Flush(t.Context()), "nothing to write")

	a := stored(t, m, "example.com")
	require.Equal(t, time.Date(2026, 11, 26, 0, 5, 0, 0, time.UTC), a.Next)
	where := tlsrpt.Failure{
		Type: tlsrpt.CertificateExpired, ReceivingMX: "mx.example.com",
		SendingIP: netip.MustParseAddr("192.0.2.1"), ReceivingIP: netip.MustParseAddr("fe80::1"),
	}
	unknown := where
	unknown.Type = tlsrpt.ValidationFailure
	require.Equal(t, []tlsrpt.Counts{{
		Type: tlsrpt.STS, Domain: "example.com", Strings: sts.PolicyStrings, MXHosts: sts.MXHosts, Success: 2, Failures: 3,
		Details: []tlsrpt.Detail{{What: where, Sessions: 2}, {What: unknown, Sessions: 1}},
	}}, a.Policies)
	require.Zero(t, c.Lost())
}

// TestCollectorDANE: the records of a host in any order are one policy, and the host's domain gets a report too.
func TestCollectorDANE(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{})
	for _, records := range [][]string{{"3 1 1 bb", "3 1 1 aa"}, {"3 1 1 aa", "3 1 1 bb"}} {
		for _, domain := range []string{"a.example", "b.example"} {
			c.Add(t.Context(), tlsrpt.Result{Domain: domain, Type: tlsrpt.TLSA, PolicyDomain: "mx.example", PolicyStrings: records})
		}
	}
	c.Add(t.Context(), tlsrpt.Result{Domain: "a.example"})
	require.NoError(t, c.Flush(t.Context()))
	want := tlsrpt.Counts{Type: tlsrpt.TLSA, Domain: "mx.example", Strings: []string{"3 1 1 aa", "3 1 1 bb"}, Success: 2}
	require.Equal(t, []tlsrpt.Counts{want, {Type: tlsrpt.NoPolicy, Domain: "a.example", Success: 1}}, stored(t, m, "a.example").Policies)
	require.Equal(t, []tlsrpt.Counts{want}, stored(t, m, "b.example").Policies)
	want.Success = 4
	require.Equal(t, []tlsrpt.Counts{want}, stored(t, m, "mx.example").Policies)
}

// TestNothingOfAPerson: whatever the far end says, no address reaches what is stored.
func TestNothingOfAPerson(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{})
	const canary = "canary@ward.example"
	c.Add(t.Context(), tlsrpt.Result{
		Domain: "example.com", Type: tlsrpt.STS, Failure: tlsrpt.ValidationFailure, PolicyDomain: canary,
		PolicyStrings: []string{"mx: " + canary, "mode: enforce"}, MXHosts: []string{canary},
		ReceivingMX: "mx " + canary, ReceivingHELO: "hello <" + canary + ">", Reason: "to " + canary, Info: "550 " + canary + "\r\n",
	})
	c.Add(t.Context(), tlsrpt.Result{Domain: canary})
	require.NoError(t, c.Flush(t.Context()))
	text, err := json.Marshal(stored(t, m, "example.com"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "canary")
	require.Contains(t, string(text), "mode: enforce")
	require.EqualValues(t, 1, c.Lost(), "no domain")
}

func TestCollectorBounds(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{MaxDomains: 2})
	for i := range 5 {
		c.Add(t.Context(), tlsrpt.Result{Domain: fmt.Sprintf("d%d.example", i)})
	}
	require.EqualValues(t, 3, c.Lost())

	// Failures over 100 kinds are counted by type alone.
	for i := range 300 {
		c.Add(t.Context(), tlsrpt.Result{Domain: "d0.example", Failure: tlsrpt.TLSAInvalid, Reason: fmt.Sprint(i)})
	}
	require.NoError(t, c.Flush(t.Context()))
	p := stored(t, m, "d0.example").Policies[0]
	require.EqualValues(t, 300, p.Failures)
	require.Len(t, p.Details, 101)
	require.Equal(t, tlsrpt.Detail{What: tlsrpt.Failure{Type: tlsrpt.TLSAInvalid}, Sessions: 200}, p.Details[100])
	require.EqualValues(t, 3, c.Lost())

	// Under another policy of the same domain as well.
	for i := range 3 {
		c.Add(t.Context(), tlsrpt.Result{Domain: "d0.example", Type: tlsrpt.STS, Failure: tlsrpt.TLSAInvalid, Reason: fmt.Sprint(i)})
	}
	require.NoError(t, c.Flush(t.Context()))
	require.Equal(t, []tlsrpt.Detail{{What: tlsrpt.Failure{Type: tlsrpt.TLSAInvalid}, Sessions: 3}}, stored(t, m, "d0.example").Policies[1].Details)
	require.EqualValues(t, 3, c.Lost())

	// Policies over 20 are lost and counted, in memory as in the store.
	for i := range 25 {
		c.Add(t.Context(), tlsrpt.Result{Domain: "d9.example", Type: tlsrpt.STS, MXHosts: []string{fmt.Sprint(i)}})
	}
	require.EqualValues(t, 8, c.Lost())
	require.NoError(t, c.Flush(t.Context()))
	c.Add(t.Context(), tlsrpt.Result{Domain: "d9.example", Type: tlsrpt.STS, MXHosts: []string{"one more"}})
	require.NoError(t, c.Flush(t.Context()))
	require.Len(t, stored(t, m, "d9.example").Policies, 20)
	require.EqualValues(t, 9, c.Lost())

	// Long texts are cut.
	long := strings.Repeat("x", 300)
	c.Add(t.Context(), tlsrpt.Result{
		Domain: "d8.example", Type: tlsrpt.STS, PolicyStrings: strings.Split(strings.Repeat(long+",", 100), ","),
		MXHosts: []string{strings.Repeat("x", 3000), "ok", "not\x00ok"}, Failure: tlsrpt.STSPolicyInvalid, Info: long, ReceivingMX: long + ".example",
	})
	require.NoError(t, c.Flush(t.Context()))
	p = stored(t, m, "d8.example").Policies[0]
	require.Len(t, p.Strings, 27)
	require.Equal(t, []string{"ok"}, p.MXHosts)
	require.Equal(t, tlsrpt.Failure{Type: tlsrpt.STSPolicyInvalid}, p.Details[0].What)
}

func TestQuiet(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{})
	c.Add(tlsrpt.Quiet(t.Context()), tlsrpt.Result{Domain: "example.com"})
	require.NoError(t, c.Flush(t.Context()))
	require.Empty(t, stored(t, m, "example.com").Policies)
	require.Zero(t, c.Lost())
}

func TestDayTurns(t *testing.T) {
	m, now := &tlsrpt.Memory{}, time.Date(2026, 11, 25, 23, 59, 59, 999, time.UTC)
	c := collector(t, m, tlsrpt.CollectorOptions{Now: func() time.Time { return now }})
	c.Add(t.Context(), tlsrpt.Result{Domain: "example.com"})
	now = now.Add(time.Second).In(time.FixedZone("", -5*3600))
	c.Add(t.Context(), tlsrpt.Result{Domain: "example.com"})
	require.NoError(t, c.Flush(t.Context()))
	require.EqualValues(t, 1, stored(t, m, "example.com").Policies[0].Success)
	due, err := m.Due(t.Context(), noon.Add(1000*time.Hour), 10)
	require.NoError(t, err)
	require.Equal(t, []tlsrpt.Key{{Day: "2026-11-25", Domain: "example.com"}, {Day: "2026-11-26", Domain: "example.com"}}, due)
}

// moody fails while err is set.
type moody struct {
	tlsrpt.Memory
	mu  sync.Mutex
	err error
}

func (m *moody) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *moody) fault() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *moody) Update(ctx context.Context, keys []tlsrpt.Key, fn func(*tlsrpt.Account) error) error {
	if err := m.fault(); err != nil {
		return err
	}
	return m.Memory.Update(ctx, keys, fn)
}

func (m *moody) Due(ctx context.Context, now time.Time, max int) ([]tlsrpt.Key, error) {
	if err := m.fault(); err != nil {
		return nil, err
	}
	return m.Memory.Due(ctx, now, max)
}

func TestFlushKeepsWhatFailed(t *testing.T) {
	m, boom := &moody{}, errors.New("boom")
	c := collector(t, m, tlsrpt.CollectorOptions{MaxDomains: 3})
	for _, d := range []string{"a.example", "b.example", "c.example"} {
		c.Add(t.Context(), tlsrpt.Result{Domain: d})
	}
	m.set(boom)
	require.ErrorIs(t, c.Flush(t.Context()), boom)
	c.Add(t.Context(), tlsrpt.Result{Domain: "a.example"})
	require.ErrorIs(t, c.Flush(t.Context()), boom)
	m.set(nil)
	require.NoError(t, c.Flush(t.Context()))
	require.EqualValues(t, 2, stored(t, m, "a.example").Policies[0].Success)
	require.EqualValues(t, 1, stored(t, m, "c.example").Policies[0].Success)
	require.Zero(t, c.Lost())
}

// adding fails its first Update, and adds results of other domains meanwhile.
type adding struct {
	tlsrpt.Memory
	meanwhile func()
}

func (a *adding) Update(ctx context.Context, keys []tlsrpt.Key, fn func(*tlsrpt.Account) error) error {
	if f := a.meanwhile; f != nil {
		a.meanwhile = nil
		f()
		return errors.New("boom")
	}
	return a.Memory.Update(ctx, keys, fn)
}

func TestFailedFlushStaysBounded(t *testing.T) {
	m := &adding{}
	c := collector(t, m, tlsrpt.CollectorOptions{MaxDomains: 2})
	m.meanwhile = func() {
		for _, d := range []string{"a.example", "c.example"} {
			c.Add(t.Context(), tlsrpt.Result{Domain: d})
		}
	}
	c.Add(t.Context(), tlsrpt.Result{Domain: "a.example"})
	c.Add(t.Context(), tlsrpt.Result{Domain: "b.example"})
	require.Error(t, c.Flush(t.Context()))
	require.EqualValues(t, 1, c.Lost(), "b.example found no room")
	require.NoError(t, c.Flush(t.Context()))
	require.EqualValues(t, 2, stored(t, m, "a.example").Policies[0].Success)
	require.Empty(t, stored(t, m, "b.example").Policies)
}

// TestLateCounts: what comes when the report is made already is lost, and counted as lost.
func TestLateCounts(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{})
	c.Add(t.Context(), tlsrpt.Result{Domain: "example.com"})
	require.NoError(t, m.Update(t.Context(), []tlsrpt.Key{{Day: "2026-11-25", Domain: "example.com"}}, func(a *tlsrpt.Account) error {
		a.ReportID = "made"
		return nil
	}))
	require.NoError(t, c.Flush(t.Context()))
	require.EqualValues(t, 1, c.Lost())
	require.Empty(t, stored(t, m, "example.com").Policies)
}

func TestCollectorRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &moody{}
		var log bytes.Buffer
		c, err := tlsrpt.NewCollector(m, &tlsrpt.CollectorOptions{
			Now: func() time.Time { return noon }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		c.Add(ctx, tlsrpt.Result{Domain: "example.com"})
		time.Sleep(31 * time.Second)
		require.EqualValues(t, 1, stored(t, m, "example.com").Policies[0].Success)
		next := stored(t, m, "example.com").Next
		require.WithinRange(t, next, time.Date(2026, 11, 26, 0, 5, 0, 0, time.UTC), time.Date(2026, 11, 26, 4, 5, 0, 0, time.UTC))

		m.set(errors.New("boom"))
		c.Add(ctx, tlsrpt.Result{Domain: "example.com"})
		time.Sleep(31 * time.Second)
		m.set(nil)
		cancel()
		require.NoError(t, <-done, "the last flush has written it")
		require.EqualValues(t, 2, stored(t, m, "example.com").Policies[0].Success)
		require.Contains(t, log.String(), "boom")
		require.NotContains(t, log.String(), "example.com")

		m.set(errors.New("boom"))
		c.Add(ctx, tlsrpt.Result{Domain: "example.com"})
		require.Error(t, c.Run(ctx), "what was lost is said")
	})
}

func TestNewCollectorRefuses(t *testing.T) {
	c, err := tlsrpt.NewCollector(nil, &tlsrpt.CollectorOptions{FlushEvery: -1})
	require.ErrorContains(t, err, "a store is required")
	require.ErrorContains(t, err, "negative")
	require.Nil(t, c)
}

// TestNoSessionIsLostOrDoubled: however results, flushes and failures mix, sessions in = sessions stored + Lost.
func TestNoSessionIsLostOrDoubled(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &moody{}
		c := collector(t, m, tlsrpt.CollectorOptions{MaxDomains: 2})
		added := int64(0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				require.NoError(rt, c.Flush(t.Context()))
			case 1:
				m.set(errors.New("boom"))
				_ = c.Flush(t.Context())
				m.set(nil)
			default:
				added++
				c.Add(t.Context(), tlsrpt.Result{
					Domain:  rapid.SampledFrom([]string{"a.example", "b.example", "c.example", "no domain"}).Draw(rt, "domain"),
					Failure: rapid.SampledFrom([]tlsrpt.FailureType{"", tlsrpt.TLSAInvalid, "x"}).Draw(rt, "failure"),
					Reason:  rapid.StringMatching(`[ab]?`).Draw(rt, "reason"),
				})
			}
		}
		require.NoError(rt, c.Flush(t.Context()))
		sum := c.Lost()
		for _, d := range []string{"a.example", "b.example", "c.example"} {
			for _, p := range stored(t, m, d).Policies {
				sum += p.Success + p.Failures
				details := int64(0)
				for _, f := range p.Details {
					details += f.Sessions
				}
				require.Equal(rt, p.Failures, details)
			}
		}
		require.Equal(rt, added, sum)
	})
}

func TestAddFromManyGoroutines(t *testing.T) {
	m := &tlsrpt.Memory{}
	c := collector(t, m, tlsrpt.CollectorOptions{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				c.Add(t.Context(), tlsrpt.Result{Domain: "example.com"})
			}
			if err := c.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Flush(t.Context()))
	require.EqualValues(t, 800, stored(t, m, "example.com").Policies[0].Success)
}

func BenchmarkAdd(b *testing.B) {
	c := collector(b, &tlsrpt.Memory{}, tlsrpt.CollectorOptions{})
	r := tlsrpt.Result{Domain: "example.com", Type: tlsrpt.STS, PolicyDomain: "example.com", PolicyStrings: []string{"version: STSv1"}, MXHosts: []string{"mx.example.com"}}
	b.ReportAllocs()
	for b.Loop() {
		c.Add(b.Context(), r)
	}
}
