package audit_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_CHILD"); dir != "" {
		child(dir)
		return
	}
	_ = flag.Set("rapid.checks", "40") // -rapid.checks=N asks for more
	goleak.VerifyTestMain(m)
}

func logDir(t testing.TB) string { return filepath.Join(t.TempDir(), "log") }

func open(t testing.TB, dir string, o *audit.Options) *audit.Log {
	t.Helper()
	l, err := audit.Open(t.Context(), dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func event(id string) securemail.Event {
	return securemail.Event{ID: id, Kind: "accepted", Time: time.Unix(1e9, 0), By: securemail.Actor{Tenant: "clinic", ID: "mailer", Kind: "part"}}
}

func emit(t testing.TB, l *audit.Log, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, l.Emit(context.Background(), event(fmt.Sprint("e", i))))
	}
}

// emitFast fills a log with many producers.
func emitFast(t testing.TB, l *audit.Log, from, to int) {
	t.Helper()
	var wg sync.WaitGroup
	const producers = 128
	for p := range producers {
		wg.Go(func() {
			for i := from + p; i < to; i += producers {
				if err := l.Emit(context.Background(), event(fmt.Sprint("e", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestProveAndVerify(t *testing.T) {
	l := open(t, logDir(t), nil)
	emit(t, l, 0, 5)
	verifier, err := note.NewVerifier(l.PublicKey())
	require.NoError(t, err)
	for i := range 5 {
		p, err := l.Prove(t.Context(), fmt.Sprint("e", i))
		require.NoError(t, err)
		e, err := audit.Verify(p, verifier)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("e", i), e.Event)
		require.Equal(t, "clinic", e.By.Tenant)
		require.Equal(t, time.Unix(1e9, 0).UTC(), e.Time)
	}
	_, err = l.Prove(t.Context(), "e5")
	require.ErrorIs(t, err, audit.ErrUnknown)
	require.NoError(t, l.Check(t.Context()))
	require.ErrorContains(t, l.Emit(t.Context(), securemail.Event{}), "without id")
}

func TestEmitIsIdempotent(t *testing.T) {
	t.Parallel()
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Hour})
	count := func() string { return strings.Split(string(l.Checkpoint()), "\n")[1] }
	for range 3 {
		emit(t, l, 0, 300)
	}
	require.NoError(t, l.Publish(t.Context()))
	require.Equal(t, "300", count())
	emit(t, l, 0, 300)
	require.NoError(t, l.Close())
	l = open(t, dir, nil)
	emit(t, l, 0, 300)
	require.NoError(t, l.Publish(t.Context()))
	require.Equal(t, "300", count())
	require.NoError(t, os.Remove(filepath.Join(dir, "index")))
	require.NoError(t, l.Close())
	l = open(t, dir, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { emitFast(t, l, 250, 310) })
	}
	wg.Wait()
	require.NoError(t, l.Publish(t.Context()))
	require.Equal(t, "310", count(), "also where the index was made anew")
	long := strings.Repeat("x", 300)
	for range 2 {
		require.NoError(t, l.Emit(t.Context(), event(long)))
	}
	_, err := l.Prove(t.Context(), long)
	require.NoError(t, err)
	require.Equal(t, "311", count())
}

func TestManyProducersAcrossTiles(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Millisecond})
	const n = 1500
	emitFast(t, l, 0, n)
	require.NoError(t, l.Check(t.Context()))
	for _, i := range []int{0, 1, 255, 256, 257, 1023, n - 1} {
		p, err := l.Prove(t.Context(), fmt.Sprint("e", i))
		require.NoError(t, err)
		_, err = audit.Verify(p, l.Verifier())
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	l = open(t, dir, nil)
	require.NoError(t, l.Check(t.Context()))
	emitFast(t, l, n, n+600)
	require.NoError(t, l.Check(t.Context()))
	_, err := l.Prove(t.Context(), "e3")
	require.NoError(t, err)
	require.NoError(t, l.Publish(t.Context()))
	require.NoError(t, l.Check(t.Context()))
	require.FileExists(t, filepath.Join(dir, "tile", "0", "007"))
	require.FileExists(t, filepath.Join(dir, "tile", "entries", "007"))
	require.NoDirExists(t, filepath.Join(dir, "tile", "0", "007.p"), "full, so the partial ones are gone")
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	_, err := audit.Open(t.Context(), dir, nil)
	require.ErrorIs(t, err, audit.ErrLocked)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	open(t, dir, nil)
}

func TestClosed(t *testing.T) {
	l := open(t, logDir(t), nil)
	emit(t, l, 0, 1)
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Emit(t.Context(), event("x")), audit.ErrClosed)
	require.ErrorIs(t, l.Publish(t.Context()), audit.ErrClosed)
	require.ErrorIs(t, l.Check(t.Context()), audit.ErrClosed)
	_, err := l.Prove(t.Context(), "e0")
	require.NoError(t, err, "what a checkpoint covers can still be proved")
}

func TestIntervalAndRun(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := open(t, logDir(t), &audit.Options{Now: func() time.Time { return now }, Interval: time.Hour})
	size := func() string { return strings.Split(string(l.Checkpoint()), "\n")[1] }
	emit(t, l, 0, 1)
	require.Equal(t, "1", size())
	emit(t, l, 1, 3)
	require.Equal(t, "1", size(), "within the interval")
	now = now.Add(time.Hour)
	emit(t, l, 3, 4)
	require.Equal(t, "4", size())

	r := open(t, logDir(t), &audit.Options{Interval: 5 * time.Millisecond, Now: func() time.Time { return now }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	emit(t, r, 0, 3)
	require.Eventually(t, func() bool { return strings.Contains(string(r.Checkpoint()), "\n3\n") }, 20*time.Second, time.Millisecond)
	emit(t, r, 3, 4)
	cancel()
	require.NoError(t, <-done)
	require.Contains(t, string(r.Checkpoint()), "\n4\n", "Run drains")
	require.NoError(t, r.Close())
	require.ErrorIs(t, r.Run(t.Context()), audit.ErrClosed)
}

func TestExtends(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	old := [][]byte{l.Checkpoint()}
	for i := range 4 {
		emitFast(t, l, i*200, (i+1)*200)
		require.NoError(t, l.Publish(t.Context()))
		old = append(old, l.Checkpoint())
	}
	for _, cp := range old {
		require.NoError(t, l.Extends(t.Context(), cp))
	}
	other := open(t, logDir(t), &audit.Options{KeyFile: dir + ".key", Seen: dir + ".other"})
	emit(t, other, 5, 15)
	require.NoError(t, other.Publish(t.Context()))
	require.ErrorIs(t, l.Extends(t.Context(), other.Checkpoint()), audit.ErrRollback, "a fork, signed with the same key")
	require.ErrorIs(t, other.Extends(t.Context(), l.Checkpoint()), audit.ErrRollback, "shorter")
	stranger := open(t, logDir(t), nil)
	require.ErrorIs(t, l.Extends(t.Context(), stranger.Checkpoint()), audit.ErrCorrupt)
}

func TestOptions(t *testing.T) {
	dir := logDir(t)
	private, public, err := note.GenerateKey(nil2{}, "example.org/log")
	require.NoError(t, err)
	signer, err := note.NewSigner(private)
	require.NoError(t, err)
	for name, o := range map[string]*audit.Options{
		"interval": {Interval: -1}, "short pseudonym key": {PseudonymKey: []byte("x")}, "signer alone": {Signer: signer},
		"no pseudonym key": {Signer: signer, VerifierKey: public}, "malformed": {Signer: signer, VerifierKey: "x", PseudonymKey: seal.NewKey()},
		"no signer": {VerifierKey: public}, "origin": {Origin: "a b"},
	} {
		l, err := audit.Open(t.Context(), dir, o)
		require.Error(t, err, name)
		require.Nil(t, l)
	}
	_, wrong, err := note.GenerateKey(nil2{}, "example.org/log")
	require.NoError(t, err)
	key := seal.NewKey()
	_, err = audit.Open(t.Context(), dir, &audit.Options{Signer: signer, VerifierKey: wrong, PseudonymKey: key})
	require.ErrorContains(t, err, "not the Signer's")
	l := open(t, dir, &audit.Options{Signer: signer, VerifierKey: public, PseudonymKey: key})
	emit(t, l, 0, 3)
	p, err := l.Prove(t.Context(), "e1")
	require.NoError(t, err)
	require.Contains(t, string(p), "\n\nexample.org/log\n3\n")
	require.NoFileExists(t, dir+".key")

	named := open(t, logDir(t), &audit.Options{Origin: "example.com/mail", PseudonymKey: key})
	require.Equal(t, "example.com/mail", named.Verifier().Name())
	require.Equal(t, l.Pseudonym("address", "t", "a@b"), named.Pseudonym("address", "t", "a@b"))
}

// nil2 is a source of randomness for keys of tests.
type nil2 struct{}

func (nil2) Read(p []byte) (int, error) { return copy(p, seal.NewKey()), nil }

func TestKeyFile(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	emit(t, l, 0, 3)
	require.NoError(t, l.Close())
	path := dir + ".key"
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), fi.Mode().Perm())
	require.NoError(t, os.Chmod(path, 0o640))
	_, err = audit.Open(t.Context(), dir, nil)
	require.ErrorIs(t, err, audit.ErrExposed)
	require.NoError(t, os.Chmod(path, 0o600))
	_, err = audit.Open(t.Context(), dir, &audit.Options{Origin: "other"})
	require.ErrorContains(t, err, "another origin")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err = audit.Open(t.Context(), dir, nil)
		require.ErrorIs(t, err, audit.ErrCorrupt, i)
	}
	require.NoError(t, os.Remove(path))
	_, err = audit.Open(t.Context(), dir, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "restore it")
	require.NoFileExists(t, path, "a lost key is never made anew")
}

const canary = "CANARY-anna-schmidt"

// full is an event in which everything is set, with a canary wherever a person can be named.
func full(t testing.TB) securemail.Event {
	addr, err := securemail.ParseAddress(canary + "@example.org")
	require.NoError(t, err)
	person := securemail.Contact{Name: canary, Address: addr, Ref: canary, Attrs: map[string]string{"x": canary}}
	actor := securemail.Actor{
		Tenant: "clinic", ID: "dr-who", Kind: "person", Roles: []string{"admin"}, Purpose: "treatment",
		Auth:   securemail.Auth{Method: "passkey", Session: canary, PhishingResistant: true, At: time.Unix(1e9, 0)},
		Origin: securemail.Origin{Device: "d", Posture: "managed", Network: "lan", Place: "ward"},
	}
	slip := securemail.Slip{
		ID: "parcel1", Submission: "sub1", Actor: actor, From: person, Recipient: person, ReturnPath: addr,
		Subjects: []securemail.Subject{canary}, Purpose: securemail.PurposeTreatment, Labels: map[string]string{"case": canary},
		Submitted: time.Unix(1e9, 0),
	}
	choice := securemail.Choice{Method: securemail.MethodTLS, Channel: securemail.ChannelNamed, Profile: "p", RequireTLS: true}
	reasons := []securemail.Reason{{Rule: "r1", Text: "because <&>"}}
	return securemail.Event{
		ID: "full", Seq: 7, Kind: "delivered", Time: time.Unix(1e9, 5), By: actor,
		Status: securemail.Status{
			Slip: slip, State: securemail.StateDelivered, Attempt: 2, Choice: choice, Policy: "hipaa/3", Reasons: reasons,
			Protection: &securemail.Protection{Algorithm: "AES256", Keys: []string{"abcd"}, Detail: map[string]string{"a": "b"}},
			Receipt: &securemail.Receipt{
				Wire: securemail.Wire{
					TLS:   &securemail.TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256, Group: tls.X25519MLKEM768, FIPS: true},
					Proof: securemail.ProofDANE, Hop: securemail.HopAsserted, Reasons: reasons,
					Operator: &securemail.Operator{Name: "relay", Agreement: "baa-1", Until: time.Unix(2e9, 0), Uses: []string{"treatment"}, Regions: []string{"eu"}},
				},
				Time: time.Unix(1e9, 6), Peer: canary + ".example.org", RemoteID: canary,
			},
			Failure: "none", Next: time.Unix(1e9, 7), Changed: time.Unix(1e9, 8), Read: time.Unix(1e9, 9),
		},
		Facts: &securemail.Facts{
			Slip: slip, Attempt: 2, Now: time.Unix(1e9, 0),
			Keys: map[securemail.Method]securemail.KeyFact{
				"pgp":   {State: securemail.KeyFound, Keys: []securemail.Key{{Fingerprint: "abcd", Origin: "wkd", Trust: securemail.TrustDomain, NotAfter: time.Unix(3e9, 0)}}},
				"smime": {State: securemail.KeyNone, Why: securemail.Reason{Rule: "no-key", Text: canary}},
			},
			Route: &securemail.Route{
				Known: true, Until: time.Unix(2e9, 0),
				Wire: securemail.Wire{TLS: &securemail.TLSFacts{Version: tls.VersionTLS12}, Proof: securemail.ProofPKIX, Hop: securemail.HopFinal, Reasons: []securemail.Reason{{Rule: "sts", Text: canary + ".example.net"}}},
			},
		},
		Decision: &securemail.Decision{Need: []securemail.Method{"tls"}, Choices: []securemail.Choice{choice, {Channel: 9}}, Patience: time.Hour, Else: securemail.OutcomeBounce, Uncertain: securemail.OutcomeRetry, Policy: "hipaa/3", Reasons: reasons},
		Detail:   map[string]string{"k": "v"},
	}
}

