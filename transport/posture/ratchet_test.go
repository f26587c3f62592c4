package posture_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/posture"
)

// ratchet is what a transport/smtp asks for; a Monitor is one without knowing it.
var _ interface {
	Least(ctx context.Context, tenant, domain string) (securemail.Channel, error)
} = (*posture.Monitor)(nil)

func TestAuthenticatedEvidenceRaisesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for i, p := range []securemail.Proof{securemail.ProofDANE, securemail.ProofSTS, securemail.ProofConfigured} {
			d := fmt.Sprintf("d%d.example", i)
			require.Equal(t, securemail.ChannelAny, r.least("clinic", d))
			r.deliver("clinic", d, wire(p))
			require.Equal(t, securemail.ChannelVerified, r.least("clinic", d), "also where the answer was in memory")
			require.Equal(t, "ratchet-raised", r.out.kinds())
			r.deliver("clinic", d, wire(p))
			require.Empty(t, r.out.kinds(), "told once")
		}
	})
}

func TestWeakerEvidenceNeedsAWeek(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for p, want := range map[securemail.Proof]securemail.Channel{
			securemail.ProofPKIX: securemail.ChannelNamed, securemail.ProofDNSSEC: securemail.ChannelVerified, "": securemail.ChannelEncrypted,
		} {
			r.now.Store(start.UnixMicro())
			d := "p" + string(p) + ".example"
			for range 20 {
				r.deliver("clinic", d, wire(p)) // a burst is one day
			}
			r.pass(3 * day)
			r.deliver("clinic", d, wire(p))
			r.pass(4*day - time.Minute)
			r.deliver("clinic", d, wire(p))
			require.Equal(t, securemail.ChannelAny, r.least("clinic", d), "not quite a week")
			r.pass(time.Minute)
			r.deliver("clinic", d, wire(p))
			require.Equal(t, want, r.least("clinic", d))
		}
	})
}

func TestTwoDaysAWeekApartAreNotThree(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.deliver("clinic", "a.example", wire(securemail.ProofPKIX))
	r.pass(10 * day)
	r.deliver("clinic", "a.example", wire(securemail.ProofPKIX))
	r.deliver("clinic", "a.example", wire(securemail.ProofPKIX))
	require.Equal(t, securemail.ChannelAny, r.least("clinic", "a.example"))
}

func TestExpiry(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		r.pass(20 * day)
		r.deliver("clinic", "a.example", wire(securemail.ProofPKIX)) // counts for the name, not for the proof
		r.pass(10*day - time.Second)
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
		r.pass(time.Second)
		require.Equal(t, securemail.ChannelNamed, r.least("clinic", "a.example"), "within the minute of memory too")
		r.pass(20 * day)
		require.Equal(t, securemail.ChannelAny, r.least("clinic", "a.example"))
		r.deliver("clinic", "a.example", wire(securemail.ProofPKIX))
		require.Equal(t, securemail.ChannelAny, r.least("clinic", "a.example"), "what has expired counts no more")
	})
}

func TestWhatIsNoEvidence(t *testing.T) {
	relay := wire(securemail.ProofConfigured)
	relay.Hop = securemail.HopRelay
	asserted := wire(securemail.ProofConfigured)
	asserted.Hop, asserted.Operator = securemail.HopAsserted, &securemail.Operator{Name: "Relay Ltd"}
	old := wire(securemail.ProofDANE)
	old.TLS = &securemail.TLSFacts{Version: 0x0302, Suite: 0xc013}
	r := newRig(t, lite, posture.Options{})
	for _, w := range []securemail.Wire{relay, asserted, old, {Hop: securemail.HopFinal, Proof: securemail.ProofDANE}, {}} {
		r.deliver("clinic", "a.example", w)
	}
	e := delivered(t, "p", "clinic", "anna@a.example", start, wire(securemail.ProofDANE))
	e.By.Tenant = "other" // says two things
	require.NoError(t, r.Emit(t.Context(), e))
	e = delivered(t, "p", "clinic", "anna@a.example", start, wire(securemail.ProofDANE))
	e.Receipt = nil
	require.NoError(t, r.Emit(t.Context(), e))
	require.NoError(t, r.Emit(t.Context(), securemail.Event{ID: "x", Kind: "read"}))
	for _, tenant := range []string{"clinic", "other", ""} {
		require.Equal(t, securemail.ChannelAny, r.least(tenant, "a.example"))
	}
	require.Empty(t, r.out.drain())
}

