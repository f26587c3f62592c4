package main

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/postseal/postseal/securemail"
)

// deliver sends a message to a patient at each domain.
func (s *story) deliver(ctx context.Context) error {
	for _, want := range []struct {
		domain string
		proof  securemail.Proof // "": it must be held
	}{
		{"dane.example", securemail.ProofDANE},
		{"sts.example", securemail.ProofSTS},
		{"signed.example", securemail.ProofDNSSEC},
		{"plain.example", securemail.ProofPKIX},
		{"selfsigned.example", ""},
	} {
		st, err := s.send(ctx, "north", "anna@"+want.domain)
		if err != nil {
			return err
		}
		took := len(s.world.hosts[want.domain].Attempts())
		switch {
		case want.proof == "" && st.State == securemail.StateHeld && took == 0:
			fmt.Fprintf(s.out, "%s: %s\n", want.domain, st.State)
			s.reasons(choices(st.Reasons))
		case st.State == securemail.StateDelivered && st.Receipt.Proof == want.proof && took == 1:
			f := st.Receipt.TLS
			fmt.Fprintf(s.out, "%s: %s, proof %s, %s %s\n", want.domain, st.State, st.Receipt.Proof, tls.VersionName(f.Version), f.Group)
			s.reasons(st.Receipt.Reasons)
		default:
			return fmt.Errorf("%s: %s, and %d messages left", want.domain, st.State, took)
		}
	}
	fmt.Fprintln(s.out)
	for _, domain := range guarded() {
		if _, err := s.look(ctx, domain, true); err != nil {
			return err
		}
	}
	return nil
}
