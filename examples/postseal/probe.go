package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/posture"
	"github.com/postseal/postseal/transport/smtp"
)

// maxSelectors bounds -selector.
const maxSelectors = 20

// looked is the JSON of one domain.
type looked struct {
	*posture.Snapshot
	// Own are the findings of -own.
	Own []finding `json:"own,omitempty"`
}

// prober looks at domains.
type prober struct {
	n         *network
	observer  transport.Observer
	own       bool
	selectors []string
	now       func() time.Time
}

// probe is the command.
func probe(ctx context.Context, args []string, _ io.Reader, out io.Writer) (err error) {
	f, p := &netFlags{}, &prober{now: time.Now}
	fs := flag.NewFlagSet("postseal probe", flag.ContinueOnError)
	f.register(fs, "domain", time.Minute)
	fs.BoolVar(&p.own, "own", false, "judge what the domain itself publishes")
	fs.Func("selector", "DKIM selector to judge with -own; may be repeated", func(s string) error {
		p.selectors = append(p.selectors, csv(s)...)
		return nil
	})
	rest, err := parseMixed(fs, args, out)
	if err != nil {
		return err
	}
	domains, err := domainNames(rest)
	switch wrong := f.wrong(); {
	case wrong != "":
		return fmt.Errorf("%s: %w", wrong, errUsage)
	case err != nil:
		return err
	case len(p.selectors) > 0 && !p.own || len(p.selectors) > maxSelectors:
		return fmt.Errorf("-selector goes with -own, at most %d: %w", maxSelectors, errUsage)
	}
	if p.n, err = f.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.n.close()) }()
	o := p.n.options()
	o.Timeouts = brisk(f.timeout)
	if o.STS, err = mtasts.New(mtasts.NewMemory(nil), &mtasts.Options{Resolver: p.n, Fetcher: p.n.policies}); err != nil {
		return err
	}
	t, err := smtp.New(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	p.observer = t
	return p.all(ctx, domains, out)
}

// brisk leaves time for another host where one stalls.
func brisk(total time.Duration) smtp.Timeouts {
	third := max(total/3, time.Millisecond)
	return smtp.Timeouts{Connect: min(third, 30*time.Second), Greeting: third, EHLO: third, Handshake: min(third, time.Minute)}
}

