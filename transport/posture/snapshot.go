package posture

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

// Bounds of what is kept of one look; names beyond them are left out.
const (
	maxHosts  = 32
	maxNames  = 32
	maxChain  = 8
	maxText   = 300
	maxReason = 32
)

// Level is what a wire is worth, by the strongest channel that it meets.
type Level string

// The levels. "any" is a wire that meets no floor: no TLS, or TLS that is not approved. "unknown" is nothing seen.
const (
	LevelVerified  Level = "verified"
	LevelNamed     Level = "named"
	LevelEncrypted Level = "encrypted"
	LevelAny       Level = "any"
	LevelUnknown   Level = "unknown"
)

// LevelOf is the level that meets c and no more.
func LevelOf(c securemail.Channel) Level {
	switch c {
	case securemail.ChannelVerified:
		return LevelVerified
	case securemail.ChannelNamed:
		return LevelNamed
	case securemail.ChannelEncrypted:
		return LevelEncrypted
	case securemail.ChannelAny:
		return LevelAny
	}
	return LevelUnknown
}

// rank orders levels; 0 is unknown.
func (l Level) rank() int {
	return 1 + slices.Index([]Level{LevelAny, LevelEncrypted, LevelNamed, LevelVerified}, l)
}

func levelOfWire(w *securemail.Wire) Level {
	for c := securemail.ChannelVerified; c < securemail.ChannelAny; c++ {
		if w.Meets(c) {
			return LevelOf(c)
		}
	}
	return LevelAny
}

// Snapshot is what one look at a domain found, as it is stored and reported. Its JSON is canonical: fixed order of fields,
// sorted sets, times in UTC to the second.
type Snapshot struct {
	Domain string    `json:"domain"`
	Time   time.Time `json:"time"`
	// Known says that its mail hosts were found out, NullMX that it takes no mail, Reached that it is known what wire mail would
	// have now: one of them was spoken to, and what it must give could be looked up.
	Known   bool `json:"known"`
	Reached bool `json:"reached"`
	NullMX  bool `json:"null_mx,omitempty"`
	// Signed says that DNSSEC proved the MX answer.
	Signed bool `json:"mx_signed"`
	// Level and Proof are the route's: what a delivery would have.
	Level Level  `json:"level"`
	Proof string `json:"proof,omitempty"`
	TLS   *TLS   `json:"tls,omitempty"`
	Hosts []Host `json:"hosts,omitempty"`
	STS   STS    `json:"sts"`
	// TLSRPT is where reports are wanted (RFC 8460).
	TLSRPT  TLSRPT   `json:"tlsrpt"`
	Reasons []Reason `json:"reasons,omitempty"`
}

// TLS are a session's facts, by the names of the IANA registries.
type TLS struct {
	Version string `json:"version"`
	Suite   string `json:"suite"`
	Group   string `json:"group,omitempty"`
	FIPS    bool   `json:"fips,omitempty"`
}

// Host is one mail host.
type Host struct {
	Name       string   `json:"name"`
	Preference uint16   `json:"preference"`
	Addrs      []string `json:"addrs,omitempty"`
	// Reached says that it was spoken to; without, what follows is not known.
	Reached    bool     `json:"reached"`
	STARTTLS   bool     `json:"starttls"`
	RequireTLS bool     `json:"requiretls"`
	Extensions []string `json:"extensions,omitempty"`
	// Versions are the TLS versions that it takes, newest first.
	Versions []string `json:"versions,omitempty"`
	Level    Level    `json:"level"`
	Proof    string   `json:"proof,omitempty"`
	TLS      *TLS     `json:"tls,omitempty"`
	// DANE is "none", "usable", "unusable" or "unknown".
	DANE         string        `json:"dane"`
	Certificates []Certificate `json:"certificates,omitempty"`
	Reasons      []Reason      `json:"reasons,omitempty"`
}

// Certificate is one of a host's chain. SPKI is the SHA-256 of its SubjectPublicKeyInfo in hex.
type Certificate struct {
	Names     []string  `json:"names,omitempty"`
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Key       string    `json:"key,omitempty"`
	SPKI      string    `json:"spki"`
}

// STS is a domain's MTA-STS policy. State is "none", "live", "cached" or "unknown".
type STS struct {
	State string   `json:"state"`
	ID    string   `json:"id,omitempty"`
	Mode  string   `json:"mode,omitempty"`
	MX    []string `json:"mx,omitempty"`
	// MaxAge is in seconds.
	MaxAge int64 `json:"max_age,omitempty"`
}

// Reason is a finding.
type Reason struct {
	Rule string `json:"rule"`
	Text string `json:"text,omitempty"`
}

