package mtasts

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPublic is inside the package: nobody can connect to most of these to see the refusal.
func TestPublic(t *testing.T) {
	for _, s := range []string{
		"0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
		"224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1",
		"2001::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
		"2606:4700::1%eth0", "fe80::1%eth0",
	} {
		require.False(t, public(netip.MustParseAddr(s)), s)
		require.ErrorIs(t, onlyPublic("tcp", netip.AddrPortFrom(netip.MustParseAddr(s), 443).String(), nil), errAddress, s)
	}
	for _, s := range []string{"1.1.1.1", "100.128.0.1", "172.32.0.1", "9.255.255.255", "::ffff:1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "2a00::1"} {
		require.True(t, public(netip.MustParseAddr(s)), s)
		require.NoError(t, onlyPublic("tcp", netip.AddrPortFrom(netip.MustParseAddr(s), 443).String(), nil), s)
	}
	require.ErrorIs(t, onlyPublic("tcp", "name:443", nil), errAddress)
}
