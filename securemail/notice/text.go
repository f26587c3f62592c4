package notice

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"text/template"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/securemail"
)

// Entry is one thing that a report tells. It holds no name, no address and nothing of the message.
type Entry struct {
	Parcel string
	// Ref is the host's id of the recipient, as xtext (RFC 3461 section 4) and at most 255 octets; Labels are the host's of the mail. Both are empty where the queue no longer
	// keeps the parcel.
	Ref    string
	Labels map[string]string
	// State is what the parcel entered, or [Delayed]; Reason the rule that the last of the reasons names.
	State   securemail.State
	Reason  string
	Purpose securemail.Purpose
	// Submitted is when it was accepted, Entered when it entered the state; Next when it is tried again, zero: not by itself;
	// UsefulUntil when it expires, zero: never.
	Submitted, Entered, Next, UsefulUntil time.Time
}

// Data is what a template sees.
type Data struct {
	// Brand is Tenant.Name.
	Brand string
	// Role: the reader is the tenant's office, not the sender.
	Role bool
	// Entries are the first 50; All is how many there are, Counts how many by state. The delivery status holds all.
	Entries []Entry
	All     int
	Counts  map[string]int
}

const (
	maxEntries = 50
	maxSubject = 200
	maxText    = 1 << 20
	maxRef     = 255
)

func entryOf(it *item, found map[string]securemail.Status) Entry {
	e := Entry{
		Parcel: it.parcel, State: securemail.State(it.what), Reason: it.reason, Purpose: securemail.Purpose(it.purpose),
		Entered: it.entered, Next: it.next,
	}
	if st, ok := found[it.parcel]; ok {
		e.Ref, e.Labels = xtext(st.Recipient.Ref), maps.Clone(st.Labels)
		e.Ref = e.Ref[:min(len(e.Ref), maxRef)]
		e.Submitted, e.UsefulUntil = st.Submitted.UTC(), st.UsefulUntil
	}
	return e
}

func dataOf(brand, who string, entries []Entry) Data {
	d := Data{Brand: brand, Role: who == role, All: len(entries), Counts: make(map[string]int)}
	for _, e := range entries {
		d.Counts[string(e.State)]++
	}
	d.Entries = entries[:min(len(entries), maxEntries)]
	return d
}

// Words says in English what became of it.
func (e Entry) Words() string {
	switch e.State {
	case Delayed:
		return "not delivered yet; it is tried further"
	case securemail.StateBounced:
		return "not delivered: the recipient's mail system refused it, or nothing that protects it could be used"
	case securemail.StateExpired:
		return "not delivered while it was of use"
	case securemail.StateHeld:
		return "held: a person must look at it (order Release or Cancel)"
	case securemail.StateUncertain:
		if !e.Next.IsZero() {
			return "perhaps delivered: the last answer was lost; it is delivered again by itself, so a second copy may arrive"
		}
		return "perhaps delivered: the last answer was lost. Nothing more happens by itself: order Retry to deliver it again (a " +
			"second copy may arrive), or Cancel to take it as done"
	case securemail.StateDropped:
		return "not delivered, and given up by rule"
	case securemail.StateRefused:
		return "not delivered: this recipient may not be written to"
	case securemail.StateCancelled:
		return "cancelled by order"
	}
	return string(e.State)
}

const englishSubject = `{{with .Brand}}{{.}}: {{end}}{{if eq .All 1}}mail was not delivered{{else}}{{.All}} mails were not delivered{{end}}` +
	`{{with index .Counts "uncertain"}}, {{.}} uncertain{{end}}{{with index .Counts "held"}}, {{.}} held{{end}}{{with index .Counts "delayed"}}, {{.}} late{{end}}`

