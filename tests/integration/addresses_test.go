package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// move gives a node new addresses, all of them; it does not run.
func (n *node) move() {
	n.t.Helper()
	n.resp, n.http, n.peer, n.gossip = freeAddr(n.t), freeAddr(n.t), freeAddr(n.t), freeAddr(n.t)
}

// joinAnew gives the nodes the present gossip addresses to join through.
func (c *cluster) joinAnew() {
	var gossips []string
	for _, n := range c.nodes {
		gossips = append(gossips, n.gossip)
	}
	for _, n := range c.nodes {
		n.flags = []string{"--join", strings.Join(gossips, ",")}
	}
}

// mustServe writes a key through every node and reads it, and those before, through every other one.
func (c *cluster) mustServe(round string) {
	c.t.Helper()
	ctx := context.Background()
	for _, n := range c.nodes {
		if openPinned(c.t, n.resp).set(ctx, round+"-"+n.id, round) != acknowledged {
			c.t.Errorf("%s: a write through %s failed", round, n.id)
		}
	}
	for _, n := range c.nodes {
		for _, other := range c.nodes {
			if v, err := openPinned(c.t, other.resp).get(ctx, round+"-"+n.id); v != round || err != nil {
				c.t.Errorf("%s: %s was written through %s, and %s answers %q, %v", round, round, n.id, other.id, v, err)
			}
		}
	}
}

// awaitAddresses waits until the leader's configuration has everybody where he is.
func (c *cluster) awaitAddresses() {
	c.t.Helper()
	eventually(c.t, readyTimeout, "the members are known at their addresses", func() error {
		s, err := c.status()
		if err != nil {
			return err
		}
		for _, n := range c.nodes {
			if st, ok := s.node(n.id); !ok || st.RespAddr != n.resp || st.HTTPAddr != n.http {
				return fmt.Errorf("%s is at %s, the status says %+v", n.id, n.resp, st)
			}
		}
		return nil
	})
}

// TestNodesReturnAtNewAddresses moves all nodes at once, the old data with each. The cluster goes on.
func TestNodesReturnAtNewAddresses(t *testing.T) {
	t.Parallel()
	returnElsewhere(t, "all")
}

// TestChaosNodesTakeOtherAddresses also moves one node, and lets two take each other's addresses. Nobody may take one for
// the other.
func TestChaosNodesTakeOtherAddresses(t *testing.T) {
	onlyInChaos(t)
	returnElsewhere(t, "exchange", "all", "exchange", "one")
}

func returnElsewhere(t *testing.T, steps ...string) {
	t.Helper()
	c := startCluster(t, 3)
	clusterID := c.mustStatus().ClusterID
	c.mustServe("before")
	for i, step := range steps {
		round := fmt.Sprintf("%s-%d", step, i)
		moved := c.nodes
		switch step {
		case "one":
			moved = []*node{c.follower()}
		case "exchange":
			moved = c.others(c.leader())
		}
		for _, n := range moved {
			n.kill()
		}
		if step == "exchange" {
			a, b := moved[0], moved[1]
			a.resp, a.http, a.peer, a.gossip, b.resp, b.http, b.peer, b.gossip = b.resp, b.http, b.peer, b.gossip, a.resp, a.http, a.peer, a.gossip
		} else {
			for _, n := range moved {
				n.move()
			}
		}
		c.joinAnew()
		for _, n := range moved {
			n.start()
		}
		c.waitReady()
		c.awaitAddresses()
		c.mustServe(round)
		if v, err := openPinned(t, moved[0].resp).get(context.Background(), "before-n1"); v != "before" || err != nil {
			t.Errorf("%s: what was written before is %q, %v", round, v, err)
		}
		if s := c.mustStatus(); s.ClusterID != clusterID || len(s.Nodes) != 3 {
			t.Errorf("%s: %+v", round, s)
		}
	}
}
