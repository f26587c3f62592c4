package smtp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/postseal/postseal/transport/dane"
)

// The abilities that a Resolver may have besides.
var (
	_ dane.Resolver = (*DNSClient)(nil)
	_ txtResolver   = (*DNSClient)(nil)
	_ txtResolver   = system{}
)

type txtResolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// MX is one mail host of a domain (RFC 5321 section 5.1): its name without the final dot ("" for the null MX of RFC 7505),
// and its preference, lower first.
type MX struct {
	Host       string
	Preference uint16
}

// MXSet is the answer to an MX question. No Hosts means that the domain exists without MX records, and is its own host.
type MXSet struct {
	Hosts []MX
	// Canonical is the end of the domain's aliases (RFC 5321 section 5.1), "" if it has none.
	Canonical string
	// Secure says that a validating resolver that is trusted over a trusted path held the whole answer for authentic
	// (RFC 4035 section 3.2.3).
	Secure bool
	// TTL is how long the answer holds; 0 means that it must not be kept.
	TTL time.Duration
}

// AddrSet is the answer to a question for a host's addresses, A and AAAA together.
type AddrSet struct {
	Addrs []netip.Addr
	// Canonical is the end of the host's aliases, in lower case without the final dot, "" if it has none.
	Canonical string
	// Secure says that the answer was proved as in [MXSet], with all aliases on the way. Where one family's answer is proved
	// and the other's is not, or is not known, it speaks of the proved one, and so does Canonical.
	Secure bool
	TTL    time.Duration
}

// Resolver finds mail hosts. An error that Is [ErrNotFound] says that the name surely does not exist; any other error that
// it is not known now. Names come without the final dot. Called from many goroutines.
//
// A Resolver may have two more abilities, which whoever wraps one must pass on: those of a [dane.Resolver], without which
// there is no DANE, and LookupTXT as [net.Resolver] has it, without which there is no MTA-STS.
type Resolver interface {
	MX(ctx context.Context, domain string) (MXSet, error)
	Addrs(ctx context.Context, host string) (AddrSet, error)
}

// system is Go's own resolver. It tells nothing of DNSSEC and of times to live.
type system struct {
	r *net.Resolver
	// search lets names of hosts go through the search list, as a relay's may; an MX host's is absolute.
	search bool
}

var _ Resolver = system{}

// MX implements [Resolver]. Go's resolver does not tell a missing name from one without MX records: both are no hosts, and
// Addrs decides.
func (s system) MX(ctx context.Context, domain string) (MXSet, error) {
	// The final dot keeps the search list out of it.
	mxs, err := s.r.LookupMX(ctx, domain+".")
	if notFound(err) {
		return MXSet{}, nil
	}
	// An error with records means that some of them had invalid names, which Go left out.
	if len(mxs) == 0 && err != nil {
		return MXSet{}, errLookup
	}
	var set MXSet
	for _, mx := range mxs {
		set.Hosts = append(set.Hosts, MX{Host: strings.TrimSuffix(mx.Host, "."), Preference: mx.Pref})
	}
	return set, nil
}

// Addrs implements [Resolver].
func (s system) Addrs(ctx context.Context, host string) (AddrSet, error) {
	if !s.search {
		host += "."
	}
	addrs, err := s.r.LookupNetIP(ctx, "ip", host)
	switch {
	case notFound(err):
		return AddrSet{}, ErrNotFound
	case err != nil:
		return AddrSet{}, errLookup
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return AddrSet{Addrs: addrs}, nil
}

// LookupTXT is [net.Resolver.LookupTXT] without the search list. Its errors hold no text of the system's.
func (s system) LookupTXT(ctx context.Context, name string) ([]string, error) {
	txts, err := s.r.LookupTXT(ctx, strings.TrimSuffix(name, ".")+".")
	switch {
	case notFound(err):
		return nil, &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	case err != nil:
		return nil, errLookup
	}
	return txts, nil
}

func notFound(err error) bool {
	de, ok := errors.AsType[*net.DNSError](err)
	return ok && de.IsNotFound
}
