package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cli runs a command line as the shell does.
func cli(t testing.TB, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestMistakesInTheCommandLine(t *testing.T) {
	for _, tc := range []struct {
		args string
		want []string
	}{
		{"srve", []string{`unknown command "srve"`, `did you mean "raftcask serve"?`}},
		{"frobnicate", []string{`unknown command "frobnicate"`, "--help"}},
		{"cluster stats", []string{`unknown command "stats" for "raftcask cluster"`, `"raftcask cluster status"`}},
		{"bogus --help", []string{`unknown command "bogus"`}},
		{"cluster bogus --help", []string{`unknown command "bogus" for "raftcask cluster"`}},
		{"--nodes 3", []string{"unknown flag --nodes"}},
		{"serve --rsp-addr :1", []string{"serve", "unknown flag --rsp-addr", "did you mean --resp-addr?"}},
		{"serve -x", []string{"unknown flag -x"}},
		{"serve --resp-addr", []string{"--resp-addr", "needs an argument"}},
		{"serve --resp-addr 7379", []string{`"--resp-addr"`, "host:port"}},
		{"serve --bootstrap-expect 0", []string{`"--bootstrap-expect"`, "from 1 to"}},
		{"serve --bootstrap-expect three", []string{`"--bootstrap-expect"`, "whole number"}},
		{"serve --max-value-bytes 8MB", []string{`"--max-value-bytes"`, "MiB"}},
		{"serve --max-value-bytes 1GiB", []string{`"--max-value-bytes"`, "from 1KiB to 64MiB"}},
		{"serve --join nonsense", []string{`"--join"`, `"nonsense"`}},
		{"serve --log-level loud", []string{`"--log-level"`, "debug, info, warn, error"}},
		{"serve extra", []string{"serve takes no arguments"}},
		{"serve --config /nowhere.yaml", []string{"--config", "/nowhere.yaml"}},
		{"serve --id a/b --data " + t.TempDir() + "/x", []string{"--id", `'/'`}},
		{"dev --nodes 0", []string{`"--nodes"`, "from 1 to 9"}},
		{"dev --nodes 10", []string{`"--nodes"`, "from 1 to 9"}},
		{"dev --resp-port 65000", []string{`"--resp-port"`}},
		{"get", []string{"get takes KEY, got 0"}},
		{"get a b", []string{"get takes KEY, got 2"}},
		{"set a", []string{"set takes KEY VALUE"}},
		{"set a b --nx --xx", []string{"--nx and --xx"}},
		{"set a b --ttl -5s", []string{`"--ttl"`, "positive"}},
		{"del", []string{"del takes KEY..."}},
		{"get a --addr nonsense", []string{`"--addr"`, "nonsense"}},
		{"get a --timeout 0", []string{`"--timeout"`}},
		{"cluster status --output xml", []string{`"--output"`, "text, json"}},
		{"import", []string{"import takes DIR"}},
		{"import . --workers 0", []string{`"--workers"`}},
		{"verify", []string{"verify takes DIR"}},
		{"cask verfy x", []string{`unknown command "verfy" for "raftcask cask"`, `"raftcask cask verify"`}},
		{"cask verify", []string{"cask verify takes DIR, got 0"}},
		{"cask dump a b", []string{"cask dump takes DIR, got 2"}},
		{"cask stats . --output xml", []string{`"--output"`, "text, json"}},
		{"cask salvage a", []string{"cask salvage takes SRC DST"}},
		{"cask backup a", []string{"cask backup takes SRC DST"}},
		{"cask restore a b c", []string{"cask restore takes SRC DST"}},
		{"cask dump . --liv", []string{"did you mean --live?"}},
		{"version 2", []string{"version takes no arguments"}},
	} {
		code, stdout, stderr := cli(t, "", strings.Fields(tc.args)...)
		if code != exitUsage {
			t.Errorf("%s: exit code %d, want %d", tc.args, code, exitUsage)
		}
		if stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "raftcask: ") {
			t.Errorf("%s: want one line on stderr and nothing else, got stdout %q, stderr %q", tc.args, stdout, stderr)
		}
		for _, want := range tc.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: got %q, want %q in it", tc.args, stderr, want)
			}
		}
	}
}

