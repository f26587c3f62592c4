package securemail_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// --- Replace and Wait

func TestReplaceThatFailsLosesNothing(t *testing.T) {
	ctx := context.Background()
	refuse := false
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Gates = []securemail.Gate{securemail.GateFunc(func(context.Context, *securemail.Parcel) error {
			if refuse {
				return securemail.ErrRefused
			}
			return nil
		})}
	})
	later := k.Clock.Now().Add(time.Hour)
	first := draft("a@x.example")
	first.Key, first.Labels, first.NotBefore = "k", map[string]string{"n": "1"}, later
	send(t, k, first)
	q := securemail.Query{Labels: first.Labels}

	conflict := *first
	conflict.Subject = "Moved"
	_, err := k.Replace(ctx, q, &conflict)
	require.ErrorIs(t, err, securemail.ErrConflict)
	require.Equal(t, securemail.StateAccepted, only(t, k).State)

	conflict.Key, refuse = "", true
	_, err = k.Replace(ctx, q, &conflict)
	require.ErrorIs(t, err, securemail.ErrRefused)
	open := statuses(t, k, securemail.Query{States: []securemail.State{securemail.StateAccepted}})
	require.Len(t, open, 1, "a replacement that nobody may get leaves the first one as it is")

	refuse = false
	k.Queue.Fail(errFlaky)
	_, err = k.Replace(ctx, q, &conflict)
	require.ErrorIs(t, err, errFlaky)
	k.Queue.Fail(nil)
	require.Len(t, statuses(t, k, securemail.Query{States: []securemail.State{securemail.StateAccepted}}), 1)
}

func TestReplaceRepeatedKeepsItsOwn(t *testing.T) {
	ctx := context.Background()
	k := securemailtest.New(t, nil)
	d := draft("a@x.example")
	d.Labels, d.NotBefore = map[string]string{"n": "1"}, k.Clock.Now().Add(time.Hour)
	send(t, k, d)
	next := *d
	next.Subject, next.Key = "Moved", "k"
	for range 2 {
		_, err := k.Replace(ctx, securemail.Query{Labels: d.Labels}, &next)
		require.NoError(t, err)
	}
	k.Clock.Advance(2 * time.Hour)
	k.Pass(t)
	sent := k.Transport.RequireSent(t, "a@x.example")
	require.Equal(t, []string{"Moved"}, sent[0].Message.Header("Subject"))
}

func TestReplaceAsksForOrderFirst(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Authorizer = securemail.AuthorizerFunc(func(_ context.Context, _ securemail.Actor, act securemail.Action, _ securemail.Resource) error {
			if act == "order" {
				return securemail.ErrDenied
			}
			return nil
		})
	})
	d := draft("a@x.example")
	d.Labels = map[string]string{"n": "1"}
	send(t, k, d)
	_, err := k.Replace(context.Background(), securemail.Query{Labels: d.Labels}, d)
	require.ErrorIs(t, err, securemail.ErrDenied)
	only(t, k)
}

func TestWaitForWhatIsNotThere(t *testing.T) {
	k := securemailtest.New(t, nil)
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	_, err := k.Wait(context.Background(), &securemail.Submission{})
	require.Error(t, err, "no id does not mean all")
	_, err = k.Wait(context.Background(), &securemail.Submission{ID: "unknown"})
	require.ErrorIs(t, err, securemail.ErrTenant)
	// A SendTx that is not committed yet is not settled.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := k.Wait(ctx, &securemail.Submission{ID: "later", Parcels: make([]securemail.Status, 1)})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// --- broken parts

// TestIntendBehindTheDelivery: a Transport that left a goroutine running can't make it send behind the attempt's back.
func TestIntendBehindTheDelivery(t *testing.T) {
	var late func(context.Context) error
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{tlsNamed, tlsNamed}})
		c.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			if late == nil {
				late = s.Intend
				return nil, securemail.ErrChannel
			}
			require.Error(t, late(ctx), "the first Choice is over")
			return nil, errFlaky
		})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, securemail.StateDeferred, only(t, k).State)
}

// TestUncertainOutweighsEverything: a composite Transport may join errors.
func TestUncertainOutweighsEverything(t *testing.T) {
	lost := &securemail.DeliveryError{Stage: "dot", Fate: securemail.FateUncertain}
	for _, err := range []error{
		errors.Join(securemail.ErrChannel, lost),
		errors.Join(&securemail.DeliveryError{Stage: "rcpt", Fate: securemail.FatePermanent}, lost),
		errors.Join(securemail.ErrHold, lost),
		&securemail.DeliveryError{Stage: "rcpt", Err: lost},
	} {
		k := securemailtest.New(t, func(c *securemail.Config) {
			c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{tlsNamed, tlsNamed}})
		})
		k.Transport.Script("x.example", securemailtest.Answer{Before: err}, securemailtest.Answer{})
		send(t, k, draft("a@x.example"))
		k.Pass(t)
		require.Equal(t, securemail.StateUncertain, only(t, k).State)
		k.Transport.RequireNone(t)
	}
}