// A probe never raises it, whatever it shows and however often.
func TestProbeRaisesNothing(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.far.set(good("a.example"))
	r.far.route = good("a.example").Route
	for range 40 {
		r.check("a.example")
		r.CanForward(t.Context(), "clinic", address(t, "anna@a.example"), securemail.ChannelNamed)
		r.pass(day)
	}
	require.Equal(t, securemail.ChannelAny, r.least("clinic", "a.example"))
}

func TestTenantsAreIsolated(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		require.Equal(t, securemail.ChannelAny, r.least("other", "a.example"))
		require.NoError(t, r.SetOverride(r.admin("other"), posture.Override{Tenant: "other", Domain: "a.example", Channel: securemail.ChannelNamed, Reason: "agreed"}))
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
		require.Equal(t, securemail.ChannelNamed, r.least("other", "a.example"))
		require.NoError(t, r.Watch(r.admin("clinic"), "clinic", "a.example"))
		rep, err := r.Report(r.admin("other"), "other")
		require.NoError(t, err)
		require.Empty(t, rep.Domains)
		rep, err = r.Report(r.admin("other"), "other", "a.example")
		require.NoError(t, err)
		require.Nil(t, rep.Domains[0].State)
		require.Equal(t, "no", rep.Domains[0].Watched)
		require.Equal(t, posture.LevelNamed, rep.Domains[0].Ratchet.Least)
		es, err := r.History(r.admin("other"), "other", "a.example", 9)
		require.NoError(t, err)
		require.Empty(t, es)
	})
}

func TestOverride(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := r.admin("clinic")
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		r.out.drain()
		o := posture.Override{Tenant: "clinic", Domain: "A.example", Channel: securemail.ChannelEncrypted, Reason: "their DNS moved", Until: start.Add(10 * day)}
		require.NoError(t, r.SetOverride(ctx, o))
		require.Equal(t, securemail.ChannelEncrypted, r.least("clinic", "a.example"))
		es := r.out.drain()
		require.Len(t, es, 1)
		require.Equal(t, "ann", es[0].By.ID)
		require.Equal(t, map[string]string{"domain": "a.example", "level": "encrypted", "reason": "their DNS moved", "until": "2026-05-14T12:00:00Z"}, es[0].Detail)
		h, err := r.Ratchet(ctx, "clinic", "a.example")
		require.NoError(t, err)
		require.Equal(t, posture.LevelEncrypted, h.Least)
		require.Equal(t, posture.LevelVerified, h.Learned)
		require.Equal(t, "ann", h.Override.By)
		require.Equal(t, "encrypted (set)", h.String())
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		require.Equal(t, securemail.ChannelEncrypted, r.least("clinic", "a.example"), "deliveries don't undo it")
		require.NoError(t, r.ClearOverride(ctx, "clinic", "a.example", "mended"))
		require.NoError(t, r.ClearOverride(ctx, "clinic", "a.example", "mended"))
		require.Equal(t, "override-cleared", r.out.kinds(), "once")
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
		o.Until = start.Add(day)
		require.NoError(t, r.SetOverride(ctx, o))
		r.pass(day)
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"), "it has ended")
		for _, o := range []posture.Override{
			{Domain: "a.example", Reason: " "}, {Domain: "a.example", Reason: "two\nlines"}, {Domain: "a.example", Reason: "x", Channel: 4},
			{Domain: "a.example", Reason: "x", Until: start},
		} {
			o.Tenant = "clinic"
			require.Error(t, r.SetOverride(ctx, o))
		}
		require.Error(t, r.ClearOverride(ctx, "clinic", "a.example", ""))
	})
}

func TestRestartAndOtherProcesses(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		other := r.open(r.again())
		c, err := other.Least(t.Context(), "clinic", "a.example")
		require.NoError(t, err)
		require.Equal(t, securemail.ChannelAny, c)
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		r.pass(time.Minute)
		c, err = other.Least(t.Context(), "clinic", "a.example")
		require.NoError(t, err)
		require.Equal(t, securemail.ChannelVerified, c, "another process learns it within a minute")
		c, err = r.open(r.again()).Least(t.Context(), "clinic", "A.Example.")
		require.NoError(t, err)
		require.Equal(t, securemail.ChannelVerified, c)
	})
}

