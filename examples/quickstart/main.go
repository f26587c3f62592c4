// Command quickstart is the main job of postseal in one run, with no set-up and no network beyond loopback: one appointment
// reminder to six people, each of whom can receive something else.
//
// It starts five mail hosts in this process - one with verified TLS, one that speaks TLS 1.0 only, one with a self-signed
// certificate, one without TLS, and one where somebody on the wire strips STARTTLS - sends the reminder, runs the Mailer,
// and prints who got it how and why. Then it opens the escrow messages as their recipients would, in a browser's place, and
// searches its own files for the patient's name.
//
//	go run ./examples/quickstart [-json] [-out DIR]
//
// With -json it prints one record a recipient. With -out it writes what the log proves about each recipient's copy to
// DIR/evidence/PARCEL.json, and the log's public key to DIR/log.pub, for postseal verify-evidence. It exits 1 if anything is not as it should be.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

func main() {
	asJSON := flag.Bool("json", false, "print one JSON record a recipient")
	dir := flag.String("out", "", "write evidence for outsiders, and the key to check it by, to this folder")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout, *asJSON, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

const (
	patient = "Johanna Beispiel"
	body    = "Dear Johanna Beispiel,\n\nyour appointment in cardiology is on Thursday at 9:30.\nThe directions are attached.\n"
)

// person is one recipient and what must become of the mail to him.
type person struct {
	name, address string
	// code is the access code on file, "" for none.
	code  string
	state securemail.State
	by    securemail.Method
}

// people are in the order of the table.
func people() []person {
	return []person{
		{"verified TLS", "anna@verified.example", "", securemail.StateDelivered, securemail.MethodTLS},
		{"PGP user, no TLS", "paul@clear.example", "", securemail.StateDelivered, securemail.MethodPGP},
		{"self-signed TLS", "carla@selfsigned.example", "", securemail.StateDelivered, securemail.MethodEscrow},
		{"no TLS, has a code", "dora@clear.example", "tulip-4711", securemail.StateDelivered, securemail.MethodEscrow},
		{"stripped TLS, has a code", "emil@strip.example", "maple-1848", securemail.StateDelivered, securemail.MethodEscrow},
		{"TLS 1.0, has nothing", "ben@old.example", "", securemail.StateHeld, ""},
	}
}

func run(ctx context.Context, out io.Writer, asJSON bool, evidence string) (err error) {
	dir, err := os.MkdirTemp("", "postseal-quickstart-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	hosts, err := startHosts()
	if err != nil {
		return err
	}
	defer hosts.close()
	web, err := startWeb()
	if err != nil {
		return err
	}
	defer web.close()

	sys, err := preset.Open(ctx, filepath.Join(dir, "mail.db"), &preset.Options{
		BaseURL: web.url, InsecureLoopback: true, Brand: "Example Clinic", SMTP: hosts.smtpOptions(),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	web.serve(sys.Handler())
	reader, err := pinKey(ctx, sys, "paul@clear.example")
	if err != nil {
		return err
	}
	sub, err := sys.Send(ctx, reminder())
	if err != nil {
		return err
	}
	if _, err := sys.RunDue(ctx); err != nil {
		return err
	}
	c := &check{ctx: ctx, sys: sys, hosts: hosts, reader: reader, dir: dir}
	rows, err := c.all(sub)
	if err == nil && evidence != "" {
		err = writeEvidence(ctx, sys, sub, evidence)
	}
	if printErr := report(out, rows, asJSON); printErr != nil {
		return printErr
	}
	if err == nil && !asJSON {
		fmt.Fprintf(out, "\nNo stored byte in %d files, and no byte on a wire that was not proved, shows the patient's name.\n", c.files)
	}
	return err
}

// reminder is a real message: text and HTML, and an attachment.
func reminder() *securemail.Draft {
	d := &securemail.Draft{
		Key:     "reminder-2026-11-26",
		From:    securemail.Mailbox("Example Clinic <appointments@clinic.example>"),
		Subject: "Your appointment, " + patient,
		Text:    body,
		HTML:    "<p>Dear <b>Johanna Beispiel</b>,</p><p>your appointment in cardiology is on Thursday at 9:30.</p>",
		Attachments: []securemail.Attachment{{
			Name: "directions.txt", Type: "text/plain; charset=utf-8", Content: securemail.Bytes([]byte("Second floor, for " + patient + "\r\n")),
		}},
		Purpose: securemail.PurposeTreatment,
		Labels:  map[string]string{"appointment": "4711"},
	}
	for _, p := range people() {
		r := securemail.Recipient{Contact: securemail.Mailbox(p.address)}
		if p.code != "" {
			r.Factors = []securemail.Factor{{Kind: "code", Hint: "The code from your first visit", Value: securemail.NewSecret(p.code)}}
		}
		d.Each = append(d.Each, r)
	}
	return d
}

// pinKey makes a key for address, as its owner would, and pins the public half, as the clinic's staff would.
func pinKey(ctx context.Context, sys *preset.System, address string) (securemail.Secret, error) {
	c := securemail.Mailbox(address)
	secret, key, err := pgp.GenerateKey("", c.Address)
	if err != nil {
		return securemail.Secret{}, err
	}
	staff := securemail.Actor{ID: "staff", Kind: "person", Roles: []string{"admin"}}
	return secret, sys.Keys.Pin(securemail.WithActor(ctx, staff), pinned(c.Address, key))
}

// row is one line of the table.
type row struct {
	Recipient string `json:"recipient"`
	Kind      string `json:"kind"`
	State     string `json:"state"`
	Tried     string `json:"tried"`
	Used      string `json:"used"`
	Why       string `json:"why"`
	Opened    string `json:"opened"`
	Evidence  string `json:"evidence"`
	Receipt   string `json:"receipt"`
	OK        bool   `json:"ok"`
}

func report(out io.Writer, rows []row, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RECIPIENT\tWHO\tTRIED\tUSED\tWHY\tOPENED\tEVIDENCE\tRECEIPT\tOK")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%v\n",
			r.Recipient, r.Kind, r.Tried, r.Used, r.Why, r.Opened, r.Evidence, r.Receipt, r.OK)
	}
	return w.Flush()
}