// all looks at each domain and prints it; the error says how many were not reached.
func (p *prober) all(ctx context.Context, domains []string, out io.Writer) error {
	missed := 0
	for _, d := range domains {
		l := p.look(ctx, d)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if !l.Reached && !l.NullMX {
			missed++
		}
		if err := p.print(out, l); err != nil {
			return err
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d domains not reached", missed, len(domains))
	}
	return nil
}

func (p *prober) print(out io.Writer, l *looked) error {
	if p.n.f.json {
		return json.NewEncoder(out).Encode(l)
	}
	_, err := io.WriteString(out, printable(text(l, p.now())))
	return err
}

// look takes -timeout for the mail hosts, and once more for what the domain publishes: a host that stalls says nothing of DNS.
func (p *prober) look(ctx context.Context, domain string) *looked {
	l := &looked{Snapshot: p.observe(ctx, domain)}
	if p.own {
		ctx, cancel := context.WithTimeout(ctx, p.n.f.timeout)
		defer cancel()
		l.Own = p.judge(ctx, l.Snapshot)
	}
	return l
}

func (p *prober) observe(ctx context.Context, domain string) *posture.Snapshot {
	ctx, cancel := context.WithTimeout(ctx, p.n.f.timeout)
	defer cancel()
	rpt := posture.LookupTLSRPT(ctx, p.n, domain)
	o, err := p.observer.Observe(ctx, "", domain)
	if o == nil {
		o = &transport.Observation{}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		o.Reasons = append(o.Reasons, securemail.Reason{Rule: "unreachable", Text: "the time for it was over; see -timeout"})
	case err != nil: // it names stages and causes, nothing that a far end said
		o.Reasons = append(o.Reasons, securemail.Reason{Rule: "unreachable", Text: err.Error()})
	}
	o.Domain = domain
	if o.Time.IsZero() {
		o.Time = p.now()
	}
	return posture.NewSnapshot(o, rpt)
}

// judge looks up what the domain publishes, and judges it.
func (p *prober) judge(ctx context.Context, s *posture.Snapshot) []finding {
	var out []finding
	add := func(check, name string, judge func(txts []string) []finding) {
		txts, err := p.n.LookupTXT(ctx, name)
		if err != nil && !notFound(err) {
			out = append(out, finding{check, "unknown", "DNS does not answer"})
			return
		}
		out = append(out, judge(txts)...)
	}
	add("spf", s.Domain, judgeSPF)
	for _, sel := range p.selectors {
		add("dkim "+sel, sel+"._domainkey."+s.Domain, func(txts []string) []finding { return judgeDKIM(sel, txts) })
	}
	if len(p.selectors) == 0 {
		out = append(out, finding{"dkim", "unknown", "DNS does not list selectors: name yours with -selector"})
	}
	owner := p.dmarcOwner(ctx, s.Domain)
	add("dmarc", "_dmarc."+owner, func(txts []string) []finding { return judgeDMARC(s.Domain, owner, txts) })
	out = append(out, judgeTLSRPT(s.TLSRPT))
	out = append(out, p.judgeSTS(ctx, s)...)
	for i := range s.Hosts {
		out = append(out, p.judgeHost(ctx, &s.Hosts[i])...)
	}
	return out
}

// judgeSTS fetches the policy as a sender does, and looks at the certificate that it is served with.
func (p *prober) judgeSTS(ctx context.Context, s *posture.Snapshot) []finding {
	l := lookSTS(ctx, p.n, s.Domain)
	if l.Policy == "" && l.Verdict == "none" {
		return []finding{warn("mta-sts", "%s", l.Why)}
	}
	var out []finding
	switch {
	case l.Policy != "":
		out = judgeSTS(l.parsed, s.Hosts)
	case l.Record == "":
		return []finding{{"mta-sts", "unknown", l.Why}}
	default:
		out = append(out, fail("mta-sts", "%s", l.Why))
	}
	host := "mta-sts." + s.Domain
	c, err := p.n.leaf(ctx, host)
	if err != nil {
		return append(out, finding{"certificate", "unknown", host + ": " + err.Error()})
	}
	return append(out, judgeExpiry(host, c.NotAfter, p.now()))
}

// dmarcOwner is the domain or the first parent that has a DMARC record. Where none has, it is the domain. No list of public
// suffixes is read: a name with one label is never asked.
func (p *prober) dmarcOwner(ctx context.Context, domain string) string {
	for d, depth := domain, 0; strings.Contains(d, ".") && depth < 8; depth++ {
		txts, err := p.n.LookupTXT(ctx, "_dmarc."+d)
		if err != nil && !notFound(err) {
			return d // it says so itself when it is judged
		}
		if len(versioned(txts, "v=DMARC1", "; \t")) > 0 {
			return d
		}
		_, d, _ = strings.Cut(d, ".")
	}
	return domain
}

func judgeTLSRPT(t posture.TLSRPT) finding {
	switch t.State {
	case "present":
		return ok("tlsrpt", "reports go to %s", t)
	case "none":
		return warn("tlsrpt", "no record, or more than one: nobody tells you of failures")
	case "invalid":
		return fail("tlsrpt", "the record is broken")
	}
	return finding{"tlsrpt", "unknown", "DNS does not answer"}
}

// judgeHost judges one mail host: what it offers, its certificate's end, and its TLSA records.
func (p *prober) judgeHost(ctx context.Context, h *posture.Host) []finding {
	var out []finding
	switch {
	case !h.Reached:
		out = append(out, finding{"mail host", "unknown", h.Name + " was not reached"})
	case !h.STARTTLS:
		out = append(out, fail("mail host", "%s offers no STARTTLS", h.Name))
	case h.TLS == nil:
		out = append(out, fail("mail host", "%s: no TLS session came about", h.Name))
	default:
		out = append(out, ok("mail host", "%s: %s", h.Name, h.TLS))
	}
	for _, v := range h.Versions {
		if v == "TLS 1.0" || v == "TLS 1.1" {
			out = append(out, warn("mail host", "%s still takes %s", h.Name, v))
		}
	}
	if len(h.Certificates) > 0 {
		out = append(out, judgeExpiry(h.Name, h.Certificates[0].NotAfter, p.now()))
	}
	a, err := p.n.tlsa(ctx, h.Name)
	return append(out, judgeTLSA(h, a, err))
}

// judgeTLSA holds the records against what the host showed. DANE binds senders only where DNSSEC proves the records.
func judgeTLSA(h *posture.Host, a dane.Answer, err error) finding {
	switch {
	case notFound(err) || err == nil && len(a.Records) == 0:
		return warn("dane", "%s has no TLSA record", h.Name)
	case err != nil:
		return finding{"dane", "unknown", h.Name + ": its TLSA records are not known now"}
	case h.DANE == "usable" && h.Proof == string(securemail.ProofDANE):
		return ok("dane", "%s: its certificate is the one of its TLSA records", h.Name)
	case h.DANE == "usable" && h.Reached:
		return fail("dane", "%s: its certificate fits no TLSA record, and senders that check defer", h.Name)
	case h.DANE == "unusable":
		return fail("dane", "%s: none of its %d TLSA records can be used for mail", h.Name, len(a.Records))
	case !a.Secure:
		return warn("dane", "%s: TLSA records that no DNSSEC proves (or without -trust-ad)%s: senders ignore them", h.Name, fits(h, a))
	}
	return finding{"dane", "unknown", h.Name + ": its TLSA records could not be held against a certificate"}
}

// fits says whether a record "3 1 1" or "3 1 0" names the key that the host showed.
func fits(h *posture.Host, a dane.Answer) string {
	if len(h.Certificates) == 0 {
		return ""
	}
	spki, err := hex.DecodeString(h.Certificates[0].SPKI)
	if err != nil {
		return ""
	}
	for _, r := range a.Records {
		if r.Usage != dane.UsageDANEEE || r.Selector != dane.SelectorSPKI {
			continue
		}
		sum := sha256.Sum256(r.Data)
		if r.Match == dane.MatchSHA256 && bytes.Equal(r.Data, spki) || r.Match == dane.MatchFull && bytes.Equal(sum[:], spki) {
			return ", one of which fits its key"
		}
	}
	return ""
}

// text is the report of one domain that a person reads at a glance.
func text(l *looked, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", l.Domain, headline(l.Snapshot))
	line := func(name, value string) { fmt.Fprintf(&b, "  %-11s %s\n", name, value) }
	line("MX", choose(l.Known, plural(len(l.Hosts), "host")+", "+choose(l.Signed, "signed by DNSSEC", "not signed"), "unknown"))
	line("MTA-STS", stsText(&l.STS))
	line("DANE", l.DANE())
	line("TLSRPT", l.TLSRPT.String())
	line("REQUIRETLS", choose(l.RequireTLS(), "offered", choose(l.Reached, "not offered", "unknown")))
	for i := range l.Hosts {
		hostText(&b, &l.Hosts[i], now)
	}
	for _, r := range l.Reasons {
		fmt.Fprintf(&b, "  . %s: %s\n", r.Rule, r.Text)
	}
	for _, f := range worstFirst(l.Own) {
		fmt.Fprintf(&b, "  %-7s %s: %s\n", strings.ToUpper(f.Verdict), f.Check, f.Text)
	}
	return b.String()
}

// printable keeps what strangers wrote into their DNS from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func worstFirst(fs []finding) []finding {
	order := []string{"fail", "warn", "unknown", "ok"}
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b finding) int { return slices.Index(order, a.Verdict) - slices.Index(order, b.Verdict) })
	return fs
}