func TestHelpGoesToStdout(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"serve", "--help"}, {"help", "dev"}, {"cluster"}, {"cask"}} {
		code, stdout, stderr := cli(t, "", args...)
		if code != exitDone || !strings.Contains(stdout, "Usage:") || stderr != "" {
			t.Errorf("%v: exit code %d, stderr %q, stdout %.80q", args, code, stderr, stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	_, want, _ := cli(t, "", "version")
	for _, arg := range []string{"version", "--version", "-v"} {
		code, stdout, stderr := cli(t, "", arg)
		if code != exitDone || !strings.HasPrefix(stdout, "raftcask ") || stdout != want {
			t.Errorf("%s: exit code %d, %q, %q", arg, code, stdout, stderr)
		}
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestNobodyAnswersIsAFailure(t *testing.T) {
	addr := closedPort(t)
	for _, args := range []string{"get a", "set a b", "del a", "cluster status"} {
		code, stdout, stderr := cli(t, "", append(strings.Fields(args), "--addr", addr, "--timeout", "200ms")...)
		if code != exitFailed || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, addr) {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// serveLine is a command line of serve that would work.
func serveLine(dir string, more ...string) []string {
	return append([]string{
		"serve", "--data", dir, "--resp-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0",
		"--peer-addr", "127.0.0.1:0", "--gossip-addr", "127.0.0.1:0", "--log-level", "error",
	}, more...)
}

func TestServeRefusesToStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	addr := taken.Addr().String()

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "identity.json"), []byte(`{"node_id":"other"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "identity.json"), []byte(`{"node`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"RESP port in use", serveLine(t.TempDir(), "--resp-addr", addr), []string{addr, "in use", "--resp-addr"}},
		{"HTTP port in use", serveLine(t.TempDir(), "--http-addr", addr), []string{addr, "in use", "--http-addr"}},
		{"peer port in use", serveLine(t.TempDir(), "--peer-addr", addr), []string{addr, "in use", "--peer-addr"}},
		{"gossip port in use", serveLine(t.TempDir(), "--gossip-addr", addr), []string{addr, "in use", "--gossip-addr"}},
		{"data is a file", serveLine(file), []string{file, "not a directory", "--data"}},
		{"data of another node", serveLine(other, "--id", "n1"), []string{other, `"other"`, `"n1"`}},
		{"damaged identity", serveLine(damaged), []string{damaged, "identity.json"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := cli(t, "", tc.args...)
			if code != exitFailed || stdout != "" {
				t.Errorf("exit code %d, stdout %q", code, stdout)
			}
			last := lastLine(stderr)
			for _, want := range tc.want {
				if !strings.Contains(last, want) {
					t.Errorf("got %q, want %q in it", last, want)
				}
			}
			if strings.Contains(stderr, "goroutine") {
				t.Errorf("a stack trace: %s", stderr)
			}
		})
	}
}

func lastLine(text string) string {
	text = strings.TrimRight(text, "\n")
	return text[strings.LastIndexByte(text, '\n')+1:]
}

func TestServeInTheSameDirectoryNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan int, 1)
	ready := newLineWaiter("node is up")
	args := append(serveLine(dir), "--log-level", "info")
	go func() { first <- run(ctx, args, strings.NewReader(""), io.Discard, ready) }()
	defer func() {
		cancel()
		if code := <-first; code != exitDone {
			t.Errorf("the first node: exit code %d\n%s", code, ready.text())
		}
	}()
	ready.wait(t)
	code, _, stderr := cli(t, "", serveLine(dir)...)
	last := lastLine(stderr)
	if code != exitFailed || !strings.Contains(last, dir) || !strings.Contains(last, "in use") || !strings.Contains(last, "process ") {
		t.Errorf("exit code %d, %q, want the directory and who has it", code, last)
	}
}

// TestTwoFirstStartsInOneDirectoryMakeOneNode: the second must not find the identity that the first is about to write.
func TestTwoFirstStartsInOneDirectoryMakeOneNode(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type end struct {
		code int
		text string
	}
	ends, up := make(chan end, 2), newLineWaiter("node is up")
	for _, id := range []string{"n1", "n2"} {
		go func() {
			var stderr bytes.Buffer
			code := run(ctx, append(serveLine(dir), "--log-level", "info", "--id", id), strings.NewReader(""), io.Discard, io.MultiWriter(up, &stderr))
			ends <- end{code, stderr.String()}
		}()
	}
	refused := <-ends
	if last := lastLine(refused.text); refused.code != exitFailed || !strings.Contains(last, "in use") {
		t.Errorf("the refused node: exit code %d, %q", refused.code, last)
	}
	up.wait(t)
	cancel()
	if ran := <-ends; ran.code != exitDone {
		t.Errorf("the node that runs: exit code %d\n%s", ran.code, ran.text)
	}
}