// panicking is every part there is, and breaks down in the one named.
type panicking struct{ where string }

func (p panicking) do(where string) {
	if p.where == where {
		panic("canary")
	}
}

func (p panicking) Method() securemail.Method                       { return securemail.MethodPGP }
func (p panicking) Undo(context.Context, securemail.ParcelID) error { return nil }
func (p panicking) Encrypt(_ context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	p.do("encrypt")
	return &securemail.Sealed{Message: j.Message}, nil
}

func (p panicking) Keys(context.Context, securemail.Lookup) ([]securemail.Key, error) {
	p.do("keys")
	return []securemail.Key{{Method: securemail.MethodPGP}}, nil
}

func (p panicking) Probe(context.Context, string, string) (securemail.Route, error) {
	p.do("probe")
	return securemail.Route{}, nil
}

func (p panicking) Decide(_ context.Context, f securemail.Facts) (securemail.Decision, error) {
	p.do("policy")
	if f.Route == nil {
		return securemail.Decision{Need: []securemail.Method{securemail.MethodTLS}}, nil
	}
	return securemail.Decision{Choices: []securemail.Choice{{Method: securemail.MethodPGP, Channel: securemail.ChannelAny}}}, nil
}

func (p panicking) Emit(context.Context, securemail.Event) error {
	p.do("sink")
	return nil
}

// TestPartThatPanics: one part's breakdown over one parcel neither stops the program nor loses the parcel.
func TestPartThatPanics(t *testing.T) {
	for _, c := range []struct {
		where string
		want  securemail.State
		fault []string
	}{
		{"", securemail.StateDelivered, nil},
		{"encrypt", securemail.StateDeferred, []string{"panic"}},
		{"keys", securemail.StateDeferred, nil},
		{"probe", securemail.StateDelivered, nil},
		{"policy", securemail.StateDeferred, []string{"panic"}},
		{"before", securemail.StateDeferred, []string{"panic"}},
		{"after", securemail.StateUncertain, []string{"panic"}},
		{"sink", securemail.StateDelivered, nil},
	} {
		t.Run(c.where, func(t *testing.T) {
			var log bytes.Buffer
			k := securemailtest.New(t, func(cfg *securemail.Config) {
				p, inner := panicking{c.where}, cfg.Transport
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				cfg.Policy, cfg.Keys, cfg.Prober, cfg.Encryptors = p, p, p, []securemail.Encryptor{p}
				cfg.Sinks = map[string]securemail.Sink{"s": p}
				cfg.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
					p.do("before")
					r, err := inner.Deliver(ctx, s)
					p.do("after")
					return r, err
				})
			})
			send(t, k, draft("a@x.example"))
			_, err := k.RunDue(context.Background())
			require.Equal(t, c.where == "sink", err != nil)
			require.Equal(t, c.want, only(t, k).State)
			require.Equal(t, c.fault, faults(k))
			require.NotContains(t, log.String(), "canary")
			_, err = k.Explain(context.Background(), draft("b@x.example"))
			require.NoError(t, err)
		})
	}
}

func TestPanicEndsInHands(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Policy = panicking{"policy"} })
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Clock.Advance(6 * 24 * time.Hour)
	k.Pass(t)
	require.Equal(t, securemail.StateHeld, only(t, k).State)
}

func TestSendBatchContainsPanics(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Classifier = classifier(func(d *securemail.Draft) (securemail.Class, error) {
			if d.Subject == "bad" {
				panic("canary")
			}
			return securemail.Class{}, nil
		})
	})
	bad := draft("b@x.example")
	bad.Subject = "bad"
	rs := k.SendBatch(context.Background(), []*securemail.Draft{draft("a@x.example"), bad, nil})
	require.NoError(t, rs[0].Err)
	require.EqualError(t, rs[1].Err, "securemail: a part panicked")
	require.Equal(t, "Draft:required", fieldOf(rs[2].Err))
}

func TestNewRefusesNilParts(t *testing.T) {
	k := securemailtest.New(t, nil)
	_, err := securemail.New(securemail.Config{
		Policy: fixed(securemail.Decision{}), Transport: k.Transport, Queue: k.Queue, Outbox: k.Queue, Ledger: k.Ledger,
		Encryptors: []securemail.Encryptor{panicking{}}, Gates: []securemail.Gate{nil}, Parts: []securemail.Runner{nil},
		Domain: "a.example>\r\nBcc: b@x.example", Service: securemail.Actor{ID: "x"},
	})
	require.EqualError(t, err, "securemail: config: Gates[0] (required)\nsecuremail: config: Parts[0] (required)\n"+
		"securemail: config: Domain (no domain in lower case A-labels)\nsecuremail: config: Service (ID and Kind go together)")
}

// --- time

func TestUselessIsNotDeliveredAgain(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{tlsNamed}, Uncertain: securemail.OutcomeRetry})
	})
	k.Transport.Script("x.example", securemailtest.Answer{After: errFlaky}, securemailtest.Answer{})
	d := draft("a@x.example")
	d.UsefulUntil = k.Clock.Now().Add(30 * time.Second)
	send(t, k, d)
	k.Pass(t)
	k.Clock.Advance(time.Hour)
	k.Pass(t)
	k.Transport.RequireNone(t)
	st := only(t, k)
	require.Equal(t, securemail.StateUncertain, st.State)
	require.Zero(t, st.Next)
}

