package archtest

import (
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// foreign are the packages that read bytes which somebody else wrote, beside those that export a parser by name. A
// package that starts to do so goes on this list with its fuzz target.
var foreign = []string{
	"securemail",         // messages, addresses
	"internal/canon",     // records that a damaged disk may have changed
	"internal/seal",      // ciphertexts
	"securemail/audit",   // tiles, checkpoints and proofs
	"securemail/keyring", // key files
	"securemail/keyring/kms",
	"encrypt",               // MIME of others
	"encrypt/pgp",           // keys and messages
	"encrypt/keys",          // key files
	"encrypt/smime",         // certificates and messages
	"encrypt/escrow/portal", // forms and locators
	"transport/smtp",        // replies
	"transport/httpapi",     // answers of providers
	"mtasts",                // records and policies
	"transport/dane", "transport/tlsrpt", "transport/dkim",
	"securemail/feedback", // bounces and complaints
	"securemail/gateway",  // SMTP and messages of applications
	"internal/cms",
}

// parserName is what an exported function or method that reads foreign bytes is called.
var parserName = regexp.MustCompile(`^(?:Parse|Unmarshal|Decode|Decrypt)`)

// takesF says whether the only parameter is a *testing.F.
func takesF(fn *ast.FuncDecl) bool {
	if fn.Type.Params.NumFields() != 1 {
		return false
	}
	star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	sel, ok := star.X.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "F"
}

// Fuzz checks that each package that parses foreign bytes has a fuzz target.
func Fuzz(t *Tree) []Violation {
	targets, parsers := map[string]bool{}, map[string]string{}
	for _, f := range t.Files {
		if f.Syntax == nil {
			continue
		}
		for _, d := range f.Syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			switch {
			case !ok || f.Syntax.Name.Name == "main":
			case f.Test() && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz") && takesF(fn):
				targets[f.Dir()] = true
			case !f.Test() && parserName.MatchString(fn.Name.Name) && fn.Name.IsExported():
				parsers[f.Dir()] = fn.Name.Name
			}
		}
	}
	var vs []Violation
	for dir := range t.code() {
		name, ok := parsers[dir]
		if !ok && slices.Contains(foreign, dir) {
			name, ok = "it", true
		}
		if ok && !targets[dir] {
			vs = append(vs, Violation{dir, "fuzz", name + " reads foreign bytes and the package has no Fuzz function in its tests"})
		}
	}
	return sorted(vs)
}
