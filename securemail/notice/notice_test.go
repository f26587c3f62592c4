package notice_test

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/securemailtest"
)

var office = map[string]notice.Tenant{"": {Name: "Clinic", Role: securemail.Mailbox("privacy@office.example")}}

func (r *rig) mustSend(d *securemail.Draft) *securemail.Submission {
	sub, err := r.Send(r.t.Context(), d)
	require.NoError(r.t, err)
	return sub
}

func TestTheSenderIsToldOfABounce(t *testing.T) {
	r := newRig(t, notice.Options{})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	sub := r.mustSend(draft(securemail.PurposeTreatment, "bad.example", "good.example"))
	require.Equal(t, 1, r.round())
	raw, entries := r.reports()
	require.Len(t, raw, 1)
	require.Len(t, entries, 1)
	id := string(sub.Parcels[0].ID)
	e := entries[0]
	e.entered = ""
	require.Equal(t, entry{to: "doctor@clinic.example", parcel: id, state: "bounced", final: "x-postseal-ref; ref-0", action: "failed", status: "5.0.0"}, e)
	for _, want := range []string{
		"Auto-Submitted: auto-generated\r\n", "report-type=delivery-status", "Original-Envelope-Id: " + id + "\r\n",
		"Reporting-MTA: dns; clinic.example\r\n", "X-Postseal-Reason: permanent\r\n", "X-Postseal-Label: case=c-1\r\n",
		"From: <postmaster@clinic.example>\r\n", "Subject: mail was not delivered\r\n",
	} {
		require.Contains(t, raw[0], want)
	}
	for _, never := range []string{canary, patient, "bad.example"} {
		require.NotContains(t, raw[0], never)
	}
	m, err := mail.ReadMessage(strings.NewReader(raw[0]))
	require.NoError(t, err)
	_, err = m.Header.Date()
	require.NoError(t, err)
	told := r.events("notice")
	require.Len(t, told, 1)
	require.Equal(t, map[string]string{"rule": "treatment", "about": id, "what": "bounced", "to": "sender", "outcome": "mailed"}, told[0].Detail)
	require.Equal(t, 0, r.round(), "once")
}

func TestDefaultsByPurposeAndState(t *testing.T) {
	all := []string{"bounced", "cancelled", "delayed", "dropped", "expired", "held", "refused", "uncertain"}
	business := []string{"bounced", "delayed", "dropped", "expired", "held", "uncertain"}
	for purpose, want := range map[securemail.Purpose][]string{
		securemail.PurposeTreatment: all, "": all, securemail.PurposePayment: business, securemail.PurposeOperations: business,
		securemail.PurposeMarketing: nil,
	} {
		t.Run("purpose "+string(purpose), func(t *testing.T) {
			r := newRig(t, notice.Options{})
			everyState(t, r, purpose)
			_, entries := r.reports()
			told := map[string]bool{}
			for _, e := range entries {
				require.Equal(t, "doctor@clinic.example", e.to)
				require.False(t, told[e.state], "once: %s", e.state)
				told[e.state] = true
			}
			require.Len(t, told, len(want))
			for _, s := range want {
				require.True(t, told[s], s)
			}
			require.Len(t, r.events("delayed"), 1, "the event is there for every purpose")
		})
	}
}

// everyState lets one parcel of purpose enter each state that can be told.
func everyState(t *testing.T, r *rig, purpose securemail.Purpose) {
	r.policy = func(f securemail.Facts) securemail.Decision {
		d := securemail.Decision{Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelEncrypted}}, Else: securemail.OutcomeBounce}
		switch f.Recipient.Address.Domain() {
		case "dropped.example":
			d.Choices, d.Else = nil, securemail.OutcomeDrop
		case "held.example":
			d.Choices, d.Else = nil, securemail.OutcomeHold
		}
		return d
	}
	r.Transport.Script("bounced.example", fails(securemail.FatePermanent))
	r.Transport.Script("uncertain.example", fails(securemail.FateUncertain))
	r.Transport.Script("late.example", fails(securemail.FateRetry))
	r.Transport.Script("expired.example", fails(securemail.FateRetry))
	r.Transport.Script("gate.example", fails(securemail.FateRetry))
	r.mustSend(draft(purpose, "bounced.example", "uncertain.example", "late.example", "dropped.example", "held.example"))
	d := draft(purpose, "expired.example")
	d.UsefulUntil = r.Clock.Now().Add(time.Hour)
	r.mustSend(d)
	d = draft(purpose, "later.example")
	d.NotBefore = r.Clock.Now().Add(100 * time.Hour)
	require.NoError(t, r.Order(t.Context(), securemail.Cancel, r.mustSend(d).Parcels[0].ID))
	_, err := r.Send(t.Context(), draft(purpose, "refused.example"))
	require.ErrorIs(t, err, securemail.ErrRefused)
	r.round()
	for range 12 {
		r.Clock.Advance(31 * time.Minute)
		r.round()
	}
}

