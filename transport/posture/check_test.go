package posture_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/posture"
)

func TestHistoryGrowsByWhatChanges(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.far.set(good("a.example"))
		first := r.check("A.Example.")
		require.Equal(t, 1, first.Checks)
		require.Equal(t, posture.LevelVerified, first.Found.Level)
		r.pass(day)
		o := good("a.example")
		o.Hosts[0].Addrs = []netip.Addr{netip.MustParseAddr("192.0.2.9")} // round robin is no change
		o.Reasons = []securemail.Reason{{Rule: "x", Text: "y"}}
		r.far.set(o)
		same := r.check("a.example")
		require.Equal(t, 2, same.Checks)
		require.Equal(t, day, same.Last.Sub(same.First))
		r.pass(day)
		o.STS.ID = "20260202"
		r.far.set(o)
		r.check("a.example")
		es, err := r.History(r.admin("clinic"), "clinic", "a.example", 10)
		require.NoError(t, err)
		require.Len(t, es, 2)
		require.Equal(t, "20260202", es[0].Found.STS.ID, "newest first")
		require.Equal(t, []posture.Change{{Field: "sts.id", Old: "20260101", New: "20260202"}}, posture.Diff(es[1].Found, es[0].Found))
		es, err = r.History(r.admin("clinic"), "clinic", "a.example", -1)
		require.NoError(t, err)
		require.Empty(t, es)
		es, err = r.History(r.admin("clinic"), "clinic", "a.example", 1)
		require.NoError(t, err)
		require.Len(t, es, 1)
	})
}

func TestAlerts(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		tell := func(o *transport.Observation) string {
			t.Helper()
			r.far.set(o)
			r.check("a.example")
			r.pass(time.Hour)
			return r.out.kinds()
		}
		require.Empty(t, tell(good("a.example")), "the first look has nothing to compare")
		require.Empty(t, tell(good("a.example")))
		require.Equal(t, "downgrade policy-changed", tell(worsen(good("a.example"))))
		require.Empty(t, tell(worsen(good("a.example"))), "told once")
		o := worsen(good("a.example"))
		o.Hosts[0].STARTTLS, o.Hosts[0].Wire, o.Route.Wire = false, securemail.Wire{Hop: securemail.HopFinal}, securemail.Wire{Hop: securemail.HopFinal}
		require.Equal(t, "downgrade", tell(o), "worse again")
		require.Empty(t, tell(worsen(good("a.example"))), "not yet as good as it was")
		require.Equal(t, "policy-changed recovered", sortedWords(tell(good("a.example"))))

		require.Empty(t, tell(silent("a.example")), "one failure tells nothing")
		require.Equal(t, "unreachable", tell(silent("a.example")))
		require.Empty(t, tell(silent("a.example")))
		require.Equal(t, "recovered", tell(good("a.example")))

		o = good("a.example")
		o.Hosts[0].RequireTLS = true
		require.Equal(t, "policy-changed", tell(o))
		o = good("a.example")
		o.NullMX, o.Hosts, o.Route = true, nil, securemail.Route{}
		require.Equal(t, "policy-changed", tell(o), "null MX, and the mail host gone")
		require.Empty(t, tell(o), "takes no mail, which is not unreachable")
	})
}

func sortedWords(s string) string {
	w := strings.Fields(s)
	if len(w) == 2 && w[0] > w[1] {
		w[0], w[1] = w[1], w[0]
	}
	return strings.Join(w, " ")
}

// What is not known now is compared with nothing, and what was known before stays.
func TestUnknownIsNotGone(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		with := func(change func(o *transport.Observation)) string {
			t.Helper()
			o := good("a.example")
			o.Hosts[0].DANE = "usable"
			change(o)
			r.far.set(o)
			r.check("a.example")
			return r.out.kinds()
		}
		require.Empty(t, with(func(*transport.Observation) {}))
		require.Empty(t, with(func(o *transport.Observation) {
			o.STS, o.Hosts[0].DANE = transport.STSObservation{State: "unknown"}, "unknown"
			o.Hosts[0].Addr, o.Hosts[0].STARTTLS, o.Hosts[0].Wire = netip.Addr{}, false, securemail.Wire{}
			o.Route = securemail.Route{}
		}))
		require.Equal(t, "downgrade policy-changed", with(func(o *transport.Observation) {
			o.Hosts[0].DANE, o.STS = "none", transport.STSObservation{State: "none"}
		}), "the state from before the gap is what counts")
	})
}

