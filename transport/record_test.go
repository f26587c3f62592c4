package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

func record(t testing.TB, inner securemail.Transport, f transport.RecorderFunc) *transport.Recording {
	r, err := transport.Record(inner, f, nil)
	require.NoError(t, err)
	return r
}

func nothing(context.Context, transport.Outcome) {}

func TestRecordResults(t *testing.T) {
	wire := securemail.Wire{Proof: securemail.ProofDANE, Reasons: []securemail.Reason{{Rule: "r"}}}
	failed := func(f securemail.Fate) error {
		return &securemail.DeliveryError{Stage: "dot", Code: 451, Enhanced: "4.3.0", Fate: f, RetryAfter: time.Minute, Remote: "canary", Wire: wire}
	}
	for name, c := range map[string]struct {
		way  way
		want transport.Outcome
	}{
		"receipt":             {way{intend: true}, transport.Outcome{Result: transport.Delivered, Peer: "ok", Intended: true}},
		"retry":               {way{err: failed(securemail.FateRetry)}, transport.Outcome{Result: transport.Retry}},
		"permanent":           {way{err: failed(securemail.FatePermanent)}, transport.Outcome{Result: transport.Permanent}},
		"uncertain":           {way{intend: true, err: failed(securemail.FateUncertain)}, transport.Outcome{Result: transport.Uncertain, Intended: true}},
		"strange fate":        {way{err: failed(9)}, transport.Outcome{Result: transport.Uncertain}},
		"floor":               {way{err: &securemail.ChannelError{Temporary: true, Wire: wire}}, transport.Outcome{Result: transport.Channel, Temporary: true, Wire: wire}},
		"floor, plainly":      {way{err: securemail.ErrChannel}, transport.Outcome{Result: transport.Channel}},
		"floor, after Intend": {way{intend: true, err: securemail.ErrChannel}, transport.Outcome{Result: transport.Uncertain, Intended: true}},
		"held, after Intend":  {way{intend: true, err: securemail.ErrHold}, transport.Outcome{Result: transport.Uncertain, Intended: true}},
		"held":                {way{err: securemail.ErrHold}, transport.Outcome{Result: transport.Held}},
		"plain":               {way{err: errors.New("canary")}, transport.Outcome{Result: transport.Retry}},
		"plain, after Intend": {way{intend: true, err: errors.New("canary")}, transport.Outcome{Result: transport.Uncertain, Intended: true}},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.want
			if _, ok := errors.AsType[*securemail.DeliveryError](c.way.err); ok {
				want.Stage, want.Code, want.Enhanced, want.RetryAfter, want.Wire = "dot", 451, "4.3.0", time.Minute, wire
			}
			s := to(t, "canary@x.test")
			s.ID, s.Submission, s.Actor.Tenant, s.Class.Level = "p1", "s1", "t1", 1
			s.Channel, s.RequireTLS, s.Attempt = securemail.ChannelNamed, true, 3
			want.Parcel, want.Submission, want.Tenant, want.Domain, want.Level = "p1", "s1", "t1", "x.test", 1
			want.Floor, want.RequireTLS, want.Attempt = securemail.ChannelNamed, true, 3
			want.Start, want.Duration = time.Unix(1001, 0), time.Second

			clock := int64(1000)
			var got []transport.Outcome
			r, err := transport.Record(&c.way, transport.RecorderFunc(func(_ context.Context, o transport.Outcome) { got = append(got, o) }),
				&transport.RecordOptions{Now: func() time.Time { clock++; return time.Unix(clock, 0) }})
			require.NoError(t, err)
			receipt, err := r.Deliver(t.Context(), s)
			require.Equal(t, c.way.err, err)
			require.Equal(t, err == nil, receipt != nil)
			require.Len(t, got, 1)
			require.Equal(t, want, got[0])
			require.NotContains(t, fmt.Sprintf("%+v", got[0]), "canary")
		})
	}
}

func TestRecordChangesNothing(t *testing.T) {
	operator := &securemail.Operator{Name: "Relay", Uses: []string{"a"}}
	receipt := &securemail.Receipt{Peer: "mx", Wire: securemail.Wire{
		TLS: &securemail.TLSFacts{Version: 7}, Operator: operator, Reasons: []securemail.Reason{{Rule: "r"}},
	}}
	inner := securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) { return receipt, nil })
	r := record(t, inner, func(_ context.Context, o transport.Outcome) {
		o.Wire.TLS.Version, o.Wire.Operator.Uses[0], o.Wire.Operator.Name, o.Wire.Reasons[0].Rule = 0, "", "", ""
	})
	got, err := r.Deliver(t.Context(), to(t, "a@x.test"))
	require.NoError(t, err)
	require.Same(t, receipt, got)
	require.EqualValues(t, 7, got.TLS.Version)
	require.Equal(t, &securemail.Operator{Name: "Relay", Uses: []string{"a"}}, operator)
	require.Equal(t, "r", got.Reasons[0].Rule)
}

func TestRecordPanics(t *testing.T) {
	var log bytes.Buffer
	broken := transport.RecorderFunc(func(context.Context, transport.Outcome) { panic("canary") })
	r, err := transport.Record(&way{}, broken, &transport.RecordOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	receipt, err := r.Deliver(t.Context(), to(t, "a@x.test"))
	require.NoError(t, err)
	require.NotNil(t, receipt)
	require.Contains(t, log.String(), "recorder panicked")
	require.NotContains(t, log.String(), "canary")

	var got []transport.Result
	r = record(t, securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) { panic("x") }),
		func(_ context.Context, o transport.Outcome) { got = append(got, o.Result) })
	require.PanicsWithValue(t, "x", func() { _, _ = r.Deliver(t.Context(), to(t, "a@x.test")) })
	require.Equal(t, []transport.Result{transport.Panicked}, got)
}

func TestRecordContextAndIntent(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	cancel()
	s := to(t, "a@x.test")
	s.OnIntend = func(context.Context) error { return securemail.ErrLease }
	r := record(t, &way{intend: true}, func(ctx context.Context, o transport.Outcome) {
		require.NoError(t, ctx.Err())
		require.Equal(t, "value", ctx.Value(key{}))
		require.False(t, o.Intended)
		require.Equal(t, transport.Retry, o.Result)
	})
	_, err := r.Deliver(ctx, s)
	require.ErrorIs(t, err, securemail.ErrLease)
}

func TestRecordOptions(t *testing.T) {
	_, err := transport.Record(nil, nil, nil)
	require.ErrorContains(t, err, "no transport")
	require.ErrorContains(t, err, "no recorder")
	r, err := transport.Record(securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
		return nil, nil // a fault of the Transport's, and no concern of ours
	}), transport.RecorderFunc(nothing), &transport.RecordOptions{})
	require.NoError(t, err)
	_, err = r.Deliver(t.Context(), to(t, "a@x.test"))
	require.NoError(t, err)
}
