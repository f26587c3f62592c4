package securemail_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

type classifier func(*securemail.Draft) (securemail.Class, error)

func (c classifier) Classify(_ context.Context, d *securemail.Draft, _ *securemail.Message) (securemail.Class, error) {
	return c(d)
}

type tracker func() (*securemail.Message, error)

func (f tracker) Instrument(_ context.Context, p *securemail.Parcel, _ securemail.Tracking) (*securemail.Message, error) {
	m, err := f()
	if m == nil && err == nil {
		return p.Message.WithHead(append([]byte("X-Tracked: yes\r\n"), p.Message.Head()...))
	}
	return m, err
}

type signer struct{ err error }

func (s signer) Sign(_ context.Context, p *securemail.Parcel) (*securemail.Message, error) {
	if s.err != nil {
		return nil, s.err
	}
	return p.Message.WithHead(append([]byte("X-Signed: yes\r\n"), p.Message.Head()...))
}

type archiver struct {
	mu     sync.Mutex
	err    error
	stages []string
}

func (a *archiver) Archive(_ context.Context, r *securemail.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.stages = append(a.stages, r.Stage)
	}
	return a.err
}

func TestClassifier(t *testing.T) {
	var say error
	var class securemail.Class
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Classifier = classifier(func(*securemail.Draft) (securemail.Class, error) { return class, say })
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelAny}}})
	})
	k.Transport.Script("x.example", securemailtest.Answer{Wire: securemailtest.Clear()})
	class.Level = securemail.LevelCleared
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Transport.RequireSent(t, "a@x.example") // cleared content may leave in clear
	say = errFlaky
	send(t, k, draft("b@x.example"))
	k.Pass(t)
	k.Transport.RequireSent(t, "a@x.example") // not classified is PHI
	say = securemail.ErrRefused
	_, err := k.Send(context.Background(), draft("c@x.example"))
	require.ErrorIs(t, err, securemail.ErrRefused)
}

// TestCodesNeverLeaveInClear: a Classifier may clear the portal's mail, and a Policy take its floor away; a code in it would
// open the deposit.
func TestCodesNeverLeaveInClear(t *testing.T) {
	for channel, wire := range map[securemail.Channel]securemail.Wire{
		securemail.ChannelAny: securemailtest.Clear(), securemail.ChannelEncrypted: securemailtest.Encrypted(),
	} {
		k := securemailtest.New(t, func(c *securemail.Config) {
			c.Classifier = classifier(func(*securemail.Draft) (securemail.Class, error) {
				return securemail.Class{Level: securemail.LevelCleared}, nil
			})
			c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: channel}}})
			c.Service.Kind = "part"
		})
		k.Transport.Script("x.example", securemailtest.Answer{Wire: wire})
		d := draft("a@x.example")
		d.Purpose = securemail.PurposeSystem
		send(t, k, d)
		k.Pass(t)
		if channel == securemail.ChannelAny {
			k.Transport.RequireNone(t)
		} else {
			k.Transport.RequireSent(t, "a@x.example")
		}
	}
}

func TestTrackingOnlyWhereTheChoiceAllowsIt(t *testing.T) {
	tlsTracked := tlsNamed
	tlsTracked.Track = securemail.TrackOpens
	for _, c := range []struct {
		name    string
		choice  securemail.Choice
		want    securemail.Tracking
		tracker tracker
		tracked bool
	}{
		{"allowed and wanted", tlsTracked, securemail.TrackOpens, func() (*securemail.Message, error) { return nil, nil }, true},
		{"not wanted", tlsTracked, 0, func() (*securemail.Message, error) { return nil, nil }, false},
		{"not allowed", tlsNamed, securemail.TrackOpens, func() (*securemail.Message, error) { return nil, nil }, false},
		{"doubt", tlsTracked, securemail.TrackOpens, func() (*securemail.Message, error) { return nil, errFlaky }, false},
		{"sealed", securemail.Choice{Method: securemail.MethodEscrow, Channel: securemail.ChannelAny, Track: securemail.TrackOpens},
			securemail.TrackOpens, func() (*securemail.Message, error) { return nil, nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := securemailtest.New(t, func(cfg *securemail.Config) {
				cfg.Policy, cfg.Tracker = fixed(securemail.Decision{Choices: []securemail.Choice{c.choice}}), c.tracker
				cfg.Encryptors = append(cfg.Encryptors, &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}})
			})
			d := draft("a@x.example")
			d.Track = c.want
			send(t, k, d)
			k.Pass(t)
			sent := k.Transport.RequireSent(t, "a@x.example")
			require.Equal(t, c.tracked, len(sent[0].Message.Header("X-Tracked")) > 0)
		})
	}
}

