package securemail_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

func statuses(t *testing.T, k *securemailtest.Kit, q securemail.Query) []securemail.Status {
	t.Helper()
	var sts []securemail.Status
	for st, err := range k.Find(context.Background(), q) {
		require.NoError(t, err)
		sts = append(sts, st)
	}
	return sts
}

func only(t *testing.T, k *securemailtest.Kit) securemail.Status {
	t.Helper()
	sts := statuses(t, k, securemail.Query{})
	require.Len(t, sts, 1)
	return sts[0]
}

func send(t *testing.T, k *securemailtest.Kit, d *securemail.Draft) *securemail.Submission {
	t.Helper()
	sub, err := k.Send(context.Background(), d)
	require.NoError(t, err)
	return sub
}

// choices makes a Policy of a fixed Decision.
func fixed(d securemail.Decision) securemail.Policy {
	d.Policy = "fixed"
	return securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) { return d, nil })
}

var tlsNamed = securemail.Choice{Method: securemail.MethodTLS, Channel: securemail.ChannelNamed}

func TestNewNamesEveryFaultOfTheConfig(t *testing.T) {
	m, err := securemail.New(securemail.Config{
		Workers: -1, Sinks: map[string]securemail.Sink{"ledger": securemail.SinkFunc(nil)}, Encryptors: []securemail.Encryptor{nil},
	})
	require.Nil(t, m)
	for _, field := range []string{"Policy", "Transport", "Queue", "Outbox", "Ledger", "Encryptors[0]", "Sinks", "Workers"} {
		require.ErrorContains(t, err, field)
	}
}

func TestEachRecipientGetsWhatHeCanReceive(t *testing.T) {
	pgp := &scriptedEncryptor{method: securemail.MethodPGP, trace: &trace{}}
	escrow := &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}}
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Encryptors = append(c.Encryptors, pgp, escrow)
		c.Keys = securemail.KeySourceFunc(func(_ context.Context, l securemail.Lookup) ([]securemail.Key, error) {
			if l.Address.Domain() == "pgp.example" {
				return []securemail.Key{{Method: securemail.MethodPGP, Fingerprint: "ab"}}, nil
			}
			return nil, securemail.ErrNoKey
		})
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{
			tlsNamed, {Method: securemail.MethodPGP, Channel: securemail.ChannelAny}, {Method: securemail.MethodEscrow, Channel: securemail.ChannelAny},
		}})
	})
	pgp.script = []error{nil}
	for _, d := range []string{"pgp.example", "none.example"} {
		k.Transport.Script(d, securemailtest.Answer{Wire: securemailtest.Clear()})
	}
	// The scripted PGP encryptor needs no key, so it says for itself that there is none.
	pgp.script = nil
	k.Transport.Script("none.example", securemailtest.Answer{Wire: securemailtest.Clear()})
	send(t, k, draft("a@tls.example", "b@pgp.example"))
	require.Equal(t, 2, k.Pass(t))
	sent := k.Transport.RequireSent(t, "a@tls.example", "b@pgp.example")
	require.Empty(t, sent[0].Message.Header("X-Sealed"))
	require.Equal(t, []string{"pgp"}, sent[1].Message.Header("X-Sealed"))
	for _, st := range statuses(t, k, securemail.Query{}) {
		require.Equal(t, securemail.StateDelivered, st.State)
		require.NotNil(t, st.Receipt)
		require.NotNil(t, st.Protection)
	}
}

func TestZeroDecisionHolds(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Policy = fixed(securemail.Decision{}) })
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Transport.RequireNone(t)
	require.Equal(t, securemail.StateHeld, only(t, k).State)
}

func TestPolicyErrorHolds(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
			return securemail.Decision{Choices: []securemail.Choice{tlsNamed}}, errFlaky
		})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Transport.RequireNone(t)
	require.Equal(t, securemail.StateHeld, only(t, k).State)
}

func TestPolicyThatKeepsAskingHolds(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = fixed(securemail.Decision{Need: []securemail.Method{securemail.MethodTLS}})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, securemail.StateHeld, only(t, k).State)
}

func TestPHIInClearIsBarredWhateverThePolicySays(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = fixed(securemail.Decision{
			Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelAny}}, Else: securemail.OutcomeBounce,
		})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Transport.RequireNone(t)
	require.Equal(t, securemail.StateBounced, only(t, k).State)
}

