package archtest

import (
	"errors"
	"path"
	"regexp"
	"strings"
)

// MaxReadme and MaxProgram bound the README and the program on it, in lines.
const (
	MaxReadme  = 150
	MaxProgram = 40
)

// Program cuts the first whole Go program out of a Markdown text.
func Program(markdown string) (string, error) {
	for _, block := range strings.Split(markdown, "\n```go\n")[1:] {
		code, _, ok := strings.Cut(block, "\n```")
		if ok && strings.Contains(code, "package main") {
			return code + "\n", nil
		}
	}
	return "", errors.New("archtest: no go block with a package main")
}

var tablePath = regexp.MustCompile("(?m)^\\| `([a-z/]+)`")

// Maps checks that doc.go and README.md name the packages that there are, and README no other.
func Maps(t *Tree, pkgs []Package) []Violation {
	texts := map[string]string{}
	for _, f := range t.Files {
		texts[f.Path] = f.Text
	}
	there := map[string]bool{}
	var vs []Violation
	for _, p := range pkgs {
		rel := p.Rel()
		there[rel] = true
		if l := LevelOf(rel); rel == "" || l == Outside || inside(rel, "internal") || strings.Contains(rel, "/internal/") {
			continue
		}
		if !strings.Contains(texts["doc.go"], rel+" ") {
			vs = append(vs, Violation{"doc.go", "map", "does not name " + rel})
		}
		if !strings.Contains(texts["README.md"], "`"+rel+"`") {
			vs = append(vs, Violation{"README.md", "map", "its table does not name " + rel})
		}
	}
	for _, m := range tablePath.FindAllStringSubmatch(texts["README.md"], -1) {
		if rel := path.Clean(m[1]); !there[rel] {
			vs = append(vs, Violation{"README.md", "map", "names " + rel + ", which is not there"})
		}
	}
	return sorted(vs)
}
