package archtest

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// told is the name of a call whose arguments become a log line or an error.
var told = regexp.MustCompile(`^(?:fmt\.Errorf|errors\.New|panic|.+\.(?:Debug|Info|Warn|Error)(?:Context)?|.+\.Log(?:Attrs)?)$`)

// printed are the calls of a program, not of a library.
var printed = []string{
	"fmt.Print", "fmt.Printf", "fmt.Println", "print", "println", "log.Print", "log.Printf", "log.Println",
	"log.Fatal", "log.Fatalf", "log.Fatalln", "os.Exit",
}

// Calls checks that nobody reveals personal data into an error or a log line, and that library packages write to nobody's
// terminal and end nobody's process. It sees a Reveal among the arguments themselves, not one that went through a variable.
func Calls(t *Tree) []Violation {
	var vs []Violation
	for dir, files := range t.code() {
		for _, f := range files {
			ast.Inspect(f.Syntax, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				name := callee(call)
				if told.MatchString(name) && slices.ContainsFunc(call.Args, reveals) {
					vs = append(vs, Violation{f.At(call.Pos()), "reveal", name + " gets what Reveal returns: personal data never reaches an error or a log line"})
				}
				if f.Syntax.Name.Name != "main" && LevelOf(dir) != Outside && slices.Contains(printed, name) {
					vs = append(vs, Violation{f.At(call.Pos()), "output", name + " in a library: return it, or take an io.Writer or a *slog.Logger"})
				}
				return true
			})
		}
	}
	return sorted(vs)
}

// callee is a call's function as it is written, such as slog.Info or a.b.Error.
func callee(call *ast.CallExpr) string {
	var parts []string
	for e := call.Fun; ; {
		switch x := e.(type) {
		case *ast.SelectorExpr:
			parts, e = append(parts, x.Sel.Name), x.X
			continue
		case *ast.Ident:
			parts = append(parts, x.Name)
		default:
			parts = append(parts, "_")
		}
		break
	}
	slices.Reverse(parts)
	return strings.Join(parts, ".")
}

func reveals(arg ast.Expr) bool {
	found := false
	ast.Inspect(arg, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		found = found || ok && strings.HasSuffix(callee(call), ".Reveal")
		return !found
	})
	return found
}
