package transport_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/tlsrpt"
)

func TestMailReportsShipsThemAtNoFloor(t *testing.T) {
	var got []*securemail.Shipment
	send := transport.MailReports(securemail.TransportFunc(
		func(_ context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			got = append(got, s)
			return &securemail.Receipt{}, nil
		}))
	m := tlsrpt.Mail{From: "tlsrpt@example.org", To: "canary@example.net", Message: []byte(signMe)}
	require.NoError(t, send(t.Context(), m))
	require.NoError(t, send(t.Context(), m))
	require.Len(t, got, 2)
	s := got[0]
	require.Equal(t, securemail.ChannelAny, s.Channel)
	require.Equal(t, "canary@example.net", s.Recipient.Address.Reveal())
	require.Equal(t, "tlsrpt@example.org", s.From.Address.Reveal())
	require.Equal(t, s.From.Address, s.ReturnPath)
	require.Equal(t, securemail.PurposeSystem, s.Purpose)
	require.Equal(t, int64(len(signMe)), s.Size)
	require.NotEqual(t, s.ID, got[1].ID, "each has an envelope id of its own")
	r, err := s.Message.Open()
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, signMe, string(b), "octet for octet, or the signature breaks")
}

func TestMailReportsSaysWhatFailedWithoutAddresses(t *testing.T) {
	broken := errors.New("smtp: no")
	send := transport.MailReports(securemail.TransportFunc(
		func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) { return nil, broken }))
	ok := tlsrpt.Mail{From: "tlsrpt@example.org", To: "canary@example.net", Message: []byte(signMe)}
	require.ErrorIs(t, send(t.Context(), ok), broken)
	for name, m := range map[string]tlsrpt.Mail{
		"to":      {From: ok.From, To: "canary", Message: ok.Message},
		"from":    {From: "canary", To: ok.To, Message: ok.Message},
		"message": {From: ok.From, To: ok.To, Message: []byte("canary")},
	} {
		err := send(t.Context(), m)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, broken, name)
		require.NotContains(t, err.Error(), "canary", name)
	}
}

func TestMailReportsSaysWhatIsRefusedForGood(t *testing.T) {
	for fate, want := range map[securemail.Fate]bool{
		securemail.FateRetry: false, securemail.FateUncertain: false, securemail.FatePermanent: true,
	} {
		why := &securemail.DeliveryError{Stage: "rcpt", Code: 550, Fate: fate, Remote: "canary"}
		send := transport.MailReports(securemail.TransportFunc(
			func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) { return nil, why }))
		err := send(t.Context(), tlsrpt.Mail{From: "a@example.org", To: "b@example.net", Message: []byte(signMe)})
		require.ErrorIs(t, err, why)
		require.Equal(t, want, errors.Is(err, tlsrpt.ErrRefused))
		require.NotContains(t, err.Error(), "canary")
	}
}
