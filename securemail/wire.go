package securemail

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"sync"
	"time"
)

// Channel is a demand: what the wire must give before the first byte of a message leaves. The zero value is the
// strictest. A published policy (DANE, MTA-STS enforce) binds whatever the demand.
type Channel uint8

const (
	// ChannelVerified: TLS 1.2+, an approved suite, and the peer's name proved by DANE, MTA-STS enforce with PKIX, PKIX
	// on a DNSSEC-signed MX, or a pinned or configured host.
	ChannelVerified Channel = iota
	// ChannelNamed: the same, and the chain and the MX name pass PKIX, though DNS was not signed.
	ChannelNamed
	// ChannelEncrypted: TLS 1.2+ and an approved suite; the name is not proved.
	ChannelEncrypted
	// ChannelAny: opportunistic; only for sealed or cleared content.
	ChannelAny
)

// Proof is how the peer's name was proved; the zero value is: not at all.
type Proof string

const (
	ProofDANE       Proof = "dane"
	ProofSTS        Proof = "mta-sts"
	ProofDNSSEC     Proof = "pkix-dnssec"
	ProofConfigured Proof = "configured"
	ProofPKIX       Proof = "pkix"
)

// Hop says whom the wire reaches.
type Hop uint8

const (
	// HopRelay: an intermediary; nothing is known of the road beyond it.
	HopRelay Hop = iota
	// HopAsserted: an intermediary whose Operator vouches for the road beyond.
	HopAsserted
	// HopFinal: the recipient's own mail host.
	HopFinal
)

// TLSFacts is what a handshake gave. Version, Suite and Group are the IANA numbers that crypto/tls uses; Chain is the
// SHA-256 over the peer's certificates in DER, leaf first.
type TLSFacts struct {
	Version, Suite uint16
	Group          tls.CurveID
	Chain          [32]byte
	FIPS           bool
}

// TLSFactsOf reads cs; nil gives nil.
func TLSFactsOf(cs *tls.ConnectionState) *TLSFacts {
	if cs == nil {
		return nil
	}
	h := sha256.New()
	for _, c := range cs.PeerCertificates {
		h.Write(c.Raw)
	}
	f := &TLSFacts{Version: cs.Version, Suite: cs.CipherSuite, Group: cs.CurveID, FIPS: fipsEnabled()}
	h.Sum(f.Chain[:0])
	return f
}

// approved says TLS 1.2 or later with a suite that crypto/tls itself holds to be secure and forward-secret.
func (f *TLSFacts) approved() bool {
	return f != nil && f.Version >= tls.VersionTLS12 && approvedSuites()[suite{f.Version, f.Suite}]
}

type suite struct{ version, id uint16 }

// approvedSuites is made once: it is asked for each delivery.
var approvedSuites = sync.OnceValue(func() map[suite]bool {
	all := make(map[suite]bool)
	for _, s := range tls.CipherSuites() {
		for _, v := range s.SupportedVersions {
			all[suite{v, s.ID}] = true
		}
	}
	return all
})

// Operator is who runs a relay and vouches for the road behind it.
type Operator struct {
	// Name and Agreement (the business associate agreement's reference, 45 CFR 164.504(e)) are recorded with each receipt.
	Name, Agreement string
	// Until is the agreement's end, zero: none. Uses are the purposes that it covers, none: all. Regions are recorded, and bind
	// nothing here: where a relay's machines are can't be seen from outside.
	Until         time.Time
	Uses, Regions []string
}

// Wire is evidence: what was proved about the connection. The zero value is the weakest.
type Wire struct {
	TLS      *TLSFacts
	Proof    Proof
	Hop      Hop
	Operator *Operator
	// Reasons is the chain of findings that led here, in order.
	Reasons []Reason
}

// Meets is the one comparison of evidence with a demand. ChannelAny is always met. ChannelEncrypted needs TLS 1.2+ with
// an approved suite to a hop that is final, or asserted by an Operator with a name and an agreement; ChannelNamed also a
// Proof; ChannelVerified a Proof other than "pkix". A Channel or Hop outside the constants is never met.
func (w Wire) Meets(c Channel) bool {
	if c == ChannelAny {
		return true
	}
	if !w.TLS.approved() || !w.hopCounts() {
		return false
	}
	switch c {
	case ChannelEncrypted:
		return true
	case ChannelNamed:
		return w.Proof.known()
	case ChannelVerified:
		return w.Proof.known() && w.Proof != ProofPKIX
	}
	return false
}

func (w Wire) hopCounts() bool {
	return w.Hop == HopFinal || w.Hop == HopAsserted && w.Operator != nil && w.Operator.Name != "" && w.Operator.Agreement != ""
}

func (p Proof) known() bool {
	switch p {
	case ProofDANE, ProofSTS, ProofDNSSEC, ProofConfigured, ProofPKIX:
		return true
	}
	return false
}

// Route is what a Prober knows of the way to a domain. Known false: not known right now. Until is how long it holds.
type Route struct {
	Wire  `cbor:"wire"`
	Known bool
	Until time.Time
}

// Prober finds out, without sending mail, which wire a domain would give. It is a Config field of its own, since
// wrappers of a Transport would hide it. An error, or Known false, means unknown: never "no TLS".
type Prober interface {
	Probe(ctx context.Context, tenant, domain string) (Route, error)
}
