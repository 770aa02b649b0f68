package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raftcask/raftcask/tests/integration/netfault"
)

// clusterIDOnDisk is the cluster that a node's directory belongs to.
func (n *node) clusterIDOnDisk() string {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.data, "identity.json"))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	var id struct {
		ClusterID string `json:"cluster_id"`
	}
	if err == nil {
		err = json.Unmarshal(text, &id)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return id.ClusterID
}

// TestHalvesFormOneCluster starts four nodes that form a cluster of three, in two halves that cannot see each other, in no
// order and one of them twice. Neither half forms one; when they see each other, there is one cluster with one id, and the
// fourth node joins it.
func TestHalvesFormOneCluster(t *testing.T) {
	t.Parallel()
	c, network := newSeparable(t, 4)
	for _, n := range c.nodes {
		n.flags = append(n.flags, "--bootstrap-expect", "3")
	}
	n1, n2, n3, n4 := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	cut := netfault.Rule{Cut: true}
	separate(c, network, []*node{n1, n3}, cut, cut)
	n4.start()
	n3.start()
	n1.start()
	eventually(t, readyTimeout, "n1 and n3 have found each other", func() error {
		if s, err := statusAt(t, n1.resp); err != nil || len(s.Nodes) != 2 {
			return fmt.Errorf("%+v: %w", s, err)
		}
		return nil
	})
	n1.kill() // half-way, perhaps
	n2.start()
	n1.start()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, n := range c.nodes {
			if id := n.clusterIDOnDisk(); id != "" {
				t.Fatalf("%s, in a half of two, is in cluster %s", n.id, id)
			}
		}
	}
	network.Heal()
	c.waitReady()
	c.awaitVoters("n1", "n2", "n3", "n4")
	for _, n := range c.nodes {
		if id := n.clusterIDOnDisk(); id == "" || id != n1.clusterIDOnDisk() {
			t.Errorf("%s is in cluster %q, n1 in %q", n.id, id, n1.clusterIDOnDisk())
		}
	}
}

// awaitLog waits until a node has said something.
func (n *node) awaitLog(want ...string) {
	n.t.Helper()
	eventually(n.t, readyTimeout, n.id+" says why", func() error {
		for _, text := range want {
			if !strings.Contains(n.log(), text) {
				return fmt.Errorf("%q is not in its log", text)
			}
		}
		return nil
	})
}

// TestStrangersAndAmnesiacsAreRefused starts a node with the directory of another cluster, and one with its old id and an empty
// directory. Neither gets in, both say what to do, and the cluster goes on.
func TestStrangersAndAmnesiacsAreRefused(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	other := startCluster(t, 1)
	stranger, wiped := other.nodes[0], c.follower()
	foreign := stranger.clusterIDOnDisk()
	stranger.stop()
	stranger.flags = []string{"--join", c.nodes[0].gossip}
	stranger.start()
	stranger.awaitLog("a seed belongs to another cluster", "check --join and --data")

	wiped.kill()
	if err := os.RemoveAll(wiped.data); err != nil {
		t.Fatal(err)
	}
	wiped.start()
	wiped.awaitLog("has a member "+wiped.id+" with data, and this node has none", "start it with a new node id")
	if err := wiped.ready(); err == nil {
		t.Error("a node that lost its data serves")
	}
	for _, n := range c.others(wiped) {
		if n.clusterIDOnDisk() == foreign {
			t.Errorf("%s is in the stranger's cluster", n.id)
		}
	}
	well := &cluster{t: t, nodes: c.others(wiped)} // the node without data would answer for itself
	m, err := well.members()
	if err != nil {
		t.Fatal(err)
	}
	if m.Voters != 3 || len(m.Members) != 3 {
		t.Errorf("the members are %+v", m)
	}
	if got := dialRedis(t, well.leader().resp).do("SET", "k", "v"); got != status("OK") {
		t.Errorf("a write: %v", got)
	}
}
