package securemailtest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a testing.TB whose failures are caught.
type recorder struct {
	testing.TB
}

func (recorder) Helper() {}
func (recorder) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// failure runs f and returns what it failed with, "" for nothing.
func failure(t *testing.T, f func(tb testing.TB)) (msg string) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			msg = fmt.Sprint(r)
		}
	}()
	f(recorder{t})
	return ""
}

func draft(text string, to ...string) *securemail.Draft {
	return &securemail.Draft{
		From: securemail.Mailbox("Clinic <clinic@example.org>"), To: securemail.To(to...), Subject: "Hello", Text: text,
		Purpose: securemail.PurposeTreatment, Labels: map[string]string{"visit": "1"},
	}
}

func send(t *testing.T, k *securemailtest.Kit, d *securemail.Draft) *securemail.Submission {
	t.Helper()
	sub, err := k.Send(context.Background(), d)
	require.NoError(t, err)
	return sub
}

func ExampleNew() {
	t := &testing.T{} // in a test: the test's own
	k := securemailtest.New(t, nil)
	_, err := k.Send(context.Background(), &securemail.Draft{
		From: securemail.Mailbox("clinic@example.org"), To: securemail.To("anna@example.net"),
		Subject: "Your appointment", Text: "Tomorrow at nine.\n", Purpose: securemail.PurposeTreatment,
	})
	fmt.Println(err)
	k.Pass(t)
	k.Transport.RequireSent(t, "anna@example.net")
	k.Transport.RequireSecret(t, "Tomorrow at nine")
	fmt.Println(len(k.Transport.Sent()))
	// Output:
	// <nil>
	// 1
}

func TestRequireSent(t *testing.T) {
	k := securemailtest.New(t, nil)
	k.Transport.RequireNone(t)
	send(t, k, draft("x\n", "a@x.example", "b@x.example"))
	require.Contains(t, failure(t, func(tb testing.TB) { k.Transport.RequireSent(tb, "a@x.example") }), "nothing left")
	k.Pass(t)
	k.Transport.RequireSent(t, "B@x.example", "a@x.example")
	require.Contains(t, failure(t, func(tb testing.TB) { k.Transport.RequireSent(tb, "a@x.example") }), "1 more")
	require.Contains(t, failure(t, func(tb testing.TB) { k.Transport.RequireNone(tb) }), "2 messages left")
}

// opportunistic lets everything leave, as no real policy for PHI does.
func opportunistic(c *securemail.Config) {
	c.Policy = securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
		return securemail.Decision{Policy: "any", Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelAny}}}, nil
	})
	c.Classifier = cleared{}
}

type cleared struct{}

func (cleared) Classify(context.Context, *securemail.Draft, *securemail.Message) (securemail.Class, error) {
	return securemail.Class{Level: securemail.LevelCleared}, nil
}

func TestRequireSecretSeesThroughEncodings(t *testing.T) {
	for name, d := range map[string]*securemail.Draft{
		"plain":  draft("the diagnosis\n", "a@x.example"),
		"coded":  draft("é the diagnosis é ü ö ä ß é é é é\n", "a@x.example"),
		"header": {From: securemail.Mailbox("c@example.org"), To: securemail.To("a@x.example"), Subject: "é the diagnosis é", Text: "x\n"},
		"file": {From: securemail.Mailbox("c@example.org"), To: securemail.To("a@x.example"), Subject: "x", Text: "x\n", Attachments: []securemail.Attachment{
			{Name: "a.bin", Content: securemail.Bytes([]byte("\x01\x02 the diagnosis \x03"))},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			k := securemailtest.New(t, opportunistic)
			k.Transport.Script("x.example", securemailtest.Answer{Wire: securemailtest.Clear()})
			send(t, k, d)
			k.Pass(t)
			require.Contains(t, failure(t, func(tb testing.TB) { k.Transport.RequireSecret(tb, "the diagnosis") }), "the secret left")
			k.Transport.RequireSecret(t, "another secret")
		})
	}
	k := securemailtest.New(t, opportunistic)
	k.Transport.Script("x.example", securemailtest.Answer{Wire: securemailtest.Named()})
	send(t, k, draft("the diagnosis\n", "a@x.example"))
	k.Pass(t)
	k.Transport.RequireSecret(t, "the diagnosis")
}

func TestFloors(t *testing.T) {
	wires := []securemail.Wire{securemailtest.Verified(), securemailtest.Named(), securemailtest.Encrypted(), securemailtest.Clear()}
	for i, w := range wires {
		for c := securemail.ChannelVerified; c <= securemail.ChannelAny; c++ {
			require.Equal(t, i <= int(c), w.Meets(c))
		}
	}
}

