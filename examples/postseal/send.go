package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

// record is the JSON of one recipient. It names the address, which the caller gave.
type record struct {
	Recipient string             `json:"recipient"`
	Use       securemail.Method  `json:"use,omitempty"`
	Choices   []string           `json:"choices,omitempty"`
	Else      string             `json:"else,omitempty"`
	Reasons   []string           `json:"reasons,omitempty"`
	Wire      *wire              `json:"wire,omitempty"`
	Status    *securemail.Status `json:"status,omitempty"`
}

// wire is the JSON of what a mail host proved, and why that is so.
type wire struct {
	Peer    string           `json:"peer,omitempty"`
	Proof   securemail.Proof `json:"proof,omitempty"`
	Version string           `json:"tls_version,omitempty"`
	Suite   string           `json:"tls_suite,omitempty"`
	Group   string           `json:"tls_group,omitempty"`
	FIPS    bool             `json:"fips"`
	Reasons []string         `json:"reasons,omitempty"`
}

func newWire(peer string, w securemail.Wire) *wire {
	out := &wire{Peer: peer, Proof: w.Proof, Reasons: texts(w.Reasons)}
	if w.TLS != nil {
		out.Version, out.Suite, out.FIPS = tls.VersionName(w.TLS.Version), tls.CipherSuiteName(w.TLS.Suite), w.TLS.FIPS
		out.Group = w.TLS.Group.String()
	}
	return out
}

// parts are w in words.
func (w *wire) parts() []string {
	out := []string{w.Version, w.Suite, w.Group}
	if w.FIPS {
		out = append(out, "FIPS 140-3")
	}
	if w.Proof != "" {
		out = append(out, "proof "+string(w.Proof))
	}
	return slices.DeleteFunc(append(out, w.Peer), func(s string) bool { return s == "" })
}

// job is one message, and what the flags opened for it.
type job struct {
	f   *flags
	sys *preset.System
	d   *securemail.Draft
	out io.Writer
}

// onMessage makes a command of what is done with a message read from standard input.
func onMessage(name string, do func(ctx context.Context, j *job) error) func(context.Context, []string, io.Reader, io.Writer) error {
	return func(ctx context.Context, args []string, in io.Reader, out io.Writer) (err error) {
		f, err := parse(name, args, out)
		if err != nil {
			return err
		}
		n, err := f.netFlags.open()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, n.close()) }()
		o, d, err := f.prepare(n, in)
		if err != nil {
			return err
		}
		sys, closeAll, err := f.open(ctx, o)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeAll()) }()
		return do(ctx, &job{f, sys, d, out})
	}
}

// send delivers what can be delivered now.
func send(ctx context.Context, j *job) error {
	sub, err := j.sys.Send(ctx, j.d)
	if err != nil {
		return err
	}
	_, runErr := j.sys.RunDue(ctx)
	var c count
	for st, err := range j.sys.Find(ctx, securemail.Query{Submission: sub.ID}) {
		if err != nil {
			return err
		}
		c.add(st.State)
		if err := printStatus(j.out, &st, j.f.json); err != nil {
			return err
		}
	}
	return errors.Join(runErr, c.verdict(j.f.store != ""))
}

// count says how many recipients have the mail, won't get it, or wait.
type count struct{ delivered, ended, waiting int }

func (c *count) add(s securemail.State) {
	switch {
	case s == securemail.StateDelivered:
		c.delivered++
	case s.Final():
		c.ended++
	default:
		c.waiting++
	}
}

// verdict is nil where everybody has it.
func (c *count) verdict(stored bool) error {
	if c.ended+c.waiting == 0 {
		return nil
	}
	text := fmt.Sprintf("%d of %d recipients not reached", c.ended+c.waiting, c.delivered+c.ended+c.waiting)
	switch {
	case c.waiting > 0 && stored:
		text += fmt.Sprintf("; %d of them wait in the store", c.waiting)
	case c.waiting > 0:
		text += ", and nothing kept: send to them again, or use -store"
	}
	return errors.New(text)
}

func printStatus(out io.Writer, st *securemail.Status, asJSON bool) error {
	address, w, reasons := st.Recipient.Address.Reveal(), (*wire)(nil), texts(st.Reasons)
	if st.Receipt != nil {
		w = newWire(st.Receipt.Peer, st.Receipt.Wire)
		reasons = append(reasons, w.Reasons...)
	}
	if asJSON {
		return json.NewEncoder(out).Encode(record{Recipient: address, Use: st.Choice.Method, Wire: w, Status: st})
	}
	how := "-"
	if st.State == securemail.StateDelivered {
		how = string(st.Choice.Method)
	}
	_, err := fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", address, st.State, how, evidence(st.Protection, st.Choice.Method, w), strings.Join(reasons, "; "))
	return err
}

// evidence says what protects the content, and what the wire proved.
func evidence(p *securemail.Protection, m securemail.Method, w *wire) string {
	var parts []string
	if p != nil && m != securemail.MethodTLS {
		parts = append(parts, p.Algorithm)
		parts = append(parts, p.Keys...)
	}
	if w != nil {
		parts = append(parts, w.parts()...)
	}
	return cmp.Or(strings.Join(parts, " "), "-")
}

func texts(rs []securemail.Reason) []string {
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = r.Rule + ": " + r.Text
	}
	return out
}

// explain makes the look-ups of an attempt and prints what would happen.
func explain(ctx context.Context, j *job) error {
	es, err := j.sys.Explain(ctx, j.d)
	if err != nil {
		return err
	}
	var errs []error
	for i := range es {
		errs = append(errs, es[i].Err, printExplanation(j.out, &es[i], j.f.json))
	}
	return errors.Join(errs...)
}

func printExplanation(out io.Writer, e *securemail.Explanation, asJSON bool) error {
	r := record{Recipient: e.Facts.Recipient.Address.Reveal(), Else: outcome(e.Decision.Else), Reasons: texts(e.Decision.Reasons)}
	for _, c := range e.Decision.Choices {
		r.Choices = append(r.Choices, string(c.Method)+"/"+channel(c.Channel))
	}
	if e.Use != nil {
		r.Use = e.Use.Method
	}
	if e.Facts.Route != nil {
		r.Wire = newWire("", e.Facts.Route.Wire)
	}
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	if r.Wire != nil {
		r.Reasons = append(r.Reasons, r.Wire.Reasons...)
	}
	use := string(r.Use)
	if use == "" {
		use = "nothing now; else " + r.Else
	}
	_, err := fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", r.Recipient, use, strings.Join(r.Choices, " > "), evidence(nil, "", r.Wire), strings.Join(r.Reasons, "; "))
	return err
}

func outcome(o securemail.Outcome) string {
	switch o {
	case securemail.OutcomeRetry:
		return "retry"
	case securemail.OutcomeBounce:
		return "bounce"
	case securemail.OutcomeDrop:
		return "drop"
	}
	return "hold"
}

func channel(c securemail.Channel) string {
	switch c {
	case securemail.ChannelVerified:
		return "verified"
	case securemail.ChannelNamed:
		return "named"
	case securemail.ChannelEncrypted:
		return "encrypted"
	}
	return "any"
}
