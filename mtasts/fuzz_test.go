package mtasts_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/mtasts"
)

// FuzzRecord: what parses is one record, within its limits, and printing it changes nothing.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{
		"v=STSv1; id=20261125T120000", "v=STSv1;id=a;", "v=STSv1 ; x=1:2 ; id=a ;\n, v=spf1 -all", "v=STSv1; id=", "id=a; v=STSv1",
		"v=STSv1; id=a\nv=STSv1; id=b", "v=STSv1;;id=a", "v=STSv10; id=a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, all string) {
		r, err := mtasts.ParseRecord(strings.Split(all, "\n"))
		if err != nil {
			require.ErrorIs(t, err, mtasts.ErrNoRecord)
			require.Zero(t, r)
			return
		}
		require.Regexp(t, `^[A-Za-z0-9]{1,32}$`, r.ID)
		again, err := mtasts.ParseRecord([]string{r.String()})
		require.NoError(t, err)
		require.Equal(t, r, again)
		line, err := r.Line("example.com")
		require.NoError(t, err)
		require.NotContains(t, line, "\n")
	})
}

// FuzzPolicy: what parses is a whole policy, within its limits, and printing it changes nothing.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{
		"version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmax_age: 604800\n",
		"version:STSv1\r\nmode:none\r\nmax_age:0", "version: STSv1\nmode: testing\nmx: a.example \nmax_age: 9999999999\nx: a:b:c\n",
		"version: STSv1\n\nmode: none\nmax_age: 1\n", "mx: 192.0.2.1", "\xff", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := mtasts.ParsePolicy(text)
		if err != nil {
			var pe *mtasts.PolicyError
			require.ErrorAs(t, err, &pe)
			require.NotEmpty(t, pe.Rule)
			return
		}
		require.Contains(t, []mtasts.Mode{mtasts.Enforce, mtasts.Testing, mtasts.None}, p.Mode)
		require.LessOrEqual(t, p.MaxAge, mtasts.MaxAge)
		require.True(t, p.Mode == mtasts.None || len(p.MX) > 0)
		for _, mx := range p.MX {
			require.True(t, p.Match(strings.Replace(mx, "*", "a", 1)) || len(mx) > 240, mx)
		}
		again, err := mtasts.ParsePolicy([]byte(p.String()))
		if err != nil { // Printing puts a blank behind each colon, which may be too much.
			require.Greater(t, len(p.String()), mtasts.MaxPolicy)
			return
		}
		require.Equal(t, p, again)
	})
}
