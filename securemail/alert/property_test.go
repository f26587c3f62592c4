package alert_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/alert"
)

// story is a stream of events in the order of their times, as an outbox gives them.
func story(rt *rapid.T) []securemail.Event {
	var out []securemail.Event
	at := time.Duration(0)
	for i := range rapid.IntRange(1, 120).Draw(rt, "events") {
		at += time.Duration(rapid.IntRange(0, 90).Draw(rt, "gap")) * time.Second
		kind := rapid.SampledFrom([]string{"bounced", "delivered", alert.Kind}).Draw(rt, "kind")
		out = append(out, event(kind, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "tenant"), fmt.Sprint(i), at))
	}
	return out
}

// expect is what the rule says, told plainly: an alert at each event that is the Count-th within Window, unless one fired less
// than Cooldown before.
func expect(r alert.Rule, es []securemail.Event) []string {
	var out []string
	fired, times := map[string]time.Time{}, map[string][]time.Time{}
	for _, e := range es {
		if e.Kind != r.Kinds[0] {
			continue
		}
		t := e.By.Tenant
		times[t] = append(times[t], e.Time)
		in := 0
		for _, at := range times[t] {
			if e.Time.Sub(at) <= r.Window {
				in++
			}
		}
		if last, ok := fired[t]; in >= r.Count && (!ok || e.Time.Sub(last) >= r.Cooldown) {
			fired[t] = e.Time
			out = append(out, e.ID)
		}
	}
	return out
}

func drawRule(rt *rapid.T) alert.Rule {
	return alert.Rule{
		ID: "r", Kinds: []string{"bounced"}, Count: rapid.IntRange(1, 6).Draw(rt, "count"),
		Window:   time.Duration(rapid.IntRange(1, 300).Draw(rt, "window")) * time.Second,
		Cooldown: time.Duration(rapid.IntRange(1, 600).Draw(rt, "cooldown")) * time.Second,
	}
}

func fired(b *box) []string {
	var out []string
	for _, e := range b.events {
		out = append(out, e.Detail["event"])
	}
	return out
}

// TestFiresAsTheRuleSays: whatever is delivered twice or in pieces, and however often the outbox fails in between, the alerts are
// those of the rule.
func TestFiresAsTheRuleSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, es, b := drawRule(rt), story(rt), &box{}
		w, err := alert.New(b, &alert.Options{Rules: []alert.Rule{r}})
		if err != nil {
			rt.Fatal(err)
		}
		for from := 0; from < len(es); {
			to := rapid.IntRange(from, len(es)).Draw(rt, "batch")
			if rapid.IntRange(0, 3).Draw(rt, "fails") == 0 {
				b.err = errBox
			}
			err := w.EmitAll(t.Context(), es[from:to]...)
			b.err = nil
			if err == nil && rapid.IntRange(0, 3).Draw(rt, "acknowledged") > 0 {
				from = to // else all of it comes again
			}
		}
		if want, got := fmt.Sprint(expect(r, es)), fmt.Sprint(fired(b)); want != got {
			rt.Fatalf("want %s, got %s", want, got)
		}
	})
}

// TestReplayFiresNothingNew: a new process that reads the same events again adds no alert to the outbox.
func TestReplayFiresNothingNew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, es, b := drawRule(rt), story(rt), &box{}
		n := 0
		for range 3 {
			w, err := alert.New(b, &alert.Options{Rules: []alert.Rule{r}})
			if err != nil {
				rt.Fatal(err)
			}
			if err := w.EmitAll(t.Context(), es...); err != nil {
				rt.Fatal(err)
			}
			if n == 0 {
				n = len(b.events)
			}
			if len(b.events) != n {
				rt.Fatal("a replay fired again")
			}
		}
	})
}

// TestRestartLosesLittle: a restart at any point may delay an alert by at most Count-1 events of its group, and a rule with Count 1
// misses none.
func TestRestartLosesLittle(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, es, b := drawRule(rt), story(rt), &box{}
		r.Cooldown = r.Window
		at := rapid.IntRange(0, len(es)).Draw(rt, "restart")
		for _, part := range [][]securemail.Event{es[:at], es[at:]} {
			w, err := alert.New(b, &alert.Options{Rules: []alert.Rule{r}})
			if err != nil {
				rt.Fatal(err)
			}
			if err := w.EmitAll(t.Context(), part...); err != nil {
				rt.Fatal(err)
			}
		}
		want := append(expect(r, es[:at]), expect(r, es[at:])...)
		if fmt.Sprint(want) != fmt.Sprint(fired(b)) {
			rt.Fatalf("want %v, got %v", want, fired(b))
		}
	})
}
