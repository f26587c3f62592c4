// Package dnspeer is a small DNS server for tests and examples: it answers from a map of records over UDP and TCP on
// loopback, in the test's own process, and fails as asked.
//
//	p, err := dnspeer.Start(dnspeer.Zone{
//		"example.test": {"MX 10 mx.example.test."},
//		"mx.example.test": {"A 127.0.0.1"},
//	})
//	defer p.Close()
//	... ask p.Addr() ...
//
// A name that the zone lacks is NXDOMAIN, a type that a name lacks is an empty answer. It is no authority: it has no
// SOA, no wildcards and no DNSSEC; the AD bit is set where the test says so.
package dnspeer

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Zone maps a name, without the final dot and in any case, to its records. A record is "TYPE data" as in a master file
// (RFC 1035 section 5.1), such as "MX 10 mx.test.", or one of the words below.
type Zone map[string][]string

// Words that stand in a Zone in place of records.
const (
	// ServFail answers SERVFAIL, and Refused REFUSED.
	ServFail = "SERVFAIL"
	Refused  = "REFUSED"
	// Timeout never answers.
	Timeout = "TIMEOUT"
	// Truncate sets TC with an empty answer over UDP, so that the client must ask again over TCP.
	Truncate = "TRUNCATE"
	// Secure sets AD in answers for this name (RFC 4035 section 3.2.3).
	Secure = "SECURE"
	// Lame answers nothing, and says that it neither recursed nor has authority.
	Lame = "LAME"
	// WrongID answers with another id over UDP, as a blind attacker does.
	WrongID = "WRONGID"
)

// Peer is a running server. Its methods may be called from many goroutines.
type Peer struct {
	udp, tcp *dns.Server
	addr     string
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	zone    map[string]entry
	queries []Query
}

// Query is one question that came in.
type Query struct {
	// Name is in lower case, without the final dot; Type is such as "MX"; Network is "udp" or "tcp".
	Name, Type, Network string
	// EDNS says that the client sent an OPT record (RFC 6891); DO and AD are his bits.
	EDNS, DO, AD bool
}

type entry struct {
	rrs   []dns.RR
	words map[string]bool
}

// Start serves z on a port of 127.0.0.1 that the kernel picks. The caller must Close it. A record that can't be read is
// an error.
func Start(z Zone) (*Peer, error) {
	p := &Peer{}
	if err := p.Set(z); err != nil {
		return nil, err
	}
	pc, ln, err := listen()
	if err != nil {
		return nil, err
	}
	p.addr = ln.Addr().String()
	var up sync.WaitGroup
	up.Add(2)
	p.udp = &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(p.serve), NotifyStartedFunc: up.Done}
	p.tcp = &dns.Server{Listener: ln, Handler: dns.HandlerFunc(p.serve), NotifyStartedFunc: up.Done}
	p.wg.Go(func() { _ = p.udp.ActivateAndServe() })
	p.wg.Go(func() { _ = p.tcp.ActivateAndServe() })
	up.Wait()
	return p, nil
}

// listen finds a port that is free for UDP and TCP.
func listen() (net.PacketConn, net.Listener, error) {
	var last error
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, fmt.Errorf("dnspeer: listen: %w", err)
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return pc, ln, nil
		}
		last = err
		ln.Close()
	}
	return nil, nil, fmt.Errorf("dnspeer: listen: %w", last)
}

// Addr is the server's ip:port.
func (p *Peer) Addr() string { return p.addr }

// Close stops the server and waits for it.
func (p *Peer) Close() {
	_ = p.udp.Shutdown()
	_ = p.tcp.Shutdown()
	p.wg.Wait()
}

// Set puts z in place of the present zone. On error nothing changes.
func (p *Peer) Set(z Zone) error {
	next := map[string]entry{}
	for name, lines := range z {
		e, err := parse(name, lines)
		if err != nil {
			return err
		}
		next[strings.ToLower(name)] = e
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.zone = next
	return nil
}

func parse(name string, lines []string) (entry, error) {
	e := entry{words: map[string]bool{}}
	for _, l := range lines {
		if !strings.Contains(l, " ") {
			e.words[l] = true
			continue
		}
		rr, err := dns.NewRR(dns.Fqdn(name) + " 60 IN " + l)
		if err != nil || rr == nil {
			return entry{}, fmt.Errorf("dnspeer: record of %q: %w", name, err)
		}
		e.rrs = append(e.rrs, rr)
	}
	return e, nil
}

// Queries are the questions asked so far, in order.
func (p *Peer) Queries() []Query {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Query(nil), p.queries...)
}

func (p *Peer) serve(w dns.ResponseWriter, q *dns.Msg) {
	network := w.LocalAddr().Network()
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	log := Query{Name: name, Type: dns.TypeToString[question.Qtype], Network: network, AD: q.AuthenticatedData}
	if opt := q.IsEdns0(); opt != nil {
		log.EDNS, log.DO = true, opt.Do()
	}
	p.mu.Lock()
	p.queries = append(p.queries, log)
	zone := maps.Clone(p.zone)
	p.mu.Unlock()

	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	words := answer(m, zone, name, question.Qtype)
	switch {
	case words[Timeout]:
		return
	case words[ServFail]:
		m.Answer, m.Rcode = nil, dns.RcodeServerFailure
	case words[Refused]:
		m.Answer, m.Rcode = nil, dns.RcodeRefused
	case words[Lame]:
		m.Answer, m.RecursionAvailable = nil, false
	case words[Truncate] && network == "udp":
		m.Answer, m.Truncated = nil, true
	case words[WrongID] && network == "udp":
		m.Id++
	}
	m.AuthenticatedData = words[Secure]
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	if network == "udp" {
		m.Truncate(udpSize(q))
	}
	_ = w.WriteMsg(m)
}

func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return int(opt.UDPSize())
	}
	return dns.MinMsgSize
}

// answer fills m, following CNAMEs inside the zone, and returns the words of all names on the way. Secure holds only if
// each of them has it.
func answer(m *dns.Msg, zone map[string]entry, name string, qtype uint16) map[string]bool {
	words := map[string]bool{}
	secure := true
	for range 10 {
		e, ok := zone[name]
		if !ok {
			m.Rcode = dns.RcodeNameError
			return words
		}
		maps.Copy(words, e.words)
		secure = secure && e.words[Secure]
		words[Secure] = secure
		next := ""
		for _, rr := range e.rrs {
			if c, ok := rr.(*dns.CNAME); ok && qtype != dns.TypeCNAME {
				next = strings.ToLower(strings.TrimSuffix(c.Target, "."))
			} else if rr.Header().Rrtype != qtype {
				continue
			}
			m.Answer = append(m.Answer, rr)
		}
		if next == "" {
			return words
		}
		name = next
	}
	return words
}
