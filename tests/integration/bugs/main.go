// Command bugs proves that the tests notice what they are there for. Each NN-name.patch in this directory switches one
// mitigation off; bugs builds the tree with it, runs the test that must notice, and expects it to fail for the right reason.
//
//	make bugs                                    all of them, about a quarter of an hour on two cores
//	go run ./tests/integration/bugs 05 power     only those whose name contains one of the words
//
// A patch begins with lines that say what it does:
//
//	Off: what is switched off, and whose bug it brings back
//	Run: arguments of go test
//	Expect: regular expression that the output of the failed test must match
//	Repeat: how often to try, when the bug needs luck
//
// The tree is not touched: the patched files go to a temporary directory, and the go command takes them from there (-overlay).
// ../BUGS.md has the outcome of the last run.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bugs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	tree := strings.TrimSpace(string(out))
	all, err := readPatches(filepath.Join(tree, "tests", "integration", "bugs"))
	if err != nil {
		return err
	}
	missed := 0
	for _, p := range all {
		if len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(p.name, w) }) {
			continue
		}
		began := time.Now()
		verdict, err := p.try(ctx, tree)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if !verdict.caught() {
			missed++
		}
		fmt.Printf("%-32s %s (%.0f s)\n", p.name, verdict, time.Since(began).Seconds())
	}
	if missed > 0 {
		return fmt.Errorf("%d bugs were not caught", missed)
	}
	return nil
}

// verdict on one patch.
type verdict struct {
	runs  int    // of the test, until it failed for the right reason or the patch's patience was over
	line  string // what matched
	other string // the end of the output of a run that failed for another reason
}

func (v verdict) caught() bool { return v.line != "" }

func (v verdict) String() string {
	switch {
	case v.caught():
		return fmt.Sprintf("caught in run %d: %s", v.runs, v.line)
	case v.other != "":
		return fmt.Sprintf("NOT caught in %d runs, but failed otherwise:\n%s", v.runs, v.other)
	}
	return fmt.Sprintf("NOT caught in %d runs", v.runs)
}

// try runs the test of one patch until it fails as expected.
func (p *patch) try(ctx context.Context, tree string) (v verdict, err error) {
	dir, err := os.MkdirTemp("", "raftcask-bugs-")
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	overlay, err := p.overlay(ctx, tree, dir)
	if err != nil {
		return v, err
	}
	for v.runs < p.repeat && !v.caught() {
		v.runs++
		cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout=5m"}, p.args...)...)
		cmd.Dir = tree
		// By the environment, because the integration tests build the program themselves.
		cmd.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		if err == nil {
			continue
		}
		if v.line = p.match(string(out)); !v.caught() {
			v.other = tail(string(out), 30)
		}
	}
	return v, nil
}

func tail(text string, count int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
