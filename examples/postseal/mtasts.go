package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// stsFlags are those of the command mtasts.
type stsFlags struct {
	netFlags
	publish                               bool
	mx, mode, maxAge, id, tlsa, host, rua string
}

// mtastsCommand shows a domain's policy, or what our own domain is to publish.
func mtastsCommand(ctx context.Context, args []string, _ io.Reader, out io.Writer) (err error) {
	f := &stsFlags{}
	fs := flag.NewFlagSet("postseal mtasts", flag.ContinueOnError)
	f.register(fs, "domain", time.Minute)
	fs.BoolVar(&f.publish, "publish", false, "print what the domain is to publish, and ask nobody")
	fs.StringVar(&f.mx, "mx", "", "mail hosts of the policy, comma-separated; *.example.org stands for one label")
	fs.StringVar(&f.mode, "mode", string(mtasts.Enforce), "enforce, testing, or none")
	fs.StringVar(&f.maxAge, "max-age", "14d", "how long it may be kept: seconds, 336h, or 14d")
	fs.StringVar(&f.id, "id", "", "the record's id; empty: made from the policy, so that it changes when that does")
	fs.StringVar(&f.tlsa, "tlsa", "", "PEM file of a mail host's certificate; prints its TLSA record")
	fs.StringVar(&f.host, "host", "", "the mail host of -tlsa")
	fs.StringVar(&f.rua, "tlsrpt", "", "where TLS reports are to go, comma-separated mailto: or https:; prints the record")
	rest, err := parseMixed(fs, args, out)
	if err != nil {
		return err
	}
	domains, err := domainNames(rest)
	switch wrong := f.wrong(); {
	case err != nil:
		return err
	case wrong != "":
		return fmt.Errorf("%s: %w", wrong, errUsage)
	case (f.tlsa == "") != (f.host == ""):
		return fmt.Errorf("-tlsa and -host go together: %w", errUsage)
	case len(domains) > 1:
		return fmt.Errorf("one domain: %w", errUsage)
	}
	if f.publish || f.tlsa != "" || f.rua != "" {
		return f.print(domains[0], out)
	}
	n, err := f.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return f.show(out, lookSTS(ctx, n, domains[0]))
}

// published is the JSON of what is to be published.
type published struct {
	Domain string   `json:"domain"`
	DNS    []string `json:"dns"`
	URL    string   `json:"url,omitempty"`
	Policy string   `json:"policy,omitempty"`
}

