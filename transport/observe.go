package transport

import (
	"context"
	"net/netip"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Observation is what a look at a domain's mail hosts showed; no mail was sent for it. It holds names of hosts and
// certificates, and no name of a person.
type Observation struct {
	Domain string
	Time   time.Time
	// Known says that the domain's mail hosts were found out; NullMX that it takes no mail (RFC 7505).
	Known, NullMX bool
	// Signed says that DNSSEC proved the MX answer.
	Signed bool
	// Hosts are in order of preference.
	Hosts []HostObservation
	STS   STSObservation
	// Route is what a Prober would answer: the wire that a delivery would have now.
	Route securemail.Route
	// Reasons are findings about the domain as a whole.
	Reasons []securemail.Reason
}

// HostObservation is one mail host of a domain.
type HostObservation struct {
	Name       string
	Preference uint16
	// Addrs are all its addresses; Addr is the one that was spoken to, invalid if none was.
	Addrs []netip.Addr
	Addr  netip.Addr
	// STARTTLS and RequireTLS (RFC 8689) say what it offers; Extensions are its EHLO keywords under TLS, else in the clear.
	STARTTLS, RequireTLS bool
	Extensions           []string
	// Versions are the TLS versions it takes, newest first, by their IANA numbers; 1.0 and 1.1 are looked for too, and never
	// used.
	Versions []uint16
	// Wire is the evidence of the session that a delivery would use.
	Wire securemail.Wire
	// Certificates are what it showed, its own first.
	Certificates []Certificate
	// DANE is "none", "usable", "unusable" or "unknown" (RFC 7672 section 2.1).
	DANE string
	// Reasons are findings about this host.
	Reasons []securemail.Reason
}

// Certificate is what an operator wants to know of one.
type Certificate struct {
	Names     []string
	Issuer    string
	NotBefore time.Time
	NotAfter  time.Time
	// Key is such as "RSA 2048" or "ECDSA P-256"; SPKI the SHA-256 of its SubjectPublicKeyInfo.
	Key  string
	SPKI [32]byte
}

// STSObservation is a domain's MTA-STS policy (RFC 8461). State is "none", "live", "cached" or "unknown".
type STSObservation struct {
	State, ID, Mode string
	MX              []string
	MaxAge          time.Duration
}

// Observer looks at a domain closely. An error means that nothing was found out.
type Observer interface {
	Observe(ctx context.Context, tenant, domain string) (*Observation, error)
}
