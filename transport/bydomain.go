package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Router is what [ByDomain] makes. It is safe for concurrent use if its Transports are.
type Router struct {
	routes map[string]securemail.Transport
	other  securemail.Transport
}

var (
	_ securemail.Transport = (*Router)(nil)
	_ securemail.Prober    = (*Router)(nil)
	_ Observer             = (*Router)(nil)
)

var errNoRoute = errors.New("transport: no transport for this domain")

// ByDomain makes a Router. Keys of routes are recipient domains in lower case A-labels, such as "example.org", or
// "*.example.org" for all below it; the longest match wins. Other takes the rest; nil: such mail is kept and retried,
// since a missing route is for the host program to mend.
func ByDomain(routes map[string]securemail.Transport, other securemail.Transport) (*Router, error) {
	r := &Router{routes: map[string]securemail.Transport{}, other: other}
	var errs []error
	for domain, t := range routes {
		if name := strings.TrimPrefix(domain, "*."); t == nil || name == "" || name != strings.ToLower(name) || strings.Contains(name, "*") {
			errs = append(errs, fmt.Errorf("transport: route %q needs a lower-case domain and a transport", domain))
		}
		r.routes[domain] = t
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// find is the transport for domain, nil without one.
func (r *Router) find(domain string) securemail.Transport {
	if t := r.routes[domain]; t != nil {
		return t
	}
	for {
		_, parent, ok := strings.Cut(domain, ".")
		if !ok {
			return r.other
		}
		if t := r.routes["*."+parent]; t != nil {
			return t
		}
		domain = parent
	}
}

// Deliver implements securemail.Transport.
func (r *Router) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	t := r.find(s.Recipient.Address.Domain())
	if t == nil {
		return nil, &securemail.DeliveryError{Stage: "resolve", Enhanced: "4.4.4", Err: errNoRoute}
	}
	return t.Deliver(ctx, s)
}

// Probe implements securemail.Prober: it asks the domain's Transport; one that can't tell leaves the route unknown.
func (r *Router) Probe(ctx context.Context, tenant, domain string) (securemail.Route, error) {
	return probe(ctx, r.find(domain), tenant, domain)
}

// Observe implements Observer: it asks the domain's Transport; the error of one that can't look Is errors.ErrUnsupported.
func (r *Router) Observe(ctx context.Context, tenant, domain string) (*Observation, error) {
	return observe(ctx, r.find(domain), tenant, domain)
}
