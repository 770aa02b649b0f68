package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Distances of a node's other ports from its RESP port: DESIGN §9.
const (
	httpPortOffset   = 1000
	peerPortOffset   = 2000
	gossipPortOffset = 3000
)

const (
	// maxDevNodes is enough for experiments: all share one disk and one CPU.
	maxDevNodes = 9
	// devReadyLimit is how long a new cluster may take to serve. It takes about
	// 2 s; a restart with much data longer, because the keys are loaded.
	devReadyLimit = 2 * time.Minute
	// devStopLimit is how long the nodes may take to stop before they are killed.
	devStopLimit = 15 * time.Second
)

type devOptions struct {
	nodes    int
	dir      string
	respPort int
	restart  bool
	logLevel string
}

func newDev() *cobra.Command {
	o := devOptions{nodes: 3, respPort: 7379, logLevel: "info"}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine",
		Long: `Run a whole cluster on this machine, for development and tests: one process a
node, on loopback. Node i (0…) listens on RESP port 7379+i, HTTP 8379+i, peer
9379+i and gossip 10379+i; --resp-port shifts all of them. Its data is in DIR/n<i+1>,
with its process id in the file pid and its log in node.log.

When a leader serves, one line that begins with "ready" goes to stdout.
Ctrl-C or SIGTERM stops all nodes. RAFTCASK_… variables reach every node:
see "raftcask serve --help".`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDev(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.Var(count{&o.nodes, 1, maxDevNodes}, "nodes", "number of nodes")
	f.StringVar(&o.dir, "dir", "", "directory of the nodes' data (default: a temporary one, removed at the end)")
	f.Var(count{&o.respPort, 1, 65535 - gossipPortOffset - maxDevNodes + 1}, "resp-port", "RESP port of the first node")
	f.BoolVar(&o.restart, "restart", false, "start a node again when its process ends")
	f.Var(choice{&o.logLevel, logLevels}, "log-level", "how much the nodes write to their logs")
	return cmd
}

// runDev runs a cluster until ctx ends or no node is left.
func runDev(ctx context.Context, o devOptions, stdout, stderr io.Writer) error {
	if err := checkPorts(o); err != nil {
		return err
	}
	dir, cleanup, err := devDirectory(o.dir)
	if err != nil {
		return err
	}
	defer cleanup(stderr)
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's file, which the nodes run: %w", err)
	}
	d := newSupervisor(program, dir, o, stdout, stderr)
	return d.run(ctx)
}

// devDirectory returns the directory and a function that removes it if it is a
// temporary one.
func devDirectory(given string) (dir string, cleanup func(io.Writer), err error) {
	keep := func(io.Writer) {}
	if given == "" {
		dir, err := os.MkdirTemp("", "raftcask-dev-")
		if err != nil {
			return "", keep, fmt.Errorf("create a temporary directory (or give one with --dir): %w", err)
		}
		return dir, func(stderr io.Writer) {
			if err := os.RemoveAll(dir); err != nil {
				say(stderr, "could not remove %s: %v", dir, err)
			}
		}, nil
	}
	dir, err = filepath.Abs(given)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", keep, fmt.Errorf("--dir: %w", err)
	}
	return dir, keep, nil
}

// devNode is one node of the cluster: what it is called and where it listens.
type devNode struct {
	id, dir                  string
	resp, http, peer, gossip string
}

func devNodes(dir string, o devOptions) []devNode {
	nodes := make([]devNode, o.nodes)
	for i := range nodes {
		port := o.respPort + i
		id := fmt.Sprintf("n%d", i+1)
		nodes[i] = devNode{
			id: id, dir: filepath.Join(dir, id),
			resp: loopback(port), http: loopback(port + httpPortOffset),
			peer: loopback(port + peerPortOffset), gossip: loopback(port + gossipPortOffset),
		}
	}
	return nodes
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// serveArgs is the command line of a node.
func serveArgs(n devNode, all []devNode, o devOptions) []string {
	args := []string{
		"serve", "--id", n.id, "--data", n.dir,
		"--resp-addr", n.resp, "--http-addr", n.http, "--peer-addr", n.peer, "--gossip-addr", n.gossip,
		"--bootstrap-expect", fmt.Sprint(len(all)), "--log-level", o.logLevel,
	}
	var others []string
	for _, m := range all {
		if m.id != n.id {
			others = append(others, m.gossip)
		}
	}
	if len(others) > 0 {
		args = append(args, "--join", strings.Join(others, ","))
	}
	return args
}

// readyLine is the promise to whoever started the cluster: one line, first word
// "ready", then name=value words, grouped by node.
func readyLine(dir string, nodes []devNode, pids []int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ready nodes=%d dir=%s", len(nodes), dir)
	for i, n := range nodes {
		fmt.Fprintf(&b, " %s resp=%s http=%s peer=%s gossip=%s pid=%d", n.id, n.resp, n.http, n.peer, n.gossip, pids[i])
	}
	return b.String()
}

// say writes a line about progress.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, "raftcask: "+format+"\n", args...) // nobody is left to tell
}
