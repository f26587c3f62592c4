package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// report sends what the two domains asked for in DNS, and reads it as their postmasters would: what failed yesterday, for
// whom, and how often. It goes to the very hosts that it is about.
func (s *story) report(ctx context.Context) error {
	if err := s.Upkeep(ctx); err != nil {
		return err
	}
	for _, want := range []struct {
		domain   string
		policy   tlsrpt.PolicyType
		failures []tlsrpt.FailureType
	}{
		{"dane.example", tlsrpt.TLSA, []tlsrpt.FailureType{tlsrpt.STARTTLSNotSupported, tlsrpt.TLSAInvalid}},
		{"sts.example", tlsrpt.STS, []tlsrpt.FailureType{tlsrpt.STARTTLSNotSupported, tlsrpt.CertificateNotTrusted}},
	} {
		m, err := mailTo(s.world.hosts[want.domain], "tls-reports@"+want.domain)
		if err != nil {
			return err
		}
		if err := s.signed(ctx, m, "operator.example", "reports"); err != nil {
			return err
		}
		r, err := tlsrpt.ParseMail(bytes.NewReader(m.Data))
		if err != nil {
			return err
		}
		found := s.print(r.Report)
		for _, f := range want.failures {
			if found[want.policy][f] == 0 {
				return fmt.Errorf("%s: the report does not tell of %s", want.domain, f)
			}
		}
		if found[want.policy][""] == 0 {
			return fmt.Errorf("%s: the report does not tell of what went well", want.domain)
		}
	}
	return nil
}

// print shows a report and counts its sessions by policy and failure, "" for success.
func (s *story) print(r *tlsrpt.Report) map[tlsrpt.PolicyType]map[tlsrpt.FailureType]int64 {
	found := make(map[tlsrpt.PolicyType]map[tlsrpt.FailureType]int64)
	fmt.Fprintf(s.out, "%s, %s:\n", r.Organization, r.Range.Start.Format("2006-01-02"))
	for _, p := range r.Policies {
		by := map[tlsrpt.FailureType]int64{"": p.Summary.Success}
		fmt.Fprintf(s.out, "  %s %s (%s): %d sessions well, %d failed\n",
			p.Policy.Type, p.Policy.Domain, strings.Join(p.Policy.MXHosts, ", "), p.Summary.Success, p.Summary.Failure)
		for _, d := range p.Details {
			by[d.Type] += d.Sessions
			fmt.Fprintf(s.out, "    %d %s (%s) at %s\n", d.Sessions, d.Type, d.Reason, d.ReceivingMX)
		}
		found[p.Policy.Type] = by
	}
	return found
}

// mailTo is the one message that a host has for an address.
func mailTo(p *smtppeer.Peer, address string) (smtppeer.Message, error) {
	var got []smtppeer.Message
	for _, m := range p.Messages() {
		if m.Rcpts[0] == address {
			got = append(got, m)
		}
	}
	if len(got) != 1 {
		return smtppeer.Message{}, fmt.Errorf("%d messages for %s", len(got), address)
	}
	return got[0], nil
}
