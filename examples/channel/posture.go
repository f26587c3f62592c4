package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/posture"
)

// look asks the Monitor about a domain, as its daily look would: what did deliveries prove that must not get less, could
// mail be forwarded there by TLS alone, and was anybody told of a change? It gives the kinds of alerts.
func (s *story) look(ctx context.Context, domain string, forward bool) (kinds []string, err error) {
	if _, err := s.Monitor.Check(as(ctx, "north"), "north", domain); err != nil {
		return nil, err
	}
	if _, err := s.RunDue(ctx); err != nil { // feeds the Sinks
		return nil, err
	}
	held, err := s.Monitor.Ratchet(as(ctx, "north"), "north", domain)
	if err != nil {
		return nil, err
	}
	a := s.Monitor.CanForward(ctx, "north", securemail.Mailbox("anna@"+domain).Address, securemail.ChannelNamed)
	fmt.Fprintf(s.out, "%s: ratchet %s, forward by TLS alone: %t\n", domain, held, a.OK)
	if !a.OK {
		s.reasons(a.Reasons)
	}
	for _, e := range s.alerts.take() {
		kinds = append(kinds, e.Kind)
		fmt.Fprintf(s.out, "  ALERT %s\n", e.Kind)
		for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
			fmt.Fprintf(s.out, "    %s: %s\n", k, e.Detail[k])
		}
	}
	if held.Least != posture.LevelVerified || a.OK != forward {
		return nil, fmt.Errorf("%s: ratchet %s, forward %t", domain, held, a.OK)
	}
	return kinds, nil
}

// summary is the Monitor's report on all that the clinic writes to.
func (s *story) summary(ctx context.Context) error {
	r, err := s.Monitor.Report(as(ctx, "north"), "north")
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	return r.WriteText(s.out)
}

// choices are the reasons that say what became of each way to protect the mail.
func choices(rs []securemail.Reason) []securemail.Reason {
	return slices.DeleteFunc(slices.Clone(rs), func(r securemail.Reason) bool { return !strings.HasPrefix(r.Rule, "choice/") })
}

// reasons prints a chain, a step a line.
func (s *story) reasons(rs []securemail.Reason) {
	for _, r := range rs {
		fmt.Fprintf(s.out, "    %s: %s\n", r.Rule, r.Text)
	}
}
