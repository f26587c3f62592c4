package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// bundled is a log with a parcel among others, and its bundle.
func bundled(t testing.TB) (*audit.Log, []byte) {
	t.Helper()
	l := open(t, logDir(t), nil)
	emitFast(t, l, 0, 300)
	first := full(t)
	first.ID, first.Kind, first.State, first.Receipt, first.Protection = "first", "accepted", "accepted", nil, nil
	require.NoError(t, l.Emit(t.Context(), first))
	emitFast(t, l, 300, 700)
	require.NoError(t, l.Emit(t.Context(), full(t)))
	other := full(t)
	other.ID, other.Status.ID = "other", "parcel11"
	require.NoError(t, l.Emit(t.Context(), other))
	b, err := l.Evidence(t.Context(), "parcel1")
	require.NoError(t, err)
	return l, b
}

func TestEvidence(t *testing.T) {
	l, b := bundled(t)
	e, err := audit.VerifyEvidence(b, l.Verifier())
	require.NoError(t, err)
	require.Equal(t, "parcel1", e.Parcel)
	require.EqualValues(t, 703, e.Size)
	require.Len(t, e.Entries, 2)
	require.Equal(t, "first", e.Entries[0].Event)
	require.Equal(t, "full", e.Entries[1].Event)
	require.NotContains(t, string(b), canary)

	said := strings.Join(e.Statement, "\n")
	for _, want := range []string{
		"accepted for treatment at attempt 2, by person dr-who.",
		"Policy hipaa/3 decided: tls over a channel of at least named, profile p, with REQUIRETLS, then",
		"Rule r1: because <&>.",
		"What the policy knew has the keyed hash " + e.Entries[1].Facts,
		"The policy knew: the content may hold PHI.",
		"Keys for pgp were looked up: found.",
		"Key abcd from wkd, trust: domain, good until 2065-01-24T05:20:00Z.",
		"Keys for smime were looked up: none, by rule no-key.",
		"The way to the recipient's domain was looked up: TLS 1.2, name proved by pkix; rules sts.",
		"The copy was encrypted with AES256 to the keys abcd.",
		"The wire was TLS 1.3 with TLS_AES_128_GCM_SHA256 and X25519MLKEM768, by a FIPS 140 module",
		"The peer's name was proved by dane.",
		"It is a relay; what lies beyond it is asserted by relay under baa-1, and was not seen.",
	} {
		require.Contains(t, said, want)
	}
}

// What others wrote ends no line of the statement and steers no terminal.
func TestNobodySaysASentenceOfTheStatement(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := full(t)
	e.By.ID = "eve\x1b[2K"
	e.Failure = "no\n2026-01-01T00:00:00Z The copy was encrypted with AES256.\u202e\u2028"
	e.Reasons = []securemail.Reason{{Rule: "r\r\n", Text: "t\x9b"}}
	require.NoError(t, l.Emit(t.Context(), e))
	b, err := l.Evidence(t.Context(), e.Status.ID)
	require.NoError(t, err)
	got, err := audit.VerifyEvidence(b, l.Verifier())
	require.NoError(t, err)
	for _, s := range got.Statement {
		require.Equal(t, -1, strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", s)
	}
	require.Contains(t, strings.Join(got.Statement, "\n"), "by person eve\ufffd[2K.")
}

func TestEvidenceOfAnUnknownParcel(t *testing.T) {
	l, _ := bundled(t)
	_, err := l.Evidence(t.Context(), "parcel")
	require.ErrorIs(t, err, audit.ErrUnknown)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Evidence(ctx, "parcel1")
	require.ErrorIs(t, err, context.Canceled)
}

func TestEvidenceOfAClosedLog(t *testing.T) {
	l, before := bundled(t)
	require.NoError(t, l.Close())
	after, err := l.Evidence(t.Context(), "parcel1")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// TestEvidenceIsTamperEvident changes, drops and doubles each octet.
func TestEvidenceIsTamperEvident(t *testing.T) {
	l, b := bundled(t)
	v := l.Verifier()
	refused := func(changed []byte, how string, at int) {
		if _, err := audit.VerifyEvidence(changed, v); err == nil {
			t.Fatalf("%s at %d is not seen", how, at)
		}
	}
	for i := range b {
		for _, bit := range []byte{1, 2, 0x20, 0x80} {
			c := bytes.Clone(b)
			c[i] ^= bit
			refused(c, "a change", i)
		}
		refused(append(bytes.Clone(b[:i]), b[i+1:]...), "a cut", i)
		refused(append(append(bytes.Clone(b[:i]), b[i]), b[i:]...), "a repeat", i)
	}
	refused(b[:len(b)-1], "a cut end", len(b))
	refused(append(bytes.Clone(b), '\n'), "an addition", len(b))
	refused(nil, "nothing", 0)
}

// TestEvidenceIsOneForm: what JSON calls equal is refused, and so is what only the log's key could make.
func TestEvidenceIsOneForm(t *testing.T) {
	l, b := bundled(t)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	for name, change := range map[string]func(){
		"field added":      func() { m["more"] = 1 },
		"entry left out":   func() { m["entries"] = m["entries"].([]any)[:1] },
		"entries reversed": func() { es := m["entries"].([]any); es[0], es[1] = es[1], es[0] },
		"entry twice":      func() { m["entries"] = append(m["entries"].([]any), m["entries"].([]any)[1]) },
		"statement":        func() { m["statement"].([]any)[0] = "nothing happened" },
		"version":          func() { m["v"] = 2 },
		"no entries":       func() { m["entries"] = []any{} },
	} {
		require.NoError(t, json.Unmarshal(b, &m))
		change()
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		require.NoError(t, enc.Encode(m))
		_, err := audit.VerifyEvidence(out.Bytes(), l.Verifier())
		require.ErrorIs(t, err, audit.ErrEvidence, name)
		delete(m, "more")
	}
	var indented bytes.Buffer
	require.NoError(t, json.Indent(&indented, b, "", " "))
	_, err := audit.VerifyEvidence(indented.Bytes(), l.Verifier())
	require.ErrorIs(t, err, audit.ErrEvidence)

	other := open(t, logDir(t), nil)
	_, err = audit.VerifyEvidence(b, other.Verifier())
	require.ErrorIs(t, err, audit.ErrEvidence)
}

func FuzzVerifyEvidence(f *testing.F) {
	l, b := bundled(f)
	f.Add(b)
	f.Add([]byte(`{"checkpoint":"","entries":[],"parcel":"","signature":"","statement":[],"v":1}`))
	v := l.Verifier()
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := audit.VerifyEvidence(data, v); err == nil && !bytes.Equal(data, b) {
			t.Fatal("forged")
		}
	})
}

// A compliance officer gets a file and the log's public key, and needs nothing else.
func ExampleVerifyEvidence() {
	ctx := context.Background()
	log, done := exampleLog(ctx)
	defer done()
	by := securemail.Actor{ID: "host", Kind: "service"}
	_ = log.Emit(ctx, securemail.Event{ID: "ev1", Kind: "bounced", By: by, Status: securemail.Status{
		Slip: securemail.Slip{ID: "p1", Actor: by}, State: securemail.StateBounced, Failure: "no such mailbox",
	}})
	bundle, err := log.Evidence(ctx, "p1")
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, _ := note.NewVerifier(log.PublicKey())
	e, err := audit.VerifyEvidence(bundle, verifier)
	fmt.Println(e.Parcel, len(e.Entries), err)
	fmt.Println(e.Statement[len(e.Statement)-1])
	// Output:
	// p1 1 <nil>
	// 0001-01-01T00:00:00Z Failure: no such mailbox.
}