func TestClockJumps(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.pass(3650 * day) // a clock that is wrong for a moment
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		r.now.Store(start.UnixMicro())
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
		r.deliver("clinic", "a.example", wire(securemail.ProofPKIX))
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		r.pass(31 * day)
		require.Equal(t, securemail.ChannelAny, r.least("clinic", "a.example"), "it does not last ten years")

		r.deliver("clinic", "b.example", wire(securemail.ProofDANE))
		r.pass(3650 * day)
		require.Equal(t, securemail.ChannelAny, r.least("clinic", "b.example"))
		r.pass(-3650 * day)
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "b.example"), "and is not forgotten by a jump")
		e := delivered(t, "p", "clinic", "anna@b.example", r.clock().Add(5000*day), wire(securemail.ProofDANE))
		require.NoError(t, r.Emit(t.Context(), e))
		r.pass(30 * day)
		require.Equal(t, securemail.ChannelAny, r.least("clinic", "b.example"), "evidence from the future is of now")
	})
}

// A database that does not answer is an error, but for what was read within the minute.
func TestLeastFailsClosed(t *testing.T) {
	path := t.TempDir() + "/p.db"
	f := new(sqldbtest.Faults)
	base := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	faulty := sqldbtest.Open(base, "file:"+path+sqldbtest.Safe, f)
	t.Cleanup(func() { require.NoError(t, faulty.Close()) })
	r := newRig(t, func(testing.TB) func() *sql.DB { return func() *sql.DB { return faulty } }, posture.Options{})
	r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
	require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
	f.At(1, sqldbtest.IOErr)
	require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"))
	r.pass(time.Minute)
	_, err := r.Least(t.Context(), "clinic", "a.example")
	require.ErrorIs(t, err, sqldbtest.IOErr)
	require.NotContains(t, err.Error(), "clinic")
	require.Equal(t, securemail.ChannelVerified, r.least("clinic", "a.example"), "and again when it answers")
	r.far.route = good("b.example").Route
	f.At(1, sqldbtest.IOErr)
	a := r.CanForward(t.Context(), "clinic", address(t, "anna@b.example"), securemail.ChannelNamed)
	require.False(t, a.OK)
	require.Equal(t, "ratchet-unknown", a.Reasons[0].Rule)
	f.At(1, sqldbtest.IOErr)
	_, err = r.Ratchet(r.admin("clinic"), "clinic", "a.example")
	require.Error(t, err)
}

// Each statement of a write fails in turn: it is an error, and nothing of it holds.
func TestWritesFailWhole(t *testing.T) {
	path := t.TempDir() + "/p.db"
	f := new(sqldbtest.Faults)
	base := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	faulty := sqldbtest.Open(base, "file:"+path+sqldbtest.Safe, f)
	t.Cleanup(func() { require.NoError(t, faulty.Close()) })
	r := newRig(t, func(testing.TB) func() *sql.DB { return func() *sql.DB { return faulty } }, posture.Options{AutoWatch: true})
	r.far.set(good("a.example"))
	ctx := r.admin("clinic")
	n := 0
	for name, write := range map[string]func(d string) error{
		"emit": func(d string) error {
			return r.Emit(ctx, delivered(t, "p", "clinic", "anna@"+d, r.clock(), wire(securemail.ProofDANE)))
		},
		"check": func(d string) error { _, err := r.Check(ctx, "clinic", d); return err },
		"watch": func(d string) error { return r.Watch(ctx, "clinic", d) },
		"override": func(d string) error {
			return r.SetOverride(ctx, posture.Override{Tenant: "clinic", Domain: d, Reason: "x"})
		},
		"refresh": func(string) error { _, err := r.Refresh(ctx); return err },
	} {
		for at := 1; ; at++ {
			n++
			d := fmt.Sprintf("n%d.example", n)
			if name == "refresh" {
				require.NoError(t, r.Watch(ctx, "clinic", "w.example"))
				_, err := base.Exec("UPDATE posture_domain SET due=CASE WHEN domain='w.example' THEN 1 ELSE 0 END")
				require.NoError(t, err)
				r.pass(2 * time.Hour)
			}
			f.At(at, sqldbtest.IOErr)
			err := write(d)
			if f.Clear() < at {
				require.NoError(t, err, name)
				break
			}
			require.Error(t, err, "%s, statement %d", name, at)
			if name == "refresh" {
				continue
			}
			for _, table := range []string{"posture_domain", "posture_check", "posture_ratchet"} {
				var rows int
				require.NoError(t, base.QueryRow("SELECT count(*) FROM "+table+" WHERE domain=?", d).Scan(&rows))
				require.Zero(t, rows, "%s left a row in %s at statement %d", name, table, at)
			}
		}
	}
}