// NewSnapshot reads what an Observer saw, and the TLSRPT record found beside it. Names that hold an @, which may be a
// person's, are left out.
func NewSnapshot(o *transport.Observation, t TLSRPT) *Snapshot {
	s := &Snapshot{
		Domain: o.Domain, Time: o.Time.UTC().Truncate(time.Second), Known: o.Known, Reached: o.Route.Known, NullMX: o.NullMX, Signed: o.Signed,
		Level: LevelUnknown, TLSRPT: t, Reasons: reasons(o.Reasons),
		STS: STS{cmp.Or(o.STS.State, "unknown"), clip(o.STS.ID), o.STS.Mode, names(o.STS.MX), int64(o.STS.MaxAge / time.Second)},
	}
	if o.Route.Known {
		s.Level, s.Proof, s.TLS = levelOfWire(&o.Route.Wire), string(o.Route.Proof), tlsOf(o.Route.TLS)
		for _, r := range reasons(o.Route.Reasons) { // what is true of the domain is in both
			if !slices.Contains(s.Reasons, r) {
				s.Reasons = append(s.Reasons, r)
			}
		}
	}
	for _, h := range o.Hosts[:min(len(o.Hosts), maxHosts)] {
		s.Hosts = append(s.Hosts, hostOf(&h))
	}
	slices.SortStableFunc(s.Hosts, func(a, b Host) int {
		return cmp.Or(cmp.Compare(a.Preference, b.Preference), cmp.Compare(a.Name, b.Name))
	})
	return s
}

func hostOf(h *transport.HostObservation) Host {
	out := Host{
		Name: clip(h.Name), Preference: h.Preference, Reached: h.Addr.IsValid(), STARTTLS: h.STARTTLS, RequireTLS: h.RequireTLS,
		Extensions: names(h.Extensions), Level: LevelUnknown, DANE: cmp.Or(h.DANE, "unknown"), Reasons: reasons(h.Reasons),
		Addrs: addresses(h.Addrs),
	}
	if out.Reached {
		out.Level, out.Proof, out.TLS = levelOfWire(&h.Wire), string(h.Wire.Proof), tlsOf(h.Wire.TLS)
	}
	for _, v := range h.Versions[:min(len(h.Versions), maxNames)] {
		out.Versions = append(out.Versions, tls.VersionName(v))
	}
	for _, c := range h.Certificates[:min(len(h.Certificates), maxChain)] {
		out.Certificates = append(out.Certificates, Certificate{
			names(c.Names), text(c.Issuer), c.NotBefore.UTC().Truncate(time.Second), c.NotAfter.UTC().Truncate(time.Second), clip(c.Key), hex.EncodeToString(c.SPKI[:]),
		})
	}
	return out
}

func addresses(as []netip.Addr) []string {
	var out []string
	for _, a := range as[:min(len(as), maxNames)] {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return out
}

// names is a sorted set, bounded, without what may be a person's.
func names(ss []string) []string {
	var out []string
	for _, s := range ss {
		if s = text(s); s != "" {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxNames)]
}

// text is s bounded, "" where it may name a person.
func text(s string) string {
	if strings.Contains(s, "@") {
		return ""
	}
	return clip(s)
}

func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

func reasons(rs []securemail.Reason) []Reason {
	var out []Reason
	for _, r := range rs[:min(len(rs), maxReason)] {
		out = append(out, Reason{clip(r.Rule), text(r.Text)})
	}
	return out
}

func tlsOf(f *securemail.TLSFacts) *TLS {
	if f == nil {
		return nil
	}
	t := &TLS{Version: tls.VersionName(f.Version), Suite: tls.CipherSuiteName(f.Suite), FIPS: f.FIPS}
	if f.Group != 0 {
		t.Group = f.Group.String()
	}
	return t
}

// Expiry is the earliest end of the mail hosts' own certificates, zero where none was seen.
func (s *Snapshot) Expiry() time.Time {
	var first time.Time
	for i := range s.Hosts {
		if end := s.Hosts[i].expiry(); !end.IsZero() && (first.IsZero() || end.Before(first)) {
			first = end
		}
	}
	return first
}

func (h *Host) expiry() time.Time {
	if len(h.Certificates) == 0 {
		return time.Time{}
	}
	return h.Certificates[0].NotAfter
}

// DANE sums up its hosts: the state that all have, else "mixed"; "unknown" where no host is.
func (s *Snapshot) DANE() string {
	out := ""
	for i := range s.Hosts {
		if d := s.Hosts[i].DANE; out == "" {
			out = d
		} else if d != out {
			return "mixed"
		}
	}
	return cmp.Or(out, "unknown")
}

// RequireTLS says whether every host that was reached offers REQUIRETLS (RFC 8689).
func (s *Snapshot) RequireTLS() bool {
	some := false
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.Reached {
			if !h.RequireTLS {
				return false
			}
			some = true
		}
	}
	return some
}

// digest is over what was found, but for when, and for what changes by itself from look to look: addresses and texts.
func (s *Snapshot) digest() (string, error) {
	c := *s
	c.Time, c.Reasons = time.Time{}, nil
	c.Hosts = slices.Clone(s.Hosts)
	for i := range c.Hosts {
		c.Hosts[i].Addrs, c.Hosts[i].Reasons = nil, nil
	}
	b, err := json.Marshal(&c)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:16]), nil
}
