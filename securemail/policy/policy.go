package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

var _ securemail.Policy = (*Preset)(nil)

// kind is a row of the table in the package comment; zero is none.
type kind uint8

const (
	tryTLS kind = iota + 1
	forced
	exclusive
	escalated
	escrowOnly
	double
	opportunistic
)

// systemPatience is how long a code or a notice is of use.
const systemPatience = time.Hour

// Preset is one rule set. Its zero value holds every parcel.
type Preset struct {
	kind  kind
	name  string
	floor securemail.Channel
	o     Options
}

// TryTLS tries tls with a named peer, then each sealed method, and bounces what nothing could carry.
func TryTLS(o *Options) (*Preset, error) {
	return build(tryTLS, "try-tls/1", securemail.ChannelNamed, o)
}

// HIPAA is [TryTLS] under the name that an auditor looks for: never in the clear, never to a self-signed peer, for each
// recipient the transmission security of 45 CFR 164.312(e)(1) that he can receive.
func HIPAA(o *Options) (*Preset, error) {
	return build(tryTLS, "hipaa/1", securemail.ChannelNamed, o)
}

// ForcedTLS sends by tls at floor or bounces. ChannelEncrypted is for cleared content: PHI still gets ChannelNamed, but
// where a [Domain] rule says otherwise. ChannelAny is an error; see [Opportunistic].
func ForcedTLS(floor securemail.Channel, o *Options) (*Preset, error) {
	if floor >= securemail.ChannelAny {
		return nil, errors.New("policy: forced tls needs a floor above any")
	}
	return build(forced, fmt.Sprintf("forced-tls/1/%s", channelName(floor)), floor, o)
}

// Exclusive sends bulk mail by tls with a named peer and drops, recorded, what that can't reach within the patience. It
// is never for care: a parcel whose purpose is treatment, or not stated, is held.
func Exclusive(o *Options) (*Preset, error) {
	return build(exclusive, "tls-exclusive/1", securemail.ChannelNamed, o)
}

// Escalated uses sealed methods alone, for every parcel.
func Escalated(o *Options) (*Preset, error) {
	return build(escalated, "escalated/1", securemail.ChannelNamed, o)
}

// EscrowOnly keeps every message at the portal; only a notice leaves.
func EscrowOnly(o *Options) (*Preset, error) {
	return build(escrowOnly, "escrow-only/1", securemail.ChannelNamed, o)
}

// Double encrypts the message and takes tls wherever the peer offers it. It needs a sealed method besides escrow.
func Double(o *Options) (*Preset, error) {
	c := o.clone()
	if len(without(c.Methods, securemail.MethodEscrow)) == 0 {
		return nil, errors.New("policy: double encryption needs a method besides escrow")
	}
	return build(double, "double/1", securemail.ChannelNamed, o)
}

// Opportunistic sends content that a rule cleared under whatever the wire gives. Everything else is held.
func Opportunistic(o *Options) (*Preset, error) {
	return build(opportunistic, "opportunistic/1", securemail.ChannelAny, o)
}

func build(k kind, name string, floor securemail.Channel, o *Options) (*Preset, error) {
	c := o.clone()
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Strict && k != opportunistic {
		floor = securemail.ChannelVerified
	}
	return &Preset{kind: k, name: name + c.fingerprint(), floor: floor, o: c}, nil
}

// Name is what Decision.Policy holds: rule set, version, and a fingerprint of the Options where some are set.
func (p *Preset) Name() string { return p.name }

// Methods are all that the rules can name: tls, since the library's own mail takes it, and the sealed ones.
func (p *Preset) Methods() []securemail.Method {
	return append([]securemail.Method{securemail.MethodTLS}, p.o.Methods...)
}

