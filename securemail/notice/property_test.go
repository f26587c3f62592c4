package notice_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// brittle is a Transport that panics where its script says so, before or behind the intent.
type brittle struct{ *securemailtest.Transport }

var errBoom = errors.New("boom")

func (b brittle) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	r, err := b.Transport.Deliver(ctx, s)
	if errors.Is(err, errBoom) {
		panic("boom")
	}
	return r, err
}

var (
	purposes = []securemail.Purpose{"", securemail.PurposeTreatment, securemail.PurposePayment, securemail.PurposeMarketing}
	answers  = []securemailtest.Answer{
		{}, {Before: errBoom}, {After: errBoom}, {Wire: securemailtest.Clear()}, {Wire: securemailtest.Clear(), TemporaryChannel: true},
		fails(securemail.FateRetry), fails(securemail.FatePermanent), fails(securemail.FateUncertain),
	}
	outcomes = []securemail.Outcome{securemail.OutcomeHold, securemail.OutcomeBounce, securemail.OutcomeDrop}
)

// TestTreatmentNeverEndsInSilence: whatever policies, gates, far ends, databases, orders and stops do, each parcel for
// treatment is delivered or somebody is told in which state it is, once for each state entered; each uncertain delivery is
// told; and where nobody can be told, an event says so.
func TestTreatmentNeverEndsInSilence(t *testing.T) {
	path, n := t.TempDir(), 0
	good := openDB(t)
	rapid.Check(t, func(rt *rapid.T) {
		n++
		faults := new(sqldbtest.Faults)
		db := sqldbtest.Open(good, filepath.Join(path, fmt.Sprint(n, ".db"))+sqldbtest.Safe, faults)
		defer db.Close()
		w := &silence{rt: rt, faults: faults, rig: newRigWith(t, db, notice.Options{Tenants: office, Keep: 365 * 24 * time.Hour}, func(c *securemail.Config) {
			c.Transport = brittle{c.Transport.(*securemailtest.Transport)}
		})}
		w.setUp()
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			w.step()
		}
		w.settle()
		w.check()
	})
}

type silence struct {
	*rig
	rt     *rapid.T
	faults *sqldbtest.Faults
	sent   []securemail.ParcelID
}

func (w *silence) draw(label string, most int) int { return rapid.IntRange(0, most).Draw(w.rt, label) }

func (w *silence) setUp() {
	other := rapid.SampledFrom(outcomes).Draw(w.rt, "else")
	uncertain := rapid.SampledFrom([]securemail.Outcome{securemail.OutcomeHold, securemail.OutcomeRetry}).Draw(w.rt, "uncertain")
	patience := time.Duration(w.draw("patience", 20)) * time.Hour
	w.policy = func(f securemail.Facts) securemail.Decision {
		d := securemail.Decision{
			Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelEncrypted}},
			Else:    other, Uncertain: uncertain, Patience: patience,
		}
		if f.Purpose == securemail.PurposeSystem {
			d.Else, d.Patience = securemail.OutcomeDrop, time.Hour
		}
		return d
	}
	for _, domain := range []string{"a.example", "b.example", "clinic.example", "office.example"} {
		w.Transport.Script(domain, rapid.SliceOfN(rapid.SampledFrom(answers), 1, 4).Draw(w.rt, domain)...)
	}
}

