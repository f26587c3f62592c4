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
// outside, and that no exported function takes a bool. A method that an exported type has from an unexported one counts.
// Commands are checked for a package comment and for init only.
func Exports(t *Tree) []Violation {
	var vs []Violation
	for dir, files := range t.code() {
		s := &surface{dir: dir, documented: map[string]bool{}, bools: map[string]bool{"bool": true}, shown: map[string]bool{}}
		parts := map[string][]string{}
		for _, f := range files {
			s.learn(f, parts)
		}
		s.show(parts)
		for _, f := range files {
			s.read(f)
		}
		vs = append(vs, s.vs...)
		vs = append(vs, s.sizes()...)
	}
	for _, f := range t.Files {
		vs = append(vs, inits(f)...)
	}
	return sorted(vs)
}

// inits holds for tests, commands and generated code too.
func inits(f *File) []Violation {
	if f.Syntax == nil {
		return nil
	}
	var vs []Violation
	for _, d := range f.Syntax.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			vs = append(vs, Violation{f.At(fn.Pos()), "init", "no init functions: let the caller build and pass values"})
		}
	}
	return vs
}

// surface is what one package exports.
type surface struct {
	dir                              string
	documented                       map[string]bool // types with a doc comment
	bools                            map[string]bool // bool and its aliases
	shown                            map[string]bool // types whose methods can be called from outside
	command, comment                 bool
	names, vars, consts, methodNames int
	vs                               []Violation
}

// learn notes the documented types, so that a group of their constants counts as documented; the aliases of bool; and
// into parts, what each type embeds or is another name for.
func (s *surface) learn(f *File, parts map[string][]string) {
	s.command = s.command || f.Syntax.Name.Name == "main"
	s.comment = s.comment || f.Syntax.Doc != nil
	for _, d := range f.Syntax.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, sp := range g.Specs {
			t, ok := sp.(*ast.TypeSpec)
			if !ok {
				continue
			}
			name := t.Name.Name
			if t.Doc != nil || g.Doc != nil {
				s.documented[name] = true
			}
			if t.Assign.IsValid() && receiver(t.Type) == "bool" {
				s.bools[name] = true
			}
			parts[name] = append(parts[name], embedded(t)...)
		}
	}
}

// embedded are the types whose methods t has besides its own.
func embedded(t *ast.TypeSpec) (names []string) {
	var fields *ast.FieldList
	switch u := t.Type.(type) {
	case *ast.StructType:
		fields = u.Fields
	case *ast.InterfaceType:
		fields = u.Methods
	default:
		if t.Assign.IsValid() {
			names = append(names, receiver(t.Type))
		}
		return names
	}
	for _, f := range fields.List {
		if len(f.Names) == 0 {
			names = append(names, receiver(f.Type))
		}
	}
	return names
}

// show finds the types whose methods show: the exported ones, and what they embed.
func (s *surface) show(parts map[string][]string) {
	var visit func(name string)
	visit = func(name string) {
		if s.shown[name] {
			return
		}
		s.shown[name] = true
		for _, p := range parts[name] {
			visit(p)
		}
	}
	for name := range parts {
		if ast.IsExported(name) {
			visit(name)
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
	if s.command || !fn.Name.IsExported() || fn.Recv != nil && !s.shown[receiver(fn.Recv.List[0].Type)] {
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
		if s.bools[receiver(p.Type)] {
			s.bad(at, "bool-parameter", name+" takes a bool: a reader of the call can't tell what true means; use a named type or an Options field")
		}
	}
}

// receiver is the name of a receiver's or parameter's type, without pointer, slice, dots and type parameters.
func receiver(e ast.Expr) string {
	switch t := e.(type) {
	case *ast.ParenExpr:
		return receiver(t.X)
	case *ast.Ellipsis:
		return receiver(t.Elt)
	case *ast.ArrayType:
		return receiver(t.Elt)
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
	if t.Name.IsExported() {
		s.names++
		if t.Doc == nil && g.Doc == nil {
			s.bad(f.At(t.Pos()), "undocumented", t.Name.Name+" needs a doc comment")
		}
	}
	if !s.shown[t.Name.Name] {
		return
	}
	if ft, ok := t.Type.(*ast.FuncType); ok {
		s.noBool(f.At(t.Pos()), t.Name.Name, ft)
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
	var vs []Violation
	if !s.comment {
		vs = append(vs, Violation{s.dir, "undocumented", "the package has no package comment"})
	}
	if s.command {
		return vs
	}
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
	return vs
}
