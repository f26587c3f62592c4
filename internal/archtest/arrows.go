package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Level is the height of a package; imports fall strictly.
type Level int

// The levels, from the ground up.
const (
	// Unknown: no folder of the module's map holds it.
	Unknown Level = iota - 1
	// Ground imports nothing of ours, but an internal helper may import internal helpers.
	Ground
	// Core is securemail.
	Core
	// Part is an implementation. It meets its siblings through securemail's interfaces only.
	Part
	// Kit is a conformance kit, or securemail/{api,gateway,campaign}.
	Kit
	// Preset wires everything.
	Preset
	// Outside is an example or a lane.
	Outside
)

var (
	lanes   = []string{"internal/bench", "internal/crash", "internal/interop", "examples"}
	alone   = []string{"mtasts", "transport/dane", "transport/tlsrpt", "transport/dkim"}
	upper   = []string{"securemail/api", "securemail/gateway", "securemail/campaign"}
	folders = []string{"securemail", "encrypt", "transport", "tracking", "retention"}
)

// LevelOf says how high the package in folder rel stands.
func LevelOf(rel string) Level {
	switch {
	case rel == "":
		return Ground
	case within(rel, lanes):
		return Outside
	case within(rel, alone), within(rel, []string{"internal"}):
		return Ground
	case rel == "securemail":
		return Core
	case rel == "securemail/preset":
		return Preset
	case within(rel, upper), kit(rel) && within(rel, folders):
		return Kit
	case within(rel, folders):
		return Part
	}
	return Unknown
}

// kit says whether rel is a conformance kit: a folder that has its parent's name and "test".
func kit(rel string) bool { return path.Base(rel) == path.Base(path.Dir(rel))+"test" }

func within(rel string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return rel == r || inside(rel, r) })
}

// inside says whether folder rel lies in folder root.
func inside(rel, root string) bool { return root != "" && strings.HasPrefix(rel, root+"/") }

// Arrows checks the direction of imports, in files of every build tag. Files of the package and tests inside it obey the
// arrows; external tests may import everything but examples and lanes.
func Arrows(t *Tree) []Violation {
	var vs []Violation
	for _, f := range t.Files {
		if f.Syntax != nil && LevelOf(f.Dir()) == Unknown {
			vs = append(vs, Violation{f.Dir(), "folder", "is in no folder of the module's map; see LevelOf in internal/archtest"})
		}
	}
	for f, imp := range t.imports() {
		rel := f.Dir()
		to, ours := t.ours(imp)
		switch {
		case LevelOf(rel) == Unknown, !ours, to == rel:
		case !f.External():
			vs = append(vs, arrow(rel, to)...)
		case LevelOf(to) == Outside && LevelOf(rel) != Outside:
			vs = append(vs, Violation{rel, "arrow", "its tests import " + to + ", an example or a lane"})
		}
	}
	return slices.Compact(sorted(vs))
}

func arrow(from, to string) []Violation {
	why := ""
	lf, lt := LevelOf(from), LevelOf(to)
	switch {
	case from == "":
		why = "the root package is documentation and imports nothing of ours"
	case within(from, alone):
		why = "this package is useful alone and imports nothing of ours"
	case lf == Ground && !inside(to, "internal"):
		why = "an internal helper imports internal helpers only"
	case lf == Ground && lt == Ground:
		return nil
	case lf == Outside && lt == Outside && shared(from, to):
		return nil
	case lf == lt && inside(from, to):
		return nil
	case lf == lt:
		why = "siblings meet through securemail's interfaces; only a package whose folder contains this one may be imported"
	case lf < lt:
		why = fmt.Sprintf("level %d may not import level %d; the consumer owns the interface", lf, lt)
	default:
		return nil
	}
	return []Violation{{from, "arrow", "imports " + to + ": " + why}}
}

// shared says whether two packages belong to one example or one lane.
func shared(a, b string) bool {
	return len(strings.Split(a, "/")) > 1 && slices.Equal(firstTwo(a), firstTwo(b))
}

func firstTwo(rel string) []string { return strings.SplitN(rel+"/", "/", 3)[:2] }

// coreMay is all that securemail reaches outside the standard library. golang.org/x/net/idna, and the tables it needs
// of golang.org/x/text, are there because two spellings of one domain must be one address; else an opt-out or a pinned
// key would miss. go-message needs x/text for charsets.
var coreMay = []string{"github.com/emersion/go-message", "golang.org/x/net/idna", "golang.org/x/text"}

// coreMustNot is what securemail's own files leave to others although it is of the standard library.
var coreMustNot = []string{"net", "net/http", "net/smtp", "database/sql/driver", "os/exec", "plugin"}

// drivers are the SQL drivers that a host may have; only preset chooses one for it.
var drivers = []string{
	"modernc.org/sqlite", "github.com/jackc/pgx", "github.com/lib/pq", "github.com/mattn/go-sqlite3", "zombiezen.com/go/sqlite",
}

// testOnly are the libraries that only files named _test.go may import.
var testOnly = []string{"testing/synctest", "github.com/stretchr/testify", "pgregory.net/rapid", "go.uber.org/goleak"}

// Light checks that the core stays light, that no package below preset links an SQL driver, that nothing needs cgo, and
// that libraries for tests stay in tests. What a build tag hides is judged by its own imports alone.
func Light(pkgs []Package, t *Tree) []Violation {
	var vs []Violation
	for f, imp := range t.imports() {
		rel := f.Dir()
		switch {
		case imp == "C":
			vs = append(vs, Violation{f.Path, "cgo", "imports C: the module builds without a C compiler"})
		case f.Test():
		case rel == "securemail" && slices.Contains(coreMustNot, imp):
			vs = append(vs, Violation{rel, "light-core", "imports " + imp + ": the core speaks no protocol"})
		case within(imp, testOnly):
			vs = append(vs, Violation{f.Path, "test-library", "imports " + imp + ": only a _test.go may"})
		case within(imp, drivers) && LevelOf(rel) < Preset:
			vs = append(vs, driver(rel, imp))
		}
	}
	for _, p := range pkgs {
		rel := p.Rel()
		if rel == "securemail" {
			vs = append(vs, lightCore(p)...)
		}
		if l := LevelOf(rel); l >= Preset {
			continue
		}
		for _, dep := range p.Deps {
			if within(dep, drivers) {
				vs = append(vs, driver(rel, dep))
			}
		}
	}
	return slices.Compact(sorted(vs))
}

func driver(rel, dep string) Violation {
	return Violation{rel, "driver", "links " + dep + ": take a *sql.DB; only securemail/preset chooses a driver"}
}

func lightCore(p Package) []Violation {
	var vs []Violation
	for _, dep := range p.Deps {
		if !standard(dep) && !within(dep, coreMay) {
			vs = append(vs, Violation{"securemail", "light-core", "reaches " + dep + ": the core is std, go-message and x/net/idna"})
		}
	}
	return vs
}
