package archtest_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/archtest"
)

const root = "../.."

func TestArrows(t *testing.T) {
	report(t, archtest.Arrows(tree(t)))
	report(t, archtest.Light(load(t), tree(t)))
}

func TestCalls(t *testing.T) { report(t, archtest.Calls(tree(t))) }

func TestLimits(t *testing.T)  { report(t, archtest.Limits(tree(t))) }
func TestExports(t *testing.T) { report(t, archtest.Exports(tree(t))) }
func TestText(t *testing.T)    { report(t, archtest.Text(tree(t))) }
func TestFuzz(t *testing.T)    { report(t, archtest.Fuzz(tree(t))) }
func TestMaps(t *testing.T)    { report(t, archtest.Maps(tree(t), load(t))) }

func TestRoot(t *testing.T) {
	vs, err := archtest.Root(root)
	require.NoError(t, err)
	report(t, vs)
}

func TestReadmeLength(t *testing.T) {
	for _, f := range tree(t).Files {
		if f.Path == "README.md" {
			require.LessOrEqual(t, strings.Count(f.Text, "\n"), archtest.MaxReadme)
		}
	}
}

// The module is read once for all tests.
var (
	loadOnce = sync.OnceValues(func() ([]archtest.Package, error) { return archtest.Load(root, "./...") })
	treeOnce = sync.OnceValues(func() (*archtest.Tree, error) { return archtest.ReadTree(root) })
)

func load(t *testing.T) []archtest.Package {
	t.Helper()
	pkgs, err := loadOnce()
	require.NoError(t, err)
	require.NotEmpty(t, pkgs)
	return pkgs
}

func tree(t *testing.T) *archtest.Tree {
	t.Helper()
	tr, err := treeOnce()
	require.NoError(t, err)
	require.NotEmpty(t, tr.Files)
	return tr
}

func report(t *testing.T, vs []archtest.Violation) {
	t.Helper()
	for _, v := range vs {
		t.Error(v)
	}
}
