package posture

import (
	"slices"
	"strings"
)

// Change is one thing that differs between two looks.
type Change struct {
	// Field is such as "level", "sts.mode", "tls.version"; Host names the mail host that it is about, if it is.
	Field string `json:"field"`
	Host  string `json:"host,omitempty"`
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
	// Worse says that the protection is less than it was.
	Worse bool `json:"worse,omitempty"`
}

// String is such as "mx.example.org dane usable->none".
func (c Change) String() string {
	s := c.Field + " " + or(c.Old) + "->" + or(c.New)
	if c.Host != "" {
		s = c.Host + " " + s
	}
	return s
}

func or(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// policyFields are those whose change is told even where it is not for the worse.
var policyFields = map[string]bool{
	"sts.mode": true, "sts.id": true, "sts.mx": true, "dane": true, "tlsrpt": true, "mx": true, "mx_signed": true, "null_mx": true, "requiretls": true,
}

// The orders in which a later value is better; what is not in them can't be worse.
var (
	levels   = []string{string(LevelAny), string(LevelEncrypted), string(LevelNamed), string(LevelVerified)}
	modes    = []string{"none", "testing", "enforce"}
	danes    = []string{"none", "unusable", "usable"}
	versions = []string{"", "SSLv3", "TLS 1.0", "TLS 1.1", "TLS 1.2", "TLS 1.3"}
	flags    = []string{"no", "yes"}
)

// differ collects changes.
type differ struct {
	host string
	out  []Change
}

// field compares one value; order, where there is one, says which is worse.
func (d *differ) field(name, a, b string, order []string) {
	if a == b {
		return
	}
	i, j := slices.Index(order, a), slices.Index(order, b)
	d.out = append(d.out, Change{name, d.host, a, b, i >= 0 && j >= 0 && j < i})
}

// Diff says what changed from a to b, of one domain. What one of them does not know is compared with nothing.
func Diff(a, b *Snapshot) []Change {
	d := new(differ)
	if a == nil || b == nil {
		return nil
	}
	if a.Level != LevelUnknown && b.Level != LevelUnknown {
		d.field("level", string(a.Level), string(b.Level), levels)
		d.field("proof", a.Proof, b.Proof, nil)
	}
	if a.STS.State != "unknown" && b.STS.State != "unknown" {
		d.field("sts.mode", or(a.STS.Mode), or(b.STS.Mode), modes)
		d.field("sts.id", a.STS.ID, b.STS.ID, nil)
		d.field("sts.mx", strings.Join(a.STS.MX, " "), strings.Join(b.STS.MX, " "), nil)
	}
	if a.TLSRPT.State != "unknown" && b.TLSRPT.State != "unknown" {
		d.field("tlsrpt", a.TLSRPT.String(), b.TLSRPT.String(), nil)
	}
	if a.Known && b.Known {
		d.field("null_mx", yes(a.NullMX), yes(b.NullMX), nil)
		d.field("mx_signed", yes(a.Signed), yes(b.Signed), flags)
		d.hosts(a, b)
	}
	return d.out
}

// String is the state and where reports go.
func (t TLSRPT) String() string {
	if len(t.Destinations) == 0 {
		return t.State
	}
	return strings.Join(t.Destinations, " ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (d *differ) hosts(a, b *Snapshot) {
	for i := range a.Hosts {
		h := &a.Hosts[i]
		if b.host(h.Name) == nil {
			d.out = append(d.out, Change{Field: "mx", Host: h.Name, Old: h.Name})
		}
	}
	for i := range b.Hosts {
		h := &b.Hosts[i]
		old := a.host(h.Name)
		if old == nil {
			d.out = append(d.out, Change{Field: "mx", Host: h.Name, New: h.Name})
			continue
		}
		d.host = h.Name
		d.hostChanges(old, h)
	}
	d.host = ""
}

func (d *differ) hostChanges(a, b *Host) {
	if a.DANE != "unknown" && b.DANE != "unknown" {
		d.field("dane", a.DANE, b.DANE, danes)
	}
	if !a.Reached || !b.Reached {
		return
	}
	d.field("host.level", string(a.Level), string(b.Level), levels)
	d.field("starttls", yes(a.STARTTLS), yes(b.STARTTLS), flags)
	d.field("requiretls", yes(a.RequireTLS), yes(b.RequireTLS), flags)
	at, bt := TLS{}, TLS{}
	if a.TLS != nil {
		at = *a.TLS
	}
	if b.TLS != nil {
		bt = *b.TLS
	}
	d.field("tls.version", at.Version, bt.Version, versions)
	d.field("tls.suite", at.Suite, bt.Suite, nil)
	d.field("tls.group", at.Group, bt.Group, nil)
	if len(a.Certificates) > 0 && len(b.Certificates) > 0 {
		d.field("certificate.key", a.Certificates[0].SPKI, b.Certificates[0].SPKI, nil)
	}
}

// host finds one by its name.
func (s *Snapshot) host(name string) *Host {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name {
			return &s.Hosts[i]
		}
	}
	return nil
}

// onto is s, with what s does not know taken from a, which was before it. Neither is changed.
func (s *Snapshot) onto(a *Snapshot) *Snapshot {
	if a == nil {
		return s
	}
	out := *s
	if !s.Known {
		out.Known, out.NullMX, out.Signed, out.Hosts = a.Known, a.NullMX, a.Signed, a.Hosts
	} else {
		out.Hosts = slices.Clone(s.Hosts)
		for i := range out.Hosts {
			h := &out.Hosts[i]
			if old := a.host(h.Name); old != nil {
				h.onto(old)
			}
		}
	}
	if s.Level == LevelUnknown {
		out.Level, out.Proof, out.TLS, out.Reached = a.Level, a.Proof, a.TLS, a.Reached
	}
	if s.STS.State == "unknown" {
		out.STS = a.STS
	}
	if s.TLSRPT.State == "unknown" {
		out.TLSRPT = a.TLSRPT
	}
	return &out
}

func (h *Host) onto(old *Host) {
	dane := h.DANE
	if dane == "unknown" {
		dane = old.DANE
	}
	if !h.Reached {
		n, p, as := h.Name, h.Preference, h.Addrs
		*h = *old
		h.Name, h.Preference, h.Addrs = n, p, as
	}
	h.DANE = dane
}
