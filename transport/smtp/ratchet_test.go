package smtp_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

type ratchetFunc func(tenant string) (securemail.Channel, error)

func (f ratchetFunc) Least(_ context.Context, tenant, _ string) (securemail.Channel, error) {
	return f(tenant)
}

// The ratchet is a tenant's own: it raises floors that ask for TLS, and leaves sealed mail its way.
func TestRatchet(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	tr := l.transport(func(o *smtp.Options) {
		o.Ratchet = ratchetFunc(func(tenant string) (securemail.Channel, error) {
			switch tenant {
			case "raised":
				return verified, nil
			case "unknown":
				return verified, errors.New("database is away")
			}
			return anyway, nil
		})
	})
	send := func(tenant string, floor securemail.Channel) error {
		s := shipment(t, floor, "Subject: x\r\n\r\ntext\r\n")
		s.Actor.Tenant = tenant
		_, err := tr.Deliver(t.Context(), s)
		return err
	}
	probe := func(tenant string) securemail.Route {
		r, err := tr.Probe(t.Context(), tenant, "clinic.test")
		require.NoError(t, err)
		return r
	}
	require.NoError(t, send("", named))
	require.True(t, probe("").Meets(named))

	ce, ok := errors.AsType[*securemail.ChannelError](send("raised", named))
	require.True(t, ok)
	require.True(t, ce.Temporary)
	require.Contains(t, rules(ce.Wire.Reasons), "ratchet")
	require.False(t, probe("raised").Meets(encrypted))
	require.NoError(t, send("raised", anyway))

	de, ok := errors.AsType[*securemail.DeliveryError](send("unknown", named))
	require.True(t, ok)
	require.Equal(t, securemail.FateRetry, de.Fate)
	require.False(t, probe("unknown").Known)
	require.NoError(t, send("unknown", anyway))
	require.Len(t, p.Messages(), 3)
}