func TestUnknownKeyIsNeverNoKey(t *testing.T) {
	escrow := &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}}
	var answer atomic.Pointer[error]
	say := func(e error) { answer.Store(&e) }
	say(errFlaky)
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Encryptors = append(c.Encryptors, escrow, &scriptedEncryptor{method: securemail.MethodPGP, trace: &trace{}, script: []error{securemail.ErrNoKey}})
		c.Keys = securemail.KeySourceFunc(func(context.Context, securemail.Lookup) ([]securemail.Key, error) { return nil, *answer.Load() })
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{
			{Method: securemail.MethodPGP, Channel: securemail.ChannelAny}, {Method: securemail.MethodEscrow, Channel: securemail.ChannelAny},
		}})
	})
	send(t, k, draft("a@x.example"))
	for _, e := range []error{errFlaky, securemail.ErrPending, nil} {
		say(e)
		k.Pass(t)
		k.Transport.RequireNone(t)
		require.Equal(t, securemail.StateDeferred, only(t, k).State)
		k.Clock.Advance(2 * time.Minute)
	}
	say(securemail.ErrNoKey)
	k.Pass(t)
	require.Equal(t, securemail.MethodEscrow, only(t, k).Choice.Method)
	k.Transport.RequireSent(t, "a@x.example")
}

func TestIdempotencyKey(t *testing.T) {
	k := securemailtest.New(t, nil)
	d := draft("a@x.example")
	d.Key = "order-1"
	first := send(t, k, d)
	again := send(t, k, d)
	require.True(t, again.Repeated)
	require.Equal(t, first.ID, again.ID)
	d.Subject = "Another"
	_, err := k.Send(context.Background(), d)
	require.ErrorIs(t, err, securemail.ErrConflict)
	d.Subject, d.To = "Your appointment", securemail.To("b@x.example")
	_, err = k.Send(context.Background(), d)
	require.ErrorIs(t, err, securemail.ErrConflict)
	k.Pass(t)
	k.Transport.RequireSent(t, "a@x.example")
}

func TestGateRefusesOneRecipient(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Gates = []securemail.Gate{securemail.GateFunc(func(_ context.Context, p *securemail.Parcel) error {
			if p.Recipient.Address.Domain() == "no.example" {
				return securemail.ErrRefused
			}
			return nil
		})}
	})
	sub := send(t, k, draft("a@yes.example", "b@no.example"))
	require.Equal(t, securemail.StateAccepted, sub.Parcels[0].State)
	require.Equal(t, securemail.StateRefused, sub.Parcels[1].State)
	sub, err := k.Send(context.Background(), draft("b@no.example"))
	require.ErrorIs(t, err, securemail.ErrRefused)
	require.NotNil(t, sub)
	k.Pass(t)
	k.Transport.RequireSent(t, "a@yes.example")
}

func TestOptOutBetweenAcceptAndAttemptEndsIt(t *testing.T) {
	var out atomic.Bool
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Gates = []securemail.Gate{securemail.GateFunc(func(context.Context, *securemail.Parcel) error {
			if out.Load() {
				return securemail.ErrRefused
			}
			return nil
		})}
	})
	send(t, k, draft("a@x.example"))
	out.Store(true)
	k.Pass(t)
	k.Transport.RequireNone(t)
	require.Equal(t, securemail.StateRefused, only(t, k).State)
}

func TestNotYetDefers(t *testing.T) {
	k := securemailtest.New(t, nil)
	later := k.Clock.Now().Add(time.Hour)
	k = securemailtest.New(t, func(c *securemail.Config) {
		now := c.Now
		c.Gates = []securemail.Gate{securemail.GateFunc(func(context.Context, *securemail.Parcel) error {
			if now().Before(later) {
				return &securemail.NotYet{Until: later}
			}
			return nil
		})}
	})
	send(t, k, draft("a@x.example"))
	require.Zero(t, k.Pass(t))
	k.Clock.Advance(time.Hour)
	require.Equal(t, 1, k.Pass(t))
	k.Transport.RequireSent(t, "a@x.example")
}

