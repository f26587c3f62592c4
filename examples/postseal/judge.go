package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/posture"
)

// finding is one judgement of what a domain publishes. Verdict is "ok", "warn", "fail" or "unknown".
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Text    string `json:"text"`
}

func ok(check, format string, args ...any) finding {
	return finding{check, "ok", fmt.Sprintf(format, args...)}
}

func warn(check, format string, args ...any) finding {
	return finding{check, "warn", fmt.Sprintf(format, args...)}
}

func fail(check, format string, args ...any) finding {
	return finding{check, "fail", fmt.Sprintf(format, args...)}
}

// maxRecord bounds a record that is judged, maxFaults what is said of it.
const (
	maxRecord = 16 << 10
	maxFaults = 20
)

// versioned are the records that are name, alone or before one of the delimiters.
func versioned(txts []string, name, delimiters string) []string {
	return slices.DeleteFunc(slices.Clone(txts), func(s string) bool {
		rest, found := strings.CutPrefix(s, name)
		return !found || len(s) > maxRecord || rest != "" && !strings.ContainsAny(rest[:1], delimiters)
	})
}

// judgeSPF judges the TXT records of a domain by RFC 7208. It follows no include, so the count of look-ups is a lower bound.
func judgeSPF(txts []string) []finding {
	rs := versioned(txts, "v=spf1", " ")
	switch len(rs) {
	case 0:
		return []finding{fail("spf", "no record: anybody may send as this domain")}
	case 1:
	default:
		return []finding{fail("spf", "%d records: receivers take that for an error (RFC 7208 section 4.5)", len(rs))}
	}
	s := &spf{}
	for _, term := range strings.Fields(rs[0])[1:] {
		if len(s.out) >= maxFaults {
			break
		}
		s.term(strings.ToLower(term))
	}
	return s.verdict()
}

// spf is what the terms of one record say.
type spf struct {
	out      []finding
	lookups  int
	all      string // with its qualifier
	redirect bool
}

func (s *spf) term(term string) {
	name, _, modifier := strings.Cut(term, "=")
	if modifier && !strings.ContainsAny(name, ":/") {
		if name == "redirect" {
			s.redirect = true
			s.lookups++
		}
		return
	}
	qualifier := "+"
	if strings.ContainsAny(term[:1], "+-~?") {
		qualifier, term = term[:1], term[1:]
	}
	mechanism, _, _ := strings.Cut(term, ":")
	mechanism, _, _ = strings.Cut(mechanism, "/")
	if s.all != "" {
		s.out = append(s.out, warn("spf", "what stands behind all is never read: %.40q", mechanism))
	}
	switch mechanism {
	case "all":
		s.all = qualifier
	case "ip4", "ip6":
	case "ptr":
		s.lookups++
		s.out = append(s.out, warn("spf", "ptr should not be used (RFC 7208 section 5.5)"))
	case "a", "mx", "include", "exists":
		s.lookups++
	default:
		s.out = append(s.out, fail("spf", "%.40q is no mechanism", mechanism))
	}
}

func (s *spf) verdict() []finding {
	if s.lookups > 10 {
		s.out = append(s.out, fail("spf", "%d look-ups, and 10 are allowed (RFC 7208 section 4.6.4)", s.lookups))
	}
	switch {
	case s.all == "+":
		return append(s.out, fail("spf", "+all lets anybody send as this domain"))
	case s.all == "?", s.all == "" && !s.redirect:
		return append(s.out, warn("spf", "says nothing of other senders: end it with -all or ~all"))
	case s.all == "" && s.redirect:
		return append(s.out, ok("spf", "redirects to another record"))
	}
	return append(s.out, ok("spf", "%sall", s.all))
}

// tags reads tag=value lists of DKIM and DMARC (RFC 6376 section 3.2). The first of each counts; order is kept apart.
func tags(record string) (values map[string]string, order []string, wrong string) {
	values = map[string]string{}
	for part := range strings.SplitSeq(record, ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, value, found := strings.Cut(part, "=")
		name = strings.TrimSpace(name)
		if !found || name == "" {
			return values, order, strings.TrimSpace(part)
		}
		if _, twice := values[name]; !twice {
			values[name] = strings.TrimSpace(value)
			order = append(order, name)
		}
	}
	return values, order, ""
}

// judgeDKIM judges the key records of one selector by RFC 6376 section 3.6.1, RFC 8301 and RFC 8463.
func judgeDKIM(selector string, txts []string) []finding {
	check := "dkim " + selector
	switch {
	case len(txts) == 0:
		return []finding{fail(check, "no key")}
	case len(txts) > 1:
		return []finding{fail(check, "%d records: which one counts is not defined", len(txts))}
	case len(txts[0]) > maxRecord:
		return []finding{fail(check, "a record over 16 KiB")}
	}
	t, order, wrong := tags(txts[0])
	if wrong != "" {
		return []finding{fail(check, "not a list of tag=value")}
	}
	if i := slices.Index(order, "v"); i > 0 || i == 0 && t["v"] != "DKIM1" {
		return []finding{fail(check, "v= must be DKIM1 and come first")}
	}
	var out []finding
	if slices.Contains(strings.Split(t["t"], ":"), "y") {
		out = append(out, warn(check, "t=y: receivers are told that this is a test"))
	}
	if h, found := t["h"]; found && !slices.Contains(strings.Split(h, ":"), "sha256") {
		out = append(out, fail(check, "h= leaves sha256 out (RFC 8301)"))
	}
	if p, found := t["p"]; !found || p == "" {
		return append(out, fail(check, "the key is revoked or missing"))
	}
	return append(out, judgeKey(check, t["k"], t["p"]))
}

