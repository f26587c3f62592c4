package posture

import (
	"context"
	"errors"
	"slices"

	"github.com/postseal/postseal/transport/tlsrpt"
)

// TLSRPT is a domain's wish for reports. State is "none", "present", "invalid" or "unknown"; Destinations are the schemes
// and domains of its rua, such as "mailto:example.org", without local parts and paths.
type TLSRPT struct {
	State        string   `json:"state"`
	Destinations []string `json:"destinations,omitempty"`
}

// LookupTLSRPT asks r for the record of domain (RFC 8460 section 3). A nil r, or an error, is "unknown".
func LookupTLSRPT(ctx context.Context, r Resolver, domain string) TLSRPT {
	if r == nil {
		return TLSRPT{State: "unknown"}
	}
	rec, err := tlsrpt.LookupRecord(ctx, r, domain)
	var broken *tlsrpt.RecordError
	switch {
	case errors.Is(err, tlsrpt.ErrNoRecord):
		return TLSRPT{State: "none"}
	case errors.As(err, &broken):
		return TLSRPT{State: "invalid"}
	case err != nil:
		return TLSRPT{State: "unknown"}
	}
	out := TLSRPT{State: "present"}
	for _, d := range rec.RUA[:min(len(rec.RUA), maxNames)] {
		scheme := "https://"
		if d.Mailbox() != "" {
			scheme = "mailto:"
		}
		if k, err := keyOf("", d.Host()); err == nil {
			out.Destinations = append(out.Destinations, scheme+k.domain)
		}
	}
	slices.Sort(out.Destinations)
	out.Destinations = slices.Compact(out.Destinations)
	return out
}