func TestCertificateIsToldTwice(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		tell := func() string { r.check("a.example"); return r.out.kinds() }
		r.far.set(good("a.example"))
		require.Empty(t, tell())
		r.pass(46*day + time.Hour)
		require.Equal(t, "certificate-expiring", tell())
		r.pass(day)
		require.Empty(t, tell())
		r.pass(13 * day)
		r.check("a.example")
		es := r.out.drain()
		require.Len(t, es, 1)
		require.Equal(t, map[string]string{"domain": "a.example", "host": "mx.a.example", "state": "ended", "until": "2026-07-03T12:00:00Z"}, es[0].Detail)
		o := good("a.example")
		o.Hosts[0].Certificates[0].NotAfter, o.Hosts[0].Certificates[0].SPKI = start.Add(150*day), [32]byte{2}
		r.far.set(o)
		require.Empty(t, tell(), "renewed")
	})
}

func TestDowngradeNamesHostsAndRulesOnly(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.far.set(good("a.example"))
	r.check("a.example")
	r.deliver("clinic", "a.example", wire(securemail.ProofSTS))
	r.out.drain()
	o := worsen(good("a.example"))
	o.Hosts[0].DANE = "usable"
	r.far.set(o)
	r.check("a.example")
	es := r.out.drain()
	require.Len(t, es, 2)
	require.Equal(t, "posture.downgrade", es[0].Kind)
	require.Equal(t, map[string]string{
		"domain": "a.example", "level": "named", "ratchet": "verified",
		"changes": "level verified->named; sts.mode enforce->none; mx.a.example host.level verified->named",
	}, es[0].Detail)
	require.Equal(t, securemail.Actor{Tenant: "clinic", ID: "posture", Kind: "part"}, es[0].By)
	require.Contains(t, es[1].Detail["changes"], "mx.a.example dane none->usable")
}

// A domain that is first looked at when it is already below what deliveries proved.
func TestBelowRatchetIsADowngrade(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.deliver("clinic", "a.example", wire(securemail.ProofDANE))
		require.Equal(t, "ratchet-raised", r.out.kinds())
		r.far.set(worsen(good("a.example")))
		r.check("a.example")
		require.Equal(t, "downgrade", r.out.kinds())
		r.check("a.example")
		require.Empty(t, r.out.kinds())
		r.far.set(good("a.example"))
		r.check("a.example")
		require.Equal(t, "policy-changed recovered", sortedWords(r.out.kinds()))
	})
}

// Whatever a domain shows, in whatever order, looking again tells nothing again.
func TestAlertsAreToldOnce(t *testing.T) {
	r := newRig(t, memory, posture.Options{})
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		domain := fmt.Sprintf("r%d.example", run)
		r.now.Store(start.UnixMicro())
		for range rapid.IntRange(1, 8).Draw(rt, "looks") {
			o := good(domain)
			for _, change := range rapid.SliceOf(rapid.SampledFrom([]string{"worse", "silent", "dane", "no dane", "dane unknown", "mx", "null", "old", "unreached", "deliver", "time"})).Draw(rt, "changes") {
				switch change {
				case "worse":
					o = worsen(o)
				case "silent":
					o.Known, o.Hosts, o.Route, o.STS.State = false, nil, securemail.Route{}, "unknown"
				case "dane", "no dane", "dane unknown":
					for i := range o.Hosts {
						o.Hosts[i].DANE = map[string]string{"dane": "usable", "no dane": "none", "dane unknown": "unknown"}[change]
					}
				case "mx":
					if len(o.Hosts) == 1 {
						o.Hosts = append(o.Hosts, o.Hosts[0])
						o.Hosts[1].Name = "mx2." + domain
					}
				case "null":
					o.NullMX, o.Hosts, o.Route = true, nil, securemail.Route{}
				case "old":
					for i := range o.Hosts {
						o.Hosts[i].Certificates[0].NotAfter = start.Add(day)
					}
				case "unreached":
					for i := range o.Hosts {
						o.Hosts[i].Addr = netip.Addr{}
					}
					o.Route = securemail.Route{}
				case "deliver":
					r.deliver("clinic", domain, wire(securemail.ProofDANE))
				case "time":
					r.pass(day / 2)
				}
				if len(o.Hosts) == 0 {
					o.Hosts = nil
				}
			}
			r.far.set(o)
			r.check(domain)
			r.check(domain) // the second failure is told
			r.out.drain()
			r.check(domain)
			require.Empty(rt, r.out.drain())
		}
	})
}

