package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

// queueFlags are those of queue.
type queueFlags struct {
	store, tenant, submission, as string
	states                        []securemail.State
	labels                        map[string]string
	limit                         int
	json                          bool
	ids                           []securemail.ParcelID
}

// queueOrders are the verbs that change something.
var queueOrders = map[string]securemail.Order{
	"hold": securemail.Hold, "release": securemail.Release, "retry": securemail.Retry, "cancel": securemail.Cancel,
}

// queueCommand looks into a store, or gives it an order.
func queueCommand(ctx context.Context, args []string, _ io.Reader, out io.Writer) (err error) {
	verb := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	f, err := parseQueue(verb, args, out)
	if err != nil {
		return err
	}
	desk, err := preset.OpenDesk(ctx, f.store, &preset.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, desk.Close()) }()
	switch verb {
	case "list":
		return f.list(ctx, desk, out)
	case "show":
		return f.show(ctx, desk, out)
	}
	return f.order(ctx, desk, verb, out)
}

func parseQueue(verb string, args []string, out io.Writer) (*queueFlags, error) {
	f := &queueFlags{labels: map[string]string{}}
	fs := flag.NewFlagSet("postseal queue "+cmp.Or(verb, "list|show|hold|release|retry|cancel"), flag.ContinueOnError)
	fs.StringVar(&f.store, "store", "", "database file; required")
	fs.StringVar(&f.tenant, "tenant", "", "whose parcels")
	fs.StringVar(&f.as, "as", "", "who gives the order; empty: the user of the system")
	fs.StringVar(&f.submission, "submission", "", "only parcels of this submission")
	fs.IntVar(&f.limit, "limit", 0, "at most so many parcels; 0: all")
	fs.BoolVar(&f.json, "json", false, "one JSON object a parcel")
	fs.Func("state", "only parcels in these states, comma-separated, may be repeated", func(s string) error {
		for _, name := range csv(s) {
			if !slices.Contains(allStates, securemail.State(name)) {
				return errors.New("no such state")
			}
			f.states = append(f.states, securemail.State(name))
		}
		return nil
	})
	fs.Func("label", "only parcels with this label, name=value, may be repeated", func(s string) error {
		name, value, found := strings.Cut(s, "=")
		if !found || name == "" {
			return errors.New("it is name=value")
		}
		f.labels[name] = value
		return nil
	})
	rest, err := parseMixed(fs, args, out)
	if err != nil {
		return nil, err
	}
	for _, id := range rest {
		f.ids = append(f.ids, securemail.ParcelID(id))
	}
	if wrong := f.wrong(verb); wrong != "" {
		return nil, fmt.Errorf("%s: %w", wrong, errUsage)
	}
	return f, nil
}

var allStates = []securemail.State{
	securemail.StateAccepted, securemail.StateAttempting, securemail.StateDeferred, securemail.StateHeld, securemail.StateDelivered,
	securemail.StateBounced, securemail.StateDropped, securemail.StateUncertain, securemail.StateRefused, securemail.StateCancelled,
	securemail.StateExpired,
}

// wrong says what of the flags can't be, "" for nothing.
func (f *queueFlags) wrong(verb string) string {
	order := queueOrders[verb] != 0
	switch {
	case verb != "list" && verb != "show" && !order:
		return "queue list, show, hold, release, retry or cancel"
	case f.store == "":
		return "-store is required"
	case f.limit < 0:
		return "-limit must not be negative"
	case verb != "list" && len(f.ids) == 0 && f.submission == "" && len(f.labels) == 0 && len(f.states) == 0:
		return "which parcels? give ids, -submission, -label or -state"
	}
	return ""
}

// query selects what the flags say.
func (f *queueFlags) query() securemail.Query {
	return securemail.Query{
		Tenant: f.tenant, Submission: f.submission, Labels: f.labels, IDs: f.ids, States: f.states, Limit: f.limit,
	}
}

// found are the parcels that the flags select; each id that was named must be among them. A damaged one comes with its id.
func (f *queueFlags) found(ctx context.Context, desk *preset.Desk) ([]securemail.Status, error) {
	var out []securemail.Status
	var errs []error
	known := map[securemail.ParcelID]bool{}
	for st, err := range desk.Find(ctx, f.query()) {
		if st.ID == "" && err != nil {
			return nil, err
		}
		errs = append(errs, err)
		known[st.ID] = true
		out = append(out, st)
	}
	for _, id := range f.ids {
		if !known[id] && len(f.states) == 0 && f.limit == 0 {
			errs = append(errs, fmt.Errorf("no parcel %s in this tenant", inline(string(id))))
		}
	}
	return out, errors.Join(errs...)
}

