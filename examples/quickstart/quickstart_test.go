package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail/audit"
)

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out, false, ""), out.String())
	require.Contains(t, out.String(), "shows the patient's name")
}

// TestQuickstartOut: there is a bundle a recipient, and each proves with the key beside it.
func TestQuickstartOut(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	require.NoError(t, run(context.Background(), &out, true, dir), out.String())
	key, err := os.ReadFile(filepath.Join(dir, "log.pub"))
	require.NoError(t, err)
	verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
	require.NoError(t, err)
	bundles, err := filepath.Glob(filepath.Join(dir, "evidence", "*.json"))
	require.NoError(t, err)
	require.Len(t, bundles, len(people()))
	for _, f := range bundles {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		e, err := audit.VerifyEvidence(b, verifier)
		require.NoError(t, err)
		require.Equal(t, e.Parcel+".json", filepath.Base(f))
		require.NotContains(t, string(b), patient)
	}
}

func TestQuickstartJSON(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out, true, ""), out.String())
	var n int
	for s := bufio.NewScanner(&out); s.Scan(); n++ {
		var r row
		require.NoError(t, json.Unmarshal(s.Bytes(), &r))
		require.True(t, r.OK, r.Recipient)
	}
	require.Len(t, people(), n)
}
