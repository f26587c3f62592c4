package dkim_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dkim"
)

func TestRecordRoundTrip(t *testing.T) {
	for _, k := range pair(t) {
		r := k.Record()
		r.Services, r.Testing, r.Strict = []string{"email", "tlsrpt"}, true, true
		got, err := dkim.ParseRecord([]string{r.String()})
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
	require.Equal(t, "v=DKIM1; p=", dkim.Key{}.Record().String())
}

func TestParseRecord(t *testing.T) {
	ed := base64.StdEncoding.EncodeToString(edKey(t).Public().(ed25519.PublicKey))
	pkcs1 := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(rsaKey().Public().(*rsa.PublicKey)))
	for name, c := range map[string]struct {
		txts []string
		rule string
	}{
		"plain":             {[]string{"v=DKIM1; k=ed25519; p=" + ed}, ""},
		"no version":        {[]string{"k=ed25519; p=" + ed}, ""},
		"folded key":        {[]string{"k=ed25519; p=" + ed[:5] + " \r\n\t" + ed[5:] + ";"}, ""},
		"PKCS 1":            {[]string{"p=" + pkcs1}, ""},
		"unknown tag":       {[]string{"v=DKIM1; k=ed25519; zz=1; p=" + ed}, ""},
		"any service":       {[]string{"k=ed25519; s=email:*; p=" + ed}, ""},
		"revoked":           {[]string{"v=DKIM1; p="}, ""},
		"none":              {nil, dkim.RuleMissing},
		"two":               {[]string{"p=", "p="}, dkim.RuleSeveral},
		"version":           {[]string{"v=DKIM2; p=" + ed}, dkim.RuleVersion},
		"version not first": {[]string{"p=; v=DKIM1"}, dkim.RuleVersion},
		"no tag":            {[]string{"v=DKIM1; hello"}, dkim.RuleTag},
		"empty tag":         {[]string{"v=DKIM1;; p="}, dkim.RuleTag},
		"twice":             {[]string{"p=; p="}, dkim.RuleTag},
		"algorithm":         {[]string{"k=rot13; p=" + ed}, dkim.RuleAlgorithm},
		"sha1 only":         {[]string{"h=sha1; p=" + pkcs1}, dkim.RuleAlgorithm},
		"no key":            {[]string{"v=DKIM1"}, dkim.RulePublicKey},
		"no base64":         {[]string{"p=!"}, dkim.RulePublicKey},
		"short":             {[]string{"k=ed25519; p=AAAA"}, dkim.RulePublicKey},
		"other kind":        {[]string{"k=rsa; p=" + ed}, dkim.RulePublicKey},
		"size":              {[]string{"p=" + strings.Repeat("A", 9000)}, dkim.RuleSize},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dkim.ParseRecord(c.txts)
			if c.rule == "" {
				require.NoError(t, err)
				return
			}
			var re *dkim.RecordError
			require.ErrorAs(t, err, &re)
			require.Equal(t, c.rule, re.Rule)
			require.Equal(t, "dkim: record: "+c.rule, err.Error())
		})
	}
}

func TestCheckPublished(t *testing.T) {
	k, other := pair(t)[1], pair(t)[1]
	name, text := k.RecordName(), k.Record().String()
	for label, c := range map[string]struct {
		z    zone
		rule string
	}{
		"there":     {zone{}.publish(k), ""},
		"missing":   {zone{}, dkim.RuleMissing},
		"several":   {zone{name: {text, text}}, dkim.RuleSeveral},
		"revoked":   {zone{name: {"v=DKIM1; p="}}, dkim.RuleRevoked},
		"different": {zone{name: {other.Record().String()}}, dkim.RuleDifferent},
		"testing":   {zone{name: {text + "; t=y"}}, dkim.RuleTesting},
		"service":   {zone{name: {text + "; s=tlsrpt"}}, dkim.RuleService},
		"email":     {zone{name: {text + "; s=tlsrpt:email"}}, ""},
	} {
		t.Run(label, func(t *testing.T) {
			err := dkim.CheckPublished(t.Context(), c.z, k)
			if c.rule == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, &dkim.RecordError{Name: "e1._domainkey.example.org", Rule: c.rule}, err)
			require.ErrorContains(t, err, "e1._domainkey.example.org: "+c.rule)
		})
	}
	err := dkim.CheckPublished(t.Context(), zone{name: nil}, k)
	var re *dkim.RecordError
	require.Error(t, err)
	require.NotErrorAs(t, err, &re, "not known now is no broken record")
}

func TestZone(t *testing.T) {
	k := pair(t)[0]
	line := dkim.Zone(k.RecordName(), k.Record().String())
	require.Regexp(t, `^r1\._domainkey\.example\.org\. IN TXT \( "v=DKIM1; k=rsa; p=`, line)
	var joined string
	for _, m := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(line, -1) {
		require.LessOrEqual(t, len(m[1]), 255)
		joined += m[1]
	}
	require.Equal(t, k.Record().String(), joined)
	require.Equal(t, `a. IN TXT ( "x\"y\\" )`, dkim.Zone("a.", `x"y\`))
}

func TestPEM(t *testing.T) {
	for _, k := range pair(t) {
		b, err := dkim.MarshalPEM(k.Private)
		require.NoError(t, err)
		got, err := dkim.ParsePEM(b)
		require.NoError(t, err)
		requireSameKey(t, k.Private, got)
	}
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey().(*rsa.PrivateKey))})
	got, err := dkim.ParsePEM(pkcs1)
	require.NoError(t, err)
	requireSameKey(t, rsaKey(), got)

	block := func(kind string) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("x")}) }
	for _, b := range [][]byte{nil, block("PRIVATE KEY"), block("RSA PRIVATE KEY"), block("ENCRYPTED PRIVATE KEY"), block("CERTIFICATE")} {
		_, err := dkim.ParsePEM(b)
		require.Error(t, err)
	}
	_, err = dkim.Generate("rot13")
	require.Error(t, err)
	_, err = dkim.MarshalPEM(nil)
	require.Error(t, err)
}

// requireSameKey compares what the keys are, since the RSA values that are computed in advance have no one length in octets.
func requireSameKey(t *testing.T, want, got crypto.Signer) {
	require.True(t, want.(interface{ Equal(crypto.PrivateKey) bool }).Equal(got))
}

func TestKeyIsNotPrinted(t *testing.T) {
	for _, k := range pair(t) {
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", k)
		require.Contains(t, b.String(), "key="+k.RecordName())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			require.Equal(t, k.RecordName(), fmt.Sprintf(verb, k))
		}
	}
}
