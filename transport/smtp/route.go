package smtp

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Bounds of one delivery: hosts of a domain, addresses of a host, and connections tried in all.
const (
	maxHosts       = 16
	maxAddrs       = 4
	maxConnections = 8
)

// host is a mail host to try.
type host struct {
	// name is the reference name of its certificate.
	name string
	port uint16
	// signed: the answer that named it was proved by DNSSEC.
	signed bool
	// relay is nil for a host of the recipient's domain.
	relay *Relay
	// preference is the MX record's.
	preference uint16
	// pin is nil if the domain has none.
	pin *pin
	// nextHop is the domain that it is a mail host of, and nextHopCanonical the end of that one's aliases.
	nextHop, nextHopCanonical string
}

// implicit says that a session with h starts with TLS.
func (h *host) implicit() bool { return h.relay != nil && h.relay.ImplicitTLS }

// target is one address of a host.
type target struct {
	*host
	addr netip.Addr
	plan *plan
}

// sni is the server name to send in TLS: the mail host (RFC 8461 section 7.1), or where its TLSA records are (RFC 7672
// section 2.2.3).
func (g target) sni() string {
	if g.plan.terms.DANE {
		return g.plan.tlsa.Base
	}
	return g.name
}

func (g target) hostport() string {
	return net.JoinHostPort(g.addr.String(), strconv.Itoa(int(g.port)))
}

// route names the hosts for domain in the order to try. What it can't use is told by its notes.
func (t *Transport) route(ctx context.Context, domain string) ([]*host, []securemail.Reason, *failure) {
	if t.relay != nil {
		return []*host{t.relay}, nil, nil
	}
	set, ok := t.resolver.mx.get(domain)
	if !ok {
		ctx, cancel := within(ctx, t.timeouts.Resolve)
		defer cancel()
		var err error
		if set, err = t.resolver.MX(ctx, domain); err != nil {
			return nil, nil, lookupFailure(ctx, err)
		}
	}
	if len(set.Hosts) == 0 {
		// RFC 5321 section 5.1: the domain itself, as if it were an MX of preference 0.
		set.Hosts = []MX{{Host: domain}}
	}
	return t.usable(domain, set)
}

// usable sorts the set and drops what must not be used.
func (t *Transport) usable(domain string, set MXSet) ([]*host, []securemail.Reason, *failure) {
	// RFC 7505 section 3: a null MX is alone; beside others it is void.
	if len(set.Hosts) == 1 && strings.TrimSuffix(set.Hosts[0].Host, ".") == "" {
		f := fail(stageResolve, ErrNullMX)
		f.Code, f.Enhanced, f.Fate = 556, "5.1.10", securemail.FatePermanent
		return nil, nil, f
	}
	mxs := slices.Clone(set.Hosts)
	// RFC 5321 section 5.1: hosts of equal preference in random order.
	rand.Shuffle(len(mxs), func(i, j int) { mxs[i], mxs[j] = mxs[j], mxs[i] })
	slices.SortStableFunc(mxs, func(a, b MX) int { return cmp.Compare(a.Preference, b.Preference) })
	pin := t.pins[domain]
	var hosts []*host
	var notes []securemail.Reason
	for _, mx := range mxs {
		if len(hosts) == maxHosts {
			break
		}
		name := strings.ToLower(strings.TrimSuffix(mx.Host, "."))
		if len(notes) == maxHosts && (!validHost(name) || pin != nil && !pin.allows(name)) {
			continue // a stranger's records must not make the reasons long
		}
		switch {
		case !validHost(name):
			notes = note(notes, "mx-invalid", "an MX record names no host")
		case pin != nil && !pin.allows(name):
			notes = note(notes, "mx-not-pinned", name+" is not among the domain's pinned hosts")
		default:
			hosts = append(hosts, &host{name: name, preference: mx.Preference, port: t.port, signed: set.Secure, pin: pin, nextHop: domain, nextHopCanonical: set.Canonical})
		}
	}
	if len(hosts) == 0 {
		f := fail(stageResolve, errNoRoute)
		f.Enhanced, f.Wire.Reasons = "4.4.4", notes
		return nil, nil, f
	}
	return hosts, notes, nil
}

