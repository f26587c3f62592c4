package securemail_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// trace is what the parts of one Mailer did, by parcel and attempt, in order.
type trace struct {
	mu    sync.Mutex
	steps map[string][]step
}

// begin is the step that begins an attempt: the Gate is asked.
const begin = securemail.Method("begin")

type step struct {
	method securemail.Method
	result error
}

func (t *trace) add(j *securemail.Parcel, method securemail.Method, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.steps == nil {
		t.steps = make(map[string][]step)
	}
	t.steps[string(j.ID)] = append(t.steps[string(j.ID)], step{method, err})
}

// scriptedEncryptor answers by its script, one result a call, and marks what it sealed.
type scriptedEncryptor struct {
	method securemail.Method
	trace  *trace
	mu     sync.Mutex
	script []error
	undone map[securemail.ParcelID]int
}

func (e *scriptedEncryptor) Method() securemail.Method { return e.method }

func (e *scriptedEncryptor) Undo(_ context.Context, id securemail.ParcelID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.undone == nil {
		e.undone = make(map[securemail.ParcelID]int)
	}
	e.undone[id]++
	return nil
}

func (e *scriptedEncryptor) Encrypt(_ context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	e.mu.Lock()
	var err error
	if len(e.script) > 0 {
		err, e.script = e.script[0], e.script[1:]
	}
	e.mu.Unlock()
	if err != nil {
		e.trace.add(j.Parcel, e.method, err)
		return nil, err
	}
	head := j.Message.Head()
	m, err := j.Message.WithHead(append([]byte("X-Sealed: "+string(e.method)+"\r\n"), head...))
	if err != nil {
		return nil, err
	}
	return &securemail.Sealed{Message: m, Protection: securemail.Protection{Algorithm: string(e.method)}}, nil
}

// tracedTransport notes what the scripted Transport said.
type tracedTransport struct {
	*securemailtest.Transport
	trace *trace
}

func (t tracedTransport) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	r, err := t.Transport.Deliver(ctx, s)
	method := securemail.MethodTLS
	if v := s.Message.Header("X-Sealed"); len(v) > 0 {
		method = securemail.Method(v[0])
	}
	t.trace.add(s.Parcel, method, err)
	return r, err
}

var (
	errFlaky  = errors.New("part: flaky")
	methods   = []securemail.Method{securemail.MethodTLS, securemail.MethodPGP, securemail.MethodSMIME, securemail.MethodEscrow}
	someWires = []securemail.Wire{
		securemailtest.Verified(), securemailtest.Named(), securemailtest.Encrypted(), securemailtest.Clear(),
	}
	someErrors = []error{
		nil, nil, nil, errFlaky, &securemail.DeliveryError{Stage: "rcpt", Code: 450, Fate: securemail.FateRetry},
		&securemail.DeliveryError{Stage: "rcpt", Code: 550, Fate: securemail.FatePermanent},
		&securemail.DeliveryError{Stage: "dot", Fate: securemail.FateUncertain},
	}
)

// world is one random configuration: policy, keys, routes and faults.
type world struct {
	decision   securemail.Decision
	keys       map[securemail.Method][]error // nil: found
	gateSays   []error
	trace      *trace
	encryptors []*scriptedEncryptor
}