func TestSigner(t *testing.T) {
	s := &signer{}
	k := securemailtest.New(t, func(c *securemail.Config) { c.Signer = s })
	s.err = errFlaky
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Transport.RequireNone(t)
	s.err = nil
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	sent := k.Transport.RequireSent(t, "a@x.example")
	require.Equal(t, []string{"yes"}, sent[0].Message.Header("X-Signed"))
}

func TestArchiveBeforeAnyByteLeaves(t *testing.T) {
	a := &archiver{err: errFlaky}
	k := securemailtest.New(t, func(c *securemail.Config) { c.Archiver = a; c.Workers = 1 })
	send(t, k, draft("a@x.example", "b@x.example"))
	k.Pass(t)
	k.Transport.RequireNone(t)
	a.err = nil
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	k.Transport.RequireSent(t, "a@x.example", "b@x.example")
	require.Equal(t, []string{"original", "sent", "sent"}, a.stages, "the original once a Submission")
}

func TestArchiveOfReceiptFailingIsAFault(t *testing.T) {
	a := &archiver{}
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Archiver = a
		inner := c.Transport
		c.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			a.err = errFlaky
			return inner.Deliver(ctx, s)
		})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, securemail.StateDelivered, only(t, k).State)
	require.Equal(t, []string{"archive-sent"}, faults(k))
}

func faults(k *securemailtest.Kit) (rules []string) {
	for _, e := range k.Queue.Events() {
		if e.Kind == "fault" {
			rules = append(rules, e.Detail["rule"])
		}
	}
	return rules
}

// brokenEncryptor breaks its contract.
type brokenEncryptor struct {
	result *securemail.Sealed
	undo   error
}

func (brokenEncryptor) Method() securemail.Method { return securemail.MethodEscrow }
func (b brokenEncryptor) Undo(context.Context, securemail.ParcelID) error {
	return b.undo
}
func (b brokenEncryptor) Encrypt(context.Context, *securemail.Job) (*securemail.Sealed, error) {
	return b.result, nil
}

func TestEncryptorThatBreaksItsContractHolds(t *testing.T) {
	other, err := securemail.NewMessage(securemail.Bytes([]byte("Message-ID: <x@y>\r\n\r\nx\r\n")))
	require.NoError(t, err)
	for _, r := range []*securemail.Sealed{nil, {}, {Message: other}} {
		k := securemailtest.New(t, func(c *securemail.Config) {
			c.Encryptors = append(c.Encryptors, brokenEncryptor{result: r})
			c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{{Method: securemail.MethodEscrow, Channel: securemail.ChannelAny}}})
		})
		send(t, k, draft("a@x.example"))
		k.Pass(t)
		k.Transport.RequireNone(t)
		require.Equal(t, securemail.StateHeld, only(t, k).State)
		require.Equal(t, []string{"encryptor-result"}, faults(k))
	}
}

func TestUndoThatFailsIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := securemailtest.New(t, func(c *securemail.Config) { c.Encryptors = append(c.Encryptors, brokenEncryptor{undo: errFlaky}) })
		k.Transport.Script("x.example", securemailtest.Answer{Before: errFlaky}, securemailtest.Answer{})
		send(t, k, draft("a@x.example"))
		k.Pass(t)
		k.Clock.Advance(time.Minute)
		k.Pass(t)
		require.Equal(t, securemail.StateDelivered, only(t, k).State)
		require.Equal(t, []string{"undo-failed"}, faults(k))
	})
}

