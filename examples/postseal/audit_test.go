package main

import (
	rfc4180 "encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// auditRig is a store's log with two parcels and a denied call in it.
func auditRig(t *testing.T) (store string) {
	t.Helper()
	store = filepath.Join(t.TempDir(), "mail.db")
	l, err := audit.Open(t.Context(), store+".audit", nil)
	require.NoError(t, err)
	by := securemail.Actor{Tenant: "clinic", ID: "host", Kind: "service"}
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, p := range []string{"p1", "p2"} {
		st := securemail.Status{State: securemail.StateHeld, Slip: securemail.Slip{
			ID: securemail.ParcelID(p), Actor: by, Recipient: securemail.Mailbox(p + "@example.org"), Subjects: []securemail.Subject{"mrn-" + securemail.Subject(p)},
		}}
		require.NoError(t, l.Emit(t.Context(), securemail.Event{ID: "e-" + p, Kind: "held", Time: at, By: by, Status: st}))
		at = at.Add(24 * time.Hour)
	}
	require.NoError(t, l.Emit(t.Context(), securemail.Event{ID: "e-no", Kind: "denied", Time: at, By: by, Detail: map[string]string{"action": "read"}}))
	require.NoError(t, l.Close())
	return store
}

func TestAuditSearch(t *testing.T) {
	store := auditRig(t)
	for name, c := range map[string]struct {
		args string
		want []string
	}{
		"all":       {"", []string{"e-p1", "e-p2", "e-no"}},
		"newest":    {"-newest -limit 1", []string{"e-no"}},
		"parcel":    {"-parcel p2", []string{"e-p2"}},
		"recipient": {"-tenant clinic -recipient p1@example.org", []string{"e-p1"}},
		"subject":   {"-tenant clinic -subject mrn-p2", []string{"e-p2"}},
		"kind":      {"-kind denied", []string{"e-no"}},
		"day":       {"-from 2026-11-25 -until 2026-11-26", []string{"e-p2"}},
		"time":      {"-until 2026-11-24T12:00:01Z", []string{"e-p1"}},
		"nothing":   {"-state bounced", nil},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, e := call(t, "", append([]string{"audit", "search", "-store", store}, strings.Fields(c.args)...)...)
			require.Zero(t, code, e)
			var got []string
			for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
				if f := strings.Fields(line); len(f) > 0 {
					got = append(got, f[len(f)-1])
				}
			}
			require.Equal(t, c.want, got)
			require.NotContains(t, out, "example.org")
		})
	}
}

func TestAuditForms(t *testing.T) {
	store := auditRig(t)
	run := func(args ...string) string {
		code, out, e := call(t, "", append([]string{"audit", "-store", store}, args...)...)
		require.Zero(t, code, e)
		require.NotContains(t, out, "example.org")
		return out
	}
	require.Contains(t, run("check"), "3 entries")
	rows, err := rfc4180.NewReader(strings.NewReader(run("report"))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 3)
	require.Contains(t, run("report", "-format", "html", "-parcel", "p1", "-from", "2026-11-24"), "Searched for: parcel p1, from 2026-11-24.")
	require.True(t, json.Valid([]byte(run("report", "-format", "json"))))
	for _, format := range []string{"fhir", "ocsf", "jsonl"} {
		lines := strings.Split(strings.TrimSpace(run("export", "-format", format)), "\n")
		require.Len(t, lines, 3)
		for _, l := range lines {
			require.True(t, json.Valid([]byte(l)), l)
		}
	}
	require.Len(t, strings.Split(strings.TrimSpace(run("search", "-format", "jsonl")), "\n"), 3)
}

func TestAuditFailsInOneLine(t *testing.T) {
	store := auditRig(t)
	for name, c := range map[string]struct {
		args string
		code int
		says string
	}{
		"no store":       {"check", 2, "-store"},
		"no verb":        {"-store " + store, 2, "check, search"},
		"another verb":   {"burn -store " + store, 2, "check, search"},
		"another format": {"report -format fhir -store " + store, 2, "-format"},
		"no day":         {"search -from monday -store " + store, 2, "-from"},
		"no day until":   {"search -until monday -store " + store, 2, "-until"},
		"no address":     {"search -recipient x -store " + store, 1, "-recipient"},
		"no log":         {"check -store " + store + "2", 1, "no audit log"},
		"unknown flag":   {"check -x", 2, "flag"},
		"limit":          {"search -limit -1 -store " + store, 1, "Limit"},
		"limit, report":  {"report -limit -1 -store " + store, 1, "Limit"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, e := call(t, "", append([]string{"audit"}, strings.Fields(c.args)...)...)
			require.Equal(t, c.code, code, e)
			require.Empty(t, out)
			require.Contains(t, e, c.says)
			require.Equal(t, 1, strings.Count(e, "\n"))
		})
	}
	bundle := filepath.Join(store+".audit", "tile", "entries", "000.p", "3")
	b, err := os.ReadFile(bundle)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(bundle, []byte(strings.Replace(string(b), "held", "hold", 1)), 0o600))
	code, _, e := call(t, "", "audit", "check", "-store", store)
	require.Equal(t, 1, code)
	require.Contains(t, e, "damaged log")
}
