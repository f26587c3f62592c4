package alert

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Per is what a rule counts apart.
type Per uint8

const (
	// PerTenant counts each tenant's events apart.
	PerTenant Per = iota
	// PerActor counts each caller's apart, within his tenant.
	PerActor
	// PerDomain counts each recipient's domain apart, within its tenant. The alert does not name the domain.
	PerDomain
	// Overall counts all events together; its alert has no tenant.
	Overall
)

// Kind is that of alerts' events.
const Kind = "alert"

const (
	maxCount = 10_000
	maxRules = 256
	maxID    = 64 // octets
)

// Rule says what is told, and when. It fires at the event that makes Count matching ones within Window.
type Rule struct {
	// ID names the rule: 1 to 64 of a-z, 0-9, "-", "." and "_".
	ID string
	// Kinds are the kinds of events that it counts; one that ends in "*" takes all that begin so. None: all kinds.
	Kinds []string
	// Purposes and Roles narrow it to events by a caller who stated one of the purposes or has one of the roles; both empty:
	// by anybody.
	Purposes, Roles []string
	// Detail narrows it to events whose Detail has all of these.
	Detail map[string]string
	// Per is what is counted apart; the zero value is each tenant.
	Per Per
	// Count is how many events fire it, up to 10,000; 0 is 1. Window is the time within which they must have happened, and must
	// be set where Count is above 1.
	Count  int
	Window time.Duration
	// Cooldown is how long it is quiet after it fired, in events' time; 0 is Window.
	Cooldown time.Duration
}

// Defaults are rules to begin with. Thresholds suit some 10,000 messages a day; a host copies and changes them. BTG is "break the
// glass" in the purposes of use of HL7.
func Defaults() []Rule {
	const m = time.Minute
	return []Rule{
		{ID: "failures", Kinds: []string{"bounced", "expired"}, Count: 20, Window: 10 * m, Cooldown: 60 * m},
		{ID: "deferrals", Kinds: []string{"deferred"}, Count: 200, Window: 10 * m, Cooldown: 60 * m},
		{ID: "uncertain", Kinds: []string{"uncertain"}, Count: 3, Window: 10 * m, Cooldown: 60 * m},
		{ID: "faults", Kinds: []string{"fault"}, Cooldown: 10 * m},
		{ID: "downgrade", Kinds: []string{"posture.downgrade", "posture.override-set"}},
		{ID: "break-glass", Purposes: []string{"BTG", "break-glass"}, Roles: []string{"break-glass"}, Per: PerActor, Cooldown: 15 * m},
		{ID: "denied-caller", Kinds: []string{"denied"}, Per: PerActor, Count: 10, Window: 5 * m, Cooldown: 60 * m},
		{ID: "denied", Kinds: []string{"denied"}, Count: 50, Window: 10 * m, Cooldown: 60 * m},
		{ID: "policy-changed", Kinds: []string{"policy"}},
		{ID: "key-destroyed", Kinds: []string{"key"}, Detail: map[string]string{"action": "destroy", "stage": "done"}, Cooldown: m},
		{ID: "restored", Kinds: []string{"restored"}},
		{ID: "reports-lost", Kinds: []string{"notice"}, Detail: map[string]string{"outcome": "failed"}, Cooldown: 60 * m},
	}
}

// check fills r's defaults in.
func (r *Rule) check() error {
	if r.Count == 0 {
		r.Count = 1
	}
	if r.Cooldown == 0 {
		r.Cooldown = r.Window
	}
	name := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("-._", c))
	}
	switch {
	case r.ID == "" || len(r.ID) > maxID || strings.ContainsFunc(r.ID, name):
		return errors.New("alert: malformed rule id")
	case r.Count < 1 || r.Count > maxCount || r.Window < 0 || r.Cooldown < 0 || r.Per > Overall:
		return fmt.Errorf("alert: rule %s: a value out of range", r.ID)
	case r.Count > 1 && r.Window == 0:
		return fmt.Errorf("alert: rule %s: Count without Window", r.ID)
	case slices.Contains(r.Kinds, Kind) || slices.Contains(r.Kinds, ""):
		return fmt.Errorf("alert: rule %s: counts alerts, or no kind", r.ID)
	}
	return nil
}

// matches says whether e counts. Alerts never do.
func (r *Rule) matches(e *securemail.Event) bool {
	if e.Kind == Kind || len(r.Kinds) > 0 && !slices.ContainsFunc(r.Kinds, func(k string) bool { return kindIs(e.Kind, k) }) {
		return false
	}
	if len(r.Purposes)+len(r.Roles) > 0 && !(e.By.Purpose != "" && slices.Contains(r.Purposes, e.By.Purpose)) &&
		!slices.ContainsFunc(e.By.Roles, func(role string) bool { return slices.Contains(r.Roles, role) }) {
		return false
	}
	for k, v := range r.Detail {
		if got, ok := e.Detail[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func kindIs(kind, pattern string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(kind, prefix)
	}
	return kind == pattern
}

// group is what an event is counted with.
func (r *Rule) group(e *securemail.Event) group {
	switch r.Per {
	case PerActor:
		return group{e.By.Tenant, e.By.Kind + "/" + e.By.ID}
	case PerDomain:
		return group{e.By.Tenant, e.Recipient.Address.Domain()}
	case Overall:
		return group{}
	}
	return group{tenant: e.By.Tenant}
}

type group struct{ tenant, id string }
