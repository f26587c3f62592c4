package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"
)

// Tree is the source of a module, nested modules included; testdata and vendored folders are left out.
type Tree struct {
	Root  string
	Files []*File
}

// File is one file of a Tree. Syntax is nil but for Go.
type File struct {
	// Path is relative to the root, with slashes.
	Path   string
	Text   string
	Syntax *ast.File
	Fset   *token.FileSet
}

// Dir is the folder, "" for the root.
func (f *File) Dir() string {
	if i := strings.LastIndexByte(f.Path, '/'); i >= 0 {
		return f.Path[:i]
	}
	return ""
}

// Test says whether it is a test file; Generated whether a tool wrote it.
func (f *File) Test() bool { return strings.HasSuffix(f.Path, "_test.go") }

// Generated says whether the file carries the mark of generated code.
func (f *File) Generated() bool { return f.Syntax != nil && ast.IsGenerated(f.Syntax) }

// External says whether it is a test outside its package.
func (f *File) External() bool { return f.Test() && strings.HasSuffix(f.Syntax.Name.Name, "_test") }

// At is file:line of a position.
func (f *File) At(p token.Pos) string { return fmt.Sprintf("%s:%d", f.Path, f.line(p)) }

func (f *File) line(p token.Pos) int { return f.Fset.Position(p).Line }

// textual are the endings of files that people read; a file without an ending is read too.
var textual = []string{".go", ".md", ".sh", ".mod", ".sql", ".html", ".tmpl", ".css", ".js", ".yml", ".yaml", ".json", ""}

// ReadTree reads every text file under root.
func ReadTree(root string) (*Tree, error) {
	t := &Tree{Root: root}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (n == ".git" || n == "testdata" || n == "vendor" || n == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains(textual, filepath.Ext(path)) || !d.Type().IsRegular() {
			return nil
		}
		return t.add(path)
	})
	return t, err
}

func (t *Tree) add(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.Root, path)
	if err != nil {
		return err
	}
	if strings.IndexByte(string(b), 0) >= 0 { // a binary without an ending
		return nil
	}
	f := &File{Path: filepath.ToSlash(rel), Text: string(b)}
	if strings.HasSuffix(path, ".go") {
		f.Fset = token.NewFileSet()
		if f.Syntax, err = parser.ParseFile(f.Fset, f.Path, b, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return fmt.Errorf("archtest: %w", err)
		}
	}
	t.Files = append(t.Files, f)
	return nil
}

// imports yields each import of each Go file of the module, whatever its build tags; nested modules are left out.
func (t *Tree) imports() iter.Seq2[*File, string] {
	return func(yield func(*File, string) bool) {
		nested := t.nested()
		for _, f := range t.Files {
			if f.Syntax == nil || within(f.Dir(), nested) {
				continue
			}
			for _, s := range f.Syntax.Imports {
				if imp, err := strconv.Unquote(s.Path.Value); err == nil && !yield(f, imp) {
					return
				}
			}
		}
	}
}

// nested are the folders with a go.mod of their own.
func (t *Tree) nested() []string {
	var dirs []string
	for _, f := range t.Files {
		if dir, ok := strings.CutSuffix(f.Path, "/go.mod"); ok {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// ours cuts the module path off an import path and says whether it was there.
func (t *Tree) ours(imp string) (string, bool) {
	for _, f := range t.Files {
		if f.Path == "go.mod" {
			return below(modfile.ModulePath([]byte(f.Text)), imp)
		}
	}
	return "", false
}

// code yields the Go files that the limits hold for, by folder: neither tests nor generated.
func (t *Tree) code() map[string][]*File {
	m := map[string][]*File{}
	for _, f := range t.Files {
		if f.Syntax != nil && !f.Test() && !f.Generated() {
			m[f.Dir()] = append(m[f.Dir()], f)
		}
	}
	return m
}
