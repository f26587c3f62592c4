package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// found are the ids of the events that s finds.
func found(t testing.TB, l *audit.Log, s audit.Search) []string {
	t.Helper()
	var out []string
	for e, err := range l.Search(t.Context(), s) {
		require.NoError(t, err)
		out = append(out, e.Event)
	}
	return out
}

// searched is a log of 700 plain entries, all but the last 90 published, with three about people among them.
func searched(t testing.TB) *audit.Log {
	t.Helper()
	l := open(t, logDir(t), &audit.Options{Interval: time.Hour})
	emit(t, l, 0, 300)
	a, b, c := full(t), full(t), full(t)
	a.ID, a.Kind, a.State = "a", "accepted", "accepted"
	b.ID, b.Status.ID, b.Subjects = "b", `parcel"2`, []securemail.Subject{"other"}
	b.By = securemail.Actor{Tenant: "clinic", ID: "nurse", Kind: "person"}
	c.ID, c.Time, c.Submission = "c", time.Unix(2e9, 0), "sub2"
	require.NoError(t, l.EmitAll(t.Context(), a, b))
	emit(t, l, 300, 610)
	require.NoError(t, l.Publish(t.Context()))
	require.NoError(t, l.Emit(t.Context(), c))
	emit(t, l, 610, 700)
	return l
}

func TestSearch(t *testing.T) {
	l := searched(t)
	e := full(t)
	recipient := l.Pseudonym("address", "clinic", e.Recipient.Address.Reveal())
	for name, c := range map[string]struct {
		s    audit.Search
		want []string
	}{
		"parcel":           {audit.Search{Parcel: "parcel1"}, []string{"a", "c"}},
		"a prefix is none": {audit.Search{Parcel: "parcel"}, nil},
		"escaped":          {audit.Search{Parcel: `parcel"2`}, []string{"b"}},
		"submission":       {audit.Search{Submission: "sub2"}, []string{"c"}},
		"recipient":        {audit.Search{Recipient: recipient}, []string{"a", "b", "c"}},
		"subject":          {audit.Search{Subject: l.Pseudonym("subject", "clinic", canary)}, []string{"a", "c"}},
		"actor":            {audit.Search{Actor: "nurse"}, []string{"b"}},
		"actor and kind":   {audit.Search{Actor: "dr-who", Kind: "accepted"}, []string{"a"}},
		"state":            {audit.Search{State: "delivered"}, []string{"b", "c"}},
		"from":             {audit.Search{From: time.Unix(2e9, 0)}, []string{"c"}},
		"until":            {audit.Search{From: time.Unix(1e9, 5), Until: time.Unix(2e9, 0)}, []string{"a", "b"}},
		"newest":           {audit.Search{Recipient: recipient, Newest: true}, []string{"c", "b", "a"}},
		"limit":            {audit.Search{Recipient: recipient, Newest: true, Limit: 2}, []string{"c", "b"}},
		"the last":         {audit.Search{Newest: true, Limit: 1}, []string{"e699"}},
		"other tenant":     {audit.Search{Parcel: "parcel1", Tenant: "x"}, nil},
		"a kind elsewhere": {audit.Search{Kind: "person"}, nil},
	} {
		require.Equal(t, c.want, found(t, l, c.s), name)
	}
	require.Len(t, found(t, l, audit.Search{Tenant: "clinic"}), 703)
}

func TestSearchEndsWithItsReader(t *testing.T) {
	l := searched(t)
	n := 0
	for range l.Search(t.Context(), audit.Search{}) {
		if n++; n == 3 {
			break
		}
	}
	require.Equal(t, 3, n)
}

func last(t testing.TB, ctx context.Context, l *audit.Log, s audit.Search) (err error) {
	t.Helper()
	for _, err = range l.Search(ctx, s) {
	}
	return err
}

func TestSearchErrors(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	emitFast(t, l, 0, 300)
	require.NoError(t, l.Publish(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, last(t, ctx, l, audit.Search{}), context.Canceled)
	require.ErrorContains(t, last(t, t.Context(), l, audit.Search{Limit: -1}), "negative")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tile", "entries", "000"), []byte("damage"), 0o600))
	require.ErrorIs(t, last(t, t.Context(), l, audit.Search{}), audit.ErrCorrupt)
	_, err := l.Evidence(t.Context(), "p")
	require.ErrorIs(t, err, audit.ErrCorrupt)
}

// An officer asks what happened to one parcel last.
func ExampleLog_Search() {
	ctx := context.Background()
	log, done := exampleLog(ctx)
	defer done()
	by := securemail.Actor{ID: "mailer", Kind: "part"}
	for i, kind := range []securemail.State{securemail.StateAccepted, securemail.StateDelivered} {
		_ = log.Emit(ctx, securemail.Event{ID: fmt.Sprint("ev", i), Kind: string(kind), By: by, Status: securemail.Status{
			Slip: securemail.Slip{ID: "p1", Actor: by}, State: kind,
		}})
	}
	for e, err := range log.Search(ctx, audit.Search{Parcel: "p1", Newest: true, Limit: 1}) {
		fmt.Println(e.Kind, err)
	}
	// Output: delivered <nil>
}
