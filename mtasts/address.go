package mtasts

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

var errAddress = errors.New("mtasts: the address is not public")

// special are the blocks, beside those that netip knows by method, that no stranger's host can be reached at
// (the IANA special-purpose registries of RFC 6890), or that lead into IPv4 by a tunnel.
var special = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

var (
	global6 = netip.MustParsePrefix("2000::/3")
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
)

func prefixes(ss ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

// public says whether an address is global unicast. One that a NAT64 translates (RFC 6052) is judged by the IPv4 address in it.
func public(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !global6.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// onlyPublic is a [net.Dialer.Control]: it sees the address that is about to be connected to, after all look-ups, so that
// no second answer of DNS can slip past.
func onlyPublic(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !public(ap.Addr()) {
		return errAddress
	}
	return nil
}

// publicPeer says whether a connection that somebody else made leads to a public address.
func publicPeer(c net.Conn) bool {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && public(tcp.AddrPort().Addr())
}