func TestRetryThenElse(t *testing.T) {
	for _, c := range []struct {
		els  securemail.Outcome
		want securemail.State
	}{
		{securemail.OutcomeHold, securemail.StateHeld}, {securemail.OutcomeBounce, securemail.StateBounced}, {securemail.OutcomeDrop, securemail.StateDropped},
	} {
		k := securemailtest.New(t, func(cfg *securemail.Config) {
			cfg.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{tlsNamed}, Patience: 3 * time.Minute, Else: c.els})
		})
		k.Transport.Script("x.example", securemailtest.Answer{Before: &securemail.DeliveryError{Stage: "rcpt", Code: 451}})
		send(t, k, draft("a@x.example"))
		for range 3 {
			k.Pass(t)
			require.Equal(t, securemail.StateDeferred, only(t, k).State)
			k.Clock.Advance(time.Minute)
		}
		k.Pass(t)
		require.Equal(t, c.want, only(t, k).State)
		require.Equal(t, 4, only(t, k).Attempt)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	k := securemailtest.New(t, nil)
	k.Transport.Script("x.example", securemailtest.Answer{Before: &securemail.DeliveryError{Stage: "http", Code: 429, RetryAfter: time.Hour}})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, k.Clock.Now().Add(time.Hour), only(t, k).Next)
}

func TestUsefulUntilExpires(t *testing.T) {
	k := securemailtest.New(t, nil)
	k.Transport.Script("x.example", securemailtest.Answer{Before: errFlaky})
	d := draft("a@x.example")
	d.UsefulUntil = k.Clock.Now().Add(90 * time.Second)
	send(t, k, d)
	k.Pass(t)
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	require.Equal(t, d.UsefulUntil, only(t, k).Next)
	k.Clock.Advance(30 * time.Second)
	k.Pass(t)
	require.Equal(t, securemail.StateExpired, only(t, k).State)
	k.Transport.RequireNone(t)
}

func TestUncertainByRule(t *testing.T) {
	lost := &securemail.DeliveryError{Stage: "dot", Fate: securemail.FateUncertain}
	for _, plainError := range []bool{false, true} {
		for _, retry := range []bool{false, true} {
			d := securemail.Decision{Choices: []securemail.Choice{
				{Method: securemail.MethodPGP, Channel: securemail.ChannelAny}, tlsNamed,
			}}
			if retry {
				d.Uncertain = securemail.OutcomeRetry
			}
			k := securemailtest.New(t, func(c *securemail.Config) {
				c.Policy = fixed(d)
				c.Encryptors = append(c.Encryptors, &scriptedEncryptor{method: securemail.MethodPGP, trace: &trace{}, script: []error{securemail.ErrNoKey}})
			})
			err := error(lost)
			if plainError {
				err = errFlaky
			}
			k.Transport.Script("x.example", securemailtest.Answer{After: err}, securemailtest.Answer{})
			send(t, k, draft("a@x.example"))
			k.Pass(t)
			require.Equal(t, securemail.StateUncertain, only(t, k).State)
			k.Clock.Advance(time.Hour)
			k.Pass(t)
			if !retry {
				require.Equal(t, securemail.StateUncertain, only(t, k).State)
				require.NoError(t, k.Order(context.Background(), securemail.Retry, only(t, k).ID))
				k.Pass(t)
			}
			// The second try must not move to PGP, which would work now: the same Method, whatever else is possible.
			require.Equal(t, securemail.StateDelivered, only(t, k).State)
			require.Equal(t, securemail.MethodTLS, only(t, k).Choice.Method)
		}
	}
}

func TestCrashBetweenIntentAndOutcomeIsUncertain(t *testing.T) {
	k := securemailtest.New(t, nil)
	send(t, k, draft("a@x.example"))
	ls, err := k.Queue.Take(context.Background(), k.Clock.Now(), 1, 0)
	require.NoError(t, err)
	st := ls[0].Last
	st.State, st.Choice = securemail.StateAttempting, tlsNamed
	require.NoError(t, k.Queue.Mark(context.Background(), securemail.Mark{Lease: ls[0], Status: st}))
	k.Queue.Crash()
	k.Pass(t)
	require.Equal(t, securemail.StateUncertain, only(t, k).State)
	k.Transport.RequireNone(t)
}

