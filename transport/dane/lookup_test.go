package dane_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dane"
)

var (
	errNone = &net.DNSError{Err: "no such record", IsNotFound: true}
	errFail = errors.New("server failure")
)

// zone is a Resolver of answers and errors by name.
type zone struct {
	tlsa  map[string]any
	cname map[string]any
	asked []string
}

func (z *zone) TLSA(ctx context.Context, name string) (dane.Answer, error) {
	z.asked = append(z.asked, "TLSA "+name)
	switch v := z.tlsa[name].(type) {
	case dane.Answer:
		return v, nil
	case error:
		return dane.Answer{}, v
	}
	return dane.Answer{}, errors.Join(errNone, ctx.Err())
}

func (z *zone) CNAME(_ context.Context, name string) (dane.Alias, error) {
	z.asked = append(z.asked, "CNAME "+name)
	switch v := z.cname[name].(type) {
	case dane.Alias:
		return v, nil
	case error:
		return dane.Alias{}, v
	}
	return dane.Alias{}, errNone
}

var digest256 = make([]byte, 32)

// The answers that a TLSA question can have, and what each means.
var tlsaAnswers = map[string]any{
	"usable":   dane.Answer{Records: []dane.Record{{Usage: 3, Selector: 1, Match: 1, Data: digest256}}, Secure: true, TTL: time.Minute},
	"unusable": dane.Answer{Records: []dane.Record{{Usage: 1, Selector: 1, Match: 1, Data: digest256}}, Secure: true, TTL: time.Minute},
	"unsigned": dane.Answer{Records: []dane.Record{{Usage: 3, Selector: 1, Match: 1, Data: digest256}}, TTL: time.Minute},
	"empty":    dane.Answer{Secure: true},
	"absent":   errNone,
	"failing":  errFail,
	"late":     context.DeadlineExceeded,
}

// meaning is the state that ends the search, or "" where it goes on.
var meaning = map[string]string{"usable": "usable", "unusable": "unusable", "unsigned": "", "empty": "", "absent": "", "failing": "unknown", "late": "unknown"}

var aliasAnswers = map[string]any{
	"signed": dane.Alias{Target: "real.test", Secure: true}, "unsigned": dane.Alias{Target: "real.test"}, "absent": errNone, "failing": errFail,
}

// TestDecisionTable goes through RFC 7672 section 2.2 whole: every state of the MX and the address answer, of an alias, and
// of the TLSA answers at both names.
func TestDecisionTable(t *testing.T) {
	n := 0
	for _, signed := range []bool{true, false} {
		for _, secure := range []bool{true, false} {
			for _, canonical := range []string{"", "mx.test", "real.test"} {
				for alias, aliasAnswer := range aliasAnswers {
					for atReal, realAnswer := range tlsaAnswers {
						for atMX, mxAnswer := range tlsaAnswers {
							z := &zone{
								tlsa:  map[string]any{"_25._tcp.mx.test": mxAnswer, "_25._tcp.real.test": realAnswer},
								cname: map[string]any{"mx.test": aliasAnswer},
							}
							h := dane.Host{Name: "mx.test", Canonical: canonical, NextHop: "dom.test", Signed: signed, Secure: secure}
							p := dane.Lookup(t.Context(), z, h)
							state, base, asked := expect(h, alias, atReal, atMX)
							name := fmt.Sprintf("%+v alias %s, TLSA %s and %s", h, alias, atReal, atMX)
							require.Equal(t, state, p.State.String(), name)
							require.Equal(t, base, p.Base, name)
							require.Equal(t, asked, strings.Join(z.asked, ", "), name)
							require.NotEmpty(t, p.Findings, name)
							require.Equal(t, state == "usable", len(p.Records) > 0, name)
							require.Equal(t, base != "", len(p.Names) > 0, name)
							if base != "" {
								require.Equal(t, time.Minute, p.TTL, name)
							}
							n++
						}
					}
				}
			}
		}
	}
	require.Equal(t, 2*2*3*4*7*7, n)
}

// expect is the table in words.
func expect(h dane.Host, alias, atReal, atMX string) (state, base, asked string) {
	const real, mx = "TLSA _25._tcp.real.test", "TLSA _25._tcp.mx.test"
	aliased := h.Canonical == "real.test"
	finish := func(what, name, asked string) (string, string, string) {
		switch meaning[what] {
		case "unknown":
			return "unknown", "", asked
		case "":
			return "none", "", asked
		}
		return meaning[what], name, asked
	}
	switch {
	case !h.Signed:
		return "none", "", ""
	case h.Secure && aliased && meaning[atReal] != "":
		return finish(atReal, "real.test", real)
	case h.Secure && aliased:
		return finish(atMX, "mx.test", real+", "+mx)
	case h.Secure:
		return finish(atMX, "mx.test", mx)
	case !aliased:
		return "none", "", ""
	case alias == "failing":
		return "unknown", "", "CNAME mx.test"
	case alias != "signed":
		return "none", "", "CNAME mx.test"
	}
	return finish(atMX, "mx.test", "CNAME mx.test, "+mx)
}

