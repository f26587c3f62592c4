package policy_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/policy"
)

var now = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

const (
	tls    = securemail.MethodTLS
	smime  = securemail.MethodSMIME
	pgp    = securemail.MethodPGP
	escrow = securemail.MethodEscrow
)

// rules is every constructor, without the error.
var rules = map[string]func(*policy.Options) (*policy.Preset, error){
	"try-tls":       policy.TryTLS,
	"hipaa":         policy.HIPAA,
	"exclusive":     policy.Exclusive,
	"escalated":     policy.Escalated,
	"escrow-only":   policy.EscrowOnly,
	"double":        policy.Double,
	"opportunistic": policy.Opportunistic,
	"verified": func(o *policy.Options) (*policy.Preset, error) {
		return policy.ForcedTLS(securemail.ChannelVerified, o)
	},
	"named": func(o *policy.Options) (*policy.Preset, error) {
		return policy.ForcedTLS(securemail.ChannelNamed, o)
	},
	"encrypted": func(o *policy.Options) (*policy.Preset, error) {
		return policy.ForcedTLS(securemail.ChannelEncrypted, o)
	},
}

func facts(change ...func(*securemail.Facts)) securemail.Facts {
	f := securemail.Facts{Slip: securemail.Slip{
		Purpose: securemail.PurposeTreatment, Actor: securemail.Actor{ID: "u", Kind: "person"},
		Recipient: securemail.Mailbox("anna@example.net"), Track: securemail.TrackOpens,
	}, Attempt: 1, Now: now}
	for _, c := range change {
		c(&f)
	}
	return f
}

func clear(f *securemail.Facts) { f.Class.Level = securemail.LevelCleared }

func escalate(e securemail.Escalation) func(*securemail.Facts) {
	return func(f *securemail.Facts) { f.Escalate = e }
}

func special(f *securemail.Facts) { f.Class.Special = []string{"part2"} }

func purpose(p securemail.Purpose) func(*securemail.Facts) {
	return func(f *securemail.Facts) { f.Purpose = p }
}

func part(f *securemail.Facts) { f.Actor.Kind = "part" }

func decide(t *testing.T, p *policy.Preset, f securemail.Facts) securemail.Decision {
	d, err := p.Decide(t.Context(), f)
	require.NoError(t, err)
	return d
}

func outline(d securemail.Decision) []string {
	var s []string
	for _, c := range d.Choices {
		s = append(s, fmt.Sprintf("%s/%s", c.Method, []string{"verified", "named", "encrypted", "any"}[c.Channel]))
	}
	return append(s, []string{"hold", "retry", "bounce", "drop"}[d.Else])
}

// TestPresets is the table of DESIGN section 2, and what raises it.
func TestPresets(t *testing.T) {
	sealed := []string{"smime/any", "pgp/any", "escrow/any", "bounce"}
	both := []string{"smime/any", "pgp/any", "bounce"}
	alone := []string{"escrow/any", "bounce"}
	hold := []string{"hold"}
	try := append([]string{"tls/named"}, sealed...)
	type row struct{ phi, clear, bulk, sealed, escrow []string }
	for name, want := range map[string]row{
		"try-tls":       {try, try, try, sealed, alone},
		"hipaa":         {try, try, try, sealed, alone},
		"verified":      {[]string{"tls/verified", "bounce"}, []string{"tls/verified", "bounce"}, []string{"tls/verified", "bounce"}, sealed, alone},
		"named":         {[]string{"tls/named", "bounce"}, []string{"tls/named", "bounce"}, []string{"tls/named", "bounce"}, sealed, alone},
		"encrypted":     {[]string{"tls/named", "bounce"}, []string{"tls/encrypted", "bounce"}, []string{"tls/named", "bounce"}, sealed, alone},
		"exclusive":     {hold, hold, []string{"tls/named", "drop"}, hold, hold},
		"escalated":     {sealed, sealed, sealed, sealed, alone},
		"escrow-only":   {alone, alone, alone, alone, alone},
		"double":        {both, both, both, both, alone},
		"opportunistic": {hold, []string{"tls/any", "bounce"}, hold, sealed, alone},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := rules[name](nil)
			require.NoError(t, err)
			require.Equal(t, []securemail.Method{tls, smime, pgp, escrow}, p.Methods())
			require.Equal(t, want.phi, outline(decide(t, p, facts())))
			require.Equal(t, want.clear, outline(decide(t, p, facts(clear))))
			require.Equal(t, want.bulk, outline(decide(t, p, facts(purpose(securemail.PurposeMarketing)))))
			for _, f := range []securemail.Facts{
				facts(escalate(securemail.EscalateSealed)), facts(special), facts(special, clear),
				facts(escalate(securemail.EscalateSealed), clear),
			} {
				require.Equal(t, want.sealed, outline(decide(t, p, f)))
			}
			for _, f := range []securemail.Facts{
				facts(escalate(securemail.EscalateEscrow)), facts(escalate(securemail.EscalateEscrow), special), facts(escalate(77)),
			} {
				require.Equal(t, want.escrow, outline(decide(t, p, f)))
			}
		})
	}
}

