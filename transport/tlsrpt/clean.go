package tlsrpt

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Bounds of the texts of a Result, in octets and lines.
const (
	maxText    = 200
	maxString  = 2 << 10
	maxStrings = 64
	maxTotal   = 8 << 10
)

// When reports are sent: settle lets all processes flush the finished day; spread keeps reporters from coming to
// a domain all at once (RFC 8460 section 4.1).
const (
	settle = 5 * time.Minute
	spread = 4 * time.Hour
)

// clean brings r into the form in which it is counted; false where it can't be counted.
func (r Result) clean() (Result, bool) {
	r.Domain = name(r.Domain)
	if r.PolicyDomain = name(r.PolicyDomain); r.PolicyDomain == "" {
		r.PolicyDomain = r.Domain
	}
	if r.Type != TLSA && r.Type != STS {
		r.Type = NoPolicy
	}
	r.PolicyStrings, r.MXHosts = cut(r.PolicyStrings), cut(r.MXHosts)
	if r.Type == TLSA && !slices.IsSorted(r.PolicyStrings) {
		// The records of a set come in any order, and each order would be a policy of its own.
		r.PolicyStrings = slices.Clone(r.PolicyStrings)
		slices.Sort(r.PolicyStrings)
	}
	if r.Failure != "" && !r.Failure.known() {
		r.Failure = ValidationFailure
	}
	r.SendingIP, r.ReceivingIP = bare(r.SendingIP), bare(r.ReceivingIP)
	r.ReceivingMX, r.ReceivingHELO = name(r.ReceivingMX), name(r.ReceivingHELO)
	r.Reason, r.Info = text(r.Reason), text(r.Info)
	return r, r.Domain != ""
}

func bare(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// name is s as a host name in lower case without a dot at its end, "" if it is none. What the far end calls itself is its
// own words, and could be anything.
func name(s string) string {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return ""
		}
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
		if !ok {
			return ""
		}
	}
	return strings.ToLower(s)
}

// text is s if it is short, printable and can't hold an address, else "".
func text(s string) string {
	if len(s) > maxText || !printable(s) || strings.Contains(s, "@") {
		return ""
	}
	return s
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// cut bounds a list; where all is well it is the list itself.
func cut(list []string) []string {
	total := 0
	for i, s := range list {
		total += len(s)
		if i >= maxStrings || total > maxTotal || len(s) > maxString || !printable(s) || strings.Contains(s, "@") {
			return cutSlow(list)
		}
	}
	return list
}

func cutSlow(list []string) []string {
	var out []string
	total := 0
	for _, s := range list {
		if len(s) > maxString || !printable(s) || strings.Contains(s, "@") {
			continue
		}
		if total += len(s); len(out) >= maxStrings || total > maxTotal {
			break
		}
		out = append(out, s)
	}
	return out
}

func notFound(err error) bool {
	d, ok := errors.AsType[*net.DNSError](err)
	return ok && d.IsNotFound
}
