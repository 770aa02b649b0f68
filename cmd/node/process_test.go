package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/client"
	"github.com/raftcask/raftcask/cluster"
)

// program is the built binary: the tests below run real processes.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "raftcask-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }() // left behind at worst
		program = filepath.Join(dir, "raftcask")
		if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// process is a running raftcask.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *lineWaiter
	done           chan struct{} // closed when it has ended
}

func start(t *testing.T, ready string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), stdout: newLineWaiter(ready), stderr: newLineWaiter(ready), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }() // the state is looked at
	t.Cleanup(func() {
		p.signal(syscall.SIGTERM) // dev removes its temporary directory
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Error("the process does not stop")
			p.signal(syscall.SIGKILL)
			<-p.done
		}
		if t.Failed() {
			t.Logf("%v\nstdout:\n%s\nstderr:\n%s", args[0], p.stdout.text(), p.stderr.text())
		}
	})
	return p
}

func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) } // fails when it has ended

// stop asks the process to end and returns its exit code.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	p.signal(syscall.SIGTERM)
	return p.exit(t)
}

func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the process does not end")
		return 0
	}
}

// freePorts returns a --resp-port for which all ports of n nodes are free. It stays
// below the ports that the system gives to outgoing connections.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		o := devOptions{nodes: n, respPort: 15000 + 10*rand.IntN(1300)}
		if checkPorts(o) == nil {
			return o.respPort
		}
	}
	t.Fatal("no free ports")
	return 0
}

// startDev starts a cluster and waits until it is ready.
func startDev(t *testing.T, nodes int, args ...string) (p *process, ports []int) {
	t.Helper()
	port := freePorts(t, nodes)
	p = start(t, "ready ", append([]string{"dev", "--nodes", strconv.Itoa(nodes), "--resp-port", strconv.Itoa(port)}, args...)...)
	p.stdout.wait(t)
	for i := range nodes {
		ports = append(ports, port+i)
	}
	return p, ports
}

var pidWord = regexp.MustCompile(`\bpid=(\d+)`)