func TestSystemMail(t *testing.T) {
	for name, build := range rules {
		p, err := build(&policy.Options{Domains: map[string]policy.Domain{"example.net": {Channel: securemail.ChannelVerified}}})
		require.NoError(t, err)
		d := decide(t, p, facts(purpose(securemail.PurposeSystem), part, escalate(securemail.EscalateEscrow), special, func(f *securemail.Facts) {
			f.Recipient = securemail.Mailbox("bea@example.com")
		}))
		require.Equal(t, []string{"tls/encrypted", "drop"}, outline(d), name)
		require.Zero(t, d.Choices[0].Track)
		require.Equal(t, time.Hour, d.Patience)
		require.Equal(t, securemail.OutcomeRetry, d.Uncertain)
		d = decide(t, p, facts(purpose(securemail.PurposeSystem), part))
		require.Equal(t, []string{"tls/verified", "drop"}, outline(d), "a domain rule raises the floor of system mail too")
		d = decide(t, p, facts(purpose(securemail.PurposeSystem)))
		require.Equal(t, []string{"hold"}, outline(d), "only parts send system mail")
	}
}

func TestWithoutEscrow(t *testing.T) {
	o := &policy.Options{Methods: []securemail.Method{pgp}}
	for name, want := range map[string][]string{
		"try-tls": {"tls/named", "pgp/any", "hold"}, "escalated": {"pgp/any", "hold"}, "escrow-only": {"hold"},
		"double": {"pgp/any", "bounce"}, "named": {"tls/named", "bounce"},
	} {
		p, err := rules[name](o)
		require.NoError(t, err)
		require.Equal(t, []securemail.Method{tls, pgp}, p.Methods())
		d := decide(t, p, facts())
		require.Equal(t, want, outline(d), name)
		d2 := decide(t, p, facts(escalate(securemail.EscalateEscrow)))
		require.Equal(t, []string{"hold"}, outline(d2), name)
		require.True(t, slices.ContainsFunc(d2.Reasons, func(r securemail.Reason) bool { return r.Rule == "no-escrow" }))
	}
	p, err := policy.HIPAA(&policy.Options{Methods: []securemail.Method{}})
	require.NoError(t, err)
	require.Equal(t, []string{"tls/named", "hold"}, outline(decide(t, p, facts())))
	_, err = policy.Double(&policy.Options{Methods: []securemail.Method{escrow}})
	require.ErrorContains(t, err, "double encryption needs")
}

func TestDomains(t *testing.T) {
	lower := policy.Domain{Channel: securemail.ChannelEncrypted, Reason: "old host", Owner: "it", Review: now.AddDate(0, 1, 0)}
	o := &policy.Options{Domains: map[string]policy.Domain{
		"example.net": lower, "example.com": {Channel: securemail.ChannelVerified, Reason: "partner"},
		"example.org": {Channel: securemail.ChannelNamed},
	}}
	p, err := policy.HIPAA(o)
	require.NoError(t, err)
	at := func(domain string, when time.Time) securemail.Decision {
		return decide(t, p, facts(func(f *securemail.Facts) {
			f.Recipient, f.Now = securemail.Mailbox("anna@"+domain), when
		}))
	}
	d := at("example.net", now)
	require.Equal(t, securemail.ChannelEncrypted, d.Choices[0].Channel)
	require.Contains(t, d.Reasons, securemail.Reason{Rule: "domain-floor", Text: "set by a domain rule of it, review 2026-12-24: old host"})
	d = at("example.net", lower.Review)
	require.Equal(t, securemail.ChannelNamed, d.Choices[0].Channel, "lapses at its review")
	require.Equal(t, "domain-review", d.Reasons[0].Rule)
	require.Equal(t, securemail.ChannelVerified, at("example.com", now).Choices[0].Channel)
	require.Equal(t, securemail.ChannelNamed, at("sub.example.com", now).Choices[0].Channel)
	require.Equal(t, securemail.ChannelNamed, at("example.org", now).Choices[0].Channel)

	o.Domains["example.net"] = policy.Domain{} // the caller's map is not ours
	require.Equal(t, securemail.ChannelEncrypted, at("example.net", now).Choices[0].Channel)

	d = decide(t, p, facts(special))
	require.Equal(t, smime, d.Choices[0].Method, "no domain rule brings tls back")

	strict, err := policy.HIPAA(&policy.Options{Strict: true, Domains: map[string]policy.Domain{"example.net": {Channel: securemail.ChannelNamed}}})
	require.NoError(t, err)
	require.Equal(t, securemail.ChannelNamed, decide(t, strict, facts()).Choices[0].Channel)
	other := facts(func(f *securemail.Facts) { f.Recipient = securemail.Mailbox("anna@example.com") })
	require.Equal(t, securemail.ChannelVerified, decide(t, strict, other).Choices[0].Channel)
}

