package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
)

// host is one mail host and what may arrive there.
type host struct {
	domain string
	peer   *smtppeer.Peer
	// floor says that mail may arrive; else any arrival is below the floor.
	floor bool
}

// world is every mail host, and the DNS that names them.
type world struct {
	hosts []*host
	dns   *dnspeer.Peer
	// first is when something first arrived since it was last set to 0, in nanoseconds since 1970.
	first atomic.Int64

	mu sync.Mutex // guards what follows
	// rcpts are the recipients of the transactions under way, times when each recipient's mail arrived.
	rcpts map[session]string
	times map[string][]time.Time
}

// session is one connection to one host.
type session struct {
	host string
	conn int
}

const slow = 20 * time.Millisecond

// startWorld starts the hosts, and writes the certificate that the child trusts to dir.
func startWorld(dir string) (*world, error) {
	w := &world{rcpts: make(map[session]string), times: make(map[string][]time.Time)}
	cert := smtppeer.SelfSigned("mx.good.test", "mx.slow.test", "mx.later.test", "mx.drop.test")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	if err := os.WriteFile(filepath.Join(dir, caFile), root, 0o600); err != nil {
		return nil, err
	}
	good := func(string) smtppeer.Options { return smtppeer.Options{TLS: smtppeer.ServerConfig(cert)} }
	zone := dnspeer.Zone{}
	for i, h := range []struct {
		domain string
		o      func(name string) smtppeer.Options
		floor  bool
		misdo  func(e smtppeer.Event) *smtppeer.Action
	}{
		{"good.test", good, true, nil},
		{"slow.test", good, true, func(e smtppeer.Event) *smtppeer.Action {
			return on(e, smtppeer.StageDot, 1, smtppeer.Action{Delay: slow})
		}},
		{"later.test", good, true, func(e smtppeer.Event) *smtppeer.Action {
			return on(e, smtppeer.StageRcpt, 2, smtppeer.Refuse(450, "4.7.1 come back"))
		}},
		{"drop.test", good, true, func(e smtppeer.Event) *smtppeer.Action {
			return on(e, smtppeer.StageDot, 4, smtppeer.Action{Close: true, Taken: true})
		}},
		{"unproved.test", func(name string) smtppeer.Options {
			return smtppeer.Options{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned(name))}
		}, false, nil},
		{"clear.test", func(string) smtppeer.Options { return smtppeer.Options{} }, false, nil},
	} {
		name := "mx." + h.domain
		o := h.o(name)
		o.Hostname, o.Discard, o.Hook = name, true, w.watch(name, h.misdo)
		p, err := smtppeer.Start(o)
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		w.hosts = append(w.hosts, &host{h.domain, p, h.floor})
		zone[h.domain], zone[name] = []string{"MX 10 " + name + "."}, []string{fmt.Sprintf("A 127.0.1.%d", i+1)}
	}
	var err error
	if w.dns, err = dnspeer.Start(zone); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// on is a at every n-th time of a stage.
func on(e smtppeer.Event, s smtppeer.Stage, n int, a smtppeer.Action) *smtppeer.Action {
	if e.Stage != s || e.N%n != 0 {
		return nil
	}
	return &a
}

// watch notes arrivals, and then does as misdo says.
func (w *world) watch(name string, misdo func(smtppeer.Event) *smtppeer.Action) func(smtppeer.Event) *smtppeer.Action {
	return func(e smtppeer.Event) *smtppeer.Action {
		switch now := time.Now(); e.Stage {
		case smtppeer.StageRcpt:
			w.mu.Lock()
			w.rcpts[session{name, e.Conn}] = e.Arg
			w.mu.Unlock()
		case smtppeer.StageDot:
			w.first.CompareAndSwap(0, now.UnixNano())
			w.mu.Lock()
			to := w.rcpts[session{name, e.Conn}]
			w.times[to] = append(w.times[to], now)
			w.mu.Unlock()
		}
		if misdo == nil {
			return nil
		}
		return misdo(e)
	}
}

// addrs maps the hosts' addresses in DNS to where they listen, for the child's dialer.
func (w *world) addrs() string {
	out := make([]string, len(w.hosts))
	for i, h := range w.hosts {
		out[i] = fmt.Sprintf("127.0.1.%d=%s", i+1, h.peer.Addr())
	}
	return strings.Join(out, ",")
}

// taken returns the arrivals of a child that is dead, once its sessions have ended, and begins anew.
func (w *world) taken() map[string][]time.Time {
	for _, h := range w.hosts {
		for end := time.Now().Add(startBy); h.peer.Open() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.times
	w.times = make(map[string][]time.Time)
	return out
}

// forget drops all arrivals so far.
func (w *world) forget() {
	for _, h := range w.hosts {
		h.peer.Reset()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.times)
}

// before counts the arrivals for each recipient before an instant.
func (w *world) before(t time.Time) map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]int, len(w.times))
	for to, at := range w.times {
		for _, a := range at {
			if a.Before(t) {
				out[to]++
			}
		}
	}
	return out
}

func (w *world) close() error {
	for _, h := range w.hosts {
		h.peer.Close()
	}
	if w.dns != nil {
		w.dns.Close()
	}
	return nil
}