// pids are the process ids in the ready line.
func (p *process) pids(t *testing.T) []int {
	t.Helper()
	var pids []int
	for _, m := range pidWord.FindAllStringSubmatch(p.stdout.text(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func alive(pid int) bool {
	// A zombie of another parent answers signal 0 too; its state says Z.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, fs.ErrNotExist)
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(rest, []byte("Z"))
}

// clusterStatus asks through the command line.
func clusterStatus(t *testing.T, port int) cluster.ClusterStatus {
	t.Helper()
	var status cluster.ClusterStatus
	code, stdout, stderr := cli(t, "", "cluster", "status", "--output", "json", "--addr", loopback(port))
	if code != exitDone {
		t.Fatalf("cluster status: %s", stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &status); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	return status
}

func TestClientCommands(t *testing.T) {
	_, ports := startDev(t, 1)
	addr := loopback(ports[0])
	for _, tc := range []struct {
		args   string
		stdin  string
		code   int
		stdout string
		stderr string // a part
	}{
		{"get nothing", "", exitFailed, "", "not found"},
		{"set k hello", "", exitDone, "OK\n", ""},
		{"get k", "", exitDone, "hello", ""},
		{"set k other --nx", "", exitFailed, "", `"k" exists`},
		{"set none x --xx", "", exitFailed, "", `"none" does not exist`},
		{"set k - --xx", "from\x00stdin\n", exitDone, "OK\n", ""},
		{"get k", "", exitDone, "from\x00stdin\n", ""},
		{"set empty -", "", exitDone, "OK\n", ""},
		{"get empty", "", exitDone, "", ""},
		{"set soon x --ttl 1ms --nx", "", exitDone, "OK\n", ""},
		{"del k empty none", "", exitDone, "2\n", ""},
		{"del k", "", exitFailed, "0\n", "not found"},
		{"get -- -k", "", exitFailed, "", "not found"},
		{"import /nowhere", "", exitFailed, "", "/nowhere"},
	} {
		args := strings.Fields(tc.args)
		args = append([]string{args[0], "--addr", addr}, args[1:]...)
		code, stdout, stderr := cli(t, tc.stdin, args...)
		if code != tc.code || stdout != tc.stdout || !strings.Contains(stderr, tc.stderr) || code == exitDone && stderr != "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", tc.args, code, stdout, stderr)
		}
	}
	eventually(t, "the key with a time to live is gone", func() bool {
		code, _, _ := cli(t, "", "get", "soon", "--addr", addr)
		return code == exitFailed
	})
	long := strings.Repeat("k", 65536)
	if code, _, stderr := cli(t, "", "set", long, "v", "--addr", addr); code != exitFailed || !strings.Contains(stderr, "65535") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a key that is too long: exit code %d, %.200q", code, stderr)
	}
	if code, _, stderr := cli(t, strings.Repeat("v", 8*mib+1), "set", "k", "-", "--addr", addr); code != exitFailed || !strings.Contains(stderr, "too long") {
		t.Errorf("a value that is too long: exit code %d, %.200q", code, stderr)
	}
}

func TestWrongNumberOfArgumentsIsNoUnknownSubcommand(t *testing.T) {
	_, ports := startDev(t, 1)
	sdk, err := client.New(client.Options{Addrs: []string{loopback(ports[0])}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sdk.Close() }() // everything was answered
	for args, want := range map[string]string{
		"READ 500":    "ERR wrong number of arguments for 'raftcask|read' command",
		"digest x":    "ERR wrong number of arguments for 'raftcask|digest' command",
		"REPLACE n1":  "ERR wrong number of arguments for 'raftcask|replace' command",
		"FROBNICATE":  "ERR unknown subcommand 'FROBNICATE'. Try RAFTCASK HELP.",
		"READ 1 GET":  "ERR wrong number of arguments for 'get' command",
		"STATUS more": "ERR wrong number of arguments for 'raftcask|status' command",
	} {
		_, err := sdk.Do(t.Context(), append([]any{"RAFTCASK"}, anys(strings.Fields(args))...)...)
		var refused *client.ServerError
		if !errors.As(err, &refused) || refused.Text != want {
			t.Errorf("RAFTCASK %s: got %v, want %s", args, err, want)
		}
	}
}

func TestImportAndVerifyARealTree(t *testing.T) {
	_, ports := startDev(t, 3)
	dir, want := testTree(t)
	if err := os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 8*mib/16), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "too-big"), make([]byte, 8*mib+1), 0o644); err != nil {
		t.Fatal(err)
	}
	addr := loopback(ports[0])
	code, stdout, stderr := cli(t, "", "import", dir, "--prefix", "t/", "--addr", addr)
	if code != exitFailed || !strings.Contains(stderr, "too-big") || !strings.Contains(stdout, fmt.Sprintf("imported %d files", len(want)+1)) {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if err := os.Remove(filepath.Join(dir, "too-big")); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, port := range ports {
		all = append(all, loopback(port))
	}
	code, stdout, stderr = cli(t, "", "verify", dir, "--prefix", "t/", "--exact", "--addr", strings.Join(all, ","))
	if code != exitDone || strings.Count(stdout, "identical") != 3 || stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	cli(t, "", "set", "t/more", "x", "--addr", addr)
	cli(t, "", "set", "t/a.txt", "hellO", "--addr", addr)
	cli(t, "", "del", "t/empty", "--addr", addr)
	code, _, stderr = cli(t, "", "verify", dir, "--prefix", "t/", "--exact", "--addr", addr)
	for _, line := range []string{"missing: t/empty", "different: t/a.txt", "extra: t/more"} {
		if code != exitFailed || !strings.Contains(stderr, line) {
			t.Errorf("exit code %d, no %q in %q", code, line, stderr)
		}
	}
}