// Damaged rows are errors, never "nothing learned".
func TestDamagedRows(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	ctx := r.admin("clinic")
	r.far.set(good("a.example"))
	r.check("a.example")
	r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
	for _, q := range []string{"UPDATE posture_ratchet SET learned='{' WHERE domain='a.example'", "UPDATE posture_ratchet SET learned='', override=9 WHERE domain='a.example'"} {
		_, err := r.db.Exec(q)
		require.NoError(t, err)
		r.pass(time.Minute)
		_, err = r.Least(ctx, "clinic", "a.example")
		require.ErrorContains(t, err, "damaged")
		_, err = r.Report(ctx, "clinic", "a.example")
		require.ErrorContains(t, err, "damaged")
		_, err = r.Check(ctx, "clinic", "a.example")
		require.ErrorContains(t, err, "damaged")
		require.NoError(t, r.EmitAll(ctx, delivered(t, "p", "clinic", "x@a.example", r.clock(), wire(securemail.ProofDANE)),
			delivered(t, "q", "clinic", "x@b.example", r.clock(), wire(securemail.ProofDANE))), "the others don't wait")
		require.Equal(t, securemail.ChannelVerified, r.least("clinic", "b.example"))
		_, err = r.Least(ctx, "clinic", "a.example")
		require.ErrorContains(t, err, "damaged", "evidence does not mend it unseen")
		require.NoError(t, r.SetOverride(ctx, posture.Override{Tenant: "clinic", Domain: "a.example", Channel: securemail.ChannelNamed, Reason: "disk"}))
		require.Equal(t, securemail.ChannelNamed, r.least("clinic", "a.example"))
	}
	_, err := r.db.Exec("UPDATE posture_check SET found='{'")
	require.NoError(t, err)
	_, err = r.History(ctx, "clinic", "a.example", 1)
	require.ErrorContains(t, err, "damaged")
	_, err = r.db.Exec("UPDATE posture_domain SET state='{'")
	require.NoError(t, err)
	_, err = r.Report(ctx, "clinic", "a.example")
	require.ErrorContains(t, err, "damaged")
	_, err = r.Check(ctx, "clinic", "a.example")
	require.ErrorContains(t, err, "damaged")
}

func TestManyAskAtOnce(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for range 64 {
		wg.Go(func() {
			c, err := r.Least(t.Context(), "clinic", "a.example")
			if err == nil && c != securemail.ChannelVerified {
				err = errors.New("another answer")
			}
			errs <- err
		})
	}
	wg.Wait()
	for range 64 {
		require.NoError(t, <-errs)
	}
	allocs := testing.AllocsPerRun(100, func() { _, _ = r.Least(t.Context(), "clinic", "a.example") })
	require.LessOrEqual(t, allocs, 1.0, "the answer for each mail comes from memory")
}

// Several processes learn the same domains and look at them at the same time: nobody waits for ever, nothing is lost.
func TestManyProcessesLearn(t *testing.T) {
	for name, open := range openers() {
		if strings.Contains(name, "one connection") {
			continue // one handle can't be several processes
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t, open, posture.Options{AutoWatch: true})
			var ms []*posture.Monitor
			for range 3 {
				ms = append(ms, r.open(r.again()))
			}
			ctx := r.admin("clinic")
			var wg sync.WaitGroup
			errs := make(chan error, 100)
			for i, m := range ms {
				for round := range 3 {
					var es []securemail.Event
					for d := range 20 { // each in an order of its own
						id := (d*7 + i*3 + round) % 20
						es = append(es, delivered(t, "p", "clinic", fmt.Sprintf("x@d%d.example", id), start.Add(time.Duration(round-3)*4*day), wire(securemail.ProofPKIX)))
					}
					wg.Go(func() { errs <- m.EmitAll(ctx, es...) })
					wg.Go(func() { _, err := m.Check(ctx, "clinic", fmt.Sprintf("d%d.example", round)); errs <- err })
				}
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				require.NoError(t, err)
			}
			for d := range 20 {
				require.Equal(t, securemail.ChannelNamed, r.least("clinic", fmt.Sprintf("d%d.example", d)))
			}
		})
	}
}

// model is the ratchet's promise, written down another way: all evidence kept, and asked each time.
type model struct {
	ev []modelEvidence
}

type modelEvidence struct {
	at     time.Time
	level  securemail.Channel
	strong bool
}