// A downgrade that lasts longer than the ratchet remembers is what is normal.
func TestOldDowngradeIsForgotten(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.far.set(good("a.example"))
	r.check("a.example")
	r.far.set(worsen(good("a.example")))
	r.check("a.example")
	r.out.drain()
	r.pass(31 * day)
	r.check("a.example")
	require.Empty(t, r.out.drain())
	rep, err := r.Report(r.admin("clinic"), "clinic", "a.example")
	require.NoError(t, err)
	require.False(t, rep.Domains[0].Downgraded)
}

func TestLookThatFailsIsStored(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.far.err = errors.New("no network")
		e := r.check("a.example")
		require.False(t, e.Found.Known)
		require.Equal(t, posture.LevelUnknown, e.Found.Level)
		ctx, cancel := context.WithCancel(r.admin("clinic"))
		cancel()
		_, err := r.Check(ctx, "clinic", "a.example")
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Every statement fails in turn; the history, the alert and what is known come together or not at all.
func TestCheckIsOneTransaction(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.far.set(good("a.example"))
	r.check("a.example")
	bad := &brokenOutbox{r.out, errors.New("no room")}
	r.opts.Outbox = bad
	m := r.open(r.db)
	r.far.set(worsen(good("a.example")))
	_, err := m.Check(r.admin("clinic"), "clinic", "a.example")
	require.ErrorIs(t, err, bad.err)
	es, err := r.History(r.admin("clinic"), "clinic", "a.example", 9)
	require.NoError(t, err)
	require.Len(t, es, 1, "no entry without its alert")
	r.check("a.example")
	require.Equal(t, "downgrade policy-changed", r.out.kinds(), "and the alert is not lost")
}

type brokenOutbox struct {
	*outbox
	err error
}

func (b *brokenOutbox) Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if err := b.outbox.Add(ctx, tx, es...); err != nil {
		return err
	}
	return b.err
}

func TestRights(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	r.far.set(good("a.example"))
	ask := map[string]func(ctx context.Context) error{
		"check":   func(ctx context.Context) error { _, err := r.Check(ctx, "clinic", "a.example"); return err },
		"history": func(ctx context.Context) error { _, err := r.History(ctx, "clinic", "a.example", 1); return err },
		"report":  func(ctx context.Context) error { _, err := r.Report(ctx, "clinic"); return err },
		"ratchet": func(ctx context.Context) error { _, err := r.Ratchet(ctx, "clinic", "a.example"); return err },
	}
	change := map[string]func(ctx context.Context) error{
		"watch":   func(ctx context.Context) error { return r.Watch(ctx, "clinic", "a.example") },
		"unwatch": func(ctx context.Context) error { return r.Unwatch(ctx, "clinic", "a.example") },
		"set": func(ctx context.Context) error {
			return r.SetOverride(ctx, posture.Override{Tenant: "clinic", Domain: "a.example", Reason: "agreed"})
		},
		"clear": func(ctx context.Context) error { return r.ClearOverride(ctx, "clinic", "a.example", "over") },
	}
	for name, f := range ask {
		require.NoError(t, f(as(t, "clinic")), name)
		require.ErrorIs(t, f(as(t, "other", "admin")), securemail.ErrDenied, name)
		require.ErrorIs(t, f(t.Context()), securemail.ErrDenied, name)
	}
	for name, f := range change {
		require.NoError(t, f(as(t, "clinic", "admin")), name)
		require.ErrorIs(t, f(as(t, "clinic", "nurse")), securemail.ErrDenied, name)
		require.ErrorIs(t, f(as(t, "other", "admin")), securemail.ErrDenied, name)
		require.ErrorIs(t, f(t.Context()), securemail.ErrDenied, name)
	}
}

func TestMalformedDomains(t *testing.T) {
	r := newRig(t, lite, posture.Options{})
	for _, d := range []string{"", ".", "a b.example", "anna@a.example", "[192.0.2.1]", strings.Repeat("a", 64) + ".example"} {
		_, err := r.Check(r.admin("clinic"), "clinic", d)
		require.Error(t, err, d)
		require.NotContains(t, err.Error(), "anna")
		_, err = r.History(r.admin("clinic"), "clinic", d, 1)
		require.Error(t, err)
		_, err = r.Ratchet(r.admin("clinic"), "clinic", d)
		require.Error(t, err)
		require.Error(t, r.Watch(r.admin("clinic"), "clinic", d))
		require.Error(t, r.ClearOverride(r.admin("clinic"), "clinic", d, "x"))
		require.Error(t, r.SetOverride(r.admin("clinic"), posture.Override{Tenant: "clinic", Domain: d, Reason: "x"}))
	}
	_, err := r.Report(r.admin("clinic"), "clinic", "a b")
	require.Error(t, err)
}