// Decide implements [securemail.Policy]. It never fails.
func (p *Preset) Decide(_ context.Context, f securemail.Facts) (securemail.Decision, error) {
	d := &decision{preset: p, facts: f}
	d.Policy, d.Patience, d.Uncertain = p.name, p.o.Patience, p.uncertain(f.Purpose)
	switch {
	case p.kind == 0:
		d.hold("no-preset", "a preset that no constructor made holds everything")
	case f.Purpose == securemail.PurposeSystem:
		d.system()
	case p.kind == exclusive && !bulk(f.Purpose):
		d.hold("not-for-care", "this rule set drops what it can't deliver, so care and unstated purposes are held")
	case wish(f) == securemail.EscalateEscrow:
		d.because("escalate-escrow", "the sender asked for escrow")
		d.seal(only(p.o.Methods, securemail.MethodEscrow))
	case wish(f) == securemail.EscalateSealed:
		d.raise()
	default:
		d.ordinary()
	}
	return d.Decision, nil
}

// uncertain is what becomes of a delivery of purpose that may have arrived.
func (p *Preset) uncertain(purpose securemail.Purpose) securemail.Outcome {
	if o, ok := p.o.UncertainFor[purpose]; ok {
		return o
	}
	return p.o.Uncertain
}

// decision is one in the making.
type decision struct {
	securemail.Decision
	preset *Preset
	facts  securemail.Facts
}

func (d *decision) because(rule, text string) {
	d.Reasons = append(d.Reasons, securemail.Reason{Rule: rule, Text: text})
}

// hold leaves the zero Choices and Outcome, and says why.
func (d *decision) hold(rule, text string) {
	d.Choices, d.Else = nil, securemail.OutcomeHold
	d.because(rule, text)
}

// ordinary is the preset's own row, where nothing asks for more.
func (d *decision) ordinary() {
	methods := d.preset.o.Methods
	d.Else = securemail.OutcomeBounce
	switch d.preset.kind {
	case tryTLS:
		d.tls()
		d.seal(methods)
	case forced:
		d.tls()
	case exclusive:
		d.tls()
		d.Else = securemail.OutcomeDrop
	case escalated:
		d.because("sealed", "this rule set uses message encryption or escrow alone")
		d.seal(methods)
	case escrowOnly:
		d.because("escrow", "this rule set uses escrow alone")
		d.seal(only(methods, securemail.MethodEscrow))
	case double:
		d.double()
	case opportunistic:
		if !cleared(d.facts.Class) {
			d.hold("not-cleared", "only content that a rule cleared may take any wire")
			return
		}
		d.because("cleared", "a rule cleared the content")
		d.tls()
	}
}

// raise takes tls away.
func (d *decision) raise() {
	if d.facts.Escalate != securemail.EscalateNone {
		d.because("escalate-sealed", "the sender asked for message encryption or escrow")
	}
	if len(d.facts.Class.Special) > 0 {
		d.because("special", "content under stricter law is never sent by tls alone")
	}
	d.Else = securemail.OutcomeBounce
	if d.preset.kind == double {
		d.double()
		return
	}
	methods := d.preset.o.Methods
	if d.preset.kind == escrowOnly {
		methods = only(methods, securemail.MethodEscrow)
	}
	d.seal(methods)
}

func (d *decision) double() {
	d.because("double", "encrypted message, and tls wherever the peer offers it")
	d.add(without(d.preset.o.Methods, securemail.MethodEscrow))
}

// seal adds sealed methods whose last resort is escrow. Where escrow is not to be had, a person decides.
func (d *decision) seal(methods []securemail.Method) {
	d.add(methods)
	d.Else = securemail.OutcomeBounce
	if !slices.Contains(methods, securemail.MethodEscrow) {
		d.Else = securemail.OutcomeHold
		d.because("no-escrow", "escrow is not set up, so what nothing else can carry is held")
	}
}

func (d *decision) add(methods []securemail.Method) {
	for _, m := range methods {
		d.Choices = append(d.Choices, securemail.Choice{
			Method: m, Channel: securemail.ChannelAny, Profile: d.preset.o.Profiles[m],
		})
	}
}

