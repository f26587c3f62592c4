package posture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// maxReport bounds the domains of one Report.
const maxReport = 20_000

// Report is the state of a tenant's domains, as of the last looks.
type Report struct {
	Tenant  string    `json:"tenant,omitempty"`
	Time    time.Time `json:"time"`
	Domains []Line    `json:"domains"`
}

// Line is one domain.
type Line struct {
	Domain string `json:"domain"`
	// Watched is "yes" by hand, "mail" where mail goes there, "no" where it was looked at once.
	Watched string `json:"watched"`
	// Checked is the last look, Changed when history last changed; zero: never.
	Checked time.Time `json:"checked,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
	Ratchet Held      `json:"ratchet"`
	// Downgraded says that a downgrade stands, Unreachable that the last looks found nothing out.
	Downgraded  bool `json:"downgraded,omitempty"`
	Unreachable bool `json:"unreachable,omitempty"`
	// State is what is known; nil: nothing yet. Time is of the last look.
	State *Snapshot `json:"state,omitempty"`
}

// Report gives the state of the domains named, or of all that the tenant watches, in order of name; at most 20,000. It never
// reads across tenants. It asks for "read.posture".
func (m *Monitor) Report(ctx context.Context, tenant string, domains ...string) (*Report, error) {
	if _, err := m.may(ctx, actRead, key{tenant, ""}); err != nil {
		return nil, err
	}
	out := &Report{Tenant: tenant, Time: m.now()}
	ks := make([]key, 0, len(domains))
	for _, d := range domains {
		k, err := keyOf(tenant, d)
		if err != nil {
			return nil, err
		}
		ks = append(ks, k)
	}
	if len(domains) == 0 {
		rows, err := m.raw.QueryContext(ctx, m.d.Rebind("SELECT tenant, domain FROM posture_domain WHERE tenant=? AND due>0 ORDER BY domain LIMIT ?"), tenant, maxReport)
		if err != nil {
			return nil, fmt.Errorf("posture: report: %w", err)
		}
		if ks, err = scanKeys(rows); err != nil {
			return nil, fmt.Errorf("posture: report: %w", err)
		}
	}
	for _, k := range ks[:min(len(ks), maxReport)] {
		l, err := m.line(ctx, k, out.Time)
		if err != nil {
			return nil, fmt.Errorf("posture: report: %w", err)
		}
		out.Domains = append(out.Domains, *l)
	}
	return out, nil
}

func (m *Monitor) line(ctx context.Context, k key, now time.Time) (*Line, error) {
	l, o, err := scanRatchet(m.raw.QueryRowContext(ctx, m.d.Rebind(readRatchet), k.tenant, k.domain))
	if err != nil {
		return nil, err
	}
	out := &Line{Domain: k.domain, Watched: "no", Ratchet: explain(k, l, o, now)}
	r := new(domainRow)
	err = r.scan(m.raw.QueryRowContext(ctx, m.d.Rebind(readDomain), k.tenant, k.domain))
	if errors.Is(err, sql.ErrNoRows) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := r.standing()
	if err != nil {
		return nil, err
	}
	switch {
	case r.watched == 1:
		out.Watched = "yes"
	case r.due > 0:
		out.Watched = "mail"
	}
	out.Checked, out.Changed, out.State = fromMicros(r.checked), fromMicros(r.changed), st.Base
	out.Downgraded, out.Unreachable = st.Best != nil || st.Below, st.Failures >= unreachableAfter
	return out, nil
}

// WriteText writes a table for people, a line a domain.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "DOMAIN\tLEVEL\tPROOF\tTLS\tMX SIGNED\tMTA-STS\tDANE\tTLSRPT\tREQUIRETLS\tCERT DAYS\tRATCHET\tCHANGED\tNOTE")
	for i := range r.Domains {
		l := &r.Domains[i]
		cells := append([]string{l.Domain}, l.State.cells(r.Time)...)
		cells = append(cells, l.Ratchet.String(), date(l.Changed), l.note())
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// String is such as "verified", with "(set)" behind where an override says so.
func (h Held) String() string {
	s := string(h.Least)
	if h.Least == LevelAny {
		s = "-"
	}
	if h.Override != nil {
		s += " (set)"
	}
	return s
}

func (l *Line) note() string {
	var notes []string
	if l.Downgraded {
		notes = append(notes, "downgraded")
	}
	if l.Unreachable {
		notes = append(notes, "unreachable")
	}
	if l.State != nil && l.State.NullMX {
		notes = append(notes, "takes no mail")
	}
	return dash(strings.Join(notes, ", "))
}

// cells are the columns that come from a look; nil: nothing is known.
func (s *Snapshot) cells(now time.Time) []string {
	if s == nil {
		s = &Snapshot{Level: LevelUnknown, STS: STS{State: "unknown"}, TLSRPT: TLSRPT{State: "unknown"}}
	}
	sts := s.STS.State
	if s.STS.Mode != "" {
		sts = s.STS.Mode + " " + s.STS.ID
	}
	return []string{
		string(s.Level), dash(s.Proof), s.TLS.String(), yes(s.Signed), sts, s.DANE(), s.TLSRPT.State, yes(s.RequireTLS()), days(s.Expiry(), now),
	}
}

// String is such as "TLS 1.3 TLS_AES_128_GCM_SHA256 X25519MLKEM768"; "-" for nil.
func (t *TLS) String() string {
	if t == nil {
		return "-"
	}
	return strings.TrimSpace(t.Version + " " + t.Suite + " " + t.Group)
}

// days are the whole days from now until end.
func days(end, now time.Time) string {
	if end.IsZero() {
		return "-"
	}
	return strconv.Itoa(int(end.Sub(now) / (24 * time.Hour)))
}

func date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