func proveFull(t testing.TB, l *audit.Log, e securemail.Event) ([]byte, audit.Entry) {
	t.Helper()
	require.NoError(t, l.Emit(t.Context(), e))
	p, err := l.Prove(t.Context(), e.ID)
	require.NoError(t, err)
	entry, err := audit.Verify(p, l.Verifier())
	require.NoError(t, err)
	return p, entry
}

func TestEntryHoldsTheEvidence(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := full(t)
	_, got := proveFull(t, l, e)
	facts, err := l.FactsHash(e.Facts)
	require.NoError(t, err)
	address := l.Pseudonym("address", "clinic", e.Recipient.Address.Reveal())
	require.Equal(t, audit.Entry{
		Attempt: 2, By: audit.Caller{
			Tenant: "clinic", ID: "dr-who", Kind: "person", Roles: []string{"admin"}, Purpose: "treatment",
			Auth:   &audit.Auth{Method: "passkey", Session: l.Pseudonym("session", "clinic", canary), PhishingResistant: true, At: time.Unix(1e9, 0).UTC()},
			Origin: &audit.Origin{Device: "d", Posture: "managed", Network: "lan", Place: "ward"},
		},
		Choice: &audit.Choice{Channel: "named", Method: "tls", Profile: "p", RequireTLS: true},
		Decision: &audit.Decision{
			Choices: []audit.Choice{{Channel: "named", Method: "tls", Profile: "p", RequireTLS: true}, {Channel: "channel-9"}},
			Else:    "bounce", Uncertain: "retry", Need: []string{"tls"}, Patience: 3600, Policy: "hipaa/3",
			Reasons: []audit.Reason{{Rule: "r1", Text: "because <&>"}},
		},
		Detail: map[string]string{"k": "v"}, Event: "full", Facts: facts, Failure: "none", From: address, Kind: "delivered",
		Known: &audit.Known{
			Class: "phi",
			Keys: map[string]audit.KnownKeys{
				"pgp":   {State: "found", Keys: []audit.KnownKey{{Fingerprint: "abcd", Origin: "wkd", Trust: "domain", NotAfter: time.Unix(3e9, 0).UTC()}}},
				"smime": {State: "none", Why: "no-key"},
			},
			Route: &audit.KnownRoute{
				Hop: "final", Known: true, Proof: "pkix", Rules: []string{"sts"}, Until: time.Unix(2e9, 0).UTC(),
				TLS: &audit.TLS{Chain: strings.Repeat("0", 64), Suite: "0x0000", Version: "TLS 1.2"},
			},
		},
		Labels: map[string]string{"case": l.Pseudonym("label", "clinic", canary)}, Next: time.Unix(1e9, 7).UTC(), Parcel: "parcel1", Policy: "hipaa/3",
		Protection: &audit.Protection{Algorithm: "AES256", Keys: []string{"abcd"}, Detail: map[string]string{"a": "b"}},
		Purpose:    "treatment", Read: time.Unix(1e9, 9).UTC(), Reasons: []audit.Reason{{Rule: "r1", Text: "because <&>"}},
		Receipt: &audit.Receipt{
			Hop: "asserted", Proof: "dane", Peer: l.Pseudonym("peer", "clinic", canary+".example.org"), Remote: l.Pseudonym("remote", "clinic", canary),
			Operator: &audit.Operator{Name: "relay", Agreement: "baa-1", Until: time.Unix(2e9, 0).UTC(), Uses: []string{"treatment"}, Regions: []string{"eu"}}, Time: time.Unix(1e9, 6).UTC(),
			Reasons: []audit.Reason{{Rule: "r1", Text: "because <&>"}},
			TLS:     &audit.TLS{Chain: strings.Repeat("0", 64), FIPS: true, Group: "X25519MLKEM768", Suite: "TLS_AES_128_GCM_SHA256", Version: "TLS 1.3"},
		},
		Recipient: address, Ref: l.Pseudonym("ref", "clinic", canary), Seq: 7, State: "delivered",
		Subjects: []string{l.Pseudonym("subject", "clinic", canary)}, Submission: "sub1", Time: time.Unix(1e9, 5).UTC(), V: 1,
	}, got)
	require.NotEqual(t, address, l.Pseudonym("address", "other", e.Recipient.Address.Reveal()), "tenants can't be linked")
	require.Empty(t, l.Pseudonym("address", "t", ""))
}