func (d *decision) tls() {
	c := securemail.Choice{
		Method: securemail.MethodTLS, Channel: d.floor(), Profile: d.preset.o.Profiles[securemail.MethodTLS],
		Track: d.facts.Track & (securemail.TrackOpens | securemail.TrackClicks),
	}
	if c.RequireTLS = d.preset.o.RequireTLS && c.Channel < securemail.ChannelAny; c.RequireTLS {
		d.because("requiretls", "each host on the way must keep to TLS (RFC 8689)")
	}
	d.Choices = append(d.Choices, c)
}

// floor is the preset's, raised for PHI, then the domain rule's.
func (d *decision) floor() securemail.Channel {
	floor := d.preset.floor
	if floor > securemail.ChannelNamed && !cleared(d.facts.Class) {
		floor = securemail.ChannelNamed
		d.because("phi-floor", "content that no rule cleared needs a named peer")
	}
	floor = d.domain(floor)
	d.because("floor", "tls needs the channel "+channelName(floor))
	return floor
}

// domain applies the rule for the recipient's domain. One that lowers the floor holds until its review only.
func (d *decision) domain(floor securemail.Channel) securemail.Channel {
	rule, ok := d.preset.o.Domains[d.facts.Recipient.Address.Domain()]
	switch {
	case !ok || rule.Channel == floor:
		return floor
	case rule.Channel > floor && !rule.Review.IsZero() && !d.facts.Now.Before(rule.Review):
		d.because("domain-review", "the domain rule that lowers the floor is past its review date")
		return floor
	}
	text := "set by a domain rule"
	if rule.Owner != "" {
		text += " of " + rule.Owner
	}
	if !rule.Review.IsZero() {
		text += ", review " + rule.Review.UTC().Format(time.DateOnly)
	}
	if rule.Reason != "" {
		text += ": " + rule.Reason
	}
	d.because("domain-floor", text)
	return rule.Channel
}

// system is for codes, notices and reports: no PHI, no tracking, no escrow, and of use for a short time. A code that
// comes twice does no harm, one that does not come locks a recipient out.
func (d *decision) system() {
	if d.facts.Actor.Kind != "part" {
		d.hold("system-actor", "only the library's own parts send system mail")
		return
	}
	floor := securemail.ChannelEncrypted
	if rule, ok := d.preset.o.Domains[d.facts.Recipient.Address.Domain()]; ok {
		floor = min(floor, rule.Channel)
	}
	d.because("system", "system mail needs the channel "+channelName(floor))
	d.Choices = []securemail.Choice{{Method: securemail.MethodTLS, Channel: floor}}
	d.Patience, d.Else, d.Uncertain = systemPatience, securemail.OutcomeDrop, securemail.OutcomeRetry
}

// wish is the strongest of what the sender and the content ask for. An unknown value is taken for the strongest.
func wish(f securemail.Facts) securemail.Escalation {
	e := min(f.Escalate, securemail.EscalateEscrow)
	if len(f.Class.Special) > 0 {
		e = max(e, securemail.EscalateSealed)
	}
	return e
}

// cleared is the one test for "holds no PHI".
func cleared(c securemail.Class) bool {
	return c.Level == securemail.LevelCleared && len(c.Special) == 0
}

// bulk says that a purpose is surely not care.
func bulk(p securemail.Purpose) bool {
	switch p {
	case securemail.PurposePayment, securemail.PurposeOperations, securemail.PurposeMarketing:
		return true
	}
	return false
}

func only(ms []securemail.Method, m securemail.Method) []securemail.Method {
	if slices.Contains(ms, m) {
		return []securemail.Method{m}
	}
	return nil
}

func without(ms []securemail.Method, m securemail.Method) []securemail.Method {
	return slices.DeleteFunc(slices.Clone(ms), func(x securemail.Method) bool { return x == m })
}

func channelName(c securemail.Channel) string {
	switch c {
	case securemail.ChannelVerified:
		return "verified"
	case securemail.ChannelNamed:
		return "named"
	case securemail.ChannelEncrypted:
		return "encrypted"
	}
	return "any"
}
