package smtp

import (
	"context"
	"strings"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// stsPolicy is what MTA-STS asks of mail to a domain.
type stsPolicy struct {
	state  STSState
	id     string
	cached bool
	match  func(host string) bool
	policy *mtasts.Policy
	text   []byte
	source string
}

// result completes a report.
func (p *stsPolicy) result(r tlsrpt.Result) tlsrpt.Result {
	r.Type = tlsrpt.STS
	r.PolicyStrings = strings.Split(strings.TrimSpace(strings.ReplaceAll(string(p.text), "\r\n", "\n")), "\n")
	if p.policy != nil {
		r.MXHosts = p.policy.MX
	}
	return r
}

// observation shows p.
func (p *stsPolicy) observation() transport.STSObservation {
	o := transport.STSObservation{State: p.source, ID: p.id}
	if p.policy != nil {
		o.Mode, o.MX, o.MaxAge = string(p.policy.Mode), p.policy.MX, p.policy.MaxAge
	}
	return o
}

// noSTS is a domain without a policy.
var noSTS = &stsPolicy{state: STSNone, source: "none"}

// names says that the policy names the host.
func (p *stsPolicy) names(host string) bool { return p.match != nil && p.match(host) }

func (t *Transport) renewed(ctx context.Context, j *job, domain string) bool { return false }

func (t *Transport) stsOf(ctx context.Context, domain string) *stsPolicy { return noSTS }
