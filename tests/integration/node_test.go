package integration

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	readyTimeout = 60 * time.Second // from start to /readyz
	stopTimeout  = 30 * time.Second // from SIGTERM to the end
)

// node is one `raftcask serve`, which may be started many times over the same directory and addresses.
type node struct {
	t                        testing.TB
	id                       string
	data                     string
	resp, http, peer, gossip string
	flags                    []string // beyond id, directory and addresses
	logPath                  string   // output of all its runs
	sick                     *machine // of a node whose disk and clock can be broken; nil of the others
	proc                     *process // the current run; nil before the first
}

func newNode(t testing.TB, dir, id string, flags ...string) *node {
	t.Helper()
	return &node{
		t: t, id: id, data: filepath.Join(dir, id), logPath: filepath.Join(dir, id+".log"), flags: flags,
		resp: freeAddr(t), http: freeAddr(t), peer: freeAddr(t), gossip: freeAddr(t),
	}
}

// command returns the node's command line.
func (n *node) command() *exec.Cmd {
	args := []string{
		"serve", "--id", n.id, "--data", n.data,
		"--resp-addr", n.resp, "--http-addr", n.http, "--peer-addr", n.peer, "--gossip-addr", n.gossip,
	}
	args = append(args, n.flags...)
	if n.sick != nil {
		return n.sick.command(args)
	}
	return exec.Command(binary, args...)
}

// start runs the node; it does not wait until the node is ready.
func (n *node) start() {
	n.t.Helper()
	if n.running() {
		n.t.Fatalf("%s runs already", n.id)
	}
	out, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = out.Close() }() // the child has its own descriptor
	cmd := n.command()
	cmd.Stdout, cmd.Stderr = out, out
	if n.proc, err = startProcess(cmd); err != nil {
		n.t.Fatalf("start %s: %v", n.id, err)
	}
}

func (n *node) running() bool { return n.proc != nil && n.proc.running() }

// ready asks the node whether it serves.
func (n *node) ready() error {
	if !n.running() {
		return fmt.Errorf("%s has ended with exit code %d", n.id, n.proc.cmd.ProcessState.ExitCode())
	}
	if err := readyAt(n.http); err != nil {
		return fmt.Errorf("%s: %w", n.id, err)
	}
	return nil
}

// readyAt asks /readyz at an HTTP address.
func readyAt(addr string) error {
	client := http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + addr + "/readyz")
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // its content does not matter
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz says %s", res.Status)
	}
	return nil
}

func (n *node) waitReady() {
	n.t.Helper()
	eventually(n.t, readyTimeout, n.id+" is ready", n.ready)
}

// kill is kill -9.
func (n *node) kill() {
	n.t.Helper()
	if err := n.proc.kill(); err != nil {
		n.t.Fatalf("kill %s: %v", n.id, err)
	}
}

// stop asks the node to end, and fails the test unless it ends well and in time.
func (n *node) stop() {
	n.t.Helper()
	if err := n.proc.signal(syscall.SIGTERM); err != nil {
		n.t.Fatalf("stop %s: %v", n.id, err)
	}
	code, err := n.proc.wait(stopTimeout)
	if err != nil {
		n.t.Fatalf("stop %s: %v", n.id, err)
	}
	if code != 0 {
		n.t.Fatalf("stop %s: exit code %d", n.id, code)
	}
}

// pause freezes the node; resume lets it go on.
func (n *node) pause() {
	n.t.Helper()
	if err := n.proc.signal(syscall.SIGSTOP); err != nil {
		n.t.Fatalf("pause %s: %v", n.id, err)
	}
}

func (n *node) resume() {
	n.t.Helper()
	if err := n.proc.signal(syscall.SIGCONT); err != nil {
		n.t.Fatalf("resume %s: %v", n.id, err)
	}
}

// log returns the output of all runs of the node.
func (n *node) log() string {
	text, err := os.ReadFile(n.logPath)
	if err != nil && !os.IsNotExist(err) {
		n.t.Errorf("log of %s: %v", n.id, err)
	}
	return string(text)
}

// metric returns the sum of all series of a metric, and whether there is one.
func (n *node) metric(name string) (float64, bool) {
	n.t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + n.http + "/metrics")
	if err != nil {
		n.t.Fatalf("metrics of %s: %v", n.id, err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or failed
	sum, found := 0.0, false
	scan := bufio.NewScanner(res.Body)
	for scan.Scan() {
		series, value, ok := strings.Cut(scan.Text(), " ")
		if base, _, _ := strings.Cut(series, "{"); !ok || base != name {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			n.t.Fatalf("metric %s of %s: %v", name, n.id, err)
		}
		sum, found = sum+v, true
	}
	if err := scan.Err(); err != nil {
		n.t.Fatalf("metrics of %s: %v", n.id, err)
	}
	return sum, found
}
