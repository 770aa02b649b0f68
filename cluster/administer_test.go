package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// must asks a node for something that it must do.
func (n *testNode) must(t *testing.T, req AdminRequest) AdminResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	r, err := n.Administer(ctx, req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Op, req.Node, err)
	}
	return r
}

// mustRefuse asks a node for something that it must refuse, and checks that it says what the matter is.
func (n *testNode) mustRefuse(t *testing.T, req AdminRequest, why string) {
	t.Helper()
	before := n.memberIDs()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	r, err := n.Administer(ctx, req)
	if !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), why) {
		t.Errorf("%s %s: got %+v, %v; want a refusal that says %q", req.Op, req.Node, r, err, why)
	}
	if after := n.memberIDs(); !slices.Equal(before, after) {
		t.Errorf("%s %s was refused, but the members went from %v to %v", req.Op, req.Node, before, after)
	}
}

func (n *testNode) memberIDs() []string {
	var ids []string
	if s := n.group.session(); s != nil {
		for _, server := range s.servers() {
			ids = append(ids, fmt.Sprintf("%s:%s", server.ID, server.Suffrage))
		}
	}
	slices.Sort(ids)
	return ids
}

func (c *testCluster) awaitMembers(n *testNode, want ...string) {
	c.t.Helper()
	until(c.t, 20*time.Second, func() error {
		if got := n.memberIDs(); !slices.Equal(got, want) {
			return fmt.Errorf("%s has members %v, want %v", n.id, got, want)
		}
		return nil
	})
}

func TestRemovedNodeSaysSoAndItsDirectoryIsRefused(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	others := c.others(leader)
	gone, stays := others[0], others[1]
	leader.mustRefuse(t, AdminRequest{Op: AdminRemove, Node: "nobody"}, "no such member")
	stays.must(t, AdminRequest{Op: AdminRemove, Node: gone.id}) // the follower brings it to the leader
	if !gone.Removed() {
		t.Error("the removed node does not know it")
	}
	if err := gone.Ready(); err == nil || !strings.Contains(err.Error(), "removed") {
		t.Errorf("the removed node says %v", err)
	}
	term := leader.group.session().raft.CurrentTerm()
	c.write("k", "1")
	// It would be taken in again, or stand for election, within this time.
	time.Sleep(max(5*leader.cfg.Timing.Reconcile, 4*leader.cfg.Timing.Heartbeat))
	if n := len(leader.group.session().servers()); n != 2 {
		t.Errorf("%d members after the removal, want 2", n)
	}
	if now := c.leader().group.session().raft.CurrentTerm(); now != term {
		t.Errorf("term %d after the removal, was %d: the removed node disturbs", now, term)
	}
	if s := gone.group.session(); s != nil {
		t.Error("raft still runs on the removed node")
	}
	c.kill(gone)
	if _, err := c.start(gone.id, gone.peerAddr, 0); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), "was removed from cluster") {
		t.Errorf("its directory: got %v, want ErrIdentity", err)
	}
}

func TestRemovalOfLeaderHandsOverFirst(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	old := c.leader()
	follower := c.others(old)[0]
	c.write("k", "1")
	r := follower.must(t, AdminRequest{Op: AdminRemove, Node: old.id})
	if !r.Done || !strings.Contains(r.Message, old.id+" was removed") {
		t.Errorf("got %+v", r)
	}
	if !old.Removed() {
		t.Error("the old leader does not know that it was removed")
	}
	c.forget(old)
	defer func() { _ = old.close(context.Background(), false) }()
	c.write("k", "2")
	if n := len(c.leader().group.session().servers()); n != 2 {
		t.Errorf("%d members, want 2", n)
	}
}

func TestRemovalThatWouldLoseQuorumIsRefused(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	others := c.others(leader)
	dead, alive := others[0], others[1]
	c.kill(dead)
	leader.mustRefuse(t, AdminRequest{Op: AdminRemove, Node: alive.id}, "only 1 of the 2 voters would answer")
	leader.mustRefuse(t, AdminRequest{Op: AdminRemove, Node: leader.id}, "only 1 of the 2 voters would answer")
	leader.must(t, AdminRequest{Op: AdminRemove, Node: dead.id})
	leader.must(t, AdminRequest{Op: AdminRemove, Node: alive.id})
	leader.mustRefuse(t, AdminRequest{Op: AdminRemove, Node: leader.id}, "last voter")
	c.forget(alive)
	defer func() { _ = alive.close(context.Background(), false) }()
	c.write("k", "1")
}

