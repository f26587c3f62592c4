package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBackupRestoreDeclareSend(t *testing.T) {
	store, held := heldStore(t)
	dir := t.TempDir()
	copied, shares, back := filepath.Join(dir, "copy"), filepath.Join(dir, "shares"), filepath.Join(dir, "back.db")
	code, out, errOut := call(t, "", "backup", "-store", store, "-out", copied, "-custodians", "2/3", "-shares", shares)
	require.Zero(t, code, errOut)
	require.Contains(t, out, "3 shares written, 2 needed")
	require.Contains(t, out, ": 2 parcels, ")
	b, err := os.ReadFile(copied)
	require.NoError(t, err)
	for _, secret := range []string{"anna", "ben@", "Clinic", "Hello", "Good morning"} {
		require.NotContains(t, string(b), secret)
	}
	code, out, errOut = call(t, "", "backup", "-verify", copied, "-store", store)
	require.Zero(t, code, errOut)
	require.Contains(t, out, "proved: backup ")

	one, two := filepath.Join(shares, "share-1-of-3.txt"), filepath.Join(shares, "share-3-of-3.txt")
	code, _, errOut = call(t, "", "restore", "-store", back, "-from", copied, "-share", one)
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "1 shares given, 2 needed")
	code, out, errOut = call(t, "", "restore", "-store", back, "-from", copied, "-share", one, "-share", two)
	require.Zero(t, code, errOut)
	require.Contains(t, out, "no mail leaves before it is declared")
	code, _, errOut = call(t, "", "restore", "-store", back, "-from", copied, "-share", one, "-share", two)
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "there is something already")

	w := newWorld(t)
	code, _, errOut = call(t, mail, append([]string{"send", "-store", back, "-to", "cid@x.test"}, w.flags...)...)
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "declare the restore")
	require.Empty(t, w.tls.Attempts())

	code, out, errOut = call(t, "", "restore", "-declare", "-store", back, "-reason", "disk broke", "-as", "op.jones")
	require.Zero(t, code, errOut)
	require.Contains(t, out, "UNCERTAIN\t"+held)
	code, _, errOut = call(t, mail, append([]string{"send", "-store", back, "-to", "dan@x.test"}, w.flags...)...)
	require.Zero(t, code, errOut)
	code, out, _ = call(t, "", "queue", "list", "-store", back, held)
	require.Zero(t, code)
	require.Contains(t, out, "\tuncertain\t")
	code, _, errOut = call(t, "", "restore", "-declare", "-store", back, "-reason", "again")
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "nothing to declare")
}

func TestDrill(t *testing.T) {
	store, _ := heldStore(t)
	for _, verb := range []string{"backup", "restore"} {
		code, out, errOut := call(t, "", verb, "-drill", "-store", store)
		require.Zero(t, code, errOut)
		require.Contains(t, out, "opened 2 parcels, 1 of them open, 1 bodies")
		require.NotContains(t, out, "FINDING")
	}
}

func TestRecoveryCalledWrongly(t *testing.T) {
	store, _ := heldStore(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "there"), []byte("x"), 0o600))
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no store":        {[]string{"backup", "-out", "x"}, 2, "-store is required"},
		"nothing to do":   {[]string{"backup", "-store", store}, 2, "-out, -verify"},
		"shares nowhere":  {[]string{"backup", "-store", store, "-custodians", "2/3"}, 2, "go together"},
		"bad custodians":  {[]string{"backup", "-store", store, "-custodians", "3/2", "-shares", filepath.Join(dir, "s")}, 2, "M/N"},
		"argument":        {[]string{"backup", "-store", store, "x"}, 2, "flags only"},
		"file is there":   {[]string{"backup", "-store", store, "-out", filepath.Join(dir, "there")}, 1, "must not exist"},
		"no such store":   {[]string{"backup", "-store", filepath.Join(dir, "none"), "-out", "x"}, 1, "no store"},
		"no backup":       {[]string{"backup", "-verify", filepath.Join(dir, "there"), "-store", store}, 1, "damaged, or no backup"},
		"verify what":     {[]string{"backup", "-verify", filepath.Join(dir, "there")}, 2, "which root key"},
		"missing backup":  {[]string{"backup", "-verify", filepath.Join(dir, "none"), "-store", store}, 1, "can't be read"},
		"restore nothing": {[]string{"restore", "-store", store}, 2, "-from, -declare"},
		"restore nowhere": {[]string{"restore", "-from", "x"}, 2, "-store is required"},
		"no reason":       {[]string{"restore", "-store", store, "-declare"}, 2, "needs a -reason"},
		"no root":         {[]string{"restore", "-store", filepath.Join(dir, "new"), "-from", filepath.Join(dir, "there")}, 1, "key file does not lie"},
		"two roots":       {[]string{"restore", "-store", filepath.Join(dir, "new"), "-from", "x", "-root", "a", "-share", filepath.Join(dir, "there")}, 2, "exclude"},
		"no share":        {[]string{"restore", "-store", filepath.Join(dir, "new"), "-from", "x", "-share", filepath.Join(dir, "none")}, 1, "share's file"},
		"bad share":       {[]string{"restore", "-store", filepath.Join(dir, "new"), "-from", filepath.Join(dir, "there"), "-share", filepath.Join(dir, "there")}, 1, "checksum"},
		"not restored":    {[]string{"restore", "-store", store, "-declare", "-reason", "x"}, 1, "nothing to declare"},
		"declare nothing": {[]string{"restore", "-store", filepath.Join(dir, "none"), "-declare", "-reason", "x"}, 1, "no store"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := call(t, "", c.args...)
			require.Equal(t, c.code, code, errOut)
			require.Contains(t, errOut, c.text)
			require.Equal(t, 1, strings.Count(errOut, "\n"), errOut)
			require.Empty(t, out)
		})
	}
	require.NoFileExists(t, filepath.Join(dir, "none"))
	require.NoDirExists(t, filepath.Join(dir, "new.restoring"))
}
