package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// state says in sentences what es, the entries of one parcel, say. It depends on nothing else, so that who verifies a bundle
// comes to the same sentences.
func state(es []Entry) []string {
	var out []string
	for i := range es {
		out = append(out, es[i].sentences()...)
	}
	return out
}

func (e *Entry) sentences() []string {
	s := &sentences{at: e.Time.UTC().Format(time.RFC3339)}
	s.say("%s%s%s, by %s %s.", e.Kind, word(" for ", e.Purpose), number(" at attempt ", e.Attempt), word("", e.By.Kind), word("", e.By.ID))
	if e.State != "" && e.State != e.Kind {
		s.say("The parcel is %s.", e.State)
	}
	if e.Recipient != "" && e.Kind == "accepted" {
		s.say("One copy, from %s to %s, in submission %s.", word("pseudonym ", e.From), word("pseudonym ", e.Recipient), e.Submission)
	}
	if d := e.Decision; d != nil {
		s.say("Policy %s decided: %s; else %s; where the far end may have accepted: %s.", d.Policy, choices(d.Choices), d.Else, d.Uncertain)
		s.reasons("Rule", d.Reasons)
	}
	if e.Facts != "" {
		s.say("What the policy knew has the keyed hash %s.", e.Facts)
	}
	s.known(e.Known)
	if c := e.Choice; c != nil {
		s.say("Tried: %s.", c.words())
	}
	if p := e.Protection; p != nil && p.Algorithm == "none" {
		s.say("The message itself was not encrypted; the wire is what protected it.")
	} else if p != nil {
		s.say("The copy was encrypted with %s%s.", p.Algorithm, word(" to the keys ", strings.Join(p.Keys, ", ")))
		for _, k := range sortedKeys(p.Detail) {
			s.say("Of the encryption: %s is %s.", k, p.Detail[k])
		}
	}
	s.receipt(e.Receipt)
	s.reasons("Reason", e.Reasons)
	if e.Failure != "" {
		s.say("Failure: %s.", e.Failure)
	}
	if !e.Next.IsZero() {
		s.say("The next attempt is due at %s.", e.Next.UTC().Format(time.RFC3339))
	}
	if !e.Read.IsZero() {
		s.say("The recipient first opened it at %s.", e.Read.UTC().Format(time.RFC3339))
	}
	for _, k := range sortedKeys(e.Detail) {
		s.say("Detail: %s is %s.", k, e.Detail[k])
	}
	if e.Cut {
		s.say("The entry was too long and is not whole.")
	}
	return s.out
}

// sentences are collected behind one time.
type sentences struct {
	at  string
	out []string
}

// say adds one line. What others wrote may stand in it: nothing of that may end the line, and so say a sentence of its own,
// or steer a terminal.
func (s *sentences) say(format string, args ...any) {
	s.out = append(s.out, s.at+" "+strings.Map(printed, fmt.Sprintf(format, args...)))
}

func printed(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

func (s *sentences) reasons(what string, rs []Reason) {
	for _, r := range rs {
		s.say("%s %s%s.", what, r.Rule, word(": ", r.Text))
	}
}

// known says what was looked up, and what the answers were.
func (s *sentences) known(k *Known) {
	if k == nil {
		return
	}
	content := "may hold PHI"
	if k.Class == "cleared" {
		content = "was cleared of PHI"
	}
	s.say("The policy knew: the content %s%s.", content, word("; the sender asked for ", k.Escalate))
	for _, method := range slices.Sorted(maps.Keys(k.Keys)) {
		a := k.Keys[method]
		s.say("Keys for %s were looked up: %s%s.", method, a.State, word(", by rule ", a.Why))
		for _, key := range a.Keys {
			end := ""
			if !key.NotAfter.IsZero() {
				end = ", good until " + key.NotAfter.UTC().Format(time.RFC3339)
			}
			s.say("Key %s%s, trust: %s%s.", key.Fingerprint, word(" from ", key.Origin), key.Trust, end)
		}
	}
	switch r := k.Route; {
	case r == nil:
	case !r.Known:
		s.say("The way to the recipient's domain was looked up: not known then%s.", word("; rules ", strings.Join(r.Rules, ", ")))
	case r.TLS == nil:
		s.say("The way to the recipient's domain was looked up: no TLS%s.", word("; rules ", strings.Join(r.Rules, ", ")))
	default:
		s.say("The way to the recipient's domain was looked up: %s%s%s.", r.TLS.Version, word(", name proved by ", r.Proof), word("; rules ", strings.Join(r.Rules, ", ")))
	}
}

func (s *sentences) receipt(r *Receipt) {
	if r == nil {
		return
	}
	s.say("The far end, %s, took it at %s.", word("pseudonym ", r.Peer), r.Time.UTC().Format(time.RFC3339Nano))
	switch {
	case r.Hop == "asserted" && r.Operator != nil:
		s.say("It is a relay; what lies beyond it is asserted by %s%s, and was not seen.", r.Operator.Name, word(" under ", r.Operator.Agreement))
	case r.Hop == "relay":
		s.say("It is a relay; what lies beyond it is not known.")
	}
	if t := r.TLS; t != nil {
		fips := ""
		if t.FIPS {
			fips = ", by a FIPS 140 module"
		}
		s.say("The wire was %s with %s%s%s; the peer's certificate chain has SHA-256 %s.", t.Version, t.Suite, word(" and ", t.Group), fips, t.Chain)
	} else {
		s.say("The wire was not encrypted.")
	}
	if r.Proof != "" {
		s.say("The peer's name was proved by %s.", r.Proof)
	} else {
		s.say("The peer's name was not proved.")
	}
	s.reasons("Of the channel,", r.Reasons)
}

func (c *Choice) words() string {
	w := c.Method + " over a channel of at least " + c.Channel
	if c.Profile != "" {
		w += ", profile " + c.Profile
	}
	if c.RequireTLS {
		w += ", with REQUIRETLS"
	}
	if c.Track != 0 {
		w += ", tracked"
	}
	return w
}

func choices(cs []Choice) string {
	if len(cs) == 0 {
		return "nothing may be tried"
	}
	ws := make([]string, len(cs))
	for i := range cs {
		ws[i] = cs[i].words()
	}
	return strings.Join(ws, ", then ")
}

// word is s behind its preposition, or nothing where there is no s.
func word(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

func number(before string, n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(before, n)
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
