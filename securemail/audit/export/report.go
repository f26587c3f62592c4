package export

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail/audit"
)

// Report is what became of each parcel, and how often what. Summarise makes one.
type Report struct {
	// Rows are in the order in which the parcels first show.
	Rows []Row `json:"rows"`
	// States, Methods and Protections count the rows by what they say; a row without one counts as "-".
	States      []Count `json:"states"`
	Methods     []Count `json:"methods"`
	Protections []Count `json:"protections"`
}

// Count is how many rows say Name.
type Count struct {
	Name string `json:"name"`
	Rows int    `json:"rows"`
}

// Row is one parcel: one message to one recipient. What the entries do not tell is empty.
type Row struct {
	Parcel     string `json:"parcel"`
	Submission string `json:"submission,omitzero"`
	Tenant     string `json:"tenant,omitzero"`
	// Recipient is a pseudonym.
	Recipient string `json:"recipient,omitzero"`
	Purpose   string `json:"purpose,omitzero"`
	// State is the newest, Accepted and Changed are when the first and the newest state were entered.
	State    string    `json:"state"`
	Accepted time.Time `json:"accepted,omitzero"`
	Changed  time.Time `json:"changed"`
	Attempts int       `json:"attempts,omitzero"`
	// Method, Floor and Protection are of the Choice that was used: Floor is the channel that was asked for, Protection says
	// in words what protected the copy.
	Method     string `json:"method,omitzero"`
	Floor      string `json:"floor,omitzero"`
	Protection string `json:"protection,omitzero"`
	// TLS, Proof, Hop and Operator are of the wire; Operator is who asserted what lay beyond a relay.
	TLS      string `json:"tls,omitzero"`
	Proof    string `json:"proof,omitzero"`
	Hop      string `json:"hop,omitzero"`
	Operator string `json:"operator,omitzero"`
	// Keys are the fingerprints that the message was sealed to.
	Keys   string    `json:"keys,omitzero"`
	Policy string    `json:"policy,omitzero"`
	Read   time.Time `json:"read,omitzero"`
	Reason string    `json:"reason,omitzero"`
}

// Summarise makes a report of entries. Entries without a parcel are left out. It keeps one row a parcel, about 1 KB: for more
// than some 1,000,000 parcels, report a part of the time. It ends with the first error of entries.
func Summarise(entries iter.Seq2[audit.Entry, error]) (*Report, error) {
	r, at := &Report{Rows: []Row{}}, map[string]int{}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		if e.Parcel == "" || e.State == "" && e.Kind != "read" {
			continue
		}
		i, ok := at[e.Parcel]
		if !ok {
			i = len(r.Rows)
			at[e.Parcel] = i
			r.Rows = append(r.Rows, Row{Parcel: e.Parcel})
		}
		r.Rows[i].add(&e)
	}
	r.States = count(r.Rows, func(w *Row) string { return w.State })
	r.Methods = count(r.Rows, func(w *Row) string { return w.Method })
	r.Protections = count(r.Rows, func(w *Row) string { return w.Protection })
	return r, nil
}

// add brings w up to e. Entries may come in either order.
func (w *Row) add(e *audit.Entry) {
	w.Submission, w.Recipient = cmp.Or(w.Submission, e.Submission), cmp.Or(w.Recipient, e.Recipient)
	w.Tenant, w.Purpose = cmp.Or(w.Tenant, e.By.Tenant), cmp.Or(w.Purpose, e.Purpose)
	w.Attempts = max(w.Attempts, e.Attempt)
	if w.Read.IsZero() {
		w.Read = e.Read
	}
	if e.Kind == "accepted" {
		w.Accepted = e.Time
	}
	if e.Kind != e.State || e.Time.Before(w.Changed) { // a fault, a read and the like enter no state
		return
	}
	w.State, w.Changed, w.Policy = e.State, e.Time, cmp.Or(e.Policy, w.Policy)
	if n := len(e.Reasons); n > 0 {
		w.Reason = strings.TrimSuffix(e.Reasons[n-1].Rule+": "+e.Reasons[n-1].Text, ": ")
	}
	if e.Choice != nil {
		w.Method, w.Floor = e.Choice.Method, e.Choice.Channel
	}
	if e.Protection != nil {
		w.Keys = strings.Join(e.Protection.Keys, " ")
	}
	if r := e.Receipt; r != nil {
		w.Proof, w.Hop, w.TLS, w.Operator = r.Proof, r.Hop, "", ""
		if r.TLS != nil {
			w.TLS = tlsWords(r.TLS)
		}
		if r.Operator != nil {
			w.Operator = strings.TrimSpace(r.Operator.Name + " " + r.Operator.Agreement)
		}
	}
	w.Protection = protection(e)
}

// protection says in words what protected the copy of an entry that says that the far end has it; "" for any other.
func protection(e *audit.Entry) string {
	r := e.Receipt
	if r == nil || e.State != "delivered" {
		return ""
	}
	if p := e.Protection; p != nil && p.Algorithm != "" && p.Algorithm != "none" {
		return "sealed: " + p.Algorithm
	}
	switch {
	case r.TLS == nil:
		return "none"
	case r.Proof == "":
		return "TLS, name not proved"
	}
	return "TLS, name proved by " + r.Proof
}

func count(rows []Row, by func(*Row) string) []Count {
	n := map[string]int{}
	for i := range rows {
		n[cmp.Or(by(&rows[i]), "-")]++
	}
	out := []Count{}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		out = append(out, Count{name, n[name]})
	}
	return out
}

var columns = []string{
	"parcel", "submission", "tenant", "recipient", "purpose", "state", "accepted", "changed", "attempts", "method", "floor",
	"protection", "tls", "proof", "hop", "operator", "keys", "policy", "read", "reason",
}

// cells are w in the order of columns.
func (w *Row) cells() []string {
	attempts, _ := json.Marshal(w.Attempts)
	return []string{
		w.Parcel, w.Submission, w.Tenant, w.Recipient, w.Purpose, w.State, stamp(w.Accepted), stamp(w.Changed), string(attempts), w.Method,
		w.Floor, w.Protection, w.TLS, w.Proof, w.Hop, w.Operator, w.Keys, w.Policy, stamp(w.Read), w.Reason,
	}
}

// CSV writes the rows in the form of RFC 4180, with a header. A cell that a spreadsheet would take for a formula has an
// apostrophe in front.
func (r *Report) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	if err := out.Write(columns); err != nil {
		return err
	}
	for i := range r.Rows {
		cells := r.Rows[i].cells()
		for j, c := range cells {
			cells[j] = harmless(c)
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// harmless keeps a spreadsheet from computing a cell (OWASP, CSV injection): also where blanks stand before the formula.
func harmless(cell string) string {
	if t := strings.TrimLeft(cell, " \u00a0"); t != "" && strings.ContainsRune("=+-@\t\r\n|%＝＋－＠", []rune(t)[0]) {
		return "'" + cell
	}
	return cell
}

// JSON writes the whole report as one object.
func (r *Report) JSON(w io.Writer) error {
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return err
	}
	return buf.Flush()
}