func headline(s *posture.Snapshot) string {
	switch {
	case s.NullMX:
		return "takes no mail"
	case !s.Reached && slices.ContainsFunc(s.Hosts, func(h posture.Host) bool { return h.Reached }):
		return "not reached: it answers, but what it must prove is not known now, so mail would wait"
	case !s.Reached:
		return "not reached"
	case s.TLS == nil:
		return "in the clear"
	}
	return fmt.Sprintf("%s (%s), %s", s.Level, cmp.Or(s.Proof, "no proof of its name"), s.TLS)
}

func stsText(s *posture.STS) string {
	if s.Mode == "" {
		return s.State
	}
	return fmt.Sprintf("%s, id %s, max_age %s, mx %s (%s)", s.Mode, s.ID, age(time.Duration(s.MaxAge)*time.Second), strings.Join(s.MX, " "), s.State)
}

// age is d in days where it is whole ones.
func age(d time.Duration) string {
	if whole := 24 * time.Hour; d >= whole && d%whole == 0 {
		return fmt.Sprintf("%dd", d/whole)
	}
	return d.String()
}

func hostText(b *strings.Builder, h *posture.Host, now time.Time) {
	fmt.Fprintf(b, "  %5d %s [%s] ", h.Preference, h.Name, strings.Join(h.Addrs, " "))
	switch {
	case !h.Reached:
		b.WriteString("not reached")
	case h.TLS == nil:
		b.WriteString(choose(h.STARTTLS, "TLS failed", "no STARTTLS"))
	default:
		fmt.Fprintf(b, "%s (%s), takes %s", h.Level, cmp.Or(h.Proof, "no proof"), strings.Join(h.Versions, " "))
	}
	if len(h.Certificates) > 0 {
		c := &h.Certificates[0]
		fmt.Fprintf(b, ", certificate %s by %s, %d days", cmp.Or(c.Key, "of an unknown kind"), cmp.Or(c.Issuer, "nobody named"), int(c.NotAfter.Sub(now)/(24*time.Hour)))
	}
	b.WriteString("\n")
	for _, r := range h.Reasons {
		fmt.Fprintf(b, "        . %s: %s\n", r.Rule, r.Text)
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func choose(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func foldDomain(s string) (string, error) {
	a, err := securemail.ParseAddress("x@" + strings.TrimSuffix(s, "."))
	if err != nil || strings.Contains(s, "@") {
		return "", errors.New("malformed")
	}
	return a.Domain(), nil
}
