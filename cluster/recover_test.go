package cluster

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raftcask/raftcask/bitcask"
)

// lostTwo is a cluster of three that has lost two nodes and their disks; the third is stopped. It holds k and the
// keys of the fill, and one write that was never committed.
func lostTwo(t *testing.T, change func(cfg *Config)) (c *testCluster, dir string, survivor *testNode) {
	t.Helper()
	c = newTestCluster(t, change)
	c.three()
	leader := c.leader()
	fill(t, leader, "fill", 300, 1<<10)
	c.write("k", "1")
	others := c.others(leader)
	c.awaitValue(others[0], "k", "1")
	// Stored here, and not committed: the client is told "unknown". The put follows the cut at once, before the
	// leader notices and steps down.
	c.isolate(leader, true)
	if err := tryPut(leader, "tail", "1"); !errors.Is(err, ErrUnknown) {
		t.Fatalf("a write at one node of three: %v", err)
	}
	for _, n := range append(others, leader) {
		c.kill(n)
	}
	c.isolate(leader, false)
	return c, filepath.Join(c.dir, leader.id), leader
}

func TestRecoveredMinorityIsANewCluster(t *testing.T) {
	for name, change := range map[string]func(*Config){"log": nil, "snapshot": smallSnapshots} {
		t.Run(name, func(t *testing.T) {
			c, dir, survivor := lostTwo(t, change)
			plan, err := InspectRecovery(dir)
			if err != nil {
				t.Fatal(err)
			}
			again, err := InspectRecovery(dir)
			if err != nil || again.ClusterID != plan.ClusterID || again.Last != plan.Last || again.Term != plan.Term {
				t.Errorf("a look changes the directory: %+v, then %+v, %v", plan, again, err)
			}
			if plan.NodeID != survivor.id || !slices.Equal(plan.Voters, []string{"n1", "n2", "n3"}) || plan.Applied == 0 || plan.Last <= plan.Applied {
				t.Errorf("got %+v", plan)
			}
			done, err := Recover(dir)
			if err != nil {
				t.Fatal(err)
			}
			if done.ClusterID == plan.ClusterID || done.ClusterID == "" {
				t.Errorf("its cluster id is %q, was %q", done.ClusterID, plan.ClusterID)
			}
			n := c.mustStart(survivor.id, survivor.peerAddr, 3)
			c.awaitReady(n)
			if n.ClusterID() != done.ClusterID {
				t.Errorf("it is in cluster %s, want %s", n.ClusterID(), done.ClusterID)
			}
			for _, key := range []string{"k", "fill0", "fill299", "tail"} {
				if _, ok := n.local(key); !ok {
					t.Errorf("%s is lost", key)
				}
			}
			c.write("k", "2")

			// The lost nodes come back: they do not get in, and keep to themselves.
			var old []*testNode
			for _, id := range []string{"n1", "n2", "n3"} {
				if id != survivor.id {
					old = append(old, c.mustStart(id, "", 0, n.GossipAddr()))
				}
			}
			fresh := c.mustStart("n4", "", 0, n.GossipAddr())
			c.awaitReady(fresh)
			c.awaitValue(fresh, "k", "2")
			for _, o := range old {
				if o.ClusterID() == n.ClusterID() {
					t.Errorf("%s of the old cluster got into the new one", o.id)
				}
			}
			c.awaitMembers(n, sorted(survivor.id+":Voter", "n4:Voter")...)
		})
	}
}

func TestInterruptedRecoveryNeitherServesNorLosesData(t *testing.T) {
	c, dir, survivor := lostTwo(t, nil)
	// As if the process had died right after the first step.
	o, err := openOffline(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = o.identity.update(func(id *identity) error { id.ClusterID, id.Recovering = "half", true; return nil })
	if err := errors.Join(err, o.close()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.start(survivor.id, survivor.peerAddr, 0); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), "run \"raftcask recover --yes") {
		t.Errorf("half a recovery starts: %v", err)
	}
	done, err := Recover(dir)
	if err != nil || !done.Interrupted || done.ClusterID != "half" {
		t.Fatalf("got %+v, %v", done, err)
	}
	n := c.mustStart(survivor.id, survivor.peerAddr, 0)
	c.awaitReady(n)
	c.awaitValue(n, "k", "1")
}

func TestRecoverRefusesWhatItCannotKnow(t *testing.T) {
	if _, err := InspectRecovery(t.TempDir()); !errors.Is(err, ErrIdentity) {
		t.Errorf("an empty directory: %v", err)
	}
	c := newTestCluster(t, nil)
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	if _, err := Recover(filepath.Join(c.dir, "n1")); !errors.Is(err, bitcask.ErrLocked) {
		t.Errorf("a running node: %v", err)
	}
	alone := c.mustStart("n2", "", 0)
	c.kill(alone)
	if _, err := Recover(filepath.Join(c.dir, "n2")); err == nil || !strings.Contains(err.Error(), "in no cluster yet") {
		t.Errorf("a node without a cluster: %v", err)
	}
	a, b := &Recovery{LastTerm: 3, Last: 10}, &Recovery{LastTerm: 2, Last: 99}
	if !a.NewerThan(b) || b.NewerThan(a) || fmt.Sprint(a.NewerThan(a)) != "false" {
		t.Error("the log of a higher term is the newer one")
	}
}
