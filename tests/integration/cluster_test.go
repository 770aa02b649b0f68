package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// cluster is a set of nodes that found each other through gossip.
type cluster struct {
	t     testing.TB
	dir   string
	nodes []*node
}

// startCluster starts n nodes with additional flags and waits until all of them are ready.
func startCluster(t testing.TB, n int, flags ...string) *cluster {
	t.Helper()
	c := newCluster(t, n, flags...)
	c.startAll()
	c.waitReady()
	return c
}

// newCluster prepares n nodes and takes care of their end; it starts none.
func newCluster(t testing.TB, n int, flags ...string) *cluster {
	t.Helper()
	c := newNodes(t, n)
	var gossip []string
	for _, node := range c.nodes {
		gossip = append(gossip, node.gossip)
	}
	c.joinThrough(gossip, flags...)
	return c
}

// newNodes prepares nodes that do not know of each other.
func newNodes(t testing.TB, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: testDir(t)}
	for i := range n {
		c.nodes = append(c.nodes, newNode(t, c.dir, fmt.Sprintf("n%d", i+1)))
	}
	t.Cleanup(c.end)
	return c
}

// joinThrough makes the nodes one cluster that finds itself through these addresses.
func (c *cluster) joinThrough(gossip []string, flags ...string) {
	for _, node := range c.nodes {
		node.flags = append(node.flags, "--bootstrap-expect", fmt.Sprint(len(c.nodes)), "--join", strings.Join(gossip, ","))
		node.flags = append(node.flags, flags...)
	}
}

func (c *cluster) startAll() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.start()
	}
}

func (c *cluster) waitReady() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.waitReady()
	}
}

// end kills what still runs and looks at what the nodes had to say.
func (c *cluster) end() {
	for _, n := range c.nodes {
		if n.running() {
			if err := n.proc.kill(); err != nil { // works on a paused process too
				c.t.Errorf("end %s: %v", n.id, err)
			}
		}
	}
	for _, n := range c.nodes {
		c.checkLog(n)
	}
}

// checkLog fails the test when a node panicked, and prints the end of the log after any failure.
func (c *cluster) checkLog(n *node) { checkLogText(c.t, n.id, n.log()) }

func checkLogText(t testing.TB, id, text string) {
	t.Helper()
	for _, bad := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("%s: %s", id, text[i:min(len(text), i+4000)])
		}
	}
	if t.Failed() {
		lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
		t.Logf("--- end of the log of %s:\n%s", id, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// addrs returns the RESP addresses of all nodes.
func (c *cluster) addrs() []string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.resp)
	}
	return addrs
}

func (c *cluster) addrList() string { return strings.Join(c.addrs(), ",") }

// others returns all nodes but the given ones.
func (c *cluster) others(but ...*node) []*node {
	var others []*node
	for _, n := range c.nodes {
		if !slices.Contains(but, n) {
			others = append(others, n)
		}
	}
	return others
}

// clusterStatus is what `raftcask cluster status --output json` prints (DESIGN §9); unknown fields are ignored.
type clusterStatus struct {
	ClusterID string       `json:"cluster_id"`
	Leader    string       `json:"leader"`
	Nodes     []nodeStatus `json:"nodes"`
}

type nodeStatus struct {
	ID       string `json:"id"`
	Role     string `json:"role"`
	RespAddr string `json:"resp_addr"`
	HTTPAddr string `json:"http_addr"`
	Term     uint64 `json:"term"`
	Applied  uint64 `json:"applied"`
}

func (s clusterStatus) node(id string) (nodeStatus, bool) {
	for _, n := range s.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return nodeStatus{}, false
}

// status asks the cluster through any node that answers.
func (c *cluster) status() (clusterStatus, error) {
	c.t.Helper()
	return statusAt(c.t, c.addrList())
}

func statusAt(t testing.TB, addr string) (clusterStatus, error) {
	t.Helper()
	o := runCLI(t, 30*time.Second, "cluster", "status", "--output", "json", "--addr", addr)
	if o.code != 0 {
		return clusterStatus{}, fmt.Errorf("raftcask cluster status: %v", o)
	}
	var s clusterStatus
	if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
		return clusterStatus{}, fmt.Errorf("raftcask cluster status: %w\n%s", err, o.stdout)
	}
	return s, nil
}

func (c *cluster) mustStatus() clusterStatus {
	c.t.Helper()
	s, err := c.status()
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// leader waits for a leader whose process runs, and returns it.
func (c *cluster) leader() *node {
	c.t.Helper()
	var leader *node
	eventually(c.t, readyTimeout, "a leader", func() error {
		s, err := c.status()
		if err != nil {
			return err
		}
		for _, n := range c.nodes {
			if n.id == s.Leader && n.running() {
				if st, ok := s.node(n.id); ok && st.Role == "leader" {
					leader = n
					return nil
				}
			}
		}
		return fmt.Errorf("status says %+v", s)
	})
	return leader
}

// follower returns a node that follows the current leader.
func (c *cluster) follower() *node {
	c.t.Helper()
	for _, n := range c.others(c.leader()) {
		if n.running() {
			return n
		}
	}
	c.t.Fatal("no follower runs")
	return nil
}

// waitCaughtUp waits until the node has applied what the leader had applied when this was called.
func (c *cluster) waitCaughtUp(n *node, timeout time.Duration) {
	c.t.Helper()
	var goal uint64
	eventually(c.t, timeout, n.id+" has caught up", func() error {
		s, err := c.status()
		if err != nil {
			return err
		}
		if goal == 0 {
			leader, ok := s.node(s.Leader)
			if !ok || leader.Applied == 0 {
				return fmt.Errorf("no leader in %+v", s)
			}
			goal = leader.Applied
		}
		st, ok := s.node(n.id)
		if !ok || st.Role == "unreachable" || st.Applied < goal {
			return fmt.Errorf("applied %d of %d (%+v)", st.Applied, goal, st)
		}
		return nil
	})
}