// TestReasonsNameNoHost: a mail host's name can tell who the recipient is, so the reasons keep to its pseudonym as the receipt does.
func TestReasonsNameNoHost(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := full(t)
	domain := e.Recipient.Address.Domain()
	e.Receipt.Peer = "mx7." + domain
	e.Receipt.Reasons = []securemail.Reason{{Rule: "dane-match", Text: "the TLSA record 3 1 1 of mx7." + domain + " matches"}}
	e.Reasons = []securemail.Reason{{Rule: "starttls-not-offered", Text: "mx9." + domain + " offers no STARTTLS"}}
	_, got := proveFull(t, l, e)
	require.Equal(t, "the TLSA record 3 1 1 of [peer "+got.Receipt.Peer+"] matches", got.Receipt.Reasons[0].Text)
	require.Equal(t, "mx9.[domain "+l.Pseudonym("domain", "clinic", domain)+"] offers no STARTTLS", got.Reasons[0].Text)
}

// The same holds for events about a domain, which have no recipient.
func TestEventsAboutADomainDoNotNameIt(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := securemail.Event{ID: "p1", Kind: "posture.certificate-expiring", Seq: 1, Time: time.Unix(1e9, 0), By: securemail.Actor{Tenant: "clinic", ID: "m", Kind: "service"}}
	e.Detail = map[string]string{"domain": "drjones.example", "host": "mx1.drjones.example", "changes": "mail hosts of drjones.example: mx1.drjones.example, mx2.drjones.example"}
	_, got := proveFull(t, l, e)
	domain, host := "[domain "+l.Pseudonym("domain", "clinic", "drjones.example")+"]", "[peer "+l.Pseudonym("peer", "clinic", "mx1.drjones.example")+"]"
	require.Equal(t, map[string]string{"domain": domain, "host": host, "changes": "mail hosts of " + domain + ": " + host + ", mx2." + domain}, got.Detail)
}

