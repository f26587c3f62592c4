package archtest_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/archtest"
)

func TestProgram(t *testing.T) {
	_, err := archtest.Program("no code\n```go\nx := 1\n```\n")
	require.Error(t, err)
	got, err := archtest.Program("\n```go\nx := 1\n```\n\n```go\npackage main\n\nfunc main() {}\n```\nmore\n```\n")
	require.NoError(t, err)
	require.Equal(t, "package main\n\nfunc main() {}\n", got)
}

// TestReadme compiles, vets and runs the program on the README. It runs in an empty folder, where it makes its database.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	code, err := archtest.Program(string(text))
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(code, "\n"), archtest.MaxProgram)

	dir, home := t.TempDir(), t.TempDir()
	src, prog := filepath.Join(dir, "main.go"), filepath.Join(dir, "prog")
	require.NoError(t, os.WriteFile(src, []byte(code), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run(ctx, t, root, "go", "vet", src)
	run(ctx, t, root, "go", "build", "-o", prog, src)

	out := run(ctx, t, home, prog)
	require.Regexp(t, `(?m)^[0-9a-v]{26} (bounced|deferred) `, out, "a line a recipient; example.net takes no mail")
	require.FileExists(t, filepath.Join(home, "mail.db"))
	require.FileExists(t, filepath.Join(home, "mail.db.key"))
}

func run(ctx context.Context, t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
