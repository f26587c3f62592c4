package alert_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/alert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var errBox = errors.New("disk full")

// box is an outbox that takes each id once.
type box struct {
	mu     sync.Mutex
	events []securemail.Event
	ids    map[string]bool
	err    error
}

func (b *box) Add(_ context.Context, tx *sql.Tx, es ...securemail.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if b.ids == nil {
		b.ids = map[string]bool{}
	}
	for _, e := range es {
		if !b.ids[e.ID] {
			b.events = append(b.events, e)
		}
		b.ids[e.ID] = true
	}
	return nil
}

func watcher(t testing.TB, b *box, rules ...alert.Rule) *alert.Watcher {
	w, err := alert.New(b, &alert.Options{Rules: rules})
	require.NoError(t, err)
	return w
}

func event(kind, tenant, id string, at time.Duration) securemail.Event {
	return securemail.Event{ID: id, Kind: kind, Time: start.Add(at), By: securemail.Actor{Tenant: tenant}}
}

// burst emits n events of a kind, gap apart from each other.
func burst(t testing.TB, w *alert.Watcher, kind, tenant string, n int, from, gap time.Duration) {
	for i := range n {
		at := from + time.Duration(i)*gap
		require.NoError(t, w.Emit(t.Context(), event(kind, tenant, fmt.Sprintf("%s %s %v", kind, tenant, at), at)))
	}
}

func TestBurst(t *testing.T) {
	b := &box{}
	w := watcher(t, b, alert.Rule{ID: "r", Kinds: []string{"bounced"}, Count: 3, Window: time.Minute, Cooldown: 10 * time.Minute})
	burst(t, w, "bounced", "a", 20, 0, 31*time.Second) // never three within a minute
	burst(t, w, "delivered", "a", 20, 0, time.Second)
	burst(t, w, "bounced", "b", 2, 0, time.Second)
	require.Empty(t, b.events)

	burst(t, w, "bounced", "a", 3, time.Hour, 30*time.Second) // exactly a minute
	require.Len(t, b.events, 1)
	got := b.events[0]
	require.Equal(t, alert.Kind, got.Kind)
	require.Equal(t, securemail.Actor{Tenant: "a", ID: "alert", Kind: "part"}, got.By)
	require.Equal(t, start.Add(61*time.Minute), got.Time)
	require.Equal(t, map[string]string{
		"rule": "r", "count": "3", "window": "1m0s", "since": "2026-03-01T13:00:00Z", "event": "bounced a 1h1m0s",
	}, got.Detail)

	burst(t, w, "bounced", "a", 30, 62*time.Minute, 10*time.Second)
	require.Len(t, b.events, 1, "quiet")
	burst(t, w, "bounced", "b", 3, 62*time.Minute, time.Second)
	require.Len(t, b.events, 2, "another tenant is not")
	burst(t, w, "bounced", "a", 3, 71*time.Minute, time.Second)
	require.Len(t, b.events, 3, "the cool-down is over")
}

func TestGroups(t *testing.T) {
	to := func(domain string) securemail.Contact {
		a, err := securemail.ParseAddress("canary@" + domain)
		require.NoError(t, err)
		return securemail.Contact{Address: a}
	}
	b := &box{}
	rule := func(id string, per alert.Per) alert.Rule {
		return alert.Rule{ID: id, Per: per, Count: 2, Window: time.Hour}
	}
	w := watcher(t, b, rule("tenant", alert.PerTenant), rule("actor", alert.PerActor), rule("domain", alert.PerDomain), rule("all", alert.Overall))
	rules := func(e securemail.Event, actor, domain string) (out []string) {
		e.By.ID, e.Recipient = actor, to(domain)
		before := len(b.events)
		require.NoError(t, w.Emit(t.Context(), e))
		for _, a := range b.events[before:] {
			out = append(out, a.Detail["rule"]+"/"+a.By.Tenant+"/"+a.Detail["actor"])
			require.NotContains(t, fmt.Sprint(a.Detail), "canary")
			require.NotContains(t, fmt.Sprint(a.Detail), ".test")
		}
		return out
	}
	require.Empty(t, rules(event("x", "t", "1", 0), "a", "one.test"))
	require.Equal(t, []string{"all//"}, rules(event("x", "u", "2", 0), "a", "one.test"))
	require.Equal(t, []string{"tenant/t/"}, rules(event("x", "t", "3", 0), "b", "two.test"))
	require.Equal(t, []string{"actor/t/a"}, rules(event("x", "t", "4", 0), "a", "three.test"))
	require.Equal(t, []string{"domain/t/"}, rules(event("x", "t", "5", 0), "c", "three.test"))
}

