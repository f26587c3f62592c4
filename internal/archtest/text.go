package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// rootMay is all that the module's root may hold.
var rootMay = []string{
	"doc.go", "go.mod", "go.sum", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", ".gitignore",
	".ci", ".git", "securemail", "encrypt", "mtasts", "transport", "tracking", "retention", "internal", "examples",
}

// ignored are the patterns of .gitignore.
var ignored = []string{"*.test", "*.out", "*.prof"}

// Root checks that nothing else has gathered in the module's root.
func Root(dir string) ([]Violation, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var vs []Violation
	for _, e := range entries {
		skip := slices.ContainsFunc(ignored, func(p string) bool { ok, _ := path.Match(p, e.Name()); return ok })
		if !skip && !slices.Contains(rootMay, e.Name()) {
			vs = append(vs, Violation{e.Name(), "root", "does not belong into the root; the tree is in doc.go"})
		}
	}
	return sorted(vs), nil
}

var (
	machinePath = regexp.MustCompile(`(?:^|[^\w.:/])/(?:work|root|home/\w+|Users/\w+)(?:/|\b)`)
	leftover    = regexp.MustCompile(`(?i)\b(?:to` + `do|fix` + `me)\b(\(RFC )?`)
)

// Text checks every file for paths of one machine, for notes to oneself, for code that is commented out, and for a mark of
// generated code that nothing generates. What an
// RFC asks and is not done yet is marked by the word with "(RFC section)" behind it, and only so.
func Text(t *Tree) []Violation {
	var vs []Violation
	made := map[string]bool{}
	for _, f := range t.Files {
		made[f.Dir()] = made[f.Dir()] || f.Syntax != nil && strings.Contains(f.Text, "\n//go:generate ")
	}
	for _, f := range t.Files {
		n := 0
		for line := range strings.Lines(f.Text) {
			n++
			at := fmt.Sprintf("%s:%d", f.Path, n)
			if machinePath.MatchString(line) {
				vs = append(vs, Violation{at, "machine-path", "a path of one machine; make it relative or a parameter"})
			}
			if m := leftover.FindStringSubmatch(line); m != nil && m[1] == "" {
				vs = append(vs, Violation{at, "leftover", "a note to oneself; do it, file it, or cite the RFC that asks for it"})
			}
		}
		if f.Generated() && !made[f.Dir()] {
			vs = append(vs, Violation{f.Path, "generated", "says that a tool wrote it, which lifts the limits, but its folder has no go:generate line"})
		}
		if f.Syntax != nil && !f.Test() && !f.Generated() {
			vs = append(vs, commentedOut(f)...)
		}
	}
	return sorted(vs)
}

// commentedOut finds comments inside functions whose every line is a Go statement.
func commentedOut(f *File) []Violation {
	var vs []Violation
	for _, d := range f.Syntax.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		for _, g := range f.Syntax.Comments {
			if g.Pos() > fn.Body.Pos() && g.End() < fn.Body.End() && f.alone(g) && isCode(g.Text()) {
				vs = append(vs, Violation{f.At(g.Pos()), "commented-out", "code in a comment; delete it, the history has it"})
			}
		}
	}
	return vs
}

// alone says whether nothing but space stands in front of the comment on its line.
func (f *File) alone(g *ast.CommentGroup) bool {
	p := f.Fset.Position(g.Pos())
	return strings.TrimSpace(f.Text[p.Offset-p.Column+1:p.Offset]) == ""
}

// isCode says whether text parses as Go statements that no prose looks like: definitions, calls, returns of values.
func isCode(text string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), "", "package p\nfunc _() {\n"+text+"\n}", parser.SkipObjectResolution)
	if err != nil || len(file.Decls) != 1 {
		return false
	}
	body := file.Decls[0].(*ast.FuncDecl).Body
	return len(body.List) > 0 && slices.ContainsFunc(body.List, codeLike)
}

func codeLike(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.AssignStmt:
		_, call := s.Rhs[0].(*ast.CallExpr)
		return s.Tok == token.DEFINE || call
	case *ast.ExprStmt:
		_, call := s.X.(*ast.CallExpr)
		return call
	case *ast.ReturnStmt:
		return len(s.Results) > 0
	case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt, *ast.GoStmt, *ast.DeferStmt:
		return true
	}
	return false
}
