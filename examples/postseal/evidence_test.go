package main

import (
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// evidenceRig is a store's log with one parcel in it.
func evidenceRig(t *testing.T) (store string) {
	t.Helper()
	store = filepath.Join(t.TempDir(), "mail.db")
	l, err := audit.Open(t.Context(), store+".audit", nil)
	require.NoError(t, err)
	by := securemail.Actor{ID: "host", Kind: "service"}
	require.NoError(t, l.Emit(t.Context(), securemail.Event{ID: "e1", Kind: "bounced", By: by, Status: securemail.Status{
		Slip: securemail.Slip{ID: "p1", Actor: by}, State: securemail.StateBounced, Failure: "no such mailbox",
	}}))
	require.NoError(t, l.Close())
	return store
}

// pemFile holds a certificate.
func pemFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tsa.pem")
	cert := smtppeer.SelfSigned("tsa.test").Certificate[0]
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	return file
}

func TestEvidence(t *testing.T) {
	store := evidenceRig(t)
	code, bundle, e := call(t, "", "evidence", "p1", "-store", store)
	require.Zero(t, code, e)
	code, key, e := call(t, "", "evidence", "-store", store, "-public-key")
	require.Zero(t, code, e)
	file := filepath.Join(t.TempDir(), "log.pub")
	require.NoError(t, os.WriteFile(file, []byte(key), 0o600))

	for _, k := range []string{key, file} {
		code, out, e := call(t, bundle, "verify-evidence", "-key", k)
		require.Zero(t, code, e)
		require.Contains(t, out, "OK: 1 entries about parcel p1")
		require.Contains(t, out, "Failure: no such mailbox.")
	}
	code, out, _ := call(t, bundle, "verify-evidence", "-json", "-key", file)
	require.Zero(t, code)
	var got struct {
		OK        bool
		Parcel    string
		Statement []string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.True(t, got.OK)
	require.Equal(t, "p1", got.Parcel)
	require.NotEmpty(t, got.Statement)
}

func TestEvidenceFailsInOneLine(t *testing.T) {
	store := evidenceRig(t)
	_, bundle, _ := call(t, "", "evidence", "p1", "-store", store)
	_, key, _ := call(t, "", "evidence", "-store", store, "-public-key")
	for name, c := range map[string]struct {
		in   string
		args []string
		code int
		says string
	}{
		"unknown parcel": {"", []string{"evidence", "p2", "-store", store}, 1, "not in the log"},
		"no log":         {"", []string{"evidence", "p1", "-store", store + "2"}, 1, "no audit log"},
		"no store":       {"", []string{"evidence", "p1"}, 2, "-store"},
		"both":           {"", []string{"evidence", "p1", "-public-key", "-store", store}, 2, "-public-key"},
		"changed":        {strings.Replace(bundle, "mailbox", "mailboy", 1), []string{"verify-evidence", "-key", key}, 1, "does not hold"},
		"nothing":        {"", []string{"verify-evidence", "-key", key}, 1, "does not hold"},
		"no key":         {bundle, []string{"verify-evidence"}, 2, "-key"},
		"no stamp":       {bundle, []string{"verify-evidence", "-key", key, "-tsa", pemFile(t)}, 1, "no time stamp"},
		"no authorities": {bundle, []string{"verify-evidence", "-key", key, "-tsa", store}, 1, "-tsa"},
		"key elsewhere":  {bundle, []string{"verify-evidence", "-key", store + ".pub"}, 1, "neither a public key nor a file"},
		"no key in it":   {bundle, []string{"verify-evidence", "-key", store + ".audit.key"}, 1, "does not hold a log's public key"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, e := call(t, c.in, c.args...)
			require.Equal(t, c.code, code, e)
			require.Empty(t, out)
			require.Contains(t, e, c.says)
			require.Equal(t, 1, strings.Count(e, "\n"))
			require.NotContains(t, e, t.TempDir())
		})
	}
}
