package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// supervisor starts the processes of a cluster and watches them. run owns all its
// state; one goroutine per process waits for its end and reports it.
type supervisor struct {
	program  string
	dir      string
	options  devOptions
	nodes    []devNode
	children []child

	stdout, stderr io.Writer

	spawns chan spawn // to the spawner
	exits  chan exit  // from the waiters; capacity for all, so that none is left behind
	again  chan int   // from the restart timers: the node to start
}

// child is the process of a node.
type child struct {
	cmd     *exec.Cmd
	running bool
	started time.Time
	backoff time.Duration
	timer   *time.Timer // of the next start
	logFrom int64       // where the log of this process begins
}

type spawn struct {
	cmd    *exec.Cmd
	result chan<- error
}

type exit struct {
	node int
	err  error
}

const (
	restartMin = 500 * time.Millisecond
	restartMax = 10 * time.Second
	// stableAfter: a process that ran so long starts the back-off anew.
	stableAfter = 30 * time.Second
)

func newSupervisor(program, dir string, o devOptions, stdout, stderr io.Writer) *supervisor {
	return &supervisor{
		program: program, dir: dir, options: o, stdout: stdout, stderr: stderr,
		nodes: devNodes(dir, o), children: make([]child, o.nodes),
		spawns: make(chan spawn),
		exits:  make(chan exit, o.nodes), again: make(chan int, o.nodes),
	}
}

// run starts all nodes and returns when all have ended: because ctx did, because
// one failed before the cluster was ready, or because none is left.
func (s *supervisor) run(ctx context.Context) error {
	// The kernel kills a child when the thread that started it ends (Pdeathsig is
	// per thread), so one thread starts them all and lives until they have ended.
	spawner := make(chan struct{})
	go func() {
		defer close(spawner)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for request := range s.spawns {
			request.result <- request.cmd.Start()
		}
	}()
	defer func() { close(s.spawns); <-spawner }()

	say(s.stderr, "starting %d node(s) in %s", len(s.nodes), s.dir)
	err := s.startAll()
	if err == nil {
		err = s.watch(ctx)
	}
	s.stopAll()
	return err
}

func (s *supervisor) startAll() error {
	for i := range s.nodes {
		if err := s.start(i); err != nil {
			return err
		}
	}
	return nil
}

// start runs the process of node i. A waiter reports its end on exits.
func (s *supervisor) start(i int) error {
	n, c := s.nodes[i], &s.children[i]
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	log, err := os.OpenFile(s.logPath(i), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	if info, err := log.Stat(); err == nil {
		c.logFrom = info.Size()
	}
	cmd := exec.Command(s.program, serveArgs(n, s.nodes, s.options)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	result := make(chan error, 1)
	s.spawns <- spawn{cmd, result}
	if err := <-result; err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	c.cmd, c.running, c.started = cmd, true, time.Now()
	go func() { s.exits <- exit{i, cmd.Wait()} }() // received by watch or stopAll
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := os.WriteFile(s.pidPath(i), []byte(pid+"\n"), 0o644); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	return nil
}

func (s *supervisor) logPath(i int) string { return filepath.Join(s.nodes[i].dir, "node.log") }
func (s *supervisor) pidPath(i int) string { return filepath.Join(s.nodes[i].dir, "pid") }

// watch announces the cluster when it serves, and reports processes that end.
func (s *supervisor) watch(ctx context.Context) error {
	probing, cancel := context.WithTimeout(ctx, devReadyLimit)
	served := make(chan error, 1)
	go func() { served <- awaitServing(probing, s.nodes) }() // ends with probing
	waiting := true
	defer func() {
		cancel()
		if waiting {
			<-served
		}
	}()
	for {
		select {
		case <-ctx.Done():
			say(s.stderr, "stopping")
			return nil
		case err := <-served:
			waiting = false
			if ctx.Err() != nil {
				continue
			}
			if err != nil {
				return fmt.Errorf("no cluster after %s (%w): see the logs in %s", devReadyLimit, err, s.dir)
			}
			if _, err := fmt.Fprintln(s.stdout, readyLine(s.dir, s.nodes, s.pids())); err != nil {
				return fmt.Errorf("write the ready line: %w", err)
			}
		case e := <-s.exits:
			if err := s.ended(e, waiting); err != nil {
				return err
			}
		case i := <-s.again:
			say(s.stderr, "starting %s again", s.nodes[i].id)
			if err := s.start(i); err != nil {
				return err
			}
		}
	}
}

// ended handles the end of a process. The error ends the cluster.
func (s *supervisor) ended(e exit, starting bool) error {
	n, c := s.nodes[e.node], &s.children[e.node]
	pid := c.cmd.Process.Pid
	s.forget(e.node)
	if starting && !s.options.restart {
		return fmt.Errorf("%s did not start (%s): %s", n.id, exitText(e.err), s.lastLine(e.node))
	}
	say(s.stderr, "%s (pid %d) ended: %s", n.id, pid, exitText(e.err))
	if !s.options.restart {
		if s.running() == 0 {
			return errors.New("no node is left")
		}
		return nil
	}
	if time.Since(c.started) > stableAfter || c.backoff == 0 {
		c.backoff = restartMin
	} else {
		c.backoff = min(2*c.backoff, restartMax)
	}
	// AfterFunc: again has room for every node, and each has one timer at a time.
	c.timer = time.AfterFunc(c.backoff, func() { s.again <- e.node })
	return nil
}

// forget notes that the process of node i has ended.
func (s *supervisor) forget(i int) {
	s.children[i].running = false
	// A pid that is left behind could be another process by the time it is read.
	if err := os.Remove(s.pidPath(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
		say(s.stderr, "%v", err)
	}
}

// stopAll asks all processes to stop, kills those that do not in time, and
// returns when none is left.
func (s *supervisor) stopAll() {
	for i := range s.children {
		if t := s.children[i].timer; t != nil {
			t.Stop()
		}
	}
	s.signalAll(syscall.SIGTERM)
	limit := time.NewTimer(devStopLimit)
	defer limit.Stop()
	for s.running() > 0 {
		select {
		case e := <-s.exits:
			s.forget(e.node)
		case <-limit.C:
			say(s.stderr, "not stopped after %s, killing what is left", devStopLimit)
			s.signalAll(syscall.SIGKILL)
		}
	}
	say(s.stderr, "all nodes have stopped")
}

func (s *supervisor) signalAll(sig syscall.Signal) {
	for i := range s.children {
		if c := &s.children[i]; c.running {
			_ = c.cmd.Process.Signal(sig) // it fails only for a process that has ended
		}
	}
}

func (s *supervisor) running() int {
	n := 0
	for i := range s.children {
		if s.children[i].running {
			n++
		}
	}
	return n
}

func (s *supervisor) pids() []int {
	pids := make([]int, len(s.children))
	for i := range s.children {
		pids[i] = s.children[i].cmd.Process.Pid
	}
	return pids
}

// lastLine is what the process of node i wrote last: when it could not start, the reason.
func (s *supervisor) lastLine(i int) string {
	log, err := os.ReadFile(s.logPath(i))
	if err != nil || int64(len(log)) < s.children[i].logFrom {
		return "see " + s.logPath(i)
	}
	text := strings.TrimSpace(string(log[s.children[i].logFrom:]))
	text = text[strings.LastIndexByte(text, '\n')+1:]
	if text == "" {
		return "it wrote nothing to " + s.logPath(i)
	}
	return strings.TrimPrefix(text, "raftcask: ")
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}
