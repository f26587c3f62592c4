package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Package is what go list says about one package.
type Package struct {
	ImportPath string
	// Deps is the closure of the imports of files that are no tests.
	Deps   []string
	Module struct{ Path string }
}

// Load lists the packages of the module in dir that match patterns. Nested modules are not among them.
func Load(dir string, patterns ...string) ([]Package, error) {
	fields := "-json=ImportPath,Deps,Module"
	cmd := exec.Command("go", append([]string{"list", fields}, patterns...)...)
	cmd.Dir = dir
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("archtest: go list: %w: %s", err, errText.String())
	}
	var pkgs []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("archtest: go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// Rel is the package's folder relative to the module's root; "" for the root.
func (p Package) Rel() string { rel, _ := below(p.Module.Path, p.ImportPath); return rel }

// below cuts the module path off an import path and says whether it was there.
func below(module, path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// standard says whether path is of the standard library: its first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
