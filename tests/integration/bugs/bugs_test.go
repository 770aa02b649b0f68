package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const tree = "../../.."

// TestPatchesStillApply keeps the patches in step with the code that they change, and with the tests that they name.
// Whether the tests notice is what `make bugs` finds out.
func TestPatchesStillApply(t *testing.T) {
	root, err := filepath.Abs(tree)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	all, err := readPatches(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			to := t.TempDir()
			if err := p.apply(t.Context(), root, to); err != nil {
				t.Fatal(err)
			}
			for _, name := range p.files {
				before, _ := os.ReadFile(filepath.Join(root, name)) // apply has read it
				after, err := os.ReadFile(filepath.Join(to, name))
				if err != nil || string(after) == string(before) {
					t.Errorf("%s is not changed: %v", name, err)
				}
				if _, err := parser.ParseFile(token.NewFileSet(), name, after, 0); err != nil {
					t.Error(err)
				}
			}
			if !testsExist(t, root, p.args) {
				t.Errorf("there is no test for %v", p.args)
			}
		})
	}
}

// testsExist looks for the tests that "PACKAGE -run A|B" names.
func testsExist(t *testing.T, root string, args []string) bool {
	t.Helper()
	if len(args) != 3 || args[1] != "-run" {
		t.Fatalf("%v: want PACKAGE -run TESTS", args)
	}
	files, _ := filepath.Glob(filepath.Join(root, args[0], "*_test.go")) // the pattern is good
	for _, name := range strings.Split(args[2], "|") {
		found, want := false, regexp.MustCompile(`(?m)^func `+name+`\(`)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || want.Match(text)
		}
		if !found {
			return false
		}
	}
	return true
}
