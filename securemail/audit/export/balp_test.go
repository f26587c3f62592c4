package export_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// profile is a BALP profile, read from its FHIR Shorthand: rules in order, those of the parent first.
type profile struct {
	parent string
	rules  []string
}

// balpProfiles reads testdata/balp: profiles by id, and the codes of value sets by name.
func balpProfiles(t testing.TB) (map[string]*profile, map[string][]string) {
	t.Helper()
	files, err := filepath.Glob("testdata/balp/*.fsh")
	require.NoError(t, err)
	byID, names, sets := map[string]*profile{}, map[string]*profile{}, map[string][]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		var p *profile
		set := ""
		for _, line := range strings.Split(joined(string(b)), "\n") {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch {
			case key == "Profile":
				p, set = &profile{}, ""
				names[value] = p
			case key == "Parent" && p != nil:
				p.parent = value
			case key == "Id" && p != nil:
				byID[value] = p
			case key == "ValueSet":
				p, set = nil, value
			case key == "Invariant" || key == "RuleSet" || key == "Instance":
				p, set = nil, ""
			case strings.HasPrefix(line, "* ") && set != "":
				sets[set] = append(sets[set], spelt(strings.Fields(line)[1]))
			case strings.HasPrefix(line, "* ") && p != nil:
				p.rules = append(p.rules, strings.TrimPrefix(line, "* "))
			}
		}
	}
	for _, p := range names {
		if parent := names[p.parent]; parent != nil {
			p.rules = append(slices.Clone(parent.rules), p.rules...)
		}
	}
	require.Contains(t, slices.Collect(maps.Keys(byID)), "IHE.BasicAudit.PrivacyDisclosure.Source")
	return byID, sets
}

var (
	comment = regexp.MustCompile(`(?m)(^|\s)//.*$`)
	broken  = regexp.MustCompile(`(contains|and)[ \t]*\n\s*`)
)

// joined takes comments away, and joins a list of slices on one line.
func joined(s string) string {
	return broken.ReplaceAllString(comment.ReplaceAllString(s, "$1"), "$1 ")
}

// spelt is a code with its alias spelt out.
func spelt(code string) string {
	code = strings.Replace(code, "SCT#", "http://snomed.info/sct#", 1)
	if strings.HasPrefix(code, "DCM#") {
		code = "http://dicom.nema.org/resources/ontology/" + code
	}
	return code
}

// checker holds one AuditEvent against one profile.
type checker struct {
	event  map[string]any
	sets   map[string][]string
	slices map[string]string // "agent[client]": card
	types  map[string][]string
	errs   []string
}

func (c *checker) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Sprintf(format, args...))
}

var (
	cardRule = regexp.MustCompile(`^(\S+) (\d+)\.\.(\d+|\*)?( MS)?\s*$`)
	isRule   = regexp.MustCompile(`^(\S+) = (\S+)`)
	fromRule = regexp.MustCompile(`^(\S+) from (\S+)`)
	oneOf    = regexp.MustCompile(`^insert requireAtLeastOneMatch\((\w+), (\w+), ([^)]+)\)`)
	slice    = regexp.MustCompile(`^(\w+)\[(\w+)\](?:\.(.+))?$`)
)

// violations are the rules of p that event breaks.
func violations(event map[string]any, p *profile, sets map[string][]string) []string {
	c := &checker{event: event, sets: sets, slices: map[string]string{}, types: map[string][]string{}}
	for _, r := range p.rules {
		c.learn(r)
	}
	for name, card := range c.slices {
		c.card(name, len(c.elements(name)), card)
	}
	for _, r := range p.rules {
		c.rule(r)
	}
	return c.errs
}

// learn notes the slices and by which code their elements are known.
func (c *checker) learn(r string) {
	if path, list, ok := strings.Cut(r, " contains "); ok {
		for _, s := range strings.Split(list, " and ") {
			f := strings.Fields(s)
			c.slices[path+"["+f[0]+"]"] = f[1]
		}
	}
	if m := oneOf.FindStringSubmatch(r); m != nil {
		c.slices[m[1]+"["+m[2]+"]"] = "1..1"
		c.types[m[1]+"["+m[2]+"]"] = []string{spelt(strings.TrimSpace(m[3]))}
	}
	if m := isRule.FindStringSubmatch(r); m != nil {
		c.known(m[1], []string{spelt(m[2])})
	}
	if m := fromRule.FindStringSubmatch(r); m != nil {
		c.known(m[1], c.sets[m[2]])
	}
}

