package cluster

import (
	"fmt"
	"strings"
	"time"
)

const (
	// waitingFirst is when a node that is in no cluster says so first: most are in one by then.
	waitingFirst = 5 * time.Second
	waitingPause = time.Minute
)

// sayWaiting logs now and then what a node waits for that is in no cluster: who looks into its log must not need that
// of the leader. Called by the membership loop.
func (n *Node) sayWaiting() {
	now := time.Now()
	switch {
	case n.waitingSaid.IsZero():
		n.waitingSaid = now.Add(waitingFirst - waitingPause)
	case now.Sub(n.waitingSaid) >= waitingPause:
		n.waitingSaid = now
		n.log.Info("this node is in no cluster yet", "waiting_for", n.waitingFor())
	}
}

func (n *Node) waitingFor() string {
	id, members := n.identity.get(), n.gossip.members()
	n.mu.Lock()
	refusal := n.refusal
	n.mu.Unlock()
	if refusal != "" {
		return "the cluster to take it: " + refusal
	}
	seen := 1
	for _, m := range members {
		if m.ClusterID != "" {
			return fmt.Sprintf("the leader of cluster %s to take it in; the leader's log says what it waits for", m.ClusterID)
		}
		if m.Expect == n.cfg.BootstrapExpect {
			seen++
		}
	}
	switch {
	case id.Prepared != nil:
		return fmt.Sprintf("all %d nodes of the new cluster to agree", len(id.Prepared.Members))
	case n.cfg.BootstrapExpect > 0:
		return fmt.Sprintf("%d nodes with the same --bootstrap-expect, seen %d", n.cfg.BootstrapExpect, seen)
	}
	return fmt.Sprintf("a node that is in a cluster, by --join %s; seen %d others, none in a cluster", strings.Join(n.cfg.Join, ","), len(members))
}
