package dane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Answer is the answer to a TLSA question, at the end of its aliases.
type Answer struct {
	Records []Record
	// Secure says that DNSSEC proved the whole answer, aliases included.
	Secure bool
	// TTL is how long the answer holds; 0 means that it must not be kept.
	TTL time.Duration
}

// Alias is a CNAME record.
type Alias struct {
	// Target is the name it leads to, in lower case without the final dot.
	Target string
	// Secure says that DNSSEC proved the record itself, whatever holds for its target.
	Secure bool
}

// Resolver asks a validating DNS resolver over a path that can be trusted. An error that is a [*net.DNSError] with
// IsNotFound says that there surely is no such record, or no such name; any other error that it is not known now, as when
// DNSSEC finds an answer bogus. Names come without the final dot. Called from many goroutines.
type Resolver interface {
	// TLSA asks for the TLSA records at name, such as "_25._tcp.mx.example", following aliases.
	TLSA(ctx context.Context, name string) (Answer, error)
	// CNAME asks for the CNAME record at name, and does not follow it.
	CNAME(ctx context.Context, name string) (Alias, error)
}

// Host is a mail host, and what DNS said on the way to it.
type Host struct {
	// Name is the host's name as the MX record has it; for a domain without MX records the domain. Canonical is the end of
	// its aliases in the address answer, "" if it has none.
	Name, Canonical string
	// Port is 25 for mail between hosts; 0 means that.
	Port uint16
	// NextHop is the domain whose MX records were asked for, and NextHopCanonical the end of its aliases, "" if it has none.
	NextHop, NextHopCanonical string
	// Signed says that DNSSEC proved the MX answer with its aliases, or that there are no MX records.
	Signed bool
	// Secure says that DNSSEC proved the address answer with all its aliases.
	Secure bool
}

// State is what a host's TLSA records ask for.
type State uint8

// The zero State is none of these, and asks for the most: nothing can be verified against it.
const (
	// Unknown: whether there are records can't be said now. The host must not be used until it can (RFC 7672 section 2.1.2).
	Unknown State = iota
	// None: DANE asks for nothing.
	None
	// Usable: TLS is required, and the certificate must match a record.
	Usable
	// Unusable: there are records, but none that we can use. TLS is required; DANE can't say whose certificate is right
	// (RFC 7672 section 2.2).
	Unusable
)

// String is "unknown", "none", "usable" or "unusable".
func (s State) String() string {
	return [...]string{"unknown", "none", "usable", "unusable"}[min(s, Unusable)]
}

// Finding is a step of a decision: a stable rule name, and a text about it that names hosts but no person.
type Finding struct{ Rule, Text string }

// Policy is what DANE asks of a session with a host. The zero Policy is [Unknown]. It may be kept for TTL, and must not be
// changed; its methods may be called from many goroutines.
type Policy struct {
	State State
	// Base is the TLSA base domain, under which the records were found: the server name to send in TLS (RFC 7672 section
	// 2.2.3). "" unless Usable or Unusable.
	Base string
	// Names are the reference names, one of which a certificate under a DANE-TA(2) record must have (RFC 7672 section
	// 3.2.2): the base domain first, then the host's other name where it is an alias, the next-hop domain and its other name.
	Names []string
	// Records are the usable records that count, without doubles, in the order of the answer.
	Records []Record
	// Findings say how it was decided.
	Findings []Finding
	// TTL is how long the answer holds; 0 means that it must not be kept.
	TTL time.Duration
}

// maxRecords bounds the records kept of one answer.
const maxRecords = 64

// Lookup finds what DANE asks of a session with h. Where it can't be known it is [Unknown], also when ctx ends.
func Lookup(ctx context.Context, r Resolver, h Host) Policy {
	h.Name, h.Canonical = normal(h.Name), normal(h.Canonical)
	h.NextHop, h.NextHopCanonical = normal(h.NextHop), normal(h.NextHopCanonical)
	if h.Port == 0 {
		h.Port = 25
	}
	if _, err := netip.ParseAddr(h.Name); err == nil || h.Name == "" {
		return none("dane-no-name", "an address has no TLSA records")
	}
	// RFC 7672 section 2.2.1: a forged MX answer would lead to a host with records of its own.
	if !h.Signed {
		return none("dane-mx-unsigned", "the MX answer is not signed")
	}
	bases, p := candidates(ctx, r, h)
	if bases == nil {
		return p
	}
	for _, base := range bases {
		q, found := lookupAt(ctx, r, base, h.Port)
		q.Findings = append(p.Findings, q.Findings...)
		if p = q; found {
			if p.State != Unknown {
				p.Base, p.Names = base, h.names(base)
			}
			return p
		}
	}
	return p
}

