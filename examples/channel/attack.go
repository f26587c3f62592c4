package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
)

// guarded are the domains that publish what their hosts must prove.
func guarded() []string { return []string{"dane.example", "sts.example"} }

// attack puts a man in the middle before both domains. First he takes STARTTLS out of what the host says, then he answers
// with a certificate of his own. The mail waits, and he sees none of it.
func (s *story) attack(ctx context.Context) error {
	for _, domain := range guarded() {
		host := "mx." + domain
		alerts, err := s.under(ctx, domain, "STARTTLS stripped", smtppeer.Options{Hostname: host, TLS: s.world.ca.Config(host), StripTLS: true})
		if err != nil {
			return fmt.Errorf("%s, stripped: %w", domain, err)
		}
		if !slices.Contains(alerts, "posture.downgrade") {
			return fmt.Errorf("%s: nobody was told", domain)
		}
		_, err = s.under(ctx, domain, "certificate forged", smtppeer.Options{Hostname: host, TLS: smtppeer.NewCA().Config(host)})
		if err != nil {
			return fmt.Errorf("%s, forged: %w", domain, err)
		}
	}
	return nil
}

// under sends a message while the attacker stands before the domain's host.
func (s *story) under(ctx context.Context, domain, what string, o smtppeer.Options) (alerts []string, err error) {
	mallory, err := s.world.intercept(domain, o)
	if err != nil {
		return nil, err
	}
	s.clock.pass(time.Hour)
	st, err := s.send(ctx, "north", "anna@"+domain)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(s.out, "%s, %s: %s\n", domain, what, st.State)
	s.reasons(choices(st.Reasons))
	if alerts, err = s.look(ctx, domain, false); err != nil {
		return nil, err
	}
	octets := 0
	for _, m := range mallory.Attempts() {
		octets += int(m.Octets)
	}
	fmt.Fprintf(s.out, "  the attacker had %d connections and got %d octets of mail\n\n", mallory.Connections(), octets)
	switch {
	case st.State != securemail.StateDeferred:
		return nil, fmt.Errorf("the mail is %s, and should wait", st.State)
	case mallory.Connections() == 0:
		return nil, errors.New("nobody was attacked")
	case octets != 0 || strings.Contains(strings.Join(mallory.Transcript(), "\n"), "@"):
		return nil, errors.New("the attacker learned something")
	}
	return alerts, nil
}

// repair gives the hosts their connections back: the mail that waited leaves.
func (s *story) repair(ctx context.Context) error {
	s.world.mend()
	if _, err := s.RunDue(ctx); err != nil {
		return err
	}
	for _, domain := range guarded() {
		n := len(s.world.hosts[domain].Messages())
		fmt.Fprintf(s.out, "%s has all %d messages\n", domain, n)
		if n != 3 {
			return fmt.Errorf("%s: mail was lost, or came twice", domain)
		}
		alerts, err := s.look(ctx, domain, true)
		if err != nil {
			return err
		}
		if !slices.Contains(alerts, "posture.recovered") {
			return fmt.Errorf("%s: nobody was told that it is over", domain)
		}
	}
	if err := s.Upkeep(ctx); err != nil { // the daily look at the others
		return err
	}
	return s.summary(ctx)
}
