package posture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/posture"
)

func (r *rig) refresh() int {
	r.t.Helper()
	n, err := r.Refresh(r.t.Context())
	require.NoError(r.t, err)
	return n
}

func TestWatchedDomainsAreLookedAtDaily(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := r.admin("clinic")
		r.far.set(good("a.example"))
		require.Zero(t, r.refresh())
		require.NoError(t, r.Watch(ctx, "clinic", "a.example"))
		require.NoError(t, r.Watch(ctx, "clinic", "a.example"))
		require.Equal(t, 1, r.refresh())
		require.Zero(t, r.refresh())
		r.pass(23 * time.Hour)
		require.Zero(t, r.refresh())
		r.pass(time.Hour)
		require.Equal(t, 1, r.refresh())
		r.far.set(silent("a.example"))
		r.pass(day)
		require.Equal(t, 1, r.refresh())
		r.pass(2 * time.Hour)
		require.Equal(t, 1, r.refresh(), "sooner where nothing was found out")
		require.NoError(t, r.Unwatch(ctx, "clinic", "a.example"))
		r.pass(2 * day)
		require.Zero(t, r.refresh())
		require.Len(t, r.far.seen(), 4)
	})
}

func TestJitterSpreads(t *testing.T) {
	rnd := 0.0
	r := newRig(t, lite, posture.Options{Rand: func() float64 { return rnd }})
	r.far.set(good("a.example"))
	require.NoError(t, r.Watch(r.admin("clinic"), "clinic", "a.example"))
	require.Equal(t, 1, r.refresh())
	r.pass(22*time.Hour + 30*time.Minute)
	require.Equal(t, 1, r.refresh(), "24 h less half of 3 h")
	rnd = 0.999
	r.pass(22*time.Hour + 30*time.Minute)
	require.Equal(t, 1, r.refresh())
	r.pass(25 * time.Hour)
	require.Zero(t, r.refresh())
	r.pass(30 * time.Minute)
	require.Equal(t, 1, r.refresh())
}

func TestPassIsBounded(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.opts.PerPass, r.opts.Concurrency = 3, 2
		m := r.open(r.db)
		for i := range 5 {
			require.NoError(t, m.Watch(r.admin("clinic"), "clinic", fmt.Sprintf("d%d.example", i)))
		}
		for _, want := range []int{3, 2, 0} {
			n, err := m.Refresh(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
	})
}

// Two processes on one database look at each domain once.
func TestLeasesShareTheWork(t *testing.T) {
	for name, open := range openers() {
		if strings.Contains(name, "one connection") {
			continue // one handle can't be two processes
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t, open, posture.Options{})
			for i := range 20 {
				require.NoError(t, r.Watch(r.admin("clinic"), "clinic", fmt.Sprintf("d%02d.example", i)))
			}
			r.far.block = make(chan struct{})
			other := r.open(r.again())
			var wg sync.WaitGroup
			done := make(chan int, 2)
			for _, m := range []*posture.Monitor{r.Monitor, other} {
				wg.Go(func() {
					n, err := m.Refresh(t.Context())
					if err != nil {
						t.Error(err)
					}
					done <- n
				})
			}
			require.Eventually(t, func() bool { return len(r.far.seen()) > 0 }, 10*time.Second, time.Millisecond)
			close(r.far.block)
			wg.Wait()
			require.Equal(t, 20, <-done+<-done)
			require.Len(t, r.far.seen(), 20)
		})
	}
}

// A domain that many tenants write to is looked at once for all of them; a look that found nothing out serves nobody else.
func TestOneLookServesAllTenants(t *testing.T) {
	r := newRig(t, lite, posture.Options{Concurrency: 3})
	r.far.set(good("a.example"))
	watch := func(m *posture.Monitor, d string) {
		for _, tenant := range []string{"clinic", "lab", "other"} {
			require.NoError(t, m.Watch(r.admin(tenant), tenant, d))
		}
	}
	watch(r.Monitor, "a.example")
	require.Equal(t, 3, r.refresh())
	require.Len(t, r.far.seen(), 1)
	for _, tenant := range []string{"clinic", "lab", "other"} {
		rep, err := r.Report(r.admin(tenant), tenant)
		require.NoError(t, err)
		require.Equal(t, posture.LevelVerified, rep.Domains[0].State.Level)
	}
	require.NoError(t, r.Watch(r.admin("late"), "late", "a.example"))
	r.pass(2*time.Hour - time.Second)
	require.Equal(t, 1, r.refresh())
	require.Len(t, r.far.seen(), 1)
	r.check("a.example")
	require.Len(t, r.far.seen(), 2, "who asks for a look gets one")
	r.pass(day)
	require.Equal(t, 4, r.refresh())
	require.Len(t, r.far.seen(), 3)
	watch(r.Monitor, "silent.example")
	require.Equal(t, 3, r.refresh())
	require.Len(t, r.far.seen(), 6)
	r.opts.ByTenant = true
	m := r.open(r.db)
	watch(m, "b.example")
	r.far.set(good("b.example"))
	_, err := m.Refresh(t.Context())
	require.NoError(t, err)
	require.Len(t, r.far.seen(), 9)
}