// print makes the records that the flags ask for.
func (f *stsFlags) print(domain string, out io.Writer) error {
	p := published{Domain: domain}
	for _, make := range []func(*published) error{f.policy, f.records, f.reports} {
		if err := make(&p); err != nil {
			return err
		}
	}
	if f.json {
		return json.NewEncoder(out).Encode(p)
	}
	var b strings.Builder
	for _, line := range p.DNS {
		b.WriteString(line + "\n")
	}
	if p.Policy != "" {
		fmt.Fprintf(&b, "\n; %s, as text/plain:\n%s", p.URL, p.Policy)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (f *stsFlags) policy(out *published) error {
	if !f.publish {
		return nil
	}
	age, err := seconds(f.maxAge)
	if err != nil {
		return fmt.Errorf("-max-age: %w: %w", err, errUsage)
	}
	text := mtasts.Policy{Mode: mtasts.Mode(f.mode), MX: csv(strings.ToLower(f.mx)), MaxAge: age}.String()
	if _, err := mtasts.ParsePolicy([]byte(text)); err != nil {
		return fmt.Errorf("-mx, -mode and -max-age make no policy: %w: %w", err, errUsage)
	}
	id := f.id
	if id == "" {
		sum := sha256.Sum256([]byte(text))
		id = hex.EncodeToString(sum[:8])
	}
	line, err := mtasts.Record{ID: id}.Line(out.Domain)
	if err != nil {
		return fmt.Errorf("-id: %w: %w", err, errUsage)
	}
	out.DNS = append(out.DNS, line)
	out.URL, out.Policy = "https://mta-sts."+out.Domain+"/.well-known/mta-sts.txt", text
	return nil
}

// records are the TLSA records. "3 1 1" of a key that stays when the certificate is renewed is what RFC 7671 section 5.1
// recommends.
func (f *stsFlags) records(out *published) error {
	if f.tlsa == "" {
		return nil
	}
	host, err := foldDomain(f.host)
	if err != nil {
		return fmt.Errorf("-host is a host name: %w", errUsage)
	}
	raw, err := os.ReadFile(f.tlsa)
	if err != nil {
		return errors.New("-tlsa: no certificate could be read")
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			break
		}
		r, err := dane.RecordFor(cert, dane.UsageDANEEE, dane.SelectorSPKI, dane.MatchSHA256)
		if err != nil {
			return err
		}
		out.DNS = append(out.DNS, r.Line(host, uint16(f.port)))
		return nil // the first is the host's own
	}
	return errors.New("-tlsa: no certificate could be read")
}

func (f *stsFlags) reports(out *published) error {
	if f.rua == "" {
		return nil
	}
	var r tlsrpt.Record
	for _, uri := range csv(f.rua) {
		r.RUA = append(r.RUA, tlsrpt.Destination(uri))
	}
	if err := r.Check(); err != nil {
		return fmt.Errorf("-tlsrpt: %w: %w", err, errUsage)
	}
	out.DNS = append(out.DNS, dkim.Zone(tlsrpt.RecordName(out.Domain), r.String()))
	return nil
}

// seconds reads a number of seconds, a Go duration, or days as 14d.
func seconds(s string) (time.Duration, error) {
	if days, found := strings.CutSuffix(s, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, bare(err)
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = errors.New("negative")
	}
	return d.Truncate(time.Second), bare(err)
}

func bare(err error) error {
	if err == nil {
		return nil
	}
	return errors.New("no length of time")
}

// stsLook is what there is of a domain's policy, and the JSON of it.
type stsLook struct {
	Domain string `json:"domain"`
	// Verdict is "enforce", "testing", "none" or "unknown"; Why the rule or cause where there is no policy.
	Verdict string            `json:"verdict"`
	Why     string            `json:"why,omitempty"`
	Record  string            `json:"record,omitempty"`
	ID      string            `json:"id,omitempty"`
	Policy  string            `json:"policy,omitempty"`
	MaxAge  int64             `json:"max_age,omitempty"`
	MX      map[string]string `json:"mx,omitempty"` // mail host to the pattern that allows it, "" for none

	parsed mtasts.Policy
	hosts  []string
}

// lookSTS takes each step of RFC 8461 section 3 by itself, so that it can say which one fails.
func lookSTS(ctx context.Context, n *network, domain string) *stsLook {
	l := &stsLook{Domain: domain, Verdict: "unknown"}
	txts, err := n.LookupTXT(ctx, "_mta-sts."+domain)
	if err != nil && !notFound(err) {
		l.Why = "the record is not known now: DNS does not answer"
		return l
	}
	rec, err := mtasts.ParseRecord(txts)
	if err != nil {
		l.Verdict, l.Why = "none", err.Error()
		return l
	}
	l.Record, l.ID = rec.String(), rec.ID
	raw, err := n.policies.Fetch(ctx, domain)
	if err != nil {
		// RFC 8461 section 3.3: a sender that has no policy cached acts as if there were none.
		l.Why = "the record promises a policy that can't be had: " + err.Error()
		return l
	}
	p, err := mtasts.ParsePolicy(raw)
	if err != nil {
		l.Why = err.Error()
		return l
	}
	l.Verdict, l.Policy, l.MaxAge, l.parsed = string(p.Mode), p.String(), int64(p.MaxAge/time.Second), p
	hosts, err := n.mx(ctx, domain)
	if err != nil {
		l.Why = "its mail hosts are not known now"
		return l
	}
	l.hosts, l.MX = hosts, map[string]string{}
	for _, h := range hosts {
		l.MX[h] = pattern(p, h)
	}
	return l
}

// pattern is the one of p that allows host, "" for none.
func pattern(p mtasts.Policy, host string) string {
	for _, mx := range p.MX {
		if (mtasts.Policy{Mode: p.Mode, MX: []string{mx}}).Match(host) {
			return mx
		}
	}
	return ""
}

// show prints l; it fails where nothing is known.
func (f *stsFlags) show(out io.Writer, l *stsLook) error {
	var err error
	if f.json {
		err = json.NewEncoder(out).Encode(l)
	} else {
		_, err = io.WriteString(out, printable(l.text()))
	}
	if err == nil && l.Verdict == "unknown" {
		err = errors.New(l.Domain + ": " + l.Why)
	}
	return err
}

func (l *stsLook) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", l.Domain, l.Verdict)
	if l.Why != "" {
		fmt.Fprintf(&b, "  why     %s\n", l.Why)
	}
	if l.Record != "" {
		fmt.Fprintf(&b, "  record  %s\n", l.Record)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(l.Policy), "\n") {
		if line != "" {
			fmt.Fprintf(&b, "  policy  %s\n", strings.TrimSpace(line))
		}
	}
	for _, h := range l.hosts {
		if p := l.MX[h]; p != "" {
			fmt.Fprintf(&b, "  mx      %s is allowed by %s\n", h, p)
		} else {
			fmt.Fprintf(&b, "  mx      %s is NOT in the policy%s\n", h, choose(l.Verdict == "enforce", ": senders don't deliver there", ""))
		}
	}
	return b.String()
}
