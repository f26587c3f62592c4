package mtasts_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/mtasts"
)

func TestParsePolicy(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		name, text string
		want       mtasts.Policy
	}{
		{"plain", "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: 86400\n", mtasts.Policy{Mode: "enforce", MX: []string{"a.example"}, MaxAge: day}},
		{"CRLF", "version: STSv1\r\nmode: enforce\r\nmx: a.example\r\nmax_age: 86400\r\n", mtasts.Policy{Mode: "enforce", MX: []string{"a.example"}, MaxAge: day}},
		{"CRLF and LF", "version: STSv1\r\nmode: testing\nmx: a.example\r\nmax_age: 86400", mtasts.Policy{Mode: "testing", MX: []string{"a.example"}, MaxAge: day}},
		{"any order", "max_age: 86400\nmx: a.example\nmode: enforce\nversion: STSv1", mtasts.Policy{Mode: "enforce", MX: []string{"a.example"}, MaxAge: day}},
		{"no blank behind the colon", "version:STSv1\nmode:enforce\nmx:a.example\nmax_age:86400", mtasts.Policy{Mode: "enforce", MX: []string{"a.example"}, MaxAge: day}},
		{"white space behind values", "version: STSv1 \nmode: enforce\t\nmx:  a.example \t\r\nmax_age: 86400 ", mtasts.Policy{Mode: "enforce", MX: []string{"a.example"}, MaxAge: day}},
		{"none without mx (trap 7)", "version: STSv1\nmode: none\nmax_age: 86400", mtasts.Policy{Mode: "none", MaxAge: day}},
		{"none with mx", "version: STSv1\nmode: none\nmx: a.example\nmax_age: 86400", mtasts.Policy{Mode: "none", MX: []string{"a.example"}, MaxAge: day}},
		{"wildcard, case, many", "version: STSv1\nmode: enforce\nmx: *.A.example\nmx: B.Example\nmax_age: 86400", mtasts.Policy{Mode: "enforce", MX: []string{"*.a.example", "b.example"}, MaxAge: day}},
		{"the first counts", "version: STSv1\nversion: STSv2\nmode: enforce\nmode: none\nmx: a.example\nmx: b.example\nmax_age: 86400\nmax_age: x", mtasts.Policy{Mode: "enforce", MX: []string{"a.example", "b.example"}, MaxAge: day}},
		{"colons in an extension", "version: STSv1\nmode: none\nmax_age: 86400\nlog: https://a.example:8443/x: y", mtasts.Policy{Mode: "none", MaxAge: day, Extensions: []mtasts.Field{{Name: "log", Value: "https://a.example:8443/x: y"}}}},
		{"UTF-8 in an extension", "version: STSv1\nmode: none\nmax_age: 86400\nnote: Grüße", mtasts.Policy{Mode: "none", MaxAge: day, Extensions: []mtasts.Field{{Name: "note", Value: "Grüße"}}}},
		{"max_age 0 (trap 6)", "version: STSv1\nmode: none\nmax_age: 0", mtasts.Policy{Mode: "none"}},
		{"max_age at the limit", "version: STSv1\nmode: none\nmax_age: 31557600", mtasts.Policy{Mode: "none", MaxAge: mtasts.MaxAge}},
		{"max_age over a year (trap 6)", "version: STSv1\nmode: none\nmax_age: 31557601", mtasts.Policy{Mode: "none", MaxAge: mtasts.MaxAge}},
		{"max_age of ten digits (trap 6)", "version: STSv1\nmode: none\nmax_age: 9999999999", mtasts.Policy{Mode: "none", MaxAge: mtasts.MaxAge}},
		{"max_age beyond 64 bits", "version: STSv1\nmode: none\nmax_age: 99999999999999999999999", mtasts.Policy{Mode: "none", MaxAge: mtasts.MaxAge}},
		{"max_age with zeros in front", "version: STSv1\nmode: none\nmax_age: 0000086400", mtasts.Policy{Mode: "none", MaxAge: day}},
		{"A-label", "version: STSv1\nmode: testing\nmx: xn--bcher-kva.example\nmax_age: 86400", mtasts.Policy{Mode: "testing", MX: []string{"xn--bcher-kva.example"}, MaxAge: day}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := mtasts.ParsePolicy([]byte(c.text))
			require.NoError(t, err)
			require.Equal(t, c.want, p)
		})
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	const head = "version: STSv1\nmode: enforce\nmax_age: 86400\n"
	for _, c := range []struct {
		name, text string
		rule       mtasts.Rule
		line       int
	}{
		{"nothing", "", mtasts.RuleBlank, 1},
		{"a web page", "<html>\nversion: STSv1", mtasts.RuleSyntax, 1},
		{"no version", "mode: none\nmax_age: 1", mtasts.RuleVersion, 0},
		{"other version", "version: STSv2\nmode: none\nmax_age: 1", mtasts.RuleVersion, 1},
		{"version in another case", "version: stsv1\nmode: none\nmax_age: 1", mtasts.RuleVersion, 1},
		{"field name in another case", "Version: STSv1\nmode: none\nmax_age: 1", mtasts.RuleVersion, 0},
		{"no mode", "version: STSv1\nmx: a.example\nmax_age: 1", mtasts.RuleMode, 0},
		{"mode in another case", "version: STSv1\nmode: Enforce\nmx: a.example\nmax_age: 1", mtasts.RuleMode, 2},
		{"no max_age", "version: STSv1\nmode: none", mtasts.RuleMaxAge, 0},
		{"negative max_age", "version: STSv1\nmode: none\nmax_age: -1", mtasts.RuleMaxAge, 3},
		{"max_age with a sign", "version: STSv1\nmode: none\nmax_age: +1", mtasts.RuleMaxAge, 3},
		{"first max_age broken", "version: STSv1\nmode: none\nmax_age: 1d\nmax_age: 1", mtasts.RuleMaxAge, 3},
		{"no mx", head, mtasts.RuleMX, 0},
		{"testing without mx", "version: STSv1\nmode: testing\nmax_age: 1", mtasts.RuleMX, 0},
		{"IPv4 address", head + "mx: 192.0.2.1", mtasts.RuleMX, 4},
		{"address literal", head + "mx: [192.0.2.1]", mtasts.RuleMX, 4},
		{"IPv6 address", head + "mx: 2001:db8::1", mtasts.RuleMX, 4},
		{"wildcard of an address", head + "mx: *.192.0.2.1", mtasts.RuleMX, 4},
		{"U-label", head + "mx: bücher.example", mtasts.RuleMX, 4},
		{"underscore", head + "mx: a_b.example", mtasts.RuleMX, 4},
		{"label ends with a hyphen", head + "mx: a-.example", mtasts.RuleMX, 4},
		{"label begins with a hyphen", head + "mx: -a.example", mtasts.RuleMX, 4},
		{"two on a line", head + "mx: a.example b.example", mtasts.RuleMX, 4},
		{"wildcard alone", head + "mx: *", mtasts.RuleMX, 4},
		{"wildcard and dot", head + "mx: *.", mtasts.RuleMX, 4},
		{"wildcard not on the left", head + "mx: a.*.example", mtasts.RuleMX, 4},
		{"two wildcards", head + "mx: *.*.example", mtasts.RuleMX, 4},
		{"part of a label", head + "mx: a*.example", mtasts.RuleMX, 4},
		{"dot in front", head + "mx: .example", mtasts.RuleMX, 4},
		{"label of 64", head + "mx: " + strings.Repeat("a", 64) + ".example", mtasts.RuleMX, 4},
		{"one broken mx of two", head + "mx: a.example\nmx: 192.0.2.1", mtasts.RuleMX, 5},
		{"blank line inside", "version: STSv1\n\nmode: none\nmax_age: 1", mtasts.RuleBlank, 2},
		{"blank line at the end", "version: STSv1\nmode: none\nmax_age: 1\n\n", mtasts.RuleBlank, 4},
		{"line of white space", "version: STSv1\n \nmode: none\nmax_age: 1", mtasts.RuleBlank, 2},
		{"white space in front", " version: STSv1\nmode: none\nmax_age: 1", mtasts.RuleSyntax, 1},
		{"white space before the colon", "version : STSv1\nmode: none\nmax_age: 1", mtasts.RuleSyntax, 1},
		{"empty value", "version: STSv1\nmode: none\nmax_age: 1\nx:", mtasts.RuleSyntax, 4},
		{"control character", "version: STSv1\nmode: none\nmax_age: 1\nx: a\x00b", mtasts.RuleSyntax, 4},
		{"bare CR", "version: STSv1\nmode: none\nmax_age: 1\nx: a\rb", mtasts.RuleSyntax, 4},
		{"not UTF-8", "version: STSv1\nmode: none\nmax_age: 1\nx: a\xff", mtasts.RuleSyntax, 4},
		{"byte order mark", "\ufeffversion: STSv1\nmode: none\nmax_age: 1", mtasts.RuleSyntax, 1},
		{"too long (trap 5)", head + "mx: a.example\n" + strings.Repeat("x: y\n", mtasts.MaxPolicy/5), mtasts.RuleSize, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := mtasts.ParsePolicy([]byte(c.text))
			require.Zero(t, p)
			var pe *mtasts.PolicyError
			require.ErrorAs(t, err, &pe)
			require.Equal(t, mtasts.PolicyError{Rule: c.rule, Line: c.line}, *pe)
			require.Contains(t, err.Error(), string(c.rule))
		})
	}
}

