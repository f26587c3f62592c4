package transporttest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/transporttest"
)

// rejects runs the kit on a harness and returns the details of what failed in the case name.
func rejects(t *testing.T, name string, build func() (*transporttest.Rig, error)) *transporttest.Report {
	t.Helper()
	h := transporttest.Harness{New: func(context.Context, transporttest.Setup) (*transporttest.Rig, error) { return build() }}
	return transporttest.CheckCases(t.Context(), h, false, func(n string) bool { return n == name }, never)
}

func never(transporttest.Failure) bool {
	return false
}

func TestHarnessIsChecked(t *testing.T) {
	unsupported := func() (*transporttest.Rig, error) { return nil, fmt.Errorf("no such wire: %w", errors.ErrUnsupported) }

	t.Run("a required behaviour can't be skipped", func(t *testing.T) {
		rep := rejects(t, "fate/DropAfterBody", unsupported)
		require.Len(t, rep.Failures, 1)
		require.Contains(t, rep.Failures[0].Detail, "can't build DropAfterBody")
	})
	t.Run("any other is skipped aloud", func(t *testing.T) {
		rep := rejects(t, "floor/OldTLS-Any", unsupported)
		require.Empty(t, rep.Failures)
		require.Zero(t, rep.Cases)
		require.Equal(t, []string{"floor/OldTLS-Any: no such wire"}, rep.Skipped)
	})
	t.Run("another error fails", func(t *testing.T) {
		rep := rejects(t, "floor/OldTLS-Any", func() (*transporttest.Rig, error) { return nil, io.ErrUnexpectedEOF })
		require.Len(t, rep.Failures, 1)
	})
	t.Run("a rig must be whole", func(t *testing.T) {
		rep := rejects(t, "floor/OldTLS-Any", func() (*transporttest.Rig, error) { return &transporttest.Rig{}, nil })
		require.Len(t, rep.Failures, 1)
		require.Contains(t, rep.Failures[0].Detail, "no Transport")
	})
	t.Run("a panic in New is the case's failure", func(t *testing.T) {
		rep := rejects(t, "floor/OldTLS-Any", func() (*transporttest.Rig, error) { return rigs(nil)[0], nil })
		require.Len(t, rep.Failures, 1)
		require.Contains(t, rep.Failures[0].Detail, "index out of range")
	})
	t.Run("without Recover the cases about reuse are skipped", func(t *testing.T) {
		rep := rejects(t, "reuse/after TempFail", func() (*transporttest.Rig, error) {
			return &transporttest.Rig{Transport: nothing, Far: &transporttest.Recorder{}, Close: func() {}}, nil
		})
		require.Len(t, rep.Skipped, 1)
	})
}

func rigs(rs []*transporttest.Rig) []*transporttest.Rig { return rs }

// nothing does nothing.
var nothing = securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) { return nil, nil })

// TestCheckAll runs every case against a transport that does nothing, and one that always says yes.
func TestCheckAll(t *testing.T) {
	for name, tr := range map[string]securemail.Transport{
		"nothing": nothing,
		"always yes": securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			return &securemail.Receipt{Wire: bestWire, Peer: "mx"}, s.Intend(ctx)
		}),
		"strange": securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			s.Attempt++
			return nil, &securemail.DeliveryError{Fate: 9}
		}),
		"always permanent": securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			s.Parcel = s.With(s.Message)
			return nil, &securemail.DeliveryError{Fate: securemail.FatePermanent}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rep := transporttest.Check(t.Context(), transporttest.Harness{
				Domain: "elsewhere.example",
				New: func(context.Context, transporttest.Setup) (*transporttest.Rig, error) {
					return &transporttest.Rig{
						Transport: tr, Far: &transporttest.Recorder{}, Recover: func() {}, Close: func() {},
						Prober: probeFunc(func(context.Context, string, string) (securemail.Route, error) {
							return securemail.Route{Wire: bestWire, Known: true}, nil
						}),
					}, nil
				},
			})
			require.Greater(t, rep.Cases, 80)
			require.Empty(t, rep.Skipped)
			require.Greater(t, len(rep.Failures), rep.Cases/2)
			for _, f := range rep.Failures {
				require.NotEmpty(t, f.Rule)
			}
		})
	}
}

func TestCheckStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, *transporttest.Check(ctx, transporttest.Harness{}))
}

func TestRecorder(t *testing.T) {
	var r transporttest.Recorder
	_, _ = r.Write([]byte("a"))
	_, _ = r.Write([]byte("b"))
	r.Add(transporttest.Delivery{Recipients: []string{"x"}})
	require.Equal(t, []byte("ab"), r.Received())
	require.Len(t, r.Deliveries(), 1)
}

// TestPKI shakes hands with each kind of server.
func TestPKI(t *testing.T) {
	pki, err := transporttest.NewPKI("mx.example")
	require.NoError(t, err)
	for behave, fault := range map[transporttest.Behaviour]string{
		transporttest.Accept:     "",
		transporttest.BadCert:    "certificate is valid for other.invalid",
		transporttest.SelfSigned: "unknown authority",
		transporttest.OldTLS:     "protocol version",
	} {
		cfg, err := pki.Server(behave)
		require.NoError(t, err)
		ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
		require.NoError(t, err)
		shaken := make(chan tls.ConnectionState, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.(*tls.Conn).Handshake()
			shaken <- c.(*tls.Conn).ConnectionState()
		}()
		c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{ServerName: "mx.example", RootCAs: pki.Roots()})
		if fault != "" {
			require.ErrorContains(t, err, fault)
		} else {
			require.NoError(t, err)
			cs := c.ConnectionState()
			want := transporttest.FactsOf(<-shaken, cfg.Certificates[0])
			require.Equal(t, securemail.TLSFactsOf(&cs).Chain, want.Chain)
			c.Close()
		}
		ln.Close()
	}
}
