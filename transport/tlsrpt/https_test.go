package tlsrpt_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/tlsrpt"
)

// A domain can't have us post to our own machines, nor by a translator's address.
func TestPublicAddresses(t *testing.T) {
	for s, public := range map[string]bool{
		"1.1.1.1": true, "2606:4700::1111": true, "64:ff9b::101:101": true,
		"127.0.0.1": false, "10.0.0.1": false, "::ffff:10.0.0.1": false, "169.254.169.254": false, "100.64.0.1": false, "::1": false, "fd00::1": false,
		"fe80::1%eth0": false, "64:ff9b::7f00:1": false, "64:ff9b:1::101:101": false, "2002:7f00:1::": false,
	} {
		require.Equal(t, public, tlsrpt.Public(netip.MustParseAddr(s)), s)
	}
}