const englishText = `{{if .Role}}This is a report to the office that answers for mail which senders could not
be told of, or that rules send here.{{else}}This is a report about mail that you sent.{{end}} It names no person: find each mail
by its reference or its number.
{{range .Entries}}
{{with .Ref}}Reference: {{.}}
{{end}}Number:    {{.Parcel}}
State:     {{.State}}{{with .Reason}} ({{.}}){{end}}
           {{.Words}}
{{if not .Submitted.IsZero}}Accepted:  {{.Submitted.Format "2006-01-02 15:04 MST"}}
{{end}}Since:     {{.Entered.Format "2006-01-02 15:04 MST"}}
{{if not .Next.IsZero}}Next:      {{.Next.Format "2006-01-02 15:04 MST"}}
{{end}}{{range $name, $value := .Labels}}{{$name}}: {{$value}}
{{end}}{{end}}
{{if gt .All (len .Entries)}}In all {{.All}} mails:
{{range $state, $count := .Counts}}{{$state}}: {{$count}}
{{end}}The attached delivery status lists each.
{{end}}Please do not answer: nobody reads this address.
{{with .Brand}}
{{.}}
{{end}}`

// texts are one tenant's templates; nil where it has none.
type texts struct{ subject, text *template.Template }

var (
	subjectTemplate = template.Must(template.New("subject").Parse(englishSubject))
	textTemplate    = template.Must(template.New("text").Parse(englishText))
)

// newTexts parses t's templates and tries them on samples.
func newTexts(t Tenant) (*texts, error) {
	out := &texts{subjectTemplate, textTemplate}
	var errs []error
	for _, p := range []struct {
		name, source string
		to           **template.Template
	}{{"Subject", t.Subject, &out.subject}, {"Text", t.Text, &out.text}} {
		if p.source == "" {
			continue
		}
		tpl, err := template.New(p.name).Parse(p.source)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			continue
		}
		*p.to = tpl
	}
	if !printable(t.Name) {
		errs = append(errs, errors.New("name holds control characters"))
	}
	if errs = append(errs, out.try(t.Name)); errors.Join(errs...) != nil {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// try executes t on samples, up to the first fault.
func (t *texts) try(brand string) error {
	for _, who := range []string{sender, role} {
		for _, s := range append(ends(), Delayed) {
			e := Entry{Parcel: "000000000000000000000000", State: s, Entered: time.Unix(0, 0).UTC()}
			if _, err := t.execute(dataOf(brand, who, []Entry{e})); err != nil {
				return err
			}
			if _, err := t.execute(dataOf(brand, who, []Entry{e, e})); err != nil {
				return err
			}
		}
	}
	return nil
}

// execute makes both texts of t and checks them.
func (t *texts) execute(d Data) (out [2]string, err error) {
	if out[0], err = executed(t.subject, d, maxSubject); err == nil {
		out[1], err = executed(t.text, d, maxText)
	}
	switch {
	case err != nil:
		return out, err
	case strings.TrimSpace(out[0]) == "" || !printable(out[0]):
		return out, errors.New("subject: the result is empty or holds control characters")
	case strings.TrimSpace(out[1]) == "" || !printable(strings.NewReplacer("\n", "", "\t", "").Replace(out[1])):
		return out, errors.New("text: the result is empty or holds control characters")
	}
	return out, nil
}

// write makes subject and text; where a tenant's own template fails on d, the English one.
func (t *texts) write(d Data) (subject, text string) {
	out, err := t.execute(d)
	if err != nil {
		english := texts{subjectTemplate, textTemplate}
		d.Brand = ""
		out, _ = english.execute(d)
	}
	return out[0], out[1]
}

func executed(t *template.Template, d Data, most int) (string, error) {
	w := &bounded{left: most}
	if err := t.Execute(w, d); err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	return w.String(), nil
}

var errLong = errors.New("notice: the result is too long")

// bounded keeps a template from filling memory.
type bounded struct {
	strings.Builder
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, errLong
	}
	return b.Builder.Write(p)
}

var _ io.Writer = (*bounded)(nil)

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
