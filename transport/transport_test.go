package transport_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// way is a Transport that does as it is told.
type way struct {
	intend bool
	err    error
	calls  int
}

func (w *way) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	w.calls++
	if w.intend {
		if err := s.Intend(ctx); err != nil {
			return nil, &securemail.DeliveryError{Stage: "data", Err: err}
		}
	}
	if w.err != nil {
		return nil, w.err
	}
	return &securemail.Receipt{Peer: "ok", Time: time.Unix(1, 0)}, nil
}

type prober struct{ way }

func (*prober) Probe(context.Context, string, string) (securemail.Route, error) {
	return securemail.Route{Known: true}, nil
}

func to(t *testing.T, s string) *securemail.Shipment {
	a, err := securemail.ParseAddress(s)
	require.NoError(t, err)
	return &securemail.Shipment{Parcel: &securemail.Parcel{Slip: securemail.Slip{Recipient: securemail.Contact{Address: a}}}}
}

func TestByDomain(t *testing.T) {
	exact, below, deep, other := &prober{}, &way{}, &way{}, &way{}
	r, err := transport.ByDomain(map[string]securemail.Transport{
		"example.org": exact, "*.example.org": below, "*.deep.example.org": deep,
	}, other)
	require.NoError(t, err)
	for addr, n := range map[string]*int{
		"a@example.org": &exact.calls, "a@x.example.org": &below.calls, "a@x.y.example.org": &below.calls,
		"a@x.deep.example.org": &deep.calls, "a@example.com": &other.calls, "a@badexample.org": &other.calls, "a@org": &other.calls,
	} {
		before := *n
		_, err := r.Deliver(t.Context(), to(t, addr))
		require.NoError(t, err)
		require.Equal(t, before+1, *n, addr)
	}
	route, err := r.Probe(t.Context(), "", "example.org")
	require.NoError(t, err)
	require.True(t, route.Known)
	route, err = r.Probe(t.Context(), "", "example.com")
	require.NoError(t, err)
	require.False(t, route.Known)

	r, err = transport.ByDomain(nil, nil)
	require.NoError(t, err)
	_, err = r.Deliver(t.Context(), to(t, "canary@example.org"))
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	require.True(t, ok)
	require.Equal(t, securemail.FateRetry, de.Fate)
	require.NotContains(t, err.Error(), "example")
	route, err = r.Probe(t.Context(), "", "example.org")
	require.NoError(t, err)
	require.False(t, route.Known)

	for _, bad := range []string{"", "*.", "Example.org", "a.*.org"} {
		_, err = transport.ByDomain(map[string]securemail.Transport{bad: other}, nil)
		require.Error(t, err, bad)
	}
	_, err = transport.ByDomain(map[string]securemail.Transport{"a.org": nil}, nil)
	require.Error(t, err)
}

func TestFailover(t *testing.T) {
	retry := &securemail.DeliveryError{Stage: "connect"}
	permanent := &securemail.DeliveryError{Stage: "rcpt", Fate: securemail.FatePermanent}
	uncertain := &securemail.DeliveryError{Stage: "dot", Fate: securemail.FateUncertain}
	missed := &securemail.ChannelError{Wire: securemail.Wire{Reasons: []securemail.Reason{{Rule: "a"}}}}
	plain := errors.New("plain")
	cases := map[string]struct {
		first  way
		second int // calls
	}{
		"receipt":             {way{intend: true}, 0},
		"retry":               {way{err: retry}, 1},
		"retry after Intend":  {way{intend: true, err: retry}, 1},
		"permanent":           {way{err: permanent}, 0},
		"uncertain":           {way{intend: true, err: uncertain}, 0},
		"floor":               {way{err: missed}, 1},
		"floor, plainly":      {way{err: securemail.ErrChannel}, 1},
		"plain":               {way{err: plain}, 1},
		"plain, after Intend": {way{intend: true, err: plain}, 0},
		"floor, after Intend": {way{intend: true, err: missed}, 0},
		"held":                {way{err: securemail.ErrHold}, 0},
		"uncertain, wrapped":  {way{intend: true, err: errors.Join(retry, fmt.Errorf("wrapped: %w", uncertain))}, 0},
	}
	for name, c := range cases {
		second := &way{}
		_, err := transport.Failover(&c.first, second).Deliver(t.Context(), to(t, "a@x.test"))
		require.Equal(t, c.second, second.calls, name)
		require.Equal(t, c.second == 0 && c.first.err != nil, err != nil, name)
	}

	t.Run("Intend fails", func(t *testing.T) {
		s := to(t, "a@x.test")
		s.OnIntend = func(context.Context) error { return securemail.ErrLease }
		second := &way{intend: true}
		_, err := transport.Failover(&way{intend: true}, second).Deliver(t.Context(), s)
		require.ErrorIs(t, err, securemail.ErrLease)
		require.Zero(t, second.calls)
	})
	t.Run("context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		second := &way{}
		_, err := transport.Failover(&way{err: retry}, second).Deliver(ctx, to(t, "a@x.test"))
		require.Error(t, err)
		require.Zero(t, second.calls)
	})
	t.Run("all fail", func(t *testing.T) {
		_, err := transport.Failover(&way{err: retry}, &way{err: plain}).Deliver(t.Context(), to(t, "a@x.test"))
		require.Equal(t, plain, err)
		other := &securemail.ChannelError{Wire: securemail.Wire{Reasons: []securemail.Reason{{Rule: "b"}}}}
		_, err = transport.Failover(&way{err: missed}, &way{err: other}).Deliver(t.Context(), to(t, "a@x.test"))
		ce, ok := errors.AsType[*securemail.ChannelError](err)
		require.True(t, ok)
		require.False(t, ce.Temporary)
		require.Equal(t, []securemail.Reason{{Rule: "a"}, {Rule: "b"}}, ce.Wire.Reasons)
		require.Len(t, missed.Wire.Reasons, 1)
		_, err = transport.Failover(&way{err: missed}, &way{err: retry}).Deliver(t.Context(), to(t, "a@x.test"))
		ce, ok = errors.AsType[*securemail.ChannelError](err)
		require.True(t, ok)
		require.True(t, ce.Temporary)
	})
}
