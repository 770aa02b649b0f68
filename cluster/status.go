package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Role of a node, as `cluster status` prints it.
type Role string

// The roles.
const (
	RoleLeader      Role = "leader"
	RoleFollower    Role = "follower"
	RoleCandidate   Role = "candidate"
	RoleNonVoter    Role = "non-voter"
	RoleUnreachable Role = "unreachable"
)

// Status of one node. The JSON names are a contract (DESIGN §9).
type Status struct {
	ID            string `json:"id"`
	Role          Role   `json:"role"`
	RespAddr      string `json:"resp_addr"`
	HTTPAddr      string `json:"http_addr"`
	PeerAddr      string `json:"peer_addr"`
	Term          uint64 `json:"term"`
	Applied       uint64 `json:"applied"` // last entry that the engine shows
	Commit        uint64 `json:"commit"`  // last entry known to be committed
	LastContactMS int64  `json:"last_contact_ms"`
	Keys          int    `json:"keys"`
	DiskBytes     int64  `json:"disk_bytes"`
	Version       string `json:"version"`
	ClusterID     string `json:"cluster_id"`
	Leader        string `json:"leader"`
	Ready         bool   `json:"ready"`
	// Problem is why the node is not ready.
	Problem  string `json:"problem,omitempty"`
	Restarts uint64 `json:"raft_restarts"`
}

// ClusterStatus is what one node learns about all.
type ClusterStatus struct {
	ClusterID string   `json:"cluster_id"`
	Leader    string   `json:"leader"`
	Nodes     []Status `json:"nodes"`
}

// Status describes this node.
func (n *Node) Status(context.Context) Status {
	n.serving.RLock()
	defer n.serving.RUnlock()
	if n.closed {
		return Status{ID: n.ID(), Role: RoleUnreachable, Problem: ErrClosed.Error()}
	}
	return n.status()
}

// status is Status for a caller that holds serving.
func (n *Node) status() Status {
	id := n.identity.get()
	stats := n.group.store.Stats()
	st := Status{
		ID: id.NodeID, Role: RoleCandidate, RespAddr: n.cfg.RespAddr, HTTPAddr: n.cfg.HTTPAddr, PeerAddr: n.cfg.PeerAddr,
		Applied: n.group.AppliedIndex(), Keys: stats.Keys, DiskBytes: stats.DiskBytes, LastContactMS: -1,
		Version: n.cfg.Version, ClusterID: id.ClusterID, Restarts: n.group.counters.restarts.Load(),
	}
	if err := n.Ready(); err != nil {
		st.Problem = err.Error()
	}
	st.Ready = st.Problem == ""
	st.Leader, _, _, _ = n.group.Leader()
	s := n.group.session()
	if s == nil {
		return st
	}
	st.Term, st.Commit = s.raft.CurrentTerm(), s.raft.CommitIndex()
	if last := s.raft.LastContact(); !last.IsZero() {
		st.LastContactMS = time.Since(last).Milliseconds()
	}
	switch s.raft.State() {
	case raft.Leader:
		st.Role, st.LastContactMS = RoleLeader, 0
	case raft.Candidate:
		st.Role = RoleCandidate
	default:
		st.Role = RoleNonVoter
		if _, voter := s.voters(); voter {
			st.Role = RoleFollower
		}
	}
	return st
}

// ClusterStatus asks every node that is known by configuration or gossip. Those that do not answer are listed as
// unreachable, with what is known of them.
func (n *Node) ClusterStatus(ctx context.Context) ClusterStatus {
	nodes := map[string]Status{}
	if s := n.group.session(); s != nil {
		for _, server := range s.servers() {
			nodes[string(server.ID)] = Status{ID: string(server.ID), PeerAddr: string(server.Address)}
		}
	}
	alive := map[string]bool{}
	for _, m := range n.gossip.members() {
		alive[m.ID] = true
	}
	for id, m := range n.gossip.everSeen() {
		if _, configured := nodes[id]; configured || alive[id] {
			nodes[id] = Status{ID: id, RespAddr: m.RespAddr, HTTPAddr: m.HTTPAddr, PeerAddr: m.PeerAddr, Version: m.Version, ClusterID: m.ClusterID}
		}
	}
	delete(nodes, n.ID())
	out := ClusterStatus{ClusterID: n.ClusterID(), Nodes: []Status{n.Status(ctx)}}
	out.Leader = out.Nodes[0].Leader
	var wg sync.WaitGroup
	answers := make(chan Status, len(nodes))
	for id, st := range nodes {
		wg.Go(func() {
			st.Role, st.LastContactMS = RoleUnreachable, -1
			a, err := n.askNode(ctx, id, st.PeerAddr, controlRequest{Op: opStatus})
			if err == nil && a.Status != nil {
				st = *a.Status
			} else if err != nil {
				st.Problem = err.Error()
			}
			answers <- st
		})
	}
	wg.Wait()
	close(answers)
	for st := range answers {
		out.Nodes = append(out.Nodes, st)
	}
	slices.SortFunc(out.Nodes, func(a, b Status) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// readyLag is how many entries a follower that serves may be behind.
const readyLag = 1024

// Ready is nil when the node serves: it is in a cluster, knows a leader, and has caught up with it since it
// started.
func (n *Node) Ready() error {
	if err := n.Live(); err != nil {
		return err
	}
	id := n.identity.get()
	n.mu.Lock()
	refusal := n.refusal
	n.mu.Unlock()
	switch {
	case id.Removed:
		return errors.New("the node was removed from its cluster")
	case id.ClusterID == "" && refusal != "":
		return errors.New(refusal)
	case id.ClusterID == "":
		return errors.New("the node is in no cluster yet")
	}
	s := n.group.session()
	if s == nil {
		return errRestart
	}
	if _, ok := s.leading(); ok {
		return nil
	}
	if s.raft.State() == raft.Leader {
		return errors.New("the node was elected and is applying older entries")
	}
	if _, _, _, ok := n.group.Leader(); !ok {
		return ErrNoLeader
	}
	commit := s.raft.CommitIndex()
	if commit == 0 {
		return errors.New("the node has not heard from the leader yet")
	}
	if applied := n.group.AppliedIndex(); s.raft.AppliedIndex()+readyLag < commit {
		return fmt.Errorf("the node is catching up: it has applied entry %d of %d", applied, commit)
	}
	return nil
}

// Live is nil unless the process should be restarted.
func (n *Node) Live() error {
	if err := n.fatal.err.Load(); err != nil {
		return *err
	}
	return n.group.watch.stalled()
}
