package mtasts

import (
	"errors"
	"fmt"
)

// Rule names the rule that something breaks.
type Rule string

// The rules for records (RFC 8461 section 3.1), policies (section 3.2), fetches (section 3.3) and what stands around them.
const (
	// RuleVersion: the version is not STSv1, or, in a record, does not stand first.
	RuleVersion Rule = "version"
	// RuleSyntax: a field is not of the grammar.
	RuleSyntax Rule = "syntax"
	// RuleID: a record has no id of 1 to 32 letters and digits.
	RuleID Rule = "id"
	// RuleOne: more than one STS record.
	RuleOne Rule = "one-record"
	// RuleBlank: a policy has an empty line, which the grammar does not have.
	RuleBlank Rule = "blank-line"
	// RuleMode: no mode, or none of enforce, testing and none.
	RuleMode Rule = "mode"
	// RuleMaxAge: no max_age, or not a number.
	RuleMaxAge Rule = "max-age"
	// RuleMX: no mx where the mode needs one, or one that is no host name of A-labels, with or without a wildcard in front.
	RuleMX Rule = "mx"
	// RuleSize: more than 64 KiB.
	RuleSize Rule = "size"
	// RuleAddress: the policy host has no public address.
	RuleAddress Rule = "address"
	// RuleConnect: the policy host could not be asked, or broke off.
	RuleConnect Rule = "connect"
	// RuleTimeout: it took more than the time that there is, one minute.
	RuleTimeout Rule = "timeout"
	// RuleCertificate: the policy host's certificate is not valid for its name.
	RuleCertificate Rule = "certificate"
	// RuleStatus: the HTTP status is not 200.
	RuleStatus Rule = "status"
	// RuleMedia: the media type is not text/plain.
	RuleMedia Rule = "media-type"
	// RuleEncoding: the response is encoded, such as compressed.
	RuleEncoding Rule = "content-encoding"
	// RuleRecordGone: the record is not there any more, though a policy is cached.
	RuleRecordGone Rule = "record-gone"
	// RuleDNS: DNS gave no answer.
	RuleDNS Rule = "dns"
	// RuleStore: the Store could not be read or written.
	RuleStore Rule = "store"
)

// ErrNoRecord says that a domain has no usable STS record: none, more than one, or a broken one. RFC 8461 section 3.1
// treats them alike; for the last two a [*RecordError] is in the chain too. A cached policy is not affected.
var ErrNoRecord = errors.New("mtasts: no STS record")

// RecordError says which rule a TXT record breaks. It is also [ErrNoRecord].
type RecordError struct{ Rule Rule }

// Error names the rule, never what the record says.
func (e *RecordError) Error() string { return "mtasts: record: rule " + string(e.Rule) }

// Is makes a broken record an absent one.
func (e *RecordError) Is(target error) bool { return target == ErrNoRecord }

// PolicyError says which rule a policy breaks, and where.
type PolicyError struct {
	// Rule is the rule.
	Rule Rule
	// Line is the number of the line, from 1; 0 where something is missing or the whole is too long.
	Line int
}

// Error names rule and line, never what the policy says.
func (e *PolicyError) Error() string {
	if e.Line == 0 {
		return "mtasts: policy: rule " + string(e.Rule)
	}
	return fmt.Sprintf("mtasts: policy: line %d: rule %s", e.Line, e.Rule)
}

// FetchError says why a policy could not be fetched.
type FetchError struct {
	// Rule is the rule that was broken.
	Rule Rule
	// Status is the HTTP status where the rule is [RuleStatus], else 0.
	Status int
	// Err is the cause, or nil. It may hold names and addresses of hosts; it is not part of Error.
	Err error
}

// Error names the rule, and the status if there is one.
func (e *FetchError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("mtasts: fetch: rule %s: %d", e.Rule, e.Status)
	}
	return "mtasts: fetch: rule " + string(e.Rule)
}

// Unwrap returns the cause.
func (e *FetchError) Unwrap() error { return e.Err }
