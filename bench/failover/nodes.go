package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	firstPort    = 18379 // each node takes four, of which the first is RESP
	readyTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

// cluster is three nodes.
type cluster struct {
	bin   string
	nodes []*node
}

type node struct {
	id, resp, http string
	cmd            func() *exec.Cmd
	log            string
	proc           *proc
}

// proc is one run of a node.
type proc struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func startCluster(ctx context.Context, bin, dir string) (*cluster, error) {
	c := &cluster{bin: bin}
	addr := func(i, port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+4*i+port)) }
	join := strings.Join([]string{addr(0, 3), addr(1, 3), addr(2, 3)}, ",")
	for i := range 3 {
		id := fmt.Sprintf("n%d", i+1)
		n := &node{id: id, resp: addr(i, 0), http: addr(i, 1), log: filepath.Join(dir, id+".log")}
		n.cmd = func() *exec.Cmd {
			return exec.Command(bin, "serve", "--id", id, "--data", filepath.Join(dir, id), "--resp-addr", n.resp, "--http-addr", n.http,
				"--peer-addr", addr(i, 2), "--gossip-addr", addr(i, 3), "--bootstrap-expect", "3", "--join", join)
		}
		c.nodes = append(c.nodes, n)
		if err := n.start(); err != nil {
			return nil, errors.Join(err, c.end())
		}
	}
	if err := c.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, c.end())
	}
	return c, nil
}

// start runs the node. It dies with this program, whatever happens.
func (n *node) start() error {
	out, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	p := &proc{cmd: n.cmd(), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(p.cmd.Start(), out.Close()); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	n.proc = p
	go func() {
		_ = p.cmd.Wait() // how it ended shows in its log
		close(p.exited)
	}()
	return nil
}

func (n *node) ready() error {
	client := http.Client{Timeout: time.Second}
	res, err := client.Get("http://" + n.http + "/readyz")
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: /readyz says %s", n.id, res.Status)
	}
	return nil
}

func (c *cluster) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(readyTimeout)
	for _, n := range c.nodes {
		for err := n.ready(); err != nil; err = n.ready() {
			if time.Now().After(deadline) {
				return fmt.Errorf("not ready within %v: %w", readyTimeout, err)
			}
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) addrs() (addrs []string) {
	for _, n := range c.nodes {
		addrs = append(addrs, n.resp)
	}
	return addrs
}

// status is the leader and the highest term that any node is in.
func (c *cluster) status(ctx context.Context) (leader *node, term uint64, err error) {
	out, err := exec.CommandContext(ctx, c.bin, "cluster", "status", "--output", "json", "--addr", strings.Join(c.addrs(), ",")).Output()
	if err != nil {
		return nil, 0, fmt.Errorf("raftcask cluster status: %w", err)
	}
	var s struct {
		Leader string
		Nodes  []struct {
			ID   string
			Term uint64
		}
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, 0, fmt.Errorf("raftcask cluster status: %w", err)
	}
	for _, st := range s.Nodes {
		term = max(term, st.Term)
		for _, n := range c.nodes {
			if n.id == s.Leader {
				leader = n
			}
		}
	}
	if leader == nil {
		return nil, term, fmt.Errorf("raftcask cluster status names no leader: %s", out)
	}
	return leader, term, nil
}

func (c *cluster) leader(ctx context.Context) (*node, error) {
	n, _, err := c.status(ctx)
	return n, err
}

// end stops all nodes.
func (c *cluster) end() error {
	var errs []error
	for _, n := range c.nodes {
		if n.proc == nil {
			continue
		}
		if err := n.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	for _, n := range c.nodes {
		if n.proc == nil {
			continue
		}
		select {
		case <-n.proc.exited:
		case <-time.After(stopTimeout):
			_ = n.proc.cmd.Process.Kill() // it may have ended just now
			<-n.proc.exited
			errs = append(errs, fmt.Errorf("%s did not stop within %v", n.id, stopTimeout))
		}
	}
	return errors.Join(errs...)
}