func TestNodeRemovedWhileAwayIsToldAndDisturbsNobody(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	away := c.others(leader)[0]
	until(t, 10*time.Second, func() error {
		if !away.identity.get().Joined {
			return errors.New("it has not noted that it is a member")
		}
		return nil
	})
	c.kill(away)
	leader.must(t, AdminRequest{Op: AdminRemove, Node: away.id})
	c.write("k", "1")
	term := leader.group.session().raft.CurrentTerm()
	back := c.mustStart(away.id, away.peerAddr, 0, leader.GossipAddr())
	until(t, 20*time.Second, func() error {
		if !back.Removed() {
			return fmt.Errorf("it does not know that it was removed: %w", back.Ready())
		}
		return nil
	})
	if n := len(leader.group.session().servers()); n != 2 {
		t.Errorf("%d members, want 2", n)
	}
	if now := leader.group.session().raft.CurrentTerm(); now != term || !leader.group.IsLeader() {
		t.Errorf("term %d, was %d: the removed node disturbs", now, term)
	}
}

func TestTransferGoesWhereItWasAsked(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	others := c.others(leader)
	leader.mustRefuse(t, AdminRequest{Op: AdminTransfer, Node: "nobody"}, "no such member")
	if r := others[0].must(t, AdminRequest{Op: AdminTransfer, Node: leader.id}); !strings.Contains(r.Message, "leads already") {
		t.Errorf("got %+v", r)
	}
	others[0].must(t, AdminRequest{Op: AdminTransfer, Node: others[0].id})
	if now := c.leader(); now != others[0] {
		t.Errorf("%s leads, want %s", now.id, others[0].id)
	}
	others[1].must(t, AdminRequest{Op: AdminTransfer})
	if now := c.leader(); now == others[0] {
		t.Error("leadership was not handed on")
	}
	now := c.leader()
	dead := c.others(now)[0]
	c.kill(dead)
	now.mustRefuse(t, AdminRequest{Op: AdminTransfer, Node: dead.id}, "does not answer")
	c.write("k", "1")
}

func TestTransferToNodeThatIsBehindIsRefused(t *testing.T) {
	c := &census{self: "n1", voters: []string{"n1", "n2", "n3"}, answers: map[string]controlAnswer{
		"n2": {LastIndex: 800}, "n3": {LastIndex: 950},
	}}
	if err := c.checkSuccessor("n2", 100, 1000); !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "not caught up") {
		t.Errorf("n2: %v", err)
	}
	if best, err := c.successor(100, 1000); best != "n3" || err != nil {
		t.Errorf("got %q, %v; want n3", best, err)
	}
	if _, err := c.successor(10, 1000); !errors.Is(err, ErrNotApplied) {
		t.Errorf("nobody is near enough: %v", err)
	}
}

func TestLeave(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	for range 2 { // the leader each time
		leader := c.leader()
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		if _, err := leader.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		select {
		case <-leader.Left():
		default:
			t.Error("the process would not end")
		}
		c.kill(leader)
		c.write("k", "1")
	}
	last := c.leader()
	if _, err := last.Leave(context.Background()); !errors.Is(err, ErrNotApplied) || !strings.Contains(err.Error(), "last voter") {
		t.Errorf("the last one leaves: %v", err)
	}
	select {
	case <-last.Left():
		t.Error("the last one stops")
	default:
	}
}

// finish repeats a replacement until it is done.
func (n *testNode) finish(t *testing.T, old, next string) {
	t.Helper()
	until(t, 10*time.Second, func() error {
		for _, seer := range n.conns.cluster.running() {
			if _, sees := seer.gossipMember(next); !sees && seer.id != next {
				return fmt.Errorf("%s does not see the new node", seer.id)
			}
		}
		return nil
	})
	req := AdminRequest{Op: AdminReplace, Node: old, New: next}
	until(t, 20*time.Second, func() error {
		r := n.must(t, req)
		req.Again = true
		if !r.Done {
			return errors.New(r.Message)
		}
		return nil
	})
}

