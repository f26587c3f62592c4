package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// TestSearchByCatalogue: a search finds the same with a catalogue, with none, and with one that is damaged or of another page.
func TestSearchByCatalogue(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Hour})
	const n = 1<<16 + 300
	var batch []securemail.Event
	for i := range n {
		e := event(fmt.Sprint("e", i))
		e.Status.ID, e.State = securemail.ParcelID(fmt.Sprintf(`p"%d`, i/3)), securemail.StateHeld
		e.Subjects = []securemail.Subject{securemail.Subject(fmt.Sprint("s", i/500))}
		if batch = append(batch, e); len(batch) == 1<<13 || i == n-1 {
			require.NoError(t, l.EmitAll(t.Context(), batch...))
			batch = batch[:0]
		}
	}
	require.NoError(t, l.Publish(t.Context()))
	want := []string{"e60000", "e60001", "e60002"}
	file := filepath.Join(dir, "catalog", "000000")
	look := func(what string) {
		t.Helper()
		require.Equal(t, want, found(t, l, audit.Search{Parcel: `p"20000`}), what)
		require.Len(t, found(t, l, audit.Search{Subject: l.Pseudonym("subject", "clinic", "s7"), Kind: "accepted", Actor: "mailer"}), 500, what)
		require.Equal(t, []string{"e65834", "e65833", "e65832"}, found(t, l, audit.Search{Parcel: `p"21944`, Newest: true}), what)
		require.Empty(t, found(t, l, audit.Search{Parcel: `p"99999`}), what)
	}
	require.NoFileExists(t, file)
	look("none")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	look("made")
	for _, bad := range [][]byte{nil, good[:len(good)-1], bytes.Replace(good, []byte("catalog"), []byte("catalox"), 1), make([]byte, len(good)), append(bytes.Clone(good[:99]), append([]byte{^good[99]}, good[100:]...)...)} {
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		look("damaged")
		again, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, good, again, "made anew")
	}
	b, err := l.Evidence(t.Context(), `p"20000`)
	require.NoError(t, err)
	e, err := audit.VerifyEvidence(b, l.Verifier())
	require.NoError(t, err)
	require.Len(t, e.Entries, 3)

	require.NoError(t, l.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "catalog")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "catalog"), nil, 0o600))
	require.Error(t, last(t, t.Context(), l, audit.Search{Kind: "x"}), "what is in the way is said")
}

// TestCatalogueHasEverySearchableValue: whatever a field holds, an entry yields the octets that a search looks for.
func TestCatalogueHasEverySearchableValue(t *testing.T) {
	for _, s := range []string{"a", `"`, `\`, `\"`, "<&>", "\u2028", "a\":\"b", "[x]", "\x00\x1f", "é", "{", `","parcel":"`} {
		e := audit.Entry{
			V: 1, Parcel: s, Submission: s, Kind: s, State: s, Recipient: s, Subjects: []string{"first", s}, By: audit.Caller{ID: s, Tenant: s, Roles: []string{s}},
			Detail: map[string]string{s: s}, Reasons: []audit.Reason{{Rule: s, Text: s}},
		}
		for _, f := range []audit.Search{{Parcel: s}, {Submission: s}, {Kind: s}, {State: s}, {Recipient: s}, {Subject: s}, {Actor: s}, {Tenant: s}, {Subject: "first"}} {
			require.True(t, audit.Searchable(&e, f), "%q %+v", s, f)
		}
		require.False(t, audit.Searchable(&e, audit.Search{Parcel: "another"}))
	}
}

func FuzzSearchable(f *testing.F) {
	f.Add([]byte(`{"parcel":"p","subjects":["a","b\""],"v":1}`))
	f.Add([]byte(`"":`))
	f.Fuzz(func(_ *testing.T, b []byte) { audit.SearchableOctets(b) })
}
