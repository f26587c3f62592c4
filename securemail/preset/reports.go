package preset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/smtp"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// TLSReports say who reports on TLS (RFC 8460), to the domains that mail goes to and that ask for it.
type TLSReports struct {
	// Organization is who reports, Contact where readers may ask, such as "https://example.com/mail" or a role's address.
	// Both are required, and shown to every domain that is reported to.
	Organization, Contact string
	// From is the author of reports by mail and takes their bounces, such as "tlsrpt@example.com". Options.DKIM must have a
	// key for its domain now: receivers ignore what is not signed.
	From string
	// HTTPS is how reports are posted; nil: with the RootCAs and AllowPrivate of Options.SMTP.
	HTTPS *tlsrpt.HTTPSOptions
}

// reporting is what openReports needs.
type reporting struct {
	*TLSReports
	signer *dkim.Signer
	txt    mtasts.Resolver
	log    *slog.Logger
}

func (r *reporting) check(so *smtp.Options) error {
	now := time.Now
	if so.Now != nil {
		now = so.Now
	}
	switch _, domain, _ := strings.Cut(r.From, "@"); {
	case so.Relay != nil:
		return errors.New("preset: TLS reports tell of sessions with recipients' mail hosts: there are none with a Relay")
	case so.TLSRPT != nil:
		return errors.New("preset: TLSReports and SMTP.TLSRPT exclude each other")
	case r.txt == nil:
		return errors.New("preset: TLS reports need an SMTP.Resolver with LookupTXT")
	case r.signer == nil || len(r.signer.Keys(domain, now())) == 0:
		return fmt.Errorf("preset: TLS reports need a key in DKIM for %q", domain)
	}
	return nil
}

// openReports makes what counts sessions, and what reports on them; so gets the first.
func (s *System) openReports(ctx context.Context, so *smtp.Options, r *reporting) error {
	if err := r.check(so); err != nil {
		return err
	}
	store, err := transport.TLSRPTStore(ctx, s.DB)
	if err != nil {
		return err
	}
	if s.reports, err = reportTransport(so); err != nil {
		return err
	}
	_, domain, _ := strings.Cut(r.From, "@")
	https := r.HTTPS
	if https == nil {
		https = &tlsrpt.HTTPSOptions{RootCAs: so.RootCAs, AllowPrivate: so.AllowPrivate}
	}
	s.Reporter, err = tlsrpt.NewReporter(store, r.txt, &tlsrpt.ReporterOptions{
		Organization: r.Organization, Contact: r.Contact, Submitter: domain, HTTPS: https, Now: so.Now, Logger: r.log,
		Mail: &tlsrpt.MailOptions{
			From: r.From, Sign: transport.DKIMReports(r.signer, domain), Send: transport.MailReports(s.reports),
		},
	})
	if err != nil {
		return err
	}
	if s.Sessions, err = tlsrpt.NewCollector(store, &tlsrpt.CollectorOptions{Now: so.Now, Logger: r.log}); err != nil {
		return err
	}
	so.TLSRPT = s.Sessions
	return nil
}

// reportTransport reaches the same hosts as so, on a few connections a day. It alone honours "TLS-Required: No": users'
// mail, which goes by the other one, can't switch off a policy.
func reportTransport(so *smtp.Options) (*smtp.Transport, error) {
	c := *so
	c.HonourTLSRequiredNo, c.Ratchet, c.TLSRPT, c.Stream, c.DSN, c.MaxIdle = true, nil, nil, nil, nil, -1
	return smtp.New(&c)
}
