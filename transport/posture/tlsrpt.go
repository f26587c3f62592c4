package posture

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
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
	txts, err := r.LookupTXT(ctx, "_smtp._tls."+domain)
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return TLSRPT{State: "none"}
	case err != nil:
		return TLSRPT{State: "unknown"}
	}
	return ParseTLSRPT(txts)
}

// ParseTLSRPT reads the TXT records at _smtp._tls. Records that don't begin with "v=TLSRPTv1;" are discarded; of what is
// left there must be exactly one (RFC 8460 section 3).
func ParseTLSRPT(txts []string) TLSRPT {
	var records []string
	for _, t := range txts {
		if v, _, ok := strings.Cut(t, ";"); ok && strings.TrimRight(v, " \t") == "v=TLSRPTv1" {
			records = append(records, t)
		}
	}
	switch len(records) {
	case 0:
		return TLSRPT{State: "none"}
	case 1:
	default:
		return TLSRPT{State: "invalid"}
	}
	out := TLSRPT{State: "present"}
	for field := range strings.SplitSeq(records[0], ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || strings.TrimSpace(name) != "rua" || out.Destinations != nil {
			continue
		}
		for uri := range strings.SplitSeq(value, ",") {
			if d := destination(strings.TrimSpace(uri)); d != "" && len(out.Destinations) < maxNames {
				out.Destinations = append(out.Destinations, d)
			}
		}
	}
	if len(out.Destinations) == 0 {
		return TLSRPT{State: "invalid"}
	}
	slices.Sort(out.Destinations)
	out.Destinations = slices.Compact(out.Destinations)
	return out
}

// destination is uri without what may name a person; "" where it is neither mailto nor https.
func destination(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	switch u.Scheme {
	case "mailto":
		to, _, _ := strings.Cut(cmp.Or(u.Opaque, u.Path), "?")
		at := strings.LastIndexByte(to, '@')
		if k, err := keyOf("", to[at+1:]); at > 0 && err == nil {
			return "mailto:" + k.domain
		}
	case "https":
		if k, err := keyOf("", u.Hostname()); err == nil {
			return "https://" + k.domain
		}
	}
	return ""
}
