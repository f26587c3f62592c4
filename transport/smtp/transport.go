package smtp

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/internal/throttle"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
)

// Transport delivers by SMTP. It is safe for concurrent use; each Deliver uses a connection of its own, kept for reuse
// afterwards. Close it when it is no longer needed.
type Transport struct {
	helo     string
	resolver *cached
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	port     uint16
	roots    *x509.CertPool
	pins     map[string]*pin
	relay    *host
	timeouts Timeouts
	steps    [4]step
	profile  Profile
	maxUses  int
	// dane is nil where the resolver can't be asked for TLSA records; tlsas are those known.
	dane  dane.Resolver
	tlsas *shelf[*tlsa]
	// sts is nil where no policy can be looked up.
	sts        *mtasts.Cache
	ratchet    Ratchet
	tlsrpt     reporter
	requireTLS RequireTLSMode
	honourNo   bool
	identity   func(*securemail.Slip) Identity
	dsn        func(*securemail.Slip) DSN
	chunking   Chunking
	// public: mail hosts must have public addresses.
	public bool
	now    func() time.Time
	log    *slog.Logger

	pool    *pool
	streams *streams
	places  *throttle.Throttle
	rates   *throttle.Throttle // nil: no rate
	grey    *shelf[putOff]
	routes  *shelf[securemail.Route]
	// classical are the hosts that did not answer a large ClientHello.
	classical *shelf[struct{}]
	flight    flight
	closed    atomic.Bool
}

var (
	_ securemail.Transport = (*Transport)(nil)
	_ securemail.Prober    = (*Transport)(nil)
)

// Close refuses further deliveries and closes the idle connections. Deliveries under way go on, and close their
// connections when they end; cancel their contexts to end them sooner. A repeat does nothing.
func (t *Transport) Close() error {
	t.closed.Store(true)
	t.pool.close()
	return nil
}

// CloseIdle closes the connections that are idle now.
func (t *Transport) CloseIdle() { t.pool.drain() }

// Deliver implements securemail.Transport: it tries the mail hosts in order until one takes the message or refuses it for
// good. Each error is a *securemail.ChannelError, or a *securemail.DeliveryError with Stage and Fate; see the package
// comment. RequireTLS needs a host that offers REQUIRETLS and whose name is proved, the MX answer too (RFC 8689 section
// 4.2.1), whatever the floor, unless Options.RequireTLS relaxes it.
func (t *Transport) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	if t.closed.Load() {
		return nil, public(fail(stageConnect, ErrClosed))
	}
	j, f := newJob(s)
	if f != nil {
		return nil, public(f)
	}
	defer j.release()
	if f := t.personal(j); f != nil {
		return nil, public(f)
	}
	ctx, cancel := within(ctx, t.timeouts.Total)
	defer cancel()
	receipt, err := t.deliver(ctx, j)
	t.report(ctx, j, receipt, err)
	return receipt, err
}

func public(f *failure) error {
	d := f.DeliveryError
	return &d
}

// deliver visits the hosts.
func (t *Transport) deliver(ctx context.Context, j *job) (*securemail.Receipt, error) {
	domain := j.Recipient.Address.Domain()
	hosts, notes, f := t.route(ctx, domain)
	if f != nil {
		return nil, public(f)
	}
	j.policies = t.policiesFor(ctx, j, domain)
	sum := &tally{reasons: j.policies.sts.notes(notes)}
	hosts = t.ordered(domain, hosts)
	receipt, err := t.round(ctx, j, hosts, sum)
	// Only a ChannelError says that nobody can have the mail.
	if err == nil || !sum.sts || !errors.Is(err, securemail.ErrChannel) || ctx.Err() != nil || !t.renewed(ctx, j, domain) {
		return receipt, err
	}
	// RFC 8461 section 5.1: the policy had changed, so what it forbade counts no more.
	return t.round(ctx, j, hosts, &tally{reasons: j.policies.sts.notes(note(sum.reasons, "sts-renewed", "the domain's MTA-STS policy has changed: once more")), attempts: sum.attempts})
}

// round visits the hosts once.
func (t *Transport) round(ctx context.Context, j *job, hosts []*host, sum *tally) (*securemail.Receipt, error) {
	for _, h := range hosts {
		receipt, f := t.visit(ctx, j, h, sum)
		if receipt != nil {
			if len(sum.reasons) > 0 {
				receipt.Reasons = append(sum.reasons, receipt.Reasons...)
			}
			return receipt, nil
		}
		if f != nil {
			f.Wire.Reasons = sum.reasons
			return nil, public(f)
		}
		if sum.attempts >= maxConnections {
			break
		}
	}
	return nil, sum.verdict()
}

