package transport

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/postseal/postseal/securemail"
)

type failover []securemail.Transport

// Failover makes a Transport that tries first and then each of rest in order. It goes on only where surely nothing was
// accepted: after ErrChannel, FateRetry, or another error before Shipment.Intend. A receipt, FatePermanent, ErrHold, an
// uncertain end, an error of Intend and the end of ctx are final. If all fail and one missed the floor, the error Is ErrChannel and
// holds all reasons, and is temporary if any way may do better later; else it is the last one's.
func Failover(first securemail.Transport, rest ...securemail.Transport) securemail.Transport {
	return append(failover{first}, rest...)
}

// Deliver implements securemail.Transport.
func (f failover) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	var missed *securemail.ChannelError
	var last error
	for _, t := range f {
		watched, intent := watch(s)
		r, err := t.Deliver(ctx, watched)
		if err == nil {
			return r, nil
		}
		if final(err, intent) {
			return nil, err
		}
		if ce, ok := errors.AsType[*securemail.ChannelError](err); ok {
			missed = join(missed, ce)
			continue
		}
		if errors.Is(err, securemail.ErrChannel) {
			missed = join(missed, &securemail.ChannelError{})
			continue
		}
		last = err
		if ctx.Err() != nil || !again(err, intent) {
			return nil, err
		}
	}
	if missed == nil {
		return nil, last
	}
	missed.Temporary = missed.Temporary || last != nil
	return nil, missed
}

// intent is what became of one Transport's call of Intend.
type intent struct{ called, failed atomic.Bool }

// watch copies s so that its Intend is seen.
func watch(s *securemail.Shipment) (*securemail.Shipment, *intent) {
	seen := &intent{}
	c := *s
	c.OnIntend = func(ctx context.Context) error {
		seen.called.Store(true)
		err := s.Intend(ctx)
		if err != nil {
			seen.failed.Store(true)
		}
		return err
	}
	return &c, seen
}

// final says that no other way may be tried whatever else the error says: the far end may have accepted, or a person must
// look.
func final(err error, seen *intent) bool {
	return uncertain(err) || errors.Is(err, securemail.ErrHold) || errors.Is(err, securemail.ErrChannel) && seen.called.Load()
}

// uncertain says whether any error in err's tree is a delivery of which nobody knows.
func uncertain(err error) bool {
	if de, ok := err.(*securemail.DeliveryError); ok && de != nil && de.Fate != securemail.FateRetry && de.Fate != securemail.FatePermanent {
		return true
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		return uncertain(u.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(u.Unwrap(), uncertain)
	}
	return false
}

// again says that surely nothing was accepted, so that another way may be tried.
func again(err error, seen *intent) bool {
	if seen.failed.Load() {
		return false
	}
	if de, ok := errors.AsType[*securemail.DeliveryError](err); ok {
		return de.Fate == securemail.FateRetry
	}
	return !seen.called.Load()
}

func join(a, b *securemail.ChannelError) *securemail.ChannelError {
	if a == nil {
		c := *b
		return &c
	}
	w := b.Wire
	w.Reasons = append(a.Wire.Reasons[:len(a.Wire.Reasons):len(a.Wire.Reasons)], b.Wire.Reasons...)
	return &securemail.ChannelError{Temporary: a.Temporary || b.Temporary, Wire: w}
}