func TestFailingIntentAcceptsNothing(t *testing.T) {
	var tr *securemailtest.Transport
	k := securemailtest.New(t, func(c *securemail.Config) {
		inner := c.Transport
		queue := c.Queue.(*securemailtest.Queue)
		c.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			queue.Fail(errors.New("disk full"))
			defer queue.Fail(nil)
			return inner.Deliver(ctx, s)
		})
		tr = inner.(*securemailtest.Transport)
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	tr.RequireNone(t)
	require.Equal(t, securemail.StateDeferred, only(t, k).State)
}

func TestReceiptWithoutIntentIsAFault(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Transport = securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
			return &securemail.Receipt{Wire: securemailtest.Clear()}, nil
		})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	var rules []string
	for _, e := range k.Queue.Events() {
		if e.Kind == "fault" {
			rules = append(rules, e.Detail["rule"])
		}
	}
	require.ElementsMatch(t, []string{"receipt-without-intent", "receipt-below-floor"}, rules)
	require.Equal(t, securemail.StateDelivered, only(t, k).State)
}

func TestFallbackIsUndoneWhenTheParcelEndsAnotherWay(t *testing.T) {
	escrow := &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}}
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Encryptors = append(c.Encryptors, escrow)
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{
			{Method: securemail.MethodEscrow, Channel: securemail.ChannelVerified}, tlsNamed,
		}})
	})
	k.Transport.Script("x.example", securemailtest.Answer{Wire: securemailtest.Named()})
	sub := send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, securemail.MethodTLS, only(t, k).Choice.Method)
	require.Equal(t, 1, escrow.undone[sub.Parcels[0].ID])
	// A delivered fallback stays.
	k.Transport.Script("y.example", securemailtest.Answer{Wire: securemailtest.Verified()})
	sub = send(t, k, draft("a@y.example"))
	k.Pass(t)
	require.Zero(t, escrow.undone[sub.Parcels[0].ID])
}

func TestOrders(t *testing.T) {
	ctx := context.Background()
	k := securemailtest.New(t, nil)
	sub := send(t, k, draft("a@x.example"))
	id := sub.Parcels[0].ID
	require.NoError(t, k.Order(ctx, securemail.Hold, id))
	require.Zero(t, k.Pass(t))
	require.NoError(t, k.Order(ctx, securemail.Release, id))
	require.Equal(t, 1, k.Pass(t))
	require.ErrorIs(t, k.Order(ctx, securemail.Cancel, id), securemail.ErrFinal)
	require.Error(t, k.Order(ctx, 99, id))
	require.Error(t, k.Order(ctx, securemail.Cancel))
}

func TestReplaceCancelsWhatHasNotLeft(t *testing.T) {
	ctx := context.Background()
	k := securemailtest.New(t, nil)
	d := draft("a@x.example")
	d.Labels, d.NotBefore = map[string]string{"appointment": "42"}, k.Clock.Now().Add(time.Hour)
	send(t, k, d)
	next := draft("a@x.example")
	next.Subject = "Moved"
	q := securemail.Query{Labels: map[string]string{"appointment": "42"}}
	bad := *next
	bad.To = nil
	_, err := k.Replace(ctx, q, &bad)
	require.Error(t, err)
	require.Equal(t, securemail.StateAccepted, only(t, k).State)
	_, err = k.Replace(ctx, securemail.Query{}, next)
	require.Error(t, err)
	_, err = k.Replace(ctx, q, next)
	require.NoError(t, err)
	k.Clock.Advance(2 * time.Hour)
	k.Pass(t)
	sent := k.Transport.RequireSent(t, "a@x.example")
	require.Equal(t, []string{"Moved"}, sent[0].Message.Header("Subject"))
}

func TestExplainSendsNothing(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Encryptors = append(c.Encryptors, &scriptedEncryptor{method: securemail.MethodPGP, trace: &trace{}}, &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}})
		c.Keys = securemail.KeySourceFunc(func(_ context.Context, l securemail.Lookup) ([]securemail.Key, error) {
			if l.Address.Domain() == "pgp.example" {
				return []securemail.Key{{Method: securemail.MethodPGP}}, nil
			}
			return nil, securemail.ErrNoKey
		})
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{
			tlsNamed, {Method: securemail.MethodPGP, Channel: securemail.ChannelAny}, {Method: securemail.MethodEscrow, Channel: securemail.ChannelAny},
		}})
	})
	for _, d := range []string{"pgp.example", "clear.example"} {
		k.Transport.Script(d, securemailtest.Answer{Wire: securemailtest.Clear()})
	}
	es, err := k.Explain(context.Background(), draft("a@tls.example", "b@pgp.example", "c@clear.example"))
	require.NoError(t, err)
	require.Len(t, es, 3)
	for i, want := range []securemail.Method{securemail.MethodTLS, securemail.MethodPGP, securemail.MethodEscrow} {
		require.NoError(t, es[i].Err)
		require.NotNil(t, es[i].Use)
		require.Equal(t, want, es[i].Use.Method)
	}
	require.Empty(t, statuses(t, k, securemail.Query{}))
	require.Zero(t, k.Pass(t))
}