func TestMatching(t *testing.T) {
	for name, c := range map[string]struct {
		rule  alert.Rule
		event func(*securemail.Event)
		fires bool
	}{
		"kind":            {alert.Rule{Kinds: []string{"policy", "key"}}, func(e *securemail.Event) { e.Kind = "key" }, true},
		"another kind":    {alert.Rule{Kinds: []string{"policy"}}, func(e *securemail.Event) { e.Kind = "policy2" }, false},
		"prefix":          {alert.Rule{Kinds: []string{"posture.*"}}, func(e *securemail.Event) { e.Kind = "posture.downgrade" }, true},
		"no prefix":       {alert.Rule{Kinds: []string{"posture.*"}}, func(e *securemail.Event) { e.Kind = "posture" }, false},
		"any":             {alert.Rule{}, func(*securemail.Event) {}, true},
		"purpose":         {alert.Rule{Purposes: []string{"BTG"}}, func(e *securemail.Event) { e.By.Purpose = "BTG" }, true},
		"another purpose": {alert.Rule{Purposes: []string{"BTG"}}, func(e *securemail.Event) { e.By.Purpose = "TREAT" }, false},
		"no purpose":      {alert.Rule{Purposes: []string{""}}, func(*securemail.Event) {}, false},
		"role":            {alert.Rule{Purposes: []string{"BTG"}, Roles: []string{"r"}}, func(e *securemail.Event) { e.By.Roles = []string{"x", "r"} }, true},
		"another role":    {alert.Rule{Roles: []string{"r"}}, func(e *securemail.Event) { e.By.Roles = []string{"x"} }, false},
		"detail":          {alert.Rule{Detail: map[string]string{"a": "1"}}, func(e *securemail.Event) { e.Detail = map[string]string{"a": "1", "b": "2"} }, true},
		"another detail":  {alert.Rule{Detail: map[string]string{"a": "1"}}, func(e *securemail.Event) { e.Detail = map[string]string{"a": "2"} }, false},
		"lacking detail":  {alert.Rule{Detail: map[string]string{"a": ""}}, func(*securemail.Event) {}, false},
		"an alert":        {alert.Rule{}, func(e *securemail.Event) { e.Kind = alert.Kind }, false},
		"alerts by star":  {alert.Rule{Kinds: []string{"al*"}}, func(e *securemail.Event) { e.Kind = alert.Kind }, false},
	} {
		b, e := &box{}, event("x", "t", "1", 0)
		c.rule.ID = "r"
		c.event(&e)
		require.NoError(t, watcher(t, b, c.rule).Emit(t.Context(), e))
		require.Equal(t, c.fires, len(b.events) == 1, name)
	}
}

func TestDefaults(t *testing.T) {
	b := &box{}
	w, err := alert.New(b, nil)
	require.NoError(t, err)
	glass := event("read", "t", "1", 0)
	glass.By.Purpose, glass.By.ID = "BTG", "dr"
	destroyed := event("key", "t", "2", 0)
	destroyed.Detail = map[string]string{"action": "destroy", "stage": "done"}
	for _, e := range []securemail.Event{glass, destroyed, event("policy", "t", "3", 0), event("posture.downgrade", "t", "4", 0), event("restored", "", "5", 0)} {
		require.NoError(t, w.Emit(t.Context(), e))
	}
	for i := range 300 { // a quiet day with each kind now and then
		for _, kind := range []string{"accepted", "delivered", "bounced", "deferred", "denied", "uncertain"} {
			require.NoError(t, w.Emit(t.Context(), event(kind, "q", fmt.Sprint(kind, i), time.Duration(i)*6*time.Minute)))
		}
	}
	require.Len(t, b.events, 5)
	for kind, n := range map[string]int{"bounced": 20, "deferred": 200, "uncertain": 3, "denied": 10, "fault": 1} {
		b.events = nil
		burst(t, w, kind, "t", n-1, time.Hour, time.Second)
		require.Empty(t, b.events, kind)
		burst(t, w, kind, "t", 1, time.Hour+time.Duration(n)*time.Second, time.Second)
		require.Len(t, b.events, 1, kind)
	}
}

