package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestSingleNode(t *testing.T) {
	c := newTestCluster(t, nil)
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	for i := range 10 {
		if err := tryPut(n, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.group.ConfirmLeader(context.Background()); err != nil {
		t.Error(err)
	}
	cluster := n.ClusterID()
	c.forget(n)
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	n = c.mustStart("n1", "", 3) // it is in a cluster: what it expects does not count
	c.awaitReady(n)
	if got, _ := n.local("k9"); got != "v" || n.ClusterID() != cluster {
		t.Errorf("after a restart: k9 is %q, cluster %s, was %s", got, n.ClusterID(), cluster)
	}
	st := n.Status(context.Background())
	if st.Role != RoleLeader || st.Leader != "n1" || st.Keys != 10 || st.Applied == 0 || st.Term < 2 || st.RespAddr != "n1:7379" || !st.Ready {
		t.Errorf("status: %+v", st)
	}
}

func TestThreeNodes(t *testing.T) {
	c := newTestCluster(t, nil)
	nodes := c.three()
	c.write("a", "1")
	for _, n := range nodes {
		c.awaitValue(n, "a", "1")
		if n.ClusterID() != nodes[0].ClusterID() {
			t.Errorf("%s is in cluster %s", n.id, n.ClusterID())
		}
	}
	leader := c.leader()
	follower := c.others(leader)[0]
	if err := tryPut(follower, "b", "1"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower answers %v, want ErrNotLeader", err)
	}
	if err := follower.group.ConfirmLeader(context.Background()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower confirms with %v, want ErrNotLeader", err)
	}
	if id, peer, resp, ok := follower.group.Leader(); !ok || id != leader.id || peer != leader.peerAddr || resp != leader.id+":7379" {
		t.Errorf("the follower knows leader %s %s %s %v", id, peer, resp, ok)
	}
	st := follower.ClusterStatus(context.Background())
	if st.Leader != leader.id || st.ClusterID != leader.ClusterID() || len(st.Nodes) != 3 {
		t.Errorf("cluster status: %+v", st)
	}
	for _, n := range st.Nodes {
		want := RoleFollower
		if n.ID == leader.id {
			want = RoleLeader
		}
		if n.Role != want || n.HTTPAddr != n.ID+":8379" {
			t.Errorf("status of %s: %+v", n.ID, n)
		}
	}
}

func TestLeaderDiesAndComesBack(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	c.write("before", "1")
	old := c.leader()
	c.kill(old)
	c.write("after", "1")
	st := c.leader().ClusterStatus(context.Background())
	for _, n := range st.Nodes {
		if (n.ID == old.id) != (n.Role == RoleUnreachable) {
			t.Errorf("%s has role %s", n.ID, n.Role)
		}
	}
	back := c.mustStart(old.id, old.peerAddr, 3) // without seeds: peers.json has them
	c.awaitReady(back)
	c.awaitValue(back, "before", "1")
	c.awaitValue(back, "after", "1")
}

func TestCloseHandsLeadershipOver(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	c.write("k", "1")
	old := c.leader()
	term := old.Status(context.Background()).Term
	c.forget(old)
	var next *testNode
	start := time.Now()
	if err := old.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	next = c.leader()
	if next.id == old.id {
		t.Error("the closed node leads")
	}
	if got := next.Status(context.Background()).Term; got != term+1 {
		t.Errorf("the term went from %d to %d: it was not handed over but elected", term, got)
	}
	t.Logf("a new leader served after %s", time.Since(start).Round(time.Millisecond))
}

func TestTransfer(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	target := c.others(leader)[0]
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var applied atomic.Int64
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				for _, n := range c.running() {
					if tryPut(n, fmt.Sprint(w, "-", i), "x") == nil {
						applied.Add(1)
					}
				}
			}
		})
	}
	until(t, 10*time.Second, func() error {
		if applied.Load() < 50 {
			return errors.New("few writes yet")
		}
		return nil
	})
	if err := leader.group.Transfer(context.Background(), "nobody"); !errors.Is(err, ErrNotApplied) {
		t.Errorf("to a stranger: %v", err)
	}
	if err := leader.group.Transfer(context.Background(), target.id); err != nil {
		t.Errorf("transfer: %v", err)
	}
	until(t, 10*time.Second, func() error {
		if !target.group.IsLeader() {
			return errors.New("the target does not lead")
		}
		return nil
	})
	before := applied.Load()
	until(t, 10*time.Second, func() error {
		if applied.Load() < before+50 {
			return errors.New("writes have not resumed")
		}
		return nil
	})
	close(stop)
	writers.Wait()
	if err := leader.group.Transfer(context.Background(), ""); !errors.Is(err, ErrNotLeader) {
		t.Errorf("from a follower: %v", err)
	}
}

