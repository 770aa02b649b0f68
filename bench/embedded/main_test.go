package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test's own binary be the child of each phase.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		main()
	}
	os.Exit(m.Run())
}

func TestEveryEngineIsMeasured(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out", "result.md")
	var stdout, stderr bytes.Buffer
	if code := run([]string{"-keys", "2000", "-rounds", "1", "-seconds", "0.05", "-scale", "2000", "-dir", dir, "-out", out}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range engines {
		if n := strings.Count(string(text), "\n| "+e.name+" |"); n != 2 {
			t.Errorf("%s has %d rows, should have one in each of two tables\n%s", e.name, n, text)
		}
	}
	for _, plot := range []string{"result-get.svg", "result-memory.svg"} {
		if b, err := os.ReadFile(filepath.Join(dir, "out", plot)); err != nil || !bytes.Contains(b, []byte("</svg>")) {
			t.Errorf("%s: %d bytes, %v", plot, len(b), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBadFlagsAreOneLine(t *testing.T) {
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-scale", "many"}, {"-only", "half"}, {"-keys", "1"}} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != 2 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%v: exit code %d, %q", args, code, stderr.String())
		}
	}
}
