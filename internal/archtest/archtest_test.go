package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Module     *struct{ Path string }
}

func TestImportsPointOneWay(t *testing.T) {
	packages := load(t)
	for _, problem := range check(rules, packages) {
		t.Error(problem)
	}
}

// TestProductHasNoFaults: the ways to break a disk from outside are in the binary of the integration tests only.
func TestProductHasNoFaults(t *testing.T) {
	deps := func(args ...string) []string {
		out, err := exec.CommandContext(t.Context(), "go", append(append([]string{"list", "-deps"}, args...), module+"/cmd/node")...).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		return strings.Fields(string(out))
	}
	const diskfault = module + "/internal/vfs/diskfault"
	if slices.Contains(deps(), diskfault) {
		t.Errorf("the product contains %s", diskfault)
	}
	if !slices.Contains(deps("-tags", "faults"), diskfault) {
		t.Errorf("the binary of the integration tests does not contain %s", diskfault)
	}
}

// TestCheckerSeesEachKindOfViolation breaks the rules on purpose, so that a checker gone blind is noticed.
func TestCheckerSeesEachKindOfViolation(t *testing.T) {
	rules := []rule{
		{packages: "low", others: []string{"example.com/hash"}, reason: "LOW"},
		{packages: "high", own: []string{"low", "mid/..."}, reason: "HIGH"},
		{packages: "mid/...", reason: "MID"},
		{packages: "mid/special", own: []string{"low"}, reason: "SPECIAL"},
	}
	own := func(path string, imports ...string) pkg {
		p := pkg{ImportPath: module + "/" + path, Imports: imports}
		p.Module = &struct{ Path string }{module}
		return p
	}
	other := func(path, mod string) pkg {
		return pkg{ImportPath: path, Module: &struct{ Path string }{mod}}
	}
	ground := []pkg{
		{ImportPath: "os", Standard: true},
		other("example.com/hash/x", "example.com/hash"), other("example.com/net", "example.com/net"),
	}
	legal := []pkg{
		own("low", "os", "example.com/hash/x"), own("high", module+"/low", module+"/mid/a"),
		own("mid/a"), own("mid/special", module+"/low"),
	}
	with := func(replacement pkg) []pkg {
		out := append(slices.Clone(ground), replacement)
		for _, p := range legal {
			if p.ImportPath != replacement.ImportPath {
				out = append(out, p)
			}
		}
		return out
	}

	tests := []struct {
		name     string
		packages []pkg
		want     []string // parts of the one problem; none: no problem
	}{
		{"legal", append(slices.Clone(ground), legal...), nil},
		{"upwards", with(own("low", module+"/high")), []string{"low imports", "high", "LOW"}},
		{"a foreign module", with(own("low", "example.com/net")), []string{"example.com/net", "LOW"}},
		{"a sibling in a tree", with(own("mid/a", module+"/mid/special")), []string{"mid/special", "MID"}},
		{"more than the specific rule", with(own("mid/special", module+"/mid/a")), []string{"mid/a", "SPECIAL"}},
		{"no rule", with(own("new")), []string{"new", "no rule"}},
		{"no package", append(slices.Clone(ground), legal[:3]...), []string{"mid/special", "no package"}},
		{"C", with(own("high", "C")), []string{"high imports C", "cgo"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := check(rules, test.packages)
			if len(test.want) == 0 {
				if len(got) != 0 {
					t.Fatalf("problems in a legal graph: %q", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("got %d problems, want 1: %q", len(got), got)
			}
			for _, part := range test.want {
				if !strings.Contains(got[0], part) {
					t.Errorf("%q does not say %q", got[0], part)
				}
			}
		})
	}
}

// load lists the module's packages and everything they need.
func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports,Module", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("output of go list: %v", err)
		}
		packages = append(packages, p)
	}
}

// check returns one sentence per violation.
func check(rules []rule, packages []pkg) []string {
	moduleOf := make(map[string]string, len(packages)) // "" for the standard library
	for _, p := range packages {
		if !p.Standard && p.Module != nil {
			moduleOf[p.ImportPath] = p.Module.Path
		}
	}

	var problems []string
	used := make(map[string]bool)
	for _, p := range packages {
		if moduleOf[p.ImportPath] != module {
			continue
		}
		name := relative(p.ImportPath)
		r, ok := ruleFor(rules, name)
		if !ok {
			problems = append(problems, fmt.Sprintf("%s: no rule says what it may import; add one, with its reason", name))
			continue
		}
		used[r.packages] = true
		for _, path := range p.Imports {
			if problem := r.judge(path, moduleOf[path]); problem != "" {
				problems = append(problems, fmt.Sprintf("%s imports %s: %s (%s)", name, relative(path), problem, r.reason))
			}
		}
	}
	for _, r := range rules {
		if !used[r.packages] {
			problems = append(problems, fmt.Sprintf("rule for %s: no package it applies to; remove it", r.packages))
		}
	}
	return problems
}

// judge returns what is wrong with importing path, which belongs to mod ("" is the standard library).
func (r rule) judge(path, mod string) string {
	switch {
	case path == "C":
		return "the binary is static, so no cgo"
	case mod == "":
		return ""
	case mod == module:
		if !slices.ContainsFunc(r.own, func(pattern string) bool { return matches(pattern, relative(path)) }) {
			return "not in its row of the import table"
		}
	case !slices.Contains(r.others, mod):
		return fmt.Sprintf("module %s is not in its row of the import table", mod)
	}
	return ""
}

// ruleFor returns the most specific rule for a package: an exact name before a tree, a deeper tree before a shallower one.
func ruleFor(rules []rule, name string) (rule, bool) {
	var best rule
	found := false
	for _, r := range rules {
		if !matches(r.packages, name) {
			continue
		}
		if r.packages == name {
			return r, true
		}
		if !found || len(r.packages) > len(best.packages) {
			best, found = r, true
		}
	}
	return best, found
}

// matches reports whether the pattern ("fsm", or "transport/..." for the tree with its root) covers the package.
func matches(pattern, name string) bool {
	tree, ok := strings.CutSuffix(pattern, "/...")
	if !ok {
		return pattern == name
	}
	return name == tree || strings.HasPrefix(name, tree+"/")
}

// relative strips the module from the path of one of its packages.
func relative(path string) string { return strings.TrimPrefix(path, module+"/") }