func (c *checker) known(path string, codes []string) {
	m := slice.FindStringSubmatch(path)
	if m != nil && (m[3] == "type" || m[3] == "" && m[1] == "subtype") {
		c.types[m[1]+"["+m[2]+"]"] = codes
	}
}

// elements are those of a slice.
func (c *checker) elements(name string) []map[string]any {
	m := slice.FindStringSubmatch(name)
	var out []map[string]any
	for _, v := range list(c.event[m[1]]) {
		e := v.(map[string]any)
		of := any(e)
		if m[1] != "subtype" {
			of = e["type"]
		}
		if slices.ContainsFunc(codes(of), func(s string) bool { return slices.Contains(c.types[name], s) }) {
			out = append(out, e)
		}
	}
	return out
}

func (c *checker) rule(r string) {
	if m := cardRule.FindStringSubmatch(r); m != nil {
		for at, v := range c.at(m[1]) {
			c.card(at, len(list(v)), m[2]+".."+m[3])
		}
	}
	if m := isRule.FindStringSubmatch(r); m != nil {
		c.value(m[1], []string{spelt(m[2])})
	}
	if m := fromRule.FindStringSubmatch(r); m != nil {
		c.value(m[1], c.sets[m[2]])
	}
	if path, ok := strings.CutSuffix(r, " only Reference(Patient)"); ok {
		for at, v := range c.at(path) {
			if ref, _ := v.(map[string]any); ref["type"] != "Patient" {
				c.fail("%s is no Reference(Patient)", at)
			}
		}
	}
	if path, ok := strings.CutSuffix(r, " obeys val-audit-source"); ok {
		for at, v := range c.at(path + ".who") {
			if fmt.Sprint(v) != fmt.Sprint(c.event["source"].(map[string]any)["observer"]) {
				c.fail("%s is not the observer", at)
			}
		}
	}
}

func (c *checker) value(path string, want []string) {
	if s := slice.FindStringSubmatch(path); s != nil && s[3] == "" {
		return // the slice's own code
	}
	for at, v := range c.at(path) {
		if v != nil && !slices.ContainsFunc(codes(v), func(s string) bool { return slices.Contains(want, s) }) {
			c.fail("%s is %v, not of %v", at, v, want)
		}
	}
}

// at gives what stands at path, in each element of a slice; nil where nothing does.
func (c *checker) at(path string) map[string]any {
	out := map[string]any{}
	m := slice.FindStringSubmatch(path)
	if m == nil {
		out[path] = dig(c.event, path)
		return out
	}
	for i, e := range c.elements(m[1] + "[" + m[2] + "]") {
		out[path+strconv.Itoa(i)] = dig(e, m[3])
	}
	return out
}

func (c *checker) card(at string, n int, card string) {
	low, high, _ := strings.Cut(card, "..")
	least, _ := strconv.Atoi(low)
	most, err := strconv.Atoi(high)
	if n < least || err == nil && n > most {
		c.fail("%s is there %d times, not %s", at, n, card)
	}
}

func dig(m map[string]any, path string) any {
	v := any(m)
	for _, p := range strings.Split(path, ".") {
		o, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = o[p]
	}
	return v
}

func list(v any) []any {
	switch x := v.(type) {
	case nil:
		return nil
	case []any:
		return x
	}
	return []any{v}
}

// codes are the codes in a code, a Coding, a CodeableConcept or a primitive.
func codes(v any) []string {
	switch x := v.(type) {
	case string:
		return []string{"#" + x, "http://terminology.hl7.org/CodeSystem/audit-event-outcome#" + x}
	case bool:
		return []string{strconv.FormatBool(x)}
	case map[string]any:
		if x["coding"] != nil {
			return codes(x["coding"])
		}
		return []string{fmt.Sprint(x["system"], "#", x["code"])}
	case []any:
		var out []string
		for _, e := range x {
			out = append(out, codes(e)...)
		}
		return out
	}
	return nil
}