func none(rule, text string) Policy { return Policy{State: None, Findings: []Finding{{rule, text}}} }

func unknown(text string) Policy { return Policy{Findings: []Finding{{"dane-unknown", text}}} }

// candidates are the base domains to try, in order (RFC 7672 section 2.2.2); nil means that p is the end of it.
func candidates(ctx context.Context, r Resolver, h Host) ([]string, Policy) {
	alias := h.Canonical != "" && h.Canonical != h.Name
	switch {
	case h.Secure && alias:
		return []string{h.Canonical, h.Name}, Policy{}
	case h.Secure:
		return []string{h.Name}, Policy{}
	case !alias:
		return nil, none("dane-address-unsigned", "the address of "+h.Name+" is not signed")
	}
	// The address answer says of the chain as a whole that it is not proved. The first link may be.
	c, err := r.CNAME(ctx, h.Name)
	switch {
	case err != nil && !notFound(err):
		return nil, unknown("the alias of " + h.Name + " can't be looked up now")
	case err != nil || !c.Secure:
		return nil, none("dane-address-unsigned", "neither the address nor the alias of "+h.Name+" is signed")
	}
	return []string{h.Name}, Policy{Findings: []Finding{{"dane-alias-signed", "the alias of " + h.Name + " is signed, what it leads to is not"}}}
}

// lookupAt looks under one base domain. It reports whether the search ends there.
func lookupAt(ctx context.Context, r Resolver, base string, port uint16) (Policy, bool) {
	name := Name(base, port)
	a, err := r.TLSA(ctx, name)
	switch {
	case notFound(err) || err == nil && len(a.Records) == 0:
		return none("dane-none", "no TLSA records at "+name), false
	case err != nil:
		// RFC 7672 section 2.1.2: whoever can suppress an answer would suppress the protection.
		return unknown("TLSA records at " + name + " can't be looked up now"), true
	case !a.Secure:
		return none("dane-unsigned", "the TLSA records at "+name+" are not signed"), false
	}
	p := Policy{State: Unusable, TTL: a.TTL}
	p.Records, p.Findings = sift(a.Records, name)
	if len(p.Records) > 0 {
		p.State = Usable
		p.Findings = append(p.Findings, Finding{"dane-usable", "signed TLSA records at " + name})
		return p, true
	}
	p.Findings = append(p.Findings, Finding{"dane-unusable", "no usable TLSA record at " + name})
	return p, true
}

// sift keeps what counts.
func sift(rs []Record, name string) ([]Record, []Finding) {
	var kept []Record
	var strong [4][2]bool // by usage and selector: has SHA2-512
	var unusable string
	for _, r := range rs {
		if why := r.usable(); why != "" {
			unusable = why
			continue
		}
		if r.Match == MatchSHA512 {
			strong[r.Usage][r.Selector] = true
		}
		kept = append(kept, r)
	}
	var fs []Finding
	if unusable != "" {
		fs = append(fs, Finding{"dane-record-unusable", "TLSA records at " + name + " can't be used: " + unusable})
	}
	// RFC 7671 section 9: the strongest digest of a usage and selector. Otherwise a broken one would stay a way in for as
	// long as anybody publishes it.
	kept = slices.DeleteFunc(kept, func(r Record) bool { return r.Match == MatchSHA256 && strong[r.Usage][r.Selector] })
	kept = distinct(kept)
	if len(kept) > maxRecords {
		kept = kept[:maxRecords]
		fs = append(fs, Finding{"dane-many", fmt.Sprintf("only %d TLSA records at %s are looked at", maxRecords, name)})
	}
	return kept, fs
}

// distinct drops doubles, and stops when it has more than are looked at.
func distinct(rs []Record) []Record {
	var out []Record
	for _, r := range rs {
		if !slices.ContainsFunc(out, r.equal) {
			out = append(out, Record{r.Usage, r.Selector, r.Match, bytes.Clone(r.Data)})
		}
		if len(out) > maxRecords {
			break
		}
	}
	return out
}

func (r Record) equal(o Record) bool {
	return r.Usage == o.Usage && r.Selector == o.Selector && r.Match == o.Match && bytes.Equal(r.Data, o.Data)
}

// names are the reference names for records found under base.
func (h Host) names(base string) []string {
	names := []string{base, h.Name}
	if h.Secure {
		names = append(names, h.Canonical)
	}
	var out []string
	for _, n := range append(names, h.NextHop, h.NextHopCanonical) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func notFound(err error) bool {
	de, ok := errors.AsType[*net.DNSError](err)
	return ok && de.IsNotFound
}