func TestLateMailIsToldAtEachAge(t *testing.T) {
	r := newRig(t, notice.Options{Rules: []notice.Rule{{
		Name: "late", When: []securemail.State{notice.Delayed}, Ages: []time.Duration{time.Hour, 3 * time.Hour, 24 * time.Hour},
	}}})
	r.Transport.Script("slow.example", fails(securemail.FateRetry))
	r.mustSend(draft(securemail.PurposePayment, "slow.example"))
	at := func(d time.Duration, want int, why string) {
		t.Helper()
		r.Clock.Advance(d)
		r.restart()
		r.round()
		_, entries := r.reports()
		require.Len(t, entries, want, why)
		for _, e := range entries {
			require.Equal(t, []string{"delayed", "delayed", "4.4.1"}, []string{e.state, e.action, e.status})
		}
	}
	at(0, 0, "it is not late")
	at(59*time.Minute, 0, "nor now")
	at(2*time.Minute, 1, "the first age")
	at(time.Hour, 1, "not yet again")
	at(26*time.Hour, 2, "two ages passed while nobody ran: they are told as one")
	r.Transport.Script("slow.example", securemailtest.Answer{})
	at(10*time.Hour, 2, "it has arrived")
	require.Len(t, r.events("delayed"), 2)
}

func TestWhatIsDeliveredInTimeIsNotLate(t *testing.T) {
	r := newRig(t, notice.Options{})
	r.Transport.Script("slow.example", fails(securemail.FateRetry), securemailtest.Answer{})
	r.mustSend(draft("", "slow.example"))
	for range 12 {
		r.round()
		r.Clock.Advance(31 * time.Minute)
	}
	require.Empty(t, r.events("delayed"))
}

func TestAReportThatFailsGoesToTheRoleAndNoFurther(t *testing.T) {
	for name, c := range map[string]struct {
		office      securemailtest.Answer
		tenants     map[string]notice.Tenant
		told        int
		failedSteps []string
	}{
		"the office is told":         {tenants: office, told: 1, failedSteps: []string{"sender"}},
		"neither can be told":        {tenants: office, office: fails(securemail.FatePermanent), failedSteps: []string{"sender", "role"}},
		"there is no office at all":  {failedSteps: []string{"sender", "role"}},
		"the office's is uncertain":  {tenants: office, office: fails(securemail.FateUncertain), failedSteps: []string{"sender", "role"}},
		"the office's is slow first": {tenants: office, office: fails(securemail.FateRetry), told: 0, failedSteps: []string{"sender"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, notice.Options{Tenants: c.tenants})
			r.Transport.Script("bad.example", fails(securemail.FatePermanent))
			r.Transport.Script("clinic.example", fails(securemail.FatePermanent))
			r.Transport.Script("office.example", c.office)
			r.mustSend(draft(securemail.PurposeTreatment, "bad.example"))
			for range 5 {
				r.round()
				r.Clock.Advance(11 * time.Minute)
			}
			_, entries := r.reports()
			require.Len(t, entries, c.told)
			for _, e := range entries {
				require.Equal(t, "privacy@office.example", e.to)
				require.Equal(t, "bounced", e.state)
			}
			var failed []string
			for _, e := range r.events("notice") {
				if e.Detail["outcome"] == "failed" {
					failed = append(failed, e.Detail["to"])
				}
			}
			require.Equal(t, c.failedSteps, failed)
		})
	}
}

func TestOtherSystemMailThatFailsIsToldTheRole(t *testing.T) {
	r := newRig(t, notice.Options{Tenants: office})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	d := draft(securemail.PurposeSystem, "bad.example")
	ctx := securemail.WithActor(t.Context(), securemail.Actor{ID: "portal", Kind: "part"})
	_, err := r.Send(ctx, d)
	require.NoError(t, err)
	r.round()
	_, entries := r.reports()
	require.Len(t, entries, 1)
	require.Equal(t, "privacy@office.example", entries[0].to)
}