// visit tries the addresses of one host. Neither receipt nor failure means: try the next host.
func (t *Transport) visit(ctx context.Context, j *job, h *host, sum *tally) (*securemail.Receipt, *failure) {
	p, addrs, f := t.prepare(ctx, j, h)
	if f != nil {
		if sum.add(f) || ctx.Err() != nil {
			return nil, f
		}
		return nil, nil
	}
	for _, a := range t.sorted(j, h, addrs) {
		sum.attempts++
		receipt, f := t.attempt(ctx, j, target{h, a, p})
		if f == nil {
			return receipt, nil
		}
		f.temporary = f.temporary || f.miss && p.terms.Temporary
		if sum.add(f) || ctx.Err() != nil && !f.miss {
			return nil, f
		}
		if sum.attempts >= maxConnections {
			break
		}
	}
	return nil, nil
}

// prepare finds h's addresses, and what it must give. DANE needs to know how the addresses were found; a relay that can't do
// is not even looked up.
func (t *Transport) prepare(ctx context.Context, j *job, h *host) (*plan, []netip.Addr, *failure) {
	if h.relay != nil {
		p := t.planFor(ctx, j, h, AddrSet{})
		if f := p.refused(h); f != nil {
			return nil, nil, f
		}
		set, f := t.addresses(ctx, h, "")
		return p, set.Addrs, f
	}
	set, f := t.addresses(ctx, h, h.nextHop)
	if f != nil {
		return nil, nil, f
	}
	p := t.planFor(ctx, j, h, set)
	if f = p.refused(h); f != nil && j.Message != nil {
		t.tellRefused(ctx, h.nextHop, h, p)
	}
	return p, set.Addrs, f
}

// attempt delivers to one address, as far as its limits allow.
func (t *Transport) attempt(ctx context.Context, j *job, g target) (*securemail.Receipt, *failure) {
	me, ok := j.selfFor(g)
	if !ok {
		return nil, noSource(g)
	}
	if f := t.pace(ctx, g.addr); f != nil {
		return nil, f
	}
	receipt, f := t.reach(ctx, j, g, g.key(me))
	if f != nil {
		f.sent = f.sent || j.sent
	}
	t.learn(j, g, f)
	return receipt, f
}

// reach uses a connection that streams, or else one of its own.
func (t *Transport) reach(ctx context.Context, j *job, g target, key key) (_ *securemail.Receipt, f *failure) {
	if t.streams != nil {
		if receipt, f, done := t.streamed(ctx, j, g, key); done {
			return receipt, f
		}
	}
	release, f := t.space(ctx, g.addr)
	if f != nil {
		return nil, f
	}
	defer func() { release(verdict(ctx, f)) }()
	return t.single(ctx, j, g, key)
}

// single delivers over an idle connection if there is one that still lives, else over a new one.
func (t *Transport) single(ctx context.Context, j *job, g target, key key) (*securemail.Receipt, *failure) {
	if c := t.pool.take(key, j.Recipient.Address.Domain()); c != nil {
		receipt, f := t.carry(ctx, j, c, g.plan)
		// RFC 5321 section 3.8 lets a server close at any time with 421: once more, on a fresh connection. A delivery whose
		// final dot is out is never stale.
		if f == nil || !f.stale {
			return receipt, f
		}
	}
	c, f := t.open(ctx, j, g, key.me)
	if f != nil {
		return nil, f
	}
	c.key = key
	return t.carry(ctx, j, c, g.plan)
}

// carry runs one transaction on c, which it keeps or closes.
func (t *Transport) carry(ctx context.Context, j *job, c *conn, p *plan) (*securemail.Receipt, *failure) {
	stop := c.attend(ctx)
	receipt, f := t.send(ctx, j, c, p)
	// If stop is false, the context ended and c's deadlines are void.
	if !stop() || c.broken || c.spent(t.maxUses) || !t.pool.put(c) {
		c.quit()
	}
	return receipt, f
}

func (t *Transport) send(ctx context.Context, j *job, c *conn, p *plan) (*securemail.Receipt, *failure) {
	w, f := t.admit(j, c, p)
	if f != nil {
		// A kept connection may have outlived its certificate or its agreement: a fresh one shows what there is now.
		c.broken, f.stale = true, c.uses > 0
		return nil, f
	}
	id, f := t.transact(ctx, j, c)
	if f != nil {
		f.Wire = w
		return nil, f
	}
	return t.receipt(j, c, w, id), nil
}

func (t *Transport) receipt(j *job, c *conn, w securemail.Wire, id string) *securemail.Receipt {
	if quotes(id, j.Recipient.Address) {
		id = ""
	}
	return &securemail.Receipt{Wire: w, Time: t.now(), Peer: c.host.name, RemoteID: id}
}

// report logs one delivery, without addresses and texts.
func (t *Transport) report(ctx context.Context, j *job, r *securemail.Receipt, err error) {
	if r != nil {
		t.log.LogAttrs(ctx, slog.LevelDebug, "smtp: delivered",
			slog.String("parcel", string(j.ID)), slog.String("peer", r.Peer), slog.Bool("tls", r.TLS != nil), slog.String("proof", string(r.Proof)))
		return
	}
	level := slog.LevelInfo
	if errors.Is(err, ErrInjected) {
		level = slog.LevelWarn
	}
	t.log.LogAttrs(ctx, level, "smtp: not delivered", slog.String("parcel", string(j.ID)), slog.String("error", err.Error()))
}