// TestUndoOutlivesACrash: the parcel's end is recorded, and the program dies before anything is undone.
func TestUndoOutlivesACrash(t *testing.T) {
	escrow := &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}}
	k := securemailtest.New(t, func(c *securemail.Config) { c.Encryptors = append(c.Encryptors, escrow) })
	sub := send(t, k, draft("a@x.example"))
	ls, err := k.Queue.Take(context.Background(), k.Clock.Now(), 1, 0)
	require.NoError(t, err)
	st := ls[0].Last
	st.State, st.Attempt = securemail.StateBounced, 1
	st.Reasons = []securemail.Reason{{Rule: "choice/escrow", Text: "delivery: rcpt"}}
	require.NoError(t, k.Queue.Mark(context.Background(), securemail.Mark{Lease: ls[0], Status: st, Events: []securemail.Event{
		{ID: "end", Kind: string(st.State), Status: st},
	}}))
	k.Queue.Crash()
	require.Zero(t, k.Pass(t))
	require.Equal(t, 1, escrow.undone[sub.Parcels[0].ID])
	k.Pass(t)
	require.Equal(t, 1, escrow.undone[sub.Parcels[0].ID], "once")
}

func TestCancelUndoesWhatAnAttemptLeft(t *testing.T) {
	escrow := &scriptedEncryptor{method: securemail.MethodEscrow, trace: &trace{}}
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Encryptors = append(c.Encryptors, escrow)
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{{Method: securemail.MethodEscrow, Channel: securemail.ChannelAny}}})
	})
	k.Transport.Script("x.example", securemailtest.Answer{Before: errFlaky})
	sub := send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Zero(t, escrow.undone[sub.Parcels[0].ID])
	require.NoError(t, k.Order(context.Background(), securemail.Cancel, sub.Parcels[0].ID))
	k.Pass(t)
	require.Equal(t, 1, escrow.undone[sub.Parcels[0].ID])
}

// TestHeldMailExpiresToo: nobody looked in time, and the sender must not wait for ever.
func TestHeldMailExpiresToo(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Policy = fixed(securemail.Decision{}) })
	d := draft("a@x.example", "b@x.example")
	d.UsefulUntil = k.Clock.Now().Add(time.Hour)
	sub := send(t, k, d)
	require.NoError(t, k.Order(context.Background(), securemail.Hold, sub.Parcels[1].ID))
	k.Pass(t)
	for _, st := range statuses(t, k, securemail.Query{}) {
		require.Equal(t, securemail.StateHeld, st.State)
		require.Equal(t, d.UsefulUntil, st.Next)
	}
	sts, err := k.Wait(context.Background(), sub)
	require.NoError(t, err, "held mail waits for a person: Wait does not")
	require.Len(t, sts, 2)
	k.Clock.Advance(59 * time.Minute)
	require.Zero(t, k.Pass(t))
	k.Clock.Advance(time.Minute)
	require.Equal(t, 2, k.Pass(t))
	for _, st := range statuses(t, k, securemail.Query{}) {
		require.Equal(t, securemail.StateExpired, st.State)
	}
	k.Transport.RequireNone(t)
}

func TestMethodWithoutEncryptorHolds(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Policy = fixed(securemail.Decision{Choices: []securemail.Choice{{Method: "quantum", Channel: securemail.ChannelAny}, tlsNamed}})
		c.Keys = securemail.KeySourceFunc(func(context.Context, securemail.Lookup) ([]securemail.Key, error) { return nil, securemail.ErrNoKey })
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	k.Transport.RequireNone(t)
	require.Equal(t, securemail.StateHeld, only(t, k).State)
	es, err := k.Explain(context.Background(), draft("a@x.example"))
	require.NoError(t, err)
	require.Equal(t, securemail.MethodTLS, es[0].Use.Method)
}

type methodsPolicy struct{ securemail.Policy }

func (methodsPolicy) Methods() []securemail.Method {
	return []securemail.Method{securemail.MethodTLS, securemail.MethodPGP}
}

func TestNewChecksThePolicysMethods(t *testing.T) {
	var c securemail.Config
	securemailtest.New(t, func(cfg *securemail.Config) { c = *cfg })
	c.Policy = methodsPolicy{c.Policy}
	_, err := securemail.New(c)
	require.ErrorContains(t, err, "no encryptor for pgp")
}