func (w *silence) step() {
	switch w.draw("step", 11) {
	case 0, 1:
		d := draft(rapid.SampledFrom(purposes).Draw(w.rt, "purpose"), "a.example", "b.example")
		if w.draw("gate", 4) == 0 {
			d = draft(d.Purpose, "refused.example")
		}
		if w.draw("useful", 2) == 0 {
			d.UsefulUntil = w.Clock.Now().Add(time.Duration(1+w.draw("hours", 8)) * time.Hour)
		}
		sub, err := w.Send(context.Background(), d)
		if err != nil && !errors.Is(err, securemail.ErrRefused) {
			w.rt.Fatal(err)
		}
		for _, p := range sub.Parcels {
			w.sent = append(w.sent, p.ID)
		}
	case 2:
		w.Clock.Advance(time.Duration(1+w.draw("minutes", 300)) * time.Minute)
	case 3, 4:
		w.faults.At(1+w.draw("at", 30), sqldbtest.IOErr)
		_, _ = w.RunDue(context.Background()) // a Sink that fails is fed again
		w.faults.Clear()
	case 5, 6:
		w.faults.At(1+w.draw("at", 40), sqldbtest.IOErr)
		_, _ = w.notices.Pass(context.Background())
		w.faults.Clear()
	case 7:
		w.Queue.Crash()
		w.restart()
	case 8:
		if len(w.sent) > 0 {
			id := rapid.SampledFrom(w.sent).Draw(w.rt, "parcel")
			_ = w.Order(context.Background(), securemail.Order(1+w.draw("order", 3)), id) // ErrFinal mostly
		}
	case 9:
		w.badSend()
	case 10: // events come at least once
		es := w.Queue.Events()
		for _, e := range es[len(es)-w.draw("again", len(es)):] {
			require.NoError(w.t, w.Emit(context.Background(), e))
		}
	case 11: // a commit holds, and its answer is lost
		w.faults.LoseCommit()
		if w.draw("lost", 1) == 0 {
			_, _ = w.RunDue(context.Background())
		} else {
			_, _ = w.notices.Pass(context.Background())
		}
		w.faults.Clear()
	}
}

// badSend makes reports while the program stops before or behind the queue, or something refuses them.
func (w *silence) badSend() {
	how := w.draw("send", 2)
	w.send = func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
		switch how {
		case 0:
			return nil, errBoom
		case 1:
			return nil, securemail.ErrRefused
		}
		_, err := w.Mailer.Send(ctx, d)
		return nil, errors.Join(errBoom, err)
	}
	_, _ = w.notices.Pass(context.Background())
	w.send = nil
	w.restart()
}

// settle lets a sound program run until nothing changes by itself.
func (w *silence) settle() {
	for range 12 {
		_, err := w.RunDue(context.Background())
		require.NoError(w.t, err)
		w.Clock.Advance(13 * time.Minute)
		_, err = w.notices.Pass(context.Background())
		require.NoError(w.t, err)
		w.Clock.Advance(7 * time.Hour)
	}
}

func (w *silence) check() {
	_, entries := w.reports()
	var failed []string // whom not even the office could be told of
	for _, e := range w.events("notice") {
		if e.Detail["outcome"] == "failed" && e.Detail["to"] == "role" {
			failed = append(failed, e.Detail["about"]+e.Detail["what"])
		}
	}
	told := func(id securemail.ParcelID, s securemail.State) bool {
		return slices.Contains(failed, string(id)+string(s)) ||
			slices.ContainsFunc(entries, func(e entry) bool { return e.parcel == string(id) && e.state == string(s) })
	}
	for st, err := range w.Queue.Find(context.Background(), securemail.Query{IDs: w.sent}) {
		require.NoError(w.t, err)
		if len(w.sent) == 0 || st.Purpose != "" && st.Purpose != securemail.PurposeTreatment || st.State == securemail.StateDelivered {
			continue
		}
		if st.State == securemail.StateUncertain && !st.Next.IsZero() || st.State == securemail.StateDeferred {
			require.True(w.t, told(st.ID, notice.Delayed) || told(st.ID, securemail.StateUncertain), "on its way for days")
			continue
		}
		require.True(w.t, told(st.ID, st.State), "%s ended in silence: %s", st.ID, st.State)
	}
	entered := map[string]int{}
	for _, e := range w.Queue.Events() {
		if e.Kind != string(e.State) || !slices.Contains(w.sent, e.Status.ID) {
			continue
		}
		if e.Detail["order"] != "retry" {
			entered[string(e.Status.ID)+string(e.State)]++
		}
		careful := e.Purpose == "" || e.Purpose == securemail.PurposeTreatment
		if careful && e.State == securemail.StateUncertain {
			require.True(w.t, told(e.Status.ID, e.State), "an uncertain delivery was not told")
		}
	}
	times := map[string]int{}
	for _, e := range entries {
		require.NotContains(w.t, e.final, patient)
		if e.state != string(notice.Delayed) {
			times[e.to+" "+e.parcel+e.state]++
			require.LessOrEqual(w.t, times[e.to+" "+e.parcel+e.state], entered[e.parcel+e.state], "told more often than it was entered")
		}
	}
}
