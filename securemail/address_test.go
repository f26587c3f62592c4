package securemail

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"anna@example.org":                          "anna@example.org",
		"Anna.B+tag@EXAMPLE.org":                    "Anna.B+tag@example.org",
		"anna@example.org.":                         "anna@example.org",
		"anna@example.org\u3002":                    "anna@example.org",
		`"a b"@example.org`:                         `"a b"@example.org`,
		`"a@b"@example.org`:                         `"a@b"@example.org`,
		`"a\"b"@example.org`:                        `"a\"b"@example.org`,
		"δοκιμή@παράδειγμα.example":                 "δοκιμή@xn--hxajbheg2az3al.example",
		"a@BÜCHER.example":                          "a@xn--bcher-kva.example",
		"a@xn--bcher-kva.example":                   "a@xn--bcher-kva.example",
		"!#$%&'*+-/=?^_`{|}~@example.org":           "!#$%&'*+-/=?^_`{|}~@example.org",
		strings.Repeat("l", 64) + "@example.org":    strings.Repeat("l", 64) + "@example.org",
		"a@" + strings.Repeat("d", 63) + ".example": "a@" + strings.Repeat("d", 63) + ".example",
	} {
		a, err := ParseAddress(in)
		require.NoError(t, err, in)
		require.Equal(t, want, a.Reveal())
		again, err := ParseAddress(a.Reveal())
		require.NoError(t, err)
		require.Equal(t, a, again)
		require.Equal(t, want[strings.LastIndexByte(want, '@')+1:], a.Domain())
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, in := range []string{
		"", "@", "a", "a@", "@example.org", "a b@example.org", "a..b@example.org", ".a@example.org", "a.@example.org",
		"a@b@example.org", "a@[127.0.0.1]", "a@[IPv6:::1]", "a@exa mple.org", "a@example..org", "a@-example.org", "a@.", "a@example.org..",
		"a@example.org.\u3002", "a@..", "a@.example.org",
		"a@exa_mple.org", "a\r\n@example.org", "a@example.org\r\nRCPT TO:<b@example.org>", "a\x00@example.org",
		"\"a\r\n\"@example.org", `"a"b"@example.org`, `"a\"@example.org`, `"@example.org`, "\"a\\\x01\"@example.org",
		"<a@example.org>", "a@example.org>", "a\u0085b@example.org", "a\u2028b@example.org", "gr\xfc\xdfe@example.org",
		"\"a\u0085b\"@example.org", "a@" + strings.Repeat("\u00fc", 60) + "." + strings.Repeat("\u00e4", 55) + "." + strings.Repeat("ö", 20) + "x",
		strings.Repeat("l", 65) + "@example.org", "a@" + strings.Repeat("d", 64) + ".example",
		"a@" + strings.Repeat("dddddddd.", 30) + "example", "a@xn--\u00fc.example",
	} {
		a, err := ParseAddress(in)
		require.Error(t, err, "%q", in)
		require.Equal(t, Address{}, a)
		if len(in) > 3 {
			require.NotContains(t, err.Error(), in)
		}
	}
}

func TestMailbox(t *testing.T) {
	c := Mailbox(` "Example, Anna" <anna@example.org> `)
	require.NoError(t, c.fault)
	require.Equal(t, "Example, Anna", c.Name)
	require.Equal(t, "anna@example.org", c.Address.Reveal())
	require.Equal(t, "anna@example.org", Mailbox(" anna@example.org ").Address.Reveal())
	require.Equal(t, "Žofie", Mailbox("=?utf-8?b?xb1vZmll?= <z@example.org>").Name)
	for _, in := range []string{"", "Anna", "Anna <anna>", "a@example.org, b@example.org", "Anna <a@[127.0.0.1]>"} {
		require.Error(t, Mailbox(in).fault, in)
	}
	rs := To("a@example.org", "nobody")
	require.NoError(t, rs[0].fault)
	require.Error(t, rs[1].fault)
}

// guarded holds one value of each type that must never show itself.
func guarded() []any {
	a := Mailbox("canary@example.org").Address
	c := Contact{Name: "canary", Address: a, Ref: "canary", Attrs: map[string]string{"k": "canary"}}
	s := NewSecret("canary")
	return []any{
		a, &a, s, &s, Subject("canary"), c, &c, Recipient{Contact: c, Factors: []Factor{{"code", "", s}}}, []Address{a},
		map[string]Secret{"k": s}, Attachment{Name: "canary"}, &Draft{Subject: "canary"},
		&Message{head: []byte("canary"), body: Bytes([]byte("canary"))},
	}
}

func TestGuardedTypesRedact(t *testing.T) {
	for _, v := range guarded() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			require.NotContains(t, fmt.Sprintf(verb, v), "canary", "%T with %s", v, verb)
			require.NotContains(t, strings.ToLower(fmt.Sprintf(verb, v)), fmt.Sprintf("%x", "canary"))
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		require.NotContains(t, log.String(), "canary", "%T", v)
	}
}

func TestGuardedTypesDoNotEncodeAsText(t *testing.T) {
	a := Mailbox("canary@example.org").Address
	for _, v := range []any{a, NewSecret("canary"), Subject("canary"), Contact{Address: a}} {
		b, err := json.Marshal(v)
		require.ErrorIs(t, err, errWouldReveal, "%T", v)
		require.Empty(t, b)
	}
	_, err := json.Marshal(map[Address]int{a: 1})
	require.Error(t, err)
	_, err = xml.Marshal(a)
	require.Error(t, err)
}

func TestGuardedTypesBinary(t *testing.T) {
	a, secret, subject := Mailbox("anna@example.org").Address, NewSecret("s"), Subject("p")
	for _, want := range []Address{a, {}} {
		b, err := want.MarshalBinary()
		require.NoError(t, err)
		got := a
		require.NoError(t, got.UnmarshalBinary(b))
		require.Equal(t, want, got)
	}
	require.Error(t, a.UnmarshalBinary([]byte("x")))
	b, err := secret.MarshalBinary()
	require.NoError(t, err)
	var gotSecret Secret
	require.NoError(t, gotSecret.UnmarshalBinary(b))
	require.Equal(t, "s", gotSecret.Reveal())
	b, err = subject.MarshalBinary()
	require.NoError(t, err)
	var gotSubject Subject
	require.NoError(t, gotSubject.UnmarshalBinary(b))
	require.Equal(t, subject, gotSubject)
	require.Empty(t, Address{}.Reveal())
}