// TestPolicySeesWhatItNeeds: the keys that the Policy saw are those that the Encryptor gets; expired and foreign ones are
// not among them.
func TestPolicySeesWhatItNeeds(t *testing.T) {
	var got []securemail.Key
	now := (&securemailtest.Clock{}).Now()
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Encryptors = append(c.Encryptors, keyCatcher{&got})
		var asked atomic.Int32
		c.Keys = securemail.KeySourceFunc(func(_ context.Context, l securemail.Lookup) ([]securemail.Key, error) {
			asked.Add(1)
			return []securemail.Key{
				{Method: l.Method, Fingerprint: fmt.Sprint(asked.Load())},
				{Method: l.Method, Fingerprint: "old", NotAfter: now.Add(-time.Hour)}, {Method: "other", Fingerprint: "other"},
			}, nil
		})
		c.Policy = securemail.PolicyFunc(func(_ context.Context, f securemail.Facts) (securemail.Decision, error) {
			if _, ok := f.Keys[securemail.MethodPGP]; !ok || f.Route == nil {
				return securemail.Decision{Need: []securemail.Method{securemail.MethodPGP, securemail.MethodTLS}}, nil
			}
			return securemail.Decision{Policy: "p", Choices: []securemail.Choice{{Method: securemail.MethodPGP, Channel: securemail.ChannelAny}}}, nil
		})
	})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, []securemail.Key{{Method: securemail.MethodPGP, Fingerprint: "1"}}, got)
	var decided *securemail.Event
	for _, e := range k.Queue.Events() {
		if e.Decision != nil {
			require.Nil(t, decided, "recorded once")
			decided = &e
		}
	}
	require.Equal(t, "attempting", decided.Kind)
	require.True(t, decided.Facts.Route.Known)
	require.Equal(t, got, decided.Facts.Keys[securemail.MethodPGP].Keys)
}

type keyCatcher struct{ got *[]securemail.Key }

func (keyCatcher) Method() securemail.Method                       { return securemail.MethodPGP }
func (keyCatcher) Undo(context.Context, securemail.ParcelID) error { return nil }
func (k keyCatcher) Encrypt(_ context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	*k.got = j.Keys
	return &securemail.Sealed{Message: j.Message}, nil
}

// flakyQueue fails Marks of outcomes a few times, and is a Runner.
type flakyQueue struct {
	*securemailtest.Queue
	fails atomic.Int32
	lost  bool
	beats atomic.Int32
}

func (q *flakyQueue) Mark(ctx context.Context, ms ...securemail.Mark) error {
	if ms[0].Status.State != securemail.StateAttempting {
		if q.lost {
			return securemail.ErrLease
		}
		if q.fails.Add(-1) >= 0 {
			return errFlaky
		}
	}
	return q.Queue.Mark(ctx, ms...)
}

func (q *flakyQueue) Run(ctx context.Context) error {
	q.beats.Add(1)
	<-ctx.Done()
	return nil
}

func TestMarkIsRepeatedUntilItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &flakyQueue{Queue: securemailtest.NewQueue(time.Now)}
		q.fails.Store(7)
		k := securemailtest.New(t, func(c *securemail.Config) { c.Queue, c.Outbox, c.Now = q, q, time.Now })
		send(t, k, draft("a@x.example"))
		k.Pass(t)
		require.Equal(t, securemail.StateDelivered, only(t, k).State)
		require.Equal(t, int32(1), q.beats.Load())
		q.lost = true
		send(t, k, draft("b@x.example"))
		k.Pass(t)
	})
}