// TestCutOffLeader: it confirms no read, acknowledges no write, and gives way.
func TestCutOffLeader(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	c.write("k", "old")
	old := c.leader()
	c.isolate(old, true)
	err := old.group.ConfirmLeader(context.Background())
	if err == nil {
		t.Error("a read was confirmed without a majority")
	}
	if err := tryPut(old, "k", "lost"); err == nil {
		t.Error("a write was acknowledged without a majority")
	} else if Definite(err) && !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrNotApplied) {
		t.Errorf("the write ended with %v", err)
	}
	until(t, 20*time.Second, func() error {
		for _, n := range c.others(old) {
			if n.group.IsLeader() {
				return tryPut(n, "k", "new")
			}
		}
		return errors.New("nobody else leads")
	})
	if old.group.IsLeader() {
		t.Error("the old leader still believes it leads")
	}
	c.isolate(old, false)
	c.awaitValue(old, "k", "new")
}

func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]bool{}
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				for _, n := range c.running() {
					key := fmt.Sprintf("%d-%d-%s", w, i, n.id)
					if tryPut(n, key, "x") == nil {
						mu.Lock()
						acked[key] = true
						mu.Unlock()
					}
				}
			}
		})
	}
	for i := range 3 {
		until(t, 20*time.Second, func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(acked) < 100*(i+1) {
				return errors.New("few writes yet")
			}
			return nil
		})
		leader := c.leader()
		c.kill(leader)
		c.write("progress", "x")
		c.mustStart(leader.id, leader.peerAddr, 3)
	}
	close(stop)
	writers.Wait()
	c.write("end", "x")
	for _, n := range c.running() {
		c.awaitValue(n, "end", "x")
		for key := range acked {
			if _, ok := n.local(key); !ok {
				t.Fatalf("%s was acknowledged and is not on %s", key, n.id)
			}
		}
	}
	t.Logf("%d writes acknowledged over 3 kills", len(acked))
}