// TestOutboxFails: nothing is lost, nothing counts twice, and no rule that fired stays silent.
func TestOutboxFails(t *testing.T) {
	b := &box{}
	var told []alert.Alert
	w, err := alert.New(b, &alert.Options{
		Rules:  []alert.Rule{{ID: "one"}, {ID: "two", Count: 2, Window: time.Minute}},
		Notify: func(_ context.Context, a alert.Alert) { told = append(told, a) },
	})
	require.NoError(t, err)
	broken := errBox
	b.err = broken
	for range 3 {
		require.ErrorIs(t, w.EmitAll(t.Context(), event("x", "t", "1", 0), event("x", "t", "2", 0)), broken)
	}
	require.Empty(t, told)
	b.err = nil
	require.NoError(t, w.Emit(t.Context(), event("x", "t", "1", 0)))
	require.Len(t, b.events, 1)
	b.err = broken
	require.ErrorIs(t, w.EmitAll(t.Context(), event("x", "t", "1", 0), event("x", "t", "2", 0)), broken)
	b.err = nil
	require.NoError(t, w.EmitAll(t.Context(), event("x", "t", "1", 0), event("x", "t", "2", 0), event("x", "t", "2", 0)))
	require.Len(t, b.events, 3)
	require.Len(t, told, 3)
	require.Equal(t, alert.Alert{Rule: "two", Tenant: "t", Count: 2, Since: start, At: start, Event: "2"}, told[2])
}

func TestLateAndEarlyEvents(t *testing.T) {
	b := &box{}
	w, err := alert.New(b, &alert.Options{
		Rules: []alert.Rule{{ID: "one", Kinds: []string{"one"}, Cooldown: time.Minute}, {ID: "two", Kinds: []string{"two"}, Count: 2, Window: time.Minute}},
		Now:   func() time.Time { return start.Add(time.Hour) },
	})
	require.NoError(t, err)
	emit := func(kind, id string, at time.Duration, want int) {
		t.Helper()
		before := len(b.events)
		require.NoError(t, w.Emit(t.Context(), event(kind, "t", id, at)))
		require.Len(t, b.events, before+want, id)
	}
	emit("one", "now", 30*time.Minute, 1)
	emit("one", "a little earlier", 29*time.Minute+30*time.Second, 0)
	emit("one", "much earlier", 10*time.Minute, 1)
	emit("two", "future", 1000*time.Hour, 0) // counts as of now, an hour behind start
	emit("two", "long ago", time.Minute, 0)
	emit("two", "just before now", time.Hour-time.Second, 1)
	require.Equal(t, start.Add(time.Hour-time.Second), b.events[len(b.events)-1].Time)
}

func TestMemoryIsFlat(t *testing.T) {
	b := &box{}
	w, err := alert.New(b, &alert.Options{Rules: []alert.Rule{{ID: "r", Count: 5, Window: time.Hour}, {ID: "s", Per: alert.PerActor, Count: 5, Window: time.Hour}}, Groups: 1000})
	require.NoError(t, err)
	flood := func(from, n int) {
		for i := range n {
			e := event("x", fmt.Sprintf("tenant-%d", from+i), fmt.Sprintf("event-%d", from+i), 0)
			require.NoError(t, w.Emit(t.Context(), e))
		}
	}
	flood(0, 40_000)
	before := heap()
	flood(40_000, 200_000)
	require.Less(t, heap()-before, int64(2<<20))
	runtime.KeepAlive(w)

	// A flood of callers takes nothing from what is known of the tenant.
	burst(t, w, "x", "steady", 4, time.Minute, time.Second)
	for i := range 5000 {
		e := event("x", "other", fmt.Sprint("flood", i), time.Minute)
		e.By.ID = fmt.Sprint(i)
		require.NoError(t, w.Emit(t.Context(), e))
	}
	n := len(b.events)
	burst(t, w, "x", "steady", 1, 2*time.Minute, time.Second)
	require.Len(t, b.events, n+1)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestNew(t *testing.T) {
	w, err := alert.New(nil, &alert.Options{Groups: -1, Rules: []alert.Rule{
		{}, {ID: "UPPER"}, {ID: "a", Count: 2}, {ID: "b", Count: -1}, {ID: "c", Window: -1}, {ID: "d", Cooldown: -1}, {ID: "e", Per: 9},
		{ID: "f", Kinds: []string{"alert"}}, {ID: "g", Kinds: []string{""}}, {ID: "h", Count: 10_001, Window: 1}, {ID: "i"}, {ID: "i"},
	}})
	require.Nil(t, w)
	for _, says := range []string{"no outbox", "Groups", "malformed rule id", "rule a: Count", "rule b", "rule c", "rule d", "rule e", "rule f", "rule g", "rule h", "rule i is there twice"} {
		require.ErrorContains(t, err, says)
	}
	_, err = alert.New(&box{}, &alert.Options{Rules: make([]alert.Rule, 257)})
	require.ErrorContains(t, err, "too many rules")
}
