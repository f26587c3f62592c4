//go:build !linux

package smtp

import "net"

// quickAck does nothing: other systems have no such switch for one connection.
func quickAck(net.Conn) {}