func TestAnswersInTurn(t *testing.T) {
	k := securemailtest.New(t, nil)
	k.Transport.Script("x.example",
		securemailtest.Answer{Before: errors.New("busy")}, securemailtest.Answer{Wire: securemailtest.Clear(), TemporaryChannel: true}, securemailtest.Answer{})
	send(t, k, draft("x\n", "a@x.example"))
	for range 2 {
		k.Pass(t)
		k.Transport.RequireNone(t)
		k.Clock.Advance(time.Minute)
	}
	k.Pass(t)
	k.Transport.RequireSent(t, "a@x.example")
	r, err := k.Transport.Probe(context.Background(), "", "y.example")
	require.NoError(t, err)
	require.True(t, r.Known && r.Meets(securemail.ChannelVerified))
}

func TestDesk(t *testing.T) {
	ctx := context.Background()
	k := securemailtest.New(t, nil)
	sub := send(t, k, draft("x\n", "a@x.example", "b@x.example"))
	count := func(q securemail.Query) (n int) {
		for _, err := range k.Find(ctx, q) {
			require.NoError(t, err)
			n++
		}
		return n
	}
	require.Equal(t, 2, count(securemail.Query{Labels: map[string]string{"visit": "1"}}))
	require.Zero(t, count(securemail.Query{Labels: map[string]string{"visit": "2"}}))
	require.Equal(t, 1, count(securemail.Query{Limit: 1}))
	require.Equal(t, 1, count(securemail.Query{After: sub.Parcels[0].ID}))
	require.Zero(t, count(securemail.Query{Ref: "p-1"}))
	a, b := sub.Parcels[0].ID, sub.Parcels[1].ID
	require.NoError(t, k.Order(ctx, securemail.Hold, a, b))
	require.Zero(t, k.Pass(t))
	require.NoError(t, k.Order(ctx, securemail.Release, a))
	require.NoError(t, k.Order(ctx, securemail.Retry, b))
	require.Equal(t, 2, k.Pass(t))
	require.ErrorIs(t, k.Order(ctx, securemail.Cancel, a), securemail.ErrFinal)
	require.ErrorIs(t, k.Queue.Order(ctx, securemail.Cancel, "other", a), securemail.ErrTenant)
	for range k.Find(ctx, securemail.Query{}) {
		break
	}
}

func TestQueueLeasesAndFaults(t *testing.T) {
	ctx := context.Background()
	q := securemailtest.NewQueue(nil)
	k := securemailtest.New(t, func(c *securemail.Config) { c.Queue, c.Outbox, c.Now = q, q, nil })
	q.Fail(errors.New("disk full"))
	_, err := k.Send(ctx, draft("x\n", "a@x.example"))
	require.EqualError(t, err, "disk full")
	q.Fail(nil)
	send(t, k, draft("x\n", "a@x.example"))
	ls, err := q.Take(ctx, time.Now(), 10, 0)
	require.NoError(t, err)
	require.Len(t, ls, 1)
	q.Crash()
	st := ls[0].Last
	st.State = securemail.StateHeld
	require.ErrorIs(t, q.Mark(ctx, securemail.Mark{Lease: ls[0], Status: st}), securemail.ErrLease)
	require.ErrorIs(t, q.Add(ctx, nil, securemail.Event{ID: "e1"}), nil)
	require.Error(t, q.Ack(ctx, "r", "unknown"))
	require.NoError(t, q.Ack(ctx, "r", "e1"))
	es, err := q.Next(ctx, "r", 10)
	require.NoError(t, err)
	require.Empty(t, es)
}

func TestTakeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := securemailtest.NewQueue(nil)
		ls, err := q.Take(t.Context(), time.Now(), 1, time.Second)
		require.NoError(t, err)
		require.Empty(t, ls)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = q.Take(ctx, time.Now(), 1, time.Second)
		require.ErrorIs(t, err, context.Canceled)
		go func() {
			time.Sleep(time.Millisecond)
			q.Crash()
		}()
		_, err = q.Take(t.Context(), time.Now(), 1, time.Second)
		require.NoError(t, err)
	})
}

func TestLedger(t *testing.T) {
	k := securemailtest.New(t, nil)
	send(t, k, draft("x\n", "anna@x.example"))
	k.Pass(t)
	for _, e := range k.Queue.Events() {
		b, err := k.Ledger.Prove(context.Background(), e.ID)
		require.NoError(t, err)
		require.NotContains(t, string(b), "anna")
	}
	_, err := k.Ledger.Prove(context.Background(), "unknown")
	require.Error(t, err)
}

func TestNewFailsTheTestOnABadConfig(t *testing.T) {
	require.NotEmpty(t, failure(t, func(tb testing.TB) {
		securemailtest.New(tb, func(c *securemail.Config) { c.Policy = nil })
	}))
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Sinks = map[string]securemail.Sink{"x": securemail.SinkFunc(func(context.Context, securemail.Event) error { return errors.New("x") })}
	})
	send(t, k, draft("x\n", "a@x.example"))
	require.NotEmpty(t, failure(t, func(tb testing.TB) { k.Pass(tb) }))
}