func TestTransportFaults(t *testing.T) {
	for _, c := range []struct {
		name   string
		intend bool
		err    error
		want   securemail.State
		fault  string
	}{
		{"no receipt", false, nil, securemail.StateDeferred, "receipt-missing"},
		{"no receipt after intent", true, nil, securemail.StateUncertain, "receipt-missing"},
		{"channel error after intent", true, securemail.ErrChannel, securemail.StateUncertain, "channel-error-after-intent"},
		{"hold", false, securemail.ErrHold, securemail.StateHeld, ""},
		{"plain before intent", false, errFlaky, securemail.StateDeferred, ""},
		{"plain after intent", true, errFlaky, securemail.StateUncertain, ""},
		{"permanent", true, &securemail.DeliveryError{Stage: "dot", Code: 554, Fate: securemail.FatePermanent}, securemail.StateBounced, ""},
		{"retry after intent", true, &securemail.DeliveryError{Stage: "dot", Code: 451}, securemail.StateDeferred, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := securemailtest.New(t, func(cfg *securemail.Config) {
				cfg.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
					if c.intend {
						if err := errors.Join(s.Intend(ctx), s.Intend(ctx)); err != nil {
							return nil, err
						}
					}
					return nil, c.err
				})
			})
			send(t, k, draft("a@x.example"))
			k.Pass(t)
			require.Equal(t, c.want, only(t, k).State)
			if c.fault != "" {
				require.Equal(t, []string{c.fault}, faults(k))
			}
		})
	}
}

func TestChannelThatMayImproveIsRetried(t *testing.T) {
	k := securemailtest.New(t, nil)
	k.Transport.Script("x.example", securemailtest.Answer{Wire: securemailtest.Clear(), TemporaryChannel: true}, securemailtest.Answer{})
	send(t, k, draft("a@x.example"))
	k.Pass(t)
	require.Equal(t, securemail.StateDeferred, only(t, k).State)
	require.Contains(t, fmt.Sprint(only(t, k).Reasons), "floor")
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	k.Transport.RequireSent(t, "a@x.example")
}

// txQueue joins transactions by noting them.
type txQueue struct {
	*securemailtest.Queue
	tx *sql.Tx
}

func (q *txQueue) PutTx(ctx context.Context, tx *sql.Tx, b *securemail.Batch) (*securemail.Submission, error) {
	q.tx = tx
	return q.Put(ctx, b)
}

func TestSendTxShowsTheTransactionToGates(t *testing.T) {
	var seen *sql.Tx
	q := &txQueue{Queue: securemailtest.NewQueue(nil)}
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Queue, c.Outbox = q, q
		c.Gates = []securemail.Gate{securemail.GateFunc(func(ctx context.Context, _ *securemail.Parcel) error {
			seen, _ = securemail.TxOf(ctx)
			return nil
		})}
	})
	tx := new(sql.Tx)
	_, err := k.SendTx(context.Background(), tx, draft("a@x.example"))
	require.NoError(t, err)
	require.Same(t, tx, seen)
	require.Same(t, tx, q.tx)
}

func TestDefaultRetryGrowsAndIsBounded(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Retry, c.GiveUp = nil, 1000*time.Hour })
	k.Transport.Script("x.example", securemailtest.Answer{Before: errFlaky})
	send(t, k, draft("a@x.example"))
	var waits []time.Duration
	for range 14 {
		k.Pass(t)
		w := only(t, k).Next.Sub(k.Clock.Now())
		waits = append(waits, w)
		k.Clock.Advance(w)
	}
	require.True(t, slices.IsSortedFunc(waits[:8], func(a, b time.Duration) int { return int(a - b) }))
	require.GreaterOrEqual(t, waits[0], time.Minute)
	require.LessOrEqual(t, waits[13], 4*time.Hour*12/10)
}

func TestCanaryStaysOutOfErrorsAndLogs(t *testing.T) {
	var log bytes.Buffer
	k := securemailtest.New(t, func(c *securemail.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	const canary = "c4n4ry"
	k.Transport.Script("x.example", securemailtest.Answer{
		After: &securemail.DeliveryError{Stage: "rcpt", Code: 550, Remote: "no mailbox " + canary},
	})
	d := draft(canary + "@x.example")
	d.Subject, d.Text = canary, canary
	send(t, k, d)
	k.Pass(t)
	bad := draft("no address " + canary)
	bad.Header = map[string][]string{"X-Bad": {canary + "\r\n" + canary}}
	_, err := k.Send(context.Background(), bad)
	require.Error(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), canary)
	require.NotContains(t, log.String(), canary)
	for _, e := range k.Queue.Events() {
		j, err := e.MarshalJSON()
		require.NoError(t, err)
		require.NotContains(t, string(j), canary)
		require.NotContains(t, fmt.Sprintf("%+v", e.Reasons)+e.Failure, canary)
	}
}