func TestNewNodeBecomesAVoter(t *testing.T) {
	c := newTestCluster(t, nil)
	first := c.mustStart("a", "", 1)
	c.awaitReady(first)
	for i := range 200 {
		if err := tryPut(first, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	second := c.mustStart("b", "", 0, first.GossipAddr())
	third := c.mustStart("c", "", 0, second.GossipAddr())
	c.awaitReady(second, third)
	until(t, 20*time.Second, func() error {
		for _, n := range first.ClusterStatus(context.Background()).Nodes {
			if n.Role != RoleLeader && n.Role != RoleFollower {
				return fmt.Errorf("%s is a %s", n.ID, n.Role)
			}
		}
		return nil
	})
	c.awaitValue(third, "k199", "v")
	if first.ClusterID() != third.ClusterID() {
		t.Errorf("clusters %s and %s", first.ClusterID(), third.ClusterID())
	}
	// With three voters one may die.
	c.kill(first)
	c.write("after", "1")
}

func TestNodeComesBackAtAnotherAddress(t *testing.T) {
	if raceDetector {
		// raft v1.7.3 replaces followerReplication.peer under a lock (startStopReplication) and reads its ID,
		// which stays the same, without it (updateLastAppended).
		t.Skip("the library has a benign race in changing a peer's address")
	}
	c := newTestCluster(t, nil)
	c.three()
	c.write("a", "1")
	gone := c.others(c.leader())[0]
	c.forget(gone)
	if err := gone.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.write("b", "1")
	back := c.mustStart(gone.id, "", 3)
	if back.peerAddr == gone.peerAddr {
		t.Fatal("the test needs another address")
	}
	c.awaitValue(back, "b", "1")
	until(t, 20*time.Second, func() error {
		for _, s := range c.leader().group.session().servers() {
			if string(s.ID) == back.id && string(s.Address) == back.peerAddr && s.Suffrage == raft.Voter {
				return nil
			}
		}
		return errors.New("the configuration has the old address")
	})
}

func TestWipedNodeIsNotTakenBackUnderItsId(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	c.write("a", "1")
	victim := c.others(c.leader())[0]
	c.kill(victim)
	if err := os.RemoveAll(filepath.Join(c.dir, victim.id)); err != nil {
		t.Fatal(err)
	}
	leader := c.leader()
	back := c.mustStart(victim.id, victim.peerAddr, 3, leader.GossipAddr())
	until(t, 20*time.Second, func() error {
		if err := back.Ready(); err == nil || !strings.Contains(err.Error(), "new node id") {
			return fmt.Errorf("the wiped node says %w", err)
		}
		return nil
	})
	if back.ClusterID() != "" || back.group.session().raft.LastIndex() != 0 {
		t.Error("the wiped node takes part")
	}
	c.kill(back)
	// Its replacement has a new id. The old member is removed first, because it has the address.
	if err := leader.Remove(context.Background(), victim.id); err != nil {
		t.Fatal(err)
	}
	fresh := c.mustStart("n9", victim.peerAddr, 0, leader.GossipAddr())
	c.awaitReady(fresh)
	c.awaitValue(fresh, "a", "1")
}

func TestStrangersAreRejected(t *testing.T) {
	c := newTestCluster(t, nil)
	a := c.mustStart("a", "", 1)
	b := c.mustStart("b", "", 1)
	c.awaitReady(a, b)
	if a.ClusterID() == b.ClusterID() {
		t.Fatal("two nodes founded the same cluster")
	}
	if _, err := b.gossip.list.Join([]string{a.GossipAddr()}); err == nil {
		t.Error("gossip of two clusters joined")
	}
	// A node of no cluster that talks to both does not bring them together.
	x := c.mustStart("x", "", 0, a.GossipAddr(), b.GossipAddr())
	c.awaitReady(x)
	for _, n := range []*testNode{a, b} {
		for _, m := range n.gossip.members() {
			if m.ID == "a" || m.ID == "b" {
				t.Errorf("%s sees %s", n.id, m.ID)
			}
		}
	}
}

func TestDirectoryOfAnotherNodeIsRefused(t *testing.T) {
	c := newTestCluster(t, nil)
	n := c.mustStart("n1", "", 1)
	c.awaitReady(n)
	if _, err := c.start("n1", "", 1); err == nil {
		t.Error("two nodes have one directory")
	}
	c.kill(n)
	if err := os.Rename(filepath.Join(c.dir, "n1"), filepath.Join(c.dir, "n2")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.start("n2", "", 1); !errors.Is(err, ErrIdentity) {
		t.Errorf("got %v, want ErrIdentity", err)
	}
	if err := os.RemoveAll(filepath.Join(c.dir, "n2", groupsDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(c.dir, "n2"), filepath.Join(c.dir, "n1")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.start("n1", "", 1); !errors.Is(err, ErrIdentity) {
		t.Errorf("without its data: got %v, want ErrIdentity", err)
	}
}