func TestABurstIsFoldedAndNothingLeftOut(t *testing.T) {
	const burst = 10_000
	r := newRig(t, notice.Options{})
	for i := range burst / 500 {
		var es []securemail.Event
		for j := range 500 {
			id := fmt.Sprintf("p%05d", i*500+j)
			st := securemail.Status{Slip: securemail.Slip{ID: securemail.ParcelID(id), From: securemail.Mailbox("doctor@clinic.example")}, State: securemail.StateBounced}
			if i == 10 && j == 0 {
				st.State, st.Purpose = securemail.StateUncertain, securemail.PurposeTreatment
			}
			es = append(es, securemail.Event{ID: "e" + id, Kind: string(st.State), Time: r.Clock.Now(), Status: st})
		}
		require.NoError(t, r.notices.EmitAll(t.Context(), es...))
		require.NoError(t, r.notices.EmitAll(t.Context(), es[:3]...), "at least once")
	}
	r.find = func(id securemail.ParcelID) securemail.Status {
		return securemail.Status{Slip: securemail.Slip{ID: id, From: securemail.Mailbox("doctor@clinic.example")}}
	}
	r.restart()
	reports := 0
	for range 4 {
		reports += r.round()
		r.Clock.Advance(11 * time.Minute)
	}
	require.LessOrEqual(t, reports, 3)
	raw, entries := r.reports()
	require.Len(t, entries, burst)
	require.Contains(t, raw[0], "Subject: 10000 mails were not delivered, 1 uncertain")
	require.Equal(t, "uncertain", entries[0].state, "first what a person must act on")
	first, _, _ := strings.Cut(raw[0], "message/delivery-status")
	require.Contains(t, first, "State:     uncertain", "and the text shows it")
	require.NotContains(t, raw[0], "Original-Envelope-Id", "it is about many")
}

func TestReportsToOneAddresseeKeepTheirDistance(t *testing.T) {
	r := newRig(t, notice.Options{Every: time.Hour})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	for i, want := range []int{1, 0, 0, 1} {
		r.mustSend(draft("", "bad.example"))
		require.Equal(t, want, r.round(), "round %d", i)
		r.Clock.Advance(25 * time.Minute)
	}
	_, entries := r.reports()
	require.Len(t, entries, 4)
}

func TestAReportBegunIsMailedOnceAfterAStop(t *testing.T) {
	r := newRig(t, notice.Options{})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	d := draft("", "bad.example")
	r.mustSend(d)
	r.Pass(t)
	stop := errors.New("stopped")
	r.send = func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
		_, err := r.Mailer.Send(ctx, d)
		require.NoError(t, err)
		return nil, stop // it is in the queue, and the program never learns
	}
	_, err := r.notices.Pass(t.Context())
	require.ErrorIs(t, err, stop)
	r.send = nil
	r.Clock.Advance(2 * time.Minute)
	r.restart()
	r.round()
	_, entries := r.reports()
	require.Len(t, entries, 1)
}

func TestOnlyOneProcessReports(t *testing.T) {
	r := newRig(t, notice.Options{})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	first := r.notices
	_, err := first.Pass(t.Context())
	require.NoError(t, err)
	r.restart()
	r.mustSend(draft("", "bad.example"))
	require.Equal(t, 0, r.round(), "the first leads")
	r.Clock.Advance(61 * time.Second)
	require.Equal(t, 1, r.round(), "it is gone")
	n, err := first.Pass(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestRunReportsAndResigns(t *testing.T) {
	r := newRig(t, notice.Options{Tick: time.Millisecond})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	r.mustSend(draft("", "bad.example"))
	r.Pass(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.notices.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.events("notice")) == 1 }, 30*time.Second, time.Millisecond)
	stop()
	require.NoError(t, <-done)
	r.restart()
	r.mustSend(draft("", "bad.example"))
	require.Equal(t, 1, r.round(), "another leads at once")
}