func TestMatch(t *testing.T) {
	p := mtasts.Policy{MX: []string{"mail.example.com", "*.example.net", "xn--bcher-kva.example", "*.xn--bcher-kva.example"}}
	for host, want := range map[string]bool{
		"mail.example.com": true, "MAIL.Example.COM": true, "mail.example.com.": true,
		"mail.example.com..": false, "amail.example.com": false, "a.mail.example.com": false, "example.com": false,
		"a.example.net": true, "A.EXAMPLE.NET.": true, "example.net": false, "example.net.": false, "a.b.example.net": false, ".example.net": false,
		"aexample.net": false, "a.example.net.evil.example": false, "*.example.net": false, "a_b.example.net": true,
		"bücher.example": true, "BÜCHER.example.": true, "xn--bcher-kva.example": true,
		"mx.bücher.example": true, "mx.XN--BCHER-KVA.example": true, "a.mx.bücher.example": false,
		"": false, ".": false, "192.0.2.1": false, "mail.example.com\x00": false, "mail example.com": false,
	} {
		require.Equal(t, want, p.Match(host), host)
	}
	require.True(t, mtasts.Policy{MX: []string{"*.EXAMPLE.com"}}.Match("a.example.com"), "a pattern made by hand")
	require.False(t, mtasts.Policy{}.Match("a.example.com"), "no pattern matches nothing")
	long := strings.Repeat("a.", 126) + "a"
	require.True(t, mtasts.Policy{MX: []string{long}}.Match(long), "253 octets")
}

