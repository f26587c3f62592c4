package export

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail/audit"
)

// fact is one thing that an entry says, for forms that have no field of their own for it.
type fact struct{ name, value string }

// facts are what protected the copy and who decided so, in a fixed order; none is empty.
func facts(e *audit.Entry) []fact {
	all := []fact{
		{"kind", e.Kind}, {"state", e.State}, {"tenant", e.By.Tenant}, {"submission", e.Submission}, {"policy", e.Policy}, {"facts", e.Facts},
	}
	if c := e.Choice; c != nil {
		all = append(all, fact{"method", c.Method}, fact{"floor", c.Channel})
	}
	if p := e.Protection; p != nil {
		all = append(all, fact{"algorithm", p.Algorithm}, fact{"keys", strings.Join(p.Keys, " ")})
	}
	if r := e.Receipt; r != nil {
		all = append(all, fact{"hop", r.Hop}, fact{"proof", r.Proof}, fact{"received", stamp(r.Time)})
		if r.TLS != nil {
			all = append(all, fact{"tls", tlsWords(r.TLS)}, fact{"chain", r.TLS.Chain})
		}
		if r.Operator != nil {
			all = append(all, fact{"asserted-by", strings.TrimSpace(r.Operator.Name + " " + r.Operator.Agreement)})
		}
	}
	for i, r := range e.Reasons {
		all = append(all, fact{fmt.Sprintf("reason-%d", i+1), strings.TrimSuffix(r.Rule+": "+r.Text, ": ")})
	}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		all = append(all, fact{"detail-" + k, e.Detail[k]})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return strings.TrimSpace(f.value) == "" })
}

func tlsWords(t *audit.TLS) string {
	return strings.Join(slices.DeleteFunc([]string{t.Version, t.Suite, t.Group}, func(s string) bool { return s == "" }), " ")
}

// stamp is t as a report shows it; "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
