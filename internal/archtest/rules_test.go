package archtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/postseal/postseal/internal/archtest"
)

// TestRules runs every rule over each tree in testdata. A tree is a txtar archive: its comment says what it shows, its
// file "want" holds the start of each violation, in order, and none else may be found. Lines of the form
// "<repeat N TEXT>" stand for N lines of TEXT with # counted up.
func TestRules(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			require.NoError(t, err)
			dir := t.TempDir()
			want := unpack(t, a, dir)
			got := everyRule(t, dir)
			for i, w := range want {
				require.Greater(t, len(got), i, "missing: %s", w)
				require.Contains(t, got[i], w)
			}
			require.Len(t, got, len(want), "more than wanted:\n%s", strings.Join(got, "\n"))
		})
	}
}

func everyRule(t *testing.T, dir string) []string {
	t.Helper()
	tr, err := archtest.ReadTree(dir)
	require.NoError(t, err)
	pkgs, err := archtest.Load(dir, "./...")
	require.NoError(t, err)
	atRoot, err := archtest.Root(dir)
	require.NoError(t, err)
	var lines []string
	for _, vs := range [][]archtest.Violation{
		archtest.Arrows(tr), archtest.Light(pkgs, tr), archtest.Limits(tr), archtest.Exports(tr), archtest.Text(tr),
		archtest.Calls(tr), archtest.Fuzz(tr), atRoot, archtest.Maps(tr, pkgs),
	} {
		for _, v := range vs {
			lines = append(lines, v.String())
		}
	}
	return lines
}

// unpack writes the tree, with a go.mod and a map of all its packages unless it has its own, and returns what is wanted.
func unpack(t *testing.T, a *txtar.Archive, dir string) (want []string) {
	t.Helper()
	files := map[string]string{"go.mod": "module example.org/m\n\ngo 1.26\n"}
	names := ""
	for _, f := range a.Files {
		files[f.Name] = expand(t, string(f.Data))
		if pkg := filepath.ToSlash(filepath.Dir(f.Name)); pkg != "." && !strings.Contains(names, "`"+pkg+"`") {
			names += "// `" + pkg + "` \n// " + pkg + " \n"
		}
	}
	if _, ok := files["doc.go"]; !ok {
		files["doc.go"] = "// Package m is a map.\n" + names + "package m\n"
	}
	if _, ok := files["README.md"]; !ok {
		files["README.md"] = names
	}
	for name, data := range files {
		if name == "want" {
			continue
		}
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(data), 0o600))
	}
	for line := range strings.Lines(files["want"]) {
		want = append(want, strings.TrimSpace(line))
	}
	return want
}

func expand(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "<repeat ")
		if !ok {
			b.WriteString(line)
			continue
		}
		count, body, _ := strings.Cut(strings.TrimSuffix(rest, ">\n"), " ")
		var n int
		_, err := fmt.Sscan(count, &n)
		require.NoError(t, err)
		for i := range n {
			b.WriteString(strings.ReplaceAll(body, "#", fmt.Sprint(i)) + "\n")
		}
	}
	return b.String()
}