// RFC 7672 section 3.2.2: the four reference names, and which of them where.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		name string
		host dane.Host
		at   string
		want []string
	}{
		{"MX host", dane.Host{Name: "mx.test", NextHop: "dom.test", Secure: true}, "mx.test", []string{"mx.test", "dom.test"}},
		{"records at the end of the aliases", dane.Host{Name: "mx.test", Canonical: "real.test", NextHop: "dom.test", NextHopCanonical: "main.test", Secure: true},
			"real.test", []string{"real.test", "mx.test", "dom.test", "main.test"}},
		{"records at the alias", dane.Host{Name: "mx.test", Canonical: "real.test", NextHop: "dom.test", NextHopCanonical: "main.test", Secure: true},
			"mx.test", []string{"mx.test", "real.test", "dom.test", "main.test"}},
		{"an unsigned chain names nothing", dane.Host{Name: "mx.test", Canonical: "real.test", NextHop: "dom.test"}, "mx.test", []string{"mx.test", "dom.test"}},
		{"implicit MX", dane.Host{Name: "dom.test", NextHop: "dom.test", Secure: true}, "dom.test", []string{"dom.test"}},
		{"implicit MX of an alias", dane.Host{Name: "dom.test", Canonical: "main.test", NextHop: "dom.test", NextHopCanonical: "main.test", Secure: true},
			"main.test", []string{"main.test", "dom.test"}},
		{"names in any form", dane.Host{Name: "MX.Test.", NextHop: "Dom.TEST.", Secure: true}, "mx.test", []string{"mx.test", "dom.test"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := &zone{tlsa: map[string]any{"_25._tcp." + c.at: tlsaAnswers["usable"]}, cname: map[string]any{"mx.test": aliasAnswers["signed"]}}
			c.host.Signed = true
			p := dane.Lookup(t.Context(), z, c.host)
			require.Equal(t, c.at, p.Base)
			require.Equal(t, c.want, p.Names)
		})
	}
}

func TestNothingToAsk(t *testing.T) {
	for _, name := range []string{"", "192.0.2.1", "2001:db8::1", "."} {
		z := &zone{}
		p := dane.Lookup(t.Context(), z, dane.Host{Name: name, Signed: true, Secure: true})
		require.Equal(t, dane.None, p.State)
		require.Empty(t, z.asked)
	}
	z := &zone{}
	dane.Lookup(t.Context(), z, dane.Host{Name: "mx.test", Port: 587, Signed: true, Secure: true})
	require.Equal(t, []string{"TLSA _587._tcp.mx.test"}, z.asked)
}

// A look-up that was cut short is no answer.
func TestEndOfContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	z := &zone{tlsa: map[string]any{"_25._tcp.mx.test": ctx.Err()}}
	require.Equal(t, dane.Unknown, dane.Lookup(ctx, z, dane.Host{Name: "mx.test", Signed: true, Secure: true}).State)
}

func TestStates(t *testing.T) {
	require.Equal(t, "unknown none usable unusable unusable", fmt.Sprint(dane.Unknown, dane.None, dane.Usable, dane.Unusable, dane.State(9)))
	require.Equal(t, dane.Unknown, dane.Policy{}.State)
}

func policy(rs ...dane.Record) dane.Policy {
	z := &zone{tlsa: map[string]any{"_25._tcp.real.test": dane.Answer{Records: rs, Secure: true}}}
	return dane.Lookup(context.Background(), z, dane.Host{
		Name: "mx.test", Canonical: "real.test", NextHop: "dom.test", NextHopCanonical: "main.test", Signed: true, Secure: true,
	})
}

func rules(p dane.Policy) string {
	var out []string
	for _, f := range p.Findings {
		out = append(out, f.Rule)
	}
	return strings.Join(out, " ")
}

// What of a record makes it unusable, and that one usable record is enough.
func TestUsable(t *testing.T) {
	leaf := spec{subject: "leaf"}.make()
	good := record(leaf.Certificate, 3, 1, 1)
	for usage := range uint8(6) {
		for selector := range uint8(4) {
			for match := range uint8(5) {
				r := record(leaf.Certificate, usage, selector, match)
				want := (usage == 2 || usage == 3) && selector < 2 && match < 3
				p := policy(r)
				require.Equal(t, want, p.State == dane.Usable, r)
				require.Equal(t, !want, p.State == dane.Unusable, r)
				if !want {
					require.Equal(t, "dane-record-unusable dane-unusable", rules(p))
				}
				require.Equal(t, dane.Usable, policy(r, good).State, r)
			}
		}
	}
	require.Equal(t, dane.Unusable, policy(dane.Record{Usage: 255, Selector: 255, Match: 255}).State)
}