func TestReplace(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	others := c.others(leader)
	old, keep := others[0], others[1]
	leader.mustRefuse(t, AdminRequest{Op: AdminReplace, Node: "nobody", New: keep.id}, "no such member")
	leader.mustRefuse(t, AdminRequest{Op: AdminReplace, Node: old.id, New: "n4"}, "no node \"n4\" is running")
	leader.mustRefuse(t, AdminRequest{Op: AdminReplace, Node: old.id, New: old.id}, "cannot replace itself")
	c.write("k", "1")
	c.kill(old)
	n4 := c.mustStart("n4", "", 0, leader.GossipAddr())
	leader.finish(t, old.id, "n4")
	c.awaitValue(n4, "k", "1")
	c.awaitMembers(leader, sorted(leader.id+":Voter", keep.id+":Voter", "n4:Voter")...)

	// A new disk in the same machine: the new node has the old one's address.
	c.kill(keep)
	n5 := c.mustStart("n5", keep.peerAddr, 0, leader.GossipAddr())
	leader.finish(t, keep.id, "n5")
	c.awaitValue(n5, "k", "1")
	// And the leader itself.
	n6 := c.mustStart("n6", "", 0, leader.GossipAddr())
	n4.finish(t, leader.id, "n6")
	c.forget(leader)
	defer func() { _ = leader.close(context.Background(), false) }()
	c.awaitMembers(n6, "n4:Voter", "n5:Voter", "n6:Voter")
	c.write("k", "2")
}

func TestReplaceByMemberThatVotesAlreadyIsRefused(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	others := c.others(leader)
	old, slip := others[0], others[1]
	leader.mustRefuse(t, AdminRequest{Op: AdminReplace, Node: old.id, New: slip.id}, slip.id+" votes already")
	// A new node may vote before the command comes, or comes again after it was stopped.
	c.mustStart("n4", "", 0, leader.GossipAddr())
	c.awaitMembers(leader, "n1:Voter", "n2:Voter", "n3:Voter", "n4:Voter")
	if r := leader.must(t, AdminRequest{Op: AdminReplace, Node: old.id, New: "n4"}); !r.Done {
		t.Errorf("got %+v", r)
	}
	c.awaitMembers(leader, sorted(leader.id+":Voter", slip.id+":Voter", "n4:Voter")...)
}

func TestReadReplicaNeverVotes(t *testing.T) {
	c := newTestCluster(t, nil)
	c.three()
	leader := c.leader()
	c.change = func(cfg *Config) { cfg.NonVoter = true }
	replica := c.mustStart("r1", "", 0, leader.GossipAddr())
	c.awaitReady(replica)
	c.write("k", "1")
	c.awaitValue(replica, "k", "1")
	time.Sleep(leader.cfg.Timing.Stable + 5*leader.cfg.Timing.Reconcile) // a new voter is promoted by then
	c.awaitMembers(leader, "n1:Voter", "n2:Voter", "n3:Voter", "r1:Nonvoter")
	if st := replica.Status(context.Background()); st.Role != RoleNonVoter || !st.Ready {
		t.Errorf("got %+v", st)
	}
	m := leader.Members(context.Background())
	if i := slices.IndexFunc(m.Members, func(m Member) bool { return m.ID == "r1" }); i < 0 || m.Members[i].Vote != NonVoter || m.Voters != 3 || m.Quorum != 2 {
		t.Errorf("got %+v", m)
	}
	leader.mustRefuse(t, AdminRequest{Op: AdminTransfer, Node: "r1"}, "has no vote")
	leader.mustRefuse(t, AdminRequest{Op: AdminReplace, Node: leader.id, New: "r1"}, "never votes")
	// Started without the setting, it becomes a voter.
	c.kill(replica)
	c.change = nil
	c.mustStart("r1", replica.peerAddr, 0, leader.GossipAddr())
	c.awaitMembers(leader, "n1:Voter", "n2:Voter", "n3:Voter", "r1:Voter")
	leader.must(t, AdminRequest{Op: AdminRemove, Node: "r1"})
}

func sorted(ids ...string) []string {
	slices.Sort(ids)
	return ids
}