// A process that died in a pass leaves leases that run out; one that is stopped gives them back.
func TestLeasesComeBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		require.NoError(t, r.Watch(r.admin("clinic"), "clinic", "a.example"))
		_, err := r.db.Exec(fmt.Sprintf("UPDATE posture_domain SET lease_owner='dead', lease_until=%d", r.clock().Add(time.Hour).UnixMicro()))
		require.NoError(t, err)
		require.Zero(t, r.refresh())
		r.pass(time.Hour)
		require.Equal(t, 1, r.refresh())
		_, err = r.db.Exec(fmt.Sprintf("UPDATE posture_domain SET due=%d, lease_until=%d", r.clock().Add(900*day).UnixMicro(), r.clock().Add(900*day).UnixMicro()))
		require.NoError(t, err)
		require.Equal(t, 1, r.refresh(), "a clock that was wrong leaves nothing waiting for years")

		r.pass(25 * time.Hour)
		r.far.block = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		looked := len(r.far.seen())
		done := make(chan error, 1)
		go func() { _, err := r.Refresh(ctx); done <- err }()
		require.Eventually(t, func() bool { return len(r.far.seen()) > looked }, 10*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		r.far.mu.Lock()
		r.far.block = nil
		r.far.mu.Unlock()
		require.Equal(t, 1, r.refresh(), "at once")
	})
}

// A domain that can't be stored stands in nobody's way.
func TestDamagedDomainIsPutOff(t *testing.T) {
	r := newRig(t, lite, posture.Options{PerPass: 1})
	for _, d := range []string{"a.example", "b.example"} {
		require.NoError(t, r.Watch(r.admin("clinic"), "clinic", d))
	}
	_, err := r.db.Exec("UPDATE posture_domain SET state='{' WHERE domain='a.example'")
	require.NoError(t, err)
	_, err = r.Refresh(t.Context())
	require.ErrorContains(t, err, "damaged")
	require.Equal(t, 1, r.refresh())
	require.Equal(t, []string{"clinic/a.example", "clinic/b.example"}, r.far.seen())
}

func TestRunUntilItEnds(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	require.NoError(t, r.Watch(r.admin("clinic"), "clinic", "a.example"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	require.Eventually(t, func() bool {
		rep, err := r.Report(r.admin("clinic"), "clinic")
		return err == nil && len(rep.Domains) == 1 && !rep.Domains[0].Checked.IsZero()
	}, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

func TestRunSurvivesADeadDatabase(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	_, err := r.db.Exec("ALTER TABLE posture_domain RENAME TO posture_gone")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, r.Run(ctx))
}

func TestAutoWatch(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, open, posture.Options{AutoWatch: true, MaxAuto: 2})
			ctx := r.admin("clinic")
			r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
			failed := delivered(t, "p", "clinic", "x@b.example", start, securemail.Wire{})
			failed.Receipt, failed.Failure = nil, "securemail: channel floor not met"
			require.NoError(t, r.Emit(ctx, failed))
			r.deliver("clinic", "c.example", wire(securemail.ProofDANE))
			r.deliver("other", "d.example", wire(securemail.ProofDANE))
			rep, err := r.Report(ctx, "clinic")
			require.NoError(t, err)
			require.Len(t, rep.Domains, 2, "at most MaxAuto in each tenant")
			require.Equal(t, "b.example", rep.Domains[1].Domain)
			require.Equal(t, "mail", rep.Domains[0].Watched)
			require.Zero(t, r.refresh(), "not all at once")
			r.pass(3 * time.Hour)
			require.Equal(t, 3, r.refresh())
			require.NoError(t, r.Watch(ctx, "clinic", "b.example"))
			r.pass(60 * day)
			r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
			r.pass(40 * day)
			r.refresh()
			rep, err = r.Report(ctx, "clinic")
			require.NoError(t, err)
			require.Len(t, rep.Domains, 2, "by hand, and one that still gets mail")
			r.pass(60 * day)
			r.refresh()
			rep, err = r.Report(ctx, "clinic")
			require.NoError(t, err)
			require.Len(t, rep.Domains, 1)
			require.Equal(t, "yes", rep.Domains[0].Watched)
			require.NoError(t, r.Unwatch(ctx, "clinic", "b.example"))
			r.deliver("clinic", "b.example", wire(securemail.ProofDANE))
			rep, err = r.Report(ctx, "clinic")
			require.NoError(t, err)
			require.Equal(t, "mail", rep.Domains[0].Watched, "mail enters it again")
		})
	}
}

func TestRetention(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := r.admin("clinic")
		r.far.set(good("a.example"))
		r.far.set(good("b.example"))
		require.NoError(t, r.Watch(ctx, "clinic", "a.example"))
		r.refresh()
		r.check("b.example")
		r.pass(day)
		r.far.set(worsen(good("a.example")))
		r.refresh()
		r.far.err = errors.New("stop")
		r.pass(401 * day)
		r.far.err = nil
		r.refresh()
		es, err := r.History(ctx, "clinic", "a.example", 9)
		require.NoError(t, err)
		require.Len(t, es, 1, "the last one of what is watched stays, and was confirmed")
		es, err = r.History(ctx, "clinic", "b.example", 9)
		require.NoError(t, err)
		require.Empty(t, es)
		var n int
		require.NoError(t, r.db.QueryRow("SELECT count(*) FROM posture_domain").Scan(&n))
		require.Equal(t, 1, n)
	})
}

