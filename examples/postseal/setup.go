package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/policy"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

// maxInput bounds standard input; the library's own limit is lower and gives the better error.
const maxInput = 64 << 20

// flags are those that send and explain share.
type flags struct {
	netFlags
	from, to, relay, operator, agreement, policy string
	keys, baseURL, store, purpose                string
	until                                        time.Time
	insecureLoopback                             bool
}

func parse(name string, args []string, out io.Writer) (*flags, error) {
	f := &flags{}
	fs := flag.NewFlagSet("postseal "+name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // standard output is for results
	fs.StringVar(&f.from, "from", "", "author; empty: the message's From")
	fs.StringVar(&f.to, "to", "", "recipients, comma-separated; required")
	fs.StringVar(&f.relay, "relay", "", "smart host, host:port")
	fs.StringVar(&f.operator, "operator", "", "who vouches for the road beyond the relay")
	fs.StringVar(&f.agreement, "agreement", "", "the operator's agreement, by its reference")
	fs.Func("until", "the agreement's last day, as 2027-01-31; empty: it does not end", func(s string) error {
		day, err := time.Parse(time.DateOnly, s)
		f.until = day.AddDate(0, 0, 1)
		return err
	})
	fs.StringVar(&f.policy, "policy", "try-tls", "try-tls, forced, exclusive, or escrow")
	fs.StringVar(&f.purpose, "purpose", string(securemail.PurposeTreatment), "treatment, payment, operations, or marketing")
	fs.StringVar(&f.keys, "keys", "", "folder of pinned PGP keys")
	fs.StringVar(&f.baseURL, "base-url", "", "where the pick-up pages are")
	fs.BoolVar(&f.insecureLoopback, "insecure-loopback", false, "allow http for a loopback -base-url")
	fs.StringVar(&f.store, "store", "", "database file to keep")
	f.register(fs, "recipient", time.Hour)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(out)
			fs.Usage()
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", err, errUsage)
	}
	if wrong := f.wrong(fs.NArg()); wrong != "" {
		return nil, fmt.Errorf("%s: %w", wrong, errUsage)
	}
	return f, nil
}

// wrong says what of the flags can't be, "" for nothing.
func (f *flags) wrong(rest int) string {
	switch {
	case f.to == "":
		return "-to is required"
	case rest > 0:
		return "the message is read from standard input, and flags come before anything else"
	case f.relay != "" && f.resolver != "":
		return "-relay and -resolver exclude each other"
	case (f.operator == "") != (f.agreement == "") || f.operator != "" && f.relay == "":
		return "-operator and -agreement go together, with -relay"
	case !f.until.IsZero() && f.operator == "":
		return "-until goes with -operator"
	}
	return f.netFlags.wrong()
}

// prepare checks the flags before it waits for standard input.
func (f *flags) prepare(n *network, in io.Reader) (*preset.Options, *securemail.Draft, error) {
	o, err := f.options(n)
	if err != nil {
		return nil, nil, err
	}
	d, err := f.draft(in)
	return o, d, err
}

// draft reads the message. A file with LF line ends only, as shells make them, gets CRLF; any other mixture is the
// library's to refuse.
func (f *flags) draft(in io.Reader) (*securemail.Draft, error) {
	raw, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, errors.New("standard input can't be read")
	}
	if len(raw) > maxInput {
		return nil, errors.New("standard input is over 64 MiB")
	}
	if !bytes.Contains(raw, []byte("\r")) {
		raw = bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
	}
	d := &securemail.Draft{Raw: securemail.Bytes(raw), To: securemail.To(strings.Split(f.to, ",")...), Purpose: securemail.Purpose(f.purpose)}
	if f.from != "" {
		d.From = securemail.Mailbox(f.from)
		d.ReturnPath = d.From.Address
	}
	return d, nil
}

// open wires a System. Close closes it and, unless -store keeps it, removes what it stored.
func (f *flags) open(ctx context.Context, o *preset.Options) (_ *preset.System, closeAll func() error, err error) {
	path, remove := f.store, func() error { return nil }
	if path == "" {
		dir, err := os.MkdirTemp("", "postseal-")
		if err != nil {
			return nil, nil, errors.New("no temporary folder")
		}
		path, remove = filepath.Join(dir, "mail.db"), func() error { return os.RemoveAll(dir) }
	}
	s, err := preset.Open(ctx, path, o)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return s, func() error { return errors.Join(s.Close(), remove()) }, nil
}

func (f *flags) options(n *network) (*preset.Options, error) {
	so := n.options()
	so.Timeouts.Total = f.timeout
	o := &preset.Options{
		BaseURL: f.baseURL, InsecureLoopback: f.insecureLoopback, SMTP: so, STS: n.fetching(), Logger: slog.New(slog.DiscardHandler),
	}
	if f.relay != "" {
		_, port, err := net.SplitHostPort(f.relay)
		if err != nil {
			return nil, fmt.Errorf("-relay is host:port: %w", errUsage)
		}
		o.Relay = &smtp.Relay{Addr: f.relay, ImplicitTLS: port == "465"}
		if f.operator != "" {
			o.Relay.Operator = &securemail.Operator{Name: f.operator, Agreement: f.agreement, Until: f.until}
		}
	}
	return o, f.override(o)
}

// override puts the chosen policy and the pinned keys into the Config.
func (f *flags) override(o *preset.Options) error {
	methods := []securemail.Method{securemail.MethodPGP}
	if f.baseURL != "" {
		methods = append(methods, securemail.MethodEscrow)
	}
	p, err := policyOf(f.policy, &policy.Options{Methods: methods})
	if err != nil {
		return err
	}
	var source securemail.KeySource
	if f.keys != "" {
		source, err = keys.File(f.keys, map[securemail.Method]keys.Parser{securemail.MethodPGP: pgp.ParseKey})
		if err != nil {
			return err
		}
	}
	o.Override = func(c *securemail.Config) {
		c.Policy = p
		if source != nil {
			c.Keys = keys.Chain(source, c.Keys)
		}
	}
	return nil
}

func policyOf(name string, o *policy.Options) (securemail.Policy, error) {
	switch name {
	case "try-tls":
		return policy.HIPAA(o)
	case "forced":
		return policy.ForcedTLS(securemail.ChannelNamed, o)
	case "exclusive":
		return policy.Exclusive(o)
	case "escrow":
		return policy.EscrowOnly(o)
	}
	return nil, fmt.Errorf("-policy is try-tls, forced, exclusive or escrow: %w", errUsage)
}

// withPort adds the port that a service has by default where addr has none.
func withPort(addr, port string) string {
	if _, err := netip.ParseAddr(addr); err != nil {
		return addr
	}
	return net.JoinHostPort(addr, port)
}