type tenants map[string][]string

func (ts tenants) Tenant(_ context.Context, id string) (securemail.Tenant, error) {
	from, ok := ts[id]
	if !ok {
		return securemail.Tenant{}, securemail.ErrTenant
	}
	return securemail.Tenant{ID: id, From: from}, nil
}

func TestTenantsAndActors(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Tenants = tenants{"north": {"@example.org"}, "south": {"desk@south.example"}, "mute": nil}
	})
	as := func(tenant string, roles ...string) context.Context {
		return securemail.WithActor(context.Background(), securemail.Actor{Tenant: tenant, ID: "u", Kind: "person", Roles: roles})
	}
	_, err := k.Send(context.Background(), draft("a@x.example"))
	require.ErrorIs(t, err, securemail.ErrTenant, "the service has no tenant")
	for _, tenant := range []string{"unknown", "south", "mute"} {
		_, err = k.Send(as(tenant), draft("a@x.example"))
		require.ErrorIs(t, err, securemail.ErrTenant, tenant)
	}
	sub, err := k.Send(as("north"), draft("a@x.example"))
	require.NoError(t, err)
	// Another tenant sees and orders nothing of it.
	for _, err := range k.Find(as("south"), securemail.Query{Tenant: "north"}) {
		require.ErrorIs(t, err, securemail.ErrTenant)
	}
	for range k.Find(as("south"), securemail.Query{Submission: sub.ID}) {
		t.Fatal("seen across tenants")
	}
	require.Error(t, k.Order(as("south"), securemail.Cancel, sub.Parcels[0].ID))
	system := draft("a@x.example")
	system.Purpose = securemail.PurposeSystem
	_, err = k.Send(as("north"), system)
	require.ErrorIs(t, err, securemail.ErrDenied)
	// A Raw message is checked by the author it shows, not by the one the Draft claims.
	raw := "From: desk@south.example\r\nTo: a@x.example\r\nSubject: x\r\n\r\nhello\r\n"
	_, err = k.Send(as("north"), &securemail.Draft{To: securemail.To("a@x.example"), Raw: securemail.Bytes([]byte(raw))})
	require.ErrorIs(t, err, securemail.ErrTenant)
	_, err = k.Send(as("north"), &securemail.Draft{From: securemail.Mailbox("clinic@example.org"), To: securemail.To("a@x.example"), Raw: securemail.Bytes([]byte(raw))})
	require.Equal(t, "From:from", fieldOf(err))
}

// TestNoForeignLetterPassesForALatinOne: U+212A folds to k elsewhere, not where rights are asked.
func TestNoForeignLetterPassesForALatinOne(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Tenants = tenants{"north": {"Kim@north.example"}} })
	ctx := securemail.WithActor(context.Background(), securemail.Actor{Tenant: "north", ID: "u", Kind: "person"})
	d := draft("a@x.example")
	d.From = securemail.Mailbox("kim@north.example")
	_, err := k.Send(ctx, d)
	require.NoError(t, err)
	d.From = securemail.Mailbox("\u212aim@north.example")
	_, err = k.Send(ctx, d)
	require.ErrorIs(t, err, securemail.ErrTenant)
}

func TestNoActorIsDenied(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Service = securemail.Actor{} })
	ctx := context.Background()
	_, err := k.Send(ctx, draft("a@x.example"))
	require.ErrorIs(t, err, securemail.ErrDenied)
	_, err = k.Explain(ctx, draft("a@x.example"))
	require.ErrorIs(t, err, securemail.ErrDenied)
	_, err = k.Wait(ctx, &securemail.Submission{})
	require.ErrorIs(t, err, securemail.ErrDenied)
	require.ErrorIs(t, k.Order(ctx, securemail.Cancel, "x"), securemail.ErrDenied)
	require.ErrorIs(t, k.SendBatch(ctx, []*securemail.Draft{draft("a@x.example")})[0].Err, securemail.ErrDenied)
	_, err = k.SendTx(ctx, nil, draft("a@x.example"))
	require.ErrorIs(t, err, securemail.ErrTx)
}

