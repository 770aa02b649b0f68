package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEveryLoadIsMeasured(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out", "result.md")
	var stdout, stderr bytes.Buffer
	if code := run([]string{"-keys", "2000", "-rounds", "1", "-seconds", "0.05", "-turns", "3", "-segment", "100000", "-dir", dir, "-out", out}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range loads {
		if n := strings.Count(string(text), "\n| "+l.name+" |"); n != 2 {
			t.Errorf("%s has %d rows, should have one for gets and one for puts\n%s", l.name, n, text)
		}
	}
	for _, l := range spaceLoads {
		if n := strings.Count(string(text), "\n| "+l.name+" |"); n != 1 {
			t.Errorf("%s has %d rows\n%s", l.name, n, text)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHistogramIsCloseFromAbove(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		v := rng.Uint64() >> (1 + rng.IntN(63))
		if u := upper(bucketOf(v)); u < v || float64(u) > float64(v)*(1+1.0/steps)+1 {
			t.Fatalf("%d is in a bucket up to %d", v, u)
		}
	}
	var h, other histogram
	for n := range 1000 {
		h.add(time.Duration(n))
	}
	other.add(time.Hour)
	h.merge(&other)
	if p := h.at(0.5); p < 499 || p > 516 || h.at(1) != time.Hour || h.n != 1001 {
		t.Fatalf("the median of 0 to 999 is %d, the largest %v of %d", p, h.at(1), h.n)
	}
}

func TestBadFlagsAreOneLine(t *testing.T) {
	for _, args := range [][]string{{"x"}, {"-rounds", "0"}, {"-only", "half"}, {"-keys", "1"}, {"-turns", "1"}} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != 2 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%v: exit code %d, %q", args, code, stderr.String())
		}
	}
}