func judgeKey(check, kind, p string) finding {
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(p), ""))
	if err != nil {
		return fail(check, "p= is no base64")
	}
	switch kind {
	case "", "rsa":
		key, err := rsaKey(raw)
		switch {
		case err != nil:
			return fail(check, "p= is no RSA key")
		case key.Size() < 128:
			return fail(check, "RSA %d: receivers ignore less than 1024 (RFC 8301)", key.N.BitLen())
		case key.Size() < 256:
			return warn(check, "RSA %d: use 2048 (RFC 8301)", key.N.BitLen())
		}
		return ok(check, "RSA %d", key.N.BitLen())
	case "ed25519":
		if len(raw) != 32 {
			return fail(check, "an Ed25519 key is 32 octets (RFC 8463)")
		}
		return ok(check, "Ed25519")
	}
	return fail(check, "k= is neither rsa nor ed25519")
}

func rsaKey(raw []byte) (*rsa.PublicKey, error) {
	if key, err := x509.ParsePKCS1PublicKey(raw); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return nil, err
	}
	key, found := parsed.(*rsa.PublicKey)
	if !found {
		return nil, fmt.Errorf("another kind of key")
	}
	return key, nil
}

// judgeDMARC judges the TXT records at _dmarc of owner, which is the domain or a parent of it, by RFC 7489.
func judgeDMARC(domain, owner string, txts []string) []finding {
	rs := versioned(txts, "v=DMARC1", "; \t")
	switch len(rs) {
	case 0:
		return []finding{fail("dmarc", "no record: receivers let forged senders pass")}
	case 1:
	default:
		return []finding{fail("dmarc", "%d records: receivers act as if there were none (RFC 7489 section 6.6.3)", len(rs))}
	}
	t, _, wrong := tags(rs[0])
	if wrong != "" {
		return []finding{fail("dmarc", "not a list of tag=value")}
	}
	var out []finding
	p, of := t["p"], ""
	if sp, found := t["sp"]; owner != domain {
		of = " (of " + owner + ")"
		if found {
			p = sp
		}
	} else if found && strings.EqualFold(sp, "none") && !strings.EqualFold(p, "none") {
		out = append(out, warn("dmarc", "sp=none leaves sub-domains to forgers"))
	}
	if n, err := strconv.Atoi(t["pct"]); t["pct"] != "" && (err != nil || n < 100) {
		out = append(out, warn("dmarc", "pct=%.8q: not all mail is held to it", t["pct"]))
	}
	if t["rua"] == "" {
		out = append(out, warn("dmarc", "no rua: you get no reports"))
	}
	switch strings.ToLower(p) {
	case "none":
		return append(out, warn("dmarc", "p=none%s: forged mail is reported at best, and delivered", of))
	case "quarantine", "reject":
		return append(out, ok("dmarc", "p=%s%s", strings.ToLower(p), of))
	}
	return append(out, fail("dmarc", "p= is neither none, quarantine nor reject%s", of))
}

// judgeSTS holds a domain's policy against its mail hosts (RFC 8461 section 3).
func judgeSTS(p mtasts.Policy, hosts []posture.Host) []finding {
	var out []finding
	used := make([]bool, len(p.MX))
	missed := fail
	if p.Mode != "enforce" {
		missed = warn
	}
	for i := range hosts {
		if !p.Match(hosts[i].Name) {
			out = append(out, missed("mta-sts", "mail host %s is not in the policy", hosts[i].Name))
		}
		for j, mx := range p.MX {
			used[j] = used[j] || mtasts.Policy{Mode: p.Mode, MX: []string{mx}}.Match(hosts[i].Name)
		}
	}
	for j, mx := range p.MX {
		if !used[j] && len(hosts) > 0 {
			out = append(out, warn("mta-sts", "mx %s of the policy fits no mail host", mx))
		}
	}
	if p.MaxAge < 24*time.Hour && p.Mode != "none" {
		out = append(out, warn("mta-sts", "max_age %s is short: an attacker need not wait for long (RFC 8461 section 3.2 asks for weeks)", age(p.MaxAge)))
	}
	switch p.Mode {
	case "enforce":
		out = append(out, ok("mta-sts", "mode enforce"))
	case "testing":
		out = append(out, warn("mta-sts", "mode testing binds nobody"))
	default:
		out = append(out, warn("mta-sts", "mode none binds nobody"))
	}
	return out
}

// judgeExpiry judges a certificate's end.
func judgeExpiry(host string, end, now time.Time) finding {
	left := int(end.Sub(now) / (24 * time.Hour))
	switch {
	case !now.Before(end):
		return fail("certificate", "%s ended on %s", host, end.UTC().Format(time.DateOnly))
	case left < 14:
		return warn("certificate", "%s ends in %d days, on %s", host, left, end.UTC().Format(time.DateOnly))
	}
	return ok("certificate", "%s ends in %d days", host, left)
}