func TestEntryIsCanonicalJSON(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, nil)
	proveFull(t, l, full(t))
	b, err := os.ReadFile(filepath.Join(dir, "tile", "entries", "000.p", "1"))
	require.NoError(t, err)
	entries, err := audit.ParseBundle(b)
	require.NoError(t, err)
	requireSorted(t, json.NewDecoder(bytes.NewReader(entries[0])))
	require.Contains(t, string(entries[0]), "<&>")
	require.NotContains(t, string(entries[0]), "\n")
}

// requireSorted reads one value and requires the keys of each object in it to be sorted.
func requireSorted(t *testing.T, d *json.Decoder) {
	tok, err := d.Token()
	require.NoError(t, err)
	open, ok := tok.(json.Delim)
	if !ok {
		return
	}
	var keys []string
	for d.More() {
		if open == '{' {
			k, err := d.Token()
			require.NoError(t, err)
			keys = append(keys, k.(string))
		}
		requireSorted(t, d)
	}
	_, err = d.Token()
	require.NoError(t, err)
	require.True(t, sort.StringsAreSorted(keys), keys)
}

func TestLongEntriesAreCut(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := full(t)
	e.Failure = strings.Repeat("é", 100_000)
	for i := range 5000 {
		e.Reasons = append(e.Reasons, securemail.Reason{Rule: strings.Repeat("\x01", 500), Text: strings.Repeat("\xff", 500)})
		e.Subjects = append(e.Subjects, securemail.Subject(fmt.Sprint(i)))
		e.Labels[fmt.Sprint(i)] = "x"
	}
	e.Status.ID = securemail.ParcelID(strings.Repeat("p", 5000))
	_, got := proveFull(t, l, e)
	require.True(t, got.Cut)
	require.NotEmpty(t, got.Reasons)
	require.NotEmpty(t, got.Facts)
}

