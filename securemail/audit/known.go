package audit

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Known is what the Policy knew, as far as it may be told: the look-ups that were made for it, and their answers. All of it is
// under Entry.Facts, the hash.
type Known struct {
	// Class is "phi" or "cleared"; Escalate, what the sender asked for, is "sealed" or "escrow".
	Class    string `json:"class"`
	Escalate string `json:"escalate,omitzero"`
	// Keys are the answers about keys, by method. A method that was not looked up is not there.
	Keys map[string]KnownKeys `json:"keys,omitzero"`
	// Route is the answer about the way to the recipient's domain; nil: not looked up.
	Route *KnownRoute `json:"route,omitzero"`
}

// KnownKeys is the answer about the keys for one method. State is "found", "none", "pending" or "unknown" (not known right
// then); Why is the rule behind it.
type KnownKeys struct {
	Keys  []KnownKey `json:"keys,omitzero"`
	State string     `json:"state"`
	Why   string     `json:"why,omitzero"`
}

// KnownKey is one key. Trust is "found" (somebody published it), "domain" or "pinned".
type KnownKey struct {
	Fingerprint string    `json:"fingerprint"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	Origin      string    `json:"origin,omitzero"`
	Trust       string    `json:"trust"`
}

// KnownRoute is the answer about the way to a domain. Known false: not known right then. Rules are those behind it.
type KnownRoute struct {
	Hop   string    `json:"hop,omitzero"`
	Known bool      `json:"known"`
	Proof string    `json:"proof,omitzero"`
	Rules []string  `json:"rules,omitzero"`
	TLS   *TLS      `json:"tls,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// knownTo puts f in words. Of reasons it takes the rules alone: a probe's texts may name the domain's mail hosts, and the event
// does not say which.
func (w *wording) knownTo(f *securemail.Facts) *Known {
	if f == nil {
		return nil
	}
	out := &Known{Class: "phi", Escalate: escalations[f.Escalate]}
	if f.Class.Level == securemail.LevelCleared {
		out.Class = "cleared"
	}
	for method, k := range f.Keys {
		if out.Keys == nil {
			out.Keys = map[string]KnownKeys{}
		}
		out.Keys[w.id(string(method))] = KnownKeys{Keys: list(w, k.Keys, w.knownKey), State: keyState(k.State), Why: w.text(k.Why.Rule)}
	}
	if r := f.Route; r != nil {
		out.Route = &KnownRoute{
			Known: r.Known, Proof: w.id(string(r.Proof)), TLS: tlsFacts(r.TLS), Until: w.time(r.Until),
			Rules: list(w, r.Reasons, func(r securemail.Reason) string { return w.text(r.Rule) }),
		}
		if r.TLS != nil {
			out.Route.Hop = hopName(r.Hop)
		}
	}
	return out
}

var escalations = map[securemail.Escalation]string{securemail.EscalateSealed: "sealed", securemail.EscalateEscrow: "escrow"}

func (w *wording) knownKey(k securemail.Key) KnownKey {
	return KnownKey{Fingerprint: w.id(k.Fingerprint), NotAfter: w.time(k.NotAfter), Origin: w.text(k.Origin), Trust: trustName(k.Trust)}
}

func keyState(s securemail.KeyState) string {
	switch s {
	case securemail.KeyNone:
		return "none"
	case securemail.KeyFound:
		return "found"
	case securemail.KeyPending:
		return "pending"
	}
	return "unknown"
}

func trustName(t securemail.Trust) string {
	switch t {
	case securemail.TrustFound:
		return "found"
	case securemail.TrustDomain:
		return "domain"
	case securemail.TrustPinned:
		return "pinned"
	}
	return fmt.Sprintf("trust-%d", t)
}

// tlsFacts puts t in IANA's names; nil for nil.
func tlsFacts(t *securemail.TLSFacts) *TLS {
	if t == nil {
		return nil
	}
	out := &TLS{
		Chain: hex.EncodeToString(t.Chain[:]), FIPS: t.FIPS, Suite: tls.CipherSuiteName(t.Suite), Version: tls.VersionName(t.Version),
	}
	if t.Group != 0 {
		out.Group = t.Group.String()
	}
	return out
}