func drawWorld(t *rapid.T) *world {
	w := &world{trace: &trace{}, keys: make(map[securemail.Method][]error)}
	for range rapid.IntRange(0, 5).Draw(t, "choices") {
		w.decision.Choices = append(w.decision.Choices, securemail.Choice{
			Method:  rapid.SampledFrom(methods).Draw(t, "method"),
			Channel: securemail.Channel(rapid.IntRange(0, 3).Draw(t, "channel")),
		})
	}
	w.decision.Else = securemail.Outcome(rapid.IntRange(0, 3).Draw(t, "else"))
	w.decision.Uncertain = securemail.Outcome(rapid.IntRange(0, 1).Draw(t, "uncertain"))
	w.decision.Patience = time.Duration(rapid.IntRange(0, 5).Draw(t, "patience")) * time.Minute
	w.decision.Policy = "random"
	for _, m := range methods {
		e := &scriptedEncryptor{method: m, trace: w.trace}
		for range rapid.IntRange(0, 4).Draw(t, "script") {
			e.script = append(e.script, rapid.SampledFrom([]error{nil, nil, securemail.ErrNoKey, securemail.ErrHold, errFlaky}).Draw(t, "encrypt"))
		}
		w.encryptors = append(w.encryptors, e)
		w.keys[m] = rapid.SliceOfN(rapid.SampledFrom([]error{nil, nil, securemail.ErrNoKey, securemail.ErrPending, errFlaky}), 0, 4).Draw(t, "keys")
	}
	w.gateSays = rapid.SliceOfN(rapid.SampledFrom([]error{nil, nil, nil, securemail.ErrRefused, errFlaky}), 0, 6).Draw(t, "gate")
	return w
}

func (w *world) config(tb testing.TB) *securemailtest.Kit {
	var mu sync.Mutex
	pop := func(list []error) (rest []error, err error) {
		if len(list) > 0 {
			return list[1:], list[0]
		}
		return nil, nil
	}
	return securemailtest.New(tb, func(c *securemail.Config) {
		c.Policy = securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
			return w.decision, nil
		})
		c.Transport = tracedTransport{c.Transport.(*securemailtest.Transport), w.trace}
		c.Encryptors = nil
		for _, e := range w.encryptors {
			c.Encryptors = append(c.Encryptors, e)
		}
		c.Keys = securemail.KeySourceFunc(func(_ context.Context, l securemail.Lookup) ([]securemail.Key, error) {
			mu.Lock()
			defer mu.Unlock()
			var err error
			if w.keys[l.Method], err = pop(w.keys[l.Method]); err != nil {
				return nil, err
			}
			return []securemail.Key{{Method: l.Method, Fingerprint: "aa"}}, nil
		})
		c.Gates = []securemail.Gate{securemail.GateFunc(func(_ context.Context, p *securemail.Parcel) (err error) {
			w.trace.add(p, begin, nil)
			mu.Lock()
			defer mu.Unlock()
			w.gateSays, err = pop(w.gateSays)
			return err
		})}
		c.GiveUp, c.Workers = 10*time.Minute, 1 // one after the other, so that a failure can be repeated
	})
}

// TestNothingLeavesBelowTheFloor is the product's promise over random policies, keys, routes, gates, faults and crashes.
func TestNothingLeavesBelowTheFloor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		k := w.config(t)
		domains := []string{"a.example", "b.example", "c.example"}
		for _, d := range domains {
			var as []securemailtest.Answer
			for range rapid.IntRange(1, 4).Draw(rt, "answers") {
				as = append(as, securemailtest.Answer{
					Wire: rapid.SampledFrom(someWires).Draw(rt, "wire"), TemporaryChannel: rapid.Bool().Draw(rt, "temp"),
					Before: rapid.SampledFrom(someErrors).Draw(rt, "before"), After: rapid.SampledFrom(someErrors).Draw(rt, "after"),
				})
			}
			k.Transport.Script(d, as...)
		}
		d := draft("to@a.example")
		d.Bcc = securemail.To("hidden@b.example")
		d.Each = securemail.To("each@c.example")
		d.Escalate = securemail.Escalation(rapid.IntRange(0, 2).Draw(rt, "escalate"))
		sub, err := k.Send(context.Background(), d)
		if errors.Is(err, securemail.ErrRefused) {
			err = nil
		}
		require.NoError(rt, err)
		for range 12 {
			if rapid.IntRange(0, 3).Draw(rt, "crash") == 0 {
				crash(rt, k)
			}
			k.Pass(t)
			k.Clock.Advance(2 * time.Minute)
		}
		finish(rt, t, k, sub)
		checkEvents(rt, k, sub)
		checkSent(rt, k, w, d.Escalate)
		checkMoves(rt, w)
	})
}

