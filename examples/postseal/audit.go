package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/export"
)

// auditFlags are the flags of audit.
type auditFlags struct {
	store, format, address, subject, from, until string
	search                                       audit.Search
}

// auditCommand checks a store's log, or gives what is searched for in the form asked for.
func auditCommand(ctx context.Context, args []string, _ io.Reader, out io.Writer) (err error) {
	var f auditFlags
	rest, err := parseMixed(f.flags(), args, out)
	if err != nil {
		return err
	}
	verb := strings.Join(rest, " ")
	form, ok := auditForms[verb][cmp.Or(f.format, auditDefaults[verb])]
	if verb == "check" {
		form, ok = checkLog, f.format == ""
	}
	if f.store == "" || !ok {
		return fmt.Errorf("audit needs -store FILE, and check, search, report or export with a -format that it has: %w", errUsage)
	}
	if err := f.times(); err != nil {
		return err
	}
	log, err := openLog(ctx, f.store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if err := f.pseudonyms(log); err != nil {
		return err
	}
	return form(&auditJob{ctx, log, &f, out})
}

// openLog opens the log beside a store.
func openLog(ctx context.Context, store string) (*audit.Log, error) {
	if _, err := os.Stat(store + ".audit"); err != nil {
		return nil, errors.New("there is no audit log beside the store")
	}
	return audit.Open(ctx, store+".audit", nil)
}

func (f *auditFlags) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("postseal audit check|search|report|export", flag.ContinueOnError)
	fs.StringVar(&f.store, "store", "", "database file; its log lies beside it; required")
	fs.StringVar(&f.format, "format", "", "report: csv, json, html; export: fhir, ocsf, jsonl; search: text, jsonl")
	fs.StringVar(&f.search.Parcel, "parcel", "", "only of this parcel")
	fs.StringVar(&f.search.Submission, "submission", "", "only of this submission")
	fs.StringVar(&f.search.Actor, "actor", "", "only by this actor's id")
	fs.StringVar(&f.search.Tenant, "tenant", "", "only of this tenant; -recipient and -subject are his")
	fs.StringVar(&f.search.Kind, "kind", "", "only of this kind, such as delivered, denied, key")
	fs.StringVar(&f.search.State, "state", "", "only where the parcel is in this state")
	fs.StringVar(&f.address, "recipient", "", "only to this address")
	fs.StringVar(&f.subject, "subject", "", "only about this subject, as the host names him")
	fs.StringVar(&f.from, "from", "", "not before this day or time (RFC 3339)")
	fs.StringVar(&f.until, "until", "", "before this day or time (RFC 3339)")
	fs.IntVar(&f.search.Limit, "limit", 0, "at most so many entries; 0: all")
	fs.BoolVar(&f.search.Newest, "newest", false, "the newest first")
	return fs
}

func (f *auditFlags) times() (err error) {
	if f.search.From, err = dayOrTime("-from", f.from); err != nil {
		return err
	}
	f.search.Until, err = dayOrTime("-until", f.until)
	return err
}

func dayOrTime(name, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s is neither a day such as 2026-11-25 nor a time such as 2026-11-25T08:00:00Z: %w", name, errUsage)
}

// pseudonyms puts in the search what stands in the log for an address and a subject.
func (f *auditFlags) pseudonyms(log *audit.Log) error {
	if f.address != "" {
		a, err := securemail.ParseAddress(f.address)
		if err != nil {
			return errors.New("-recipient is not an address")
		}
		f.search.Recipient = log.Pseudonym("address", f.search.Tenant, a.Reveal())
	}
	f.search.Subject = log.Pseudonym("subject", f.search.Tenant, f.subject)
	return nil
}

// filter says what was searched for, without names.
func (f *auditFlags) filter() string {
	var out []string
	for _, p := range [][2]string{
		{"parcel", f.search.Parcel}, {"submission", f.search.Submission}, {"actor", f.search.Actor}, {"tenant", f.search.Tenant},
		{"kind", f.search.Kind}, {"state", f.search.State}, {"recipient", f.search.Recipient}, {"subject", f.search.Subject},
		{"from", f.from}, {"until", f.until},
	} {
		if p[1] != "" {
			out = append(out, p[0]+" "+p[1])
		}
	}
	return strings.Join(out, ", ")
}

// auditJob is what a form works on.
type auditJob struct {
	ctx context.Context
	log *audit.Log
	f   *auditFlags
	out io.Writer
}

func (j *auditJob) found() iter.Seq2[audit.Entry, error] { return j.log.Search(j.ctx, j.f.search) }

var auditDefaults = map[string]string{"search": "text", "report": "csv", "export": "jsonl"}

var auditForms = map[string]map[string]func(*auditJob) error{
	"search": {"text": searchText, "jsonl": exportLines},
	"export": {
		"jsonl": exportLines,
		"fhir":  func(j *auditJob) error { return export.FHIR(j.out, j.found(), nil) },
		"ocsf":  func(j *auditJob) error { return export.OCSF(j.out, j.found(), nil) },
	},
	"report": {
		"csv":  func(j *auditJob) error { return report(j, (*export.Report).CSV) },
		"json": func(j *auditJob) error { return report(j, (*export.Report).JSON) },
		"html": func(j *auditJob) error {
			return report(j, func(r *export.Report, w io.Writer) error {
				return r.HTML(w, &export.Options{PublicKey: j.log.PublicKey(), Filter: j.f.filter()})
			})
		},
	},
}

func checkLog(j *auditJob) error {
	if err := j.log.Check(j.ctx); err != nil {
		return err
	}
	lines := strings.SplitN(string(j.log.Checkpoint()), "\n", 4)
	_, err := fmt.Fprintf(j.out, "OK: every octet of the log %s is as it was signed: %s entries, root %s\n", lines[0], lines[1], lines[2])
	return err
}

func exportLines(j *auditJob) error { return export.Lines(j.out, j.found()) }

func searchText(j *auditJob) error {
	for e, err := range j.found() {
		if err != nil {
			return err
		}
		about := cmp.Or(inline(e.Parcel), "-")
		if _, err := fmt.Fprintf(j.out, "%s  %-11s %s  by %s  %s\n", e.Time.UTC().Format(time.RFC3339), e.Kind, about, cmp.Or(inline(e.By.ID), "-"), inline(e.Event)); err != nil {
			return err
		}
	}
	return nil
}

func report(j *auditJob, write func(*export.Report, io.Writer) error) error {
	r, err := export.Summarise(j.found())
	if err != nil {
		return err
	}
	return write(r, j.out)
}
