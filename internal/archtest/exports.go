package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// The limits on what a package exports. The core counts types, functions and errors apart from constants and methods.
const (
	maxNames       = 60
	maxCoreNames   = 120
	maxCoreConsts  = 60
	maxCoreMethods = 60
)

// Exports checks what packages export: how much, that it is documented, that nothing of it can be changed from
// outside, and that no exported function takes a bool. Commands are checked for init only.
func Exports(t *Tree) []Violation {
	var vs []Violation
	for dir, files := range t.code() {
		s := &surface{dir: dir, documented: map[string]bool{}}
		for _, f := range files {
			s.learn(f)
		}
		for _, f := range files {
			s.read(f)
		}
		vs = append(vs, s.vs...)
		vs = append(vs, s.sizes()...)
	}
	return sorted(vs)
}

// surface is what one package exports.
type surface struct {
	dir                              string
	documented                       map[string]bool // types with a doc comment
	command, comment                 bool
	names, vars, consts, methodNames int
	vs                               []Violation
}

// learn notes the documented types, so that a group of their constants counts as documented.
func (s *surface) learn(f *File) {
	s.command = s.command || f.Syntax.Name.Name == "main"
	s.comment = s.comment || f.Syntax.Doc != nil
	for _, d := range f.Syntax.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, sp := range g.Specs {
			if t, ok := sp.(*ast.TypeSpec); ok && (t.Doc != nil || g.Doc != nil) {
				s.documented[t.Name.Name] = true
			}
		}
	}
}

func (s *surface) read(f *File) {
	for _, d := range f.Syntax.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.function(f, d)
		case *ast.GenDecl:
			if !s.command {
				s.group(f, d)
			}
		}
	}
}

func (s *surface) bad(at, rule, detail string) { s.vs = append(s.vs, Violation{at, rule, detail}) }

func (s *surface) function(f *File, fn *ast.FuncDecl) {
	at, name := f.At(fn.Pos()), fn.Name.Name
	if fn.Recv == nil && name == "init" {
		s.bad(at, "init", "no init functions: let the caller build and pass values")
	}
	if s.command || !fn.Name.IsExported() || fn.Recv != nil && !ast.IsExported(receiver(fn.Recv.List[0].Type)) {
		return
	}
	if fn.Recv == nil {
		s.names++
	} else {
		s.methodNames++
	}
	if fn.Doc == nil {
		s.bad(at, "undocumented", name+" needs a doc comment")
	}
	s.noBool(at, name, fn.Type)
}

func (s *surface) noBool(at, name string, t *ast.FuncType) {
	for _, p := range t.Params.List {
		typ := p.Type
		if e, ok := typ.(*ast.Ellipsis); ok {
			typ = e.Elt
		}
		if id, ok := typ.(*ast.Ident); ok && id.Name == "bool" {
			s.bad(at, "bool-parameter", name+" takes a bool: a reader of the call can't tell what true means; use a named type or an Options field")
		}
	}
}

// receiver is the name of a receiver's type, without pointer and type parameters.
func receiver(e ast.Expr) string {
	switch t := e.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}

func (s *surface) group(f *File, g *ast.GenDecl) {
	last := "" // the type that an iota group goes on with
	for _, sp := range g.Specs {
		switch sp := sp.(type) {
		case *ast.TypeSpec:
			s.typ(f, sp, g)
		case *ast.ValueSpec:
			if id, ok := sp.Type.(*ast.Ident); ok {
				last = id.Name
			} else if len(sp.Values) > 0 {
				last = ""
			}
			s.value(f, sp, g, last)
		}
	}
}

func (s *surface) typ(f *File, t *ast.TypeSpec, g *ast.GenDecl) {
	if !t.Name.IsExported() {
		return
	}
	s.names++
	if t.Doc == nil && g.Doc == nil {
		s.bad(f.At(t.Pos()), "undocumented", t.Name.Name+" needs a doc comment")
	}
	it, ok := t.Type.(*ast.InterfaceType)
	if !ok {
		return
	}
	for _, m := range it.Methods.List {
		if ft, ok := m.Type.(*ast.FuncType); ok && len(m.Names) == 1 && m.Names[0].IsExported() {
			s.noBool(f.At(m.Pos()), m.Names[0].Name, ft)
		}
	}
}

func (s *surface) value(f *File, v *ast.ValueSpec, g *ast.GenDecl, typ string) {
	for i, n := range v.Names {
		if !n.IsExported() {
			continue
		}
		at := f.At(n.Pos())
		if g.Tok == token.CONST {
			s.consts++
		} else {
			s.vars++
			if !sentinel(v, i) {
				s.bad(at, "mutable", n.Name+" is an exported variable that anybody may change: pass it in; only an Err... made by errors.New or fmt.Errorf may be exported")
			}
		}
		if v.Doc == nil && v.Comment == nil && g.Doc == nil && !s.documented[typ] {
			s.bad(at, "undocumented", n.Name+" needs a comment, or its group, or its type")
		}
	}
}

// sentinel says whether the i-th value is an error made once: errors.New, or fmt.Errorf that wraps another one.
func sentinel(v *ast.ValueSpec, i int) bool {
	if i >= len(v.Values) || !strings.HasPrefix(v.Names[i].Name, "Err") {
		return false
	}
	call, ok := v.Values[i].(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && (pkg.Name == "errors" && sel.Sel.Name == "New" || pkg.Name == "fmt" && sel.Sel.Name == "Errorf")
}

func (s *surface) sizes() []Violation {
	if s.command {
		return nil
	}
	var vs []Violation
	over := func(n, limit int, what string) {
		if n > limit {
			vs = append(vs, Violation{s.dir, "exports", fmt.Sprintf("%d exported %s, at most %d: a package is one idea", n, what, limit)})
		}
	}
	if s.dir == "securemail" {
		over(s.names+s.vars, maxCoreNames, "types, functions and errors")
		over(s.consts, maxCoreConsts, "constants")
		over(s.methodNames, maxCoreMethods, "methods")
	} else {
		over(s.names+s.vars+s.consts, maxNames, "names")
	}
	if !s.comment {
		vs = append(vs, Violation{s.dir, "undocumented", "the package has no package comment"})
	}
	return vs
}