func TestNotYetStaysWithinBounds(t *testing.T) {
	var until time.Time
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Gates = []securemail.Gate{securemail.GateFunc(func(context.Context, *securemail.Parcel) error {
			return &securemail.NotYet{Until: until}
		})}
	})
	until = time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC)
	d := draft("a@x.example")
	d.UsefulUntil = k.Clock.Now().Add(time.Hour)
	require.Equal(t, d.UsefulUntil, send(t, k, d).Parcels[0].NotBefore, "so that the sender learns in time that it expired")
	require.Equal(t, 9999, send(t, k, draft("b@x.example")).Parcels[0].NotBefore.Year())

	until = time.Time{} // a gate that names no time is asked again as after a failure, not every second
	sub := send(t, k, draft("c@x.example"))
	k.Pass(t)
	st := statuses(t, k, securemail.Query{Submission: sub.ID})[0]
	require.Equal(t, k.Clock.Now().Add(time.Minute), st.Next)
}

func TestTimesThatNoStoreCanHold(t *testing.T) {
	k := securemailtest.New(t, nil)
	for _, at := range []time.Time{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(-1, 0)} {
		d := draft("a@x.example")
		d.NotBefore, d.UsefulUntil, d.AccessUntil = at, at, at
		_, err := k.Send(context.Background(), d)
		require.Equal(t, "AccessUntil:time NotBefore:time UsefulUntil:time", fieldOf(err))
	}
	d := draft("a@x.example")
	d.NotBefore = k.Clock.Now()
	d.UsefulUntil = d.NotBefore
	_, err := k.Send(context.Background(), d)
	require.Equal(t, "UsefulUntil:time", fieldOf(err), "it could never be delivered")
}

func TestContactsThatNoStoreCanHold(t *testing.T) {
	k := securemailtest.New(t, nil)
	d := draft("a@x.example")
	d.From.Ref, d.To[0].Attrs = "\xff", map[string]string{"k": "a\nb"}
	d.To[0].Factors = []securemail.Factor{{Kind: "code", Hint: "\xff"}}
	_, err := k.Send(context.Background(), d)
	require.Equal(t, "From:utf8 To[0]:crlf To[0]:utf8", fieldOf(err))
}

func TestBacklogBehindScheduledMailIsSeen(t *testing.T) {
	var log bytes.Buffer
	k := securemailtest.New(t, func(c *securemail.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	d := draft("a@x.example")
	d.NotBefore = k.Clock.Now().Add(24 * time.Hour)
	send(t, k, d)
	k.Clock.Advance(time.Second)
	send(t, k, draft("b@x.example"))
	k.Clock.Advance(2 * time.Minute)
	send(t, k, draft("c@x.example"))
	require.Contains(t, log.String(), "nobody runs the queue")
}

func TestDeliveredHasNoFailure(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{tlsNamed, {Method: securemail.MethodEscrow, Channel: securemail.ChannelAny}}})
		c.Encryptors = append(c.Encryptors, &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}})
	})
	k.Transport.Script("x.example", securemailtest.Answer{Wire: securemailtest.Clear()})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	st := only(t, k)
	require.Equal(t, securemail.StateDelivered, st.State)
	require.Empty(t, st.Failure)
	require.True(t, slices.ContainsFunc(st.Reasons, func(r securemail.Reason) bool { return r.Rule == "choice/tls" }))
}

func TestClockSetBackEndsThePass(t *testing.T) {
	k := securemailtest.New(t, nil)
	n := 0
	k = securemailtest.New(t, func(c *securemail.Config) {
		c.Transport = securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
			if n++; n == 1 {
				k.Clock.Advance(-time.Hour)
			}
			if n > 100 {
				panic("the pass does not end")
			}
			return nil, errFlaky
		})
	})
	send(t, k, draft("a@x.example"))
	require.Equal(t, 1, k.Pass(t))
}

func TestSendBatchStopsWithItsContext(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Classifier = classifier(func(*securemail.Draft) (securemail.Class, error) { panic("asked") })
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	rs := k.SendBatch(ctx, []*securemail.Draft{draft("a@x.example")})
	require.ErrorIs(t, rs[0].Err, context.Canceled)
}

type wrongTenants struct{}

func (wrongTenants) Tenant(context.Context, string) (securemail.Tenant, error) {
	return securemail.Tenant{ID: "north", From: []string{"*"}}, nil
}

func TestTenantsMustAnswerWhatWasAsked(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Tenants = wrongTenants{} })
	ctx := securemail.WithActor(context.Background(), securemail.Actor{Tenant: "south", ID: "u", Kind: "person"})
	_, err := k.Send(ctx, draft("a@x.example"))
	require.ErrorIs(t, err, securemail.ErrTenant)
}
