package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dkim"
)

// tenants has both clinics write to one host, and looks at them with its eyes: each has a name, a return path and a key of
// its own. North's key of yesterday has given way to the one of today.
func (s *story) tenants(ctx context.Context) error {
	host := s.world.hosts["plain.example"]
	for _, clinic := range []string{"north", "south"} {
		st, err := s.send(ctx, clinic, "ben@plain.example")
		if err != nil {
			return err
		}
		if st.State != securemail.StateDelivered {
			return fmt.Errorf("%s: %s", clinic, st.State)
		}
	}
	got := host.Messages()
	if len(got) != 3 {
		return fmt.Errorf("%d messages", len(got))
	}
	return errors.Join(
		s.seen(ctx, "yesterday", got[0], "north", "november"),
		s.seen(ctx, "today", got[1], "north", "december"),
		s.seen(ctx, "today", got[2], "south", "only"),
	)
}

// seen checks what the far end sees of a clinic.
func (s *story) seen(ctx context.Context, day string, m smtppeer.Message, clinic, selector string) error {
	domain := clinic + ".example"
	fmt.Fprintf(s.out, "%s: EHLO %s, MAIL FROM <%s>, ", day, m.HELO, m.From)
	if m.HELO != "mail."+domain || m.From != "bounces@"+domain {
		return fmt.Errorf("%s: goes by another name", clinic)
	}
	return s.signed(ctx, m, domain, selector)
}

var selectorTag = regexp.MustCompile(`[;\s]s=([a-z]+)`)

// signed verifies the signature of a message, by the keys in DNS.
func (s *story) signed(ctx context.Context, m smtppeer.Message, domain, selector string) error {
	vs, err := dkim.Verify(ctx, s.world.resolver, bytes.NewReader(m.Data))
	if err != nil {
		return err
	}
	tag := selectorTag.FindSubmatch(m.Data)
	if len(vs) != 1 || vs[0].Outcome != dkim.Pass || vs[0].Domain != domain || tag == nil || string(tag[1]) != selector {
		return fmt.Errorf("%s: not signed by the key %s", domain, selector)
	}
	fmt.Fprintf(s.out, "DKIM %s by %s with the key %s\n", vs[0].Outcome, vs[0].Domain, selector)
	return nil
}
