package main

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

// heldStore is a store in which one parcel waits for a person and one was delivered; their lines.
func heldStore(t *testing.T) (store, held string) {
	t.Helper()
	w := newWorld(t)
	store = filepath.Join(t.TempDir(), "mail.db")
	code, _, errOut := call(t, mail, append([]string{"send", "-store", store, "-to", "ben@x.test"}, w.flags...)...)
	require.Zero(t, code, errOut)
	code, _, _ = call(t, mail, append([]string{"send", "-store", store, "-to", "anna@x.test"}, w.clearFlags...)...)
	require.Equal(t, 1, code)
	code, out, errOut := call(t, "", "queue", "list", "-store", store, "-state", "held,uncertain")
	require.Zero(t, code, errOut)
	require.Equal(t, 1, strings.Count(out, "\n"), out)
	held, _, _ = strings.Cut(out, "\t")
	return store, held
}

func TestQueueListNamesNobody(t *testing.T) {
	store, held := heldStore(t)
	code, out, errOut := call(t, "", "queue", "list", "-store", store)
	require.Zero(t, code, errOut)
	require.Equal(t, 2, strings.Count(out, "\n"))
	require.Contains(t, out, held+"\theld\t1\t-\ttreatment\t-\t")
	require.Contains(t, out, "\tdelivered\t1\t-\t")
	code, shown, errOut := call(t, "", "queue", "show", "-store", store, held)
	require.Zero(t, code, errOut)
	require.Contains(t, shown, held+"\theld\n")
	require.Contains(t, shown, "accepted by service host")
	require.Contains(t, shown, "held by part mailer decided by")
	_, asJSON, _ := call(t, "", "queue", "show", "-store", store, "-json", held)
	for _, text := range []string{out, shown, asJSON} {
		for _, secret := range []string{"anna", "ben@", "Clinic", "clinic@", "Hello", "Good morning"} {
			require.NotContains(t, text, secret)
		}
	}
	code, out, _ = call(t, "", "queue", "list", "-store", store, "-json", "-limit", "1")
	require.Zero(t, code)
	var st map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &st))
	require.NotEmpty(t, st["parcel"])
	require.NotEmpty(t, st["state"])
}

func TestQueueOrdersAreEventsByTheOperator(t *testing.T) {
	store, held := heldStore(t)
	for _, c := range []struct{ verb, state string }{{"release", "accepted"}, {"hold", "held"}, {"retry", "deferred"}, {"cancel", "cancelled"}} {
		code, out, errOut := call(t, "", "queue", c.verb, "-store", store, "-as", "op.jones", held)
		require.Zero(t, code, errOut)
		require.True(t, strings.HasPrefix(out, held+"\t"+c.state+"\t"), out)
	}
	code, out, errOut := call(t, "", "queue", "show", "-store", store, held)
	require.Zero(t, code, errOut)
	for _, want := range []string{"accepted by operator op.jones order=release", "cancelled by operator op.jones order=cancel"} {
		require.Contains(t, out, want)
	}
	code, out, errOut = call(t, "", "queue", "release", "-store", store, held)
	require.Equal(t, 1, code)
	require.Empty(t, out)
	require.Equal(t, "postseal: nothing was changed: one of the parcels has ended, or is leaving right now\n", errOut)
}

// Another process may have the store open, with its audit log; orders still work, and reach that log.
func TestQueueWorksWhileTheStoreIsOpen(t *testing.T) {
	store, held := heldStore(t)
	sys, err := preset.Open(t.Context(), store, &preset.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, sys.Close()) }()
	code, _, errOut := call(t, "", "queue", "cancel", "-store", store, held)
	require.Zero(t, code, errOut)
	for st, err := range sys.Find(t.Context(), securemail.Query{IDs: []securemail.ParcelID{securemail.ParcelID(held)}}) {
		require.NoError(t, err)
		require.Equal(t, securemail.StateCancelled, st.State)
	}
}

func TestQueueCalledWrongly(t *testing.T) {
	store, held := heldStore(t)
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no verb":       {[]string{"queue"}, 2, "list, show"},
		"other verb":    {[]string{"queue", "drop", "-store", store, held}, 2, "list, show"},
		"no store":      {[]string{"queue", "list"}, 2, "-store is required"},
		"no parcels":    {[]string{"queue", "cancel", "-store", store}, 2, "which parcels?"},
		"bad state":     {[]string{"queue", "list", "-store", store, "-state", "lost"}, 2, "no such state"},
		"bad label":     {[]string{"queue", "list", "-store", store, "-label", "x"}, 2, "name=value"},
		"bad limit":     {[]string{"queue", "list", "-store", store, "-limit", "-1"}, 2, "negative"},
		"missing store": {[]string{"queue", "list", "-store", store + "x"}, 1, "no store there"},
		"unknown id":    {[]string{"queue", "cancel", "-store", store, held, "abc"}, 1, "no parcel abc"},
		"listed id":     {[]string{"queue", "list", "-store", store, "abc"}, 1, "1 of 1 parcels not found"},
		"other tenant":  {[]string{"queue", "show", "-store", store, "-tenant", "t", held}, 1, "in this tenant"},
		"none fits":     {[]string{"queue", "hold", "-store", store, "-label", "a=b"}, 1, "no parcel fits"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := call(t, "", c.args...)
			require.Equal(t, c.code, code)
			require.Contains(t, errOut, c.text)
			require.Equal(t, 1, strings.Count(errOut, "\n"), errOut)
			require.Empty(t, out)
		})
	}
	require.NoFileExists(t, store+"x")
}
