package securemail_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

func eventsOf(k *securemailtest.Kit, kind string) []securemail.Event {
	var out []securemail.Event
	for _, e := range k.Queue.Events() {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func nurse() securemail.Actor {
	return securemail.Actor{
		ID: "nurse-1", Kind: "person", Auth: securemail.Auth{Method: "passkey", Session: "s1"},
		Origin: securemail.Origin{Network: "ward"},
	}
}

func TestADeniedCallIsRecordedBeforeItIsAnswered(t *testing.T) {
	var says error
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Authorizer = securemail.AuthorizerFunc(func(context.Context, securemail.Actor, securemail.Action, securemail.Resource) error { return says })
	})
	ctx := securemail.WithActor(t.Context(), nurse())
	for _, c := range []struct {
		why  string
		says error
		call func() error
		want map[string]string
	}{
		{"authorizer", securemail.ErrDenied, func() error { _, err := k.Send(ctx, draft("a@a.example")); return err },
			map[string]string{"action": "send", "resource": "submission", "why": "authorizer"}},
		{"step up", &securemail.StepUpError{}, func() error { return k.Order(ctx, securemail.Cancel, "p1") },
			map[string]string{"action": "order", "resource": "parcel", "id": "p1", "why": "step-up"}},
		{"foreign parcel", nil, func() error { return k.Order(ctx, securemail.Cancel, "p2") },
			map[string]string{"action": "order", "resource": "parcel", "id": "p2", "why": "tenant"}},
		{"foreign tenant", nil, func() error {
			for _, err := range k.Find(ctx, securemail.Query{Tenant: "other"}) {
				return err
			}
			return nil
		}, map[string]string{"action": "read.status", "resource": "parcel", "why": "tenant"}},
		{"purpose", nil, func() error {
			d := draft("a@a.example")
			d.Purpose = securemail.PurposeSystem
			_, err := k.Send(ctx, d)
			return err
		}, map[string]string{"action": "send", "resource": "submission", "why": "purpose"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			before := len(eventsOf(k, "denied"))
			says = c.says
			require.Error(t, c.call())
			es := eventsOf(k, "denied")
			require.Len(t, es, before+1)
			require.Equal(t, c.want, es[before].Detail)
			require.Equal(t, nurse(), es[before].By)
		})
	}
	says = errors.New("the database is away")
	before := len(k.Queue.Events())
	_, err := k.Send(ctx, draft("a@a.example"))
	require.ErrorIs(t, err, says)
	require.Len(t, k.Queue.Events(), before, "not known is no denial")
}

func TestAnUnknownTenantGetsNoScope(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Tenants = tenants{"known": {"@other.example"}} })
	a := nurse()
	a.Tenant = "made-up"
	_, err := k.Send(securemail.WithActor(t.Context(), a), draft("a@a.example"))
	require.ErrorIs(t, err, securemail.ErrTenant)
	a.Tenant = "known"
	_, err = k.Send(securemail.WithActor(t.Context(), a), draft("a@a.example"))
	require.ErrorIs(t, err, securemail.ErrTenant)
	es := eventsOf(k, "denied")
	require.Len(t, es, 2)
	require.Empty(t, es[0].By.Tenant, "events are sealed by tenant")
	require.Equal(t, "made-up", es[0].Detail["tenant"])
	require.Equal(t, "caller", es[0].Detail["why"])
	require.Equal(t, []string{"known", "author"}, []string{es[1].By.Tenant, es[1].Detail["why"]})
}

func TestWhoHammersIsCounted(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Authorizer = securemail.AuthorizerFunc(func(context.Context, securemail.Actor, securemail.Action, securemail.Resource) error {
			return securemail.ErrDenied
		})
	})
	for i := range 5000 {
		require.Error(t, k.Order(securemail.WithActor(t.Context(), nurse()), securemail.Cancel, securemail.ParcelID(fmt.Sprint("p", i))))
	}
	require.Len(t, eventsOf(k, "denied"), 1)
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	es := eventsOf(k, "denied")
	require.Len(t, es, 2)
	require.Equal(t, "4999", es[1].Detail["repeats"])
	for i := range 5000 { // under ever new names
		a := nurse()
		a.ID = fmt.Sprint("x", i)
		require.Error(t, k.Order(securemail.WithActor(t.Context(), a), securemail.Cancel, "p"))
	}
	require.Len(t, eventsOf(k, "denied"), 2+1024+1)
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	es = eventsOf(k, "denied")
	require.Len(t, es, 2+1024+2)
	require.Equal(t, fmt.Sprint(5000-1024-1), es[len(es)-1].Detail["repeats"])
	k.Clock.Advance(time.Minute)
	k.Pass(t)
	require.Len(t, eventsOf(k, "denied"), len(es), "once")
}

// joining is a Queue that says it joins transactions.
type joining struct{ *securemailtest.Queue }

func (q joining) PutTx(ctx context.Context, _ *sql.Tx, b *securemail.Batch) (*securemail.Submission, error) {
	return q.Put(ctx, b)
}

func TestADenialUnderSendTxIsWrittenOutsideOfIt(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) {
		c.Queue = joining{c.Queue.(*securemailtest.Queue)}
		c.Service = securemail.Actor{}
	})
	_, err := k.SendTx(t.Context(), new(sql.Tx), draft("a@a.example"))
	require.ErrorIs(t, err, securemail.ErrDenied)
	require.Empty(t, k.Queue.Events(), "the host's transaction may hold the only connection")
	k.Pass(t)
	es := eventsOf(k, "denied")
	require.Len(t, es, 1)
	require.Equal(t, map[string]string{"action": "send", "resource": "submission", "why": "caller"}, es[0].Detail)
}

