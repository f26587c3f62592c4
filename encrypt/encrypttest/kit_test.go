package encrypttest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/securemail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReferencePasses(t *testing.T) { encrypttest.Run(t, boxHarness("", false)) }

// tlsHarness is encrypt.TLSOnly, or what wrap makes of it.
func tlsHarness(e securemail.Encryptor) encrypttest.Harness {
	return encrypttest.Harness{New: func(context.Context, encrypttest.Setup) (*encrypttest.Rig, error) {
		return &encrypttest.Rig{Encryptor: e, Plain: true}, nil
	}}
}

func TestTLSOnlyPasses(t *testing.T) { encrypttest.Run(t, tlsHarness(encrypt.TLSOnly{})) }

// leavingHarness opens a mail only while its own parcel's deposit is there.
func leavingHarness(fault string) encrypttest.Harness {
	h := boxHarness(fault, true)
	return encrypttest.Harness{New: func(ctx context.Context, s encrypttest.Setup) (*encrypttest.Rig, error) {
		r, err := h.New(ctx, s)
		if err != nil {
			return nil, err
		}
		tagged := &tagger{Encryptor: r.Encryptor, owner: map[string]securemail.ParcelID{}}
		open := r.Open
		r.Encryptor = tagged
		r.Open = func(ctx context.Context, m *securemail.Message) (*securemail.Message, error) {
			if id, ok := tagged.of(m); ok && fault != "undo leaves it readable" {
				if n, err := r.Left(ctx, id); err != nil || n == 0 {
					return nil, errors.New("box: gone")
				}
			}
			return open(ctx, m)
		}
		return r, nil
	}}
}

func TestNoticeReferencePasses(t *testing.T) { encrypttest.Run(t, noticeHarness("")) }

func TestLeavingReferencePasses(t *testing.T) { encrypttest.Run(t, leavingHarness("")) }

// mutant is a broken Encryptor, and a part of the rule that must reject it.
type mutant struct {
	name, kills string
	harness     encrypttest.Harness
}

func mutants() []mutant {
	var ms []mutant
	for _, f := range []struct{ fault, kills string }{
		{"no method", "Method is constant"},
		{"takes other methods", "no usable key is ErrNoKey"},
		{"panics on a short key", "panic"},
		{"trusts the fingerprint", "no usable key is ErrNoKey"},
		{"one bad key spoils all", "no usable key is ErrNoKey"},
		{"no key is a plain error", "no usable key is ErrNoKey"},
		{"no key is a hold", "no usable key is ErrNoKey"},
		{"no key is everything", "no usable key is ErrNoKey"},
		{"ignores ctx", "an ended ctx"},
		{"ctx is no key", "never ErrNoKey"},
		{"nothing at all", "nil error means a message"},
		{"job in a field", "Message-ID must stay"},
		{"error with the subject", "no content and no address"},
		{"broken source is no key", "never ErrNoKey"},
		{"error and a result", "nil error means a message"},
		{"writes into a key", "belong to the caller"},
		{"changes the parcel", "belong to the caller"},
		{"sorts the keys", "belong to the caller"},
		{"swaps the message", "belong to the caller"},
		{"logs the subject", "no content and no address"},
		{"logs the address", "no content and no address"},
		{"trims the body", "the recipient gets the original"},
		{"eight bits lost", "the recipient gets the original"},
		{"drops attachments", "the recipient gets the original"},
		{"subject lost", "the recipient gets the original"},
		{"bcc inside", "Bcc never shows"},
		{"encodes only", "not visible in what leaves"},
		{"half a message is enough", "can't be read to its end"},
		{"same nonce", "nothing in common"},
		{"no integrity", "not opened as something else"},
		{"To is not changed for Bcc", "encrypt.Outer's"},
		{"subject outside", "not visible in what leaves"},
		{"translated placeholder", "encrypt.Outer's"},
		{"subject in a comment", "not visible in what leaves"},
		{"new Message-ID", "Message-ID must stay"},
		{"Bcc outside", "not visible in what leaves"},
		{"own header field", "encrypt.Outer's"},
		{"own content field", "encrypt.Outer's"},
		{"file name outside", "not visible in what leaves"},
		{"passes on", "not visible in what leaves"},
		{"no algorithm", "names the algorithm"},
		{"no keys named", "names the keys"},
		{"names a key that it has not", "names the keys"},
		{"names every key", "names the keys"},
		{"address in the evidence", "no content and no address"},
		{"undo of nothing fails", "Undo destroys"},
		{"undo panics", "panic"},
		{"compresses only", "nobody but the recipient"},
		{"one key for all", "nobody but the recipient"},
		{"compresses first", "the length tells nothing"},
		{"remembers the parcel", "a repeat without keys"},
		{"leaves a reader open", "reader that was opened is closed"},
		{"seals anew at each read", "each Open of what leaves"},
		{"cuts at 1 MiB", "the recipient gets the original"},
		{"digest of the subject outside", "is soon guessed"},
		{"digest of the body in the evidence", "is soon guessed"},
		{"code outside", "an access code"},
		{"code in the evidence", "an access code"},
		{"logs the code", "an access code"},
	} {
		ms = append(ms, mutant{f.fault, f.kills, boxHarness(f.fault, false)})
	}
	for _, f := range []struct{ fault, kills string }{
		{"leaves twice", "leaves nothing twice"},
		{"undo does nothing", "Undo destroys"},
		{"undo of everything", "the recipient gets the original"},
		{"undo leaves it readable", "Undo destroys"},
	} {
		ms = append(ms, mutant{f.fault, f.kills, leavingHarness(f.fault)})
	}
	for _, f := range []string{"notice names another", "notice with a name", "notice with content fields"} {
		ms = append(ms, mutant{f, "a notice shows", noticeHarness(f)})
	}
	return append(ms, mutant{"TLS that changes the message", "seals nothing", tlsHarness(changer{})})
}

