package smtp

import (
	"net"
	"syscall"
)

// quickAck sends TCP acknowledgements at once until the system thinks otherwise. A far end with Nagle's algorithm holds a
// small answer back until the one before is acknowledged, which may take 40 ms where we have nothing to send.
func quickAck(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if rc, err := sc.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
		})
	}
}