// TestNothingIsInClear greps everything the log writes or says for the canary.
func TestNothingIsInClear(t *testing.T) {
	dir := logDir(t)
	l := open(t, dir, &audit.Options{Interval: time.Hour})
	e := full(t)
	p, entry := proveFull(t, l, e)
	e.ID = "in the journal"
	require.NoError(t, l.Emit(t.Context(), e))
	require.NotContains(t, string(p), "CANARY")
	require.NotContains(t, fmt.Sprintf("%+v", entry), "CANARY")
	_, err := l.Prove(t.Context(), canary)
	require.NotContains(t, err.Error(), "CANARY")
	grep := func() {
		require.NoError(t, filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			require.NotContains(t, path, "CANARY")
			if !d.IsDir() {
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				require.NotContains(t, strings.ToLower(string(b)), "canary", path)
			}
			return nil
		}))
	}
	grep()
	require.NoError(t, l.Close())
	grep()
}

// Hostile rules and transports put people into texts; none of them gets into the log.
func TestTextsNameNobody(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := full(t)
	said := "550 no such user <" + canary + "@example.org>: " + canary + " or mailto:Other." + canary + "@Sub.Example.com, 'x@" + canary + ".example'"
	reasons := []securemail.Reason{{Rule: said, Text: said}}
	e.Failure, e.Reasons, e.Receipt.Reasons, e.Decision.Reasons = said, reasons, reasons, reasons
	e.Detail = map[string]string{said: said}
	e.Protection.Detail, e.Protection.Keys = map[string]string{"uid": said}, []string{said}
	p, got := proveFull(t, l, e)
	require.NotContains(t, strings.ToLower(fmt.Sprintf("%+v", got)), "canary")
	require.NotContains(t, strings.ToLower(string(p)), "canary")
	require.Contains(t, got.Failure, "550 no such user <[address "+got.Recipient+"]>")
	require.Contains(t, got.Failure, "mailto:[address ")
	require.False(t, got.Cut)
}

