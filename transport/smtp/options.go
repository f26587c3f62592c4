package smtp

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// Options are the options of [New]; nil and zero fields mean the defaults.
type Options struct {
	// HELO is the name given at EHLO; it should resolve to this machine. "" is the system's host name if it has a dot,
	// else the connection's own address as a literal (RFC 5321 section 4.1.1.1).
	HELO string
	// Identity, where not nil, says who a delivery is: its EHLO name and local address, by tenant or stream.
	Identity func(*securemail.Slip) Identity
	// DSN, where not nil, says how far ends are to report on the mail (RFC 3461). RET=HDRS and ENVID are sent wherever DSN is
	// offered.
	DSN func(*securemail.Slip) DSN
	// Chunking says when BDAT is used.
	Chunking Chunking
	// Limits bound what one address of a mail host gets.
	Limits Limits
	// Stream, where not nil, lets messages follow each other on a connection without waiting for answers.
	Stream *Stream
	// Resolver finds mail hosts; nil is Go's own, which knows nothing of DNSSEC. [DNS] makes others.
	Resolver Resolver
	// Dial opens connections; nil is a plain net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Port is where mail hosts listen; 0 is 25.
	Port uint16
	// RootCAs are the authorities that PKIX trusts; nil are the system's.
	RootCAs *x509.CertPool
	// AllowPrivate lets the mail hosts that DNS names be on loopback, private and other special addresses (RFC 6890), as a
	// network of one's own may want; otherwise a stranger's MX record can't make this machine speak to its neighbours. With
	// Dial, a Port other than 25 or a Resolver of its own (not by [DNS]) the host program says itself where mail goes, and
	// nothing is refused. A Relay may be anywhere.
	AllowPrivate bool
	// Pins say what is known of a domain's mail hosts; keys are domains in lower case A-labels.
	Pins map[string]Pin
	// Profile is what TLS must be made of; the zero value is NIST80052r2.
	Profile Profile
	// STS knows the MTA-STS policies of domains (RFC 8461). Nil is a cache in memory, if the Resolver has LookupTXT, as Go's own
	// and [DNSClient] have; then policies are forgotten with the process, and a host program that lasts should give one that is
	// not. A first look may take a minute.
	STS *mtasts.Cache
	// TLSRPT, where set, gets the outcome of each session with a mail host under each policy of the domain that it was opened
	// for, as *tlsrpt.Collector takes it (RFC 8460).
	TLSRPT interface {
		Add(ctx context.Context, r tlsrpt.Result)
	}
	// Ratchet, where set, raises floors that ask for TLS to what the domain must give.
	Ratchet Ratchet
	// RequireTLS is how far a shipment's RequireTLS goes; the zero value is RFC 8689.
	RequireTLS RequireTLSMode
	// HonourTLSRequiredNo lets a message whose header says "TLS-Required: No" (RFC 8689 section 5) go where published policies
	// and the ratchet would not let it, with ChannelAny and without RequireTLS. It is for reports about broken TLS.
	HonourTLSRequiredNo bool
	// Relay, where set, takes all mail; MX records are not asked for.
	Relay *Relay
	// Timeouts are those of RFC 5321 section 4.5.3.2 where zero.
	Timeouts Timeouts
	// MaxIdle bounds the idle connections kept for reuse, MaxIdlePerHost those to one address; 0 are 64 and 20. A negative
	// MaxIdle keeps none.
	MaxIdle, MaxIdlePerHost int
	// IdleTimeout is how long an idle connection is kept; 0 is 30 s.
	IdleTimeout time.Duration
	// MaxUses is how many messages one connection carries; 0 is 100.
	MaxUses int
	// Now is the clock of receipts, certificates and agreements; nil is time.Now. I/O deadlines use time.Now.
	Now func() time.Time
	// Logger gets peers, stages, codes and rules, never content or addresses; nil discards.
	Logger *slog.Logger
}

// Pin is what the host program knows of a domain's mail hosts. A host that satisfies it is Verified ("configured"); one
// that does not carries nothing above ChannelAny.
type Pin struct {
	// Hosts are the names that the domain's MX records may have; "*.example.org" stands for one label. A certificate of
	// that name must pass PKIX, unless SPKI is set. Empty allows any host.
	Hosts []string
	// SPKI are the SHA-256 hashes of the SubjectPublicKeyInfo that a host's own certificate may have. A match is the proof:
	// neither chain nor name nor dates are checked then.
	SPKI [][32]byte
}