// changer is TLSOnly that adds a field.
type changer struct{ encrypt.TLSOnly }

func (changer) Encrypt(_ context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	m, err := j.Message.WithHead(append([]byte("X-Sent: 1\r\n"), j.Message.Head()...))
	return &securemail.Sealed{Message: m, Protection: securemail.Protection{Algorithm: "none"}}, err
}

// TestMutants: each broken Encryptor is rejected, and by the rule that it breaks.
func TestMutants(t *testing.T) {
	var killed, total atomic.Int32
	t.Run("all", func(t *testing.T) {
		for _, m := range mutants() {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				total.Add(1)
				want := func(name string) bool {
					switch name {
					case "concurrent":
						// what writes to a shared Job would be found by the race detector, not by the kit
						return m.kills != "belong to the caller"
					case "large":
						return m.name == "cuts at 1 MiB" // it takes its time
					}
					return true
				}
				if rejected(t, m.kills, encrypttest.CheckCases(t.Context(), m.harness, want)) {
					killed.Add(1)
				}
			})
		}
	})
	fmt.Printf("encrypttest: %d/%d broken encryptors rejected\n", killed.Load(), total.Load())
	require.Equal(t, total.Load(), killed.Load())
}

func rejected(t *testing.T, kills string, r *encrypttest.Report) bool {
	t.Helper()
	require.Positive(t, r.Cases)
	var rules []string
	for _, f := range r.Failures {
		require.NotEmpty(t, f.Case)
		if strings.Contains(f.Rule+f.Detail, kills) {
			return true
		}
		rules = append(rules, f.Case+": "+f.Rule+": "+f.Detail)
	}
	t.Errorf("not rejected by %q, but by %q", kills, rules)
	return false
}

func TestHarnessIsChecked(t *testing.T) {
	for name, h := range map[string]encrypttest.Harness{
		"no New": {},
		"error":  {New: func(context.Context, encrypttest.Setup) (*encrypttest.Rig, error) { return nil, errors.New("no") }},
		"nil":    {New: func(context.Context, encrypttest.Setup) (*encrypttest.Rig, error) { return nil, nil }},
		"no Open": {New: func(context.Context, encrypttest.Setup) (*encrypttest.Rig, error) {
			return &encrypttest.Rig{Encryptor: encrypt.TLSOnly{}}, nil
		}},
	} {
		r := encrypttest.Check(t.Context(), h)
		require.Len(t, r.Failures, r.Cases, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, *encrypttest.Check(ctx, boxHarness("", false)))
}

func TestWhatDoesNotApplyIsSkippedAloud(t *testing.T) {
	r := encrypttest.Check(t.Context(), tlsHarness(encrypt.TLSOnly{}))
	require.Empty(t, r.Failures)
	require.Contains(t, r.Skipped, "key/none: the method needs no recipient key")
	require.Contains(t, r.Skipped, "integrity: the method seals nothing")
}