// list prints a line a parcel as it reads, so that a long queue needs no memory.
func (f *queueFlags) list(ctx context.Context, desk *preset.Desk, out io.Writer) error {
	var errs []error
	n := 0
	for st, err := range desk.Find(ctx, f.query()) {
		if st.ID == "" && err != nil {
			return err
		}
		if n++; err != nil && len(errs) < maxFaults {
			errs = append(errs, err)
		}
		if err := f.printLine(out, &st); err != nil {
			return err
		}
	}
	if len(f.ids) > n {
		errs = append(errs, fmt.Errorf("%d of %d parcels not found in this tenant", len(f.ids)-n, len(f.ids)))
	}
	return oneLine(errs)
}

// oneLine is errs on one line.
func oneLine(errs []error) error {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// printLine names nobody: ids, states, times, labels and the names of rules.
func (f *queueFlags) printLine(out io.Writer, st *securemail.Status) error {
	if f.json {
		return json.NewEncoder(out).Encode(st)
	}
	var rules []string
	for _, r := range st.Reasons {
		rules = append(rules, r.Rule)
	}
	_, err := fmt.Fprintf(out, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", st.ID, st.State, st.Attempt, when(st.Next), cmp.Or(string(st.Purpose), "-"),
		labelText(st.Labels), inline(cmp.Or(strings.Join(rules, " "), "-")))
	return err
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, name+"="+labels[name])
	}
	return inline(cmp.Or(strings.Join(parts, ","), "-"))
}

// shown is the JSON of show.
type shown struct {
	Status  securemail.Status  `json:"status"`
	History []securemail.Event `json:"history"`
}

func (f *queueFlags) show(ctx context.Context, desk *preset.Desk, out io.Writer) error {
	sts, err := f.found(ctx, desk)
	errs := []error{err}
	for i := range sts {
		events, err := desk.History(ctx, f.tenant, sts[i].ID)
		errs = append(errs, err)
		if f.json {
			if err := json.NewEncoder(out).Encode(shown{sts[i], events}); err != nil {
				return err
			}
			continue
		}
		if _, err := io.WriteString(out, showText(&sts[i], events)); err != nil {
			return err
		}
	}
	return oneLine(errs)
}

func showText(st *securemail.Status, events []securemail.Event) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" && value != "-" {
			fmt.Fprintf(&b, "  %-11s %s\n", name, inline(value))
		}
	}
	fmt.Fprintf(&b, "%s\t%s\n", st.ID, st.State)
	line("submission", st.Submission)
	line("purpose", string(st.Purpose))
	line("labels", labelText(st.Labels))
	line("attempts", fmt.Sprint(st.Attempt))
	line("submitted", when(st.Submitted))
	line("not before", when(st.NotBefore))
	line("useful to", when(st.UsefulUntil))
	line("changed", when(st.Changed))
	line("next", when(st.Next))
	line("read", when(st.Read))
	line("policy", st.Policy)
	line("method", string(st.Choice.Method))
	line("failure", st.Failure)
	for _, r := range st.Reasons {
		line("reason", strings.TrimSuffix(r.Rule+": "+r.Text, ": "))
	}
	for i := range events {
		line("history", historyText(&events[i]))
	}
	return b.String()
}

// historyText is one event: when, what, by whom, and what was decided.
func historyText(e *securemail.Event) string {
	parts := []string{when(e.Time), e.Kind, "by " + e.By.Kind + " " + e.By.ID}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		parts = append(parts, k+"="+e.Detail[k])
	}
	if d := e.Decision; d != nil {
		parts = append(parts, "decided by "+d.Policy)
		for _, c := range d.Choices {
			parts = append(parts, string(c.Method)+"/"+channel(c.Channel))
		}
		parts = append(parts, "else "+outcome(d.Else))
	}
	for _, r := range e.Reasons {
		parts = append(parts, r.Rule)
	}
	return strings.Join(parts, " ")
}

// order gives verb to what the flags select: to all of it, or to none.
func (f *queueFlags) order(ctx context.Context, desk *preset.Desk, verb string, out io.Writer) error {
	sts, err := f.found(ctx, desk)
	if err != nil {
		return oneLine([]error{err})
	}
	if len(sts) == 0 {
		return errors.New("no parcel fits")
	}
	ids := make([]securemail.ParcelID, len(sts))
	for i := range sts {
		ids[i] = sts[i].ID
	}
	by := securemail.Actor{Tenant: f.tenant, ID: operator(f.as), Kind: "operator", Purpose: "queue " + verb}
	if err := desk.Order(securemail.WithActor(ctx, by), queueOrders[verb], f.tenant, ids...); err != nil {
		if errors.Is(err, securemail.ErrFinal) {
			return errors.New("nothing was changed: one of the parcels has ended, or is leaving right now")
		}
		return err
	}
	f.ids, f.states = ids, nil // an order may have moved a parcel out of what was asked for
	return f.list(ctx, desk, out)
}

// operator is as, or who runs this program.
func operator(as string) string {
	if as != "" {
		return as
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return cmp.Or(os.Getenv("USER"), "unknown")
}

// inline keeps what hosts and rules wrote on one line, and from steering a terminal.
func inline(s string) string { return strings.ReplaceAll(printable(s), "\n", "?") }
