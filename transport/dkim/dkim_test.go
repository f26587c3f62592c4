package dkim_test

import (
	"bytes"
	"context"
	"crypto/fips140"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/transport/dkim"
)

const mail = "From: Anna <anna@example.org>\r\nTo: b@example.net\r\nSubject: hi\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\n" +
	"List-Unsubscribe: <https://example.org/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" +
	"Received: from x\r\n\r\nbody  text\r\n\r\n"

func verify(t testing.TB, z dkim.Resolver, msg string) []dkim.Verification {
	vs, err := dkim.Verify(t.Context(), z, strings.NewReader(msg))
	require.NoError(t, err)
	return vs
}

// samples are the messages that real programs write, with CRLF.
func samples(t testing.TB) map[string]string {
	files, err := filepath.Glob("../../examples/testdata/*.eml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		text := strings.ReplaceAll(string(b), "\r\n", "\n")
		if !strings.Contains(text, "\n\n") {
			text += "\n"
		}
		out[filepath.Base(f)] = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return out
}

func TestSamplesVerify(t *testing.T) {
	keys := pair(t)
	s, z := signer(t, keys, nil), zone{}.publish(keys...)
	for name, msg := range samples(t) {
		t.Run(name, func(t *testing.T) {
			head, err := s.Sign(t.Context(), "example.org", iotest.HalfReader(strings.NewReader(msg)))
			require.NoError(t, err)
			require.NotContains(t, string(head), "l=")
			for line := range strings.SplitSeq(string(head), "\r\n") {
				require.LessOrEqual(t, len(line), 998)
			}
			vs := verify(t, z, string(head)+msg)
			require.GreaterOrEqual(t, len(vs), 2)
			for _, v := range vs[:2] {
				require.Equal(t, dkim.Pass, v.Outcome)
				require.Equal(t, "example.org", v.Domain)
				require.WithinDuration(t, time.Now(), v.Time, time.Minute)
				require.Zero(t, v.Expires)
			}
		})
	}
}

func TestTampering(t *testing.T) {
	keys := pair(t)
	head, err := signer(t, keys, nil).Sign(t.Context(), "EXAMPLE.org.", strings.NewReader(mail))
	require.NoError(t, err)
	z := zone{}.publish(keys...)
	signed := string(head) + mail

	same := map[string]string{
		"nothing":           signed,
		"white space":       strings.Replace(signed, "body  text", "body text", 1),
		"empty lines":       signed + "\r\n\r\n",
		"relay's field":     "Received: from y\r\n" + signed,
		"unfolded again":    strings.Replace(signed, "Subject: hi", "Subject:\r\n hi", 1),
		"unsigned Received": strings.Replace(signed, "from x", "from z", 1),
	}
	for name, msg := range same {
		t.Run(name, func(t *testing.T) {
			for _, v := range verify(t, z, msg) {
				require.Equal(t, dkim.Pass, v.Outcome)
			}
		})
	}
	changed := map[string]string{
		"body":             strings.Replace(signed, "body", "Body", 1),
		"appended":         signed + "more\r\n",
		"subject":          strings.Replace(signed, "Subject: hi", "Subject: ho", 1),
		"from":             strings.Replace(signed, "Anna", "Hanna", 1),
		"second from":      "From: c@example.org\r\n" + signed,
		"second subject":   "Subject: ho\r\n" + signed,
		"added cc":         "Cc: c@example.org\r\n" + signed,
		"added reply-to":   "Reply-To: c@example.org\r\n" + signed,
		"second date":      "Date: Wed, 25 Nov 2026 11:00:00 +0000\r\n" + signed,
		"unsubscribe":      strings.Replace(signed, "example.org/u", "example.org/v", 1),
		"unsubscribe post": strings.Replace(signed, "One-Click", "Two-Click", 1),
	}
	for name, msg := range changed {
		t.Run(name, func(t *testing.T) {
			vs := verify(t, z, msg)
			require.Len(t, vs, 2)
			for _, v := range vs {
				require.Equal(t, dkim.Fail, v.Outcome)
			}
		})
	}
}

func TestAnyChangedOctetOfTheBodyFails(t *testing.T) {
	keys := pair(t)[1:]
	s, z := signer(t, keys, nil), zone{}.publish(keys...)
	const head = "From: a@example.org\r\nSubject: x\r\n\r\n"
	rapid.Check(t, func(rt *rapid.T) {
		body := []byte(rapid.StringMatching(`[a-z]{1,40}(\r\n[a-z ]{0,20}){0,5}`).Draw(rt, "body"))
		sig, err := s.Sign(t.Context(), "example.org", bytes.NewReader(append([]byte(head), body...)))
		require.NoError(rt, err)
		i := rapid.IntRange(0, len(body)-1).Draw(rt, "at")
		if c := body[i]; c < 'a' || c > 'z' {
			return
		}
		body[i] ^= 0x20 // another letter
		vs, err := dkim.Verify(t.Context(), z, strings.NewReader(string(sig)+head+string(body)))
		require.NoError(rt, err)
		require.Equal(rt, dkim.Fail, vs[0].Outcome)
	})
}

func TestRotationByDate(t *testing.T) {
	t0 := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	now := t0
	a, b := edKey(t), edKey(t)
	s := signer(t, []dkim.Key{
		{Domain: "example.org", Selector: "old", Private: a, NotAfter: t0.Add(48 * time.Hour)},
		{Domain: "example.org", Selector: "new", Private: b, NotBefore: t0.Add(24 * time.Hour), NotAfter: t0.Add(72 * time.Hour)},
	}, func() time.Time { return now })
	for _, c := range []struct {
		at   time.Duration
		want []string
	}{
		{0, []string{"old"}},
		{24*time.Hour - 1, []string{"old"}},
		{24 * time.Hour, []string{"old", "new"}},
		{48*time.Hour - 1, []string{"old", "new"}},
		{48 * time.Hour, []string{"new"}},
		{72*time.Hour - 1, []string{"new"}},
		{72 * time.Hour, nil},
		{0, []string{"old"}}, // the clock is set back
		{-10000 * time.Hour, []string{"old"}},
	} {
		now = t0.Add(c.at)
		head, err := s.Sign(t.Context(), "example.org", strings.NewReader(mail))
		if c.want == nil {
			require.ErrorIs(t, err, dkim.ErrNoKey)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, len(c.want), strings.Count(string(head), "DKIM-Signature:"))
		for _, selector := range c.want {
			require.Contains(t, string(head), "s="+selector+";")
		}
	}
}

func TestKeysByDomain(t *testing.T) {
	k := edKey(t)
	s := signer(t, []dkim.Key{
		{Domain: "example.org", Selector: "a", Private: k, Subdomains: true},
		{Domain: "own.example.org", Selector: "b", Private: k},
	}, nil)
	for domain, want := range map[string]string{
		"example.org": "a", "sub.Example.org.": "a", "x.y.example.org": "a", "own.example.org": "b", "x.own.example.org": "a",
		"notexample.org": "", "org": "", "": "", ".": "",
	} {
		t.Run(domain, func(t *testing.T) {
			keys := s.Keys(domain, time.Now())
			if want == "" {
				require.Empty(t, keys)
				return
			}
			require.Len(t, keys, 1)
			require.Equal(t, want, keys[0].Selector)
		})
	}
}

func TestExpiry(t *testing.T) {
	keys := pair(t)[1:]
	for name, now := range map[string]time.Time{"system": time.Now(), "clock behind": time.Now().Add(-1000 * time.Hour)} {
		t.Run(name, func(t *testing.T) {
			s, err := dkim.New(keys, &dkim.Options{Expiry: 24 * time.Hour, Now: func() time.Time { return now }})
			require.NoError(t, err)
			head, err := s.Sign(t.Context(), "example.org", strings.NewReader(mail))
			require.NoError(t, err)
			v := verify(t, zone{}.publish(keys...), string(head)+mail)[0]
			require.Equal(t, dkim.Pass, v.Outcome)
			require.Equal(t, 24*time.Hour, v.Expires.Sub(v.Time).Round(time.Minute))
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t0 := time.Now()
	_, err := dkim.New(nil, &dkim.Options{Expiry: time.Hour})
	require.ErrorContains(t, err, "no keys")
	require.ErrorContains(t, err, "Expiry under a day")
	good := dkim.Key{Domain: "example.org", Selector: "a", Private: edKey(t)}
	for name, change := range map[string]func(*dkim.Key){
		"RSA key of 1024 bits": func(k *dkim.Key) { k.Private = weakKey() },
		"neither RSA nor":      func(k *dkim.Key) { k.Private = nil },
		"no domain name":       func(k *dkim.Key) { k.Domain = "exämple.org" },
		"no selector":          func(k *dkim.Key) { k.Selector = "a..b" },
		"not after NotBefore":  func(k *dkim.Key) { k.NotBefore, k.NotAfter = t0, t0 },
	} {
		t.Run(name, func(t *testing.T) {
			if fips140.Enforced() && strings.HasPrefix(name, "RSA") {
				t.Skip("no such key can be made under fips140=only")
			}
			k := good
			change(&k)
			s, err := dkim.New([]dkim.Key{k}, nil)
			require.ErrorContains(t, err, name)
			require.Nil(t, s)
		})
	}
	upper := good
	upper.Domain = "EXAMPLE.ORG"
	_, err = dkim.New([]dkim.Key{good, upper}, nil)
	require.ErrorContains(t, err, "two keys at a._domainkey.example.org")
}

func TestSignRefuses(t *testing.T) {
	s := signer(t, pair(t)[1:], nil)
	for name, c := range map[string]struct{ msg, want string }{
		"no From":       {"To: x\r\n\r\n", "From"},
		"two From":      {"From: anna@x\r\nfrom : b\r\n\r\n", "From"},
		"no end":        {"From: anna@x\r\n", "does not end"},
		"bare LF":       {"From: anna@x\n\r\n", "without CRLF"},
		"bare LF later": {"From: anna@x\r\nTo: b\n\r\n", "without CRLF"},
		"size":          {"From: anna@x\r\nX: " + strings.Repeat("y", 300<<10) + "\r\n\r\n", "256 KiB"},
		"full buffer":   {"From: anna@x\r\nX" + strings.Repeat("y", 32<<10-len("From: anna@x\r\nX")) + "\r\nTo: x\r\n", "does not end"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Sign(t.Context(), "example.org", strings.NewReader(c.msg))
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "anna")
		})
	}
}

func TestReadersErrors(t *testing.T) {
	s, boom := signer(t, pair(t), nil), errors.New("disk")
	for name, r := range map[string]func() io.Reader{
		"in the header": func() io.Reader { return io.MultiReader(strings.NewReader(mail[:20]), iotest.ErrReader(boom)) },
		"in the body":   func() io.Reader { return io.MultiReader(strings.NewReader(mail), iotest.ErrReader(boom)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Sign(t.Context(), "example.org", r())
			require.ErrorIs(t, err, boom)
		})
	}
	head, err := s.Sign(t.Context(), "example.org", strings.NewReader(mail))
	require.NoError(t, err)
	_, err = dkim.Verify(t.Context(), zone{}, io.MultiReader(strings.NewReader(string(head)+mail), iotest.ErrReader(boom)))
	require.ErrorIs(t, err, boom)
	_, err = dkim.Verify(t.Context(), zone{}, strings.NewReader("no end"))
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Sign(ctx, "example.org", strings.NewReader(mail))
	require.ErrorIs(t, err, context.Canceled)
}

func TestManyFieldsStayOnOneLine(t *testing.T) {
	keys := pair(t)[1:]
	msg := "From: a@example.org\r\n" + strings.Repeat("Subject: x\r\n", 300) + strings.Repeat("To: x\r\n", 20) + "\r\n"
	head, err := signer(t, keys, nil).Sign(t.Context(), "example.org", strings.NewReader(msg))
	require.NoError(t, err)
	for line := range strings.SplitSeq(string(head), "\r\n") {
		require.LessOrEqual(t, len(line), 998)
	}
	v := verify(t, zone{}.publish(keys...), string(head)+msg)[0]
	require.Equal(t, dkim.Pass, v.Outcome)
	require.Equal(t, []string{"From", "From"}, v.Headers[:2])
	require.NotContains(t, v.Headers, "Subject")
	require.Contains(t, v.Headers, "Cc")
}

func TestVerifyOutcomes(t *testing.T) {
	keys := pair(t)[1:]
	name := keys[0].RecordName()
	head, err := signer(t, keys, nil).Sign(t.Context(), "example.org", strings.NewReader(mail))
	require.NoError(t, err)
	signed := string(head) + mail
	require.Empty(t, verify(t, zone{}, mail))
	require.Equal(t, dkim.PermError, verify(t, zone{}, signed)[0].Outcome)
	require.Equal(t, dkim.TempError, verify(t, zone{name: nil}, signed)[0].Outcome)
	require.Equal(t, dkim.PermError, verify(t, zone{name: {"v=DKIM1; p="}}, signed)[0].Outcome)
	other := keys[0]
	other.Private = edKey(t)
	require.Equal(t, dkim.Fail, verify(t, zone{}.publish(other), signed)[0].Outcome)
	require.Len(t, verify(t, zone{}, strings.Repeat(string(head), 50)+mail), 10)
}

// TestBigBody signs 64 MiB: halfway, what lives on the heap is still far less than what was read.
func TestBigBody(t *testing.T) {
	s := signer(t, pair(t), nil)
	var start, half runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&start)
	body := &stream{line: strings.Repeat("x", 76) + "\r\n", left: 64 << 20, half: func() {
		runtime.GC()
		runtime.ReadMemStats(&half)
	}}
	_, err := s.Sign(t.Context(), "example.org", io.MultiReader(strings.NewReader("From: a@example.org\r\n\r\n"), body))
	require.NoError(t, err)
	require.NotZero(t, half.HeapAlloc)
	require.Less(t, int64(half.HeapAlloc)-int64(start.HeapAlloc), int64(4<<20))
}

// stream gives left octets of lines, and calls half in the middle.
type stream struct {
	line string
	left int
	half func()
}

func (r *stream) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n+len(r.line) <= len(p) {
		n += copy(p[n:], r.line)
	}
	if r.left -= n; r.left < 32<<20 && r.half != nil {
		r.half()
		r.half = nil
	}
	return n, nil
}
