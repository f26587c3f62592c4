package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// hosts are the five mail hosts and the DNS that leads to them.
type hosts struct {
	dns   *dnspeer.Peer
	peers map[string]*smtppeer.Peer // by domain
	byIP  map[string]*smtppeer.Peer
	roots *x509.CertPool
}

// startHosts gives each domain a mail host of its own behind an address of its own; the Transport's Dial leads there.
func startHosts() (*hosts, error) {
	ca := smtppeer.NewCA()
	kinds := []struct {
		domain string
		tls    *tls.Config
		strip  bool
	}{
		{"verified.example", ca.Config("mx.verified.example"), false},
		{"old.example", smtppeer.TLS10(ca.Cert("mx.old.example")), false},
		{"selfsigned.example", smtppeer.ServerConfig(smtppeer.SelfSigned("mx.selfsigned.example")), false},
		{"clear.example", nil, false},
		{"strip.example", ca.Config("mx.strip.example"), true},
	}
	h := &hosts{peers: make(map[string]*smtppeer.Peer), byIP: make(map[string]*smtppeer.Peer), roots: ca.Pool()}
	zone := dnspeer.Zone{}
	for i, k := range kinds {
		p, err := smtppeer.Start(smtppeer.Options{Hostname: "mx." + k.domain, TLS: k.tls, StripTLS: k.strip})
		if err != nil {
			h.close()
			return nil, err
		}
		ip := fmt.Sprintf("127.0.0.%d", i+2)
		h.peers[k.domain], h.byIP[ip+":25"] = p, p
		zone[k.domain] = []string{"MX 10 mx." + k.domain + "."}
		zone["mx."+k.domain] = []string{"A " + ip}
	}
	dns, err := dnspeer.Start(zone)
	if err != nil {
		h.close()
		return nil, err
	}
	h.dns = dns
	return h, nil
}

func (h *hosts) close() {
	for _, p := range h.peers {
		p.Close()
	}
	if h.dns != nil {
		h.dns.Close()
	}
}

func (h *hosts) smtpOptions() *smtp.Options {
	resolver, err := smtp.DNS(h.dns.Addr(), nil)
	if err != nil {
		panic(err) // the address is our own
	}
	var d net.Dialer
	return &smtp.Options{
		HELO: "mail.clinic.example", Resolver: resolver, RootCAs: h.roots,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			p := h.byIP[addr]
			if p == nil {
				return nil, errors.New("no such host in this demo")
			}
			return d.DialContext(ctx, network, p.Addr())
		},
	}
}

func pinned(a securemail.Address, k securemail.Key) keys.Pinned {
	return keys.Pinned{Address: a, Key: k}
}

// web is the clinic's web server, which shows the pick-up pages.
type web struct {
	url string
	l   net.Listener
	srv *http.Server
}

func startWeb() (*web, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &web{url: "http://" + l.Addr().String(), l: l}, nil
}

func (w *web) serve(h http.Handler) {
	w.srv = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = w.srv.Serve(w.l) }() // ends with close
}

func (w *web) close() {
	if w.srv != nil {
		_ = w.srv.Close()
	}
	_ = w.l.Close()
}