// validHost accepts what a certificate can name and a log line may hold: labels of letters, digits, "-" and "_". RFC 5321
// section 5.1: an MX names a domain; an address in its place is an error, also in the spellings that C libraries take for
// one, such as "127.1" (RFC 3696 section 2: no top-level label is all digits).
func validHost(name string) bool {
	if len(name) > 253 {
		return false
	}
	label := ""
	for label = range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return strings.Trim(label, "0123456789") != "" && !strings.HasPrefix(label, "0x")
}

// lookupFailure maps what a Resolver said of a domain or an implicit mail host.
func lookupFailure(ctx context.Context, err error) *failure {
	if errors.Is(err, ErrNotFound) {
		// RFC 3463 section 3.2: 5.1.2, the domain does not exist.
		f := fail(stageResolve, ErrNotFound)
		f.Enhanced, f.Fate = "5.1.2", securemail.FatePermanent
		return f
	}
	f := fail(stageResolve, errLookup)
	if ctx.Err() != nil {
		f.Err = ctx.Err()
	}
	f.Enhanced = "4.4.3"
	return f
}

// addresses finds where h can be reached, at most maxAddrs.
func (t *Transport) addresses(ctx context.Context, h *host, domain string) (AddrSet, *failure) {
	if h.relay != nil { // no MX record names an address
		if a, err := netip.ParseAddr(h.name); err == nil {
			return AddrSet{Addrs: []netip.Addr{a}}, nil
		}
	}
	set, ok := t.resolver.addrs.get(h.name)
	var err error
	if !ok {
		var cancel context.CancelFunc
		ctx, cancel = within(ctx, t.timeouts.Resolve)
		defer cancel()
		set, err = t.resolver.Addrs(ctx, h.name)
	}
	if err == nil && t.public && h.relay == nil {
		if set.Addrs = slices.DeleteFunc(slices.Clone(set.Addrs), special); len(set.Addrs) == 0 {
			f := hostFail(stageResolve, errSpecial)
			f.Enhanced, f.Wire.Reasons = "4.4.4", note(nil, "mx-private", h.name+" has no public address")
			return AddrSet{}, f
		}
	}
	if err == nil && len(set.Addrs) > 0 {
		// Of both families, where there are both.
		set.Addrs = alternate(set.Addrs, set.Addrs[0].Is4())[:min(len(set.Addrs), maxAddrs)]
		return set, nil
	}
	if err == nil {
		err = ErrNotFound
	}
	f := lookupFailure(ctx, err)
	if h.relay != nil || h.name != domain {
		// A mail host without an address may be mended, and says nothing of the recipient.
		f.Fate, f.next = securemail.FateRetry, true
		f.Enhanced = "4.4.4"
	}
	return AddrSet{}, f
}

// special addresses are no mail host of a stranger's (RFC 6890): whoever puts one into his DNS wants us to speak to a
// machine of ours, or to ourselves. One that a NAT64 translates (RFC 6052), which is how a network without IPv4 reaches most mail
// hosts, is judged by the IPv4 address in it.
func special(a netip.Addr) bool {
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return !a.IsGlobalUnicast() || a.IsPrivate() || slices.ContainsFunc(specialNets, func(p netip.Prefix) bool { return p.Contains(a) })
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

var specialNets = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	// Prefixes that carry an IPv4 address: RFC 4291 section 2.5.5.1, RFC 8215, RFC 3056; and RFC 3879.
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// cached keeps a Resolver's answers for as long as their TTL says, at most maxKeep. Who asks looks at the shelves first.
type cached struct {
	Resolver
	mx    *shelf[MXSet]
	addrs *shelf[AddrSet]
}

// maxKeep bounds how long an answer is kept, and maxShelf how many.
const (
	maxKeep  = 5 * time.Minute
	maxShelf = 4096
)

func newCached(r Resolver, now func() time.Time) *cached {
	return &cached{r, newShelf[MXSet](maxShelf, now), newShelf[AddrSet](maxShelf, now)}
}

// MX implements [Resolver].
func (c *cached) MX(ctx context.Context, domain string) (MXSet, error) {
	set, err := c.Resolver.MX(ctx, domain)
	if err == nil {
		c.mx.put(domain, set, min(set.TTL, maxKeep))
	}
	return set, err
}

// Addrs implements [Resolver].
func (c *cached) Addrs(ctx context.Context, host string) (AddrSet, error) {
	set, err := c.Resolver.Addrs(ctx, host)
	if err == nil {
		c.addrs.put(host, set, min(set.TTL, maxKeep))
	}
	return set, err
}
