package witness_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail/audit/witness"
)

// logKeys are verifier keys of logs, the first of which is that of newTree.
func logKeys(t testing.TB, n int) []string {
	var out []string
	for i := range n {
		_, public, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{byte('k' + i)}, 64)), origin)
		require.NoError(t, err)
		out = append(out, public)
	}
	return out
}

const grouped = `# two operators
log %s
witness X1 %s https://x1.test/w
witness X2 %s
	witness X3 %s
group X 2 X1 X2 X3
witness Y1 %s
witness Y2 %s
group Y any Y1 Y2

group both all X Y
quorum both
`

func TestPolicyQuorum(t *testing.T) {
	log := newTree(t).grow(4, "entry")
	args := []any{logKeys(t, 1)[0]}
	var cosigners []*cosigner
	for i := range 5 {
		c := newCosigner(fmt.Sprintf("w%d.test", i), byte(i))
		cosigners = append(cosigners, c)
		args = append(args, c.vkey())
	}
	p, err := witness.ParsePolicy(fmt.Appendf(nil, grouped, args...))
	require.NoError(t, err)
	require.Equal(t, witness.Member{Name: "X1", Key: cosigners[0].vkey(), URL: "https://x1.test/w"}, p.Witnesses()[0])
	require.Len(t, p.Witnesses(), 5)

	cp := string(log.checkpoint(t))
	text := cp[:strings.Index(cp, "\n\n")+1]
	for set := range 1 << 5 { // every subset of witnesses
		b, x, y := cp, 0, 0
		for i, c := range cosigners {
			switch {
			case set>>i&1 == 0:
				continue
			case i < 3:
				x++
			default:
				y++
			}
			b += c.sign(text)
		}
		v, err := p.Verify([]byte(b + newCosigner("stranger.test", 9).sign(text)))
		if x < 2 || y < 1 {
			require.ErrorIs(t, err, witness.ErrPolicy, "%05b", set)
			require.ErrorContains(t, err, "quorum")
			continue
		}
		require.NoError(t, err, "%05b", set)
		require.Equal(t, origin, v.Origin)
		require.EqualValues(t, 4, v.Size)
		require.Len(t, v.Cosigned, x+y)
		for _, at := range v.Cosigned {
			require.WithinDuration(t, time.Now(), at, time.Minute)
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	log, w := newTree(t).grow(4, "entry"), newCosigner("w.test", 1)
	p, err := witness.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness W %s\nquorum W\n", logKeys(t, 1)[0], w.vkey()))
	require.NoError(t, err)
	cp := string(log.checkpoint(t))
	text := cp[:strings.Index(cp, "\n\n")+1]
	good := cp + w.sign(text)
	_, err = p.Verify([]byte(good))
	require.NoError(t, err)

	evil := newCosigner("w.test", 1)
	evil.key = newCosigner("w.test", 2).key
	forged := strings.Replace(w.sign(text), "A", "B", 1)
	require.NotEqual(t, forged, w.sign(text))
	for name, b := range map[string]string{
		"empty":           "",
		"no cosignature":  cp,
		"no log":          text + "\n" + w.sign(text),
		"another size":    strings.Replace(good, "\n4\n", "\n5\n", 1),
		"forged":          cp + forged,
		"another key":     cp + evil.sign(text),
		"of another tree": cp + w.sign(strings.Replace(text, "\n4\n", "\n5\n", 1)),
	} {
		_, err := p.Verify([]byte(b))
		require.ErrorIs(t, err, witness.ErrPolicy, name)
	}

	// The log's key signs under the name of another log.
	n := &note.Note{Text: strings.Replace(text, origin, "log.test/2", 1)}
	b, err := note.Sign(n, log.signer)
	require.NoError(t, err)
	_, err = p.Verify(append(b, w.sign(n.Text)...))
	require.ErrorContains(t, err, "not signed by a log")

	// A log that signs with a cosigner's key, and no witness at all.
	l := newCosigner(origin, 7)
	p, err = witness.ParsePolicy([]byte("log " + l.vkey() + "\nquorum none"))
	require.NoError(t, err)
	v, err := p.Verify([]byte(text + "\n" + l.sign(text)))
	require.NoError(t, err)
	require.Empty(t, v.Cosigned)
}

func TestParsePolicy(t *testing.T) {
	l, w := logKeys(t, 65), make([]string, 65)
	for i := range w {
		w[i] = newCosigner("w.test", byte(i)).vkey()
	}
	many := func(f string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, f+"\n", i, w[i])
		}
		return b.String()
	}
	groups := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "group g%d any w%d\n", i, i)
		}
		return b.String()
	}
	two := "witness a " + w[0] + "\nwitness b " + w[1] + "\n"
	for name, c := range map[string]struct{ text, says string }{
		"least":              {"quorum none", ""},
		"spaces":             {" \t quorum \t none \t\n# x\n\n", ""},
		"other octets":       {"witness \xff\x80 " + w[0] + "\nquorum \xff\x80\n", ""},
		"64 of each":         {"log " + strings.Join(l[:64], "\nlog ") + "\n" + many("witness w%d %s", 64) + groups(64) + "quorum g1", ""},
		"a member as quorum": {two + "group g 1 a b\nquorum a", ""},
		"a group twice":      {two + "group g any a\ngroup h any g\nquorum g", ""},
		"nothing":            {"", "no quorum line"},
		"two quorums":        {"quorum none\nquorum none", "line 2: a second quorum"},
		"unknown quorum":     {"quorum x", "not defined above"},
		"later":              {"quorum a\n" + two, "line 1: the quorum is not defined"},
		"unknown word":       {"quorum none\nthreshold 3", "line 2"},
		"carriage return":    {"quorum none\r\n", "control character"},
		"too long":           {strings.Repeat("#", 1<<18+1), "too long"},
		"log twice":          {"log " + l[0] + "\nlog " + l[0], "there already"},
		"log without key":    {"log x", "key"},
		"65 logs":            {"log " + strings.Join(l, "\nlog "), "too many logs"},
		"65 witnesses":       {many("witness w%d %s", 65), "too many witnesses"},
		"65 groups":          {many("witness w%d %s", 64) + groups(65), "too many groups"},
		"key twice":          {"witness a " + w[0] + "\nwitness b " + w[0], "there already"},
		"key of a log":       {"witness a " + l[0], "key"},
		"name twice":         {two + "witness a " + w[2], "taken"},
		"named none":         {"witness none " + w[0], "taken"},
		"group named a":      {two + "group a any b", "taken"},
		"of itself":          {"group g any g", "not defined above"},
		"of none":            {"group g any none", "not defined above"},
		"in two groups":      {two + "group g any a\ngroup h any a", "in a group already"},
		"twice in one":       {two + "group g 2 a a", "in a group already"},
		"zero of two":        {two + "group g 0 a b", "out of range"},
		"three of two":       {two + "group g 3 a b", "out of range"},
		"plus":               {two + "group g +1 a b", "out of range"},
		"no members":         {two + "group g any", "wrong form"},
	} {
		p, err := witness.ParsePolicy([]byte(c.text))
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.Nil(t, p, name)
		require.ErrorIs(t, err, witness.ErrPolicy, name)
		require.ErrorContains(t, err, c.says, name)
	}
}
