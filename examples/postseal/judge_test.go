package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/posture"
)

// verdicts are the findings' verdicts, in order, with the text of the worst.
func verdicts(fs []finding) string {
	var out []string
	for _, f := range fs {
		out = append(out, f.Verdict)
	}
	return strings.Join(out, " ")
}

func TestJudgeSPF(t *testing.T) {
	long := "v=spf1" + strings.Repeat(" include:a.example", 11) + " -all"
	for name, c := range map[string]struct {
		txts []string
		want string
		text string
	}{
		"none":               {[]string{"other", "v=spf10 -all"}, "fail", "no record"},
		"two":                {[]string{"v=spf1 -all", "v=spf1 mx -all"}, "fail", "2 records"},
		"strict":             {[]string{"other", "v=spf1 mx ip4:192.0.2.0/24 -all"}, "ok", "-all"},
		"soft":               {[]string{"v=spf1 a/24 ~all"}, "ok", "~all"},
		"everybody":          {[]string{"v=spf1 mx +all"}, "fail", "anybody"},
		"everybody, bare":    {[]string{"v=spf1 mx ALL"}, "fail", "anybody"},
		"neutral":            {[]string{"v=spf1 mx ?all"}, "warn", "nothing of other"},
		"no end":             {[]string{"v=spf1 mx exp=e.example"}, "warn", "nothing of other"},
		"empty":              {[]string{"v=spf1"}, "warn", "nothing of other"},
		"redirect":           {[]string{"v=spf1 redirect=_spf.example.org"}, "ok", "redirects"},
		"too many look-ups":  {[]string{long}, "fail ok", "11 look-ups"},
		"ptr":                {[]string{"v=spf1 ptr -all"}, "warn ok", "ptr"},
		"typing error":       {[]string{"v=spf1 ipv4:192.0.2.1 -all"}, "fail ok", "no mechanism"},
		"behind all":         {[]string{"v=spf1 -all mx"}, "warn ok", "never read"},
		"a modifier's macro": {[]string{"v=spf1 exists:%{i}._s=x.example -all"}, "ok", "-all"},
	} {
		t.Run(name, func(t *testing.T) {
			got := judgeSPF(c.txts)
			require.Equal(t, c.want, verdicts(got))
			require.Contains(t, got[0].Text, c.text)
		})
	}
}

func rsaRecord(t *testing.T, bits int) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

func TestJudgeDKIM(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	strong := rsaRecord(t, 2048)
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	other, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		txts []string
		want string
		text string
	}{
		"none":          {nil, "fail", "no key"},
		"two":           {[]string{"p=a", "p=b"}, "fail", "2 records"},
		"huge":          {[]string{"p=" + strings.Repeat("a", 20<<10)}, "fail", "16 KiB"},
		"rsa":           {[]string{"v=DKIM1; k=rsa; p=" + strong}, "ok", "RSA 2048"},
		"folded":        {[]string{"p=" + strong[:20] + " " + strong[20:] + ";"}, "ok", "RSA 2048"},
		"1024":          {[]string{"v=DKIM1; p=" + rsaRecord(t, 1024)}, "warn", "RSA 1024"},
		"512":           {[]string{"v=DKIM1; p=" + rsaRecord(t, 512)}, "fail", "RSA 512"},
		"ed25519":       {[]string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(ed)}, "ok", "Ed25519"},
		"short ed25519": {[]string{"k=ed25519; p=AAAA"}, "fail", "32 octets"},
		"other kind":    {[]string{"k=ecdsa; p=AAAA"}, "fail", "neither"},
		"not rsa":       {[]string{"p=" + base64.StdEncoding.EncodeToString(other)}, "fail", "no RSA key"},
		"nonsense":      {[]string{"p=AAAA"}, "fail", "no RSA key"},
		"revoked":       {[]string{"v=DKIM1; p="}, "fail", "revoked"},
		"no p":          {[]string{"v=DKIM1"}, "fail", "revoked"},
		"no base64":     {[]string{"p=***"}, "fail", "no base64"},
		"version later": {[]string{"p=" + strong + "; v=DKIM1"}, "fail", "come first"},
		"version":       {[]string{"v=DKIM2; p=" + strong}, "fail", "must be DKIM1"},
		"no tags":       {[]string{"hello"}, "fail", "tag=value"},
		"testing":       {[]string{"v=DKIM1; t=s:y; p=" + strong}, "warn ok", "test"},
		"sha1":          {[]string{"v=DKIM1; h=sha1; p=" + strong}, "fail ok", "sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			got := judgeDKIM("s", c.txts)
			require.Equal(t, c.want, verdicts(got), got)
			require.Contains(t, got[0].Text, c.text)
			require.Equal(t, "dkim s", got[0].Check)
		})
	}
}