// fullOutbox can't take events while full is set.
type fullOutbox struct {
	*securemailtest.Queue
	full bool
}

func (o *fullOutbox) Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if o.full {
		return errors.New("full")
	}
	return o.Queue.Add(ctx, tx, es...)
}

func TestWhatTheOutboxCouldNotTakeIsWrittenLater(t *testing.T) {
	var o *fullOutbox
	k := securemailtest.New(t, func(c *securemail.Config) {
		o = &fullOutbox{Queue: c.Queue.(*securemailtest.Queue), full: true}
		c.Outbox, c.Service = o, securemail.Actor{}
	})
	_, err := k.Send(t.Context(), draft("a@a.example"))
	require.ErrorIs(t, err, securemail.ErrDenied)
	require.Empty(t, eventsOf(k, "denied"))
	o.full = false
	k.Pass(t)
	require.Len(t, eventsOf(k, "denied"), 1)
}

func TestReadsOfStatusesAreRecorded(t *testing.T) {
	k := securemailtest.New(t, nil)
	sub, err := k.Send(t.Context(), draft("a@a.example"))
	require.NoError(t, err)
	find := func(a securemail.Actor, q securemail.Query) {
		for _, err := range k.Find(securemail.WithActor(t.Context(), a), q) {
			require.NoError(t, err)
		}
	}
	find(nurse(), securemail.Query{Submission: sub.ID})
	find(nurse(), securemail.Query{Submission: sub.ID})
	find(nurse(), securemail.Query{})
	service := securemail.Actor{ID: "host", Kind: "service"}
	for _, p := range sub.Parcels {
		find(service, securemail.Query{Submission: sub.ID})
		find(service, securemail.Query{IDs: []securemail.ParcelID{p.ID}})
	}
	find(securemail.Actor{ID: "portal", Kind: "part"}, securemail.Query{})
	es := eventsOf(k, "access")
	require.Len(t, es, 3)
	require.Equal(t, map[string]string{"action": "read.status", "resource": "parcel", "id": sub.ID}, es[0].Detail)
	require.Equal(t, nurse(), es[0].By)
	require.Equal(t, map[string]string{"action": "read.status", "resource": "parcel"}, es[1].Detail)
	require.Equal(t, []any{"host", ""}, []any{es[2].By.ID, es[2].Detail["id"]}, "a service's are one a minute")
}

// namedPolicy says its name.
type namedPolicy struct{ *string }

func (p namedPolicy) Name() string { return *p.string }
func (p namedPolicy) Decide(context.Context, securemail.Facts) (securemail.Decision, error) {
	return securemail.Decision{}, nil
}

// notingQueue keeps notes, as the durable queue does.
type notingQueue struct {
	*securemailtest.Queue
	notes map[string]string
	err   error
}

func (q *notingQueue) Note(_ context.Context, name string) (string, error) {
	return q.notes[name], q.err
}

func (q *notingQueue) SetNote(_ context.Context, name, value string) error {
	q.notes[name] = value
	return q.err
}

func TestAChangeOfPolicyIsRecorded(t *testing.T) {
	name := "hipaa/1"
	q := &notingQueue{notes: map[string]string{}, err: errors.New("away")}
	open := func() *securemailtest.Kit {
		return securemailtest.New(t, func(c *securemail.Config) {
			if q.Queue == nil {
				q.Queue = c.Queue.(*securemailtest.Queue)
			}
			c.Policy, c.Outbox = namedPolicy{&name}, q
		})
	}
	k := open()
	said := func() (out []map[string]string) {
		for _, e := range q.Events() {
			if e.Kind == "policy" {
				out = append(out, e.Detail)
			}
		}
		return out
	}
	k.Pass(t)
	require.Empty(t, said(), "the store is away, and mail goes on")
	q.err = nil
	k.Pass(t)
	k.Pass(t)
	open().Pass(t)
	require.Equal(t, []map[string]string{{"policy": "hipaa/1", "was": ""}}, said())
	name = "hipaa/2"
	open().Pass(t)
	require.Equal(t, map[string]string{"policy": "hipaa/2", "was": "hipaa/1"}, said()[1])
	name = "hipaa/1"
	open().Pass(t)
	require.Len(t, said(), 3, "back again is a change too")
}

func TestAReportOfOurOwnHasNoReturnPath(t *testing.T) {
	k := securemailtest.New(t, nil)
	report := "From: <a@clinic.example>\r\nContent-Type: multipart/report; boundary=x\r\n\r\n--x\r\n\r\n--x--\r\n"
	d := &securemail.Draft{Raw: securemail.Bytes([]byte(report)), To: securemail.To("b@b.example"), Purpose: securemail.PurposeSystem}
	_, err := k.Send(securemail.WithActor(t.Context(), securemail.Actor{ID: "notice", Kind: "part"}), d)
	require.NoError(t, err)
	d.Purpose, d.To = securemail.PurposeTreatment, securemail.To("c@c.example")
	_, err = k.Send(t.Context(), d)
	require.NoError(t, err)
	k.Pass(t)
	sent := k.Transport.RequireSent(t, "b@b.example", "c@c.example")
	require.Equal(t, []string{"", "a@clinic.example"}, []string{sent[0].From, sent[1].From}, "anybody else's bounces come back")
}
