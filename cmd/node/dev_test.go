package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raftcask/raftcask/cluster"
)

func TestDevPortInUse(t *testing.T) {
	port := freePorts(t, 3)
	for _, tc := range []struct {
		network string
		port    int
		what    string
	}{
		{"tcp", port + 1, "RESP of n2"},
		{"tcp", port + httpPortOffset, "HTTP of n1"},
		{"tcp", port + peerPortOffset + 2, "peer of n3"},
		{"tcp", port + gossipPortOffset, "gossip of n1"},
		{"udp", port + gossipPortOffset, "gossip of n1"},
	} {
		t.Run(tc.network+" "+tc.what, func(t *testing.T) {
			var taken interface{ Close() error }
			var err error
			if tc.network == "udp" {
				taken, err = net.ListenPacket("udp", loopback(tc.port))
			} else {
				taken, err = net.Listen("tcp", loopback(tc.port))
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = taken.Close() }()
			code, stdout, stderr := cli(t, "", "dev", "--resp-port", strconv.Itoa(port))
			if code != exitFailed || stdout != "" || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			for _, want := range []string{strconv.Itoa(tc.port), tc.what, "--resp-port"} {
				if !strings.Contains(stderr, want) {
					t.Errorf("got %q, want %q in it", stderr, want)
				}
			}
		})
	}
}

var readyForm = regexp.MustCompile(`^ready nodes=3 dir=(\S+)( n\d resp=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+ peer=127\.0\.0\.1:\d+ gossip=127\.0\.0\.1:\d+ pid=\d+){3}\n$`)

func TestDevRunsAClusterAndStopsIt(t *testing.T) {
	dev, ports := startDev(t, 3)
	line := readyForm.FindStringSubmatch(dev.stdout.text())
	if line == nil {
		t.Fatalf("stdout is not one ready line: %q", dev.stdout.text())
	}
	dir := line[1]

	for i, port := range ports {
		key, addr := fmt.Sprintf("key%d", i), loopback(port)
		if code, _, stderr := cli(t, "", "set", key, "value", "--addr", addr); code != exitDone {
			t.Errorf("set through n%d: %s", i+1, stderr)
		}
		pid, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("n%d", i+1), "pid"))
		if err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(dev.pids(t)[i]) {
			t.Errorf("pid file %q, %v, want %d", pid, err, dev.pids(t)[i])
		}
	}
	for _, port := range ports {
		s, err := (&connection{timeout: 10 * time.Second}).openNode(loopback(port))
		if err != nil {
			t.Fatal(err)
		}
		for i := range ports {
			if v, found, err := s.Get(t.Context(), fmt.Sprintf("key%d", i)); string(v) != "value" || !found || err != nil {
				t.Errorf("get key%d through %d: %q, %v, %v", i, port, v, found, err)
			}
		}
		_ = s.Close()
	}
	status := clusterStatus(t, ports[0])
	roles := map[cluster.Role]int{}
	for _, n := range status.Nodes {
		roles[n.Role]++
	}
	if status.ClusterID == "" || roles[cluster.RoleLeader] != 1 || roles[cluster.RoleFollower] != 2 {
		t.Errorf("status %+v", status)
	}

	pids := dev.pids(t)
	if code := dev.stop(t); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary directory %s is left: %v", dir, err)
	}
}

func TestDevReportsAKilledNodeAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	dev, ports := startDev(t, 3, "--dir", dir)
	victim := dev.pids(t)[0]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	report := fmt.Sprintf("n1 (pid %d) ended: signal: killed", victim)
	eventually(t, report, func() bool { return strings.Contains(dev.stderr.text(), report) })
	if _, err := os.Stat(filepath.Join(dir, "n1", "pid")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pid file of a dead process is left: %v", err)
	}
	for _, port := range ports[1:] {
		if code, _, stderr := cli(t, "", "set", "k", "v", "--addr", loopback(port)); code != exitDone {
			t.Errorf("set through port %d: %s", port, stderr)
		}
	}
	for _, n := range clusterStatus(t, ports[1]).Nodes {
		if n.ID == "n1" && n.Role != cluster.RoleUnreachable {
			t.Errorf("the killed node is shown as %s", n.Role)
		}
	}
	code, stdout, stderr := cli(t, "", "cluster", "status", "--addr", loopback(ports[1]))
	if code != exitDone || !strings.Contains(stdout, "unreachable") || !strings.Contains(stdout, "LAST CONTACT") {
		t.Errorf("exit code %d, stdout:\n%s\nstderr: %s", code, stdout, stderr)
	}
	if code := dev.stop(t); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "n2")); err != nil {
		t.Errorf("the directory that was given is gone: %v", err)
	}
}

func TestDevRestartsANode(t *testing.T) {
	dir := t.TempDir()
	dev, ports := startDev(t, 3, "--dir", dir, "--restart")
	if code, _, stderr := cli(t, "", "set", "k", "v", "--addr", loopback(ports[0])); code != exitDone {
		t.Fatal(stderr)
	}
	victim := dev.pids(t)[2]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another process of n3", func() bool {
		pid, err := os.ReadFile(filepath.Join(dir, "n3", "pid"))
		return err == nil && strings.TrimSpace(string(pid)) != strconv.Itoa(victim)
	})
	eventually(t, "n3 serves", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return serving(ctx, loopback(ports[2]))
	})
	if code := dev.stop(t); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

func TestNodesDieWithDev(t *testing.T) {
	if childAttributes() == nil {
		t.Skip("this system has no signal for the death of a parent")
	}
	dev, _ := startDev(t, 3, "--dir", t.TempDir())
	pids := dev.pids(t)
	dev.signal(syscall.SIGKILL)
	dev.exit(t)
	eventually(t, "all nodes are dead", func() bool {
		for _, pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return true
	})
}

func TestDevSaysWhyANodeDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "n2"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "n2", "identity.json"), []byte(`{"node_id":"somebody"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	dev := start(t, "", "dev", "--dir", dir, "--resp-port", strconv.Itoa(freePorts(t, 3)))
	if code := dev.exit(t); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	last := lastLine(dev.stderr.text())
	if !strings.Contains(last, "n2 did not start") || !strings.Contains(last, `"somebody"`) || dev.stdout.text() != "" {
		t.Errorf("stderr %q, stdout %q", last, dev.stdout.text())
	}
}

func TestStoppedLeaderHandsOver(t *testing.T) {
	dev, ports := startDev(t, 3)
	leader := -1
	for i, n := range clusterStatus(t, ports[0]).Nodes {
		if n.Role == cluster.RoleLeader {
			leader = i
		}
	}
	if leader < 0 {
		t.Fatal("no leader")
	}
	if err := syscall.Kill(dev.pids(t)[leader], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// A command through another node is answered at any moment of the hand-over.
	other := ports[(leader+1)%3]
	report := fmt.Sprintf("n%d (pid %d) ended: exit status 0", leader+1, dev.pids(t)[leader])
	for n := 0; !strings.Contains(dev.stderr.text(), report); n++ {
		if code, _, stderr := cli(t, "", "set", "k", strconv.Itoa(n), "--addr", loopback(other)); code != exitDone {
			t.Fatalf("set %d: %s", n, stderr)
		}
	}
}