// name draws a host name of A-labels.
func name(t *rapid.T) string {
	return rapid.StringMatching(`([a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?\.){1,3}[a-z]{2,5}`).Draw(t, "name")
}

// TestMatchProperty: a wildcard stands for one label, whatever the case and the final dot.
func TestMatchProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base, label := name(t), rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(t, "label")
		wild, exact := mtasts.Policy{MX: []string{"*." + base}}, mtasts.Policy{MX: []string{base}}
		dress := func(s string) string {
			if rapid.Bool().Draw(t, "upper") {
				s = strings.ToUpper(s)
			}
			if rapid.Bool().Draw(t, "dot") {
				s += "."
			}
			return s
		}
		require.True(t, wild.Match(dress(label+"."+base)))
		require.False(t, wild.Match(dress(base)))
		require.False(t, wild.Match(dress("x."+label+"."+base)))
		require.False(t, wild.Match(dress(label+base)))
		require.True(t, exact.Match(dress(base)))
		require.False(t, exact.Match(dress(label+"."+base)))
	})
}

func TestPolicyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := mtasts.Policy{
			Mode:       rapid.SampledFrom([]mtasts.Mode{mtasts.Enforce, mtasts.Testing, mtasts.None}).Draw(t, "mode"),
			MaxAge:     time.Duration(rapid.Int64Range(0, int64(mtasts.MaxAge/time.Second)).Draw(t, "age")) * time.Second,
			Extensions: extensions(t, `[!-~ü]([ -~]{0,10}[!-~])?`),
		}
		for range rapid.IntRange(1, 4).Draw(t, "hosts") {
			p.MX = append(p.MX, rapid.SampledFrom([]string{"", "*."}).Draw(t, "wild")+name(t))
		}
		s := p.String()
		if rapid.Bool().Draw(t, "crlf") {
			s = strings.ReplaceAll(s, "\n", "\r\n")
		}
		again, err := mtasts.ParsePolicy([]byte(s))
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

func ExampleParsePolicy() {
	p, err := mtasts.ParsePolicy([]byte("version: STSv1\nmode: enforce\nmx: *.example.net\nmax_age: 604800\n"))
	fmt.Println(p.Mode, p.MaxAge, err)
	fmt.Println(p.Match("mx1.example.net."), p.Match("example.net"))
	_, err = mtasts.ParsePolicy([]byte("version: STSv1\nmode: enforce\nmx: 192.0.2.1\nmax_age: 604800\n"))
	fmt.Println(err)
	// Output:
	// enforce 168h0m0s <nil>
	// true false
	// mtasts: policy: line 3: rule mx
}
