package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	readyTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

// server is a process that this program started and has to end.
type server struct {
	addr   string
	cmd    *exec.Cmd
	exited chan struct{} // closed when Wait has returned
	log    string        // path of its output
}

// start runs a program in dir with its output in a file there. It dies with this program, whatever happens.
func start(dir, name string, args ...string) (*server, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &server{log: filepath.Join(dir, "output.log"), exited: make(chan struct{})}
	out, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(name, args...)
	s.cmd.Dir = dir
	s.cmd.Stdout, s.cmd.Stderr = out, out
	// Its own process group: Ctrl-C at the terminal reaches this program alone, which then stops the servers in order.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	err = s.cmd.Start()
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended shows in its log; that it ended is what the caller waits for
		close(s.exited)
	}()
	return s, nil
}

// await polls until ready, the end of the process, or the deadline.
func (s *server) await(ctx context.Context, what string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-s.exited:
			return fmt.Errorf("%s ended before it was ready:\n%s", what, s.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready: %w\n%s", what, ctx.Err(), s.tail())
		}
	}
	return nil
}

func (s *server) stop() error {
	select {
	case <-s.exited:
		return fmt.Errorf("%s ended before it was told to:\n%s", s.cmd.Path, s.tail())
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill() // it may have ended just now
		<-s.exited
		return fmt.Errorf("%s did not stop within %v:\n%s", s.cmd.Path, stopTimeout, s.tail())
	}
}

// tail returns the end of the process's output.
func (s *server) tail() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// raftcaskServer is `raftcask dev`: one process that runs the three nodes.
type raftcaskServer struct {
	*server
	bin   string
	dir   string
	addrs []string
}

func startRaftcask(ctx context.Context, bin, dir string, port int) (*raftcaskServer, error) {
	data := filepath.Join(dir, "data")
	s, err := start(dir, bin, "dev", "--dir", data, "--resp-port", strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	r := &raftcaskServer{server: s, bin: bin, dir: data}
	for i := range 3 {
		r.addrs = append(r.addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i)))
	}
	err = s.await(ctx, "raftcask dev", func() bool {
		text, err := os.ReadFile(s.log)
		return err == nil && (bytes.HasPrefix(text, []byte("ready")) || bytes.Contains(text, []byte("\nready")))
	})
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// stop ends `raftcask dev`, and then any node that outlived it.
func (r *raftcaskServer) stop() error {
	err := r.server.stop()
	pids, _ := filepath.Glob(filepath.Join(r.dir, "*", "pid")) // the pattern is well-formed
	for _, file := range pids {
		text, readErr := os.ReadFile(file)
		pid, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
		if readErr != nil || parseErr != nil {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // gone: nothing to end
		if bytes.Contains(cmdline, []byte(r.dir)) {
			err = errors.Join(err, fmt.Errorf("node with pid %d outlived raftcask dev", pid), syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	return err
}

// leader returns the RESP address of the node that leads.
func (r *raftcaskServer) leader(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, r.bin, "cluster", "status", "--output", "json", "--addr", strings.Join(r.addrs, ",")).Output()
	if err != nil {
		return "", fmt.Errorf("raftcask cluster status: %w", err)
	}
	var status struct {
		Leader string
		Nodes  []struct {
			ID       string
			RespAddr string `json:"resp_addr"`
		}
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return "", fmt.Errorf("raftcask cluster status: %w", err)
	}
	for _, node := range status.Nodes {
		if node.ID == status.Leader {
			return node.RespAddr, nil
		}
	}
	return "", fmt.Errorf("raftcask cluster status names no leader: %s", out)
}

func startRedis(ctx context.Context, dir string, port int) (*server, error) {
	s, err := start(dir, "redis-server", "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "")
	if err != nil {
		return nil, err
	}
	s.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	err = s.await(ctx, "redis-server", func() bool {
		c, err := dial(ctx, s.addr)
		if err != nil {
			return false
		}
		defer c.close()
		return expect("PONG")(c.do("PING")) == nil
	})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}
