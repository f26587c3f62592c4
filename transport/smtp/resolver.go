package smtp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// MX is one mail host of a domain (RFC 5321 section 5.1): its name without the final dot ("" for the null MX of RFC 7505),
// and its preference, lower first.
type MX struct {
	Host       string
	Preference uint16
}

// MXSet is the answer to an MX question. No Hosts means that the domain exists without MX records, and is its own host.
type MXSet struct {
	Hosts []MX
	// Secure says that a validating resolver that is trusted over a trusted path held the whole answer for authentic
	// (RFC 4035 section 3.2.3).
	Secure bool
	// TTL is how long the answer holds; 0 means that it must not be kept.
	TTL time.Duration
}

// AddrSet is the answer to a question for a host's addresses, A and AAAA together.
type AddrSet struct {
	Addrs  []netip.Addr
	Secure bool
	TTL    time.Duration
}

// Resolver finds mail hosts. An error that Is [ErrNotFound] says that the name surely does not exist; any other error that
// it is not known now. Names come without the final dot. Called from many goroutines.
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

func notFound(err error) bool {
	de, ok := errors.AsType[*net.DNSError](err)
	return ok && de.IsNotFound
}