// TestRequireTLS: it is asked of tls that has a floor, and of nothing else; the floor stays.
func TestRequireTLS(t *testing.T) {
	for kind, build := range rules {
		for _, f := range []securemail.Facts{facts(), facts(clear), facts(clear, purpose(securemail.PurposeMarketing)), facts(purpose(securemail.PurposeSystem), part)} {
			p, err := build(&policy.Options{RequireTLS: true})
			require.NoError(t, err)
			q, err := build(nil)
			require.NoError(t, err)
			with, without := decide(t, p, f), decide(t, q, f)
			require.Equal(t, outline(without), outline(with), kind)
			for i, c := range with.Choices {
				floored := c.Method == tls && c.Channel < securemail.ChannelAny && f.Purpose != securemail.PurposeSystem
				require.Equal(t, floored, c.RequireTLS, "%s %v", kind, c)
				require.False(t, without.Choices[i].RequireTLS)
			}
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	good := policy.Domain{Channel: securemail.ChannelEncrypted, Reason: "r", Owner: "o", Review: now}
	for name, o := range map[string]*policy.Options{
		"tls twice":       {Methods: []securemail.Method{tls}},
		"empty method":    {Methods: []securemail.Method{""}},
		"method twice":    {Methods: []securemail.Method{pgp, pgp}},
		"profile":         {Methods: []securemail.Method{pgp}, Profiles: map[securemail.Method]string{smime: "x"}},
		"empty profile":   {Profiles: map[securemail.Method]string{"": "x"}},
		"patience":        {Patience: -1},
		"uncertain":       {Uncertain: securemail.OutcomeBounce},
		"uncertain for":   {UncertainFor: map[securemail.Purpose]securemail.Outcome{"": securemail.OutcomeDrop}},
		"uncertain sys":   {UncertainFor: map[securemail.Purpose]securemail.Outcome{securemail.PurposeSystem: securemail.OutcomeHold}},
		"any":             {Domains: map[string]policy.Domain{"example.net": {Channel: securemail.ChannelAny}}},
		"no reason":       {Domains: map[string]policy.Domain{"example.net": {Channel: good.Channel, Owner: "o", Review: now}}},
		"no owner":        {Domains: map[string]policy.Domain{"example.net": {Channel: good.Channel, Reason: "r", Review: now}}},
		"no review":       {Domains: map[string]policy.Domain{"example.net": {Channel: good.Channel, Reason: "r", Owner: "o"}}},
		"upper case":      {Domains: map[string]policy.Domain{"Example.net": good}},
		"unicode":         {Domains: map[string]policy.Domain{"bücher.example": good}},
		"no domain":       {Domains: map[string]policy.Domain{"": good}},
		"trailing period": {Domains: map[string]policy.Domain{"example.net.": good}},
	} {
		for kind, build := range rules {
			p, err := build(o)
			require.Error(t, err, "%s, %s", name, kind)
			require.Nil(t, p)
		}
	}
	_, err := policy.ForcedTLS(securemail.ChannelAny, nil)
	require.Error(t, err)
	_, err = policy.HIPAA(&policy.Options{Patience: -1, Uncertain: 9, Methods: []securemail.Method{tls}})
	require.ErrorContains(t, err, "patience")
	require.ErrorContains(t, err, "uncertain")
	require.ErrorContains(t, err, "method")
}

// TestNames: a recorded name stands for one set of rules.
func TestNames(t *testing.T) {
	seen := map[string]string{}
	domain := func(d policy.Domain) map[string]policy.Domain { return map[string]policy.Domain{"example.net": d} }
	for kind, build := range rules {
		for i, o := range []*policy.Options{
			nil, {Strict: true}, {RequireTLS: true}, {Methods: []securemail.Method{pgp}}, {Methods: []securemail.Method{pgp, escrow}},
			{Methods: []securemail.Method{escrow, pgp}}, {Patience: time.Hour}, {Uncertain: securemail.OutcomeRetry},
			{UncertainFor: map[securemail.Purpose]securemail.Outcome{securemail.PurposeTreatment: securemail.OutcomeRetry}},
			{UncertainFor: map[securemail.Purpose]securemail.Outcome{"": securemail.OutcomeRetry}},
			{Profiles: map[securemail.Method]string{tls: "x"}}, {Domains: domain(policy.Domain{})},
			{Domains: domain(policy.Domain{Reason: "r"})}, {Domains: domain(policy.Domain{Channel: securemail.ChannelNamed})},
			{Domains: domain(policy.Domain{Review: now})},
		} {
			p, err := build(o)
			require.NoError(t, err)
			id := fmt.Sprint(kind, i)
			require.Empty(t, seen[p.Name()], "%s and %s are both %s", id, seen[p.Name()], p.Name())
			seen[p.Name()] = id
			require.Equal(t, p.Name(), decide(t, p, facts()).Policy)
		}
	}
	p, err := policy.HIPAA(nil)
	require.NoError(t, err)
	require.Equal(t, "hipaa/1", p.Name())
	same, err := policy.HIPAA(&policy.Options{Methods: []securemail.Method{smime, pgp, escrow}})
	require.NoError(t, err)
	require.Equal(t, p.Name(), same.Name(), "what is said aloud is what is meant without")
	none, err := policy.HIPAA(&policy.Options{Methods: []securemail.Method{}})
	require.NoError(t, err)
	require.NotEqual(t, p.Name(), none.Name())
}

func TestZeroPresetHolds(t *testing.T) {
	for _, f := range everyFacts() {
		d := decide(t, &policy.Preset{}, f)
		require.Equal(t, []string{"hold"}, outline(d))
		require.NotEmpty(t, d.Reasons)
	}
}

func TestProfilesPatienceUncertain(t *testing.T) {
	o := &policy.Options{
		Profiles: map[securemail.Method]string{escrow: "passkey"}, Patience: time.Hour, Uncertain: securemail.OutcomeRetry,
	}
	p, err := policy.HIPAA(o)
	require.NoError(t, err)
	o.Profiles[escrow] = "none"
	d := decide(t, p, facts())
	require.Equal(t, "passkey", d.Choices[3].Profile)
	require.Equal(t, time.Hour, d.Patience)
	require.Equal(t, securemail.OutcomeRetry, d.Uncertain)
}

func TestUncertainByPurpose(t *testing.T) {
	o := &policy.Options{Uncertain: securemail.OutcomeRetry, UncertainFor: map[securemail.Purpose]securemail.Outcome{
		securemail.PurposePayment: securemail.OutcomeHold,
	}}
	for kind, build := range rules {
		chosen, err := build(o)
		require.NoError(t, err)
		zero, err := build(nil)
		require.NoError(t, err)
		for purpose, want := range map[securemail.Purpose]securemail.Outcome{
			"": securemail.OutcomeRetry, securemail.PurposeTreatment: securemail.OutcomeRetry,
			securemail.PurposePayment: securemail.OutcomeHold, securemail.PurposeSystem: securemail.OutcomeRetry,
		} {
			f := facts()
			if f.Purpose = purpose; purpose == securemail.PurposeSystem {
				f.Actor.Kind = "part"
			}
			require.Equal(t, want, decide(t, chosen, f).Uncertain, "%s %q", kind, purpose)
			if purpose != securemail.PurposeSystem {
				require.Equal(t, securemail.OutcomeHold, decide(t, zero, f).Uncertain, "%s %q: nobody chose a second copy", kind, purpose)
			}
		}
	}
}

// everyFacts is every combination of what a rule looks at, unknown values included.
func everyFacts() []securemail.Facts {
	var all []securemail.Facts
	for _, p := range []securemail.Purpose{
		"", securemail.PurposeTreatment, securemail.PurposePayment, securemail.PurposeOperations, securemail.PurposeMarketing,
		securemail.PurposeSystem, "strange",
	} {
		for _, kind := range []string{"person", "part", ""} {
			for e := range securemail.EscalateEscrow + 2 {
				all = append(all, factsOf(p, kind, e)...)
			}
		}
	}
	return all
}

func factsOf(p securemail.Purpose, kind string, e securemail.Escalation) []securemail.Facts {
	var all []securemail.Facts
	for level := range securemail.LevelCleared + 2 {
		for _, sp := range [][]string{nil, {"part2"}, {"psychotherapy"}} {
			for _, domain := range []string{"lower.example", "raise.example", "late.example", "other.example"} {
				all = append(all, facts(func(f *securemail.Facts) {
					f.Purpose, f.Actor.Kind, f.Escalate, f.Track = p, kind, e, 0xff
					f.Class.Level, f.Class.Special = level, sp
					f.Recipient = securemail.Mailbox("anna@" + domain)
				}))
			}
		}
	}
	return all
}

// TestFloors goes through every combination of facts and options: no Choice lies below the floor, whatever was asked.
func TestFloors(t *testing.T) {
	domains := map[string]policy.Domain{
		"lower.example": {Channel: securemail.ChannelEncrypted, Reason: "r", Owner: "o", Review: now.Add(time.Second)},
		"late.example":  {Channel: securemail.ChannelEncrypted, Reason: "r", Owner: "o", Review: now},
		"raise.example": {Channel: securemail.ChannelVerified},
	}
	for name, build := range rules {
		for _, methods := range [][]securemail.Method{nil, {pgp}, {pgp, escrow}, {escrow}, {}} {
			p, err := build(&policy.Options{Methods: methods, Domains: domains})
			if err != nil {
				require.Equal(t, "double", name)
				continue
			}
			for _, f := range everyFacts() {
				requireSafe(t, p, f)
			}
		}
	}
}

func requireSafe(t *testing.T, p *policy.Preset, f securemail.Facts) {
	d := decide(t, p, f)
	if d2 := decide(t, p, f); !slices.Equal(d.Choices, d2.Choices) || !slices.Equal(d.Reasons, d2.Reasons) {
		t.Fatal("not a pure function")
	}
	say := func(fault string) {
		t.Helper()
		t.Fatalf("%s: %s: purpose %q, kind %q, escalate %d, level %d, special %v, domain %s: %v", fault, p.Name(), f.Purpose,
			f.Actor.Kind, f.Escalate, f.Class.Level, f.Class.Special, f.Recipient.Address.Domain(), outline(d))
	}
	if d.Policy != p.Name() || len(d.Reasons) == 0 || len(d.Need) != 0 {
		say("no name, no reason, or a look-up")
	}
	if len(d.Choices) == 0 && d.Else != securemail.OutcomeHold {
		say("nothing tried, but not held")
	}
	for _, c := range d.Choices {
		if !slices.Contains(p.Methods(), c.Method) {
			say("a method that was not announced")
		}
		if fault := unsafeChoice(f, c); fault != "" {
			say(fault)
		}
	}
}

// unsafeChoice says what is wrong with c, without a look into the package.
func unsafeChoice(f securemail.Facts, c securemail.Choice) string {
	system := f.Purpose == securemail.PurposeSystem
	switch domain := f.Recipient.Address.Domain(); {
	case c.Method != tls && c.Track != 0:
		return "a sealed message is tracked"
	case system && (f.Actor.Kind != "part" || c.Method != tls || c.Track != 0 || c.Channel > securemail.ChannelEncrypted):
		return "system mail is sealed, tracked, in the clear, or somebody else's"
	case system || c.Method != tls:
		return ""
	case c.Track&^(securemail.TrackOpens|securemail.TrackClicks) != 0:
		return "an unknown tracking bit"
	case f.Escalate != securemail.EscalateNone || len(f.Class.Special) > 0:
		return "tls where sealed was asked for"
	case domain == "raise.example" && c.Channel != securemail.ChannelVerified:
		return "below the domain's floor"
	case f.Class.Level == securemail.LevelCleared:
		return ""
	case c.Channel > securemail.ChannelNamed && (domain != "lower.example" || c.Channel != securemail.ChannelEncrypted):
		return "PHI below the floor"
	}
	return ""
}