func TestNewRefusesSilenceForTreatment(t *testing.T) {
	for name, rule := range map[string]notice.Rule{
		"everything":         {Name: "quiet", To: notice.ToNobody},
		"one tenant's holds": {Name: "quiet", Tenants: []string{"a"}, When: []securemail.State{securemail.StateHeld}, To: notice.ToNobody},
		"what is late":       {Name: "quiet", Purposes: []securemail.Purpose{securemail.PurposeTreatment}, When: []securemail.State{notice.Delayed}, To: notice.ToNobody},
		"no stated purpose":  {Name: "quiet", Purposes: []securemail.Purpose{""}, To: notice.ToNobody},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := notice.New(t.Context(), openDB(t), securemailtest.NewQueue(nil), sendNothing, &notice.Options{Rules: []notice.Rule{rule}})
			require.Nil(t, n)
			silence, ok := errors.AsType[*notice.SilenceError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, "quiet", silence.Rule)
			require.Contains(t, err.Error(), "silence")
		})
	}
	n, err := notice.New(t.Context(), openDB(t), securemailtest.NewQueue(nil), sendNothing, &notice.Options{Rules: []notice.Rule{
		{Name: "loud", Purposes: []securemail.Purpose{securemail.PurposeTreatment, ""}}, {Name: "quiet", To: notice.ToNobody},
	}})
	require.NoError(t, err, "a rule before it speaks for treatment")
	require.NotNil(t, n)
}

var sendNothing = notice.SenderFunc(func(context.Context, *securemail.Draft) (*securemail.Submission, error) {
	return nil, errors.New("test: not to be called")
})

func TestNewNamesEveryFault(t *testing.T) {
	_, err := notice.New(t.Context(), nil, nil, nil, &notice.Options{
		Every: -1, ReportingMTA: "Not a domain",
		Rules: []notice.Rule{
			{Name: "a b", To: 9, When: []securemail.State{securemail.StateDelivered}, Ages: []time.Duration{2, 1}},
			{Name: "r", To: notice.ToRole},
		},
		Tenants: map[string]notice.Tenant{
			"a": {Subject: "{{.Nothing}}", Text: "{{"},
			"b": {Name: "x\r\nBcc: y", Subject: "\n", Text: " "},
			"c": {Subject: strings.Repeat("x", 201)},
		},
	})
	for _, want := range []string{
		"db, store and sender are required", "negative", "ReportingMTA", "name is no word", "addressee is unknown", "nothing ends or rests undelivered",
		"ages must be", "a role that a tenant does not have", `Tenants["a"]: Text: template`, "Nothing", `Tenants["b"]`, "control characters", `Tenants["c"]`, "too long",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestTenantsHaveTheirOwnTextsAndRoles(t *testing.T) {
	r := newRig(t, notice.Options{
		Rules: []notice.Rule{{Name: "both", When: []securemail.State{securemail.StateBounced}, To: notice.ToBoth}},
		Tenants: map[string]notice.Tenant{"": {
			Name: "Klinik Süd", From: securemail.Mailbox("berichte@clinic.example"), Role: securemail.Mailbox("büro@office.example"),
			Subject: "{{.Brand}}: {{.All}} nicht zugestellt", Text: "{{range .Entries}}{{.Ref}} {{.State}}\n{{end}}",
		}},
		ReportingMTA: "mail.clinic.example",
	})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	d := draft("", "bad.example")
	d.Bcc[0].Ref = "Käse+1"
	r.mustSend(d)
	require.Equal(t, 2, r.round())
	raw, entries := r.reports()
	require.Len(t, entries, 2)
	require.ElementsMatch(t, []string{"doctor@clinic.example", "büro@office.example"}, []string{entries[0].to, entries[1].to})
	require.Equal(t, "x-postseal-ref; K+C3+A4se+2B1", entries[0].final, "the address of the report is no matter")
	for _, s := range raw {
		require.Contains(t, s, "Reporting-MTA: dns; mail.clinic.example\r\n")
		require.Contains(t, s, "<berichte@clinic.example>\r\n")
		require.Contains(t, s, "=?utf-8?b?")
		require.Contains(t, s, "K+C3+A4se+2B1 bounced")
	}
}

func TestATemplateThatFailsOnRealDataFallsBack(t *testing.T) {
	r := newRig(t, notice.Options{Tenants: map[string]notice.Tenant{"": {Subject: `{{range .Entries}}{{range .Labels}}{{.Nothing}}{{end}}{{end}}x`}}})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	r.mustSend(draft("", "bad.example"))
	require.Equal(t, 1, r.round())
	raw, _ := r.reports()
	require.Contains(t, raw[0], "Subject: mail was not delivered\r\n")
}

func TestAnOrderToRetryIsNoNews(t *testing.T) {
	r := newRig(t, notice.Options{})
	r.Transport.Script("lost.example", fails(securemail.FateUncertain), fails(securemail.FateRetry), securemailtest.Answer{})
	sub := r.mustSend(draft("", "lost.example"))
	require.Equal(t, 1, r.round())
	require.NoError(t, r.Order(t.Context(), securemail.Retry, sub.Parcels[0].ID))
	for range 4 {
		r.Clock.Advance(31 * time.Minute)
		r.round()
	}
	_, entries := r.reports()
	require.Len(t, entries, 1)
	require.Len(t, r.Transport.Sent(), 2, "it is delivered the same way again")
}

func TestAReportThatIsRefusedGoesToTheRole(t *testing.T) {
	for name, refusal := range map[string]error{
		"gate": securemail.ErrRefused, "authorizer": securemail.ErrDenied, "tenant": securemail.ErrTenant, "draft": &securemail.DraftError{},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, notice.Options{Tenants: office})
			r.Transport.Script("bad.example", fails(securemail.FatePermanent))
			r.send = func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
				if d.To[0].Address.Domain() == "clinic.example" {
					return nil, refusal
				}
				return r.Mailer.Send(ctx, d)
			}
			r.mustSend(draft("", "bad.example"))
			r.round()
			r.round()
			_, entries := r.reports()
			require.Len(t, entries, 1)
			require.Equal(t, "privacy@office.example", entries[0].to)
		})
	}
}

