package mtasts_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/mtasts"
)

func TestParseRecord(t *testing.T) {
	long := strings.Repeat("a", 32)
	for _, c := range []struct {
		name string
		txts []string
		id   string
	}{
		{"plain", []string{"v=STSv1; id=20261125a;"}, "20261125a"},
		{"no last delimiter", []string{"v=STSv1;id=a"}, "a"},
		{"white space around delimiters", []string{"v=STSv1 \t;\tid=a ; "}, "a"},
		{"id of 32", []string{"v=STSv1; id=" + long}, long},
		{"id is kept as it stands", []string{"v=STSv1; id=aB"}, "aB"},
		{"extension before the id, with colons", []string{"v=STSv1; x=a:b:c; id=a"}, "a"},
		{"the first id counts", []string{"v=STSv1; id=a; id=b"}, "a"},
		{"a second id may be broken", []string{"v=STSv1; id=a; id=-"}, "a"},
		{"an unrelated record beside it (trap 4)", []string{"v=spf1 -all", "v=STSv1; id=a;", "hello"}, "a"},
		{"another version beside it", []string{"v=STSv2; id=b;", "v=STSv1; id=a;"}, "a"},
		{"a longer version beside it", []string{"v=STSv10; id=b;", "v=STSv1; id=a;"}, "a"},
		{"the version alone beside it", []string{"v=STSv1", "v=STSv1; id=a;"}, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := mtasts.ParseRecord(c.txts)
			require.NoError(t, err)
			require.Equal(t, c.id, r.ID)
		})
	}
}

func TestParseRecordRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		txts []string
		rule mtasts.Rule // "": no record at all
	}{
		{"none", nil, ""},
		{"version not first", []string{"id=a; v=STSv1;"}, ""},
		{"version in lower case", []string{"v=stsv1; id=a;"}, ""},
		{"blank in front", []string{" v=STSv1; id=a;"}, ""},
		{"two", []string{"v=STSv1; id=a;", "v=STSv1; id=a;"}, mtasts.RuleOne},
		{"two, one of them broken", []string{"v=STSv1; id=a;", "v=STSv1; id=-;"}, mtasts.RuleOne},
		{"no field", []string{"v=STSv1;"}, mtasts.RuleSyntax},
		{"no id", []string{"v=STSv1; x=y;"}, mtasts.RuleID},
		{"empty id", []string{"v=STSv1; id=;"}, mtasts.RuleID},
		{"id of 33", []string{"v=STSv1; id=" + strings.Repeat("a", 33)}, mtasts.RuleID},
		{"hyphen in the id", []string{"v=STSv1; id=a-b"}, mtasts.RuleID},
		{"first id broken", []string{"v=STSv1; id=-; id=a"}, mtasts.RuleID},
		{"empty field", []string{"v=STSv1;; id=a"}, mtasts.RuleSyntax},
		{"two delimiters at the end", []string{"v=STSv1; id=a;;"}, mtasts.RuleSyntax},
		{"no equals sign", []string{"v=STSv1; id"}, mtasts.RuleSyntax},
		{"equals sign in a value", []string{"v=STSv1; id=a; x=b=c"}, mtasts.RuleSyntax},
		{"empty value", []string{"v=STSv1; id=a; x="}, mtasts.RuleSyntax},
		{"name of 33", []string{"v=STSv1; id=a; " + strings.Repeat("x", 33) + "=y"}, mtasts.RuleSyntax},
		{"name begins with a hyphen", []string{"v=STSv1; id=a; -x=y"}, mtasts.RuleSyntax},
		{"blank before the equals sign", []string{"v=STSv1; id =a"}, mtasts.RuleSyntax},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := mtasts.ParseRecord(c.txts)
			require.ErrorIs(t, err, mtasts.ErrNoRecord)
			var re *mtasts.RecordError
			if c.rule == "" {
				require.NotErrorAs(t, err, &re)
				return
			}
			require.ErrorAs(t, err, &re)
			require.Equal(t, c.rule, re.Rule)
			require.Equal(t, "mtasts: record: rule "+string(c.rule), err.Error())
		})
	}
}

func TestRecordLine(t *testing.T) {
	line, err := mtasts.Record{ID: "a1"}.Line("Bücher.example.")
	require.NoError(t, err)
	require.Equal(t, `_mta-sts.xn--bcher-kva.example. IN TXT "v=STSv1; id=a1;"`, line)

	_, err = mtasts.Record{ID: "a b"}.Line("example.com")
	require.Error(t, err)
	_, err = mtasts.Record{ID: "a"}.Line("a..b")
	require.Error(t, err)

	r := mtasts.Record{ID: "a", Extensions: []mtasts.Field{{Name: "x", Value: strings.Repeat(`"\`, 150)}}}
	line, err = r.Line("example.com")
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(line, `" "`)+1, "longer than a string may be")
	require.Contains(t, line, `\"\\`)
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := mtasts.Record{ID: rapid.StringMatching(`[A-Za-z0-9]{1,32}`).Draw(t, "id"), Extensions: extensions(t, `[!-:<>-~]{1,20}`)}
		again, err := mtasts.ParseRecord([]string{"other", r.String()})
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func extensions(t *rapid.T, value string) []mtasts.Field {
	var fs []mtasts.Field
	for i := range rapid.IntRange(0, 3).Draw(t, "n") {
		fs = append(fs, mtasts.Field{
			Name:  "x" + string(rune('0'+i)) + rapid.StringMatching(`[A-Za-z0-9_.-]{0,30}`).Draw(t, "name"),
			Value: strings.ReplaceAll(rapid.StringMatching(value).Draw(t, "value"), "=", "-"),
		})
	}
	return fs
}
