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
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Zone maps a name, without the final dot and in any case, to its records. A record is "TYPE data" or "TTL TYPE data" as in
// a master file (RFC 1035 section 5.1), such as "MX 10 mx.test.", or one of the words below. A word holds for every question
// about the name; behind a type, as in "TLSA:SERVFAIL", for questions of that type only.
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
	// Secure sets AD in answers for this name (RFC 4035 section 3.2.3), with or without records; Insecure takes it back,
	// which makes sense for a type. An alias and what it leads to must both be Secure.
	Secure   = "SECURE"
	Insecure = "INSECURE"
	// Lame answers nothing, and says that it neither recursed nor has authority.
	Lame = "LAME"
	// WrongID answers with another id over UDP, as a blind attacker does.
	WrongID = "WRONGID"
	// Noise sends garbage over UDP before the answer: what is no DNS message, and forged answers with another id or another
	// question.
	Noise = "NOISE"
	// Other answers as if another name had been asked for.
	Other = "OTHER"
)

// Peer is a running server. Its methods may be called from many goroutines.
type Peer struct {
	udp, tcp *dns.Server
	addr     string
	wg       sync.WaitGroup
	accepted atomic.Int64

	mu      sync.Mutex // guards what follows
	zone    map[string]entry
	queries []Query
	tls     []*dns.Server
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

// ServeTLS serves the same zone over TLS (RFC 7858) too, until Close. It returns the ip:port. A connection that nothing was
// asked on for idle is closed; 0 is 8 s.
func (p *Peer) ServeTLS(config *tls.Config, idle time.Duration) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("dnspeer: listen: %w", err)
	}
	counted := &counter{Listener: tls.NewListener(ln, config), n: &p.accepted}
	started := make(chan struct{})
	s := &dns.Server{Listener: counted, Handler: dns.HandlerFunc(p.serve), NotifyStartedFunc: func() { close(started) }}
	if idle > 0 {
		s.IdleTimeout = func() time.Duration { return idle }
	}
	p.wg.Go(func() { _ = s.ActivateAndServe() })
	<-started
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tls = append(p.tls, s)
	return ln.Addr().String(), nil
}

// Accepted is how many connections came in over TLS.
func (p *Peer) Accepted() int { return int(p.accepted.Load()) }

// counter counts what a listener accepts.
type counter struct {
	net.Listener
	n *atomic.Int64
}

// Accept implements net.Listener.
func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// Close stops the server and waits for it.
func (p *Peer) Close() {
	_ = p.udp.Shutdown()
	_ = p.tcp.Shutdown()
	p.mu.Lock()
	over := p.tls
	p.tls = nil
	p.mu.Unlock()
	for _, s := range over {
		_ = s.Shutdown()
	}
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
		ttl, data := "60", l
		if first, rest, _ := strings.Cut(l, " "); strings.Trim(first, "0123456789") == "" {
			ttl, data = first, rest
		}
		rr, err := dns.NewRR(dns.Fqdn(name) + " " + ttl + " IN " + data)
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
	m.RecursionAvailable, m.Compress = true, true
	words := answer(m, zone, name, question.Qtype)
	if words[Noise] && network == "udp" {
		noise(w, q)
	}
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
	case words[Other]:
		m.Question[0].Name = "other." + m.Question[0].Name
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

// noise is what anybody may send to the port of a client: nothing of it answers q.
func noise(w dns.ResponseWriter, q *dns.Msg) {
	for _, b := range [][]byte{{}, {0}, []byte("no message at all"), make([]byte, 12)} {
		_, _ = w.Write(b)
	}
	forged := new(dns.Msg).SetReply(q)
	forged.Rcode, forged.AuthenticatedData, forged.RecursionAvailable = dns.RcodeNameError, true, true
	forged.Id++
	_ = w.WriteMsg(forged)
	forged.Id--
	forged.Question = []dns.Question{{Name: "forged." + q.Question[0].Name, Qtype: q.Question[0].Qtype, Qclass: dns.ClassINET}}
	_ = w.WriteMsg(forged)
	forged.Question = nil
	_ = w.WriteMsg(forged)
	_ = w.WriteMsg(q)
}

func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return int(opt.UDPSize())
	}
	return dns.MinMsgSize
}

// wordsFor are the words that hold for a question of the type.
func (e entry) wordsFor(qtype uint16) map[string]bool {
	words := map[string]bool{}
	for w := range e.words {
		t, word, typed := strings.Cut(w, ":")
		switch {
		case !typed:
			words[w] = true
		case t == dns.TypeToString[qtype]:
			words[word] = true
		}
	}
	return words
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
		here := e.wordsFor(qtype)
		maps.Copy(words, here)
		secure = secure && here[Secure] && !here[Insecure]
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