// allowed says whether channel c may be held at now by what was ever proved: it must have been raised by evidence that
// suffices, and evidence must never have paused for 30 days since.
func (m *model) allowed(c securemail.Channel, now time.Time) bool {
	raised := false
	var run []time.Time
	for _, e := range m.ev {
		if e.level > c {
			continue
		}
		if len(run) > 0 && e.at.Sub(run[len(run)-1]) >= 30*day {
			raised, run = false, nil
		}
		run = append(run, e.at)
		days := map[int64]bool{}
		first := e.at
		for _, at := range run {
			if e.at.Sub(at) < 30*day {
				days[at.Unix()/86400] = true
				if at.Before(first) {
					first = at
				}
			}
		}
		raised = raised || e.strong || len(days) >= 3 && e.at.Sub(first) >= 7*day
	}
	return raised && now.Sub(run[len(run)-1]) < 30*day
}

// Never lowered by anything but time or an override, never raised by a probe or a burst, and always exactly what the
// evidence gives, whatever is emitted twice.
func TestRatchetProperty(t *testing.T) {
	r := newRig(t, memory, posture.Options{})
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		domain := fmt.Sprintf("r%d.example", run)
		r.now.Store(start.UnixMicro())
		r.far.set(good(domain))
		m := new(model)
		last := securemail.ChannelAny
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"deliver", "deliver", "deliver", "burst", "check", "wait", "long", "fall"}).Draw(rt, "step") {
			case "deliver", "burst":
				p := rapid.SampledFrom([]securemail.Proof{"", securemail.ProofPKIX, securemail.ProofPKIX, securemail.ProofDNSSEC, securemail.ProofDANE, securemail.ProofSTS}).Draw(rt, "proof")
				level := map[securemail.Proof]securemail.Channel{"": securemail.ChannelEncrypted, securemail.ProofPKIX: securemail.ChannelNamed}[p]
				for range rapid.IntRange(1, 4).Draw(rt, "times") {
					r.deliver("clinic", domain, wire(p))
				}
				m.ev = append(m.ev, modelEvidence{r.clock(), level, p == securemail.ProofDANE || p == securemail.ProofSTS})
			case "check":
				r.check(domain)
			case "wait":
				r.pass(time.Duration(rapid.IntRange(1, 100).Draw(rt, "hours")) * time.Hour)
				last = securemail.ChannelAny // time may lower
			case "long":
				r.pass(time.Duration(rapid.IntRange(5, 40).Draw(rt, "days")) * day)
				last = securemail.ChannelAny
			case "fall":
				r.far.set(worsen(good(domain)))
				r.deliver("clinic", domain, securemail.Wire{Hop: securemail.HopFinal})
			}
			got, err := r.Least(t.Context(), "clinic", domain)
			require.NoError(rt, err)
			require.LessOrEqual(rt, got, last, "lowered without time")
			last = got
			want := securemail.ChannelAny
			for c := securemail.ChannelEncrypted; ; c-- {
				if m.allowed(c, r.clock()) {
					want = c
				}
				if c == securemail.ChannelVerified {
					break
				}
			}
			require.Equal(rt, want, got)
		}
	})
}

// The order and the number of times in which evidence comes changes nothing.
func TestEvidenceCommutes(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.pass(8 * day)
	at := []time.Time{start, start.Add(3 * day), start.Add(7 * day)}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 1, 2, 0, 2}} {
		d := fmt.Sprintf("o%d.example", len(order)*10+order[0])
		var es []securemail.Event
		for _, i := range order {
			es = append(es, delivered(t, fmt.Sprint("p", i), "clinic", "anna@"+d, at[i], wire(securemail.ProofPKIX)))
		}
		require.NoError(t, r.EmitAll(t.Context(), es...))
		require.Equal(t, securemail.ChannelNamed, r.least("clinic", d))
		h, err := r.Ratchet(r.admin("clinic"), "clinic", d)
		require.NoError(t, err)
		require.Equal(t, at[2].Add(30*day), h.Until, "counted from the evidence, not from when it was read")
	}
}

func BenchmarkLeast(b *testing.B) {
	r := newRig(b, lite, posture.Options{})
	ctx := b.Context()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Least(ctx, "clinic", "a.example"); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkEmitAll(b *testing.B) {
	r := newRig(b, lite, posture.Options{AutoWatch: true})
	var es []securemail.Event
	for i := range 256 {
		es = append(es, delivered(b, fmt.Sprint(i), "clinic", fmt.Sprintf("x@d%d.example", i%64), start, wire(securemail.ProofDANE)))
	}
	for b.Loop() {
		if err := r.EmitAll(b.Context(), es...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(es))/b.Elapsed().Seconds(), "events/s")
}