func TestJudgeDMARC(t *testing.T) {
	const rua = "; rua=mailto:x@a.example"
	for name, c := range map[string]struct {
		owner string
		txts  []string
		want  string
		text  string
	}{
		"none":         {"a.example", []string{"other", "v=DMARC12; p=reject"}, "fail", "no record"},
		"two":          {"a.example", []string{"v=DMARC1; p=reject", "v=DMARC1; p=none"}, "fail", "2 records"},
		"reject":       {"a.example", []string{"v=DMARC1; p=Reject" + rua}, "ok", "p=reject"},
		"quarantine":   {"a.example", []string{"v=DMARC1;p=quarantine;pct=100" + rua}, "ok", "p=quarantine"},
		"p=none":       {"a.example", []string{"v=DMARC1; p=none" + rua}, "warn", "p=none"},
		"no reports":   {"a.example", []string{"v=DMARC1; p=reject"}, "warn ok", "no rua"},
		"pct":          {"a.example", []string{"v=DMARC1; p=reject; pct=20" + rua}, "warn ok", `pct="20"`},
		"sp":           {"a.example", []string{"v=DMARC1; p=reject; sp=none" + rua}, "warn ok", "sub-domains"},
		"no p":         {"a.example", []string{"v=DMARC1" + rua}, "fail", "neither"},
		"no tags":      {"a.example", []string{"v=DMARC1; reject"}, "fail", "tag=value"},
		"parent":       {"example", []string{"v=DMARC1; p=reject" + rua}, "ok", "(of example)"},
		"parent's sp":  {"example", []string{"v=DMARC1; p=reject; sp=none" + rua}, "warn", "p=none (of example)"},
		"twice p":      {"a.example", []string{"v=DMARC1; p=none; p=reject" + rua}, "warn", "p=none"},
		"blank at end": {"a.example", []string{"v=DMARC1; p=reject" + rua + "; "}, "ok", "p=reject"},
	} {
		t.Run(name, func(t *testing.T) {
			got := judgeDMARC("a.example", c.owner, c.txts)
			require.Equal(t, c.want, verdicts(got), got)
			require.Contains(t, got[0].Text, c.text)
		})
	}
}

func TestJudgeSTS(t *testing.T) {
	hosts := []posture.Host{{Name: "mx1.a.example"}, {Name: "mx.b.example"}}
	policy := func(mode mtasts.Mode, mx ...string) mtasts.Policy {
		return mtasts.Policy{Mode: mode, MX: mx, MaxAge: 14 * 24 * time.Hour}
	}
	require.Equal(t, "ok", verdicts(judgeSTS(policy("enforce", "*.a.example", "mx.b.example"), hosts)))
	require.Equal(t, "fail ok", verdicts(judgeSTS(policy("enforce", "*.a.example"), hosts)), "a mail host is left out")
	require.Equal(t, "warn warn", verdicts(judgeSTS(policy("testing", "*.a.example"), hosts)))
	require.Equal(t, "warn ok", verdicts(judgeSTS(policy("enforce", "*.a.example", "mx.b.example", "old.example"), hosts)), "a pattern for nobody")
	require.Equal(t, "warn warn warn", verdicts(judgeSTS(policy("none"), hosts)))
	short := policy("enforce", "*.a.example", "mx.b.example")
	short.MaxAge = time.Hour
	require.Equal(t, "warn ok", verdicts(judgeSTS(short, hosts)))
}

func TestJudgeExpiry(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	require.Equal(t, finding{"certificate", "ok", "mx ends in 14 days"}, judgeExpiry("mx", now.Add(14*24*time.Hour), now))
	require.Equal(t, "warn", judgeExpiry("mx", now.Add(13*24*time.Hour), now).Verdict)
	require.Equal(t, finding{"certificate", "fail", "mx ended on 2026-05-04"}, judgeExpiry("mx", now, now))
}

// FuzzRecords: whatever a domain publishes is judged, in bounded time, and never stops the command.
func FuzzRecords(f *testing.F) {
	f.Add("v=spf1 include:a -all")
	f.Add("v=spf1 - :=/ =x +")
	f.Add("v=DKIM1; p=AAAA; t=y")
	f.Add("v=DMARC1; p=none; pct=x")
	f.Fuzz(func(t *testing.T, s string) {
		for _, fs := range [][]finding{judgeSPF([]string{s}), judgeDKIM("s", []string{s}), judgeDMARC("a.example", "example", []string{s})} {
			if len(fs) == 0 {
				t.Fatal("no verdict")
			}
		}
	})
}

// Whatever a record holds, each judge says something, in one line a finding, and not without end.
func FuzzJudges(f *testing.F) {
	for _, s := range []string{
		"v=spf1 mx include:a.test -all", "v=spf1 redirect=a.test", "v=DMARC1; p=none; pct=5; sp=none", "v=DKIM1; k=rsa; p=", "k=ed25519;p=AAAA", "=;;=",
		"v=spf1 -all" + strings.Repeat(" x", 500),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, fs := range [][]finding{
			judgeSPF([]string{s}), judgeDKIM("s", []string{s}), judgeDMARC("a.test", "a.test", []string{s}), judgeDMARC("b.a.test", "a.test", []string{s}),
		} {
			require.NotEmpty(t, fs)
			require.LessOrEqual(t, len(fs), 100)
			for _, x := range fs {
				require.Contains(t, []string{"ok", "warn", "fail"}, x.Verdict)
				require.NotContains(t, x.Text, "\n")
				require.LessOrEqual(t, len(x.Text), 300)
			}
		}
	})
}
