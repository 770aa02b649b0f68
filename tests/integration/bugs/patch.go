package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// patch switches one mitigation off.
type patch struct {
	name   string // of the file, without its ending
	path   string
	off    string
	args   []string // of go test
	expect *regexp.Regexp
	repeat int
	files  []string // that it changes, relative to the tree
}

func readPatches(dir string) ([]*patch, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no patches in %s", dir)
	}
	var all []*patch
	for _, path := range paths {
		p, err := readPatch(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func readPatch(path string) (*patch, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &patch{path: path, name: strings.TrimSuffix(filepath.Base(path), ".patch")}
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		key, value, _ := strings.Cut(scan.Text(), ": ")
		switch {
		case key == "Off":
			p.off = value
		case key == "Run":
			p.args = strings.Fields(value)
		case key == "Expect":
			if p.expect, err = regexp.Compile(value); err != nil {
				return nil, err
			}
		case key == "Repeat":
			if p.repeat, err = strconv.Atoi(value); err != nil {
				return nil, err
			}
		case strings.HasPrefix(key, "--- a/"):
			p.files = append(p.files, strings.TrimPrefix(key, "--- a/"))
		}
	}
	if p.off == "" || len(p.args) == 0 || p.expect == nil || p.repeat < 1 || len(p.files) == 0 {
		return nil, errors.New("the lines Off, Run, Expect and Repeat, and a change, are needed")
	}
	return p, nil
}

// apply puts the changed files into dir, under their paths in the tree.
func (p *patch) apply(ctx context.Context, tree, dir string) error {
	for _, name := range p.files {
		if err := copyFile(filepath.Join(tree, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "git", "apply", "--whitespace=nowarn", p.path)
	cmd.Dir = dir
	// dir is no working copy, and not to be taken for a part of one.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "GIT_DIR=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git apply: %w\n%s", err, out)
	}
	return nil
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // only read
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// overlay applies the patch and returns the file that tells the go command of it.
func (p *patch) overlay(ctx context.Context, tree, dir string) (string, error) {
	if err := p.apply(ctx, tree, dir); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, name := range p.files {
		replace[filepath.Join(tree, name)] = filepath.Join(dir, name)
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, data, 0o644)
}

// match returns the line of the output that shows the expected failure, shortened.
func (p *patch) match(output string) string {
	for _, line := range strings.Split(output, "\n") {
		// What a node logs is no verdict of the test.
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "time=") || !p.expect.MatchString(line) {
			continue
		}
		const most = 160
		if len(line) > most {
			line = line[:most] + "…"
		}
		return line
	}
	return ""
}