// An event that has no form in JSON would stop the outbox for ever.
func TestTimesBeyondJSON(t *testing.T) {
	l := open(t, logDir(t), nil)
	e := full(t)
	e.Next, e.Read, e.Time = time.Unix(1<<40, 0), time.Unix(-1<<40, 0), time.Unix(1<<41, 0)
	e.Receipt.Operator.Until, e.By.Auth.At = time.Unix(1<<42, 0), time.Unix(1<<43, 0)
	_, got := proveFull(t, l, e)
	require.True(t, got.Cut)
	require.True(t, got.Next.IsZero())
}

func TestEmptyFolderBesideAKeptCheckpointMakesNoKey(t *testing.T) {
	dir := logDir(t)
	require.NoError(t, os.WriteFile(dir+".key.seen", []byte("x"), 0o600))
	_, err := audit.Open(t.Context(), dir, nil)
	require.ErrorIs(t, err, audit.ErrRollback)
	require.NoFileExists(t, dir+".key")
}

func TestContextEnds(t *testing.T) {
	l := open(t, logDir(t), nil)
	emit(t, l, 0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.Emit(ctx, event("x")), context.Canceled)
	require.ErrorIs(t, l.Publish(ctx), context.Canceled)
	require.ErrorIs(t, l.Check(ctx), context.Canceled)
	require.NoError(t, l.Emit(t.Context(), event("x")))
}
