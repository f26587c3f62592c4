package smtp

import (
	"bytes"
	"context"
	"strings"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// stsPolicy is what MTA-STS asks of mail to a domain.
type stsPolicy struct {
	state STSState
	// shown is the state in words.
	shown    string
	cached   bool
	id       string
	policy   *mtasts.Policy
	text     []byte
	findings []mtasts.Finding
}

// A domain without a policy, and one of which nothing is known.
var (
	noSTS      = &stsPolicy{state: STSNone, shown: "none"}
	unknownSTS = &stsPolicy{state: STSUnknown, shown: "unknown"}
)

// setSTS takes the host program's cache, or makes one that forgets with the process. A relay needs none.
func (t *Transport) setSTS(o *Options, r Resolver) error {
	txt, ok := r.(txtResolver)
	if t.relay != nil || o.STS == nil && !ok {
		return nil
	}
	if t.sts = o.STS; t.sts != nil {
		return nil
	}
	client, err := mtasts.NewClient(&mtasts.ClientOptions{RootCAs: t.roots, AllowPrivate: o.AllowPrivate})
	if err != nil {
		return err
	}
	t.sts, err = mtasts.New(mtasts.NewMemory(&mtasts.MemoryOptions{Now: t.now}), &mtasts.Options{
		Resolver: txt, Fetcher: client, Logger: t.log, Now: t.now,
	})
	return err
}

// stsOf asks for the domain's policy.
func (t *Transport) stsOf(ctx context.Context, domain string) *stsPolicy {
	if t.sts == nil {
		return noSTS
	}
	s, err := t.sts.Lookup(ctx, domain)
	return newSTS(s, err)
}

func newSTS(s mtasts.State, err error) *stsPolicy {
	if err != nil || s.Source == "" {
		return unknownSTS
	}
	if s.Policy == nil && len(s.Findings) == 0 {
		return noSTS
	}
	p := &stsPolicy{
		state: STSNone, shown: string(s.Source), cached: !s.Confirmed, id: s.ID, policy: s.Policy, text: s.Text, findings: s.Findings,
	}
	switch {
	case s.Enforced():
		p.state = STSEnforce
	case s.Policy != nil && s.Policy.Mode == mtasts.Testing:
		p.state = STSTesting
	}
	return p
}

// names says that the policy names the host.
func (p *stsPolicy) names(host string) bool { return p.policy != nil && p.policy.Match(host) }

// renewed asks for the policy again, before mail fails because of it (RFC 8461 section 5.1), and says whether it has changed.
func (t *Transport) renewed(ctx context.Context, j *job, domain string) bool {
	s, err := t.sts.Recheck(ctx, domain)
	next, old := newSTS(s, err), j.policies.sts
	if next.state == STSUnknown || next.state == old.state && next.id == old.id && bytes.Equal(next.text, old.text) {
		return false
	}
	p := *j.policies
	p.sts = next
	j.policies = &p
	return true
}

// notes say which policy it is, and findings about it that change nothing.
func (p *stsPolicy) notes(rs []securemail.Reason) []securemail.Reason {
	if p.policy != nil {
		rs = note(rs, "sts-policy", "the domain's MTA-STS policy has the id "+p.id+" and the mode "+string(p.policy.Mode))
	}
	for _, f := range p.findings {
		rs = note(rs, "sts-"+string(f.Rule), f.Text)
	}
	return rs
}

// result completes a report.
func (p *stsPolicy) result(r tlsrpt.Result) tlsrpt.Result {
	r.Type = tlsrpt.STS
	if p.policy != nil {
		r.PolicyStrings = strings.Split(strings.TrimSpace(strings.ReplaceAll(string(p.text), "\r\n", "\n")), "\n")
		r.MXHosts = p.policy.MX
	}
	return r
}

// broken is the report of a policy that could not be had, "" for none.
func (p *stsPolicy) broken() (tlsrpt.FailureType, string) {
	for _, f := range p.findings {
		if f.Result != "" {
			return tlsrpt.FailureType(f.Result), "sts-" + string(f.Rule)
		}
	}
	return "", ""
}

// observation shows p.
func (p *stsPolicy) observation() transport.STSObservation {
	o := transport.STSObservation{State: p.shown, ID: p.id}
	if p.policy != nil {
		o.Mode, o.MX, o.MaxAge = string(p.policy.Mode), p.policy.MX, p.policy.MaxAge
	}
	return o
}
