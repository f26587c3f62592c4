package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// MailReports gives the function that sends reports of transport/tlsrpt by t, for tlsrpt.MailOptions.Send. Each is
// delivered at once, without a queue: tlsrpt.Reporter itself tries again, where the host did not refuse for good. It may do
// so where the host had accepted and its answer was lost: readers know a report by its id. The parcel has no tenant, the Purpose
// "system" and an Actor of the kind "service", for an smtp.Identity.
//
// A report must arrive whatever TLS does (RFC 8460 section 5.3), so t is asked for no more than ChannelAny. Where it is
// a transport/smtp, it needs HonourTLSRequiredNo, and so should be one of its own: users' mail could bear that header
// field as well.
func MailReports(t securemail.Transport) func(ctx context.Context, m tlsrpt.Mail) error {
	return func(ctx context.Context, m tlsrpt.Mail) error {
		from, errFrom := securemail.ParseAddress(m.From)
		to, errTo := securemail.ParseAddress(m.To)
		if errFrom != nil || errTo != nil {
			return errors.New("transport: tlsrpt: a mail without an address") // which is not to be in a log
		}
		msg, err := securemail.NewMessage(securemail.Bytes(m.Message))
		if err != nil {
			return fmt.Errorf("transport: tlsrpt: %w", err)
		}
		_, err = t.Deliver(ctx, &securemail.Shipment{
			Parcel: &securemail.Parcel{
				Slip: securemail.Slip{
					ID: securemail.ParcelID(rand.Text()), Actor: securemail.Actor{ID: "tlsrpt", Kind: "service"},
					From: securemail.Contact{Address: from}, Recipient: securemail.Contact{Address: to}, ReturnPath: from,
					Size: msg.Size(), Purpose: securemail.PurposeSystem,
				},
				Message: msg,
			},
			Channel: securemail.ChannelAny, Attempt: 1,
		})
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Fate == securemail.FatePermanent {
			return fmt.Errorf("%w: %w", tlsrpt.ErrRefused, err)
		}
		return err
	}
}
