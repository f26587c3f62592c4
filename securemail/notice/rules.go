package notice

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Delayed is what a Rule's When names beside the states of securemail: the parcel is not delivered yet, so and so long
// after it was due.
const Delayed securemail.State = "delayed"

// Audience is who is told.
type Audience uint8

const (
	// ToSender tells the author; where that can't be, the role.
	ToSender Audience = iota
	// ToRole tells Tenant.Role.
	ToRole
	// ToBoth tells both.
	ToBoth
	// ToNobody mails nothing: the event is all there is.
	ToNobody
)

// Rule says who is told of what. The first rule that fits decides; the [Defaults] come behind all others.
type Rule struct {
	// Name stands in reports' events: [A-Za-z0-9._:/-]{1,64}.
	Name string
	// Tenants and Purposes are whose mail it is about; nil: any. "" is mail whose purpose was not stated.
	Tenants  []string
	Purposes []securemail.Purpose
	// When are the states entered that it is about; nil: every state in which mail ends or rests undelivered, and [Delayed].
	When []securemail.State
	To   Audience
	// Ages are, for Delayed, how long after it was due each report is made, rising; nil: once, after four hours.
	Ages []time.Duration
}

// DefaultAge is when a sender is told of mail that is still on its way, as RFC 5321 section 4.5.4.1 suggests.
const DefaultAge = 4 * time.Hour

const maxAges = 20

func undelivered() []securemail.State {
	return []securemail.State{
		securemail.StateBounced, securemail.StateExpired, securemail.StateHeld, securemail.StateUncertain, securemail.StateDropped,
	}
}

// ends are all the states in which mail for treatment can end or rest undelivered.
func ends() []securemail.State {
	return append(undelivered(), securemail.StateRefused, securemail.StateCancelled)
}

// Defaults are the rules of the table in the package comment.
func Defaults() []Rule {
	return []Rule{
		{Name: "marketing", Purposes: []securemail.Purpose{securemail.PurposeMarketing}, To: ToNobody},
		{
			Name: "business", Purposes: []securemail.Purpose{securemail.PurposePayment, securemail.PurposeOperations},
			When: append(undelivered(), Delayed),
		},
		{
			Name: "business-ended", Purposes: []securemail.Purpose{securemail.PurposePayment, securemail.PurposeOperations},
			When: []securemail.State{securemail.StateRefused, securemail.StateCancelled}, To: ToNobody,
		},
		{Name: "system", Purposes: []securemail.Purpose{securemail.PurposeSystem}, To: ToRole},
		{Name: "treatment"},
	}
}

// SilenceError says that a set of rules would let mail for treatment, or of no stated purpose, end or rest in silence.
type SilenceError struct {
	// Rule is the one that tells nobody; Tenant "" is every tenant that no rule names.
	Rule, Tenant string
	Purpose      securemail.Purpose
	State        securemail.State
}

// Error names rule, purpose and state.
func (e *SilenceError) Error() string {
	return fmt.Sprintf("notice: rule %q tells nobody of %s mail of purpose %q: mail for treatment must not end in silence", e.Rule, e.State, e.Purpose)
}

func (r *Rule) fits(tenant string, purpose securemail.Purpose, what securemail.State) bool {
	return (r.Tenants == nil || slices.Contains(r.Tenants, tenant)) &&
		(r.Purposes == nil || slices.Contains(r.Purposes, purpose)) && (r.When == nil || slices.Contains(r.When, what))
}

// rule is the first that fits; the last of the Defaults fits all.
func (n *Notices) rule(tenant string, purpose securemail.Purpose, what securemail.State) *Rule {
	i := slices.IndexFunc(n.rules, func(r Rule) bool { return r.fits(tenant, purpose, what) })
	return &n.rules[i]
}

func (r *Rule) ages() []time.Duration {
	if r.Ages == nil {
		return []time.Duration{DefaultAge}
	}
	return r.Ages
}

// checkRules names all that is wrong with the caller's rules at once.
func (n *Notices) checkRules() error {
	var errs []error
	tenants := []string{unnamed}
	for i, r := range n.o.Rules {
		if err := n.checkRule(&r); err != nil {
			errs = append(errs, fmt.Errorf("notice: Rules[%d]: %w", i, err))
		}
		tenants = append(tenants, r.Tenants...)
	}
	for _, tenant := range slices.Compact(slices.Sorted(slices.Values(tenants))) {
		for _, purpose := range []securemail.Purpose{"", securemail.PurposeTreatment} {
			for _, what := range append(ends(), Delayed) {
				r := n.rule(tenant, purpose, what)
				if r.To != ToNobody {
					continue
				}
				e := &SilenceError{Rule: r.Name, Tenant: tenant, Purpose: purpose, State: what}
				if tenant == unnamed {
					e.Tenant = ""
				}
				errs = append(errs, e)
			}
		}
	}
	return errors.Join(errs...)
}

// unnamed stands for every tenant that no rule names.
const unnamed = "\x00"

func (n *Notices) checkRule(r *Rule) error {
	var errs []error
	if !word(r.Name) {
		errs = append(errs, errors.New("name is no word"))
	}
	if r.To > ToNobody {
		errs = append(errs, errors.New("addressee is unknown"))
	}
	for _, s := range r.When {
		if s != Delayed && !slices.Contains(ends(), s) {
			errs = append(errs, fmt.Errorf("nothing ends or rests undelivered in %q", s))
		}
	}
	if r.Ages != nil && (len(r.Ages) == 0 || len(r.Ages) > maxAges || r.Ages[0] <= 0 || !slices.IsSorted(r.Ages) || len(slices.Compact(slices.Clone(r.Ages))) != len(r.Ages)) {
		errs = append(errs, errors.New("ages must be 1 to 20, above zero and rising"))
	}
	if r.To == ToRole || r.To == ToBoth {
		for _, tenant := range orAll(r.Tenants) {
			if n.tenant(tenant).Role.Address == (securemail.Address{}) {
				errs = append(errs, errors.New("it tells a role that a tenant does not have"))
			}
		}
	}
	return errors.Join(errs...)
}

func orAll(tenants []string) []string {
	if tenants == nil {
		return []string{unnamed}
	}
	return tenants
}

// word is what a Label may be too.
func word(s string) bool {
	return s != "" && len(s) <= 64 && !slices.ContainsFunc([]byte(s), func(c byte) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == ':', c == '/', c == '-':
			return false
		}
		return true
	})
}