func TestCanForward(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	to := address(t, "anna@a.example")
	ask := func(floor securemail.Channel) (bool, string) {
		a := r.CanForward(t.Context(), "clinic", to, floor)
		require.NotEmpty(t, a.Reasons)
		return a.OK, a.Reasons[len(a.Reasons)-1].Rule
	}
	for _, c := range []struct {
		name  string
		set   func()
		floor securemail.Channel
		ok    bool
		rule  string
	}{
		{"unknown", func() {}, securemail.ChannelNamed, false, "route-unknown"},
		{"known", func() { r.far.route = good("a.example").Route }, securemail.ChannelNamed, true, "floor-met"},
		{"no floor", func() {}, securemail.ChannelAny, false, "forward-floor"},
		{"no such floor", func() {}, 9, false, "forward-floor"},
		{"strictest", func() {}, securemail.ChannelVerified, true, "floor-met"},
		{"below", func() { r.far.route.Wire = wire(securemail.ProofPKIX) }, securemail.ChannelVerified, false, "floor-missed"},
		{"named", func() {}, securemail.ChannelNamed, true, "floor-met"},
		{"ratchet", func() { r.deliver("clinic", "a.example", wire(securemail.ProofDANE)) }, securemail.ChannelNamed, false, "floor-missed"},
		{"prober fails", func() { r.far.fail = errors.New("time-out") }, securemail.ChannelNamed, false, "route-unknown"},
		{"old", func() { r.far.fail = nil; r.far.route = good("a.example").Route; r.pass(2 * time.Hour) }, securemail.ChannelNamed, false, "route-old"},
	} {
		c.set()
		ok, rule := ask(c.floor)
		require.Equal(t, c.ok, ok, c.name)
		require.Equal(t, c.rule, rule, c.name)
	}
	require.False(t, r.CanForward(t.Context(), "clinic", securemail.Address{}, securemail.ChannelNamed).OK)
	m, err := posture.New(t.Context(), r.db, onlyObserver{r.far}, &r.opts)
	require.NoError(t, err)
	require.False(t, m.CanForward(t.Context(), "clinic", to, securemail.ChannelNamed).OK, "no prober, no yes")
	var n int
	require.NoError(t, r.db.QueryRow("SELECT count(*) FROM posture_domain").Scan(&n))
	require.Zero(t, n, "nothing is stored by asking")
}

type onlyObserver struct{ f *far }

func (o onlyObserver) Observe(ctx context.Context, tenant, domain string) (*transport.Observation, error) {
	return o.f.Observe(ctx, tenant, domain)
}

func TestReport(t *testing.T) {
	r := newRig(t, lite, posture.Options{Resolver: txt{"_smtp._tls.a.example": []string{"v=TLSRPTv1; rua=mailto:x@a.example"}}})
	ctx := r.admin("clinic")
	o := good("a.example")
	o.Signed, o.Hosts[0].DANE, o.Hosts[0].RequireTLS = true, "usable", true
	r.far.set(o)
	for _, d := range []string{"a.example", "b.example", "c.example"} {
		require.NoError(t, r.Watch(ctx, "clinic", d))
	}
	null := good("c.example")
	null.NullMX, null.Hosts, null.Route, null.STS.State, null.STS.Mode = true, nil, securemail.Route{}, "none", ""
	r.far.set(null)
	r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
	r.refresh()
	r.pass(3 * time.Hour)
	r.refresh()
	rep, err := r.Report(ctx, "clinic")
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, rep.WriteText(&b))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	require.Equal(t, []string{
		"DOMAIN LEVEL PROOF TLS MX SIGNED MTA-STS DANE TLSRPT REQUIRETLS CERT DAYS RATCHET CHANGED NOTE",
		"a.example verified mta-sts TLS 1.3 TLS_AES_128_GCM_SHA256 X25519 yes enforce 20260101 usable present yes 59 verified 2026-05-04 -",
		"b.example unknown - - no unknown unknown none no - - 2026-05-04 unreachable",
		"c.example unknown - - no none unknown none no - - 2026-05-04 takes no mail",
	}, lines)
	js, err := json.Marshal(rep)
	require.NoError(t, err)
	var back posture.Report
	require.NoError(t, json.Unmarshal(js, &back))
	require.Equal(t, "a.example", back.Domains[0].State.Domain)
	require.Equal(t, posture.LevelVerified, back.Domains[0].Ratchet.Learned)
	none, err := r.Report(ctx, "clinic", "z.example")
	require.NoError(t, err)
	b.Reset()
	require.NoError(t, none.WriteText(&b))
	require.Contains(t, b.String(), "z.example  unknown")
}