func TestOptions(t *testing.T) {
	ctx := t.Context()
	db := lite(t)()
	_, err := posture.New(ctx, nil, nil, &posture.Options{Interval: -1, Concurrency: -1})
	require.ErrorContains(t, err, "required")
	require.ErrorContains(t, err, "negative")
	require.ErrorContains(t, err, "bound")
	_, err = posture.New(ctx, db, newFar(), &posture.Options{Interval: time.Hour, Jitter: 2 * time.Hour})
	require.ErrorContains(t, err, "Jitter")
	m, err := posture.New(ctx, db, nil, nil)
	require.NoError(t, err)
	_, err = m.Check(as(t, "clinic"), "clinic", "a.example")
	require.ErrorContains(t, err, "no observer")
	_, err = m.Refresh(ctx)
	require.ErrorContains(t, err, "no observer")
	require.False(t, m.CanForward(ctx, "clinic", address(t, "anna@a.example"), securemail.ChannelNamed).OK)
	f := newFar()
	f.set(good("a.example"))
	f.route = good("a.example").Route
	f.route.Until = time.Time{}
	m.Use(f)
	_, err = m.Check(as(t, "clinic"), "clinic", "a.example")
	require.NoError(t, err)
	require.True(t, m.CanForward(ctx, "clinic", address(t, "anna@a.example"), securemail.ChannelNamed).OK)
}

// Nothing that can be a person's name is kept, whatever a far end or an observer says.
func TestNoNamesOfPersons(t *testing.T) {
	const canary = "q7xk9"
	o := good("a.example")
	o.Hosts[0].Certificates[0].Names = append(o.Hosts[0].Certificates[0].Names, canary+"@a.example")
	o.Hosts[0].Certificates[0].Issuer = "emailAddress=" + canary + "@a.example"
	o.Hosts[0].Extensions = append(o.Hosts[0].Extensions, canary+"@x")
	o.Reasons = []securemail.Reason{{Rule: "r", Text: "<" + canary + "@a.example>"}}
	rpt := posture.LookupTLSRPT(t.Context(), txt{"_smtp._tls.a.example": []string{"v=TLSRPTv1; rua=mailto:" + canary + "@a.example,https://r.example/" + canary}}, "a.example")
	b, err := json.Marshal(posture.NewSnapshot(o, rpt))
	require.NoError(t, err)
	require.NotContains(t, string(b), canary)
	require.Equal(t, []string{"https://r.example", "mailto:a.example"}, rpt.Destinations)
}

// A far end that shows a thousand of everything is cut.
func TestSnapshotIsBounded(t *testing.T) {
	o := good("a.example")
	for range 8 {
		o.Hosts = append(o.Hosts, o.Hosts...)
		o.Hosts[0].Certificates = append(o.Hosts[0].Certificates, o.Hosts[0].Certificates...)
	}
	for i := range 1000 {
		o.Hosts[0].Certificates[0].Names = append(o.Hosts[0].Certificates[0].Names, strings.Repeat("é", i))
		o.Reasons = append(o.Reasons, securemail.Reason{Rule: strings.Repeat("r", 1000), Text: "t"})
	}
	b, err := json.Marshal(posture.NewSnapshot(o, posture.TLSRPT{}))
	require.NoError(t, err)
	require.Less(t, len(b), 200_000)
}

type txt map[string]any

func (m txt) LookupTXT(_ context.Context, name string) ([]string, error) {
	switch v := m[name].(type) {
	case []string:
		return v, nil
	case error:
		return nil, v
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func TestTLSRPT(t *testing.T) {
	r := txt{
		"_smtp._tls.a.example": []string{"unrelated", "v=TLSRPTv1; rua=mailto:x@a.example , https://R.example./p"},
		"_smtp._tls.b.example": []string{"v=TLSRPTv1;rua=mailto:x@b.example", "v=TLSRPTv1;rua=mailto:y@b.example"},
		"_smtp._tls.c.example": []string{"v=TLSRPTv1; rua=ftp://x, mailto:nobody"},
		"_smtp._tls.d.example": errors.New("time-out"),
		"_smtp._tls.f.example": []string{"v=TLSRPTv1"},
	}
	for domain, want := range map[string]string{
		"a.example": "https://r.example mailto:a.example", "b.example": "none", "c.example": "invalid", "d.example": "unknown", "e.example": "none", "f.example": "none",
	} {
		require.Equal(t, want, posture.LookupTLSRPT(t.Context(), r, domain).String(), domain)
	}
	require.Equal(t, "unknown", posture.LookupTLSRPT(t.Context(), nil, "a.example").State)
}
