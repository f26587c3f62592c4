// Package archtest holds the rules of the house as code: which package may import which, how light the core stays, how
// long a function may be, what an exported name must have. Its tests run each rule over this module, and over small
// broken trees in testdata that every rule must catch.
//
// A rule answers a list of [Violation]; none means that it holds. The texts say what to do, not only what is wrong.
package archtest

import (
	"fmt"
	"sort"
)

// Violation is one broken rule at one place.
type Violation struct {
	// Where is a package or file:line, relative to the module's root.
	Where string
	// Rule is a short name, such as "arrow" or "function-length".
	Rule string
	// Detail says what was found and what to do about it.
	Detail string
}

// String is the line that a failing test prints.
func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Where, v.Rule, v.Detail) }

func sorted(vs []Violation) []Violation {
	sort.Slice(vs, func(i, j int) bool { return vs[i].String() < vs[j].String() })
	return vs
}
