package main

import (
	"bytes"
	"io"
	"net"
	"sync"
	"time"
)

// delay is the time that each direction of a relay takes.
const delay = 10 * time.Millisecond

// relay carries c to addr and back, each octet delay later, until both directions have ended.
func relay(c net.Conn, addr string) {
	far, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer far.Close()
	var wg sync.WaitGroup
	wg.Go(func() { late(far, c) })
	wg.Go(func() { late(c, far) })
	wg.Wait()
}

// piece is what came at once, and when it is due.
type piece struct {
	b   []byte
	due time.Time
}

// late copies until from ends. Reading does not wait for what is on its way.
func late(to, from net.Conn) {
	road := make(chan piece, 4096)
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		for p := range road {
			if err != nil {
				continue
			}
			time.Sleep(time.Until(p.due))
			_, err = to.Write(p.b)
		}
		if c, ok := to.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
	})
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			road <- piece{bytes.Clone(b[:n]), time.Now().Add(delay)}
		}
		if err != nil {
			if err != io.EOF {
				_ = to.Close()
			}
			break
		}
	}
	close(road)
	wg.Wait()
}
