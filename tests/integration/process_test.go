package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// process is a child of the test, with its output in files.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the child is gone and has been waited for
}

// startProcess starts a command whose output goes to out. The child dies with the test, however that ends.
func startProcess(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // Ctrl-C at the terminal is for the test, which then ends its children in its own order
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL

	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux sends Pdeathsig when the *thread* that started the child ends. This one is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in cmd.ProcessState
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends sig; a process that is gone already is not an error.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// kill ends the process at once and waits for it.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	<-p.exited
	return err
}

// wait returns the exit code, or an error when the process is still there after the timeout. A signal's death is -1.
func (p *process) wait(timeout time.Duration) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return 0, fmt.Errorf("pid %d still runs after %v", p.cmd.Process.Pid, timeout)
	}
}

// outcome is how a command ended and what it printed.
type outcome struct {
	code           int
	stdout, stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", o.code, o.stdout, o.stderr)
}

// cli is a running raftcask command.
type cli struct {
	*process
	stdout, stderr bytes.Buffer // read after the process has exited
}

// startCLI starts `raftcask args…`.
func startCLI(t testing.TB, args ...string) *cli {
	t.Helper()
	return startCommand(t, exec.Command(binary, args...))
}

func startCommand(t testing.TB, cmd *exec.Cmd) *cli {
	t.Helper()
	c := &cli{}
	cmd.Stdout, cmd.Stderr = &c.stdout, &c.stderr
	var err error
	if c.process, err = startProcess(cmd); err != nil {
		t.Fatalf("start %v: %v", cmd.Args, err)
	}
	t.Cleanup(func() {
		if err := c.kill(); err != nil {
			t.Errorf("end %v: %v", cmd.Args, err)
		}
	})
	return c
}

// finish waits for the end of the command.
func (c *cli) finish(timeout time.Duration) (outcome, error) {
	code, err := c.wait(timeout)
	if err != nil {
		return outcome{}, fmt.Errorf("%v: %w", c.cmd.Args, err)
	}
	return outcome{code, c.stdout.String(), c.stderr.String()}, nil
}

// runCLI runs `raftcask args…` to its end.
func runCLI(t testing.TB, timeout time.Duration, args ...string) outcome {
	t.Helper()
	o, err := startCLI(t, args...).finish(timeout)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// mustCLI runs `raftcask args…` and fails the test unless it exits with 0.
func mustCLI(t testing.TB, timeout time.Duration, args ...string) outcome {
	t.Helper()
	o := runCLI(t, timeout, args...)
	if o.code != 0 {
		t.Fatalf("raftcask %v: %v", args, o)
	}
	return o
}
