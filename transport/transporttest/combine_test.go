package transporttest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/transporttest"
)

// around is transport/smtp, straight to signed mail hosts, inside what combine makes of it.
func around(combine func(t securemail.Transport) (securemail.Transport, error)) transporttest.Harness {
	h := smtpHarness(securemail.ChannelVerified)
	build := h.New
	h.New = func(ctx context.Context, s transporttest.Setup) (*transporttest.Rig, error) {
		r, err := build(ctx, s)
		if err != nil {
			return nil, err
		}
		if r.Transport, err = combine(r.Transport); err != nil {
			return nil, err
		}
		if p, ok := r.Transport.(securemail.Prober); ok {
			r.Prober = p
		}
		return r, nil
	}
	return h
}

// TestCombinators runs the kit on each combinator of package transport.
func TestCombinators(t *testing.T) {
	down := securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
		return nil, &securemail.DeliveryError{Stage: "connect"}
	})
	t.Run("ByDomain", func(t *testing.T) {
		transporttest.Run(t, around(func(inner securemail.Transport) (securemail.Transport, error) {
			return transport.ByDomain(map[string]securemail.Transport{"recipient.example": inner}, down)
		}))
	})
	t.Run("Failover", func(t *testing.T) {
		transporttest.Run(t, around(func(inner securemail.Transport) (securemail.Transport, error) {
			return transport.Failover(down, inner), nil
		}))
	})
	t.Run("Limit", func(t *testing.T) {
		transporttest.Run(t, around(func(inner securemail.Transport) (securemail.Transport, error) {
			return transport.Limit(inner, &transport.LimitOptions{Pause: 1})
		}))
	})
	t.Run("Record", func(t *testing.T) {
		transporttest.Run(t, around(func(inner securemail.Transport) (securemail.Transport, error) {
			return transport.Record(inner, transport.RecorderFunc(func(_ context.Context, o transport.Outcome) {
				require.NotEmpty(t, o.Result)
				panic("whatever a recorder does")
			}), nil)
		}))
	})
}