// Relay is a smart host.
type Relay struct {
	// Addr is host:port. The host is the reference name of its certificate.
	Addr string
	// ImplicitTLS starts TLS at once (RFC 8314 section 3.3), as on port 465; otherwise STARTTLS is used.
	ImplicitTLS bool
	// User and Password, where User is set, are given by PLAIN or LOGIN, and only to a peer that proved its name over TLS.
	User     string
	Password securemail.Secret
	// SASL, where set, makes the client of another mechanism, in place of User and Password; asked once a connection.
	SASL func(ctx context.Context) (sasl.Client, error)
	// InsecureLoopbackAuth gives credentials without TLS too, to a peer on a loopback address.
	InsecureLoopbackAuth bool
	// SPKI pins the relay's own certificate, as in Pin.
	SPKI [][32]byte
	// Operator vouches for the road beyond the relay (HopAsserted) while its agreement lasts, a zero Until does not end, and
	// for mail whose Purpose is among its Uses, all where there are none. Otherwise, and where it is nil, nobody vouches
	// (HopRelay), and no floor above ChannelAny is met.
	Operator *securemail.Operator
}

// Timeouts bound each wait for the far end. Zero fields are the defaults, which RFC 5321 section 4.5.3.2 asks for where it
// names one. Each also ends with the context.
type Timeouts struct {
	// Total bounds one Deliver or Probe with all its hosts; 0 is 1 h. A far end that takes an octet now and then would hold
	// a delivery for days otherwise.
	Total time.Duration
	// Resolve bounds the look-ups of one name, Connect one TCP connection, Handshake TLS; 0 are 30 s, 30 s and 1 min.
	Resolve, Connect, Handshake time.Duration
	// Hello is how long a far end may take to answer a ClientHello with post-quantum groups, which some networks drop; then a
	// second connection offers classical groups, with the same profile and floor. 0 is 10 s.
	Hello time.Duration
	// Greeting (0 is 5 min), EHLO (5 min; also STARTTLS, AUTH, RSET), Mail (5 min), Rcpt (5 min), DataInit (2 min), DataBlock
	// (3 min, each 32 KiB) and Dot (10 min) are the waits of the session.
	Greeting, EHLO, Mail, Rcpt, DataInit, DataBlock, Dot time.Duration
}

func (t Timeouts) filled() Timeouts {
	t.Total = orElse(t.Total, time.Hour)
	t.Resolve = orElse(t.Resolve, 30*time.Second)
	t.Connect = orElse(t.Connect, 30*time.Second)
	t.Handshake = orElse(t.Handshake, time.Minute)
	t.Hello = orElse(t.Hello, 10*time.Second)
	t.Greeting = orElse(t.Greeting, 5*time.Minute)
	t.EHLO = orElse(t.EHLO, 5*time.Minute)
	t.Mail = orElse(t.Mail, 5*time.Minute)
	t.Rcpt = orElse(t.Rcpt, 5*time.Minute)
	t.DataInit = orElse(t.DataInit, 2*time.Minute)
	t.DataBlock = orElse(t.DataBlock, 3*time.Minute)
	t.Dot = orElse(t.Dot, 10*time.Minute)
	return t
}

func (t Timeouts) check() error {
	for _, d := range []time.Duration{
		t.Total, t.Resolve, t.Connect, t.Handshake, t.Hello, t.Greeting, t.EHLO, t.Mail, t.Rcpt, t.DataInit, t.DataBlock, t.Dot,
	} {
		if d < 0 {
			return errors.New("smtp: options: a timeout is negative")
		}
	}
	return nil
}

