package smtp

import (
	"context"
	"hash/fnv"
	"net"
	"net/netip"
)

// Identity is who a delivery says that it is. Deliveries of different identities never share a connection.
type Identity struct {
	// HELO is the name given at EHLO; "" is Options.HELO.
	HELO string
	// Sources are the local addresses to connect from. A mail host's address of a family that has no source is left out. With
	// several of one family each recipient domain keeps its own, so that a greylisting host sees the same one again. Empty
	// leaves the choice to the system. A Dial of the host program's own finds the address with [Source].
	Sources []netip.Addr
}

// sourceKey is where a dialling context keeps the local address.
type sourceKey struct{}

// Source returns the local address that the [Identity] of the delivery asks for; it is for Options.Dial.
func Source(ctx context.Context) (netip.Addr, bool) {
	a, ok := ctx.Value(sourceKey{}).(netip.Addr)
	return a, ok
}

// self is an Identity made ready for one target.
type self struct {
	helo   string
	source netip.Addr
}

// personal asks the host program what is its own of this delivery. An answer that can't stand in a command is its fault,
// and no mail.
func (t *Transport) personal(j *job) *failure {
	j.me.HELO = t.helo
	if t.identity != nil {
		me := t.identity(&j.Slip)
		if me.HELO == "" {
			me.HELO = t.helo
		} else if !validHELO(me.HELO) {
			return fail(stageConnect, errIdentity)
		}
		j.me = me
	}
	if t.dsn != nil {
		if j.dsn = t.dsn(&j.Slip); !j.dsn.valid() {
			return fail(stageMail, errDSN)
		}
	}
	return nil
}

// noSource is an address that the identity can't reach.
func noSource(g target) *failure {
	f := hostFail(stageConnect, errNoSource)
	f.Enhanced = "4.4.4"
	f.Wire.Reasons = note(nil, "source-family", g.name+": the identity has no source address of this family")
	return f
}

// selfFor picks the source for g; false: there is none of its family.
func (j *job) selfFor(g target) (self, bool) {
	me := self{helo: j.me.HELO}
	if len(j.me.Sources) == 0 {
		return me, true
	}
	var fit []netip.Addr
	for _, a := range j.me.Sources {
		if a = a.Unmap(); a.Is4() == g.addr.Unmap().Is4() {
			fit = append(fit, a)
		}
	}
	if len(fit) == 0 {
		return me, false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(j.Recipient.Address.Domain()))
	me.source = fit[int(h.Sum32()%uint32(len(fit)))]
	return me, true
}

// from gives a dialler the source.
func (me self) from(ctx context.Context) context.Context {
	if !me.source.IsValid() {
		return ctx
	}
	return context.WithValue(ctx, sourceKey{}, me.source)
}

// dialFrom is the Dial of nil Options.
func dialFrom(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if a, ok := Source(ctx); ok {
		d.LocalAddr = &net.TCPAddr{IP: a.AsSlice(), Zone: a.Zone()}
	}
	return d.DialContext(ctx, network, addr)
}