func TestMalformed(t *testing.T) {
	leaf := spec{subject: "leaf"}.make()
	cert, spki := leaf.Raw, leaf.RawSubjectPublicKeyInfo
	for name, r := range map[string]dane.Record{
		"SHA2-256 short":            {Usage: 3, Selector: 1, Match: 1, Data: make([]byte, 31)},
		"SHA2-256 long":             {Usage: 3, Selector: 1, Match: 1, Data: make([]byte, 33)},
		"SHA2-256 as SHA2-512":      {Usage: 3, Selector: 1, Match: 2, Data: make([]byte, 32)},
		"SHA2-512 short":            {Usage: 2, Selector: 0, Match: 2, Data: make([]byte, 63)},
		"no digest":                 {Usage: 3, Selector: 1, Match: 1},
		"no certificate":            {Usage: 3, Selector: 0, Match: 0},
		"no key":                    {Usage: 2, Selector: 1, Match: 0},
		"certificate cut":           {Usage: 3, Selector: 0, Match: 0, Data: cert[:len(cert)-1]},
		"certificate and more":      {Usage: 3, Selector: 0, Match: 0, Data: append(slices.Clone(cert), 0)},
		"key cut":                   {Usage: 3, Selector: 1, Match: 0, Data: spki[:len(spki)-1]},
		"key and more":              {Usage: 2, Selector: 1, Match: 0, Data: append(slices.Clone(spki), 0)},
		"key in a certificate's":    {Usage: 3, Selector: 0, Match: 0, Data: spki},
		"certificate in a key's":    {Usage: 3, Selector: 1, Match: 0, Data: cert},
		"digest in a certificate's": {Usage: 3, Selector: 0, Match: 0, Data: digest256},
	} {
		require.Equal(t, dane.Unusable, policy(r).State, name)
		// Nor does one that came into a Policy by another way match anything.
		_, err := dane.Policy{State: dane.Usable, Records: []dane.Record{r}}.Verify(certs(leaf), clock())
		require.Error(t, err, name)
	}
	// One with an outline is there to be matched, whatever is in it.
	odd := dane.Record{Usage: 3, Selector: 1, Match: 0, Data: []byte{0x30, 6, 0x30, 0, 3, 2, 0, 1}}
	require.Equal(t, dane.Usable, policy(odd).State)
	_, err := policy(odd).Verify(certs(leaf), clock())
	require.Error(t, err)
}

// RFC 7671 section 9.
func TestDigestAgility(t *testing.T) {
	leaf, other := spec{subject: "leaf"}.make().Certificate, spec{subject: "other"}.make().Certificate
	for _, c := range []struct {
		name string
		rs   []dane.Record
		ok   bool
	}{
		{"the weaker alone", []dane.Record{record(leaf, 3, 1, 1)}, true},
		{"both match", []dane.Record{record(leaf, 3, 1, 1), record(leaf, 3, 1, 2)}, true},
		{"the stronger does not match", []dane.Record{record(leaf, 3, 1, 1), record(other, 3, 1, 2)}, false},
		{"one of two stronger", []dane.Record{record(other, 3, 1, 2), record(leaf, 3, 1, 2), record(other, 3, 1, 1)}, true},
		{"another selector stands for itself", []dane.Record{record(leaf, 3, 1, 1), record(other, 3, 0, 2)}, true},
		{"another usage stands for itself", []dane.Record{record(leaf, 3, 1, 1), record(other, 2, 1, 2)}, true},
		{"full data always count", []dane.Record{record(leaf, 3, 1, 0), record(other, 3, 1, 2)}, true},
		{"a malformed stronger one does not count", []dane.Record{record(leaf, 3, 1, 1), {Usage: 3, Selector: 1, Match: 2, Data: make([]byte, 63)}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy(c.rs...)
			require.Equal(t, dane.Usable, p.State)
			_, err := p.Verify(certs(&pair{Certificate: leaf}), clock())
			require.Equal(t, c.ok, err == nil)
		})
	}
}

// Of ten thousand records few are kept, and the good one is found if it is among the first that count.
func TestManyRecords(t *testing.T) {
	leaf := spec{subject: "leaf"}.make()
	good := record(leaf.Certificate, 3, 1, 1)
	var bad, unusable, doubles []dane.Record
	for i := range 10000 {
		d := slices.Clone(digest256)
		d[0], d[1] = byte(i), byte(i>>8)
		bad = append(bad, dane.Record{Usage: 3, Selector: 1, Match: 1, Data: d})
		unusable = append(unusable, dane.Record{Usage: 0, Selector: 1, Match: 1, Data: d})
		doubles = append(doubles, bad[0])
	}
	p := policy(append(bad, good)...)
	require.Equal(t, dane.Usable, p.State, "too many is no reason for less")
	require.Len(t, p.Records, 64)
	require.Contains(t, rules(p), "dane-many")
	_, err := p.Verify(certs(leaf), clock())
	require.Error(t, err)
	for _, rs := range [][]dane.Record{append([]dane.Record{good}, bad...), append(unusable, good), append(doubles, good)} {
		_, err = policy(rs...).Verify(certs(leaf), clock())
		require.NoError(t, err)
	}
	require.Equal(t, dane.Unusable, policy(unusable[:9000]...).State)
}
