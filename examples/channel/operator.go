package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/smtp"
)

// operator is us: one System for two clinics.
type operator struct {
	*preset.System
	alerts *alerts
}

// newOperator is the whole wiring. Against the real Internet SMTP would have HELO, Identity and a Resolver that validates
// (smtp.DNS with TrustAD), and no STS: what else is set here leads into this process.
func newOperator(ctx context.Context, path string, w *world, c *clock) (*operator, error) {
	signer, err := signer(w, c)
	if err != nil {
		return nil, err
	}
	o := &operator{alerts: &alerts{}}
	so := w.smtpOptions()
	so.HELO, so.Identity = "mail.operator.example", identity
	o.System, err = preset.Open(ctx, path, &preset.Options{
		SMTP: so, STS: w.policyClient(), DKIM: signer,
		TLSReports: &preset.TLSReports{
			Organization: "Operator", Contact: "https://operator.example/mail", From: "tlsrpt@operator.example",
		},
		Override: func(c *securemail.Config) {
			c.Tenants, c.Service = clinics{}, securemail.Actor{} // every call must name its tenant
			c.ReturnPath = returnPath
			c.Sinks["alerts"] = o.alerts
		},
		Now: c.Now, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	return o, err
}

// clinics are the tenants: "north" may write as north.example, "south" as south.example.
type clinics struct{}

// Tenant implements securemail.Tenants.
func (clinics) Tenant(_ context.Context, id string) (securemail.Tenant, error) {
	if id != "north" && id != "south" {
		return securemail.Tenant{}, securemail.ErrTenant
	}
	return securemail.Tenant{ID: id, From: []string{"@" + id + ".example"}}, nil
}

// identity is the name at EHLO: a clinic's own, ours for reports. An address to connect from could be here as well.
func identity(s *securemail.Slip) smtp.Identity {
	if s.Actor.Tenant == "" {
		return smtp.Identity{}
	}
	return smtp.Identity{HELO: "mail." + s.Actor.Tenant + ".example"}
}

// returnPath is where bounces go.
func returnPath(p *securemail.Parcel) securemail.Address {
	return securemail.Mailbox("bounces@" + p.Actor.Tenant + ".example").Address
}

// signer has a key for each domain that we write as, and tomorrow's for north: the day changes them, nobody has to.
func signer(w *world, c *clock) (*dkim.Signer, error) {
	tomorrow := c.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
	keys := []dkim.Key{
		{Domain: "north.example", Selector: "november", NotAfter: tomorrow},
		{Domain: "north.example", Selector: "december", NotBefore: tomorrow},
		{Domain: "south.example", Selector: "only"},
		{Domain: "operator.example", Selector: "reports"},
	}
	for i := range keys {
		private, err := dkim.Generate(dkim.RSA)
		if err != nil {
			return nil, err
		}
		keys[i].Private = private
		if err := w.publish(dkim.Zone(keys[i].RecordName(), keys[i].Record().String())); err != nil {
			return nil, err
		}
	}
	return dkim.New(keys, &dkim.Options{Now: c.Now})
}

// alerts is a Sink that would page somebody.
type alerts struct {
	mu  sync.Mutex
	got []securemail.Event
}

// Emit implements securemail.Sink.
func (a *alerts) Emit(_ context.Context, e securemail.Event) error {
	if strings.HasPrefix(e.Kind, "posture.") {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.got = append(a.got, e)
	}
	return nil
}

// take gives what came since the last call.
func (a *alerts) take() []securemail.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	es := a.got
	a.got = nil
	return es
}

// as acts for a clinic.
func as(ctx context.Context, clinic string) context.Context {
	return securemail.WithActor(ctx, securemail.Actor{Tenant: clinic, ID: "desk", Kind: "person"})
}

// send accepts one reminder, makes the attempts that are due, and says what became of it.
func (o *operator) send(ctx context.Context, clinic, to string) (st securemail.Status, err error) {
	sub, err := o.Send(as(ctx, clinic), &securemail.Draft{
		From: securemail.Mailbox("desk@" + clinic + ".example"), To: securemail.To(to),
		Subject: "Your appointment", Text: "Cardiology, Thursday at 9:30.\n", Purpose: securemail.PurposeTreatment,
	})
	if err != nil {
		return st, err
	}
	if _, err := o.RunDue(ctx); err != nil {
		return st, err
	}
	for st, err = range o.Find(as(ctx, clinic), securemail.Query{Submission: sub.ID}) {
		return st, err
	}
	return st, errors.New("the submission is gone")
}
