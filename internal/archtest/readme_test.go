package archtest_test

import (
	"context"
	"encoding/json"
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

// TestReadme compiles, vets and runs the program on the README. It is laid over the module as a folder that is not on
// the disk, and runs in an empty folder, where it makes its database.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	code, err := archtest.Program(string(text))
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(code, "\n"), archtest.MaxProgram)

	dir := t.TempDir()
	overlay, prog := overlayOf(t, dir, code), filepath.Join(dir, "prog")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run(ctx, t, root, "go", "vet", "-overlay", overlay, "./examples/readme")
	run(ctx, t, root, "go", "build", "-overlay", overlay, "-o", prog, "./examples/readme")

	home := t.TempDir()
	out := run(ctx, t, home, prog)
	require.Contains(t, out, "\n", "it prints a line a recipient")
	require.FileExists(t, filepath.Join(home, "mail.db"))
	require.FileExists(t, filepath.Join(home, "mail.db.key"))
}

func overlayOf(t *testing.T, dir, code string) string {
	t.Helper()
	abs, err := filepath.Abs(root)
	require.NoError(t, err)
	src, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(abs, "examples/readme/main.go"): src},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(src, []byte(code), 0o600))
	require.NoError(t, os.WriteFile(overlay, b, 0o600))
	return overlay
}

func run(ctx context.Context, t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
