//go:build interop

package dkim_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// dkimpy verifies each signature of a message with the Python library of that name; it answers one word a signature.
const dkimpy = `
import json, sys, dkim
job = json.load(sys.stdin)
records = {k.encode(): v.encode() for k, v in job["records"].items()}
lookup = lambda name, timeout=5: records.get((name if isinstance(name, bytes) else name.encode()).rstrip(b"."))
message = job["message"].encode("latin-1")
for i in range(job["signatures"]):
    try:
        print("pass" if dkim.DKIM(message).verify(idx=i, dnsfunc=lookup) else "fail")
    except dkim.ValidationError:
        print("fail")
`

// TestDkimpyVerifiesOurs: the samples, signed with RSA and Ed25519, verify elsewhere, and fail there when changed.
func TestDkimpyVerifiesOurs(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which has the packages python3-dkim and python3-nacl
	if err := exec.Command(python, "-c", "import dkim, nacl").Run(); err != nil {
		t.Skip("SKIPPED: no dkimpy on this machine; apt-get install python3-dkim python3-nacl")
	}
	keys := pair(t)
	s := signer(t, keys, nil)
	records := map[string]string{}
	for _, k := range keys {
		records[k.RecordName()] = k.Record().String()
	}
	ask := func(t *testing.T, msg string) []string {
		var latin strings.Builder // JSON holds characters: an octet each
		for _, c := range []byte(msg) {
			latin.WriteRune(rune(c))
		}
		in, err := json.Marshal(map[string]any{"records": records, "message": latin.String(), "signatures": len(keys)})
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), python, "-c", dkimpy)
		var stderr bytes.Buffer
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		return strings.Fields(string(out))
	}
	for name, msg := range samples(t) {
		t.Run(name, func(t *testing.T) {
			head, err := s.Sign(t.Context(), "example.org", strings.NewReader(msg))
			require.NoError(t, err)
			require.Equal(t, []string{"pass", "pass"}, ask(t, string(head)+msg))
			require.Equal(t, []string{"fail", "fail"}, ask(t, string(head)+msg+"more\r\n"))
			require.Equal(t, []string{"fail", "fail"}, ask(t, string(head)+"Subject: another\r\n"+msg))
		})
	}
}
