package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/smtp"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// world is everybody else: the recipients' mail hosts, DNS, a policy server, and the wire between them and us.
type world struct {
	ca       *smtppeer.CA
	zone     dnspeer.Zone
	dns      *dnspeer.Peer
	resolver *smtp.DNSClient
	policies *httptest.Server
	hosts    map[string]*smtppeer.Peer // by domain
	addrs    map[string]string         // by domain: where DNS says that its host is
	// attackers are those that stood before a host.
	attackers []*smtppeer.Peer

	mu   sync.Mutex
	wire map[string]*smtppeer.Peer // by address: whom a connection to it reaches
}

// newWorld builds five domains, from the best proof to none. Each has a host mx.DOMAIN on an address of its own.
func newWorld() (*world, error) {
	ca := smtppeer.NewCA()
	w := &world{
		ca: ca, zone: dnspeer.Zone{}, hosts: map[string]*smtppeer.Peer{}, addrs: map[string]string{}, wire: map[string]*smtppeer.Peer{},
	}
	unknown := smtppeer.SelfSigned("mx.dane.example") // no authority knows it; signed DNS does
	record, err := dane.RecordFor(unknown.Leaf, 3, 1, 1)
	if err != nil {
		return nil, err
	}
	policy := mtasts.Policy{Mode: mtasts.Enforce, MX: []string{"mx.sts.example"}, MaxAge: 7 * 24 * time.Hour}
	id, err := mtasts.Record{ID: "1"}.Line("sts.example")
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		w.servePolicy("sts.example", policy),
		w.domain("dane.example", smtppeer.ServerConfig(unknown), true),
		w.publish(record.Line("mx.dane.example", 25)),
		w.publish(wantReports("dane.example")),
		w.domain("sts.example", ca.Config("mx.sts.example"), false),
		w.publish(id),
		w.publish(wantReports("sts.example")),
		w.domain("signed.example", ca.Config("mx.signed.example"), true),
		w.domain("plain.example", ca.Config("mx.plain.example"), false),
		w.domain("selfsigned.example", smtppeer.ServerConfig(smtppeer.SelfSigned("mx.selfsigned.example")), false),
	)
	if err == nil {
		w.resolver, err = smtp.DNS(w.dns.Addr(), &smtp.DNSOptions{TrustAD: true})
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) close() {
	for _, p := range w.hosts {
		p.Close()
	}
	for _, p := range w.attackers {
		p.Close()
	}
	if w.policies != nil {
		w.policies.Close()
	}
	if w.dns != nil {
		w.dns.Close()
	}
}

// domain starts a mail host; signed says so of its DNS.
func (w *world) domain(name string, config *tls.Config, signed bool) error {
	p, err := smtppeer.Start(smtppeer.Options{Hostname: "mx." + name, TLS: config})
	if err != nil {
		return err
	}
	ip := fmt.Sprintf("127.0.0.%d", len(w.hosts)+2)
	w.hosts[name], w.addrs[name], w.wire[ip+":25"] = p, ip+":25", p
	w.zone[name] = []string{"MX 10 mx." + name + "."}
	w.zone["mx."+name] = []string{"A " + ip}
	if signed {
		w.zone[name] = append(w.zone[name], dnspeer.Secure)
		w.zone["mx."+name] = append(w.zone["mx."+name], dnspeer.Secure)
		w.zone["_25._tcp.mx."+name] = []string{dnspeer.Secure}
	}
	return w.serveDNS()
}

// wantReports is the record with which a domain asks for TLS reports, to a mailbox of its own.
func wantReports(domain string) string {
	r := tlsrpt.Record{RUA: []tlsrpt.Destination{tlsrpt.Destination("mailto:tls-reports@" + domain)}}
	return dkim.Zone(tlsrpt.RecordName(domain), r.String())
}

// publish adds a line of a zone file.
func (w *world) publish(line string) error {
	name, data, ok := strings.Cut(line, ". IN ")
	if !ok {
		return fmt.Errorf("no line of a zone: %s", line)
	}
	w.zone[name] = append(w.zone[name], data)
	return w.serveDNS()
}

func (w *world) serveDNS() (err error) {
	if w.dns != nil {
		return w.dns.Set(w.zone)
	}
	w.dns, err = dnspeer.Start(w.zone)
	return err
}

// servePolicy is the HTTPS server at mta-sts.DOMAIN.
func (w *world) servePolicy(domain string, p mtasts.Policy) error {
	h, err := mtasts.NewHandler(map[string]mtasts.Policy{domain: p})
	if err != nil {
		return err
	}
	w.policies = httptest.NewUnstartedServer(h)
	w.policies.TLS = w.ca.Config("mta-sts." + domain)
	w.policies.StartTLS()
	return nil
}

// smtpOptions lead connections over this world's wire, and trust its authority.
func (w *world) smtpOptions() *smtp.Options {
	return &smtp.Options{
		Resolver: w.resolver, RootCAs: w.ca.Pool(),
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			w.mu.Lock()
			p := w.wire[addr]
			w.mu.Unlock()
			if p == nil {
				return nil, errors.New("no such host in this demo")
			}
			return new(net.Dialer).DialContext(ctx, network, p.Addr())
		},
	}
}

// policyClient finds the policy server here.
func (w *world) policyClient() *mtasts.ClientOptions {
	return &mtasts.ClientOptions{
		RootCAs: w.ca.Pool(), AllowPrivate: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, w.policies.Listener.Addr().String())
		},
	}
}

// intercept puts somebody where the domain's host was, and cuts the connections that are open.
func (w *world) intercept(domain string, o smtppeer.Options) (*smtppeer.Peer, error) {
	mallory, err := smtppeer.Start(o)
	if err != nil {
		return nil, err
	}
	w.attackers = append(w.attackers, mallory)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wire[w.addrs[domain]] = mallory
	w.hosts[domain].Drop()
	return mallory, nil
}

// mend leads each address to its own host again.
func (w *world) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for domain, addr := range w.addrs {
		w.wire[addr] = w.hosts[domain]
	}
	for _, p := range w.attackers {
		p.Drop()
	}
}