// New makes a Transport. It checks all options at once and answers nil with every fault joined.
func New(o *Options) (*Transport, error) {
	if o == nil {
		o = &Options{}
	}
	t := &Transport{
		helo: o.HELO, dial: o.Dial, port: o.Port, roots: o.RootCAs, timeouts: o.Timeouts.filled(), now: o.Now, log: o.Logger,
		maxUses: orElse(o.MaxUses, 100), pins: map[string]*pin{}, identity: o.Identity, dsn: o.DSN, chunking: o.Chunking,
	}
	t.steps = newSteps(t.timeouts)
	t.defaults()
	errs := []error{o.Timeouts.check(), t.setRelay(o.Relay), t.setPins(o.Pins)}
	if t.helo != "" && !validHELO(t.helo) {
		errs = append(errs, errors.New("smtp: options: HELO must be a host name or an address literal"))
	}
	if o.MaxUses < 0 || o.MaxIdlePerHost < 0 || o.IdleTimeout < 0 {
		errs = append(errs, errors.New("smtp: options: MaxUses, MaxIdlePerHost and IdleTimeout can't be negative"))
	}
	errs = append(errs, t.setLimits(o.Limits))
	if s := o.Stream; s != nil && (s.Window < 0 || s.Connections < 0 || s.MaxUses < 0) {
		errs = append(errs, errors.New("smtp: options: Stream's limits can't be negative"))
	}
	if o.Chunking > ChunkingNever {
		errs = append(errs, errors.New("smtp: options: unknown Chunking"))
	}
	if o.Profile > Strict || o.RequireTLS > RequireTLSOffered {
		errs = append(errs, errors.New("smtp: options: unknown Profile or RequireTLS"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r := o.Resolver
	if r == nil {
		r = system{r: net.DefaultResolver, search: t.relay != nil}
	}
	_, ours := r.(*DNSClient)
	t.public = !o.AllowPrivate && o.Dial == nil && t.port == 25 && (ours || o.Resolver == nil)
	t.resolver = newCached(r, t.now)
	if err := t.setSTS(o, r); err != nil {
		return nil, err
	}
	t.dane, _ = r.(dane.Resolver)
	t.tlsas = newShelf[*tlsa](maxTLSA, t.now)
	t.tlsrpt = o.TLSRPT
	t.ratchet, t.requireTLS, t.honourNo = o.Ratchet, o.RequireTLS, o.HonourTLSRequiredNo
	t.profile, t.classical = o.Profile, newShelf[struct{}](maxClassical, t.now)
	if o.Stream != nil {
		t.streams = newStreams(t, o.Stream)
	}
	t.grey = newShelf[putOff](maxShelf, t.now)
	t.routes = newShelf[securemail.Route](maxShelf, t.now)
	t.pool = newPool(orElse(o.MaxIdle, 64), orElse(o.MaxIdlePerHost, 20), orElse(o.IdleTimeout, 30*time.Second))
	return t, nil
}

func (t *Transport) defaults() {
	if t.dial == nil {
		t.dial = dialFrom
	}
	if t.port == 0 {
		t.port = 25
	}
	if t.now == nil {
		t.now = time.Now
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if name, err := os.Hostname(); t.helo == "" && err == nil && strings.Contains(name, ".") && validHELO(name) {
		t.helo = name
	}
}

func (t *Transport) setRelay(r *Relay) error {
	if r == nil {
		return nil
	}
	name, service, err := net.SplitHostPort(r.Addr)
	if err != nil || strings.TrimSuffix(name, ".") == "" {
		return errors.New("smtp: options: relay must be host:port")
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return errors.New("smtp: options: relay's port must be a number")
	}
	if o := r.Operator; o != nil && (o.Name == "" || o.Agreement == "") {
		return errors.New("smtp: options: relay's operator needs a name and an agreement")
	}
	if r.User != "" && r.SASL != nil {
		return errors.New("smtp: options: relay has both a user and a SASL client")
	}
	c := *r
	t.relay = &host{name: strings.ToLower(strings.TrimSuffix(name, ".")), port: uint16(port), relay: &c}
	if len(r.SPKI) > 0 {
		t.relay.pin = newPin(Pin{SPKI: r.SPKI})
	}
	return nil
}

func (t *Transport) setPins(pins map[string]Pin) error {
	var errs []error
	for domain, p := range pins {
		if domain == "" || domain != strings.ToLower(domain) || len(p.Hosts)+len(p.SPKI) == 0 {
			errs = append(errs, fmt.Errorf("smtp: options: pin of %q needs a lower-case domain, and hosts or keys", domain))
			continue
		}
		t.pins[domain] = newPin(p)
	}
	return errors.Join(errs...)
}

// pin is a Pin made ready; id names what it demands.
type pin struct {
	hosts []string
	spki  [][32]byte
	id    string
}

func newPin(p Pin) *pin {
	out := &pin{spki: slices.Clone(p.SPKI)}
	for _, h := range p.Hosts {
		out.hosts = append(out.hosts, strings.ToLower(strings.TrimSuffix(h, ".")))
	}
	slices.Sort(out.hosts)
	parts := slices.Clone(out.hosts)
	for _, k := range out.spki {
		parts = append(parts, hex.EncodeToString(k[:]))
	}
	out.id = strings.Join(parts, " ")
	return out
}

// allows says whether name may be a mail host of the domain.
func (p *pin) allows(name string) bool {
	if len(p.hosts) == 0 {
		return true
	}
	_, parent, _ := strings.Cut(name, ".")
	return slices.ContainsFunc(p.hosts, func(h string) bool {
		wild, ok := strings.CutPrefix(h, "*.")
		return h == name || ok && wild == parent
	})
}

// validHELO accepts what can stand in a command: a host name or an address literal (RFC 5321 section 4.1.3).
func validHELO(s string) bool {
	if len(s) > 255 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._[]:", r)
		return !ok
	})
}
