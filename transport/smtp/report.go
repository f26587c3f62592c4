package smtp

import (
	"context"
	"net"
	"net/netip"

	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/tlsrpt"
)

type reporter interface {
	Add(ctx context.Context, r tlsrpt.Result)
}

// tell reports one session under each policy of the domain (RFC 8460 section 4): c is the session, or f why there is none.
// What failed for other reasons than TLS is not its matter.
func (t *Transport) tell(ctx context.Context, domain string, g target, c *conn, f *failure) {
	if t.tlsrpt == nil || g.relay != nil {
		return
	}
	r := tlsrpt.Result{Domain: domain, ReceivingMX: g.name, ReceivingIP: g.addr}
	switch {
	case f != nil && f.Stage == stageTLS:
		r.Failure, r.Reason = sessionFailure(lastRule(f))
	case f != nil:
		return
	case c.tls == nil:
		r.Failure, r.Reason = tlsrpt.STARTTLSNotSupported, "starttls-not-offered"
		for _, n := range c.notes {
			if n.Rule != "hello-classical" {
				r.Failure, r.Reason = sessionFailure(n.Rule)
			}
		}
	}
	if c != nil {
		if a, ok := c.raw.LocalAddr().(*net.TCPAddr); ok {
			r.SendingIP = a.AddrPort().Addr().Unmap()
		}
	}
	t.perPolicy(ctx, g, c, r)
}

// perPolicy adds what each policy makes of the session.
func (t *Transport) perPolicy(ctx context.Context, g target, c *conn, r tlsrpt.Result) {
	bound := false
	if s := g.plan.tlsa.State; s == dane.Usable || s == dane.Unusable {
		bound = true
		r := tlsaResult(g, r)
		if c != nil && c.tls != nil {
			if s == dane.Unusable {
				r.Failure, r.Reason = tlsrpt.TLSAInvalid, "dane-unusable"
			} else if !c.shown.dane {
				r.Failure, r.Reason = certificateFailure(c.tlsaRule), c.tlsaRule
			}
		}
		t.tlsrpt.Add(ctx, r)
	}
	if s := g.plan.know.STS; s == STSEnforce || s == STSTesting {
		bound = true
		r := g.plan.sts.result(r)
		switch {
		case !g.plan.know.STSMatch:
			r.Failure, r.Reason = tlsrpt.ValidationFailure, "sts-mx-mismatch"
		case c != nil && c.tls != nil && !c.shown.pkix:
			r.Failure, r.Reason = certificateFailure(c.pkix), c.pkix
		}
		t.tlsrpt.Add(ctx, r)
	}
	if bound {
		return
	}
	// A policy that was meant and can't be had is what the domain's owner wants to hear of.
	if failure, reason := g.plan.sts.broken(); failure != "" {
		r := g.plan.sts.result(r)
		r.Failure, r.Reason = failure, reason
		t.tlsrpt.Add(ctx, r)
	}
	r.Type = tlsrpt.NoPolicy
	t.tlsrpt.Add(ctx, r)
}

// tellRefused reports a host that no session was opened with, because of a policy.
func (t *Transport) tellRefused(ctx context.Context, domain string, h *host, p *plan) {
	if t.tlsrpt == nil || h.relay != nil {
		return
	}
	r := tlsrpt.Result{Domain: domain, ReceivingMX: h.name}
	switch {
	case p.know.STS == STSEnforce && !p.know.STSMatch && p.terms.Verdict == VerdictRefuse:
		r = p.sts.result(r)
		r.Failure, r.Reason = tlsrpt.ValidationFailure, "sts-mx-mismatch"
	case p.know.DANE == dane.Unknown:
		r = tlsaResult(target{h, netip.Addr{}, p}, r)
		r.Failure, r.Reason = tlsrpt.DNSSECInvalid, "dane-unknown"
	default:
		return
	}
	t.tlsrpt.Add(ctx, r)
}

func tlsaResult(g target, r tlsrpt.Result) tlsrpt.Result {
	r.Type, r.PolicyDomain = tlsrpt.TLSA, g.plan.tlsa.Base
	for _, rec := range g.plan.tlsa.Records {
		r.PolicyStrings = append(r.PolicyStrings, rec.String())
	}
	return r
}

func lastRule(f *failure) string {
	if n := len(f.Wire.Reasons); n > 0 {
		return f.Wire.Reasons[n-1].Rule
	}
	return "tls"
}

// sessionFailure maps why there was no TLS.
func sessionFailure(rule string) (tlsrpt.FailureType, string) {
	switch rule {
	case "starttls-not-offered", "starttls-refused", "tls-none":
		return tlsrpt.STARTTLSNotSupported, rule
	}
	return tlsrpt.ValidationFailure, rule
}

// certificateFailure maps what a certificate broke (RFC 8460 section 4.3).
func certificateFailure(rule string) tlsrpt.FailureType {
	switch rule {
	case "expired", "dane-expired":
		return tlsrpt.CertificateExpired
	case "pkix-name", "dane-name":
		return tlsrpt.CertificateHostMismatch
	case "pkix-untrusted", "dane-path":
		return tlsrpt.CertificateNotTrusted
	case "dane-no-match", "dane-not-usable":
		return tlsrpt.TLSAInvalid
	}
	return tlsrpt.ValidationFailure
}
