package mtasts

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Mode is what a sender does with a host that the policy does not vouch for (RFC 8461 section 5).
type Mode string

// The modes. An empty Mode is none of them.
const (
	// Enforce: the message must not be delivered to it.
	Enforce Mode = "enforce"
	// Testing: as if there were no policy, but the failure is reported (RFC 8460). A stricter demand of the sender's own
	// stays what it is.
	Testing Mode = "testing"
	// None: as if there were no policy. It is how a domain takes its policy back.
	None Mode = "none"
)

const (
	// MaxPolicy is the greatest length of a policy in octets (RFC 8461 section 3.3 suggests it). A longer one is an error.
	MaxPolicy = 64 << 10
	// MaxAge is the longest time that a policy may be cached (RFC 8461 section 3.2: 31557600 seconds). A longer one is cut to it.
	MaxAge = 31557600 * time.Second
)

// Policy is what a domain says of its mail hosts (RFC 8461 section 3.2).
type Policy struct {
	// Mode is how strictly it is meant.
	Mode Mode
	// MX are patterns for mail hosts: a name of A-labels in lower case, or "*." before one. There may be none if Mode is None.
	MX []string
	// MaxAge is how long the policy may be cached after it was fetched: whole seconds, at most [MaxAge]. Zero means that it
	// binds now, but must be fetched again before it may bind later.
	MaxAge time.Duration
	// Extensions are fields that the RFC does not know, in their order. They mean nothing here.
	Extensions []Field
}

// ParsePolicy parses the text of a policy. Lines end with LF or CRLF, the last one may end with neither. An empty line is
// not of the grammar and is an error, and so is trailing text of any kind. A max_age beyond the limit is cut and never an error.
// Errors are [*PolicyError]; each names a rule.
func ParsePolicy(text []byte) (Policy, error) {
	if len(text) > MaxPolicy {
		return Policy{}, &PolicyError{Rule: RuleSize}
	}
	p := policyParser{}
	text = bytes.TrimSuffix(text, []byte("\n"))
	line := 0
	for raw := range bytes.SplitSeq(text, []byte("\n")) {
		line++
		if rule := p.field(strings.TrimRight(strings.TrimSuffix(string(raw), "\r"), " \t")); rule != "" {
			return Policy{}, &PolicyError{Rule: rule, Line: line}
		}
	}
	if rule := p.missing(); rule != "" {
		return Policy{}, &PolicyError{Rule: rule}
	}
	return p.policy, nil
}

type policyParser struct {
	policy                Policy
	version, mode, maxAge bool // Which were seen; of each the first counts.
}

// field takes one line, without its end and trailing white space. It returns the rule that the line breaks.
func (p *policyParser) field(line string) Rule {
	if line == "" {
		return RuleBlank
	}
	name, value, ok := strings.Cut(line, ":") // At the first colon: values of extensions may hold more.
	value = strings.TrimLeft(value, " \t")
	if !ok || !extName(name) || !policyValue(value) {
		return RuleSyntax
	}
	switch name {
	case "version":
		return once(&p.version, func() Rule { return unless(value == "STSv1", RuleVersion) })
	case "mode":
		return once(&p.mode, func() Rule {
			p.policy.Mode = Mode(value)
			return unless(value == string(Enforce) || value == string(Testing) || value == string(None), RuleMode)
		})
	case "max_age":
		return once(&p.maxAge, func() Rule {
			age, ok := parseMaxAge(value)
			p.policy.MaxAge = age
			return unless(ok, RuleMaxAge)
		})
	case "mx":
		pattern := strings.ToLower(value)
		if !hostName(strings.TrimPrefix(pattern, "*.")) {
			return RuleMX
		}
		p.policy.MX = append(p.policy.MX, pattern)
	default:
		p.policy.Extensions = append(p.policy.Extensions, Field{name, value})
	}
	return ""
}

// once runs f unless the field was seen. RFC 8461 section 3.2: of a field other than mx that comes twice, the first counts.
func once(seen *bool, f func() Rule) Rule {
	if *seen {
		return ""
	}
	*seen = true
	return f()
}

func unless(ok bool, r Rule) Rule {
	if ok {
		return ""
	}
	return r
}

func (p *policyParser) missing() Rule {
	switch {
	case !p.version:
		return RuleVersion
	case !p.mode:
		return RuleMode
	case !p.maxAge:
		return RuleMaxAge
	case len(p.policy.MX) == 0 && p.policy.Mode != None:
		return RuleMX
	}
	return ""
}

// parseMaxAge cuts to the limit, whatever the number of digits: to drop the policy over it would leave its domain without.
func parseMaxAge(s string) (time.Duration, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > int64(MaxAge/time.Second) {
		return MaxAge, true
	}
	return time.Duration(n) * time.Second, true
}

// policyValue is sts-policy-ext-value, which every other value is too: UTF-8 without control characters, not empty.
func policyValue(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return false
		}
	}
	return s != "" && utf8.ValidString(s)
}

// String is the policy's text, ready to be published. Of a parsed policy it parses to the same policy.
func (p Policy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: STSv1\nmode: %s\n", p.Mode)
	for _, mx := range p.MX {
		b.WriteString("mx: " + mx + "\n")
	}
	fmt.Fprintf(&b, "max_age: %d\n", p.MaxAge/time.Second)
	for _, f := range p.Extensions {
		b.WriteString(f.Name + ": " + f.Value + "\n")
	}
	return b.String()
}

// check says whether a policy that was made by hand says what its text says.
func (p Policy) check() error {
	parsed, err := ParsePolicy([]byte(p.String()))
	if err == nil && !strings.EqualFold(parsed.String(), p.String()) {
		err = &PolicyError{Rule: RuleSyntax}
	}
	return err
}

// Match says whether the policy names the mail host. Case and a final dot don't matter, a Unicode name is converted. A
// pattern "*.example.com" stands for exactly one label more (RFC 8461 section 4.1): a.example.com, but neither example.com
// nor a.b.example.com. It is false for what is no host name, such as an address. The mode does not matter here.
func (p Policy) Match(host string) bool {
	name, err := canonical(host)
	if err != nil {
		return false
	}
	_, parent, _ := strings.Cut(name, ".")
	for _, mx := range p.MX {
		if rest, wild := strings.CutPrefix(mx, "*."); wild {
			if parent != "" && sameName(rest, parent) {
				return true
			}
		} else if sameName(mx, name) {
			return true
		}
	}
	return false
}

// sameName compares a pattern, which the caller may have made by hand, with a canonical name.
func sameName(pattern, name string) bool { return strings.EqualFold(pattern, name) }
