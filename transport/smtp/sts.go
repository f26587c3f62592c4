package smtp

import (
	"context"
)

// stsPolicy is what MTA-STS asks of mail to a domain.
type stsPolicy struct {
	state  STSState
	id     string
	cached bool
	match  func(host string) bool
}

// noSTS is a domain without a policy.
var noSTS = &stsPolicy{state: STSNone}

// names says that the policy names the host.
func (p *stsPolicy) names(host string) bool { return p.match != nil && p.match(host) }

func (t *Transport) renewed(ctx context.Context, j *job, domain string) bool { return false }

func (t *Transport) stsOf(ctx context.Context, domain string) *stsPolicy { return noSTS }
