package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"iter"
	"slices"
	"strings"
)

// The limits on the size of things. Lengths are in lines, first and last included.
const (
	maxFunction  = 120
	maxTail      = 45 // of the 95th percentile, module-wide and in each package of tailFrom functions or more
	tailFrom     = 20
	maxFile      = 800
	maxNesting   = 4
	maxParameter = 5
)

// Limits checks lengths, nesting and parameters of everything but tests and generated code; of tests it checks the
// length of files.
func Limits(t *Tree) []Violation {
	var vs []Violation
	var all []int
	for _, f := range t.Files {
		if n := strings.Count(f.Text, "\n"); f.Syntax != nil && !f.Generated() && n > maxFile {
			vs = append(vs, Violation{f.Path, "file-length", fmt.Sprintf("%d lines, at most %d: a file is one idea", n, maxFile)})
		}
	}
	for dir, files := range t.code() {
		var lengths []int
		for _, f := range files {
			for name, fn := range functions(f) {
				lengths = append(lengths, f.line(fn.End())-f.line(fn.Pos())+1)
				vs = append(vs, function(f, name, fn)...)
			}
			vs = append(vs, parameters(f)...)
		}
		if len(lengths) >= tailFrom {
			vs = append(vs, tail(dir, lengths)...)
		}
		all = append(all, lengths...)
	}
	return sorted(append(vs, tail("module", all)...))
}

func tail(where string, lengths []int) []Violation {
	if n := percentile95(lengths); n > maxTail {
		return []Violation{{where, "function-tail", fmt.Sprintf("95th percentile of function lengths is %d lines, at most %d", n, maxTail)}}
	}
	return nil
}

// percentile95 is the nearest rank: the smallest length that 95 % of the functions do not exceed.
func percentile95(lengths []int) int {
	if len(lengths) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(lengths))
	return s[(len(s)*95+99)/100-1]
}

// functions yields the declared functions and the outermost function literals of package variables.
func functions(f *File) iter.Seq2[string, ast.Node] {
	return func(yield func(string, ast.Node) bool) {
		for _, d := range f.Syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				if !yield(fn.Name.Name, fn) {
					return
				}
				continue
			}
			var lits []ast.Node
			ast.Inspect(d, func(n ast.Node) bool {
				lit, ok := n.(*ast.FuncLit)
				if ok {
					lits = append(lits, lit)
				}
				return !ok
			})
			for _, lit := range lits {
				if !yield("a function literal", lit) {
					return
				}
			}
		}
	}
}

func function(f *File, name string, fn ast.Node) []Violation {
	var vs []Violation
	if n := f.line(fn.End()) - f.line(fn.Pos()) + 1; n > maxFunction {
		vs = append(vs, Violation{f.At(fn.Pos()), "function-length", fmt.Sprintf("%s has %d lines, at most %d", name, n, maxFunction)})
	}
	var body *ast.BlockStmt
	switch fn := fn.(type) {
	case *ast.FuncDecl:
		body = fn.Body
	case *ast.FuncLit:
		body = fn.Body
	}
	if body == nil {
		return vs
	}
	d := &depth{}
	ast.Walk(d.at(0), body)
	if d.max > maxNesting {
		vs = append(vs, Violation{f.At(d.pos), "nesting", fmt.Sprintf("%s nests %d deep, at most %d: return early or name the inner part", name, d.max, maxNesting)})
	}
	return vs
}

// depth finds the deepest statement. if, for, switch, select, function literals and blocks within a list of statements
// each go one deeper; an else-if stays.
type depth struct {
	max int
	pos token.Pos
}

func (d *depth) at(level int) ast.Visitor {
	return visitor(func(n ast.Node) ast.Visitor { return d.visit(n, level) })
}

func (d *depth) visit(n ast.Node, level int) ast.Visitor {
	switch s := n.(type) {
	case *ast.IfStmt:
		d.mark(n, level+1)
		d.chain(s, level)
		return nil
	case *ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt, *ast.FuncLit:
		d.mark(n, level+1)
		return d.at(level + 1)
	case *ast.BlockStmt:
		d.bare(s.List, level)
	case *ast.CaseClause:
		d.bare(s.Body, level)
	case *ast.CommClause:
		d.bare(s.Body, level)
	}
	return d.at(level)
}

// bare walks the blocks that stand as statements in a list once more, one deeper.
func (d *depth) bare(list []ast.Stmt, level int) {
	for _, s := range list {
		if b, ok := s.(*ast.BlockStmt); ok {
			d.mark(b, level+1)
			ast.Walk(d.at(level+1), b)
		}
	}
}

// chain walks an if statement; the branches behind else are as deep as the first.
func (d *depth) chain(s *ast.IfStmt, level int) {
	if s.Init != nil {
		ast.Walk(d.at(level), s.Init)
	}
	ast.Walk(d.at(level), s.Cond)
	ast.Walk(d.at(level+1), s.Body)
	switch e := s.Else.(type) {
	case *ast.IfStmt:
		d.chain(e, level)
	case *ast.BlockStmt:
		ast.Walk(d.at(level+1), e)
	}
}

func (d *depth) mark(n ast.Node, level int) {
	if level > d.max {
		d.max, d.pos = level, n.Pos()
	}
}

type visitor func(ast.Node) ast.Visitor

// Visit calls v.
func (v visitor) Visit(n ast.Node) ast.Visitor { return v(n) }

// parameters counts those of functions, methods, function literals and types; the receiver does not count.
func parameters(f *File) []Violation {
	var vs []Violation
	check := func(name string, t *ast.FuncType) {
		if name == "" {
			name = "a function literal or type"
		}
		if n := t.Params.NumFields(); n > maxParameter {
			vs = append(vs, Violation{f.At(t.Pos()), "parameters", fmt.Sprintf("%s takes %d, at most %d: make a struct of them", name, n, maxParameter)})
		}
	}
	names := funcNames(f)
	ast.Inspect(f.Syntax, func(n ast.Node) bool {
		if t, ok := n.(*ast.FuncType); ok {
			check(names[t], t)
		}
		return true
	})
	return vs
}

// funcNames names the function types that declarations, methods of interfaces, fields and types have.
func funcNames(f *File) map[*ast.FuncType]string {
	names := map[*ast.FuncType]string{}
	ast.Inspect(f.Syntax, func(n ast.Node) bool {
		switch d := n.(type) {
		case *ast.FuncDecl:
			names[d.Type] = d.Name.Name
		case *ast.TypeSpec:
			if t, ok := d.Type.(*ast.FuncType); ok {
				names[t] = d.Name.Name
			}
		case *ast.Field:
			if t, ok := d.Type.(*ast.FuncType); ok && len(d.Names) > 0 {
				names[t] = d.Names[0].Name
			}
		}
		return true
	})
	return names
}
