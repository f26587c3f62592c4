package smtp_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// Trap 15 must not break trap 22: a policy that changes while a message is under way is no reason to send that message once
// more, if a host that the old policy named may have it, or has refused it.
func TestChangedPolicyNeverSendsTwice(t *testing.T) {
	for name, c := range map[string]struct {
		a    smtppeer.Action
		fate securemail.Fate
	}{
		"no answer to the dot": {smtppeer.Action{Close: true, Taken: true}, securemail.FateUncertain},
		"refused":              {smtppeer.Action{Code: 550, Text: "5.7.1 no"}, securemail.FatePermanent},
		"put off":              {smtppeer.Action{Code: 451, Text: "4.7.1 later"}, securemail.FateRetry},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx2.test")
			one := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
			var at time.Duration // set by the peer's goroutine while Deliver waits for it
			two := l.mx(smtppeer.Options{TLS: ca.Config("mx2.test"), Hook: func(e smtppeer.Event) *smtppeer.Action {
				if e.Stage != smtppeer.StageDot {
					return nil
				}
				l.publish(h, "clinic.test", "2", mtasts.Enforce, "*.test")
				at = 20 * time.Second
				return &c.a
			}})
			begin := time.Now()
			tr := l.transport(func(o *smtp.Options) {
				o.STS = l.cache(h, mtasts.NewMemory(nil), func() time.Time { return begin.Add(at) })
			})
			_, err := l.deliver(tr, anyway)
			require.Equal(t, c.fate, wantDelivery(t, err).Fate)
			untouched(t, one)
			require.Len(t, two.Attempts(), 1)
		})
	}
}

// A stream's message was announced (Shipment.Intend) on a connection that died before it was out, and the fresh connection is
// below the floor. Nobody has it, so it comes again; but a ChannelError, which says that nothing was announced, would make its
// fate uncertain for good.
func TestFloorMissedAfterAStreamDied(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: chunking, Hook: func(e smtppeer.Event) *smtppeer.Action {
		switch {
		case e.Stage == smtppeer.StageStartTLS && e.Conn > 1:
			return &smtppeer.Action{Code: 454, Text: "4.7.0 no TLS now"}
		case e.Stage == smtppeer.StageMail && e.Taken > 0:
			return &smtppeer.Action{Code: 421, Text: "4.3.2 bye", Close: true}
		}
		return nil
	}})
	tr := l.transport(streaming)
	_, err := l.deliver(tr, named)
	require.NoError(t, err)
	require.Equal(t, 1, tr.Idle())
	intents := 0
	s := shipment(t, named, hello)
	s.OnIntend = func(context.Context) error { intents++; return nil }
	_, err = l.ship(tr, s)
	require.Positive(t, intents)
	d := wantDelivery(t, err)
	require.Equal(t, securemail.FateRetry, d.Fate)
	require.NotErrorIs(t, err, securemail.ErrChannel)
	require.Contains(t, rules(d.Wire.Reasons), "starttls-refused")
	require.Len(t, p.Messages(), 1)
}
