package cluster

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// Vote is a node's part in decisions, as `cluster members` prints it.
type Vote string

// The parts.
const (
	Voter     Vote = "voter"
	Catching  Vote = "catching-up"  // a non-voter that will vote
	NonVoter  Vote = "non-voter"    // a read replica: it never votes
	NotMember Vote = "not-a-member" // seen by gossip only: about to join, or refused
)

// Member of a cluster. The JSON names are what the program's tools read.
type Member struct {
	ID       string `json:"id"`
	Vote     Vote   `json:"vote"`
	Role     Role   `json:"role"`
	PeerAddr string `json:"peer_addr"`
	RespAddr string `json:"resp_addr"`
	Applied  uint64 `json:"applied"`
	Version  string `json:"version"`
	Problem  string `json:"problem,omitempty"`
}

// Members is the configuration as one node knows it, and how its members are.
type Members struct {
	ClusterID string `json:"cluster_id"`
	Leader    string `json:"leader"`
	// Voters is their number, and Quorum how many of them must answer.
	Voters  int      `json:"voters"`
	Quorum  int      `json:"quorum"`
	Members []Member `json:"members"`
}

// Members lists who is in the cluster, and who would like to be.
func (n *Node) Members(ctx context.Context) Members {
	var servers []raft.Server
	if s := n.group.session(); s != nil {
		servers = s.servers()
	}
	status := n.ClusterStatus(ctx)
	out := Members{ClusterID: status.ClusterID, Leader: status.Leader}
	for _, st := range status.Nodes {
		m := Member{
			ID: st.ID, Vote: NotMember, Role: st.Role, PeerAddr: st.PeerAddr, RespAddr: st.RespAddr,
			Applied: st.Applied, Version: st.Version, Problem: st.Problem,
		}
		server, ok := findServer(servers, st.ID)
		switch {
		case !ok:
		case server.Suffrage == raft.Voter:
			m.Vote = Voter
			out.Voters++
		case n.neverVotes(st.ID):
			m.Vote = NonVoter
		default:
			m.Vote = Catching
		}
		out.Members = append(out.Members, m)
	}
	out.Quorum = out.Voters/2 + 1
	slices.SortFunc(out.Members, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// neverVotes tells that a node was started as a read replica.
func (n *Node) neverVotes(id string) bool {
	if id == n.ID() {
		return n.cfg.NonVoter
	}
	return n.gossip.everSeen()[id].NonVoter
}
