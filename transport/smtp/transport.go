package smtp

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Transport delivers by SMTP. It is safe for concurrent use; each Deliver uses a connection of its own, kept for reuse
// afterwards. Close it when it is no longer needed.
type Transport struct {
	helo     string
	resolver Resolver
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	port     uint16
	roots    *x509.CertPool
	pins     map[string]*pin
	relay    *host
	timeouts Timeouts
	steps    [4]step
	profile  Profile
	maxUses  int
	identity func(*securemail.Slip) Identity
	dsn      func(*securemail.Slip) DSN
	chunking Chunking
	// public: mail hosts must have public addresses.
	public bool
	now    func() time.Time
	log    *slog.Logger

	pool   *pool
	routes *shelf[securemail.Route]
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
// comment. RequireTLS needs a host that offers REQUIRETLS (RFC 8689 section 4.2.1) and a proved name, whatever the floor.
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
	ctx, cancel := context.WithTimeout(ctx, t.timeouts.Total)
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
	if f := t.vouched(j); f != nil {
		sum := tally{}
		sum.add(f)
		return nil, sum.verdict()
	}
	domain := j.Recipient.Address.Domain()
	hosts, notes, f := t.route(ctx, domain)
	if f != nil {
		return nil, public(f)
	}
	sum := tally{reasons: notes}
	for _, h := range hosts {
		receipt, f := t.visit(ctx, j, h, &sum)
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
	addrs, f := t.addresses(ctx, h, j.Recipient.Address.Domain())
	if f != nil {
		if sum.add(f) || ctx.Err() != nil {
			return nil, f
		}
		return nil, nil
	}
	for _, a := range addrs {
		sum.attempts++
		receipt, f := t.attempt(ctx, j, target{h, a})
		if f == nil {
			return receipt, nil
		}
		if sum.add(f) || ctx.Err() != nil && !f.miss {
			return nil, f
		}
		if sum.attempts >= maxConnections {
			break
		}
	}
	return nil, nil
}

// vouched refuses at once what no connection could mend: a relay nobody vouches for.
func (t *Transport) vouched(j *job) *failure {
	if t.relay == nil || j.floor == securemail.ChannelAny {
		return nil
	}
	w, ok := t.hop(t.relay)
	if ok {
		return nil
	}
	return miss(w, hopRule(t.relay), "nobody vouches now for the road beyond the relay")
}

// attempt delivers to one address: over an idle connection if there is one that still lives, else over a new one.
func (t *Transport) attempt(ctx context.Context, j *job, g target) (*securemail.Receipt, *failure) {
	me, ok := j.selfFor(g)
	if !ok {
		return nil, noSource(g)
	}
	key := t.key(j, g, me)
	if c := t.pool.take(key, j.Recipient.Address.Domain()); c != nil {
		receipt, f := t.carry(ctx, j, c)
		// RFC 5321 section 3.8 lets a server close at any time with 421: once more, on a fresh connection. A delivery whose
		// final dot is out is never stale.
		if f == nil || !f.stale {
			return receipt, f
		}
	}
	c, f := t.open(ctx, j, g, me)
	if f != nil {
		return nil, f
	}
	c.key = key
	return t.carry(ctx, j, c)
}

// carry runs one transaction on c, which it keeps or closes.
func (t *Transport) carry(ctx context.Context, j *job, c *conn) (*securemail.Receipt, *failure) {
	stop := c.attend(ctx)
	receipt, f := t.send(ctx, j, c)
	// If stop is false, the context ended and c's deadlines are void.
	if !stop() || c.broken || c.spent(t.maxUses) || !t.pool.put(c) {
		c.quit()
	}
	return receipt, f
}

func (t *Transport) send(ctx context.Context, j *job, c *conn) (*securemail.Receipt, *failure) {
	w, f := t.admit(j, c)
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
	if quotes(id, j.Recipient.Address) {
		id = ""
	}
	return &securemail.Receipt{Wire: w, Time: t.now(), Peer: c.host.name, RemoteID: id}, nil
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
