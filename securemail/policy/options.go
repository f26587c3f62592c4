package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Options set a preset. nil and the zero value are the defaults.
type Options struct {
	// Methods are the sealed methods that the program has Encryptors for, in order of preference; nil: smime, pgp, escrow.
	// Leave escrow out where there is no portal: what only escrow could carry is then held.
	Methods []securemail.Method
	// Profiles hold the encryptors' own words by method, such as "passkey" for escrow.
	Profiles map[securemail.Method]string
	// Strict raises the floor of tls from ChannelNamed to ChannelVerified.
	Strict bool
	// RequireTLS asks, where a tls Choice has a floor, for REQUIRETLS (RFC 8689): not only the first host must prove itself, but
	// each one on the way must say that it will ask the same of the next. Few hosts offer that, and mail for the others goes on
	// to the next Choice. How strictly it is taken is the Transport's, as smtp.Options.RequireTLS says.
	RequireTLS bool
	// Domains set the floor of tls by the recipient's domain, in lower case A-labels. Subdomains are domains of their own.
	Domains map[string]Domain
	// Patience is how long temporary causes are retried; 0: Config.GiveUp.
	Patience time.Duration
	// Uncertain is what becomes of a parcel that the far end may or may not have accepted: OutcomeHold (the zero value)
	// lets a person look, OutcomeRetry delivers again, with the same Message-ID. Hold is the default because a second copy
	// of PHI is a disclosure that nobody chose. Programs whose mail must arrive, such as appointment reminders, choose
	// Retry: there silence harms more than a duplicate.
	Uncertain securemail.Outcome
	// UncertainFor is Uncertain by purpose, where that is another; "" is mail whose purpose was not stated. System mail is
	// always delivered again: a code that comes twice does no harm.
	UncertainFor map[securemail.Purpose]securemail.Outcome
}

// Domain is a rule for one domain: the floor of tls there. ChannelEncrypted needs Reason, Owner and Review, and lapses
// at Review; ChannelAny is refused. Reason and Owner are recorded with each decision, so they must hold no PHI.
type Domain struct {
	Channel securemail.Channel
	// Reason says why, Owner who answers for it.
	Reason, Owner string
	// Review is when somebody must look again. From then on a rule that lowers the floor no longer holds. Zero: never.
	Review time.Time
}

// sealedMethods is the default of Options.Methods.
func sealedMethods() []securemail.Method {
	return []securemail.Method{securemail.MethodSMIME, securemail.MethodPGP, securemail.MethodEscrow}
}

// clone is a copy that shares nothing with the caller, defaults filled in.
func (o *Options) clone() Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.Methods = slices.Clone(c.Methods)
	if c.Methods == nil {
		c.Methods = sealedMethods()
	}
	c.Profiles, c.Domains, c.UncertainFor = maps.Clone(c.Profiles), maps.Clone(c.Domains), maps.Clone(c.UncertainFor)
	return c
}

// check names everything wrong at once.
func (o *Options) check() error {
	var errs []error
	seen := map[securemail.Method]bool{"": true, securemail.MethodTLS: true}
	for _, m := range o.Methods {
		if seen[m] {
			errs = append(errs, fmt.Errorf("policy: method %q is empty, tls, or given twice", m))
		}
		seen[m] = true
	}
	for _, m := range slices.Sorted(maps.Keys(o.Profiles)) {
		if !seen[m] || m == "" {
			errs = append(errs, fmt.Errorf("policy: profile for method %q, which is not among the methods", m))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Domains)) {
		if err := o.Domains[name].check(name); err != nil {
			errs = append(errs, err)
		}
	}
	if o.Patience < 0 {
		errs = append(errs, errors.New("policy: negative patience"))
	}
	if !settles(o.Uncertain) {
		errs = append(errs, errors.New("policy: uncertain must be hold or retry"))
	}
	for _, p := range slices.Sorted(maps.Keys(o.UncertainFor)) {
		if !ofSenders(p) || !settles(o.UncertainFor[p]) {
			errs = append(errs, fmt.Errorf("policy: uncertain for purpose %q must be hold or retry, and the purpose one of a sender's", p))
		}
	}
	return errors.Join(errs...)
}

// settles says whether o is for an uncertain delivery: what may have arrived is neither bounced nor dropped.
func settles(o securemail.Outcome) bool {
	return o == securemail.OutcomeHold || o == securemail.OutcomeRetry
}

// ofSenders says whether anybody but the library's own parts may state p.
func ofSenders(p securemail.Purpose) bool {
	return p == "" || p == securemail.PurposeTreatment || bulk(p)
}

func (d Domain) check(name string) error {
	a, err := securemail.ParseAddress("postmaster@" + name)
	switch {
	case err != nil || a.Domain() != name:
		return fmt.Errorf("policy: domain rule for %q, which is no lower case A-label domain", name)
	case d.Channel >= securemail.ChannelAny:
		return fmt.Errorf("policy: domain rule for %q: no rule can take the floor away", name)
	case d.Channel == securemail.ChannelEncrypted && (strings.TrimSpace(d.Reason) == "" || strings.TrimSpace(d.Owner) == "" || d.Review.IsZero()):
		return fmt.Errorf("policy: domain rule for %q: an unproved peer needs reason, owner and review date", name)
	}
	return nil
}

// fingerprint is "" for the defaults, else "+" and 8 hexadecimal digits over every option.
func (o *Options) fingerprint() string {
	var b strings.Builder
	for _, m := range o.Methods {
		fmt.Fprintf(&b, "method %q\n", m)
	}
	if slices.Equal(o.Methods, sealedMethods()) {
		b.Reset()
	}
	for _, m := range slices.Sorted(maps.Keys(o.Profiles)) {
		fmt.Fprintf(&b, "profile %q %q\n", m, o.Profiles[m])
	}
	if o.Strict {
		b.WriteString("strict\n")
	}
	if o.RequireTLS {
		b.WriteString("requiretls\n")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Domains)) {
		d := o.Domains[name]
		fmt.Fprintf(&b, "domain %q %d %q %q %d\n", name, d.Channel, d.Reason, d.Owner, d.Review.Unix())
	}
	if o.Patience != 0 {
		fmt.Fprintf(&b, "patience %d\n", o.Patience)
	}
	if o.Uncertain != 0 {
		fmt.Fprintf(&b, "uncertain %d\n", o.Uncertain)
	}
	for _, p := range slices.Sorted(maps.Keys(o.UncertainFor)) {
		fmt.Fprintf(&b, "uncertain for %q %d\n", p, o.UncertainFor[p])
	}
	if len(o.Methods) == 0 {
		b.WriteString("no method\n")
	}
	if b.Len() == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(b.String()))
	return fmt.Sprintf("+%x", sum[:4])
}
