package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// testCluster is several nodes in this process: real raft and real gossip over loopback, real disks, and
// messages between nodes by calls.
type testCluster struct {
	t      testing.TB
	dir    string
	change func(cfg *Config)
	log    *slog.Logger

	mu    sync.Mutex
	nodes map[string]*testNode
	// cut tells whether messages and connections between two nodes are lost.
	cut map[[2]string]bool
}

type testNode struct {
	*Node
	id, peerAddr string
	conns        *cuttableLayer
	fatal        atomic.Pointer[error]
}

func newTestCluster(t testing.TB, change func(cfg *Config)) *testCluster {
	t.Helper()
	noLeaks(t)
	c := &testCluster{t: t, dir: t.TempDir(), change: change, nodes: map[string]*testNode{}, cut: map[[2]string]bool{}, log: testLog(t)}
	t.Cleanup(func() {
		for _, n := range c.running() {
			c.kill(n)
		}
	})
	return c
}

// start starts a node, which may have been in the cluster before. peerAddr is chosen if it is empty.
func (c *testCluster) start(id, peerAddr string, expect int, join ...string) (*testNode, error) {
	c.t.Helper()
	if peerAddr == "" {
		peerAddr = "127.0.0.1:0"
	}
	n := &testNode{id: id}
	n.conns = &cuttableLayer{tcpLayer: newTCPLayer(c.t, peerAddr), cluster: c, id: id}
	n.peerAddr = n.conns.Addr().String()
	cfg := Config{
		NodeID: id, Dir: filepath.Join(c.dir, id), PeerAddr: n.peerAddr, RespAddr: id + ":7379", HTTPAddr: id + ":8379",
		GossipBind: "127.0.0.1:0", Join: join, BootstrapExpect: expect, Version: "test",
		Peers: peersOf{c, id}, StreamLayer: n.conns, Logger: c.log,
		OnFatal: func(err error) { n.fatal.Store(&err); c.log.Error("fatal", "node", id, "error", err) },
	}
	cfg.Engine.SegmentBytes = 1 << 20
	cfg.Timing.Reconcile, cfg.Timing.Stable = 100*time.Millisecond, 200*time.Millisecond
	cfg.Timing.Write = 3 * time.Second
	if c.change != nil {
		c.change(&cfg)
	}
	node, err := Open(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	n.Node = node
	c.mu.Lock()
	c.nodes[id] = n
	c.mu.Unlock()
	return n, nil
}

func (c *testCluster) mustStart(id, peerAddr string, expect int, join ...string) *testNode {
	c.t.Helper()
	n, err := c.start(id, peerAddr, expect, join...)
	if err != nil {
		c.t.Fatalf("start %s: %v", id, err)
	}
	return n
}

// three starts n1, n2 and n3 and waits until they are a cluster.
func (c *testCluster) three() []*testNode {
	c.t.Helper()
	nodes := []*testNode{c.mustStart("n1", "", 3)}
	for _, id := range []string{"n2", "n3"} {
		nodes = append(nodes, c.mustStart(id, "", 3, nodes[0].GossipAddr()))
	}
	c.awaitReady(nodes...)
	return nodes
}

// kill ends a node without handing over leadership.
func (c *testCluster) kill(n *testNode) {
	c.t.Helper()
	c.forget(n)
	if err := n.close(context.Background(), false); err != nil {
		c.t.Errorf("close %s: %v", n.id, err)
	}
}

func (c *testCluster) forget(n *testNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, n.id)
}

func (c *testCluster) running() []*testNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*testNode
	for _, n := range c.nodes {
		out = append(out, n)
	}
	return out
}

func (c *testCluster) awaitReady(nodes ...*testNode) {
	c.t.Helper()
	until(c.t, 20*time.Second, func() error {
		for _, n := range nodes {
			if err := n.Ready(); err != nil {
				return fmt.Errorf("%s: %w", n.id, err)
			}
		}
		return nil
	})
}

// leader waits for one.
func (c *testCluster) leader() *testNode {
	c.t.Helper()
	var leader *testNode
	until(c.t, 20*time.Second, func() error {
		for _, n := range c.running() {
			if n.group.IsLeader() && n.group.ConfirmLeader(context.Background()) == nil {
				leader = n
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leader
}

func (c *testCluster) others(n *testNode) []*testNode {
	var out []*testNode
	for _, o := range c.running() {
		if o.id != n.id {
			out = append(out, o)
		}
	}
	return out
}

// write puts a key through whoever leads, and tries again while the outcome is a definite no.
func (c *testCluster) write(key, value string) {
	c.t.Helper()
	until(c.t, 20*time.Second, func() error {
		return tryPut(c.leader(), key, value)
	})
}

func tryPut(n *testNode, key, value string) error {
	return errors.Join(n.group.Propose(context.Background(), 1, put(key, value))...)
}

func (n *testNode) local(key string) (string, bool) {
	v, _, ok, err := n.group.ReadTx().Get([]byte(key))
	return string(v), ok && err == nil
}

// awaitValue waits until a node shows a value.
func (c *testCluster) awaitValue(n *testNode, key, want string) {
	c.t.Helper()
	until(c.t, 20*time.Second, func() error {
		if got, _ := n.local(key); got != want {
			return fmt.Errorf("%s shows %q for %s, want %q", n.id, got, key, want)
		}
		return nil
	})
}

// isolate cuts a node off from all others, or heals that.
func (c *testCluster) isolate(n *testNode, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, other := range c.nodes {
		if id == n.id {
			continue
		}
		c.cut[[2]string{n.id, id}], c.cut[[2]string{id, n.id}] = cut, cut
		if cut {
			n.conns.drop()
			other.conns.drop()
		}
	}
}

func (c *testCluster) reachable(from, addr string) (*testNode, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.nodes {
		if n.peerAddr == addr && !c.cut[[2]string{from, id}] {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s cannot reach %s", from, addr)
}

// peersOf is how one node calls the others.
type peersOf struct {
	c    *testCluster
	from string
}

func (p peersOf) Call(ctx context.Context, addr string, ch Channel, req []byte) ([]byte, error) {
	n, err := p.c.reachable(p.from, addr)
	if err != nil {
		return nil, err
	}
	if ch == Confirm {
		return n.HandleConfirm(ctx, p.from, req)
	}
	return n.HandleControl(ctx, p.from, req)
}

// cuttableLayer is a stream layer whose connections can be cut. Like the real one it connects members of one
// cluster only.
type cuttableLayer struct {
	*tcpLayer
	cluster *testCluster
	id      string

	mu       sync.Mutex
	conns    []net.Conn
	detoured map[raft.ServerAddress]string
}

// redirect makes connections to an address go to another one; empty ends that.
func (l *cuttableLayer) redirect(from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.detoured = map[raft.ServerAddress]string{}
	if to != "" {
		l.detoured[raft.ServerAddress(from)] = to
	}
}

func (l *cuttableLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	l.mu.Lock()
	detour := l.detoured[address]
	l.mu.Unlock()
	if detour != "" {
		return l.tcpLayer.Dial(raft.ServerAddress(detour), timeout)
	}
	n, err := l.cluster.reachable(l.id, string(address))
	if err != nil {
		return nil, err
	}
	if n.ClusterID() == "" {
		return nil, fmt.Errorf("%s is in no cluster", n.id)
	}
	conn, err := l.tcpLayer.Dial(address, timeout)
	if err == nil {
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
	}
	return conn, err
}

// drop closes the connections that were dialed.
func (l *cuttableLayer) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}
