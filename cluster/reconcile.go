package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// changeTimeout bounds one change of the configuration. A change needs a majority; if that is missing, the
// next turn finds this node not leading.
const changeTimeout = 2 * time.Second

// reconcile brings the configuration nearer to what gossip shows, if this node leads: new nodes become
// non-voters, and voters once they have caught up; addresses follow. It never removes anybody: gossip cannot
// tell a dead node from an unreachable one, and each removal on its word would shrink the quorum.
func (n *Node) reconcile(ctx context.Context) {
	s := n.group.session()
	if s == nil {
		return
	}
	if _, ok := s.leading(); !ok {
		clear(n.watched)
		return
	}
	n.changing.Lock()
	defer n.changing.Unlock()
	servers := s.servers()
	for _, m := range n.gossip.members() {
		if m.Removed {
			continue
		}
		i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == m.ID })
		var err error
		switch {
		case i < 0:
			err = n.welcome(ctx, s, servers, m)
		case m.ClusterID == "":
			err = n.questionAmnesia(ctx, m)
		case string(servers[i].Address) != m.PeerAddr:
			err = n.moveAddress(ctx, s, servers[i], m)
		case servers[i].Suffrage == raft.Nonvoter && !m.NonVoter:
			err = n.promote(ctx, s, m)
		}
		if err != nil && ctx.Err() == nil {
			n.log.Info("membership is not as it should be yet", "member", m.ID, "error", err)
		}
	}
}

// welcome takes a new node in, as a non-voter: a voter without the data would weaken the quorum.
func (n *Node) welcome(ctx context.Context, s *session, servers []raft.Server, m member) error {
	for _, other := range servers {
		if string(other.Address) == m.PeerAddr {
			reason := fmt.Sprintf("%s has the address %s of member %s; remove that member first if its data is gone", m.ID, m.PeerAddr, other.ID)
			if err := n.tellRefusal(ctx, m, reason); err != nil {
				return fmt.Errorf("%s; it was not told: %w", reason, err)
			}
			return errors.New(reason)
		}
	}
	if m.ClusterID == "" {
		a, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opWelcome, ClusterID: n.ClusterID()})
		if err != nil {
			return err
		}
		if !a.OK {
			return fmt.Errorf("it does not want to join: %s", a.Reason)
		}
	} else if a, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opState}); err != nil || a.Removed {
		return err // it was removed, and gossip has not said so yet
	} else if a.Joined {
		n.log.Info("a node that was removed while it was away has come back: telling it", "member", m.ID)
		_, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opRemoved, ClusterID: n.ClusterID()})
		return err
	}
	n.log.Info("adding a node", "member", m.ID, "peer_addr", m.PeerAddr)
	return n.change(ctx, func() raft.IndexFuture {
		return s.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.PeerAddr), 0, changeTimeout)
	})
}

// questionAmnesia looks at a member that says it is in no cluster. Either it is about to learn that its cluster
// was founded, or it lost its disk. Then it must not come back under its id: it has forgotten its votes and
// entries that it acknowledged.
func (n *Node) questionAmnesia(ctx context.Context, m member) error {
	a, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opState})
	if err != nil || a.ClusterID != "" || (a.Prepared != nil && a.Prepared.ClusterID == n.ClusterID()) {
		return err
	}
	reason := fmt.Sprintf("cluster %s has a member %s with data, and this node has none; "+
		"start it with a new node id, and remove the old member", n.ClusterID(), m.ID)
	if err := n.tellRefusal(ctx, m, reason); err != nil {
		return err
	}
	return fmt.Errorf("it lost its data; it was told to start with a new node id")
}

// tellRefusal tells a node why it is not taken.
func (n *Node) tellRefusal(ctx context.Context, m member, reason string) error {
	// Asked first who it is: another may have its address.
	if _, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opState}); err != nil {
		return err
	}
	_, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opRefuse, Reason: reason})
	return err
}

// moveAddress follows a node that was restarted elsewhere.
func (n *Node) moveAddress(ctx context.Context, s *session, server raft.Server, m member) error {
	a, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opState})
	if err != nil {
		return err
	}
	if a.ClusterID != n.ClusterID() {
		return fmt.Errorf("it says at %s that it is in cluster %q", m.PeerAddr, a.ClusterID)
	}
	n.log.Info("a node has a new address", "member", m.ID, "old", server.Address, "new", m.PeerAddr)
	return n.change(ctx, func() raft.IndexFuture {
		id, addr := server.ID, raft.ServerAddress(m.PeerAddr)
		if server.Suffrage == raft.Voter {
			return s.raft.AddVoter(id, addr, 0, changeTimeout)
		}
		return s.raft.AddNonvoter(id, addr, 0, changeTimeout)
	})
}

// promote gives a vote to a node whose log has been near the leader's for a while.
func (n *Node) promote(ctx context.Context, s *session, m member) error {
	a, err := n.askNode(ctx, m.ID, m.PeerAddr, controlRequest{Op: opState})
	if err != nil || a.LastIndex+n.cfg.Limits.CatchUpEntries < s.raft.AppliedIndex() {
		delete(n.watched, m.ID)
		return err
	}
	since, ok := n.watched[m.ID]
	if !ok {
		n.watched[m.ID] = time.Now()
		return nil
	}
	if time.Since(since) < n.cfg.Timing.Stable {
		return nil
	}
	delete(n.watched, m.ID)
	n.log.Info("a new node has caught up: it may vote", "member", m.ID)
	return n.change(ctx, func() raft.IndexFuture {
		return s.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.PeerAddr), 0, changeTimeout)
	})
}

// change waits for one change of the configuration to be committed.
func (n *Node) change(ctx context.Context, start func() raft.IndexFuture) error {
	ctx, cancel := context.WithTimeout(ctx, 2*changeTimeout)
	defer cancel()
	if err := wait(ctx, start()); err != nil {
		return fmt.Errorf("change the configuration: %w", err)
	}
	n.refreshAddresses()
	return nil
}
