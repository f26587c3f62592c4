package tlsrpt

import "net/netip"

// Public runs the judgement of the addresses that reports are posted to.
func Public(a netip.Addr) bool { return public(a) }