func TestVerifyReadsThroughTheNodeThatIsNamed(t *testing.T) {
	dev, ports := startDev(t, 3)
	status := clusterStatus(t, ports[0])
	victim := 0 // a follower: the cluster goes on without it
	for i, n := range status.Nodes {
		if n.Role == cluster.RoleFollower {
			victim = i
		}
	}
	if err := syscall.Kill(dev.pids(t)[victim], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dir, _ := testTree(t)
	code, _, stderr := cli(t, "", "verify", dir, "--addr", loopback(ports[victim]), "--timeout", "200ms", "--patience", "1s")
	if code != exitFailed || !strings.Contains(stderr, loopback(ports[victim])) {
		t.Errorf("exit code %d, %q: a dead node was verified", code, stderr)
	}
}

func TestServeKeepsDataThroughAKillAndRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	port := freePorts(t, 1)
	args := []string{
		"serve", "--id", "n1", "--data", dir, "--resp-addr", loopback(port), "--http-addr", loopback(port + httpPortOffset),
		"--peer-addr", loopback(port + peerPortOffset), "--gossip-addr", loopback(port + gossipPortOffset),
	}
	for i := range 3 {
		node := start(t, "node is up", args...)
		node.stderr.wait(t)
		for j := range i {
			if code, stdout, stderr := cli(t, "", "get", fmt.Sprint(j), "--addr", loopback(port)); code != exitDone || stdout != "v" {
				t.Fatalf("key %d after %d restarts: exit code %d, %q, %s", j, i, code, stdout, stderr)
			}
		}
		if code, _, stderr := cli(t, "", "set", fmt.Sprint(i), "v", "--addr", loopback(port)); code != exitDone {
			t.Fatal(stderr)
		}
		if i < 2 {
			node.signal(syscall.SIGKILL)
			node.exit(t)
		} else if code := node.stop(t); code != exitDone {
			t.Errorf("exit code %d", code)
		}
	}
	flipAByte(t, dir)
	before := tree32(t, dir)
	node := start(t, "", args...)
	if code := node.exit(t); code != exitFailed {
		t.Errorf("exit code %d on a damaged segment", code)
	}
	last := lastLine(node.stderr.text())
	for _, want := range []string{"damaged", ".seg", dir} {
		if !strings.Contains(last, want) {
			t.Errorf("got %q, want %q in it", last, want)
		}
	}
	if strings.Contains(node.stderr.text(), "goroutine") {
		t.Error("a stack trace")
	}
	if after := tree32(t, dir); after != before {
		t.Error("the damaged segment was changed")
	}
}

func TestDamagedTermAndVoteAreRefusedWithoutAStackTrace(t *testing.T) {
	dir := t.TempDir()
	port := freePorts(t, 1)
	args := []string{
		"serve", "--id", "n1", "--data", dir, "--resp-addr", loopback(port), "--http-addr", loopback(port + httpPortOffset),
		"--peer-addr", loopback(port + peerPortOffset), "--gossip-addr", loopback(port + gossipPortOffset),
	}
	node := start(t, "node is up", args...)
	node.stderr.wait(t)
	if code := node.stop(t); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	path := filepath.Join(dir, "groups", "0000", "raft.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[2*os.Getpagesize():])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	node = start(t, "", args...)
	if code := node.exit(t); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	last := lastLine(node.stderr.text())
	for _, want := range []string{"damaged", path, "--id"} {
		if !strings.Contains(last, want) {
			t.Errorf("got %q, want %q in it", last, want)
		}
	}
	if strings.Contains(node.stderr.text(), "goroutine") {
		t.Error("a stack trace")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, data) {
		t.Errorf("the damaged file was changed, %v", err)
	}
}

// flipAByte damages the middle of what the segment holds.
func flipAByte(t *testing.T, dir string) {
	t.Helper()
	path := segmentOf(t, dir)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(data, "\x00")) // behind it is preallocated space
	data[used/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func segmentOf(t *testing.T, dir string) string {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "groups", "*", "cask", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	return segments[0]
}

func tree32(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(segmentOf(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