// crash leases everything that is due and dies.
func crash(rt *rapid.T, k *securemailtest.Kit) {
	ls, err := k.Queue.Take(context.Background(), k.Clock.Now(), 100, 0)
	require.NoError(rt, err)
	for _, l := range ls {
		if rapid.Bool().Draw(rt, "intended") {
			st := l.Last
			st.State = securemail.StateAttempting
			require.NoError(rt, k.Queue.Mark(context.Background(), securemail.Mark{Lease: l, Status: st}))
		}
	}
	k.Queue.Crash()
}

// finish settles what a crash left, and ends by order what waits for a person or for its time.
func finish(rt *rapid.T, t *testing.T, k *securemailtest.Kit, sub *securemail.Submission) {
	k.Queue.Crash()
	k.Pass(t)
	for st, err := range k.Find(context.Background(), securemail.Query{Submission: sub.ID}) {
		require.NoError(rt, err)
		if !st.State.Final() {
			require.Contains(rt, []securemail.State{securemail.StateHeld, securemail.StateUncertain, securemail.StateDeferred}, st.State)
			require.NoError(rt, k.Order(context.Background(), securemail.Cancel, st.ID))
		}
	}
}

// checkEvents: exactly one final event a parcel, and nothing but faults behind it.
func checkEvents(rt *rapid.T, k *securemailtest.Kit, sub *securemail.Submission) {
	finals := make(map[securemail.ParcelID]int)
	for _, e := range k.Queue.Events() {
		if e.Kind == "fault" {
			continue
		}
		require.Zero(rt, finals[e.Status.ID], "event %s behind a final state", e.Kind)
		if e.State.Final() {
			finals[e.Status.ID]++
		}
	}
	for _, st := range sub.Parcels {
		require.Equal(rt, 1, finals[st.ID])
	}
}

func checkSent(rt *rapid.T, k *securemailtest.Kit, w *world, esc securemail.Escalation) {
	for _, s := range k.Transport.Sent() {
		method := securemail.MethodTLS
		if v := s.Message.Header("X-Sealed"); len(v) > 0 {
			method = securemail.Method(v[0])
		}
		require.True(rt, slices.ContainsFunc(w.decision.Choices, func(c securemail.Choice) bool {
			return c.Method == method && s.Wire.Meets(c.Channel)
		}), "%s left over a wire below every floor for it", method)
		if method == securemail.MethodTLS {
			require.True(rt, s.Wire.Meets(securemail.ChannelEncrypted), "PHI left in clear")
			require.Equal(rt, securemail.EscalateNone, esc)
		}
		if esc == securemail.EscalateEscrow {
			require.Equal(rt, securemail.MethodEscrow, method)
		}
		r, err := s.Message.Open()
		require.NoError(rt, err)
		raw, err := io.ReadAll(r)
		require.NoError(rt, err)
		for _, hidden := range []string{"hidden@b.example", "each@c.example"} {
			if s.To != "each@c.example" {
				require.NotContains(rt, string(raw), hidden)
			}
		}
	}
}

// checkMoves: within an attempt, only ErrNoKey and ErrChannel are followed by another Choice.
func checkMoves(rt *rapid.T, w *world) {
	for _, steps := range w.trace.steps {
		for i, st := range steps[:len(steps)-1] {
			if st.method == begin || steps[i+1].method == begin {
				continue
			}
			moves := errors.Is(st.result, securemail.ErrNoKey) || errors.Is(st.result, securemail.ErrChannel)
			require.True(rt, moves, "after %v from %s to %s", st.result, st.method, steps[i+1].method)
		}
	}
}

func draft(to ...string) *securemail.Draft {
	return &securemail.Draft{
		From: securemail.Mailbox("Clinic <clinic@example.org>"), To: securemail.To(to...),
		Subject: "Your appointment", Text: "Tomorrow at nine.\n", Purpose: securemail.PurposeTreatment,
	}
}

func fieldOf(e error) string {
	de, ok := errors.AsType[*securemail.DraftError](e)
	if !ok {
		return ""
	}
	var s []string
	for _, f := range de.Faults {
		s = append(s, fmt.Sprintf("%s:%s", f.Field, f.Rule))
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}