func TestAuthorizerIsAskedByEachCall(t *testing.T) {
	var asked []securemail.Action
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Authorizer = securemail.AuthorizerFunc(func(_ context.Context, _ securemail.Actor, act securemail.Action, _ securemail.Resource) error {
			asked = append(asked, act)
			return &securemail.StepUpError{}
		})
	})
	ctx := context.Background()
	_, err := k.Send(ctx, draft("a@x.example"))
	require.ErrorIs(t, err, securemail.ErrDenied)
	_, _ = k.Explain(ctx, draft("a@x.example"))
	_, _ = k.Wait(ctx, &securemail.Submission{ID: "x"})
	_ = k.Order(ctx, securemail.Hold, "x")
	_, _ = k.Replace(ctx, securemail.Query{Ref: "x"}, draft("a@x.example"))
	require.Equal(t, []securemail.Action{"send", "send", "read.status", "order", "send"}, asked)
}

func TestBacklogIsWarnedAboutOnce(t *testing.T) {
	var log bytes.Buffer
	k := securemailtest.New(t, func(c *securemail.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 5 {
		send(t, k, draft("anna@x.example"))
		k.Clock.Advance(40 * time.Second)
	}
	require.Equal(t, 1, strings.Count(log.String(), "nobody runs the queue"))
	require.NotContains(t, log.String(), "anna")
	log.Reset()
	k.Pass(t)
	send(t, k, draft("anna@x.example"))
	require.Empty(t, log.String())
}

func TestRunDeliversFeedsAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen atomic.Int64
		k := securemailtest.New(t, func(c *securemail.Config) {
			q := securemailtest.NewQueue(time.Now)
			c.Queue, c.Outbox, c.Now = q, q, time.Now
			c.Sinks = map[string]securemail.Sink{"count": securemail.SinkFunc(func(_ context.Context, e securemail.Event) error {
				if seen.Add(1) == 1 {
					return errFlaky // again later
				}
				if e.Kind == "accepted" {
					return securemail.ErrRefused // skipped
				}
				return nil
			})}
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		k.Transport.Script("slow.example", securemailtest.Answer{Before: errFlaky}, securemailtest.Answer{})
		var ds []*securemail.Draft
		for range 5 {
			ds = append(ds, draft("a@x.example", "b@slow.example"))
		}
		for _, r := range k.SendBatch(ctx, ds) {
			require.NoError(t, r.Err)
			sts, err := k.Wait(ctx, r.Submission)
			require.NoError(t, err)
			require.Len(t, sts, 2)
			for _, st := range sts {
				require.Equal(t, securemail.StateDelivered, st.State)
			}
		}
		cancel()
		require.NoError(t, <-done)
		require.GreaterOrEqual(t, seen.Load(), int64(30))
	})
}

type part func(context.Context) error

func (p part) Run(ctx context.Context) error { return p(ctx) }

func TestAPartThatEndsEndsRun(t *testing.T) {
	stopped := make(chan struct{})
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Parts = []securemail.Runner{
			part(func(ctx context.Context) error { return errFlaky }),
			part(func(ctx context.Context) error { <-ctx.Done(); close(stopped); return nil }),
		}
	})
	err := k.Run(context.Background())
	require.ErrorIs(t, err, errFlaky)
	<-stopped
}

func TestDrainCancelsWhatDoesNotFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := make(chan struct{})
		k := securemailtest.New(t, func(c *securemail.Config) {
			q := securemailtest.NewQueue(time.Now)
			c.Queue, c.Outbox, c.Now = q, q, time.Now
			c.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
				close(started)
				<-ctx.Done()
				return nil, ctx.Err()
			})
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		sub := send(t, k, draft("a@x.example"))
		<-started
		at := time.Now()
		cancel()
		require.NoError(t, <-done)
		require.Equal(t, 25*time.Second, time.Since(at))
		sts, err := k.Wait(canceled(t), sub)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, securemail.StateDeferred, sts[0].State, "the outcome is recorded though the work was cancelled")
	})
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