// refuseOffice lets send answer err for reports to the office.
func (r *rig) refuseOffice(err error) {
	r.send = func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
		if d.To[0].Address.Domain() == "office.example" {
			return nil, err
		}
		return r.Mailer.Send(ctx, d)
	}
}

func TestAReportThatCantBeSentNowKeepsNoOtherWaiting(t *testing.T) {
	r := newRig(t, notice.Options{Tenants: office, Rules: []notice.Rule{
		{Name: "office", Purposes: []securemail.Purpose{securemail.PurposePayment}, To: notice.ToRole},
	}})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	stop := errors.New("not now")
	r.refuseOffice(stop)
	r.mustSend(draft(securemail.PurposePayment, "bad.example"))
	r.mustSend(draft(securemail.PurposePayment, "bad.example"))
	r.Pass(t)
	for range 2 {
		_, err := r.notices.Pass(t.Context())
		require.ErrorIs(t, err, stop)
	}
	r.mustSend(draft(securemail.PurposeTreatment, "bad.example"))
	r.Pass(t)
	n, err := r.notices.Pass(t.Context())
	require.ErrorIs(t, err, stop)
	require.Equal(t, 1, n, "the sender is told")
	r.send = nil
	r.round()
	_, entries := r.reports()
	require.Len(t, entries, 3)
}

// destroyedError is a key ring's final no.
type destroyedError struct{}

func (destroyedError) Error() string   { return "scope destroyed" }
func (destroyedError) Destroyed() bool { return true }

func TestAReportUnderADestroyedKeyIsGivenUp(t *testing.T) {
	r := newRig(t, notice.Options{Tenants: office})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	r.send = func(context.Context, *securemail.Draft) (*securemail.Submission, error) {
		return nil, fmt.Errorf("put: %w", destroyedError{})
	}
	r.mustSend(draft(securemail.PurposeTreatment, "bad.example"))
	for range 3 {
		r.round()
		r.Clock.Advance(11 * time.Minute)
	}
	var failed []string
	for _, e := range r.events("notice") {
		failed = append(failed, e.Detail["to"]+" "+e.Detail["outcome"])
	}
	require.Equal(t, []string{"sender failed", "role failed"}, failed)
}

// PostgreSQL gives numbers before it commits, so that what is entered may lie under a number that was passed.
func TestWhatIsEnteredUnderAnEarlierNumberIsTold(t *testing.T) {
	r := newRig(t, notice.Options{})
	r.Transport.Script("bad.example", fails(securemail.FatePermanent))
	tell := func() {
		r.mustSend(draft("", "bad.example"))
		r.Pass(t)
	}
	tell()
	_, err := r.db.ExecContext(t.Context(), "UPDATE notice_item SET pos=100")
	require.NoError(t, err)
	r.round()
	tell()
	_, err = r.db.ExecContext(t.Context(), "UPDATE notice_item SET pos=50 WHERE step=0")
	require.NoError(t, err)
	for range 3 {
		tell()
		r.Clock.Advance(6 * time.Minute)
		r.round()
	}
	r.Clock.Advance(11 * time.Minute)
	r.round()
	_, entries := r.reports()
	require.Len(t, entries, 5)
}
